//! The answer, on its way to the client.

use std::{fmt::Write as _, io, sync::atomic::Ordering};

use tokio::{
    io::AsyncWriteExt as _,
    net::tcp::{ReadHalf, WriteHalf},
};

use super::{COOKIE, ClientFault, Outcome, Progress, Request};
use crate::{
    body::{Body, Framing, Part},
    buffer::Buffer,
    endpoint::Endpoint,
    forward::{self, ResponseFacts},
    head::{BadResponse, ResponseHead, may_be_complete},
    proxy::{Proxy, access::Access},
    retry::Failure,
    timer::Timer,
};

/// From the backend to the client.
pub(super) struct Receiving<'a, 's> {
    pub(super) proxy: &'a Proxy,
    pub(super) from: &'a mut ReadHalf<'s>,
    pub(super) to: &'a mut WriteHalf<'s>,
    pub(super) up: &'a mut Buffer,
    pub(super) reply: &'a mut Vec<u8>,
    pub(super) response: &'a mut ResponseHead,
    pub(super) timer: &'a mut Timer,
    pub(super) request: &'a Request,
    pub(super) endpoint: &'a Endpoint,
    pub(super) progress: &'a Progress,
    pub(super) access: &'a mut Access,
}

impl Receiving<'_, '_> {
    pub(super) async fn run(&mut self) -> Outcome {
        loop {
            if let Err(failure) = self.read_head().await {
                return Outcome::Failed(failure);
            }
            if !self.response.is_interim() {
                break;
            }
            if self.pass_on_interim().await.is_err() {
                return Outcome::Client(ClientFault::Gone);
            }
        }
        self.access.status = self.response.status;
        if self.response.status == 101 {
            return self.pass_on_upgrade().await;
        }
        self.pass_on().await
    }

    async fn read_head(&mut self) -> Result<(), Failure> {
        let limits = &self.proxy.limits;
        let mut seen = 0;
        loop {
            let bytes = self.up.bytes();
            if !bytes.is_empty() && may_be_complete(bytes, seen) {
                match self.response.parse(bytes, self.request.is_head) {
                    Ok(true) => return Ok(()),
                    Ok(false) => {}
                    Err(BadResponse(why)) => return Err(self.bad_response(why)),
                }
            }
            seen = bytes.len();
            if seen >= limits.max_head_bytes {
                return Err(self.bad_response("a head that is too large"));
            }
            let fill = self.up.fill(self.from, limits.max_head_bytes);
            match self.timer.limit(limits.response_timeout, fill).await {
                Ok(Ok(0) | Err(_)) => {
                    let was_sent = self.progress.was_sent.load(Ordering::Relaxed);
                    return Err(Failure::Closed { was_sent });
                }
                Ok(Ok(_)) => {}
                // The time for the answer begins with the end of the request.
                Err(_) if !self.progress.is_sent.load(Ordering::Relaxed) => {}
                Err(_) => return Err(Failure::TimedOut),
            }
        }
    }

    fn bad_response(&self, why: &str) -> Failure {
        let (id, addr) = (self.endpoint.id(), self.endpoint.addr());
        tracing::warn!(%id, %addr, why, "a backend answered with something that is not an HTTP response");
        Failure::BadResponse
    }

    /// `100 Continue` and the like, for clients that know them.
    async fn pass_on_interim(&mut self) -> io::Result<()> {
        if !self.request.is_http_10 {
            self.write_head(false, None);
            self.progress.was_answered.store(true, Ordering::Relaxed);
            self.to.write_all(self.reply).await?;
        }
        self.up.consume(self.response.len);
        Ok(())
    }

    async fn pass_on_upgrade(&mut self) -> Outcome {
        if !self.request.wants_upgrade {
            return Outcome::Failed(self.bad_response("an upgrade that nobody asked for"));
        }
        // What is left of the request's body would be taken for the new protocol.
        if !self.progress.is_sent.load(Ordering::Relaxed) {
            return Outcome::Failed(self.bad_response("an upgrade before the end of the request"));
        }
        self.write_head(false, None);
        self.up.consume(self.response.len);
        self.progress.was_answered.store(true, Ordering::Relaxed);
        match self.to.write_all(self.reply).await {
            Ok(()) => Outcome::Upgraded,
            Err(_) => Outcome::Client(ClientFault::Gone),
        }
    }

    /// Passes on head and body.
    async fn pass_on(&mut self) -> Outcome {
        let framing = self.response.framing;
        // An HTTP/1.0 client knows no chunks: it gets what is in them, to the end of the connection.
        let unwraps = framing == Framing::Chunked && self.request.is_http_10;
        let client_stays = self.request.keeps_alive
            && !unwraps
            && framing != Framing::UntilClose
            && self.progress.is_sent.load(Ordering::Relaxed)
            && !self.proxy.drain.has_begun();
        let cookie = self.cookie();
        self.write_head(!client_stays, cookie.as_deref());
        self.up.consume(self.response.len);
        self.progress.was_answered.store(true, Ordering::Relaxed);
        let mut body = Body::new(framing);
        match self.pass_on_body(&mut body, unwraps).await {
            Ok(()) => Outcome::Done {
                client_stays,
                backend_stays: self.response.keeps_alive()
                    && self.progress.is_sent.load(Ordering::Relaxed),
            },
            Err(outcome) => outcome,
        }
    }

    /// Passes on the head, which is in `reply`, with what is there of the body, and then the rest as it comes.
    async fn pass_on_body(&mut self, body: &mut Body, unwraps: bool) -> Result<(), Outcome> {
        /// Up to so much of a body goes into one write with the head.
        const TOGETHER: usize = Buffer::SMALL;
        let idle_timeout = self.proxy.limits.idle_timeout;
        let mut last = self.up.len();
        loop {
            let mut taken = 0;
            if unwraps {
                taken = self.unwrap_chunks(body)?;
            } else if !body.is_done() {
                taken = body.scan(self.up.bytes()).map_err(|_| Outcome::Broken)?;
                self.access.bytes += taken as u64;
                if taken <= TOGETHER && !self.reply.is_empty() {
                    self.reply.extend_from_slice(&self.up.bytes()[..taken]);
                    self.up.consume(taken);
                    taken = 0;
                }
            }
            let pieces = [
                &self.reply[..],
                if unwraps {
                    &[]
                } else {
                    &self.up.bytes()[..taken]
                },
            ];
            for piece in pieces {
                if !piece.is_empty() {
                    let write = self.to.write_all(piece);
                    match self.timer.limit(idle_timeout, write).await {
                        Ok(Ok(())) => {}
                        Ok(Err(_)) | Err(_) => return Err(Outcome::Client(ClientFault::Gone)),
                    }
                }
            }
            self.reply.clear();
            self.up.consume(taken);
            if body.is_done() {
                return Ok(());
            }
            let fill = self.up.fill_after(self.from, last);
            match self.timer.limit(idle_timeout, fill).await {
                Ok(Ok(0)) if matches!(body, Body::UntilClose) => return Ok(()),
                Ok(Ok(0) | Err(_)) | Err(_) => return Err(Outcome::Broken),
                Ok(Ok(n)) => last = n,
            }
        }
    }

    /// Moves what is in the chunks from `up` to `reply`; returns how much of `up` that was.
    fn unwrap_chunks(&mut self, body: &mut Body) -> Result<usize, Outcome> {
        let bytes = self.up.bytes();
        let mut taken = 0;
        while taken < bytes.len() {
            match body.next(&bytes[taken..]).map_err(|_| Outcome::Broken)? {
                Part::Frame(n) => taken += n,
                Part::Data(n) => {
                    self.reply.extend_from_slice(&bytes[taken..taken + n]);
                    self.access.bytes += n as u64;
                    taken += n;
                }
                Part::End => break,
            }
        }
        Ok(taken)
    }

    fn write_head(&mut self, close: bool, cookie: Option<&str>) {
        let facts = ResponseFacts {
            close,
            is_http_10: self.request.is_http_10,
            cookie,
        };
        self.reply.clear();
        forward::write_response(self.reply, self.response, self.up.bytes(), &facts);
    }

    /// The cookie that leads the client back here, if it has another or none.
    fn cookie(&self) -> Option<String> {
        let given = self.request.sticky.as_ref()?;
        let value = self.endpoint.cookie();
        (given != value).then(|| {
            let mut cookie = String::new();
            // Writing to a string cannot fail.
            let _ = write!(cookie, "{COOKIE}={value}; Path=/; HttpOnly; SameSite=Lax");
            cookie
        })
    }
}
