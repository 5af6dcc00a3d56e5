//! Gives the bare answers hyper sends to malformed requests a body that says what was wrong.
//!
//! hyper answers 400, 414 or 431 by itself before a service sees the request, and has no hook for it. All answers of
//! the server carry `X-Request-ID`; hyper's own have exactly one shape and do not.

use std::{
    io::{self, IoSlice},
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll},
};

use bytes::{Buf, Bytes};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};

use super::{Failure, server::Limits};

/// A connection whose bare error answers are completed.
pub(crate) struct Explained {
    inner: TcpStream,
    limits: Limits,
    /// Set when the connection stops being HTTP; from then on bytes are not ours to read.
    raw: Arc<AtomicBool>,
    /// The rest of a completed answer, and how many of hyper's bytes it stands for.
    replacing: Option<(Bytes, usize)>,
}

impl Explained {
    pub(crate) fn new(inner: TcpStream, limits: Limits, raw: Arc<AtomicBool>) -> Self {
        Self {
            inner,
            limits,
            raw,
            replacing: None,
        }
    }

    fn replacement(&self, head: &[u8]) -> Option<Bytes> {
        if self.raw.load(Ordering::Relaxed) {
            return None;
        }
        let status = head
            .strip_prefix(b"HTTP/1.1 ")
            .or_else(|| head.strip_prefix(b"HTTP/1.0 "))?;
        let is_bare = head.len() < 256
            && head.ends_with(b"\r\n\r\n")
            && contains(head, b"content-length: 0\r\n")
            && contains(head, b"connection: close\r\n")
            && !contains(head, b"x-request-id: ");
        if !is_bare {
            return None;
        }
        let failure = match status.get(..3)? {
            b"400" => Failure::validation(
                "",
                "the request is not well-formed HTTP/1.1: check its request line, its header lines, Content-Length and \
                 Transfer-Encoding",
            ),
            b"414" => Failure::new(
                http::StatusCode::URI_TOO_LONG,
                "uri_too_long",
                "the request's path is too long: send a shorter one",
            ),
            b"431" => Failure::new(
                http::StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
                "headers_too_large",
                format!(
                    "the request's headers are over {} bytes or {} lines: send smaller ones",
                    self.limits.max_header_bytes, self.limits.max_headers
                ),
            ),
            _ => return None,
        };
        Some(plain_answer(&failure))
    }

    fn poll_replace(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let Some((rest, stands_for)) = &mut self.replacing else {
            return Poll::Ready(Ok(0));
        };
        while rest.has_remaining() {
            let n = futures::ready!(Pin::new(&mut self.inner).poll_write(cx, rest))?;
            if n == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            rest.advance(n);
        }
        let written = *stands_for;
        self.replacing = None;
        Poll::Ready(Ok(written))
    }
}

/// A whole answer that closes the connection, as bytes.
pub(crate) fn plain_answer(failure: &Failure) -> Bytes {
    let body = serde_json::to_string(&failure.envelope()).expect("strings are JSON");
    format!(
        "HTTP/1.1 {}\r\nconnection: close\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
        failure.status,
        body.len()
    )
    .into()
}

fn contains(head: &[u8], needle: &[u8]) -> bool {
    head.windows(needle.len())
        .any(|window| window.eq_ignore_ascii_case(needle))
}

impl AsyncRead for Explained {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_read(cx, buf)
    }
}

impl AsyncWrite for Explained {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        if this.replacing.is_none() {
            match this.replacement(buf) {
                Some(answer) => this.replacing = Some((answer, buf.len())),
                None => return Pin::new(&mut this.inner).poll_write(cx, buf),
            }
        }
        this.poll_replace(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        if this.replacing.is_none() {
            match bufs.first().and_then(|first| this.replacement(first)) {
                Some(answer) => this.replacing = Some((answer, bufs[0].len())),
                None => return Pin::new(&mut this.inner).poll_write_vectored(cx, bufs),
            }
        }
        this.poll_replace(cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}
