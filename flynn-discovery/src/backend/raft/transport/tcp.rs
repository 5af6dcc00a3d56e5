//! Members over TCP: one stream to each peer for frames, another for each snapshot.

mod snapshots;
#[cfg(test)]
mod tests;

use std::{collections::HashMap, sync::Arc, time::Duration};

use bytes::{BufMut, Bytes, BytesMut};
use futures::StreamExt;
use parking_lot::Mutex;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::{Semaphore, mpsc},
    task::JoinSet,
    time::{sleep, timeout},
};
use tokio_util::{
    codec::{FramedRead, LengthDelimitedCodec},
    sync::CancellationToken,
};

use super::{
    Inbox, Local, MAX_FRAME_BYTES, SnapshotFrame, Transport,
    handshake::{Greeted, Greeter, Purpose, Welcome},
};
use crate::{
    Backoff, Error, Result, Secret,
    backend::raft::{
        member::{MemberId, Peer},
        wire::Frame,
    },
};

/// Members over TCP. Each proves to the other that it has the cluster's token; what they say is not encrypted.
#[derive(Debug)]
pub struct TcpTransport {
    /// Taken when the transport starts.
    listener: Mutex<Option<TcpListener>>,
    token: Secret,
    /// Set when the transport starts.
    running: Mutex<Option<Running>>,
}

#[derive(Debug)]
struct Running {
    greeter: Arc<Greeter>,
    inbox: Inbox,
    runtime: tokio::runtime::Handle,
    peers: HashMap<MemberId, Outgoing>,
    stop: CancellationToken,
}

/// The way to one peer; dropping it ends its task.
#[derive(Debug)]
struct Outgoing {
    addr: String,
    queue: mpsc::Sender<Bytes>,
}

impl TcpTransport {
    /// A transport that listens where the caller bound, for members with this token.
    #[must_use]
    pub fn new(listener: TcpListener, token: Secret) -> Self {
        Self {
            listener: Mutex::new(Some(listener)),
            token,
            running: Mutex::default(),
        }
    }
}

impl Transport for TcpTransport {
    fn start(&self, local: Local, inbox: Inbox) {
        let Some(listener) = self.listener.lock().take() else {
            return;
        };
        let greeter = Arc::new(Greeter::new(local, self.token.clone()));
        let stop = CancellationToken::new();
        let listening = listen(listener, Arc::clone(&greeter), inbox.clone());
        tokio::spawn(stop.clone().run_until_cancelled_owned(listening));
        *self.running.lock() = Some(Running {
            greeter,
            inbox,
            runtime: tokio::runtime::Handle::current(),
            peers: HashMap::new(),
            stop,
        });
    }

    fn set_peers(&self, peers: &[Peer], removed: &[MemberId]) {
        let mut running = self.running.lock();
        let Some(running) = running.as_mut() else {
            return;
        };
        running.greeter.set_removed(removed);
        let is_same = |id: &MemberId, outgoing: &mut Outgoing| {
            peers
                .iter()
                .any(|peer| peer.id == *id && peer.addr == outgoing.addr)
        };
        running.peers.retain(is_same);
        for Peer { id, addr } in peers {
            if running.peers.contains_key(id) {
                continue;
            }
            let (queue, frames) = mpsc::channel(MAX_QUEUED_FRAMES);
            let link = Link {
                peer: *id,
                addr: addr.clone(),
                greeter: Arc::clone(&running.greeter),
                inbox: running.inbox.clone(),
            };
            let task = link.run(frames);
            running
                .runtime
                .spawn(running.stop.clone().run_until_cancelled_owned(task));
            let addr = addr.clone();
            running.peers.insert(*id, Outgoing { addr, queue });
        }
    }

    fn send(&self, to: MemberId, frame: Bytes) {
        let running = self.running.lock();
        let Some(running) = running.as_ref() else {
            return;
        };
        let is_queued = running
            .peers
            .get(&to)
            .is_some_and(|peer| peer.queue.try_send(frame).is_ok());
        if !is_queued {
            running.inbox.unreachable(to);
        }
    }

    fn send_snapshot(&self, to: MemberId, snapshot: SnapshotFrame) {
        let running = self.running.lock();
        let Some(running) = running.as_ref() else {
            return;
        };
        let Some(peer) = running.peers.get(&to) else {
            running.inbox.snapshot_sent(to, false);
            return;
        };
        let (greeter, inbox) = (Arc::clone(&running.greeter), running.inbox.clone());
        let addr = peer.addr.clone();
        let sending = async move {
            let result = snapshots::send(&greeter, to, &addr, snapshot).await;
            if let Err(error) = &result {
                tracing::warn!(peer = %to, %addr, %error, "snapshot was not delivered");
            }
            inbox.snapshot_sent(to, result.is_ok());
        };
        running
            .runtime
            .spawn(running.stop.clone().run_until_cancelled_owned(sending));
    }

    fn stop(&self) {
        if let Some(running) = self.running.lock().take() {
            running.stop.cancel();
        }
    }
}

impl Drop for TcpTransport {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Accepts connections until it is dropped, and its connections with it.
async fn listen(listener: TcpListener, greeter: Arc<Greeter>, inbox: Inbox) {
    let mut connections = JoinSet::new();
    let slots = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        while connections.try_join_next().is_some() {}
        let (stream, addr) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, "accept failed");
                sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let Ok(slot) = Arc::clone(&slots).try_acquire_owned() else {
            tracing::warn!(%addr, "too many connections; refused");
            continue;
        };
        let (greeter, inbox) = (Arc::clone(&greeter), inbox.clone());
        connections.spawn(async move {
            let _ = stream.set_nodelay(true);
            match serve(stream, &greeter, &inbox).await {
                Ok(()) => {}
                Err(error @ Error::Denied { .. }) => {
                    tracing::warn!(%addr, %error, "connection refused");
                }
                Err(error) => tracing::debug!(%addr, %error, "connection ended"),
            }
            drop(slot);
        });
    }
}

/// Takes in what one peer says, until it stops.
async fn serve<S: AsyncRead + AsyncWrite + Unpin + Send>(
    mut stream: S,
    greeter: &Greeter,
    inbox: &Inbox,
) -> Result<()> {
    let Greeted {
        peer,
        incarnation,
        purpose,
    } = greeter.accept(&mut stream).await?;
    let result = match purpose {
        Purpose::Frames => receive(stream, peer, incarnation, greeter, inbox).await,
        Purpose::Snapshot => receive_snapshot(stream, peer, incarnation, greeter, inbox).await,
    };
    greeter.lost(peer, incarnation);
    result
}

async fn receive_snapshot<S: AsyncRead + AsyncWrite + Unpin + Send>(
    mut stream: S,
    peer: MemberId,
    incarnation: u64,
    greeter: &Greeter,
    inbox: &Inbox,
) -> Result<()> {
    let alive = || greeter.hears(peer, incarnation);
    let snapshot = snapshots::receive(&mut stream, alive).await?;
    inbox.deliver_snapshot(peer, snapshot)?;
    snapshots::acknowledge(&mut stream).await
}

async fn receive<S: AsyncRead + Unpin + Send>(
    stream: S,
    peer: MemberId,
    incarnation: u64,
    greeter: &Greeter,
    inbox: &Inbox,
) -> Result<()> {
    let mut frames = FramedRead::with_capacity(stream, codec(MAX_FRAME_BYTES), READ_BYTES);
    let mut heard = tokio::time::Instant::now();
    if !greeter.hears(peer, incarnation) {
        return Ok(());
    }
    loop {
        let frame = match timeout(SILENCE, frames.next()).await {
            Ok(Some(frame)) => frame.map_err(|e| protocol(&e))?,
            Ok(None) => return Ok(()),
            Err(_) => return Err(protocol(&"silence")),
        };
        inbox.deliver(peer, frame.freeze())?;
        // Not for every frame: it takes a lock.
        if heard.elapsed() > PING {
            heard = tokio::time::Instant::now();
            if !greeter.hears(peer, incarnation) {
                return Ok(());
            }
        }
    }
}

/// Keeps a connection to one peer, and sends what is queued.
struct Link {
    peer: MemberId,
    addr: String,
    greeter: Arc<Greeter>,
    inbox: Inbox,
}

impl Link {
    async fn run(self, mut frames: mpsc::Receiver<Bytes>) {
        let mut backoff = self.backoff();
        let mut last_error = String::new();
        loop {
            let (peer, addr) = (self.peer, &self.addr);
            match connect(&self.greeter, peer, addr, Purpose::Frames).await {
                Ok((_, Welcome::Removed(why))) => {
                    if why != last_error {
                        tracing::warn!(%peer, %addr, %why, "removed from the cluster");
                        last_error.clone_from(&why);
                    }
                    self.inbox.refused(peer, Some(why));
                    self.inbox.removed(peer);
                }
                Ok((stream, Welcome::Accepted)) => {
                    tracing::debug!(%peer, %addr, "connected");
                    self.inbox.refused(peer, None);
                    last_error.clear();
                    backoff = self.backoff();
                    let (input, output) = tokio::io::split(stream);
                    tokio::select! {
                        is_over = send(output, &mut frames) => if is_over { return },
                        // The peer says nothing on this stream: it can only close it.
                        () = closed(input) => {}
                    }
                    self.inbox.unreachable(peer);
                }
                Err(error) => {
                    if let Error::Denied { why } = &error {
                        self.inbox.refused(peer, Some(why.clone()));
                    }
                    let text = error.to_string();
                    if text != last_error {
                        if matches!(error, Error::Denied { .. }) {
                            tracing::warn!(%peer, %addr, %error, "peer refused");
                        } else {
                            tracing::debug!(%peer, %addr, %error, "peer not reached");
                        }
                        last_error = text;
                    }
                }
            }
            // What waits is stale by the next connection; the consensus core sends it anew.
            loop {
                match frames.try_recv() {
                    Ok(_) => {}
                    Err(mpsc::error::TryRecvError::Empty) => break,
                    Err(mpsc::error::TryRecvError::Disconnected) => return,
                }
            }
            let pause = backoff.next().unwrap_or(RECONNECT_MAX);
            tokio::select! {
                () = sleep(pause) => {}
                () = frames_closed(&mut frames) => return,
            }
        }
    }

    fn backoff(&self) -> Backoff {
        Backoff::new(RECONNECT_MIN, RECONNECT_MAX)
    }
}

/// Drops frames while there is no connection; returns when nobody sends any more.
async fn frames_closed(frames: &mut mpsc::Receiver<Bytes>) {
    while frames.recv().await.is_some() {}
}

async fn connect(
    greeter: &Greeter,
    peer: MemberId,
    addr: &str,
    purpose: Purpose,
) -> Result<(TcpStream, Welcome)> {
    let mut stream = timeout(CONNECT, TcpStream::connect(addr))
        .await
        .map_err(|_| protocol(&"connecting took too long"))?
        .map_err(|e| protocol(&e))?;
    stream.set_nodelay(true).map_err(|e| protocol(&e))?;
    let welcome = greeter.connect(&mut stream, peer, purpose).await?;
    Ok((stream, welcome))
}

/// Writes what is queued, all of it with one call to the system; `true` when nobody queues any more.
async fn send<W: AsyncWrite + Unpin + Send>(
    mut output: W,
    frames: &mut mpsc::Receiver<Bytes>,
) -> bool {
    let mut buffer = BytesMut::new();
    let mut taken = Vec::with_capacity(FRAMES_PER_WRITE);
    loop {
        match timeout(PING, frames.recv_many(&mut taken, FRAMES_PER_WRITE)).await {
            Ok(0) => return true,
            Ok(_) => {}
            Err(_) => taken.push(Frame::Ping.encode()),
        }
        for frame in taken.drain(..) {
            buffer.put_u32(u32::try_from(frame.len()).unwrap_or(u32::MAX));
            buffer.put_slice(&frame);
        }
        match timeout(STALL, output.write_all_buf(&mut buffer)).await {
            Ok(Ok(())) => {}
            Ok(Err(_)) | Err(_) => return false,
        }
        if buffer.capacity() > KEPT_BUFFER_BYTES {
            buffer = BytesMut::new();
        }
    }
}

async fn closed<R: AsyncRead + Unpin + Send>(mut input: R) {
    let mut byte = [0];
    let _ = input.read(&mut byte).await;
}

fn codec(max_frame: usize) -> LengthDelimitedCodec {
    LengthDelimitedCodec::builder()
        .max_frame_length(max_frame)
        .new_codec()
}

fn protocol(error: &dyn std::fmt::Display) -> Error {
    Error::Protocol {
        why: format!("the connection failed: {error}"),
    }
}

/// Frames that wait for one peer; more are dropped, and sent again by the consensus core.
const MAX_QUEUED_FRAMES: usize = 4096;

/// Frames written at a time.
const FRAMES_PER_WRITE: usize = 256;

/// A write buffer larger than this is given back.
const KEPT_BUFFER_BYTES: usize = 1 << 20;

const READ_BYTES: usize = 64 << 10;

/// Incoming connections at a time.
const MAX_CONNECTIONS: usize = 256;

const CONNECT: Duration = Duration::from_secs(2);

/// An idle connection says something this often.
const PING: Duration = Duration::from_secs(1);

/// A connection that says nothing for so long is dead.
const SILENCE: Duration = Duration::from_secs(5);

/// A peer that takes nothing in for so long is dead.
const STALL: Duration = Duration::from_secs(5);

const RECONNECT_MIN: Duration = Duration::from_millis(20);
const RECONNECT_MAX: Duration = Duration::from_secs(1);
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
