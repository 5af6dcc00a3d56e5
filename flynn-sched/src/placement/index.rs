//! The best host without looking at all of them: one tournament for each *shape* of jobs, kept up with what changes.
//!
//! Jobs of one shape see every host alike as long as the host has no jobs of their group. So a shape's tournament holds
//! what filters and scores say of each host by itself; the few hosts that are special to the group that is being placed
//! (they have jobs of it, or of its neighbours) are put in with all that is said of them while that group is placed, and
//! put back afterwards. What depends on zones, racks or tags is the same for all hosts of a class, and is added to the
//! best of each class when a host is asked for.

use std::{sync::Arc, time::Duration};

use crate::{
    Constraint, Domain, JobSpec, Named, Namespace, Partition, Port, Resources, Toleration,
    placement::{
        Board, Candidate, Need, Placer, Reads, Tally,
        placer::Stage,
        places::{Layout, number},
        plan::Plan,
        scores::items,
        tournament::{Key, Tournament},
    },
};

/// What of a job and a placer decides how good hosts are, apart from other jobs.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Shape {
    placer: u64,
    request: Resources,
    named: Named,
    constraints: Vec<Constraint>,
    tolerations: Vec<Toleration>,
    /// All of its ports, if it insists on one.
    ports: Vec<Port>,
    partition: Partition,
    namespace: Namespace,
    expected: Option<Duration>,
    /// Of the images and volumes that the job uses, those that a host holds.
    items: Vec<String>,
    /// The domains that matter to it, except hosts.
    pub(super) domains: Vec<Domain>,
}

/// The indexes of the shapes placed last.
#[derive(Debug, Default)]
pub(super) struct Indexes {
    entries: Vec<Entry>,
    /// Shapes that were placed once since there is no room for more.
    seen: Vec<Arc<Shape>>,
    uses: u64,
}

#[derive(Debug)]
struct Entry {
    shape: Arc<Shape>,
    index: Option<Index>,
    used: u64,
}

/// How good each host is for a shape.
#[derive(Debug)]
pub(super) struct Index {
    /// How many changes of the board are in it.
    synced: u64,
    /// What hosts are worth by what they say of themselves; [`RULED_OUT`] if that rules them out. By slot.
    described: Vec<i64>,
    pub(super) tree: Tournament,
    overlay: Overlay,
    /// Empty; kept for its room.
    keys: Vec<Key>,
}

/// The hosts that are in the tree as they are for one group.
#[derive(Debug, Default)]
struct Overlay {
    plan: Option<u64>,
    slots: Vec<u32>,
    is_in: Vec<bool>,
    /// What hosts that are not in it are worth to the group beyond what is in the tree; `None`: they cannot take it.
    blank: Option<i64>,
}

impl Shape {
    pub(super) fn of(
        placer: &Placer,
        need: &Need<'_>,
        board: &Board,
        domains: Vec<Domain>,
    ) -> Self {
        let spec = need.spec;
        let looks_at_files = placer.reads().any(|reads| reads == Reads::Files);
        Self {
            placer: placer.id,
            request: spec.request,
            named: spec.named.clone(),
            constraints: spec
                .constraints
                .iter()
                .filter(|constraint| constraint.is_of_hosts())
                .cloned()
                .collect(),
            tolerations: spec.tolerations.clone(),
            ports: fixed_ports(spec).to_vec(),
            partition: spec.partition,
            namespace: spec.namespace.clone(),
            expected: spec.expected,
            items: items(spec)
                .filter(|item| looks_at_files && board.is_held(item))
                .collect(),
            domains,
        }
    }

    /// Is it of this placer and of such jobs, provided that their constraints, artifacts, volumes and wishes are the
    /// same?
    pub(super) fn is_of(&self, placer: &Placer, spec: &JobSpec) -> bool {
        self.placer == placer.id
            && self.request == spec.request
            && self.named == spec.named
            && self.tolerations == spec.tolerations
            && self.ports == fixed_ports(spec)
            && self.partition == spec.partition
            && self.namespace == spec.namespace
            && self.expected == spec.expected
    }
}

fn fixed_ports(spec: &JobSpec) -> &[Port] {
    if spec.fixed_ports().next().is_some() {
        &spec.ports
    } else {
        &[]
    }
}

impl Indexes {
    /// How many shapes are remembered.
    const BOUND: usize = 256;

    /// Where the index of the tally's shape is, if there is one or it is worth making one: when there is room for another,
    /// when the shape comes up for the second time, or when `is_many` are to be placed.
    pub(super) fn find(&mut self, tally: &mut Tally, is_many: bool) -> Option<usize> {
        self.uses += 1;
        let plan = tally.plan.as_mut()?;
        let shape = &plan.shape;
        let is_it = |entry: &Entry| Arc::ptr_eq(&entry.shape, shape) || entry.shape == *shape;
        let hinted = self.entries.get(plan.index_hint).filter(|e| is_it(e));
        let found = match hinted {
            Some(_) => plan.index_hint,
            None => match self.entries.iter().position(is_it) {
                Some(found) => found,
                None => {
                    let seen = self.seen.iter().position(|seen| seen == shape);
                    if seen.is_none() && !is_many && self.entries.len() >= Self::BOUND {
                        if self.seen.len() >= Self::BOUND {
                            self.seen.remove(0);
                        }
                        self.seen.push(Arc::clone(shape));
                        return None;
                    }
                    seen.map(|seen| self.seen.swap_remove(seen));
                    self.room_for(Arc::clone(shape))
                }
            },
        };
        plan.index_hint = found;
        plan.shape = Arc::clone(&self.entries[found].shape);
        self.entries[found].used = self.uses;
        Some(found)
    }

    fn room_for(&mut self, shape: Arc<Shape>) -> usize {
        let entry = Entry {
            shape,
            index: None,
            used: self.uses,
        };
        if self.entries.len() < Self::BOUND {
            self.entries.push(entry);
            return self.entries.len() - 1;
        }
        let oldest = (0..self.entries.len())
            .min_by_key(|n| self.entries[*n].used)
            .expect("the bound is not zero");
        self.entries[oldest] = entry;
        oldest
    }

    pub(super) fn take(&mut self, at: usize) -> Option<Index> {
        self.entries[at].index.take()
    }

    pub(super) fn put(&mut self, at: usize, index: Index) {
        self.entries[at].index = Some(index);
    }
}

impl Index {
    pub(super) fn of(placer: &Placer, need: &Need<'_>, board: &Board, tally: &Tally) -> Self {
        let plan = tally.planned();
        let described: Vec<i64> = (0..board.len())
            .map(|slot| described(placer, need, board, tally, slot))
            .collect();
        let layout: Arc<Layout> = board.layout(&plan.shape.domains, &plan.places());
        let tree = Tournament::new(layout, |slot| {
            let candidate = Candidate::by_itself(board, slot, tally);
            base(placer, need, plan, described[slot], &candidate)
        });
        Self {
            synced: board.changes.now(),
            described,
            tree,
            overlay: Overlay::default(),
            keys: Vec::new(),
        }
    }

    /// Brings the index up to what has changed, and to the group. Returns whether hosts that are not special to the
    /// group can take the job at all.
    pub(super) fn bring_up(
        &mut self,
        placer: &Placer,
        need: &Need<'_>,
        board: &Board,
        tally: &Tally,
    ) -> bool {
        let plan = tally.planned();
        let mut changed = board.changes.since(self.synced);
        if board.changes.any_described_since(self.synced) {
            for slot in &changed {
                let slot = *slot as usize;
                if board.changes.is_described_since(slot, self.synced) {
                    self.described[slot] = described(placer, need, board, tally, slot);
                }
            }
        }
        self.synced = board.changes.now();
        if self.overlay.plan != Some(plan.id) {
            let before = std::mem::take(&mut self.overlay.slots);
            for slot in &before {
                self.overlay.is_in[*slot as usize] = false;
            }
            changed.extend(before);
            self.lay_over(placer, need, board, tally);
            changed.extend(&self.overlay.slots);
            changed.sort_unstable();
            changed.dedup();
        }
        if tally.has_any() || plan.has_special() {
            for slot in &changed {
                let at = *slot as usize;
                if tally.has(at) || plan.is_special(at) {
                    self.overlay.add(at);
                }
            }
        }
        // Reading and writing apart, so that one need not wait for the other's place in memory.
        let mut keys = std::mem::take(&mut self.keys);
        keys.extend(
            changed
                .iter()
                .map(|slot| self.key(placer, need, board, tally, *slot as usize)),
        );
        for (slot, key) in changed.iter().zip(keys.drain(..)) {
            self.tree.set(*slot as usize, key);
        }
        self.keys = keys;
        self.tree.play();
        self.overlay.blank.is_some()
    }

    /// Notes which hosts are special to the group, and what the others are worth to it.
    fn lay_over(&mut self, placer: &Placer, need: &Need<'_>, board: &Board, tally: &Tally) {
        let plan = tally.planned();
        let overlay = &mut self.overlay;
        overlay.plan = Some(plan.id);
        overlay.is_in.resize(board.len(), false);
        for slot in tally.slots().map(|(slot, _)| slot).chain(plan.special()) {
            overlay.add(slot);
        }
        let other = (0..board.len()).find(|slot| !overlay.is_in[*slot]);
        overlay.blank = match other {
            Some(slot) => {
                let candidate = Candidate::on(board, slot, tally, None);
                placer.worth(Stage::Group, need, plan, &candidate)
            }
            None => Some(0),
        };
    }

    /// What a host is worth to the group, but for its places and for what hosts are worth that have nothing to do with
    /// the group.
    fn key(
        &self,
        placer: &Placer,
        need: &Need<'_>,
        board: &Board,
        tally: &Tally,
        slot: usize,
    ) -> Key {
        let (plan, described) = (tally.planned(), self.described[slot]);
        if !self.overlay.is_in[slot] {
            let candidate = Candidate::by_itself(board, slot, tally);
            return base(placer, need, plan, described, &candidate);
        }
        let candidate = Candidate::on(board, slot, tally, None);
        let key = base(placer, need, plan, described, &candidate);
        match placer.worth(Stage::Group, need, plan, &candidate) {
            Some(worth) if !key.is_out() => Key {
                points: key.points + worth - self.overlay.blank.unwrap_or(0),
                ..key
            },
            _ => Key::OUT,
        }
    }

    /// The hosts that are special to the group.
    pub(super) fn special(&self) -> impl Iterator<Item = usize> {
        self.overlay.slots.iter().map(|slot| *slot as usize)
    }
}

impl Overlay {
    fn add(&mut self, slot: usize) {
        if !self.is_in[slot] {
            self.is_in[slot] = true;
            self.slots.push(number(slot));
        }
    }
}

/// What a host is worth by what it says of itself.
fn described(placer: &Placer, need: &Need<'_>, board: &Board, tally: &Tally, slot: usize) -> i64 {
    let candidate = Candidate::by_itself(board, slot, tally);
    // What a host does not have at all is never free on it, whatever is promised.
    let spec = need.spec;
    let has_all = candidate.room.fits(&spec.request)
        && (spec.named.is_empty() || candidate.host.named.fits(&Named::default(), &spec.named));
    if !has_all {
        return RULED_OUT;
    }
    let worth = placer.worth(Stage::Host, need, tally.planned(), &candidate);
    worth.unwrap_or(RULED_OUT)
}

/// What a host is worth by what it says of itself and what is promised on it.
fn base(
    placer: &Placer,
    need: &Need<'_>,
    plan: &Plan,
    described: i64,
    candidate: &Candidate<'_>,
) -> Key {
    if described == RULED_OUT {
        return Key::OUT;
    }
    match placer.worth(Stage::Load, need, plan, candidate) {
        Some(worth) => Key {
            points: described + worth,
            jobs: u32::try_from(candidate.jobs).unwrap_or(u32::MAX),
        },
        None => Key::OUT,
    }
}

/// In the place of a host's points; sums of points stay far from it.
const RULED_OUT: i64 = i64::MIN;
