//! Connections that stop being HTTP: attach, and whatever else needs a raw byte stream.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll},
};

use axum::{
    body::Body,
    extract::Request,
    response::{IntoResponse, Response},
};
use http::{HeaderValue, StatusCode, header};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::Failure;

/// The raw connection behind a `101 Switching Protocols`.
#[derive(Debug)]
pub struct Upgraded(TokioIo<hyper::upgrade::Upgraded>);

/// A connection that becomes raw once the 101 has been sent.
#[derive(Debug)]
pub struct PendingUpgrade(hyper::upgrade::OnUpgrade);

impl PendingUpgrade {
    pub(crate) fn of_response<B>(response: http::Response<B>) -> Self {
        Self(hyper::upgrade::on(response))
    }

    /// Waits for the raw connection. Return the 101 from the handler first: await this in a task of its own.
    ///
    /// # Errors
    ///
    /// The connection broke before it was upgraded.
    pub async fn connected(self) -> io::Result<Upgraded> {
        match self.0.await {
            Ok(upgraded) => Ok(Upgraded(TokioIo::new(upgraded))),
            Err(e) => Err(io::Error::new(io::ErrorKind::ConnectionReset, e)),
        }
    }
}

/// Accepts an upgrade to `protocol`: gives the answer to return, the request's body to read first if there is one, and
/// the connection to come.
///
/// # Errors
///
/// 400 when the request does not ask for this upgrade.
pub fn accept_upgrade(
    mut request: Request,
    protocol: &'static str,
) -> Result<(Response, Body, PendingUpgrade), Failure> {
    let asks = |name, wanted: &str| {
        request
            .headers()
            .get_all(name)
            .iter()
            .filter_map(|value| value.to_str().ok())
            .flat_map(|value| value.split(','))
            .any(|token| token.trim().eq_ignore_ascii_case(wanted))
    };
    if !asks(header::CONNECTION, "upgrade") || !asks(header::UPGRADE, protocol) {
        return Err(Failure::validation(
            "",
            &format!(
                "this route needs the headers 'Connection: upgrade' and 'Upgrade: {protocol}'"
            ),
        ));
    }
    let pending = PendingUpgrade(hyper::upgrade::on(&mut request));
    let headers = [
        (header::CONNECTION, HeaderValue::from_static("upgrade")),
        (header::UPGRADE, HeaderValue::from_static(protocol)),
    ];
    let response = (StatusCode::SWITCHING_PROTOCOLS, headers).into_response();
    Ok((response, request.into_body(), pending))
}

impl AsyncRead for Upgraded {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

impl AsyncWrite for Upgraded {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}
