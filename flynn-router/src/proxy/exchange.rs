//! A request and its answer.

use std::{
    fmt::Write as _,
    future::pending,
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, SystemTime},
};

use tokio::{
    io::AsyncWriteExt as _,
    net::{
        TcpStream,
        tcp::{ReadHalf, WriteHalf},
    },
    time::Instant,
};

use super::{
    HttpTarget, Proxy,
    access::Access,
    connect::connect,
    http::{Connection, Next},
    upgrade,
};
use crate::{
    body::{Body, Framing, Part},
    buffer::Buffer,
    endpoint::Endpoint,
    forward::{self, RequestFacts, ResponseFacts},
    head::{BadResponse, ResponseHead, may_be_complete},
    retry::{Failure, History, is_idempotent, may_repeat},
    service::{HowTried, Tried, Wish},
    timer::Timer,
};

/// The cookie of sticky routes.
const COOKIE: &str = "_backend";

/// What is known of a request once its head is written for the backend.
struct Request {
    is_head: bool,
    is_http_10: bool,
    keeps_alive: bool,
    wants_upgrade: bool,
    is_idempotent: bool,
    /// The body, if it was not there as a whole.
    streamed: Option<Body>,
    /// What the client's cookie says, on a sticky route.
    sticky: Option<String>,
}

/// How an attempt ended.
enum Outcome {
    /// The answer was passed on to its end.
    Done {
        client_stays: bool,
        backend_stays: bool,
    },
    /// The backend changed protocols.
    Upgraded,
    /// Nothing of an answer was passed on.
    Failed(Failure),
    /// The answer was cut short by the backend.
    Broken,
    /// The client went away, or broke the rules of its body.
    Client(ClientFault),
}

#[derive(Debug, Clone, Copy)]
enum ClientFault {
    Gone,
    BadBody,
    SlowBody,
}

/// What the two directions of an exchange tell each other.
#[derive(Default)]
struct Progress {
    /// The system took some bytes of the request.
    was_sent: AtomicBool,
    /// The whole request is sent.
    is_sent: AtomicBool,
    /// Something of an answer went to the client.
    was_answered: AtomicBool,
}

impl Connection {
    /// Passes the request on and the answer back, to one backend after the other where that is safe.
    pub(super) async fn forward(&mut self, target: &Arc<HttpTarget>, access: &mut Access) -> Next {
        let Ok(request) = self.prepare(target) else {
            self.proxy.counters.refused.add();
            let why = "the body of the request is not in chunks as announced";
            return self.answer(access, 400, why, false).await;
        };
        let is_read = request.streamed.is_none();
        let mut tried = Tried::default();
        let mut history = History {
            is_idempotent: request.is_idempotent,
            is_replayable: is_read,
            was_answered: false,
            attempts: 0,
            sent: 0,
            spent: Duration::ZERO,
        };
        let mut last = None;
        loop {
            let now = Instant::now();
            let view = target.service.view();
            let wish = Wish {
                leader: target.leader,
                sticky: request.sticky.as_deref(),
                random: rand::random(),
                now,
            };
            let Some(endpoint) = view.choose(wish, &tried) else {
                return self
                    .no_backend(target, access, view.is_empty(), last, is_read)
                    .await;
            };
            if history.attempts > 0 {
                self.proxy.counters.retries.add();
            }
            history.attempts += 1;
            access.backend = Some(Arc::clone(&endpoint));
            let in_flight = endpoint.begin();
            // After one dead connection the others of the pool are not trusted with this request.
            let may_reuse = !target.disable_keep_alives && tried.is_empty();
            let idle = may_reuse.then(|| endpoint.take_idle(now)).flatten();
            let mut backend = match idle {
                Some(backend) => backend,
                None => match connect(&self.proxy, &endpoint).await {
                    Ok(backend) => backend,
                    Err(_) => {
                        tried.push(endpoint, HowTried::Refused);
                        last = Some(Failure::Connect);
                        history.spent = access.started.elapsed();
                        if may_repeat(Failure::Connect, &history) {
                            continue;
                        }
                        return self.no_backend(target, access, false, last, is_read).await;
                    }
                },
            };
            let progress = Progress::default();
            let outcome = self
                .attempt(&mut backend, &endpoint, &request, &progress, access)
                .await;
            match outcome {
                Outcome::Done {
                    client_stays,
                    backend_stays,
                } => {
                    if backend_stays && !target.disable_keep_alives {
                        endpoint.keep_idle(backend, Instant::now());
                    }
                    return if client_stays {
                        Next::Request
                    } else {
                        Next::Close
                    };
                }
                Outcome::Upgraded => {
                    self.proxy.counters.upgrades.add();
                    let (down, up) = (&mut self.down, &mut self.up);
                    let joined = upgrade::join(&mut self.stream, &mut backend, down, up).await;
                    drop(in_flight);
                    return if joined.is_ok() {
                        Next::Close
                    } else {
                        Next::Abort
                    };
                }
                Outcome::Failed(failure) => {
                    drop(backend);
                    let was_sent = progress.was_sent.load(Ordering::Relaxed);
                    history.sent += u32::from(was_sent);
                    history.was_answered = progress.was_answered.load(Ordering::Relaxed);
                    history.spent = access.started.elapsed();
                    endpoint.distrust_idle();
                    tried.push(Arc::clone(&endpoint), HowTried::Lost);
                    last = Some(failure);
                    if may_repeat(failure, &history) {
                        continue;
                    }
                    return self
                        .failed(failure, access, history.was_answered, is_read)
                        .await;
                }
                Outcome::Broken => {
                    self.proxy.counters.bad_gateway.add();
                    return Next::Abort;
                }
                Outcome::Client(fault) => {
                    let was_answered = progress.was_answered.load(Ordering::Relaxed);
                    return self.client_fault(fault, access, was_answered).await;
                }
            }
        }
    }

    /// Writes the request for the backend into `out`, with the body if that is there as a whole.
    fn prepare(&mut self, target: &HttpTarget) -> Result<Request, crate::body::BadChunk> {
        let bytes = self.down.bytes();
        let head = &self.head;
        let method = &bytes[head.method.clone()];
        let sticky = target
            .sticky
            .then(|| forward::cookie(&head.fields, bytes, COOKIE));
        let mut request = Request {
            is_head: method == b"HEAD",
            is_http_10: head.is_http_10,
            keeps_alive: head.keeps_alive(),
            wants_upgrade: head.upgrade(bytes).is_some(),
            is_idempotent: is_idempotent(method),
            streamed: None,
            sticky: sticky.map(|cookie| cookie.unwrap_or_default().to_owned()),
        };
        let facts = RequestFacts {
            client: &self.client,
            port: &self.port,
            scheme: "http",
            request_id: &self.id,
            started_ms: unix_millis(),
            close: target.disable_keep_alives,
        };
        self.out.clear();
        forward::write_request(&mut self.out, head, bytes, &facts);
        let rest = &bytes[head.len..];
        let body = Body::new(head.framing);
        let mut probe = body.clone();
        let there = probe.scan(rest)?;
        let mut used = head.len;
        if probe.is_done() {
            self.out.extend_from_slice(&rest[..there]);
            used += there;
        } else {
            request.streamed = Some(body);
        }
        self.down.consume(used);
        Ok(request)
    }

    /// Sends the request and passes the answer on, both at once: an answer may come before the request is complete.
    async fn attempt(
        &mut self,
        backend: &mut TcpStream,
        endpoint: &Endpoint,
        request: &Request,
        progress: &Progress,
        access: &mut Access,
    ) -> Outcome {
        // What another connection said too much is no answer to this request.
        self.up.consume(self.up.len());
        let (mut client_read, mut client_write) = self.stream.split();
        let (mut backend_read, mut backend_write) = backend.split();
        let limits = &self.proxy.limits;
        let mut sending = Sending {
            from: &mut client_read,
            to: &mut backend_write,
            down: &mut self.down,
            head: &self.out,
            body: request.streamed.clone(),
            idle_timeout: limits.idle_timeout,
            progress,
        };
        let mut receiving = Receiving {
            proxy: &self.proxy,
            from: &mut backend_read,
            to: &mut client_write,
            up: &mut self.up,
            reply: &mut self.reply,
            response: &mut self.response,
            timer: &mut self.timer,
            request,
            endpoint,
            progress,
            access,
        };
        let outcome = tokio::select! {
            biased;
            fault = sending.run() => Outcome::Client(fault),
            outcome = receiving.run() => outcome,
        };
        match outcome {
            Outcome::Done {
                backend_stays,
                client_stays,
            } => Outcome::Done {
                backend_stays: backend_stays && self.up.is_empty(),
                client_stays,
            },
            other => other,
        }
    }

    async fn no_backend(
        &mut self,
        target: &HttpTarget,
        access: &mut Access,
        is_empty: bool,
        last: Option<Failure>,
        is_read: bool,
    ) -> Next {
        let service = target.service.name();
        let sentence = match (last, target.leader) {
            (Some(Failure::Connect), _) => {
                format!("no backend of service {service} accepts connections")
            }
            (Some(failure), _) => return self.failed(failure, access, false, is_read).await,
            (None, true) if !is_empty => format!("service {service} has no leader"),
            (None, _) => format!("service {service} has no backends"),
        };
        self.proxy.counters.no_backend.add();
        self.answer(access, 503, &sentence, is_read).await
    }

    async fn failed(
        &mut self,
        failure: Failure,
        access: &mut Access,
        was_answered: bool,
        is_read: bool,
    ) -> Next {
        let counters = &self.proxy.counters;
        let (status, sentence) = match failure {
            Failure::Connect => (503, "no backend accepts connections"),
            Failure::Closed { .. } => (502, "the backend ended the connection without an answer"),
            Failure::TimedOut => (504, "the backend did not answer in time"),
            Failure::BadResponse => (
                502,
                "the backend answered with something that is not an HTTP response",
            ),
        };
        match status {
            502 => counters.bad_gateway.add(),
            503 => counters.no_backend.add(),
            _ => counters.timeouts.add(),
        }
        // After an interim response another status is still a good answer.
        let _ = was_answered;
        self.answer(access, status, sentence, is_read).await
    }

    async fn client_fault(
        &mut self,
        fault: ClientFault,
        access: &mut Access,
        was_answered: bool,
    ) -> Next {
        let counters = &self.proxy.counters;
        let (status, sentence) = match fault {
            ClientFault::Gone => {
                counters.client_gone.add();
                if !was_answered {
                    access.status = 499;
                }
                return Next::Abort;
            }
            ClientFault::BadBody => (400, "the body of the request is not in chunks as announced"),
            ClientFault::SlowBody => (408, "the body of the request did not arrive in time"),
        };
        counters.refused.add();
        if was_answered {
            return Next::Abort;
        }
        self.answer(access, status, sentence, false).await
    }
}

/// From the client to the backend.
struct Sending<'a, 's> {
    from: &'a mut ReadHalf<'s>,
    to: &'a mut WriteHalf<'s>,
    down: &'a mut Buffer,
    head: &'a [u8],
    body: Option<Body>,
    idle_timeout: Duration,
    progress: &'a Progress,
}

impl Sending<'_, '_> {
    /// Sends all of the request, then watches the client. Ends only with a fault of the client: what goes wrong with the
    /// backend is seen, with an answer that may have come before, by whoever reads from it.
    async fn run(&mut self) -> ClientFault {
        /// How much of the next request is read while this one is answered.
        const AHEAD: usize = Buffer::SMALL;
        if self.send_head().await.is_err() {
            return pending().await;
        }
        if let Some(body) = self.body.take() {
            match self.send_body(body).await {
                Ok(()) => {}
                Err(Some(fault)) => return fault,
                Err(None) => return pending().await,
            }
        }
        self.progress.is_sent.store(true, Ordering::Relaxed);
        while self.down.len() < AHEAD {
            match self.down.fill(self.from, AHEAD).await {
                Ok(0) | Err(_) => return ClientFault::Gone,
                Ok(_) => {}
            }
        }
        pending().await
    }

    async fn send_head(&mut self) -> io::Result<()> {
        let mut rest = self.head;
        while !rest.is_empty() {
            let n = self.to.write(rest).await?;
            if n == 0 {
                return Err(io::ErrorKind::WriteZero.into());
            }
            self.progress.was_sent.store(true, Ordering::Relaxed);
            rest = &rest[n..];
        }
        Ok(())
    }

    /// `Err(None)`: the backend takes no more.
    async fn send_body(&mut self, mut body: Body) -> Result<(), Option<ClientFault>> {
        let mut timer = Timer::new();
        let mut last = 0;
        while !body.is_done() {
            if self.down.is_empty() {
                let fill = self.down.fill_after(self.from, last);
                match timer.limit(self.idle_timeout, fill).await {
                    Ok(Ok(0) | Err(_)) => return Err(Some(ClientFault::Gone)),
                    Ok(Ok(n)) => last = n,
                    Err(_) => return Err(Some(ClientFault::SlowBody)),
                }
            }
            let n = body
                .scan(self.down.bytes())
                .map_err(|_| Some(ClientFault::BadBody))?;
            let sent = self.to.write_all(&self.down.bytes()[..n]).await;
            sent.map_err(|_| None)?;
            self.down.consume(n);
        }
        Ok(())
    }
}

/// From the backend to the client.
struct Receiving<'a, 's> {
    proxy: &'a Proxy,
    from: &'a mut ReadHalf<'s>,
    to: &'a mut WriteHalf<'s>,
    up: &'a mut Buffer,
    reply: &'a mut Vec<u8>,
    response: &'a mut ResponseHead,
    timer: &'a mut Timer,
    request: &'a Request,
    endpoint: &'a Endpoint,
    progress: &'a Progress,
    access: &'a mut Access,
}

impl Receiving<'_, '_> {
    async fn run(&mut self) -> Outcome {
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

/// The time of day, for `X-Request-Start`.
#[expect(
    clippy::disallowed_methods,
    reason = "a header with wall time is what is asked for"
)]
fn unix_millis() -> u128 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    since.unwrap_or_default().as_millis()
}
