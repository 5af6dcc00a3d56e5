//! States are compared by what is in them.

use std::{
    fmt,
    hash::{DefaultHasher, Hash, Hasher},
};

use flynn_discovery::backend::kv::KvState;

use super::{
    Cell,
    schedulers::{Scheduler, Stage},
    wire::Message,
};

impl Cell {
    fn facts(&self, hasher: &mut impl Hasher) {
        self.print.hash(hasher);
        for scheduler in &self.schedulers {
            (scheduler.seen, scheduler.abandoned).hash(hasher);
            match &scheduler.stage {
                Stage::Idle => 0.hash(hasher),
                Stage::Behind(None) => 1.hash(hasher),
                Stage::Behind(Some(left)) => (2, format!("{left:?}")).hash(hasher),
                Stage::Waiting { decision, messages } => {
                    (3, decision.basis).hash(hasher);
                    decision.flight.facts(hasher);
                    messages.hash(hasher);
                }
            }
        }
        self.adrift.hash(hasher);
        self.troubles.hash(hasher);
        (&self.claimed, &self.removed, self.has_lost_host).hash(hasher);
        (&self.reserved, self.is_unfair).hash(hasher);
    }
}

pub(super) fn print_of(store: &KvState) -> u64 {
    let mut hasher = DefaultHasher::new();
    store.revision().hash(&mut hasher);
    for entry in store.entries() {
        (&entry.key, &entry.value, entry.version, entry.created).hash(&mut hasher);
    }
    hasher.finish()
}

impl Hash for Message {
    fn hash<H: Hasher>(&self, hasher: &mut H) {
        self.print.hash(hasher);
    }
}

impl Hash for Cell {
    fn hash<H: Hasher>(&self, hasher: &mut H) {
        self.facts(hasher);
    }
}

impl PartialEq for Cell {
    fn eq(&self, other: &Self) -> bool {
        let print = |cell: &Self| {
            let mut hasher = DefaultHasher::new();
            cell.facts(&mut hasher);
            hasher.finish()
        };
        print(self) == print(other)
    }
}

impl fmt::Debug for Cell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let keys: Vec<_> = self.store.entries().map(|e| (&e.key, e.version)).collect();
        let at = |s: &Scheduler| s.mirror.state.revision();
        f.debug_struct("Cell")
            .field("store", &keys)
            .field("seen", &self.schedulers.each_ref().map(at))
            .field("claimed", &self.claimed)
            .field("adrift", &self.adrift.len())
            .finish_non_exhaustive()
    }
}
