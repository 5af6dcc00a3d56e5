//! A request and its answer.

mod receiving;
mod sending;

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, SystemTime},
};

use tokio::{net::TcpStream, time::Instant};

use self::{receiving::Receiving, sending::Sending};
use super::{
    HttpTarget,
    access::Access,
    connect::connect,
    http::{Connection, Next},
    upgrade,
};
use crate::{
    body::Body,
    endpoint::Endpoint,
    forward::{self, RequestFacts},
    retry::{Failure, History, is_idempotent, may_repeat},
    service::{HowTried, Tried, Wish},
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
                    return self.failed(failure, access, is_read).await;
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
            (Some(failure), _) => return self.failed(failure, access, is_read).await,
            (None, true) if !is_empty => format!("service {service} has no leader"),
            (None, _) => format!("service {service} has no backends"),
        };
        self.proxy.counters.no_backend.add();
        self.answer(access, 503, &sentence, is_read).await
    }

    async fn failed(&mut self, failure: Failure, access: &mut Access, is_read: bool) -> Next {
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

/// The time of day, for `X-Request-Start`.
#[expect(
    clippy::disallowed_methods,
    reason = "a header with wall time is what is asked for"
)]
fn unix_millis() -> u128 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    since.unwrap_or_default().as_millis()
}
