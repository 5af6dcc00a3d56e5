//! The part of the log that is kept, in memory: what the consensus core reads.
//!
//! The log is compacted before it grows large, so all of it fits. The core therefore never waits for a disk, and runs
//! unchanged in a simulation.

use std::{cell::Cell, collections::VecDeque};

use raft::{
    GetEntriesContext, RaftState, Result, Storage, StorageError,
    eraftpb::{self, ConfState, Entry, Snapshot},
};

use super::log::{HardState, LogEntry, Position};

/// The log behind its compacted part, with a snapshot for those who need more.
#[derive(Debug)]
pub(crate) struct LogView {
    compacted: Position,
    entries: VecDeque<Entry>,
    bytes: usize,
    hard_state: HardState,
    conf_state: ConfState,
    snapshot: Option<Snapshot>,
    /// A peer needs a snapshot that was not made yet.
    wants_snapshot: Cell<bool>,
}

impl LogView {
    pub(crate) fn new(
        compacted: Position,
        entries: impl IntoIterator<Item = Entry>,
        hard_state: HardState,
        conf_state: ConfState,
    ) -> Self {
        let mut view = Self {
            compacted,
            entries: VecDeque::new(),
            bytes: 0,
            hard_state,
            conf_state,
            snapshot: None,
            wants_snapshot: Cell::new(false),
        };
        view.append(entries);
        view
    }

    /// Adds entries; they replace every entry from the first one's index on.
    pub(crate) fn append(&mut self, entries: impl IntoIterator<Item = Entry>) {
        for entry in entries {
            while self.last().index >= entry.index
                && let Some(replaced) = self.entries.pop_back()
            {
                self.bytes -= weight(&replaced);
            }
            debug_assert_eq!(entry.index, self.last().index + 1, "the log has no gaps");
            self.bytes += weight(&entry);
            self.entries.push_back(entry);
        }
    }

    /// Begins anew behind a snapshot.
    pub(crate) fn reset(&mut self, position: Position, conf_state: ConfState) {
        self.entries.clear();
        self.bytes = 0;
        self.compacted = position;
        self.conf_state = conf_state;
        self.snapshot = None;
    }

    /// Forgets the log up to and including `index`.
    pub(crate) fn compact(&mut self, index: u64) {
        while self.entries.front().is_some_and(|e| e.index <= index)
            && let Some(entry) = self.entries.pop_front()
        {
            self.bytes -= weight(&entry);
            self.compacted = position(&entry);
        }
        let is_stale = |s: &Snapshot| s.get_metadata().index < self.compacted.index;
        if self.snapshot.as_ref().is_some_and(is_stale) {
            self.snapshot = None;
        }
    }

    /// The log is to be compacted up to here, if it exceeds a bound; never beyond `applied`.
    pub(crate) fn excess(&self, applied: u64, max_entries: usize, max_bytes: usize) -> Option<u64> {
        if self.entries.len() <= max_entries && self.bytes <= max_bytes {
            return None;
        }
        let (mut entries, mut bytes) = (self.entries.len(), self.bytes);
        let mut to = None;
        for entry in &self.entries {
            // Half is kept, so that the next time is not soon and peers a little behind need no snapshot.
            let is_enough = entries <= max_entries / 2 && bytes <= max_bytes / 2;
            if is_enough || entry.index > applied {
                break;
            }
            entries -= 1;
            bytes -= weight(entry);
            to = Some(entry.index);
        }
        to
    }

    pub(crate) fn set_hard_state(&mut self, hard_state: HardState) {
        self.hard_state = hard_state;
    }

    pub(crate) fn hard_state(&self) -> HardState {
        self.hard_state
    }

    pub(crate) fn set_conf_state(&mut self, conf_state: ConfState) {
        self.conf_state = conf_state;
    }

    pub(crate) fn set_snapshot(&mut self, snapshot: Option<Snapshot>) {
        self.snapshot = snapshot;
    }

    pub(crate) fn has_snapshot(&self) -> bool {
        self.snapshot.is_some()
    }

    /// Does a peer need a snapshot? Asking answers for the time being.
    pub(crate) fn take_wish(&self) -> bool {
        self.wants_snapshot.take()
    }

    pub(crate) fn compacted(&self) -> Position {
        self.compacted
    }

    pub(crate) fn last(&self) -> Position {
        self.entries.back().map_or(self.compacted, position)
    }

    pub(crate) fn position_of(&self, index: u64) -> Option<Position> {
        if index == self.compacted.index {
            return Some(self.compacted);
        }
        self.at(index).map(position)
    }

    #[cfg(test)]
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Entry> {
        self.entries.iter()
    }

    fn at(&self, index: u64) -> Option<&Entry> {
        let offset = index.checked_sub(self.compacted.index + 1)?;
        self.entries.get(usize::try_from(offset).ok()?)
    }
}

impl Storage for LogView {
    fn initial_state(&self) -> Result<RaftState> {
        let hard_state = eraftpb::HardState {
            term: self.hard_state.term,
            vote: self.hard_state.vote,
            commit: self.hard_state.commit,
            ..Default::default()
        };
        Ok(RaftState::new(hard_state, self.conf_state.clone()))
    }

    fn entries(
        &self,
        low: u64,
        high: u64,
        max_size: impl Into<Option<u64>>,
        _context: GetEntriesContext,
    ) -> Result<Vec<Entry>> {
        if low <= self.compacted.index {
            return Err(StorageError::Compacted.into());
        }
        if high > self.last().index + 1 {
            return Err(StorageError::Unavailable.into());
        }
        let max_size = max_size.into().unwrap_or(u64::MAX);
        let mut size = 0_u64;
        let mut entries = Vec::new();
        for entry in (low..high).filter_map(|index| self.at(index)) {
            size = size.saturating_add(weight(entry) as u64);
            if size > max_size && !entries.is_empty() {
                break;
            }
            entries.push(entry.clone());
        }
        Ok(entries)
    }

    fn term(&self, index: u64) -> Result<u64> {
        match self.position_of(index) {
            Some(position) => Ok(position.term),
            None if index < self.compacted.index => Err(StorageError::Compacted.into()),
            None => Err(StorageError::Unavailable.into()),
        }
    }

    fn first_index(&self) -> Result<u64> {
        Ok(self.compacted.index + 1)
    }

    fn last_index(&self) -> Result<u64> {
        Ok(self.last().index)
    }

    fn snapshot(&self, request_index: u64, _to: u64) -> Result<Snapshot> {
        let least = request_index.max(self.compacted.index);
        match &self.snapshot {
            Some(snapshot) if snapshot.get_metadata().index >= least => Ok(snapshot.clone()),
            Some(_) | None => {
                self.wants_snapshot.set(true);
                Err(StorageError::SnapshotTemporarilyUnavailable.into())
            }
        }
    }
}

pub(crate) fn position(entry: &Entry) -> Position {
    Position {
        index: entry.index,
        term: entry.term,
    }
}

/// As the store keeps it.
pub(crate) fn to_stored(entry: &Entry) -> LogEntry {
    LogEntry {
        position: position(entry),
        kind: match entry.entry_type {
            eraftpb::EntryType::EntryNormal => 0,
            eraftpb::EntryType::EntryConfChange => 1,
            eraftpb::EntryType::EntryConfChangeV2 => 2,
        },
        data: entry.data.clone(),
        context: entry.context.clone(),
    }
}

/// As the core wants it; `None` for an unknown kind.
pub(crate) fn from_stored(entry: LogEntry) -> Option<Entry> {
    Some(Entry {
        entry_type: match entry.kind {
            0 => eraftpb::EntryType::EntryNormal,
            1 => eraftpb::EntryType::EntryConfChange,
            2 => eraftpb::EntryType::EntryConfChangeV2,
            _ => return None,
        },
        term: entry.position.term,
        index: entry.position.index,
        data: entry.data,
        context: entry.context,
        ..Default::default()
    })
}

fn weight(entry: &Entry) -> usize {
    entry.data.len() + entry.context.len() + size_of::<Entry>()
}
