//! A client's connection: one request after the other.

use std::{
    fmt::Write as _,
    future::poll_fn,
    net::SocketAddr,
    sync::{Arc, atomic::Ordering},
    task::Poll,
    time::Duration,
};

use tokio::{io::AsyncWriteExt as _, net::TcpStream, time::Instant};

use super::{Proxy, access::Access, answer::Answer};
use crate::{
    buffer::Buffer,
    drain::Draining,
    forward,
    head::{Refusal, RequestHead, ResponseHead, may_be_complete},
    timer::Timer,
};

/// Serves a client until it leaves, or the router stops.
pub(crate) async fn serve(
    proxy: Arc<Proxy>,
    stream: TcpStream,
    peer: SocketAddr,
    local: SocketAddr,
) {
    // Small answers must not wait for others to join them.
    if stream.set_nodelay(true).is_err() {
        return;
    }
    Connection::new(proxy, stream, peer, local).run().await;
}

/// A client's connection and everything that is reused from request to request.
pub(super) struct Connection {
    pub(super) proxy: Arc<Proxy>,
    pub(super) stream: TcpStream,
    /// Bytes from the client.
    pub(super) down: Buffer,
    /// Bytes from the backend.
    pub(super) up: Buffer,
    /// The head for the backend, with the body if that was there as a whole.
    pub(super) out: Vec<u8>,
    /// The head for the client.
    pub(super) reply: Vec<u8>,
    pub(super) head: RequestHead,
    pub(super) response: ResponseHead,
    /// The host of the present request.
    pub(super) host: String,
    /// The id of the present request.
    pub(super) id: String,
    pub(super) client: String,
    pub(super) port: String,
    pub(super) timer: Timer,
    draining: Draining,
    served: u64,
}

/// What becomes of the connection after a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Next {
    /// It waits for the next one.
    Request,
    /// It ends, and the client is given time to read to the end.
    Close,
    /// It is cut, so that nobody takes what was sent for the whole.
    Abort,
}

impl Connection {
    fn new(proxy: Arc<Proxy>, stream: TcpStream, peer: SocketAddr, local: SocketAddr) -> Self {
        let draining = proxy.drain.listen();
        Self {
            proxy,
            stream,
            down: Buffer::default(),
            up: Buffer::default(),
            out: Vec::new(),
            reply: Vec::new(),
            head: RequestHead::default(),
            response: ResponseHead::default(),
            host: String::new(),
            id: String::new(),
            client: peer.ip().to_canonical().to_string(),
            port: local.port().to_string(),
            timer: Timer::new(),
            draining,
            served: 0,
        }
    }

    async fn run(mut self) {
        loop {
            let next = match self.read_head().await {
                Ok(true) => self.serve_request().await,
                Ok(false) => return,
                Err(refusal) => self.refuse(refusal).await,
            };
            self.served += 1;
            match next {
                Next::Request => {}
                Next::Close => return self.linger().await,
                Next::Abort => {
                    // If that fails, the connection is gone already.
                    let _ = self.stream.set_zero_linger();
                    return;
                }
            }
        }
    }

    /// Waits for a request and reads its head; `false` if the connection has ended.
    async fn read_head(&mut self) -> Result<bool, Refusal> {
        let mut seen = 0;
        let mut first_byte = None;
        loop {
            let limits = &self.proxy.limits;
            let bytes = self.down.bytes();
            if !bytes.is_empty() && may_be_complete(bytes, seen) {
                let is_complete = self.head.parse(bytes, &mut self.host)?;
                let len = if is_complete {
                    self.head.len
                } else {
                    bytes.len()
                };
                if len > limits.max_head_bytes {
                    return Err(TOO_LARGE);
                }
                if is_complete {
                    return Ok(true);
                }
            }
            seen = bytes.len();
            if seen >= limits.max_head_bytes {
                return Err(TOO_LARGE);
            }
            if seen == 0 {
                let limit = match self.served {
                    0 => limits.head_timeout,
                    _ => limits.keep_alive_timeout,
                };
                if !self.wait(limit).await {
                    return Ok(false);
                }
                continue;
            }
            let since: &mut Instant = first_byte.get_or_insert_with(Instant::now);
            let limit = limits.head_timeout.saturating_sub(since.elapsed());
            let most = self.proxy.limits.max_head_bytes;
            let fill = self.down.fill(&mut self.stream, most);
            match self.timer.limit(limit, fill).await {
                Ok(Ok(0) | Err(_)) => return Ok(false),
                Ok(Ok(_)) => {}
                Err(_) => return Err(TOO_SLOW),
            }
        }
    }

    /// Waits, without memory, for the first bytes of a request; `false` if there will be none.
    async fn wait(&mut self, limit: Duration) -> bool {
        self.up.release();
        self.out.clear();
        self.out.shrink_to(Buffer::SMALL);
        let (stream, draining, down) = (&mut self.stream, &mut self.draining, &mut self.down);
        down.release();
        let first_bytes = poll_fn(|context| {
            if let Poll::Ready(read) = down.poll_fill(context, stream) {
                return Poll::Ready(Some(read.is_ok_and(|n| n > 0)));
            }
            draining.poll(context).map(|()| None)
        });
        match self.timer.limit(limit, first_bytes).await {
            Ok(Some(is_there)) => is_there,
            // Between two requests a client expects the end, but one that has just come is about to ask.
            Ok(None) if self.served == 0 => {
                let first_bytes = poll_fn(|context| down.poll_fill(context, stream));
                let limit = limit.min(FIRST_REQUEST);
                matches!(self.timer.limit(limit, first_bytes).await, Ok(Ok(n)) if n > 0)
            }
            Ok(None) | Err(_) => false,
        }
    }

    async fn serve_request(&mut self) -> Next {
        self.proxy.counters.requests.add();
        let mut access = Access::new(Instant::now());
        self.id.clear();
        match forward::request_id(&self.head.fields, self.down.bytes()) {
            Some(id) => self.id.push_str(id),
            None => self.new_id(),
        }
        let path = self.head.path(self.down.bytes());
        let target = self.proxy.table.load().lookup(&self.host, path).cloned();
        let next = match target {
            Some(target) => self.forward(&target, &mut access).await,
            None => {
                let body = self.head.framing;
                self.note_request_line();
                self.down.consume(self.head.len);
                self.proxy.counters.no_route.add();
                let sentence = format!("there is no route for host {:?} and this path", self.host);
                let (status, sentence) = match self.proxy.has_table.load(Ordering::Acquire) {
                    true => (404, sentence.as_str()),
                    false => (503, "the router does not know its routes yet"),
                };
                self.answer(&mut access, status, sentence, body.is_empty())
                    .await
            }
        };
        access.log(&self.id, &self.host, &self.client, &self.out);
        next
    }

    /// Answers a request that was not understood. What follows it cannot be understood either.
    async fn refuse(&mut self, refusal: Refusal) -> Next {
        self.proxy.counters.requests.add();
        self.proxy.counters.refused.add();
        self.id.clear();
        self.new_id();
        // What there is of it is only good for the log.
        self.out.clear();
        let known = self.down.bytes();
        self.out.extend_from_slice(&known[..known.len().min(256)]);
        self.host.clear();
        self.head.method = 0..0;
        self.head.is_http_10 = false;
        let mut access = Access::new(Instant::now());
        let next = self
            .answer(&mut access, refusal.status, refusal.why, false)
            .await;
        access.log(&self.id, &self.host, &self.client, &self.out);
        next
    }

    /// Answers in the router's own name. `is_read`: there is no more of the request to come.
    pub(super) async fn answer(
        &mut self,
        access: &mut Access,
        status: u16,
        sentence: &str,
        is_read: bool,
    ) -> Next {
        let close = !is_read || !self.head.keeps_alive() || self.proxy.drain.has_begun();
        access.status = status;
        self.reply.clear();
        Answer {
            status,
            sentence,
            request_id: &self.id,
            close,
            is_http_10: self.head.is_http_10,
            is_head: self.out.starts_with(b"HEAD "),
        }
        .write(&mut self.reply);
        let limit = self.proxy.limits.idle_timeout;
        let write = self.stream.write_all(&self.reply);
        match self.timer.limit(limit, write).await {
            Ok(Ok(())) if close => Next::Close,
            Ok(Ok(())) => Next::Request,
            Ok(Err(_)) | Err(_) => Next::Abort,
        }
    }

    /// Keeps the request line for the log and for [`answer`](Self::answer).
    fn note_request_line(&mut self) {
        self.out.clear();
        let bytes = self.down.bytes();
        let end = self.head.target.end.min(bytes.len());
        self.out
            .extend_from_slice(&bytes[self.head.method.start..end]);
    }

    fn new_id(&mut self) {
        let id = uuid::Builder::from_random_bytes(rand::random()).into_uuid();
        // Writing to a string cannot fail.
        let _ = write!(self.id, "{}", id.as_hyphenated());
    }

    /// Ends the connection so that the client can read the answer first: a system that gets bytes after the end would
    /// answer them with a reset, and that may overtake the answer.
    async fn linger(&mut self) {
        const LIMIT: Duration = Duration::from_secs(2);
        const MOST: usize = 256 * 1024;
        let (stream, down) = (&mut self.stream, &mut self.down);
        let drain = async {
            if stream.shutdown().await.is_err() {
                return;
            }
            let mut spent = 0;
            while spent < MOST {
                down.consume(down.len());
                match down.fill(stream, Buffer::SMALL).await {
                    Ok(0) | Err(_) => return,
                    Ok(n) => spent += n,
                }
            }
        };
        // Whoever has not finished by then has had time enough.
        let _ = self.timer.limit(LIMIT, drain).await;
    }
}

/// How long a client may take for its first request when the router has begun to stop.
const FIRST_REQUEST: Duration = Duration::from_secs(1);

const TOO_LARGE: Refusal = Refusal {
    status: 431,
    why: "the head of the request is too large",
};

const TOO_SLOW: Refusal = Refusal {
    status: 408,
    why: "the head of the request did not arrive in time",
};
