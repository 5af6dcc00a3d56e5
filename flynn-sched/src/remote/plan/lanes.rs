//! Which steps rest on each other.
//!
//! Two steps go into one lane, in the order of the transaction, when
//!
//! - one of them writes a key whose version the other compares: it must be taken as this transaction left it; or both
//!   write a key, and not the same;
//! - they are about one group, and one of them does more than start a job: a note tells of what went before it. Only a
//!   group that is not there yet may be written beside the starts of its jobs, for these compare that it is there;
//! - one of them is of a kind on which others may rest without sharing a key: [`Kind::Wide`].
//!
//! What remains apart, two starts on different hosts above all, may be carried out in any order, and one without the
//! other.

use std::collections::{BTreeMap, HashMap};

use bytes::Bytes;
use flynn_discovery::backend::Condition;

use crate::{
    GroupId,
    remote::{
        keys::CellKey,
        mirror::Mirror,
        plan::{
            Chunk, Limits, Size,
            steps::{Kind, Step},
        },
    },
};

/// Packs steps into chunks, and these into lanes.
pub(super) fn in_lanes(mirror: &Mirror, mut steps: Vec<Step>, limits: Limits) -> Vec<Vec<Chunk>> {
    let linked = linked(mirror, &mut steps);
    let mut founding = Vec::new();
    let mut others = Vec::new();
    for component in linked.components(steps) {
        if component.iter().all(|step| step.kind == Kind::Founding) {
            founding.push(component);
        } else {
            others.push(component);
        }
    }
    // In chunks of their own, or others would wait for what these chunks meet.
    let mut lanes = packed(founding, limits);
    let mut rest = packed(others, limits);
    if let ([founding], [first]) = (&mut lanes[..], &mut rest[..])
        && let ([founding], [only]) = (&mut founding[..], &mut first[..])
        && founding.fits(only, limits.beside)
    {
        founding.absorb(std::mem::take(only));
        return lanes;
    }
    lanes.append(&mut rest);
    lanes
}

/// How a key is used.
struct Use<'s> {
    /// The first step that compares or writes it.
    first: usize,
    /// Does more than one?
    is_shared: bool,
    is_compared: bool,
    written: Option<&'s Option<Bytes>>,
    /// Do steps write different values?
    differs: bool,
}

impl Use<'_> {
    fn links(&self) -> bool {
        self.is_shared && (self.is_compared && self.written.is_some() || self.differs)
    }
}

/// Finds out which steps rest on each other.
///
/// What one step compares and another writes, the other compares as well. A later part of the lane takes the key
/// as this transaction left it: if the writing part had not compared it, what others wrote in between would go unnoticed.
fn linked(mirror: &Mirror, steps: &mut [Step]) -> Linked {
    let mut linked = Linked((0..steps.len()).collect());
    let mut uses: HashMap<&CellKey, Use<'_>> = HashMap::with_capacity(4 * steps.len());
    for (at, step) in steps.iter().enumerate() {
        let compared = step
            .chunk
            .compares
            .iter()
            .filter(|(_, condition)| **condition != Condition::Present)
            .map(|(key, _)| (key, None));
        let written = step.chunk.ops.iter().map(|(key, value)| (key, Some(value)));
        for (key, value) in compared.chain(written) {
            let known = uses.entry(key).or_insert(Use {
                first: at,
                is_shared: false,
                is_compared: false,
                written: None,
                differs: false,
            });
            known.is_shared |= known.first != at;
            known.is_compared |= value.is_none();
            known.differs |= value.is_some_and(|v| known.written.is_some_and(|w| w != v));
            known.written = value.or(known.written);
        }
    }
    let mut missing = Vec::new();
    for (at, step) in steps.iter().enumerate() {
        for key in step.chunk.ops.keys() {
            let known = step.chunk.compares.get(key);
            if uses[key].is_compared && known.is_none_or(|c| *c == Condition::Present) {
                missing.push((at, key.clone()));
            }
        }
        for key in step.chunk.compares.keys().chain(step.chunk.ops.keys()) {
            if let Some(known) = uses.get(key)
                && known.links()
            {
                linked.link(known.first, at);
            }
        }
    }
    drop(uses);
    for (at, key) in missing {
        steps[at].chunk.expect(mirror, key);
    }
    linked.link_groups(steps);
    if steps.iter().any(|step| step.kind == Kind::Wide) {
        (1..steps.len()).for_each(|at| linked.link(0, at));
    }
    linked
}

/// For each step another one that it is linked to, or itself; never a later one.
struct Linked(Vec<usize>);

impl Linked {
    /// The first of those that are linked to this one.
    fn root(&mut self, mut at: usize) -> usize {
        while self.0[at] != at {
            self.0[at] = self.0[self.0[at]];
            at = self.0[at];
        }
        at
    }

    fn link(&mut self, a: usize, b: usize) {
        let (a, b) = (self.root(a), self.root(b));
        self.0[a.max(b)] = a.min(b);
    }

    fn link_groups(&mut self, steps: &[Step]) {
        let mut groups: BTreeMap<&GroupId, (usize, bool)> = BTreeMap::new();
        for (at, step) in steps.iter().enumerate() {
            if let Some(group) = &step.group {
                let (_, is_ordered) = groups.entry(group).or_insert((at, false));
                *is_ordered |= !matches!(step.kind, Kind::Start | Kind::Founding);
            }
        }
        for (at, step) in steps.iter().enumerate() {
            if let Some(group) = &step.group
                && let (first, true) = groups[group]
            {
                self.link(first, at);
            }
        }
    }

    /// The steps that rest on each other, in the order of the first of them.
    fn components(mut self, steps: Vec<Step>) -> impl Iterator<Item = Vec<Step>> {
        let mut components: BTreeMap<usize, Vec<Step>> = BTreeMap::new();
        for (at, step) in steps.into_iter().enumerate() {
            components.entry(self.root(at)).or_default().push(step);
        }
        components.into_values()
    }
}

/// Puts components together that fit into one chunk; larger ones get a lane of their own.
fn packed(components: Vec<Vec<Step>>, limits: Limits) -> Vec<Vec<Chunk>> {
    let mut lanes: Vec<Vec<Chunk>> = Vec::new();
    let mut open = Chunk::default();
    for component in components {
        let mut parts = in_turn(component, limits.in_turn);
        match &mut parts[..] {
            [part] if open.fits(part, limits.beside) => open.absorb(std::mem::take(part)),
            [part] if part.is_within(limits.beside) => {
                lanes.push(vec![std::mem::replace(&mut open, std::mem::take(part))]);
            }
            _ => lanes.push(parts),
        }
    }
    lanes.push(vec![open]);
    for lane in &mut lanes {
        lane.retain(|chunk| chunk.len() > 0);
    }
    lanes.retain(|lane| !lane.is_empty());
    lanes
}

/// Steps that rest on each other, in as few chunks as possible.
fn in_turn(steps: Vec<Step>, size: Size) -> Vec<Chunk> {
    let mut parts = Vec::new();
    let mut open = Chunk::default();
    for step in steps {
        if !open.fits(&step.chunk, size) && open.len() > 0 {
            parts.push(std::mem::take(&mut open));
        }
        open.absorb(step.chunk);
    }
    parts.push(open);
    parts
}
