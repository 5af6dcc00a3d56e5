//! The part of a file that a request asks for.

use http::{HeaderMap, header};

/// Which bytes are asked for.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Range {
    /// All, or something this server answers with all: several ranges, another unit, a range of another version.
    Whole,
    /// From `first` to `last`, both included.
    Part {
        /// The first byte.
        first: u64,
        /// The last byte.
        last: u64,
    },
    /// Bytes that the file does not have.
    Impossible,
}

/// Reads `Range` and `If-Range` of a request for a file of `size` bytes.
pub(super) fn requested_range(headers: &HeaderMap, etag: &str, size: u64) -> Range {
    let text = |name| headers.get(name).and_then(|v| v.to_str().ok());
    if text(header::IF_RANGE).is_some_and(|version| version != etag) {
        return Range::Whole;
    }
    let Some((first, last)) = text(header::RANGE)
        .and_then(|range| range.strip_prefix("bytes="))
        .filter(|range| !range.contains(','))
        .and_then(|range| range.trim().split_once('-'))
    else {
        return Range::Whole;
    };
    let (first, last) = match (first.parse::<u64>(), last.parse::<u64>()) {
        (Ok(first), Ok(last)) if first <= last => (first, last.min(size.saturating_sub(1))),
        (Ok(first), Err(_)) if last.is_empty() => (first, size.saturating_sub(1)),
        (Err(_), Ok(0)) if first.is_empty() => return Range::Impossible,
        (Err(_), Ok(count)) if first.is_empty() => {
            (size.saturating_sub(count), size.saturating_sub(1))
        }
        _ => return Range::Whole,
    };
    if first >= size {
        Range::Impossible
    } else {
        Range::Part { first, last }
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[test]
    fn ranges_are_read_as_http_says() {
        let read = |range: &'static str, size| {
            let headers = HeaderMap::from_iter([(header::RANGE, HeaderValue::from_static(range))]);
            requested_range(&headers, "\"a\"", size)
        };
        let part = |first, last| Range::Part { first, last };
        assert_eq!(read("bytes=0-3", 10), part(0, 3));
        assert_eq!(read("bytes=8-", 10), part(8, 9));
        assert_eq!(read("bytes=8-99", 10), part(8, 9));
        assert_eq!(read("bytes=-3", 10), part(7, 9));
        assert_eq!(read("bytes=-30", 10), part(0, 9));
        assert_eq!(read("bytes=10-", 10), Range::Impossible);
        assert_eq!(read("bytes=0-", 0), Range::Impossible);
        assert_eq!(read("bytes=-0", 10), Range::Impossible);
        for whole in [
            "bytes=3-2",
            "bytes=0-1,3-4",
            "lines=1-2",
            "bytes=x-",
            "bytes=-",
        ] {
            assert_eq!(read(whole, 10), Range::Whole, "{whole}");
        }
    }
}
