//! Where a server can be reached: several addresses, one of which worked last.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use http::Uri;

use super::ClientError;

/// The addresses of one service, shared by all copies of a client.
#[derive(Debug, Clone)]
pub(crate) struct Endpoints {
    /// `http://host:port/base`, without a slash at the end; never empty.
    bases: Arc<[String]>,
    last_good: Arc<AtomicUsize>,
}

impl Endpoints {
    pub(crate) fn parse(endpoints: &[String]) -> Result<Self, ClientError> {
        let bases = endpoints
            .iter()
            .map(|endpoint| parse(endpoint))
            .collect::<Result<Arc<[_]>, _>>()?;
        if bases.is_empty() {
            return Err(ClientError::Invalid {
                what: "the list of endpoints".to_owned(),
                why: "it is empty: give at least one URL like http://127.0.0.1:1111".to_owned(),
            });
        }
        Ok(Self {
            bases,
            last_good: Arc::default(),
        })
    }

    /// All of them, the one that worked last first.
    pub(crate) fn in_turn(&self) -> impl Iterator<Item = (usize, &str)> {
        let first = self.last_good.load(Ordering::Relaxed);
        (0..self.bases.len())
            .map(move |n| (first + n) % self.bases.len())
            .map(|index| (index, self.bases[index].as_str()))
    }

    pub(crate) fn worked(&self, index: usize) {
        self.last_good.store(index, Ordering::Relaxed);
    }

    /// Begins with the next one from now on, unless another one has worked since.
    pub(crate) fn failed(&self, index: usize) {
        let next = (index + 1) % self.bases.len();
        _ = self
            .last_good
            .compare_exchange(index, next, Ordering::Relaxed, Ordering::Relaxed);
    }

    pub(crate) fn list(&self) -> String {
        self.bases.join(", ")
    }
}

fn parse(endpoint: &str) -> Result<String, ClientError> {
    let invalid = |why: &str| ClientError::Invalid {
        // Whatever stands before an @ may be a key, and is not repeated.
        what: format!(
            "endpoint {:?}",
            endpoint.rsplit_once('@').map_or(endpoint, |(_, rest)| rest)
        ),
        why: why.to_owned(),
    };
    let text = endpoint.trim();
    let url = if text.contains("://") {
        text.to_owned()
    } else {
        format!("http://{text}")
    };
    let uri: Uri = url
        .parse()
        .map_err(|_| invalid("it is not a URL; use one like http://127.0.0.1:1111"))?;
    if uri.scheme_str() != Some("http") {
        return Err(invalid("only http:// is supported here"));
    }
    match uri.authority() {
        None => return Err(invalid("it names no host")),
        Some(authority) if authority.as_str().contains('@') => {
            return Err(invalid("a URL must not hold a key; give the key apart"));
        }
        Some(authority) if authority.host().is_empty() => {
            return Err(invalid("it names no host"));
        }
        Some(_) => {}
    }
    if uri.query().is_some() {
        return Err(invalid("it must not have a query"));
    }
    Ok(url.trim_end_matches('/').to_owned())
}

/// One segment of a path, or one value of a query, percent-encoded: everything but letters, digits and `-._~`.
#[must_use]
pub fn segment(text: &str) -> String {
    use std::fmt::Write;
    // A segment of dots alone would be taken for a step up the tree.
    let only_dots = !text.is_empty() && text.bytes().all(|b| b == b'.');
    text.bytes()
        .fold(String::with_capacity(text.len()), |mut out, byte| {
            match byte {
                b'.' if only_dots => out.push_str("%2E"),
                b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                    out.push(char::from(byte));
                }
                _ => write!(out, "%{byte:02X}").expect("writing to a string cannot fail"),
            }
            out
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn segments_cannot_leave_their_place_in_the_path() {
        assert_eq!(segment("www-1.a_b~"), "www-1.a_b~");
        assert_eq!(segment("a/../b?c#d e%é"), "a%2F..%2Fb%3Fc%23d%20e%25%C3%A9");
        assert_eq!(segment(".."), "%2E%2E");
    }

    #[test]
    fn endpoints_are_checked_when_given_and_keys_in_them_not_repeated() {
        let parsed = Endpoints::parse(&["127.0.0.1:1111".into(), "http://[::1]:1/base/".into()]);
        assert_eq!(
            parsed.unwrap().list(),
            "http://127.0.0.1:1111, http://[::1]:1/base"
        );
        for bad in [
            "",
            "https://a",
            "http://:s3cret@a",
            "http://a?b",
            "ftp://a",
            "http://",
        ] {
            let error = Endpoints::parse(&[bad.to_owned()]).unwrap_err().to_string();
            assert!(!error.contains("s3cret"), "{error}");
        }
        assert!(Endpoints::parse(&[]).is_err());
    }

    #[test]
    fn the_endpoint_that_worked_last_is_tried_first() {
        let endpoints = Endpoints::parse(&["a:1".into(), "b:1".into(), "c:1".into()]).unwrap();
        endpoints.worked(1);
        let order: Vec<_> = endpoints.in_turn().map(|(index, _)| index).collect();
        assert_eq!(order, [1, 2, 0]);
    }
}
