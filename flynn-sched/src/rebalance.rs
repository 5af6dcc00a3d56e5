//! Rebalancing: which running jobs stand so badly that moving them is worth it.
//!
//! After losses and returns of hosts, jobs stand where there was room at the time: all copies of an app on two of three
//! hosts, a full host beside an empty one. Nothing is wrong with that, so no other scheduler touches it.
//! [`Rebalancer::plan`] computes a few moves that are worth more than they cost; it is pure, and
//! [`RebalanceScheduler`](crate::scheduler::RebalanceScheduler) carries them out.
//!
//! **Gain.** [`Imbalance`] is the sum of two parts, and every move makes the sum smaller by more than it costs, and the
//! first part no larger:
//!
//! - *spread*: for each service, Σ n² / N over its n jobs on each host, half of the same over zones, and as its
//!   [`JobSpec::spread`](crate::JobSpec::spread) wishes over other places (a weight of 50 counts once). N jobs on one
//!   host are N, evenly spread they are next to N / hosts.
//! - *load*: Σ share² over hosts, where a host's share is that of its scarcest resource that is promised. Of all ways to
//!   distribute the same jobs over equal hosts it is smallest when all are equally full: it is the variance, but for a
//!   constant.
//!
//! **Cost.** A little for every move; more for more memory, which must be warmed again, for a longer time up, and for
//! a higher priority. A job with volumes stays where they are, unless [`Rebalancer::with_volume_cost`] says what leaving
//! them behind is worth.
//!
//! **Limits.** Never more than [`with_most`](Rebalancer::with_most) moves at once in the cell and one a group; never
//! before [`with_pause`](Rebalancer::with_pause) has passed since a job of the group was placed, or a host came or went;
//! never a job that its group's [`Budget`](crate::Budget) needs, of a group that lacks jobs, or whose move a commit would
//! refuse. Since the imbalance falls with every move by more than a fixed amount, moves come to an end, and none is ever
//! taken back.

mod picture;
mod rules;
mod spread;

use std::time::Duration;

use crate::{ClusterState, GroupId, HostId, JobId, Resources, clock::millis};

use picture::{Picture, Source};

/// How badly jobs stand, less is better. What is being moved counts where it will be, and what leaves does not count.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Imbalance {
    /// How unevenly services are spread.
    pub spread: f64,
    /// How unevenly hosts are loaded.
    pub load: f64,
}

impl Imbalance {
    /// Of the cell as it is.
    #[must_use]
    pub fn of(state: &ClusterState) -> Self {
        Picture::of(state).imbalance()
    }

    /// Both parts.
    #[must_use]
    pub fn total(&self) -> f64 {
        self.spread + self.load
    }
}

/// A job that should be elsewhere.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Move {
    /// The job.
    pub job: JobId,
    /// Its group.
    pub group: GroupId,
    /// Where it is.
    pub from: HostId,
    /// Where a job in its place has room.
    pub to: HostId,
    /// By how much the imbalance falls.
    pub gain: f64,
    /// What the move costs, on the same scale; less than the gain, by the weight of costs.
    pub cost: f64,
    /// Why, in a sentence fragment, such as `host a has 3 jobs of the group and host b has none`.
    pub why: String,
}

impl std::fmt::Display for Move {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "job {} of group {} moves from host {} to host {}: {} (gain {:.3}, cost {:.3})",
            self.job, self.group, self.from, self.to, self.why, self.gain, self.cost
        )
    }
}

/// What should be moved now.
#[derive(Debug, Clone, Default, PartialEq)]
#[non_exhaustive]
pub struct Moves {
    /// The moves, the most worthwhile first. Each holds beside those before it.
    pub moves: Vec<Move>,
    /// When there may be more, in milliseconds since the Unix epoch: something that stands badly may not be moved yet.
    pub wake_at_ms: Option<u64>,
}

/// How eagerly jobs are moved.
#[derive(Debug, Clone, PartialEq)]
pub struct Rebalancer {
    most: u32,
    pause: Duration,
    cost_weight: f64,
    volume_cost: Option<f64>,
}

impl Default for Rebalancer {
    fn default() -> Self {
        Self {
            most: Self::MOST,
            pause: Self::PAUSE,
            cost_weight: 1.0,
            volume_cost: None,
        }
    }
}

impl Rebalancer {
    /// Default of [`with_most`](Self::with_most).
    pub const MOST: u32 = 4;
    /// Default of [`with_pause`](Self::with_pause).
    pub const PAUSE: Duration = Duration::from_secs(300);
    /// What a move of the smallest job costs.
    pub const COST_OF_A_MOVE: f64 = 0.002;
    /// What it costs to move all the memory of a host.
    pub const COST_OF_MEMORY: f64 = 0.2;
    /// What it costs to move a job that has been up for a day or longer; less in proportion before.
    pub const COST_OF_A_DAY: f64 = 0.002;
    /// The smallest weight of costs: without any cost, moves might not come to an end.
    pub const LEAST_WEIGHT: f64 = 0.01;
    /// How many pairs of a job and a host are looked at for one plan; those that promise most come first.
    pub const MAX_PAIRS: usize = 2_000_000;

    /// The defaults.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// How many jobs of the cell may be on the move at once. 0 moves none.
    #[must_use]
    pub fn with_most(mut self, most: u32) -> Self {
        self.most = most;
        self
    }

    /// How long a group rests after one of its jobs was placed, and the cell after a host came or went.
    #[must_use]
    pub fn with_pause(mut self, pause: Duration) -> Self {
        self.pause = pause;
        self
    }

    /// How much costs count against gains: 1 by default, more to move less. At least
    /// [`LEAST_WEIGHT`](Self::LEAST_WEIGHT); what is not a number counts as 1.
    #[must_use]
    pub fn with_cost_weight(mut self, weight: f64) -> Self {
        let weight = if weight.is_nan() { 1.0 } else { weight };
        self.cost_weight = weight.max(Self::LEAST_WEIGHT);
        self
    }

    /// Moves jobs with volumes too, at this cost for each volume that stays behind. Their data stays on the old host: only
    /// for jobs that can fetch it again.
    #[must_use]
    pub fn with_volume_cost(mut self, cost: f64) -> Self {
        self.volume_cost = (cost >= 0.0).then_some(cost);
        self
    }

    /// What should be moved now.
    #[must_use]
    pub fn plan(&self, state: &ClusterState, now_ms: u64) -> Moves {
        let mut plan = Moves::default();
        let on_the_move = state.jobs().filter(|job| job.is_moving()).count();
        let left = usize::try_from(self.most)
            .unwrap_or(usize::MAX)
            .saturating_sub(on_the_move);
        if left == 0 {
            return plan;
        }
        let pause_ms = millis(self.pause);
        let changed = state.hosts().map(|host| {
            let gone = host.lost_since_ms.unwrap_or_default();
            gone.max(host.joined_ms)
        });
        let end = changed.max().unwrap_or_default().saturating_add(pause_ms);
        if now_ms < end {
            plan.wake_at_ms = Some(end);
            return plan;
        }
        let mut picture = Picture::of(state);
        let mut candidates = self.candidates(&picture, now_ms, pause_ms, &mut plan.wake_at_ms);
        candidates.sort_by(|a, b| {
            (b.gain - b.cost)
                .total_cmp(&(a.gain - a.cost))
                .then_with(|| a.source.job.id.cmp(&b.source.job.id))
        });
        let mut state = state.clone();
        let mut moved: Vec<usize> = Vec::new();
        for candidate in candidates {
            if plan.moves.len() >= left {
                break;
            }
            if moved.contains(&candidate.source.group) {
                continue;
            }
            // Moves before it have changed what it is worth.
            let Some(gain) = picture.gain(&candidate.source, candidate.to) else {
                continue;
            };
            if gain <= candidate.cost * self.cost_weight {
                continue;
            }
            let Some(next) = rules::apply(&state, &picture, &candidate, now_ms) else {
                continue;
            };
            state = next;
            plan.moves.push(Move {
                job: candidate.source.job.id.clone(),
                group: candidate.source.job.group.clone(),
                from: candidate.source.job.host.clone(),
                to: picture.host(candidate.to).host.id.clone(),
                gain,
                cost: candidate.cost,
                why: picture.why(&candidate.source, candidate.to),
            });
            moved.push(candidate.source.group);
            picture.carry_out(&candidate.source, candidate.to);
        }
        plan
    }

    /// Moves that are worth it, each by itself; for each job some hosts, the best first.
    fn candidates<'s>(
        &self,
        picture: &Picture<'s>,
        now_ms: u64,
        pause_ms: u64,
        wake_at_ms: &mut Option<u64>,
    ) -> Vec<Candidate<'s>> {
        let mut pairs = 0;
        let mut found = Vec::new();
        for source in picture.sources() {
            if pairs >= Self::MAX_PAIRS {
                break;
            }
            let Some(cost) = self.cost(picture, &source, now_ms) else {
                continue;
            };
            if picture.most_gain(&source) <= cost * self.cost_weight {
                continue;
            }
            let mut best: Vec<Candidate<'s>> = Vec::new();
            for to in 0..picture.len() {
                pairs += 1;
                let Some(gain) = picture.gain(&source, to) else {
                    continue;
                };
                let is_worth_it = gain > cost * self.cost_weight;
                let is_better = best.len() < KEPT || best.last().is_some_and(|b| gain > b.gain);
                if is_worth_it && is_better && picture.may_go(&source, to) {
                    let at = best.partition_point(|b| b.gain >= gain);
                    let candidate = Candidate {
                        source,
                        to,
                        gain,
                        cost,
                    };
                    best.insert(at, candidate);
                    best.truncate(KEPT);
                }
            }
            if best.is_empty() {
                continue;
            }
            // Only now, so that nobody is woken for a job that stands well.
            match picture.may_leave(&source, now_ms, pause_ms) {
                rules::Leave::Now => found.extend(best),
                rules::Leave::At(ms) => {
                    *wake_at_ms = Some(wake_at_ms.map_or(ms, |earlier| earlier.min(ms)));
                }
                rules::Leave::No => {}
            }
        }
        found
    }

    /// What moving it costs; `None` if it must not be moved.
    #[expect(
        clippy::cast_precision_loss,
        reason = "a cost needs no more than 52 bits"
    )]
    fn cost(&self, picture: &Picture<'_>, source: &Source<'_>, now_ms: u64) -> Option<f64> {
        let spec = &source.job.spec;
        let volumes = match (spec.volumes.len(), self.volume_cost) {
            (0, _) => 0.0,
            (_, None) => return None,
            (n, Some(cost)) => n as f64 * cost,
        };
        let memory = Resources {
            memory_bytes: spec.request.memory_bytes,
            ..Resources::default()
        };
        let memory = memory.dominant_share(&picture.host(source.from).host.allocatable());
        let started_ms = source.job.status.started_at_ms;
        let up_ms = now_ms.saturating_sub(started_ms.unwrap_or(source.job.placed_at_ms));
        let days = (up_ms as f64 / DAY_MS).min(1.0);
        let part = Self::COST_OF_A_MOVE
            + Self::COST_OF_MEMORY * memory
            + Self::COST_OF_A_DAY * days
            + volumes;
        // The default priority of 50 counts once, 0 half and 100 one and a half times.
        Some(part * (0.5 + f64::from(picture.priority(source)) / 100.0))
    }
}

/// A move that is worth it by itself.
struct Candidate<'s> {
    source: Source<'s>,
    to: usize,
    gain: f64,
    cost: f64,
}

/// How many hosts are kept for each job: the best may be refused.
const KEPT: usize = 4;
const DAY_MS: f64 = 86_400_000.0;
