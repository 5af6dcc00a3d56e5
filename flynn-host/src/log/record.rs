//! The form of a line in a log file, and the cutting of a stream into lines.
//!
//! `<microseconds> <stream><end> <bytes>\n`, where stream is `o`, `e` or `h`, and end is `.` for a whole line and `+`
//! for one that goes on. Bytes are kept as they are, so that a replay is exact.

use super::{LogLine, LogStream};

/// A line that is longer is split.
pub(super) const MAX_LINE: usize = 10_000;

/// Appends a line's record. The message must not contain a newline.
pub(super) fn encode(
    at_micros: u64,
    stream: LogStream,
    message: &[u8],
    is_whole: bool,
    to: &mut Vec<u8>,
) {
    let tag = match stream {
        LogStream::Stdout => b'o',
        LogStream::Stderr => b'e',
        LogStream::Host => b'h',
    };
    to.extend_from_slice(at_micros.to_string().as_bytes());
    to.extend_from_slice(&[b' ', tag, if is_whole { b'.' } else { b'+' }, b' ']);
    to.extend_from_slice(message);
    to.push(b'\n');
}

/// Appends the records of a line of any length and content.
pub(crate) fn encode_line(line: &LogLine, to: &mut Vec<u8>) {
    let mut splitter = LineSplitter::default();
    splitter.feed(line.at_micros, line.stream, &line.message, to);
    splitter.finish(line.at_micros, line.stream, line.is_whole, to);
}

/// Reads a record without its newline; `None` for what is none (a torn write).
pub(super) fn decode(record: &[u8]) -> Option<LogLine> {
    let space = record.iter().position(|b| *b == b' ')?;
    let at_micros = std::str::from_utf8(&record[..space]).ok()?.parse().ok()?;
    let [tag, end, b' ', message @ ..] = &record[space + 1..] else {
        return None;
    };
    let stream = match tag {
        b'o' => LogStream::Stdout,
        b'e' => LogStream::Stderr,
        b'h' => LogStream::Host,
        _ => return None,
    };
    Some(LogLine {
        at_micros,
        stream,
        message: message.to_vec(),
        is_whole: *end == b'.',
    })
}

/// Cuts a stream into lines of at most [`MAX_LINE`] bytes.
#[derive(Debug, Default)]
pub(crate) struct LineSplitter {
    /// The beginning of a line whose end has not come yet; shorter than [`MAX_LINE`].
    partial: Vec<u8>,
}

impl LineSplitter {
    /// What came after the last newline.
    #[cfg(feature = "process")]
    pub(crate) fn partial(&self) -> &[u8] {
        &self.partial
    }

    /// Takes bytes; appends the records of the lines they complete.
    pub(crate) fn feed(&mut self, at: u64, stream: LogStream, mut bytes: &[u8], to: &mut Vec<u8>) {
        while !bytes.is_empty() {
            let room = MAX_LINE - self.partial.len();
            let window = &bytes[..bytes.len().min(room + 1)];
            if let Some(newline) = window.iter().position(|b| *b == b'\n') {
                self.emit(at, stream, &bytes[..newline], true, to);
                bytes = &bytes[newline + 1..];
            } else if bytes.len() > room {
                self.emit(at, stream, &bytes[..room], false, to);
                bytes = &bytes[room..];
            } else {
                self.partial.extend_from_slice(bytes);
                bytes = &[];
            }
        }
    }

    /// Ends the stream; appends the record of what is left. With `is_whole` the end counts as a newline.
    pub(crate) fn finish(&mut self, at: u64, stream: LogStream, is_whole: bool, to: &mut Vec<u8>) {
        if is_whole || !self.partial.is_empty() {
            self.emit(at, stream, &[], is_whole, to);
        }
    }

    fn emit(&mut self, at: u64, stream: LogStream, rest: &[u8], is_whole: bool, to: &mut Vec<u8>) {
        if self.partial.is_empty() {
            encode(at, stream, rest, is_whole, to);
        } else {
            self.partial.extend_from_slice(rest);
            encode(at, stream, &self.partial, is_whole, to);
            self.partial.clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Whatever the bytes and however they arrive, putting the records together again gives the same bytes.
        #[test]
        fn a_log_replays_exactly(
            chunks in prop::collection::vec(
                prop_oneof![
                    prop::collection::vec(any::<u8>(), 0..200),
                    (9_990usize..20_005, any::<bool>()).prop_map(|(n, newline)| {
                        let mut bytes = vec![b'x'; n];
                        if newline { bytes.push(b'\n'); }
                        bytes
                    }),
                ],
                0..6,
            ),
        ) {
            let mut records = Vec::new();
            let mut splitter = LineSplitter::default();
            for chunk in &chunks {
                splitter.feed(7, LogStream::Stdout, chunk, &mut records);
            }
            splitter.finish(7, LogStream::Stdout, false, &mut records);
            let mut replayed = Vec::new();
            for record in records.split_inclusive(|b| *b == b'\n') {
                let line = decode(&record[..record.len() - 1]).unwrap();
                prop_assert!(line.message.len() <= MAX_LINE);
                replayed.extend_from_slice(&line.message);
                if line.is_whole { replayed.push(b'\n'); }
            }
            prop_assert_eq!(replayed, chunks.concat());
        }
    }

    #[test]
    fn a_line_of_exactly_the_limit_is_not_split() {
        let mut records = Vec::new();
        let mut line = vec![b'x'; MAX_LINE];
        line.push(b'\n');
        LineSplitter::default().feed(1, LogStream::Stderr, &line, &mut records);
        assert_eq!(records.iter().filter(|b| **b == b'\n').count(), 1);
        assert!(decode(&records[..records.len() - 1]).unwrap().is_whole);
    }

    #[test]
    fn a_torn_record_is_not_a_line() {
        assert_eq!(decode(b"12345"), None);
        assert_eq!(decode(b"12345 o"), None);
        assert_eq!(decode(b"x o. hello"), None);
    }
}
