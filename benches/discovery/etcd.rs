//! The peer: three etcd processes, asked over gRPC by a client of our own, so that no protocol compiler is needed.
//!
//! The messages are the few fields these cases need; the client multiplexes on several HTTP/2 connections per member,
//! which is etcd's fast path.

use std::{
    net::SocketAddr,
    path::Path,
    process::{Command, Stdio},
    time::Duration,
};

use anyhow::{Context as _, Result, bail, ensure};
use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use flynn_benches::{Program, free_port, version};
use futures::{FutureExt as _, future::BoxFuture};
use h2::{RecvStream, SendStream, client::SendRequest};
use http::{HeaderMap, Request};
use prost::Message;
use tokio::{net::TcpStream, sync::mpsc};

use crate::load::Store;

const CONNECTIONS_PER_MEMBER: usize = 4;

pub(crate) struct Etcd {
    name: String,
    /// They end with this value.
    _programs: Vec<Program>,
    connections: Vec<SendRequest<Bytes>>,
}

impl Etcd {
    pub(crate) async fn start(dir: &Path) -> Result<Self> {
        let mut members = Vec::new();
        for i in 0..3 {
            members.push((format!("etcd-{i}"), free_port()?, free_port()?));
        }
        let cluster: Vec<String> = members
            .iter()
            .map(|(name, _, peer)| format!("{name}=http://127.0.0.1:{peer}"))
            .collect();
        // All of them at once: each listens only when a majority is there.
        let starts: Vec<_> = members
            .iter()
            .map(|(name, client, peer)| {
                let client_url = format!("http://127.0.0.1:{client}");
                let peer_url = format!("http://127.0.0.1:{peer}");
                let mut command = Command::new("etcd");
                command
                    .args(["--name", name, "--logger", "zap", "--log-level", "error"])
                    .arg("--data-dir")
                    .arg(dir.join(name))
                    .args(["--listen-client-urls", &client_url])
                    .args(["--advertise-client-urls", &client_url])
                    .args(["--listen-peer-urls", &peer_url])
                    .args(["--initial-advertise-peer-urls", &peer_url])
                    .args(["--initial-cluster", &cluster.join(",")])
                    .args(["--quota-backend-bytes", "8589934592"])
                    .stdout(Stdio::null())
                    .stderr(Stdio::null());
                let addr = SocketAddr::from(([127, 0, 0, 1], *client));
                tokio::task::spawn_blocking(move || {
                    Program::start(&mut command, addr).map(|program| (program, addr))
                })
            })
            .collect();
        let mut etcd = Self {
            name: version("etcd", "--version").unwrap_or_else(|_| "etcd".to_owned()),
            _programs: Vec::new(),
            connections: Vec::new(),
        };
        let mut addrs = Vec::new();
        for start in starts {
            let (program, addr) = start.await??;
            etcd._programs.push(program);
            addrs.push(addr);
        }
        for _ in 0..CONNECTIONS_PER_MEMBER {
            for addr in &addrs {
                etcd.connections.push(connect(*addr).await?);
            }
        }
        for i in 0..50 {
            if etcd.put(i, "ready".to_owned(), Vec::new()).await.is_ok() {
                return Ok(etcd);
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        bail!("etcd has no leader")
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Connections are in the order of members, so that neighbours ask different ones.
    fn of(&self, client: usize) -> SendRequest<Bytes> {
        self.connections[client % self.connections.len()].clone()
    }

    async fn call<Q: Message, A: Message + Default>(
        &self,
        client: usize,
        method: &str,
        request: Q,
    ) -> Result<A> {
        let (_sender, mut answers) = open(self.of(client), method, &request, true).await?;
        answers.next().await?.context("no answer")
    }
}

impl Store for Etcd {
    fn put(&self, client: usize, key: String, value: Vec<u8>) -> BoxFuture<'_, Result<()>> {
        async move {
            let request = PutRequest {
                key: key.into_bytes(),
                value,
            };
            let answer: PutResponse = self.call(client, "KV/Put", request).await?;
            ensure!(answer.header.is_some(), "an answer without a header");
            Ok(())
        }
        .boxed()
    }

    fn get(&self, client: usize, key: String) -> BoxFuture<'_, Result<()>> {
        async move {
            let request = RangeRequest {
                key: key.into_bytes(),
            };
            let answer: RangeResponse = self.call(client, "KV/Range", request).await?;
            ensure!(answer.count == 1, "the key was written");
            Ok(())
        }
        .boxed()
    }

    fn watch(&self, watcher: usize, seen: mpsc::Sender<usize>) -> BoxFuture<'_, Result<()>> {
        async move {
            let request = WatchRequest {
                create: Some(WatchCreate {
                    key: b"watched/".to_vec(),
                    range_end: b"watched0".to_vec(),
                }),
            };
            let (sender, mut answers) =
                open(self.of(watcher), "Watch/Watch", &request, false).await?;
            let first: WatchResponse = answers.next().await?.context("a watch begins")?;
            ensure!(first.created, "with a confirmation");
            tokio::spawn(async move {
                let _sender = sender; // its end would end the watch
                while let Ok(Some(answer)) = answers.next::<WatchResponse>().await {
                    for _ in answer.events {
                        if seen.send(watcher).await.is_err() {
                            return;
                        }
                    }
                }
            });
            Ok(())
        }
        .boxed()
    }
}

async fn connect(addr: SocketAddr) -> Result<SendRequest<Bytes>> {
    let stream = TcpStream::connect(addr).await?;
    stream.set_nodelay(true)?;
    let (requests, connection) = h2::client::Builder::new()
        .initial_window_size(1 << 24)
        .initial_connection_window_size(1 << 28)
        .handshake(stream)
        .await?;
    tokio::spawn(connection);
    Ok(requests)
}

/// Starts a call with its first, and if `is_last` only, message.
async fn open(
    requests: SendRequest<Bytes>,
    method: &str,
    message: &impl Message,
    is_last: bool,
) -> Result<(SendStream<Bytes>, Answers)> {
    let request = Request::post(format!("http://etcd/etcdserverpb.{method}"))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(())?;
    let mut requests = requests.ready().await?;
    let (response, mut sender) = requests.send_request(request, false)?;
    let mut frame = BytesMut::with_capacity(5 + message.encoded_len());
    frame.put_u8(0);
    frame.put_u32(u32::try_from(message.encoded_len())?);
    message.encode(&mut frame)?;
    sender.send_data(frame.freeze(), is_last)?;
    let response = response.await?;
    check(response.headers())?;
    let answers = Answers {
        body: response.into_body(),
        buffer: BytesMut::new(),
    };
    Ok((sender, answers))
}

/// The messages of one answer.
struct Answers {
    body: RecvStream,
    buffer: BytesMut,
}

impl Answers {
    async fn next<A: Message + Default>(&mut self) -> Result<Option<A>> {
        loop {
            if self.buffer.len() >= 5 {
                let len = u32::from_be_bytes(self.buffer[1..5].try_into()?) as usize;
                if self.buffer.len() >= 5 + len {
                    self.buffer.advance(5);
                    return Ok(Some(A::decode(self.buffer.split_to(len))?));
                }
            }
            let Some(data) = self.body.data().await else {
                if let Some(trailers) = self.body.trailers().await? {
                    check(&trailers)?;
                }
                return Ok(None);
            };
            let data = data?;
            self.body.flow_control().release_capacity(data.len())?;
            self.buffer.extend_from_slice(&data);
        }
    }
}

fn check(headers: &HeaderMap) -> Result<()> {
    match headers.get("grpc-status") {
        Some(status) if status != "0" => bail!(
            "etcd: {:?}",
            headers.get("grpc-message").map(http::HeaderValue::as_bytes)
        ),
        Some(_) | None => Ok(()),
    }
}

#[derive(Clone, PartialEq, Message)]
struct PutRequest {
    #[prost(bytes = "vec", tag = "1")]
    key: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    value: Vec<u8>,
}

#[derive(Clone, PartialEq, Message)]
struct PutResponse {
    #[prost(message, optional, tag = "1")]
    header: Option<Header>,
}

#[derive(Clone, PartialEq, Message)]
struct Header {
    #[prost(int64, tag = "3")]
    revision: i64,
}

/// Linearizable by default.
#[derive(Clone, PartialEq, Message)]
struct RangeRequest {
    #[prost(bytes = "vec", tag = "1")]
    key: Vec<u8>,
}

#[derive(Clone, PartialEq, Message)]
struct RangeResponse {
    #[prost(int64, tag = "4")]
    count: i64,
}

#[derive(Clone, PartialEq, Message)]
struct WatchRequest {
    #[prost(message, optional, tag = "1")]
    create: Option<WatchCreate>,
}

#[derive(Clone, PartialEq, Message)]
struct WatchCreate {
    #[prost(bytes = "vec", tag = "1")]
    key: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    range_end: Vec<u8>,
}

#[derive(Clone, PartialEq, Message)]
struct WatchResponse {
    #[prost(bool, tag = "3")]
    created: bool,
    #[prost(message, repeated, tag = "11")]
    events: Vec<Event>,
}

#[derive(Clone, PartialEq, Message)]
struct Event {
    #[prost(int32, tag = "1")]
    kind: i32,
}
