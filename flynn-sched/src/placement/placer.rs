//! Filters, then scores, then the best.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::{
    Domain, HostId, JobSpec,
    placement::{
        AffinitiesToHosts, AffinitiesToPlaces, AskedSpread, AskedSpreadOverHosts, AvoidFailures,
        Board, Candidate, Constraints, DistinctHosts, Filter, FixedPorts, FreeResources, Lack,
        LeastLoaded, Locality, NamedResources, NearAndApart, NearAndApartOnHosts, Need, Reads,
        Schedulable, Score, Search, SpreadHosts, SpreadZones, Taints, Tally, Untainted, Why,
        places::number,
        plan::{Floors, Plan},
        points, why,
    },
};

/// Filters, then scores, then the best.
#[derive(Debug)]
pub struct Placer {
    /// Tells it from others.
    pub(super) id: u64,
    pub(super) filters: Vec<Box<dyn Filter>>,
    pub(super) scores: Vec<(Box<dyn Score>, f64)>,
    pub(super) search: Search,
    stages: [Of; Stage::COUNT],
    /// Something looks at everything, so everything must be looked at.
    pub(super) reads_everything: bool,
}

/// At which point of a search a filter or score is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stage {
    /// When a host says something new of itself.
    Host,
    /// When what is promised on a host changes.
    Load,
    /// When the group changes, for the hosts that are special to it.
    Group,
    /// For every job, once for each class of hosts.
    Place,
}

/// The filters and scores of a stage, by position.
#[derive(Debug, Default)]
struct Of {
    filters: Vec<usize>,
    scores: Vec<usize>,
}

impl Default for Placer {
    /// What [`ServiceScheduler`](crate::scheduler::ServiceScheduler) uses: every filter that commits insist on; what the
    /// job asks for; spread over hosts before zones before load, away from hosts where jobs of the group failed, and
    /// towards hosts that have the job's files.
    fn default() -> Self {
        Self::new()
            .with_wishes()
            .with_score(SpreadHosts, 4.0)
            .with_score(AvoidFailures, 3.0)
            .with_score(SpreadZones, 2.0)
            .with_score(LeastLoaded, 1.0)
            .with_score(Locality, 0.5)
    }
}

impl Placer {
    /// A placer that knows what commits insist on, and prefers nothing.
    #[must_use]
    pub fn new() -> Self {
        let filters: Vec<Box<dyn Filter>> = vec![
            Box::new(Schedulable),
            Box::new(Taints),
            Box::new(Constraints),
            Box::new(NearAndApart),
            Box::new(NearAndApartOnHosts),
            Box::new(DistinctHosts),
            Box::new(FixedPorts),
            Box::new(NamedResources),
            Box::new(FreeResources),
        ];
        let placer = Self {
            id: 0,
            filters,
            scores: Vec::new(),
            search: Search::default(),
            stages: Default::default(),
            reads_everything: false,
        };
        placer.sorted()
    }

    /// Adds the scores of what jobs ask for themselves: their spread and their affinities, and that they keep away from
    /// hosts whose taints prefer that.
    #[must_use]
    pub fn with_wishes(self) -> Self {
        self.with_score(Untainted, 20.0)
            .with_score(AskedSpread, 4.0)
            .with_score(AskedSpreadOverHosts, 4.0)
            .with_score(AffinitiesToPlaces, 4.0)
            .with_score(AffinitiesToHosts, 4.0)
    }

    /// Adds a filter behind the others.
    #[must_use]
    pub fn with_filter(mut self, filter: impl Filter + 'static) -> Self {
        self.filters.push(Box::new(filter));
        self.sorted()
    }

    /// Adds a score that counts `weight` times. Weights are kept within ±1,000,000; what is not a number counts nothing.
    #[must_use]
    pub fn with_score(mut self, score: impl Score + 'static, weight: f64) -> Self {
        self.scores.push((Box::new(score), points::weight(weight)));
        self.sorted()
    }

    /// Searches in another way than the best one that is always right.
    #[must_use]
    pub fn with_search(mut self, search: Search) -> Self {
        self.search = search;
        self.sorted()
    }

    /// Sorts filters and scores by what they read.
    fn sorted(mut self) -> Self {
        static IDS: AtomicU64 = AtomicU64::new(0);
        self.id = IDS.fetch_add(1, Ordering::Relaxed);
        self.stages = Default::default();
        self.reads_everything = false;
        for (n, filter) in self.filters.iter().enumerate() {
            match Stage::of(&filter.reads()) {
                Some(stage) => self.stages[stage as usize].filters.push(n),
                None => self.reads_everything = true,
            }
        }
        for (n, (score, _)) in self.scores.iter().enumerate() {
            match Stage::of(&score.reads()) {
                Some(stage) => self.stages[stage as usize].scores.push(n),
                None => self.reads_everything = true,
            }
        }
        self
    }

    /// Chooses the best host and claims its room on the board, so that the next job of the round sees it taken.
    ///
    /// Equally good hosts are taken in the order of their number of jobs, then of their ids.
    #[must_use]
    pub fn place(&self, need: &Need<'_>, board: &mut Board, tally: &mut Tally) -> Option<HostId> {
        tally.prepare(self, need, board);
        self.place_one(need, board, tally, false)
    }

    /// Places up to `count` jobs, one after the other; fewer when no host can take another.
    #[must_use]
    pub fn place_many(
        &self,
        need: &Need<'_>,
        count: usize,
        board: &mut Board,
        tally: &mut Tally,
    ) -> Vec<HostId> {
        if count == 0 {
            return Vec::new();
        }
        tally.prepare(self, need, board);
        (0..count)
            .map_while(|_| {
                tally.prepare_again(self, need, board);
                self.place_one(need, board, tally, count > 1)
            })
            .collect()
    }

    /// Places jobs of many groups: up to so many of each need. Returns the hosts of each, in the order of the needs.
    ///
    /// The larger jobs go first: those whose largest share of a middling host is over ½, then those over ¼, and so on;
    /// among them the order is kept. A finer order would pack worse: small jobs of all kinds fill what large ones leave best when they
    /// come mixed. So this is for needs among which none goes first; call it for each priority.
    #[must_use]
    pub fn place_all(&self, wanted: &[(Need<'_>, usize)], board: &mut Board) -> Vec<Vec<HostId>> {
        let state = board.state.clone();
        let room = board.room();
        // As a share of a host of middling size, whose powers of two are where packing turns.
        let hosts = f64::from(number(board.len()));
        let size = |need: &Need<'_>| {
            (hosts * need.spec.request.dominant_share(&room))
                .log2()
                .floor()
        };
        let mut order: Vec<(f64, usize)> = wanted
            .iter()
            .enumerate()
            .map(|(n, (need, _))| (size(need), n))
            .collect();
        order.sort_by(|(a, a_n), (b, b_n)| b.total_cmp(a).then(a_n.cmp(b_n)));
        let mut placed = vec![Vec::new(); wanted.len()];
        for (_, n) in order {
            let (need, count) = &wanted[n];
            let mut tally = board.tally(&state, need.group);
            placed[n] = self.place_many(need, *count, board, &mut tally);
        }
        placed
    }

    /// The tally is prepared.
    fn place_one(
        &self,
        need: &Need<'_>,
        board: &mut Board,
        tally: &mut Tally,
        is_one_of_many: bool,
    ) -> Option<HostId> {
        if board.quota_exceeded(need.spec).is_some() {
            return None;
        }
        let slot = self.best(need, board, tally, is_one_of_many)?;
        board.claim(slot, need.spec, tally);
        Some(board.id(slot).clone())
    }

    /// Claims room on this one host, if it can take the job.
    ///
    /// # Errors
    ///
    /// The filter that does not admit it, and what it lacks; the host's absence is `schedulable`'s business.
    pub fn place_on(
        &self,
        host: &HostId,
        need: &Need<'_>,
        board: &mut Board,
        tally: &mut Tally,
    ) -> Result<(), (&'static str, Lack)> {
        let Some(slot) = board.slot(host) else {
            let why = "is not in the cluster".to_owned();
            return Err((Schedulable.name(), Lack { why, distance: 1.0 }));
        };
        if let Some(why) = board.quota_exceeded(need.spec) {
            return Err(("quota", Lack { why, distance: 1.0 }));
        }
        tally.prepare(self, need, board);
        let candidate = Candidate::on(board, slot, tally, None);
        if let Some(filter) = self.rejecting(need, &candidate) {
            let filter = &self.filters[filter];
            return Err((filter.name(), filter.lack(need, &candidate)));
        }
        if has_max_skew(need.spec) {
            let admitted = self.admitted(need, board, tally, 0..board.len());
            let floors = Floors::among(tally, &admitted);
            let candidate = Candidate::on(board, slot, tally, Some(&floors));
            if let Some(lack) = skew(need, &candidate, &floors) {
                return Err((SKEW, lack));
            }
        }
        board.claim(slot, need.spec, tally);
        Ok(())
    }

    /// Explains where a job would go, or what it lacks.
    #[must_use]
    pub fn why(&self, need: &Need<'_>, board: &Board, tally: &Tally) -> Why {
        let mut tally = tally.clone();
        tally.prepare(self, need, board);
        why::explain(self, need, board, &tally)
    }

    /// What [`why`](Self::why) says in its one sentence, for much less: nothing is listed.
    #[must_use]
    pub fn why_in_short(&self, need: &Need<'_>, board: &Board, tally: &Tally) -> String {
        let mut tally = tally.clone();
        tally.prepare(self, need, board);
        why::sentence(self, need, board, &tally)
    }

    /// What its filters and scores read.
    pub(super) fn reads(&self) -> impl Iterator<Item = Reads> {
        let filters = self.filters.iter().map(|filter| filter.reads());
        filters.chain(self.scores.iter().map(|(score, _)| score.reads()))
    }

    /// The first filter that does not admit the candidate, by position.
    pub(super) fn rejecting(&self, need: &Need<'_>, candidate: &Candidate<'_>) -> Option<usize> {
        self.filters
            .iter()
            .position(|filter| !filter.admits(need, candidate))
    }

    /// Those of the slots that every filter admits.
    pub(super) fn admitted(
        &self,
        need: &Need<'_>,
        board: &Board,
        tally: &Tally,
        slots: impl Iterator<Item = usize>,
    ) -> Vec<usize> {
        slots
            .filter(|slot| {
                let candidate = Candidate::on(board, *slot, tally, None);
                self.rejecting(need, &candidate).is_none()
            })
            .collect()
    }

    /// What the candidate's scores count together.
    pub(super) fn total(&self, need: &Need<'_>, candidate: &Candidate<'_>) -> i64 {
        self.scores
            .iter()
            .map(|(score, weight)| points::points(*weight, score.score(need, candidate)))
            .sum()
    }

    /// The filters of each stage that could keep a host from such a job.
    pub(super) fn concerned(&self, need: &Need<'_>) -> [Vec<usize>; Stage::COUNT] {
        let concerns = |n: &usize| self.filters[*n].concerns(need);
        std::array::from_fn(|stage| {
            let filters = self.stages[stage].filters.iter().copied();
            filters.filter(concerns).collect()
        })
    }

    /// Does every filter of the stage admit the candidate?
    pub(super) fn admits(
        &self,
        stage: Stage,
        need: &Need<'_>,
        plan: &Plan,
        candidate: &Candidate<'_>,
    ) -> bool {
        let mut filters = plan.filters[stage as usize].iter();
        filters.all(|n| self.filters[*n].admits(need, candidate))
    }

    /// What the scores of a stage count together; `None` if a filter of the stage does not admit the candidate.
    pub(super) fn worth(
        &self,
        stage: Stage,
        need: &Need<'_>,
        plan: &Plan,
        candidate: &Candidate<'_>,
    ) -> Option<i64> {
        if !self.admits(stage, need, plan, candidate) {
            return None;
        }
        let scores = self.stages[stage as usize].scores.iter();
        let scores = scores.map(|n| &self.scores[*n]);
        Some(
            scores
                .map(|(score, weight)| points::points(*weight, score.score(need, candidate)))
                .sum(),
        )
    }
}

impl Stage {
    pub(super) const COUNT: usize = 4;

    fn of(reads: &Reads) -> Option<Self> {
        match reads {
            Reads::Host | Reads::Files => Some(Self::Host),
            Reads::Load => Some(Self::Load),
            Reads::Group | Reads::Place(Domain::Host) => Some(Self::Group),
            Reads::Place(_) | Reads::Places => Some(Self::Place),
            Reads::Everything => None,
        }
    }
}

/// The name of the condition in [`Spread::max_skew`](crate::Spread::max_skew), which is no filter because it compares
/// hosts.
pub(super) const SKEW: &str = "max skew";

pub(super) fn has_max_skew(spec: &JobSpec) -> bool {
    spec.spread.iter().any(|spread| spread.max_skew.is_some())
}

/// Why one more job in the host's place would be too much beside the emptiest place; `None` if it would not.
pub(super) fn skew(need: &Need<'_>, candidate: &Candidate<'_>, floors: &Floors) -> Option<Lack> {
    need.spec.spread.iter().find_map(|spread| {
        let most = spread.max_skew?.max(1);
        let fewest = match &spread.over {
            Domain::Host => floors.host,
            domain => candidate.fewest_in(domain),
        };
        let there = candidate.group_in(&spread.over);
        let over = there.saturating_add(1).checked_sub(fewest.saturating_add(most))?;
        (over > 0).then(|| Lack {
            why: format!(
                "its {} has {there} jobs of the group, the emptiest that can take one has {fewest}, and they may differ \
                 by {most}",
                spread.over.name()
            ),
            distance: f64::from(over),
        })
    })
}
