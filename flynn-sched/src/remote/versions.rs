//! The versions of the keys that commits compare.
//!
//! A mirror is copied with every change of the cell, as far as the change reaches, so it matters how much that is. Hosts are
//! kept in their order: those that one commit places jobs on often lie together. What a job's version is, the state knows.

use flynn_discovery::backend::Revision;

use crate::{HostId, remote::keys::CellKey};

/// The versions of keys, but for those of jobs. Its clones share what they have in common.
#[derive(Debug, Clone, Default)]
pub(super) struct Versions {
    /// Of [`CellKey::HostSeq`].
    host_seqs: imbl::OrdMap<HostId, Revision>,
    others: imbl::HashMap<CellKey, Revision>,
}

impl Versions {
    pub(super) fn get(&self, key: &CellKey) -> Option<Revision> {
        match key {
            CellKey::HostSeq(host) => self.host_seqs.get(host).copied(),
            key => self.others.get(key).copied(),
        }
    }

    pub(super) fn insert(&mut self, key: CellKey, version: Revision) {
        match key {
            CellKey::HostSeq(host) => match self.host_seqs.get_mut(&host) {
                Some(known) => *known = version,
                None => {
                    self.host_seqs.insert(host, version);
                }
            },
            key => {
                self.others.insert(key, version);
            }
        }
    }

    pub(super) fn remove(&mut self, key: &CellKey) {
        match key {
            CellKey::HostSeq(host) => self.host_seqs.remove(host),
            key => self.others.remove(key),
        };
    }
}
