//! The head of a request.

use std::mem::MaybeUninit;

use super::{Fields, MAX_FIELDS, Refusal, Role, Span, content_length, fields::span};
use crate::body::Framing;

/// The head of a request, as places in the buffer it was read into.
#[derive(Debug)]
pub(crate) struct RequestHead {
    /// How many bytes of the buffer it takes.
    pub(crate) len: usize,
    pub(crate) method: Span,
    /// The request target, byte for byte.
    pub(crate) target: Span,
    pub(crate) is_http_10: bool,
    pub(crate) fields: Fields,
    pub(crate) framing: Framing,
    pub(crate) expects_continue: bool,
}

impl Default for RequestHead {
    fn default() -> Self {
        Self {
            len: 0,
            method: 0..0,
            target: 0..0,
            is_http_10: false,
            fields: Fields::default(),
            framing: Framing::None,
            expects_continue: false,
        }
    }
}

/// What a request target says.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Target<'t> {
    /// The authority of an absolute target.
    pub(crate) authority: Option<&'t str>,
    pub(crate) path: &'t str,
}

impl<'t> Target<'t> {
    fn parse(target: &'t str, method: &[u8]) -> Option<Self> {
        let path = |rest: &'t str| rest.split_once('?').map_or(rest, |(path, _)| path);
        if target.starts_with('/') {
            let path = path(target);
            return Some(Self {
                authority: None,
                path,
            });
        }
        if target == "*" {
            return (method == b"OPTIONS").then_some(Self {
                authority: None,
                path: "*",
            });
        }
        let (scheme, rest) = target.split_once("://")?;
        if !scheme.eq_ignore_ascii_case("http") && !scheme.eq_ignore_ascii_case("https") {
            return None;
        }
        let end = rest.find(['/', '?']).unwrap_or(rest.len());
        let (authority, rest) = rest.split_at(end);
        let path = path(rest);
        Some(Self {
            authority: Some(authority),
            path: if path.is_empty() { "/" } else { path },
        })
    }
}

impl RequestHead {
    /// Parses the head at the beginning of `buffer`; `false` if it is not there as a whole yet.
    ///
    /// The host without its port goes to `host`, in lower case.
    pub(crate) fn parse(&mut self, buffer: &[u8], host: &mut String) -> Result<bool, Refusal> {
        let mut headers = [const { MaybeUninit::uninit() }; MAX_FIELDS];
        let mut request = httparse::Request::new(&mut []);
        match request.parse_with_uninit_headers(buffer, &mut headers) {
            Ok(httparse::Status::Complete(len)) => self.len = len,
            Ok(httparse::Status::Partial) => return Ok(false),
            Err(error) => return Err(refusal(error)),
        }
        let method = request.method.unwrap_or_default().as_bytes();
        let target = request.path.unwrap_or_default();
        self.method = span(buffer, method);
        self.target = span(buffer, target.as_bytes());
        self.is_http_10 = request.version == Some(0);
        self.fields.read(buffer, request.headers);
        self.framing = self.read_framing(buffer)?;
        self.expects_continue = self.fields.with(Role::Expect).next().is_some();
        self.read_host(buffer, method, target, host)?;
        Ok(true)
    }

    /// May the client's connection be used for another request?
    pub(crate) fn keeps_alive(&self) -> bool {
        match self.is_http_10 {
            true => self.fields.keep_alive && !self.fields.close,
            false => !self.fields.close,
        }
    }

    /// The protocol that the client wants to change to; a body goes before the change (RFC 9110, 7.8).
    ///
    /// `h2c` is not passed on: what came after it would be requests that nobody here has seen.
    pub(crate) fn upgrade(&self, buffer: &[u8]) -> Option<Span> {
        let is_asked = self.fields.upgrade && !self.is_http_10;
        let line = self.fields.single(Role::Upgrade).ok()??;
        let mut protocols = buffer.get(line.value.clone())?.split(|b| *b == b',');
        let is_h2c = protocols.any(|p| p.trim_ascii().eq_ignore_ascii_case(b"h2c"));
        (is_asked && !is_h2c).then(|| line.value.clone())
    }

    fn read_framing(&self, buffer: &[u8]) -> Result<Framing, Refusal> {
        let length = self
            .fields
            .single(Role::ContentLength)
            .map_err(|()| Refusal::new(400, "the request has more than one Content-Length"))?;
        let encoding = self
            .fields
            .single(Role::TransferEncoding)
            .map_err(|()| Refusal::new(400, "the request has more than one Transfer-Encoding"))?;
        match (length, encoding) {
            (None, None) => Ok(Framing::None),
            (Some(_), Some(_)) => Err(Refusal::new(
                400,
                "the request has both Content-Length and Transfer-Encoding: send one of them",
            )),
            (Some(length), None) => match content_length(&buffer[length.value.clone()]) {
                Some(0) => Ok(Framing::Length(0)),
                Some(n) => Ok(Framing::Length(n)),
                None => Err(Refusal::new(400, "the Content-Length is not a number")),
            },
            (None, Some(_)) if self.is_http_10 => Err(Refusal::new(
                400,
                "an HTTP/1.0 request cannot have a Transfer-Encoding",
            )),
            (None, Some(encoding)) => {
                let value = buffer[encoding.value.clone()].trim_ascii();
                if value.eq_ignore_ascii_case(b"chunked") {
                    Ok(Framing::Chunked)
                } else {
                    Err(Refusal::new(
                        501,
                        "the only Transfer-Encoding known here is chunked",
                    ))
                }
            }
        }
    }

    fn read_host(
        &self,
        buffer: &[u8],
        method: &[u8],
        target: &str,
        host: &mut String,
    ) -> Result<(), Refusal> {
        host.clear();
        if method == b"CONNECT" {
            return Err(Refusal::new(
                405,
                "this is not a forward proxy: CONNECT is not allowed",
            ));
        }
        let Some(target) = Target::parse(target, method) else {
            return Err(Refusal::new(
                400,
                "the request target is neither a path nor an http URL",
            ));
        };
        let line = self
            .fields
            .single(Role::Host)
            .map_err(|()| Refusal::new(400, "the request has more than one Host"))?;
        let line = match line {
            Some(line) => Some(
                std::str::from_utf8(&buffer[line.value.clone()])
                    .map_err(|_| Refusal::new(400, "the Host is not a host name"))?,
            ),
            None if self.is_http_10 => None,
            None => return Err(Refusal::new(400, "the request has no Host")),
        };
        let authority = match (target.authority, line) {
            (Some(authority), Some(line)) if !authority.eq_ignore_ascii_case(line) => {
                return Err(Refusal::new(
                    400,
                    "the Host is not the one of the request target",
                ));
            }
            (Some(authority), _) => authority,
            (None, line) => line.unwrap_or_default(),
        };
        let name = host_name(authority).ok_or(Refusal::new(
            400,
            "the Host is not a host name with an optional port",
        ))?;
        host.push_str(name.strip_suffix('.').unwrap_or(name));
        host.make_ascii_lowercase();
        Ok(())
    }

    /// The path of the request, without its query.
    pub(crate) fn path<'b>(&self, buffer: &'b [u8]) -> &'b str {
        let text = std::str::from_utf8(&buffer[self.target.clone()]).unwrap_or_default();
        let method = &buffer[self.method.clone()];
        Target::parse(text, method).map_or("", |target| target.path)
    }
}

/// The host of `authority` without its port; `None` if it is not one.
fn host_name(authority: &str) -> Option<&str> {
    let (name, port) = match authority.rfind(']') {
        Some(end) => {
            let rest = &authority[end + 1..];
            let port = rest.strip_prefix(':');
            if !authority.starts_with('[') || (port.is_none() && !rest.is_empty()) {
                return None;
            }
            (&authority[..=end], port)
        }
        None => match authority.split_once(':') {
            Some((name, port)) => (name, Some(port)),
            None => (authority, None),
        },
    };
    let is_name = name.len() <= 255
        && name.bytes().all(|b| {
            b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_' | b'[' | b']' | b':')
        });
    let is_port = port.is_none_or(|p| p.len() <= 5 && p.bytes().all(|b| b.is_ascii_digit()));
    (is_name && is_port).then_some(name)
}

fn refusal(error: httparse::Error) -> Refusal {
    match error {
        httparse::Error::TooManyHeaders => {
            Refusal::new(431, "the request has too many header lines")
        }
        httparse::Error::Version => Refusal::new(505, "only HTTP/1.1 and HTTP/1.0 are spoken here"),
        httparse::Error::HeaderName => {
            Refusal::new(400, "a header name has a character that is not allowed")
        }
        httparse::Error::HeaderValue => {
            Refusal::new(400, "a header value has a character that is not allowed")
        }
        httparse::Error::NewLine | httparse::Error::Status | httparse::Error::Token => {
            Refusal::new(400, "this is not an HTTP request")
        }
    }
}
