//! How the best host is found: by looking at all, or by asking an index; both find the same.

use std::cmp::Ordering;

use crate::{
    Domain, JobSpec,
    placement::{
        Board, Candidate, Need, Placer, Tally,
        index::Index,
        placer::{Stage, has_max_skew, skew},
        plan::Floors,
        tournament::Key,
    },
};

/// How a [`Placer`] searches for the best host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Search {
    /// The best host, by an index where that pays and by looking at all hosts where it does not. The choice is the same
    /// either way.
    #[default]
    Exact,
    /// The best host, by looking at all hosts. The plain way, against which the index is tested.
    Scan,
    /// The best of some hosts: hosts are drawn (always the same ones for the same board) until this many can take the
    /// job. If eight times as many were drawn in vain, all are looked at, so what fits is always placed. A condition on
    /// skew is always searched exactly. For cells with more shapes of jobs than can be indexed, where a good host now is
    /// better than the best host later. (Mitzenmacher, "The Power of Two Choices", 2001.)
    Sampled(u32),
}

impl Placer {
    /// The best slot for the need; the tally is prepared.
    pub(super) fn best(
        &self,
        need: &Need<'_>,
        board: &mut Board,
        tally: &mut Tally,
        is_one_of_many: bool,
    ) -> Option<usize> {
        match self.search {
            Search::Scan => return self.scan(need, board, tally, 0..board.len()),
            Search::Sampled(some) if !has_max_skew(need.spec) => {
                if let Some(slot) = self.sample(need, board, tally, some) {
                    return Some(slot);
                }
            }
            Search::Exact | Search::Sampled(_) => {}
        }
        if self.reads_everything || board.len() <= FEW || has_max_skew_over_hosts(need.spec) {
            return self.scan(need, board, tally, 0..board.len());
        }
        let Some(at) = board.indexes.find(tally, is_one_of_many) else {
            return self.scan(need, board, tally, 0..board.len());
        };
        let mut index = match board.indexes.take(at) {
            Some(index) => index,
            None => Index::of(self, need, board, tally),
        };
        let any_can = index.bring_up(self, need, board, tally);
        let best = if any_can {
            self.ask(&index, need, board, tally)
        } else {
            self.scan(need, board, tally, index.special())
        };
        board.indexes.put(at, index);
        best
    }

    /// The best of these slots, each looked at.
    fn scan(
        &self,
        need: &Need<'_>,
        board: &Board,
        tally: &Tally,
        slots: impl Iterator<Item = usize>,
    ) -> Option<usize> {
        let admitted = self.admitted(need, board, tally, slots);
        let floors = Floors::among(tally, &admitted);
        let is_skewed = has_max_skew(need.spec);
        let mut best: Option<(usize, Key)> = None;
        for slot in admitted {
            let candidate = Candidate::on(board, slot, tally, Some(&floors));
            if is_skewed && skew(need, &candidate, &floors).is_some() {
                continue;
            }
            let key = Key {
                points: self.total(need, &candidate),
                jobs: u32::try_from(candidate.jobs).unwrap_or(u32::MAX),
            };
            if is_better((slot, key), best) {
                best = Some((slot, key));
            }
        }
        best.map(|(slot, _)| slot)
    }

    /// The best slot by the index, which is up to date.
    fn ask(&self, index: &Index, need: &Need<'_>, board: &Board, tally: &Tally) -> Option<usize> {
        let plan = tally.planned();
        let mut floors = Floors::none(plan);
        let mut open: Vec<(usize, Key)> = Vec::new();
        for class in 0..index.tree.classes() {
            let (slot, key) = index.tree.best(class);
            if key.is_out() {
                continue;
            }
            let candidate = Candidate::on(board, slot, tally, None);
            if self.admits(Stage::Place, need, plan, &candidate) {
                floors.lower(plan, slot);
                open.push((slot, key));
            }
        }
        let is_skewed = has_max_skew(need.spec);
        let mut best: Option<(usize, Key)> = None;
        for (slot, key) in open {
            let candidate = Candidate::on(board, slot, tally, Some(&floors));
            if is_skewed && skew(need, &candidate, &floors).is_some() {
                continue;
            }
            let worth = self
                .worth(Stage::Place, need, plan, &candidate)
                .unwrap_or(0);
            let points = key.points + worth;
            if is_better((slot, Key { points, ..key }), best) {
                best = Some((slot, Key { points, ..key }));
            }
        }
        best.map(|(slot, _)| slot)
    }

    /// The best of some slots that are drawn.
    fn sample(&self, need: &Need<'_>, board: &Board, tally: &Tally, some: u32) -> Option<usize> {
        let hosts = board.len() as u64;
        if hosts == 0 {
            return None;
        }
        let mut seed = board.claims.count ^ need.group.as_str().len() as u64;
        let mut drawn: Vec<usize> = Vec::new();
        for _ in 0..some.saturating_mul(8) {
            let slot = usize::try_from(draw(&mut seed) % hosts).unwrap_or_default();
            let candidate = Candidate::on(board, slot, tally, None);
            if !drawn.contains(&slot) && self.rejecting(need, &candidate).is_none() {
                drawn.push(slot);
            }
            if drawn.len() >= some as usize {
                break;
            }
        }
        self.scan(need, board, tally, drawn.into_iter())
    }
}

impl Floors {
    /// The floors among the places of slots that can take the job.
    pub(super) fn among(tally: &Tally, admitted: &[usize]) -> Self {
        let plan = tally.planned();
        let mut floors = Self::none(plan);
        for slot in admitted {
            floors.lower(plan, *slot);
            floors.host = floors.host.min(tally.here(*slot).active);
        }
        floors
    }
}

/// Below this many hosts, looking at all is faster than keeping an index.
const FEW: usize = 32;

fn is_better((slot, key): (usize, Key), best: Option<(usize, Key)>) -> bool {
    best.is_none_or(|(than, best)| key.order(best).then(slot.cmp(&than)) == Ordering::Less)
}

fn has_max_skew_over_hosts(spec: &JobSpec) -> bool {
    spec.spread
        .iter()
        .any(|spread| spread.over == Domain::Host && spread.max_skew.is_some())
}

/// The next of a sequence of well-mixed numbers. (Steele, Lea, Flood, "Fast splittable pseudorandom number generators",
/// 2014.)
fn draw(seed: &mut u64) -> u64 {
    *seed = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let z = (*seed ^ (*seed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}
