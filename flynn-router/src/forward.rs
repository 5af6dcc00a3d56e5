//! What a message looks like on the other side: pure header rules.
//!
//! The request line goes on byte for byte. Header lines keep their order and case, except those for this connection only
//! (RFC 9110, 7.6.1) and those that the router itself answers for.

use std::io::Write as _;

use crate::{
    body::Framing,
    head::{Fields, RequestHead, ResponseHead, Role, Span},
};

/// What the router adds to a request.
#[derive(Debug)]
pub(crate) struct RequestFacts<'f> {
    /// The address the client has, without port.
    pub(crate) client: &'f str,
    /// The port of the router that the client used.
    pub(crate) port: &'f str,
    /// `http` or `https`.
    pub(crate) scheme: &'f str,
    pub(crate) request_id: &'f str,
    /// Milliseconds since 1970.
    pub(crate) started_ms: u128,
    /// The backend is not to keep its connection.
    pub(crate) close: bool,
}

/// Writes the head that the backend gets for `head`, which is in `buffer`.
pub(crate) fn write_request(
    out: &mut Vec<u8>,
    head: &RequestHead,
    buffer: &[u8],
    facts: &RequestFacts<'_>,
) {
    let piece = |span: &Span| &buffer[span.clone()];
    for part in [
        piece(&head.method),
        b" ",
        piece(&head.target),
        b" HTTP/1.1\r\n",
    ] {
        out.extend_from_slice(part);
    }
    let upgrade = head.upgrade(buffer);
    for field in head.fields.iter() {
        match field.role {
            Role::EndToEnd | Role::Host | Role::Cookie | Role::Expect | Role::ContentLength => {
                line(out, piece(&field.name), piece(&field.value));
            }
            Role::HopByHop
            | Role::Connection
            | Role::TransferEncoding
            | Role::Upgrade
            | Role::RequestId
            | Role::RequestStart
            | Role::ForwardedFor
            | Role::ForwardedProto
            | Role::ForwardedPort
            | Role::ForwardedHost => {}
        }
    }
    if head.framing == Framing::Chunked {
        line(out, b"Transfer-Encoding", b"chunked");
    }
    match upgrade {
        Some(protocol) => {
            line(out, b"Connection", b"upgrade");
            line(out, b"Upgrade", piece(&protocol));
        }
        None if facts.close => line(out, b"Connection", b"close"),
        None => {}
    }
    let mut append = |name: &str, role: Role, value: &str| {
        out.extend_from_slice(name.as_bytes());
        out.extend_from_slice(b": ");
        for prior in head.fields.with(role) {
            out.extend_from_slice(piece(&prior.value));
            out.extend_from_slice(b", ");
        }
        out.extend_from_slice(value.as_bytes());
        out.extend_from_slice(b"\r\n");
    };
    append("X-Forwarded-For", Role::ForwardedFor, facts.client);
    append("X-Forwarded-Proto", Role::ForwardedProto, facts.scheme);
    append("X-Forwarded-Port", Role::ForwardedPort, facts.port);
    // Not appended to and not believed: frameworks build links from it.
    if let Some(host) = head.fields.with(Role::Host).next() {
        line(out, b"X-Forwarded-Host", piece(&host.value));
    }
    line(out, b"X-Request-Id", facts.request_id.as_bytes());
    // Writing to a vector cannot fail.
    let _ = write!(out, "X-Request-Start: {}\r\n\r\n", facts.started_ms);
}

/// What the router decides about the client's side of a response.
#[derive(Debug)]
pub(crate) struct ResponseFacts<'f> {
    /// The client's connection ends after this.
    pub(crate) close: bool,
    /// The client speaks HTTP/1.0: it has to be told that the connection stays, and knows no chunks.
    pub(crate) is_http_10: bool,
    /// A `Set-Cookie` to add.
    pub(crate) cookie: Option<&'f str>,
}

/// Writes the head that the client gets for `head`, which is in `buffer`.
pub(crate) fn write_response(
    out: &mut Vec<u8>,
    head: &ResponseHead,
    buffer: &[u8],
    facts: &ResponseFacts<'_>,
) {
    let piece = |span: &Span| &buffer[span.clone()];
    // Writing to a vector cannot fail.
    let _ = write!(out, "HTTP/1.1 {} ", head.status);
    out.extend_from_slice(piece(&head.reason));
    out.extend_from_slice(b"\r\n");
    let is_upgrade = head.status == 101;
    let mut has_length = false;
    for field in head.fields.iter() {
        match field.role {
            Role::HopByHop | Role::Connection => {}
            Role::Upgrade => {
                if is_upgrade {
                    line(out, piece(&field.name), piece(&field.value));
                }
            }
            // Two of the same value are one too many.
            Role::ContentLength if std::mem::replace(&mut has_length, true) => {}
            // A response to HEAD tells how GET would be answered.
            Role::TransferEncoding if facts.is_http_10 => {}
            _ => line(out, piece(&field.name), piece(&field.value)),
        }
    }
    if let Some(cookie) = facts.cookie {
        line(out, b"Set-Cookie", cookie.as_bytes());
    }
    if is_upgrade {
        line(out, b"Connection", b"upgrade");
    } else if head.is_interim() {
    } else if facts.close {
        line(out, b"Connection", b"close");
    } else if facts.is_http_10 {
        line(out, b"Connection", b"keep-alive");
    }
    out.extend_from_slice(b"\r\n");
}

fn line(out: &mut Vec<u8>, name: &[u8], value: &[u8]) {
    for part in [name, b": ", value, b"\r\n"] {
        out.extend_from_slice(part);
    }
}

/// The client's request id if it gave a good one: 20 to 200 of letters, digits, `+`, `/`, `=` and `-`.
pub(crate) fn request_id<'b>(fields: &Fields, buffer: &'b [u8]) -> Option<&'b str> {
    let is_allowed = |b: &u8| b.is_ascii_alphanumeric() || matches!(b, b'+' | b'/' | b'=' | b'-');
    let value = buffer.get(fields.with(Role::RequestId).next()?.value.clone())?;
    let fits = (20..=200).contains(&value.len()) && value.iter().all(is_allowed);
    std::str::from_utf8(value).ok().filter(|_| fits)
}

/// The value of the cookie `name`.
pub(crate) fn cookie<'b>(fields: &Fields, buffer: &'b [u8], name: &str) -> Option<&'b str> {
    fields
        .with(Role::Cookie)
        .filter_map(|line| std::str::from_utf8(buffer.get(line.value.clone())?).ok())
        .flat_map(|line| line.split(';'))
        .filter_map(|pair| pair.trim_ascii().split_once('='))
        .find_map(|(key, value)| (key == name).then_some(value))
}

#[cfg(test)]
mod tests;
