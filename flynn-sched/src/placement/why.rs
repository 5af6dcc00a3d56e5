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

pub(super) fn explain(placer: &Placer, need: &Need<'_>, board: &Board, tally: &Tally) -> Why {
    let mut admitted = Vec::new();
    let mut by_filter: Vec<Vec<usize>> = vec![Vec::new(); placer.filters.len() + 1];
    for slot in 0..board.len() {
        let candidate = Candidate::on(board, slot, tally, None);
        match placer.rejecting(need, &candidate) {
            Some(filter) => by_filter[filter].push(slot),
            None => admitted.push(slot),
        }
    }
    let floors = Floors::among(tally, &admitted);
    let at = |slot: usize| Candidate::on(board, slot, tally, Some(&floors));
    let (skewed, admitted): (Vec<usize>, Vec<usize>) = admitted
        .into_iter()
        .partition(|slot| skew(need, &at(*slot), &floors).is_some());
    by_filter[placer.filters.len()] = skewed;
    let name = |n: usize| placer.filters.get(n).map_or(SKEW, |filter| filter.name());
    let lack = |n: usize, slot: usize| match placer.filters.get(n) {
        Some(filter) => filter.lack(need, &at(slot)),
        None => skew(need, &at(slot), &floors).expect("it was rejected for this"),
    };
    let distance = |n: usize, slot: usize| match placer.filters.get(n) {
        Some(filter) => filter.distance(need, &at(slot)),
        None => lack(n, slot).distance,
    };
    // A host that passed more filters came nearer.
    let last = by_filter.iter().rposition(|slots| !slots.is_empty());
    let nearest = last.and_then(|filter| {
        by_filter[filter]
            .iter()
            .map(|slot| (*slot, distance(filter, *slot)))
            .min_by(|(_, a), (_, b)| a.total_cmp(b))
            .map(|(slot, _)| (board.host(slot).id.clone(), lack(filter, slot)))
    });
    let rejected = by_filter
        .into_iter()
        .enumerate()
        .filter(|(_, slots)| !slots.is_empty())
        .map(|(filter, slots)| Rejected {
            filter: name(filter),
            hosts: slots
                .into_iter()
                .map(|slot| board.host(slot).id.clone())
                .collect(),
        })
        .collect();
    let mut ranked: Vec<(usize, Ranked)> = admitted
        .into_iter()
        .map(|slot| rank(placer, need, &at(slot)))
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
        if let Some(quota) = &self.quota {
            return f.write_str(quota);
        }
        if let Some(best) = self.best.first() {
            return write!(f, "host {} is the best of {}", best.host, self.hosts);
        }
        if self.hosts == 0 {
            return f.write_str("there are no hosts");
        }
        match self.hosts {
            1 => f.write_str("the one host cannot take it ("),
            n => write!(f, "none of {n} hosts can take it ("),
        }?;
        for (n, rejected) in self.rejected.iter().enumerate() {
            let comma = if n == 0 { "" } else { ", " };
            write!(f, "{comma}{}: {}", rejected.filter, rejected.hosts.len())?;
        }
        f.write_str(")")?;
        match &self.nearest {
            Some((host, lack)) => write!(f, "; the nearest is {host}: {}", lack.why),
            None => Ok(()),
        }
    }
}
