//! What one need asks of a board beyond single hosts: how the group and others stand in zones, racks and tags.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use rustc_hash::FxHashMap;

use crate::{
    Affinity, Artifact, Constraint, Domain, GroupId, JobSpec, Jobs, Spread, Volume,
    placement::{
        Board, Need, Placer, Reads, Tally,
        index::Shape,
        placer::Stage,
        places::{Places, number},
        tally::plus,
    },
    reservation::Claim,
};

/// What a group's need asks of a board. It lives in the group's [`Tally`] and is kept up with claims.
#[derive(Debug, Clone)]
pub(super) struct Plan {
    /// Tells it from others.
    pub(super) id: u64,
    now_ms: u64,
    asked: Asked,
    /// What is asked of hosts as such, which other groups may ask too.
    pub(super) shape: Arc<Shape>,
    /// The filters of each stage that could keep a host from such a job, by position.
    pub(super) filters: [Vec<usize>; Stage::COUNT],
    /// Where the shape's index was last.
    pub(super) index_hint: usize,
    /// The group's jobs in the places of each of the shape's domains, in their order.
    pub(super) spreads: Vec<Counts>,
    /// The places of the jobs that the need names in affinities and constraints.
    near: Vec<(Jobs, Presence)>,
    /// The places out of which the group's jobs are kept.
    pub(super) kept_out: Vec<Presence>,
    /// What is reserved for others, by slot.
    pub(super) held: FxHashMap<u32, Claim>,
    /// The number of claims that it has seen.
    seen: u64,
    is_stale: bool,
}

/// What a plan depends on in a job's description beside its shape.
#[derive(Debug, Clone)]
struct Asked {
    constraints: Vec<Constraint>,
    spread: Vec<Spread>,
    affinities: Vec<Affinity>,
    artifacts: Vec<Artifact>,
    volumes: Vec<Volume>,
}

/// How many jobs of the group are meant to stay in each place of a domain.
#[derive(Debug, Clone)]
pub(super) struct Counts {
    places: Arc<Places>,
    counts: Vec<u32>,
}

/// In which places of a domain some jobs are.
#[derive(Debug, Clone)]
pub(super) struct Presence {
    pub(super) within: Domain,
    /// `None`: each slot is a place.
    places: Option<Arc<Places>>,
    counts: FxHashMap<u32, i64>,
}

/// The fewest jobs of the group in one of the places that can take another, by domain of the shape.
#[derive(Debug, Clone)]
pub(super) struct Floors {
    pub(super) by_domain: Vec<u32>,
    /// The same for single hosts.
    pub(super) host: u32,
}

impl Tally {
    /// Makes sure that the plan is of this need, placer and moment.
    pub(super) fn prepare(&mut self, placer: &Placer, need: &Need<'_>, board: &Board) {
        self.keep_up(board);
        let is_current = self
            .plan
            .as_mut()
            .is_some_and(|plan| plan.is_of(placer, need, board) && plan.is_current(board));
        if !is_current {
            self.plan = Some(Box::new(Plan::of(placer, need, board, self)));
        }
    }

    /// The same where only claims on the board may have happened since it was [prepared](Self::prepare) for this need.
    pub(super) fn prepare_again(&mut self, placer: &Placer, need: &Need<'_>, board: &Board) {
        let is_current = self
            .plan
            .as_mut()
            .is_some_and(|plan| plan.is_current(board));
        if !is_current {
            self.plan = Some(Box::new(Plan::of(placer, need, board, self)));
        }
    }

    pub(super) fn planned(&self) -> &Plan {
        self.plan.as_ref().expect("it is prepared before a search")
    }
}

impl Plan {
    fn of(placer: &Placer, need: &Need<'_>, board: &Board, tally: &Tally) -> Self {
        static IDS: AtomicU64 = AtomicU64::new(0);
        let spec = need.spec;
        let kept_out = kept_out(need, board, tally);
        let mut domains: Vec<Domain> = placer
            .reads()
            .filter_map(|reads| match reads {
                Reads::Place(domain) => Some(domain),
                _ => None,
            })
            .chain(spec.spread.iter().map(|spread| spread.over.clone()))
            .chain(terms(spec).map(|(_, within)| within.clone()))
            .chain(kept_out.iter().map(|presence| presence.within.clone()))
            .filter(|domain| *domain != Domain::Host)
            .collect();
        domains.sort();
        domains.dedup();
        let spreads = domains
            .iter()
            .map(|domain| Counts::of(board.places(domain), tally))
            .collect();
        Self {
            id: IDS.fetch_add(1, Ordering::Relaxed),
            now_ms: need.now_ms,
            asked: Asked {
                constraints: spec.constraints.clone(),
                spread: spec.spread.clone(),
                affinities: spec.affinities.clone(),
                artifacts: spec.artifacts.clone(),
                volumes: spec.volumes.clone(),
            },
            shape: Arc::new(Shape::of(placer, need, board, domains)),
            filters: placer.concerned(need),
            index_hint: 0,
            spreads,
            near: near(spec, board),
            kept_out,
            held: held(need, board),
            seen: board.claims.count,
            is_stale: false,
        }
    }

    /// Is it of this need, placer and moment?
    fn is_of(&self, placer: &Placer, need: &Need<'_>, board: &Board) -> bool {
        let asked = &self.asked;
        let spec = need.spec;
        (self.now_ms == need.now_ms || board.state.reserved_hosts().len() == 0)
            && self.shape.is_of(placer, spec)
            && asked.constraints == spec.constraints
            && asked.spread == spec.spread
            && asked.affinities == spec.affinities
            && asked.artifacts == spec.artifacts
            && asked.volumes == spec.volumes
    }

    /// Has it seen all claims that matter to it?
    fn is_current(&mut self, board: &Board) -> bool {
        let is_alone = self.near.is_empty()
            && self.kept_out.is_empty()
            && board.claims.keeping_apart.is_empty();
        if self.is_stale || (self.seen != board.claims.count && !is_alone) {
            return false;
        }
        self.seen = board.claims.count;
        true
    }

    /// A job of the group has been claimed (1) or released (-1); the board has counted that already.
    pub(super) fn claim(
        &mut self,
        board: &Board,
        group: &GroupId,
        at: usize,
        spec: &JobSpec,
        more: i64,
    ) {
        for counts in &mut self.spreads {
            counts.add(at, more);
        }
        for (jobs, presence) in &mut self.near {
            if jobs.matches(group) {
                let was_nowhere = presence.is_nowhere();
                presence.add(at, more);
                // The first of those that are near each other was free to go anywhere, the next is not.
                self.is_stale |= was_nowhere != presence.is_nowhere();
            }
        }
        for constraint in &spec.constraints {
            let Constraint::Apart { jobs, within } = constraint else {
                continue;
            };
            if jobs.matches(group) {
                let mut all = self.kept_out.iter_mut();
                match all.find(|presence| presence.within == *within) {
                    Some(presence) => presence.add(at, more),
                    None => self.is_stale = true,
                }
            }
        }
        if self.seen + 1 == board.claims.count {
            self.seen = board.claims.count;
        }
    }

    pub(super) fn spread(&self, domain: &Domain) -> Option<&Counts> {
        let n = self.shape.domains.iter().position(|d| d == domain)?;
        self.spreads.get(n)
    }

    pub(super) fn near(&self, jobs: &Jobs, within: &Domain) -> Option<&Presence> {
        let mut all = self.near.iter();
        all.find(|(of, presence)| of == jobs && presence.within == *within)
            .map(|(_, presence)| presence)
    }

    pub(super) fn places(&self) -> Vec<Arc<Places>> {
        self.spreads
            .iter()
            .map(|counts| Arc::clone(&counts.places))
            .collect()
    }

    /// The slots that are not like any other of their shape for this group, beside those that have its jobs.
    pub(super) fn special(&self) -> impl Iterator<Item = usize> {
        let near = self.near.iter().map(|(_, presence)| presence);
        near.chain(&self.kept_out)
            .filter(|presence| presence.places.is_none())
            .flat_map(|presence| presence.counts.keys())
            .chain(self.held.keys())
            .map(|slot| *slot as usize)
    }

    pub(super) fn has_special(&self) -> bool {
        !self.near.is_empty() || !self.kept_out.is_empty() || !self.held.is_empty()
    }

    pub(super) fn is_special(&self, at: usize) -> bool {
        let mut near = self.near.iter().map(|(_, presence)| presence);
        let has = |presence: &Presence| {
            presence.places.is_none() && presence.counts.contains_key(&number(at))
        };
        near.any(has)
            || self.kept_out.iter().any(has)
            || (!self.held.is_empty() && self.held.contains_key(&number(at)))
    }
}

/// What reservations hold of the hosts for others than this need. What has been claimed since the snapshot may have made
/// it less, never more.
fn held(need: &Need<'_>, board: &Board) -> FxHashMap<u32, Claim> {
    let state = &board.state;
    let on = |host| state.held_for_others(host, need.group, need.spec, need.now_ms);
    state
        .reserved_hosts()
        .filter_map(|host| Some((number(board.slot(host)?), on(host))))
        .filter(|(_, held)| !held.is_empty())
        .collect()
}

/// The jobs that a description names, and within what.
fn terms(spec: &JobSpec) -> impl Iterator<Item = (&Jobs, &Domain)> {
    let hard = spec
        .constraints
        .iter()
        .filter_map(|constraint| match constraint {
            Constraint::Near { jobs, within } | Constraint::Apart { jobs, within } => {
                Some((jobs, within))
            }
            _ => None,
        });
    let soft = spec.affinities.iter().map(|wish| (&wish.to, &wish.within));
    hard.chain(soft)
}

fn near(spec: &JobSpec, board: &Board) -> Vec<(Jobs, Presence)> {
    let mut near: Vec<(Jobs, Presence)> = Vec::new();
    for (jobs, within) in terms(spec) {
        if near
            .iter()
            .any(|(of, presence)| of == jobs && presence.within == *within)
        {
            continue;
        }
        let mut presence = Presence::empty(within, board);
        for job in board.state.live(jobs) {
            if let Some(at) = board.slot(&job.host) {
                presence.add(at, 1);
            }
        }
        for (at, more) in board.claims.of_jobs(jobs) {
            presence.add(at, more);
        }
        near.push((jobs.clone(), presence));
    }
    near
}

fn kept_out(need: &Need<'_>, board: &Board, tally: &Tally) -> Vec<Presence> {
    let mut out: Vec<Presence> = Vec::new();
    let mut of = |within: &Domain| match out.iter().position(|p| p.within == *within) {
        Some(n) => n,
        None => {
            out.push(Presence::empty(within, board));
            out.len() - 1
        }
    };
    let keeping: Vec<_> = board
        .claims
        .keeping_apart
        .from(tally.group())
        .map(|(within, hosts)| (of(within), hosts))
        .collect();
    for constraint in &need.spec.constraints {
        if let Constraint::Apart { jobs, within } = constraint
            && jobs.matches(tally.group())
        {
            of(within);
        }
    }
    for (n, hosts) in keeping {
        for (host, count) in hosts {
            if let Some(at) = board.slot(host) {
                out[n].add(at, i64::from(*count));
            }
        }
    }
    out
}

impl Counts {
    fn of(places: Arc<Places>, tally: &Tally) -> Self {
        let mut counts = vec![0; places.len];
        for (at, here) in tally.slots() {
            counts[places.of[at] as usize] += here.active;
        }
        Self { places, counts }
    }

    /// How many are in the place of the slot.
    pub(super) fn at(&self, at: usize) -> u32 {
        self.counts[self.places.of[at] as usize]
    }

    fn add(&mut self, at: usize, more: i64) {
        let count = &mut self.counts[self.places.of[at] as usize];
        *count = plus(*count, more);
    }
}

impl Presence {
    fn empty(within: &Domain, board: &Board) -> Self {
        Self {
            within: within.clone(),
            places: (*within != Domain::Host).then(|| board.places(within)),
            counts: FxHashMap::default(),
        }
    }

    pub(super) fn is_at(&self, at: usize) -> bool {
        !self.counts.is_empty() && self.counts.get(&self.place(at)).is_some_and(|n| *n > 0)
    }

    pub(super) fn is_nowhere(&self) -> bool {
        self.counts.values().all(|n| *n <= 0)
    }

    fn add(&mut self, at: usize, more: i64) {
        let place = self.place(at);
        *self.counts.entry(place).or_default() += more;
    }

    fn place(&self, at: usize) -> u32 {
        match &self.places {
            Some(places) => places.of[at],
            None => number(at),
        }
    }
}

impl Floors {
    /// Before any place is known to be able to take the job.
    pub(super) fn none(plan: &Plan) -> Self {
        Self {
            by_domain: vec![u32::MAX; plan.spreads.len()],
            host: u32::MAX,
        }
    }

    /// The place of the slot can take the job.
    pub(super) fn lower(&mut self, plan: &Plan, at: usize) {
        for (floor, counts) in self.by_domain.iter_mut().zip(&plan.spreads) {
            *floor = (*floor).min(counts.at(at));
        }
    }

    pub(super) fn of(&self, tally: &Tally, domain: &Domain) -> u32 {
        let domains = &tally.planned().shape.domains;
        let n = domains.iter().position(|d| d == domain);
        n.and_then(|n| self.by_domain.get(n)).copied().unwrap_or(0)
    }
}
