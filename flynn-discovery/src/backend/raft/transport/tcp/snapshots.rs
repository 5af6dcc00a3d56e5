//! Snapshots on a stream of their own: the message, the length, then the data in chunks, then an acknowledgement.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    time::timeout,
};

use super::{Greeter, MAX_FRAME_BYTES, Purpose, SnapshotFrame, Welcome, connect, protocol};
use crate::{Error, Result, backend::raft::member::MemberId};

pub(super) async fn send(
    greeter: &Greeter,
    to: MemberId,
    addr: &str,
    snapshot: SnapshotFrame,
) -> Result<()> {
    let (mut stream, welcome) = connect(greeter, to, addr, Purpose::Snapshot).await?;
    if let Welcome::Removed(why) = welcome {
        return Err(Error::Denied { why });
    }
    let mut head = BytesMut::new();
    head.extend_from_slice(
        &u32::try_from(snapshot.frame.len())
            .unwrap_or(u32::MAX)
            .to_be_bytes(),
    );
    head.extend_from_slice(&snapshot.frame);
    head.extend_from_slice(&(snapshot.data.len() as u64).to_be_bytes());
    step(stream.write_all(&head)).await?;
    for chunk in snapshot.data.chunks(CHUNK_BYTES) {
        step(stream.write_all(chunk)).await?;
    }
    step(stream.flush()).await?;
    let answer = step(stream.read_u8()).await?;
    if answer == ACKNOWLEDGED {
        Ok(())
    } else {
        Err(protocol(&"the snapshot was not acknowledged"))
    }
}

/// Receives a snapshot; `alive` is told of each chunk, and says whether to go on.
pub(super) async fn receive<S: AsyncRead + Unpin + Send>(
    stream: &mut S,
    alive: impl Fn() -> bool + Send,
) -> Result<SnapshotFrame> {
    let len = step(stream.read_u32()).await? as usize;
    if len > MAX_FRAME_BYTES {
        return Err(protocol(&"a snapshot's message is too long"));
    }
    let mut frame = vec![0; len];
    step(stream.read_exact(&mut frame)).await?;
    let len = step(stream.read_u64()).await?;
    if len > MAX_SNAPSHOT_BYTES {
        return Err(protocol(&"a snapshot is too large"));
    }
    let len = usize::try_from(len).map_err(|e| protocol(&e))?;
    // Grows with what really comes, not with what was announced.
    let mut data = BytesMut::new();
    while data.len() < len {
        let chunk = CHUNK_BYTES.min(len - data.len());
        let start = data.len();
        data.resize(start + chunk, 0);
        step(stream.read_exact(&mut data[start..])).await?;
        if !alive() {
            return Err(protocol(&"the sender was replaced"));
        }
    }
    Ok(SnapshotFrame {
        frame: Bytes::from(frame),
        data: data.freeze(),
    })
}

pub(super) async fn acknowledge<S: AsyncWrite + Unpin + Send>(stream: &mut S) -> Result<()> {
    step(stream.write_u8(ACKNOWLEDGED)).await
}

async fn step<T>(io: impl Future<Output = std::io::Result<T>>) -> Result<T> {
    timeout(PATIENCE, io)
        .await
        .map_err(|_| protocol(&"the peer stalled"))?
        .map_err(|e| protocol(&e))
}

const CHUNK_BYTES: usize = 256 << 10;

/// The largest snapshot.
const MAX_SNAPSHOT_BYTES: u64 = 4 << 30;

/// How long one chunk may take.
const PATIENCE: Duration = Duration::from_secs(10);

const ACKNOWLEDGED: u8 = 1;
