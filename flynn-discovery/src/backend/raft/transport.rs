//! How members reach each other: the trait, and what a transport is given.

mod channel;
mod handshake;
mod tcp;

use std::{
    collections::BTreeMap,
    fmt,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
        mpsc,
    },
};

use bytes::Bytes;
use parking_lot::Mutex;

pub use self::{
    channel::{ChannelNetwork, ChannelTransport},
    tcp::TcpTransport,
};
use super::{
    driver::Event,
    member::{MemberId, Peer},
    wire::Frame,
};
use crate::Error;

/// One-way messages between members. They may be lost and come late or twice; they are never changed.
pub trait Transport: fmt::Debug + Send + Sync + 'static {
    /// Begins to receive. Called once, on a tokio runtime.
    fn start(&self, local: Local, inbox: Inbox);

    /// Who can be reached from now on, and whose connections are refused because they were removed for good.
    fn set_peers(&self, peers: &[Peer], removed: &[MemberId]);

    /// Sends, without ever blocking; what cannot be sent now is dropped, and [`Inbox::unreachable`] is told.
    fn send(&self, to: MemberId, frame: Bytes);

    /// Sends a snapshot, apart from other frames; [`Inbox::snapshot_sent`] is told how it went.
    fn send_snapshot(&self, to: MemberId, snapshot: SnapshotFrame);

    /// Stops receiving and sending, and closes every connection.
    fn stop(&self);
}

/// Who this member is, for greeting others.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Local {
    /// The member.
    pub id: MemberId,
    /// The cell's name; members of different cells do not talk.
    pub cell: String,
    /// A random number of this run of the process: two of them at one time are two processes with one id.
    pub incarnation: u64,
}

/// A snapshot on its way: the message, and the data apart from it.
#[derive(Debug, Clone)]
pub struct SnapshotFrame {
    /// The message without data.
    pub frame: Bytes,
    /// The data, which may be large.
    pub data: Bytes,
}

/// Where a transport delivers what it received.
#[derive(Clone)]
pub struct Inbox {
    events: mpsc::Sender<Event>,
    /// Frames that were delivered and not taken in yet.
    waiting: Arc<AtomicUsize>,
    refusals: Refusals,
}

/// Which peers refuse this member at present, and why.
pub(crate) type Refusals = Arc<Mutex<BTreeMap<MemberId, String>>>;

impl Inbox {
    pub(crate) fn new(
        events: mpsc::Sender<Event>,
        waiting: Arc<AtomicUsize>,
        refusals: Refusals,
    ) -> Self {
        Self {
            events,
            waiting,
            refusals,
        }
    }

    /// Delivers a frame. One that cannot be read is an error of the connection; one for which there is no room is
    /// dropped. `Err` also says that the member has stopped.
    ///
    /// # Errors
    ///
    /// [`Error::Protocol`], [`Error::Closed`].
    pub fn deliver(&self, from: MemberId, frame: Bytes) -> crate::Result<()> {
        let frame = Frame::decode(frame)?;
        if frame == Frame::Ping {
            return Ok(());
        }
        if self.waiting.fetch_add(1, Ordering::Relaxed) >= MAX_WAITING_FRAMES {
            self.waiting.fetch_sub(1, Ordering::Relaxed);
            return Ok(());
        }
        self.push(Event::Frame(from, frame))
    }

    /// Delivers a snapshot that came apart from other frames.
    ///
    /// # Errors
    ///
    /// As [`deliver`](Self::deliver).
    pub fn deliver_snapshot(&self, from: MemberId, snapshot: SnapshotFrame) -> crate::Result<()> {
        let frame = match Frame::decode(snapshot.frame)? {
            Frame::Raft(mut message) => {
                message.mut_snapshot().data = snapshot.data;
                Frame::Raft(message)
            }
            _ => {
                return Err(Error::Protocol {
                    why: "a snapshot without its message".to_owned(),
                });
            }
        };
        self.waiting.fetch_add(1, Ordering::Relaxed);
        self.push(Event::Frame(from, frame))
    }

    /// A frame to this member was dropped, or the connection broke.
    pub fn unreachable(&self, peer: MemberId) {
        let _ = self.push(Event::Unreachable(peer));
    }

    /// How sending a snapshot to this member went.
    pub fn snapshot_sent(&self, peer: MemberId, is_delivered: bool) {
        let _ = self.push(Event::SnapshotSent(peer, is_delivered));
    }

    /// A peer refused this member, in its words; `None` when it has accepted it.
    pub fn refused(&self, peer: MemberId, why: Option<String>) {
        let mut refusals = self.refusals.lock();
        match why {
            Some(why) => refusals.insert(peer, why),
            None => refusals.remove(&peer),
        };
    }

    /// This peer says that this member was removed from the cluster.
    pub fn removed(&self, peer: MemberId) {
        self.waiting.fetch_add(1, Ordering::Relaxed);
        let _ = self.push(Event::Frame(peer, Frame::Removed));
    }

    fn push(&self, event: Event) -> crate::Result<()> {
        self.events.send(event).map_err(|_| Error::Closed {
            backend: super::NAME,
        })
    }
}

impl fmt::Debug for Inbox {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Inbox")
    }
}

/// The largest frame. A commit's values, at most 8 MiB, fit with room to spare.
pub(crate) const MAX_FRAME_BYTES: usize = 16 << 20;

/// How many received frames may wait to be taken in.
const MAX_WAITING_FRAMES: usize = 16 * 1024;
