//! Healthy is what answers an HTTP request as expected.
//!
//! The little of HTTP/1.1 that takes is here, so that a health check needs no HTTP library: the peer is not trusted to
//! speak it well, and at most [`HEAD_BYTES`] and [`BODY_BYTES`] of its answer are read.

use std::borrow::Cow;

use async_trait::async_trait;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::{HealthCheck, Unhealthy, tcp::connect};
use crate::{Error, Result};

/// Sends `GET` and looks at the status and, if asked to, at the first [`BODY_BYTES`](Self::BODY_BYTES) of the body.
#[derive(Debug, Clone)]
pub struct HttpCheck {
    addr: String,
    path: String,
    host: String,
    expected: Expected,
}

#[derive(Debug, Clone)]
struct Expected {
    status: u16,
    /// Must occur in the body.
    body: Option<String>,
}

impl HttpCheck {
    /// How much of a body is searched.
    pub const BODY_BYTES: usize = 5120;

    /// Expects status 200 from `path` at `addr`, `host:port`.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] when they cannot be part of a request.
    pub fn new(addr: impl Into<String>, path: impl Into<String>) -> Result<Self> {
        let (addr, path) = (addr.into(), path.into());
        if !path.starts_with('/') || !path.bytes().all(|b| b.is_ascii_graphic()) {
            return Err(Error::Invalid {
                what: format!("path {path:?}"),
                why: "a path begins with '/' and is visible ASCII: encode the rest".to_owned(),
            });
        }
        Ok(Self {
            host: checked_host(addr.clone())?,
            addr,
            path,
            expected: Expected {
                status: 200,
                body: None,
            },
        })
    }

    /// Expects status 200 from a URL, `http://host[:port][/path]`.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] when it is not such a URL.
    pub fn parse(url: &str) -> Result<Self> {
        let Some(rest) = url.strip_prefix("http://") else {
            return Err(Error::Invalid {
                what: format!("URL {url:?}"),
                why: "a health check's URL begins with http://".to_owned(),
            });
        };
        let (host, path) = match rest.find(['/', '?']) {
            Some(at) if rest[at..].starts_with('/') => (&rest[..at], Cow::from(&rest[at..])),
            Some(at) => (&rest[..at], Cow::from(format!("/{}", &rest[at..]))),
            None => (rest, Cow::from("/")),
        };
        let path = path.split('#').next().unwrap_or_default();
        // The colons of an IPv6 address are within its brackets.
        let has_port = host.rsplit(']').next().is_some_and(|end| end.contains(':'));
        let addr = match has_port {
            true => host.to_owned(),
            false => format!("{host}:80"),
        };
        Self::new(addr, path)?.with_host(host)
    }

    /// Expects another status.
    #[must_use]
    pub fn with_status(mut self, status: u16) -> Self {
        self.expected.status = status;
        self
    }

    /// Expects `text` within the first [`BODY_BYTES`](Self::BODY_BYTES) of the body.
    #[must_use]
    pub fn with_body(mut self, text: impl Into<String>) -> Self {
        self.expected.body = Some(text.into());
        self
    }

    /// Asks for another host than the address.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] when it cannot be part of a request.
    pub fn with_host(mut self, host: impl Into<String>) -> Result<Self> {
        self.host = checked_host(host.into())?;
        Ok(self)
    }
}

#[async_trait]
impl HealthCheck for HttpCheck {
    async fn check(&self) -> Result<(), Unhealthy> {
        let Self {
            addr, path, host, ..
        } = self;
        let failed = |error| Unhealthy::new(format!("GET http://{addr}{path}: {error}"));
        let mut stream = connect(addr).await?;
        let request = format!(
            "GET {path} HTTP/1.1\r\nHost: {host}\r\nUser-Agent: flynn-health\r\nAccept: */*\r\nConnection: close\r\n\r\n"
        );
        stream
            .write_all(request.as_bytes())
            .await
            .map_err(|error| failed(error.to_string()))?;
        let mut received = Vec::with_capacity(1024);
        loop {
            let read = stream.read_buf(&mut received).await;
            let read = read.map_err(|error| failed(error.to_string()))?;
            if let Some(verdict) = self.expected.judge(&received, read == 0) {
                return verdict.map_err(failed);
            }
        }
    }
}

impl Expected {
    /// Judges what was received so far; `None` when it takes more, which there is not after `is_end`.
    fn judge(&self, mut received: &[u8], is_end: bool) -> Option<Result<(), String>> {
        if received.len() > MOST_BYTES {
            return Some(Err(format!(
                "nothing conclusive within {MOST_BYTES} bytes of the answer"
            )));
        }
        while let Some(rest) = self.behind_interim(received) {
            received = rest;
        }
        let (head, body) = match split_head(received) {
            Some(parts) => parts,
            None if is_end && received.is_empty() => {
                return Some(Err("the connection was closed without an answer".to_owned()));
            }
            None if is_end => return Some(Err("the answer was cut off".to_owned())),
            None if received.len() > HEAD_BYTES => {
                return Some(Err(format!("the answer's head exceeds {HEAD_BYTES} bytes")));
            }
            None => return None,
        };
        let Some(status) = status_of(head) else {
            let line = head.split(|b| *b == b'\n').next().unwrap_or_default();
            let line = String::from_utf8_lossy(&line[..line.len().min(80)]);
            return Some(Err(format!("{:?} is not an HTTP status", line.trim_end())));
        };
        if status != self.status {
            return Some(Err(format!("status {status} instead of {}", self.status)));
        }
        let Some(text) = &self.body else {
            return Some(Ok(()));
        };
        let (body, is_whole) = match Framing::of(head) {
            Framing::Length(length) => (
                Cow::from(&body[..body.len().min(length)]),
                body.len() >= length,
            ),
            Framing::Chunked => {
                let (body, is_whole) = unchunked(body);
                (Cow::from(body), is_whole)
            }
            Framing::UntilClose => (Cow::from(body), false),
        };
        let searched = &body[..body.len().min(HttpCheck::BODY_BYTES)];
        if contains(searched, text.as_bytes()) {
            return Some(Ok(()));
        }
        let is_over = is_end || is_whole || body.len() >= HttpCheck::BODY_BYTES;
        is_over.then(|| {
            Err(format!(
                "{text:?} is not in the first {} bytes of the body",
                searched.len()
            ))
        })
    }

    /// What follows an interim response such as `100 Continue`, which is not the answer yet.
    fn behind_interim<'r>(&self, received: &'r [u8]) -> Option<&'r [u8]> {
        let (head, rest) = split_head(received)?;
        let status = status_of(head)?;
        let is_interim = (100..200).contains(&status) && status != 101 && status != self.status;
        is_interim.then_some(rest)
    }
}

/// How the end of a body is known.
enum Framing {
    Length(usize),
    Chunked,
    UntilClose,
}

impl Framing {
    fn of(head: &[u8]) -> Self {
        let mut framing = Self::UntilClose;
        for line in head.split(|b| *b == b'\n').skip(1) {
            let line = String::from_utf8_lossy(line);
            let Some((name, value)) = line.split_once(':') else {
                continue;
            };
            if name.eq_ignore_ascii_case("transfer-encoding") {
                return Self::Chunked;
            }
            if name.eq_ignore_ascii_case("content-length")
                && let Ok(length) = value.trim().parse()
            {
                framing = Self::Length(length);
            }
        }
        framing
    }
}

/// The head with its status line, and what follows it.
fn split_head(received: &[u8]) -> Option<(&[u8], &[u8])> {
    let found = |end: &[u8]| received.windows(end.len()).position(|w| w == end);
    let (at, len) = match (found(b"\r\n\r\n"), found(b"\n\n")) {
        (Some(crlf), Some(lf)) if lf < crlf => (lf, 2),
        (Some(crlf), _) => (crlf, 4),
        (None, lf) => (lf?, 2),
    };
    (at <= HEAD_BYTES).then(|| (&received[..at], &received[at + len..]))
}

fn status_of(head: &[u8]) -> Option<u16> {
    let line = head.split(|b| *b == b'\n').next()?;
    let mut words = std::str::from_utf8(line).ok()?.trim_end().splitn(3, ' ');
    words.next()?.strip_prefix("HTTP/1.")?;
    let status = words.next().filter(|s| s.len() == 3)?;
    status.parse().ok().filter(|s| *s >= 100)
}

/// The data of the chunks that are there, and whether the last one is among them. What is not well-formed ends it.
fn unchunked(mut rest: &[u8]) -> (Vec<u8>, bool) {
    let mut data = Vec::new();
    while let Some(end) = rest.iter().position(|b| *b == b'\n') {
        let line = String::from_utf8_lossy(&rest[..end]);
        let digits = line.split(';').next().unwrap_or_default().trim();
        let Ok(size) = usize::from_str_radix(digits, 16) else {
            return (data, true);
        };
        if size == 0 {
            return (data, true);
        }
        rest = &rest[end + 1..];
        data.extend_from_slice(&rest[..rest.len().min(size)]);
        // The chunk is followed by a line end; if that is not there yet, neither is the next chunk.
        let next = size.saturating_add(2);
        if next > rest.len() {
            break;
        }
        rest = &rest[next..];
    }
    (data, false)
}

fn contains(text: &[u8], part: &[u8]) -> bool {
    part.is_empty() || text.windows(part.len()).any(|w| w == part)
}

fn checked_host(host: String) -> Result<String> {
    if !host.is_empty() && host.bytes().all(|b| b.is_ascii_graphic()) {
        Ok(host)
    } else {
        Err(Error::Invalid {
            what: format!("host {host:?}"),
            why: "a host is visible ASCII".to_owned(),
        })
    }
}

const HEAD_BYTES: usize = 16 * 1024;

/// Chunk sizes and interim answers may come on top of head and body, but not without end.
const MOST_BYTES: usize = 4 * (HEAD_BYTES + HttpCheck::BODY_BYTES);

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn judge(body: Option<&str>, received: &str, is_end: bool) -> String {
        let expected = Expected {
            status: 200,
            body: body.map(str::to_owned),
        };
        match expected.judge(received.as_bytes(), is_end) {
            None => "more".to_owned(),
            Some(Ok(())) => "healthy".to_owned(),
            Some(Err(why)) => why,
        }
    }

    #[test]
    fn the_status_decides_as_soon_as_the_head_is_there() {
        for (received, verdict) in [
            ("HTTP/1.1 200 OK\r\nA: b\r\n\r\n", "healthy"),
            ("HTTP/1.0 200\n\n", "healthy"),
            ("HTTP/1.1 200 OK\r\nA: b\r\n", "more"),
            (
                "HTTP/1.1 503 Service Unavailable\r\n\r\n",
                "status 503 instead of 200",
            ),
            (
                "HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 200 OK\r\n\r\n",
                "healthy",
            ),
            ("HTTP/1.1 100 Continue\r\n\r\n", "more"),
            ("SSH-2.0-x\r\n\r\n", "\"SSH-2.0-x\" is not an HTTP status"),
            (
                "HTTP/1.1 20 OK\r\n\r\n",
                "\"HTTP/1.1 20 OK\" is not an HTTP status",
            ),
            ("HTTP/2 200\r\n\r\n", "\"HTTP/2 200\" is not an HTTP status"),
        ] {
            assert_eq!(judge(None, received, false), verdict, "{received:?}");
        }
        assert_eq!(
            judge(None, "", true),
            "the connection was closed without an answer"
        );
        assert_eq!(judge(None, "HTTP/1.1 200", true), "the answer was cut off");
        let endless = format!("HTTP/1.1 200 OK\r\nA: {}", "x".repeat(HEAD_BYTES));
        assert_eq!(
            judge(None, &endless, false),
            "the answer's head exceeds 16384 bytes"
        );
    }

    #[test]
    fn the_body_is_searched_however_it_is_framed() {
        for (rest, is_end, verdict) in [
            ("Content-Length: 9\r\n\r\nall is ok", false, "healthy"),
            ("Content-Length: 9\r\n\r\nall is", false, "more"),
            (
                "Content-Length: 3\r\n\r\nbad and ok",
                false,
                "\"ok\" is not in the first 3 bytes of the body",
            ),
            ("\r\nok", false, "healthy"),
            ("\r\nba", false, "more"),
            (
                "\r\nbad",
                true,
                "\"ok\" is not in the first 3 bytes of the body",
            ),
            (
                "transfer-encoding: chunked\r\n\r\n1\r\no\r\n1;x=y\r\nk\r\n0\r\n\r\n",
                false,
                "healthy",
            ),
            ("Transfer-Encoding: chunked\r\n\r\n1\r\no\r", false, "more"),
            (
                "Transfer-Encoding: chunked\r\n\r\n1\r\no\r\n0\r\n\r\n",
                false,
                "\"ok\" is not in the first 1 bytes of the body",
            ),
            (
                "Transfer-Encoding: chunked\r\n\r\nffffffffffffffffff\r\nok",
                false,
                "\"ok\" is not in the first 0 bytes of the body",
            ),
        ] {
            let received = format!("HTTP/1.1 200 OK\r\n{rest}");
            assert_eq!(
                judge(Some("ok"), &received, is_end),
                verdict,
                "{received:?}"
            );
        }
        let far = format!("HTTP/1.1 200 OK\r\n\r\n{}ok", "x".repeat(5119));
        assert_eq!(
            judge(Some("ok"), &far, false),
            "\"ok\" is not in the first 5120 bytes of the body"
        );
    }

    #[test]
    fn urls_are_taken_apart() {
        for (url, addr, host, path) in [
            ("http://a", "a:80", "a", "/"),
            ("http://a:81/b?c=d#e", "a:81", "a:81", "/b?c=d"),
            ("http://[::1]:8080/x", "[::1]:8080", "[::1]:8080", "/x"),
            ("http://[::1]", "[::1]:80", "[::1]", "/"),
            ("http://a?x", "a:80", "a", "/?x"),
        ] {
            let check = HttpCheck::parse(url).unwrap();
            assert_eq!(
                (&*check.addr, &*check.host, &*check.path),
                (addr, host, path)
            );
        }
        for wrong in [
            "https://a/",
            "a",
            "http://",
            "http://a/b c",
            "http://a\r\n/",
        ] {
            assert!(HttpCheck::parse(wrong).is_err(), "{wrong:?}");
        }
    }

    proptest! {
        /// Whatever arrives, cut wherever: no panic, no endless reading, and a verdict at the end.
        #[test]
        fn nothing_received_can_hurt(
            head in "(HTTP/1\\.[01] [0-9]{1,4}[ a-z]{0,5}\r?\n)?([A-Za-z-]{1,20}: ?[a-z0-9]{0,30}\r?\n){0,3}\r?\n?",
            rest in prop::collection::vec(any::<u8>(), 0..200),
            body in prop::option::of("[a-z]{0,4}"),
        ) {
            let mut received = head.into_bytes();
            received.extend(rest);
            let expected = Expected { status: 200, body };
            for cut in 0..=received.len() {
                let _ = expected.judge(&received[..cut], false);
            }
            prop_assert!(expected.judge(&received, true).is_some());
        }
    }
}
