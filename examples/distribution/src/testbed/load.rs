//! Clients that know several router addresses and try the next when one refuses, as a browser with several address records does.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use anyhow::{Result, bail};
use bytes::Bytes;
use http_body_util::{BodyExt as _, Empty};
use hyper::{Request, client::conn::http1};
use hyper_util::rt::TokioIo;
use tokio::{
    net::TcpStream,
    task::JoinSet,
    time::{Instant, sleep, timeout},
};

/// What a load run saw.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Report {
    /// Requests made.
    pub requests: u64,
    /// Requests that did not get a 200, in spite of all addresses being tried.
    pub failed: u64,
    /// The slowest, from the first attempt to the end of the body.
    pub slowest: Duration,
    /// The median.
    pub median: Duration,
    /// The 99th percentile.
    pub p99: Duration,
    /// How often another address was tried because one refused or broke the connection.
    pub switched: u64,
    /// What went wrong first, if anything did.
    pub first_failure: Option<String>,
}

/// A running load.
#[derive(Debug)]
pub struct Load {
    stop: Arc<AtomicBool>,
    clients: JoinSet<Client>,
}

/// One request in how many, and how often.
#[derive(Debug, Clone)]
pub struct LoadOptions {
    /// The routers' addresses.
    pub addrs: Vec<String>,
    /// The Host header.
    pub host: String,
    /// The path.
    pub path: String,
    /// Clients side by side, each with one connection.
    pub clients: usize,
    /// The pause of a client between two requests.
    pub pause: Duration,
}

impl Load {
    /// Starts the clients. They end when the load is finished or dropped.
    #[must_use]
    pub fn start(options: &LoadOptions) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let mut clients = JoinSet::new();
        for n in 0..options.clients {
            let client = Client {
                address: n % options.addrs.len(),
                options: options.clone(),
                connection: None,
                report: Report::default(),
                times: Vec::new(),
            };
            clients.spawn(client.run(Arc::clone(&stop)));
        }
        Self { stop, clients }
    }

    /// Lets every client finish its request and adds up what they saw.
    pub async fn finish(mut self) -> Report {
        self.stop.store(true, Ordering::Relaxed);
        let mut sum = Report::default();
        let mut times = Vec::new();
        while let Some(client) = self.clients.join_next().await {
            match client {
                Ok(client) => {
                    sum.requests += client.report.requests;
                    sum.failed += client.report.failed;
                    sum.switched += client.report.switched;
                    sum.first_failure = sum.first_failure.or(client.report.first_failure);
                    times.extend(client.times);
                }
                Err(error) => {
                    sum.failed += 1;
                    sum.first_failure.get_or_insert_with(|| error.to_string());
                }
            }
        }
        times.sort_unstable();
        let at = |part: usize| {
            times
                .get((times.len().saturating_sub(1)) * part / 100)
                .copied()
                .unwrap_or_default()
        };
        sum.slowest = at(100);
        sum.median = at(50);
        sum.p99 = at(99);
        sum
    }
}

/// Asks once, trying each address in turn; the answer's status and body.
///
/// # Errors
///
/// When no address answers.
pub async fn get(addrs: &[String], host: &str, path: &str) -> Result<(u16, Bytes)> {
    let options = LoadOptions {
        addrs: addrs.to_vec(),
        host: host.to_owned(),
        path: path.to_owned(),
        clients: 1,
        pause: Duration::ZERO,
    };
    let mut client = Client {
        address: 0,
        options,
        connection: None,
        report: Report::default(),
        times: Vec::new(),
    };
    client.request().await
}

#[derive(Debug)]
struct Client {
    address: usize,
    options: LoadOptions,
    connection: Option<http1::SendRequest<Empty<Bytes>>>,
    report: Report,
    times: Vec<Duration>,
}

/// A client gives up on a request after this long.
const REQUEST_LIMIT: Duration = Duration::from_secs(10);
const CONNECT_LIMIT: Duration = Duration::from_secs(1);

impl Client {
    async fn run(mut self, stop: Arc<AtomicBool>) -> Self {
        while !stop.load(Ordering::Relaxed) {
            let started = Instant::now();
            let failure = match timeout(REQUEST_LIMIT, self.request()).await {
                Ok(Ok((200, _))) => None,
                Ok(Ok((status, body))) => Some(format!(
                    "status {status}: {}",
                    String::from_utf8_lossy(&body).trim()
                )),
                Ok(Err(error)) => Some(format!("{error:#}")),
                Err(_) => Some(format!("no answer within {REQUEST_LIMIT:?}")),
            };
            self.times.push(started.elapsed());
            self.report.requests += 1;
            if let Some(failure) = failure {
                self.report.failed += 1;
                self.report.first_failure.get_or_insert(failure);
                self.connection = None;
            }
            sleep(self.options.pause).await;
        }
        self
    }

    /// One GET. An address that refuses, or breaks the connection before it has answered in full, is left for the next: a
    /// GET may be asked again. A whole answer, good or bad, is final.
    async fn request(&mut self) -> Result<(u16, Bytes)> {
        let mut last = String::new();
        for _ in 0..=self.options.addrs.len() * 2 {
            match self.attempt().await {
                Ok(answer) => return Ok(answer),
                Err(error) => {
                    last = format!("{}: {error:#}", self.options.addrs[self.address]);
                    self.connection = None;
                    self.report.switched += 1;
                    self.address = (self.address + 1) % self.options.addrs.len();
                }
            }
        }
        bail!("no address answered; the last said {last}")
    }

    async fn attempt(&mut self) -> Result<(u16, Bytes)> {
        if self
            .connection
            .as_ref()
            .is_none_or(http1::SendRequest::is_closed)
        {
            let stream = timeout(
                CONNECT_LIMIT,
                TcpStream::connect(&self.options.addrs[self.address]),
            )
            .await??;
            stream.set_nodelay(true)?;
            let (sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
            // Ends with the connection, whose other end `sender` is.
            tokio::spawn(connection);
            self.connection = Some(sender);
        }
        let Some(sender) = &mut self.connection else {
            bail!("not connected")
        };
        sender.ready().await?;
        let request = Request::get(&self.options.path)
            .header("Host", &self.options.host)
            .body(Empty::new())?;
        let response = sender.send_request(request).await?;
        let status = response.status().as_u16();
        Ok((status, response.into_body().collect().await?.to_bytes()))
    }
}
