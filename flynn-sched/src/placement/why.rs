//! Why a job would go where it goes, or nowhere.

use std::fmt;

use crate::{
    HostId,
    placement::{Board, Lack, Need, Placer, Tally, normalised},
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
    /// Each score's part in it: its name and its normalised value times its weight.
    pub parts: Vec<(&'static str, f64)>,
}

pub(super) fn explain(placer: &Placer, need: &Need<'_>, board: &Board, tally: &Tally) -> Why {
    let mut admitted = Vec::new();
    let mut by_filter: Vec<Vec<usize>> = vec![Vec::new(); placer.filters.len()];
    for slot in 0..board.len() {
        match placer.rejecting(need, &board.candidate(slot, tally)) {
            Some(filter) => by_filter[filter].push(slot),
            None => admitted.push(slot),
        }
    }
    // A host that passed more filters came nearer.
    let last = by_filter.iter().rposition(|slots| !slots.is_empty());
    let nearest = last.and_then(|filter| {
        by_filter[filter]
            .iter()
            .map(|slot| {
                let lack = placer.filters[filter].lack(need, &board.candidate(*slot, tally));
                (board.host(*slot).id.clone(), lack)
            })
            .min_by(|(_, a), (_, b)| a.distance.total_cmp(&b.distance))
    });
    let rejected = by_filter
        .into_iter()
        .zip(&placer.filters)
        .filter(|(slots, _)| !slots.is_empty())
        .map(|(slots, filter)| Rejected {
            filter: filter.name(),
            hosts: slots
                .into_iter()
                .map(|slot| board.host(slot).id.clone())
                .collect(),
        })
        .collect();
    Why {
        hosts: board.len(),
        rejected,
        best: rank(placer, need, board, tally, &admitted),
        nearest,
    }
}

fn rank(
    placer: &Placer,
    need: &Need<'_>,
    board: &Board,
    tally: &Tally,
    admitted: &[usize],
) -> Vec<Ranked> {
    let mut ranked: Vec<(usize, Ranked)> = admitted
        .iter()
        .map(|slot| {
            let host = board.host(*slot).id.clone();
            (
                board.jobs(*slot),
                Ranked {
                    host,
                    total: 0.0,
                    parts: Vec::with_capacity(placer.scores.len()),
                },
            )
        })
        .collect();
    for (score, weight) in &placer.scores {
        let parts = normalised(score.as_ref(), need, board, tally, admitted);
        for ((_, ranked), part) in ranked.iter_mut().zip(parts) {
            ranked.total += weight * part;
            ranked.parts.push((score.name(), weight * part));
        }
    }
    ranked.sort_by(|(a_jobs, a), (b_jobs, b)| {
        b.total
            .total_cmp(&a.total)
            .then_with(|| a_jobs.cmp(b_jobs))
            .then_with(|| a.host.cmp(&b.host))
    });
    ranked.truncate(Why::BEST);
    ranked.into_iter().map(|(_, ranked)| ranked).collect()
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
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
