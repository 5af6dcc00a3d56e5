//! Why a job would go where it goes, or nowhere.

use std::fmt;

use crate::{
    HostId,
    placement::{
        Board, Candidate, Lack, Need, Placer, Tally,
        placer::{SKEW, skew},
        plan::Floors,
        points,
    },
};

/// Why a job would go where it goes, or nowhere. Its [`Display`](fmt::Display) is one sentence.
#[derive(Debug, Clone, PartialEq)]
pub struct Why {
    /// How many hosts there are.
    pub hosts: usize,
    /// The hosts that cannot take it, by the first filter that says so, in the order of filters.
    pub rejected: Vec<Rejected>,
    /// The hosts that can, the best first, at most [`Why::BEST`].
    pub best: Vec<Ranked>,
    /// Of the hosts that cannot, the one that came nearest, and what it lacks.
    pub nearest: Option<(HostId, Lack)>,
    /// Why it cannot be placed on any host: its namespace's quota is used up.
    pub quota: Option<String>,
}

impl Why {
    /// How many of the best are listed.
    pub const BEST: usize = 5;
}

/// The hosts that one filter does not admit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rejected {
    /// The filter's name.
    pub filter: &'static str,
    /// The hosts, by id.
    pub hosts: Vec<HostId>,
}

/// A host that can take the job, and how good it is.
#[derive(Debug, Clone, PartialEq)]
pub struct Ranked {
    /// The host.
    pub host: HostId,
    /// The weighted sum.
    pub total: f64,
    /// Each score's part in it: its name, and its value (between 0 and 1) times its weight.
    pub parts: Vec<(&'static str, f64)>,
}

/// The hosts by what becomes of them.
struct Sorted {
    /// Those that can take the job, but for `skewed`.
    admitted: Vec<usize>,
    /// By the filter that rejects them; last those that only the condition on skew does.
    rejected: Vec<Vec<usize>>,
    floors: Floors,
}

impl Sorted {
    fn of(placer: &Placer, need: &Need<'_>, board: &Board, tally: &Tally) -> Self {
        let mut admitted = Vec::new();
        let mut rejected: Vec<Vec<usize>> = vec![Vec::new(); placer.filters.len() + 1];
        for slot in 0..board.len() {
            let candidate = Candidate::on(board, slot, tally, None);
            match placer.rejecting(need, &candidate) {
                Some(filter) => rejected[filter].push(slot),
                None => admitted.push(slot),
            }
        }
        let floors = Floors::among(tally, &admitted);
        let at = |slot: usize| Candidate::on(board, slot, tally, Some(&floors));
        let (skewed, admitted): (Vec<usize>, Vec<usize>) = admitted
            .into_iter()
            .partition(|slot| skew(need, &at(*slot), &floors).is_some());
        rejected[placer.filters.len()] = skewed;
        Self {
            admitted,
            rejected,
            floors,
        }
    }

    /// The host that came nearest of those that cannot take the job, and what it lacks. One that passed more filters came
    /// nearer.
    fn nearest(
        &self,
        placer: &Placer,
        need: &Need<'_>,
        board: &Board,
        tally: &Tally,
    ) -> Option<(HostId, Lack)> {
        let at = |slot: usize| Candidate::on(board, slot, tally, Some(&self.floors));
        let skewed = |slot: usize| {
            skew(need, &at(slot), &self.floors).expect("it was rejected for its skew")
        };
        let last = self.rejected.iter().rposition(|slots| !slots.is_empty())?;
        let filter = placer.filters.get(last);
        let distance = |slot: usize| match filter {
            Some(filter) => filter.distance(need, &at(slot)),
            None => skewed(slot).distance,
        };
        let slots = self.rejected[last].iter();
        let (slot, _) = slots
            .map(|slot| (*slot, distance(*slot)))
            .min_by(|(_, a), (_, b)| a.total_cmp(b))?;
        let lack = match filter {
            Some(filter) => filter.lack(need, &at(slot)),
            None => skewed(slot),
        };
        Some((board.id(slot).clone(), lack))
    }
}

pub(super) fn explain(placer: &Placer, need: &Need<'_>, board: &Board, tally: &Tally) -> Why {
    let sorted = Sorted::of(placer, need, board, tally);
    let nearest = sorted.nearest(placer, need, board, tally);
    let ids = |slots: &[usize]| slots.iter().map(|slot| board.id(*slot).clone()).collect();
    let rejected = sorted
        .rejected
        .iter()
        .enumerate()
        .filter(|(_, slots)| !slots.is_empty())
        .map(|(filter, slots)| Rejected {
            filter: name(placer, filter),
            hosts: ids(slots),
        })
        .collect();
    let at = |slot: usize| Candidate::on(board, slot, tally, Some(&sorted.floors));
    let mut ranked: Vec<(usize, Ranked)> = sorted
        .admitted
        .iter()
        .map(|slot| rank(placer, need, &at(*slot)))
        .collect();
    ranked.sort_by(|(a_jobs, a), (b_jobs, b)| {
        b.total
            .total_cmp(&a.total)
            .then_with(|| a_jobs.cmp(b_jobs))
            .then_with(|| a.host.cmp(&b.host))
    });
    ranked.truncate(Why::BEST);
    Why {
        hosts: board.len(),
        rejected,
        best: ranked.into_iter().map(|(_, ranked)| ranked).collect(),
        nearest,
        quota: board.quota_exceeded(need.spec),
    }
}

/// The same in its sentence, for those who want to know nothing else: no host is named that the sentence does not name.
pub(super) fn sentence(placer: &Placer, need: &Need<'_>, board: &Board, tally: &Tally) -> String {
    let sorted = Sorted::of(placer, need, board, tally);
    if !sorted.admitted.is_empty() {
        return explain(placer, need, board, tally).to_string();
    }
    let rejected = sorted.rejected.iter().enumerate();
    let summary = Summary {
        hosts: board.len(),
        rejected: rejected
            .map(|(filter, slots)| (name(placer, filter), slots.len()))
            .filter(|(_, hosts)| *hosts > 0)
            .collect(),
        best: None,
        nearest: &sorted.nearest(placer, need, board, tally),
        quota: &board.quota_exceeded(need.spec),
    };
    summary.to_string()
}

fn name(placer: &Placer, filter: usize) -> &'static str {
    placer
        .filters
        .get(filter)
        .map_or(SKEW, |filter| filter.name())
}

/// The candidate with the parts of its total, and its number of jobs.
fn rank(placer: &Placer, need: &Need<'_>, candidate: &Candidate<'_>) -> (usize, Ranked) {
    let parts = placer.scores.iter().map(|(score, weight)| {
        let points = points::points(*weight, score.score(need, candidate));
        (score.name(), points::readable(points))
    });
    let ranked = Ranked {
        host: candidate.host.id.clone(),
        total: points::readable(placer.total(need, candidate)),
        parts: parts.collect(),
    };
    (candidate.jobs, ranked)
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let rejected = self.rejected.iter();
        let summary = Summary {
            hosts: self.hosts,
            rejected: rejected
                .map(|rejected| (rejected.filter, rejected.hosts.len()))
                .collect(),
            best: self.best.first().map(|best| &best.host),
            nearest: &self.nearest,
            quota: &self.quota,
        };
        summary.fmt(f)
    }
}

/// What is said of it in one sentence.
struct Summary<'w> {
    hosts: usize,
    rejected: Vec<(&'static str, usize)>,
    best: Option<&'w HostId>,
    nearest: &'w Option<(HostId, Lack)>,
    quota: &'w Option<String>,
}

impl fmt::Display for Summary<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(quota) = self.quota {
            return f.write_str(quota);
        }
        if let Some(best) = self.best {
            return write!(f, "host {best} is the best of {}", self.hosts);
        }
        if self.hosts == 0 {
            return f.write_str("there are no hosts");
        }
        match self.hosts {
            1 => f.write_str("the one host cannot take it ("),
            n => write!(f, "none of {n} hosts can take it ("),
        }?;
        for (n, (filter, hosts)) in self.rejected.iter().enumerate() {
            let comma = if n == 0 { "" } else { ", " };
            write!(f, "{comma}{filter}: {hosts}")?;
        }
        f.write_str(")")?;
        match self.nearest {
            Some((host, lack)) => write!(f, "; the nearest is {host}: {}", lack.why),
            None => Ok(()),
        }
    }
}
