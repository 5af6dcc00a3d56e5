//! Members in one process: for tests, and for trying things out.

use std::{collections::HashMap, sync::Arc};

use bytes::Bytes;
use parking_lot::Mutex;

use super::{Inbox, Local, SnapshotFrame, Transport};
use crate::backend::raft::member::{MemberId, Peer};

/// A network of members within one process. Its clones are the same network.
#[derive(Debug, Clone, Default)]
pub struct ChannelNetwork {
    inner: Arc<Mutex<Inner>>,
}

#[derive(Debug, Default)]
struct Inner {
    members: HashMap<MemberId, Inbox>,
    /// Members that hear nobody and are heard by nobody.
    cut_off: Vec<MemberId>,
}

impl ChannelNetwork {
    /// A network without members.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// A member's way into the network.
    #[must_use]
    pub fn transport(&self) -> ChannelTransport {
        ChannelTransport {
            network: self.clone(),
            id: Mutex::default(),
        }
    }

    /// Cuts a member off, or joins it again.
    pub fn set_cut_off(&self, member: MemberId, is_cut_off: bool) {
        let mut inner = self.inner.lock();
        inner.cut_off.retain(|id| *id != member);
        if is_cut_off {
            inner.cut_off.push(member);
        }
    }

    /// The inbox of `to`, if a frame from `from` reaches it.
    fn route(&self, from: MemberId, to: MemberId) -> Option<Inbox> {
        let inner = self.inner.lock();
        let is_cut = inner.cut_off.iter().any(|id| *id == from || *id == to);
        (!is_cut).then(|| inner.members.get(&to).cloned())?
    }
}

/// One member's way into a [`ChannelNetwork`].
#[derive(Debug)]
pub struct ChannelTransport {
    network: ChannelNetwork,
    id: Mutex<Option<(MemberId, Inbox)>>,
}

impl ChannelTransport {
    fn local(&self) -> Option<(MemberId, Inbox)> {
        self.id.lock().clone()
    }
}

impl Transport for ChannelTransport {
    fn start(&self, local: Local, inbox: Inbox) {
        *self.id.lock() = Some((local.id, inbox.clone()));
        self.network.inner.lock().members.insert(local.id, inbox);
    }

    fn set_peers(&self, _peers: &[Peer], _removed: &[MemberId]) {}

    fn send(&self, to: MemberId, frame: Bytes) {
        let Some((me, inbox)) = self.local() else {
            return;
        };
        let is_sent = self
            .network
            .route(me, to)
            .is_some_and(|peer| peer.deliver(me, frame).is_ok());
        if !is_sent {
            inbox.unreachable(to);
        }
    }

    fn send_snapshot(&self, to: MemberId, snapshot: SnapshotFrame) {
        let Some((me, inbox)) = self.local() else {
            return;
        };
        let is_sent = self
            .network
            .route(me, to)
            .is_some_and(|peer| peer.deliver_snapshot(me, snapshot).is_ok());
        inbox.snapshot_sent(to, is_sent);
    }

    fn stop(&self) {
        if let Some((me, _)) = self.id.lock().take() {
            self.network.inner.lock().members.remove(&me);
        }
    }
}
