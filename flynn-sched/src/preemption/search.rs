//! Which of the jobs of one host to take: a covering problem in as many dimensions as there are resources lacking.

use std::cmp::Reverse;

use crate::{GroupId, Resources, preemption::room::Victim};

/// What is lacking, and what has been found so far.
#[derive(Debug)]
pub(super) struct Task<'t> {
    whole: Resources,
    /// Of cpu, memory and disk, and of the named resources in `names`.
    lacking: Vec<u64>,
    names: Vec<&'t str>,
    /// What goes anyway beyond what is lacking.
    spare: [u64; DIVISIBLE],
    /// How many jobs of a group go anyway.
    gone: Vec<(&'t GroupId, u32)>,
    has_met_budgets: bool,
}

/// A job that may go.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Item {
    frees: Vec<u64>,
    priority: u8,
    /// The place of its group in [`Search::left`], if the group has a budget.
    budget: Option<usize>,
    /// Which of the offered jobs it is.
    of: usize,
}

impl<'t> Task<'t> {
    pub(super) fn new(shortage: Resources, whole: Resources) -> Self {
        Self {
            whole,
            lacking: parts(&shortage).to_vec(),
            names: Vec::new(),
            spare: [0; DIVISIBLE],
            gone: Vec::new(),
            has_met_budgets: false,
        }
    }

    /// This much of a named resource is lacking too.
    pub(super) fn need(&mut self, name: &'t str, amount: u64) {
        if amount > 0 {
            self.names.push(name);
            self.lacking.push(amount);
        }
    }

    /// A job that goes in any case; `false` if its group's budget does not allow it.
    pub(super) fn must(&mut self, victim: &Victim<'t>, is_here: bool, left: Option<u32>) -> bool {
        if let Some(left) = left {
            let group = &victim.job.group;
            let gone = match self.gone.iter_mut().find(|(known, _)| *known == group) {
                Some((_, gone)) => gone,
                None => {
                    self.gone.push((group, 0));
                    &mut self.gone.last_mut().expect("it was just pushed").1
                }
            };
            if *gone >= left {
                return false;
            }
            *gone += u32::from(victim.is_up());
        }
        if is_here {
            for (n, freed) in self.frees(victim).into_iter().enumerate() {
                let more = freed.saturating_sub(self.lacking[n]);
                self.lacking[n] = self.lacking[n].saturating_sub(freed);
                if let Some(spare) = self.spare.get_mut(n) {
                    *spare = spare.saturating_add(more);
                }
            }
        }
        true
    }

    pub(super) fn is_done(&self) -> bool {
        self.lacking.iter().all(|lacking| *lacking == 0)
    }

    /// Would there have been enough if budgets had allowed it?
    pub(super) fn has_met_budgets(&self) -> bool {
        self.has_met_budgets
    }

    fn frees(&self, victim: &Victim<'_>) -> Vec<u64> {
        let spec = &victim.job.spec;
        let divisible = parts(&spec.request).into_iter();
        let named = self.names.iter().map(|name| spec.named.amount(name));
        divisible.chain(named).collect()
    }

    /// The cheapest of the offered jobs, by their positions. They come the least important first, each with how many of
    /// its group may go, if that is bounded. Priorities up to `floor` cost nothing more.
    pub(super) fn fewest(
        &mut self,
        offered: &[(Victim<'t>, Option<u32>)],
        floor: Option<u8>,
    ) -> Option<Vec<usize>> {
        let mut groups: Vec<&GroupId> = Vec::new();
        let mut left: Vec<u32> = Vec::new();
        let mut items: Vec<Item> = Vec::with_capacity(offered.len());
        for (of, (victim, allowed)) in offered.iter().enumerate() {
            let budget = allowed.filter(|_| victim.is_up()).map(|allowed| {
                let group = &victim.job.group;
                groups
                    .iter()
                    .position(|known| *known == group)
                    .unwrap_or_else(|| {
                        let gone = self.gone.iter().find(|(known, _)| *known == group);
                        groups.push(group);
                        left.push(allowed.saturating_sub(gone.map_or(0, |(_, gone)| *gone)));
                        left.len() - 1
                    })
            });
            items.push(Item {
                frees: self.frees(victim),
                priority: victim.priority,
                budget,
                of,
            });
        }
        let mut priorities: Vec<u8> = items.iter().map(|item| item.priority).collect();
        priorities.dedup();
        let free = floor.map_or(0, |floor| priorities.partition_point(|p| *p <= floor));
        for most in priorities.into_iter().skip(free.saturating_sub(1)) {
            let eligible = items.partition_point(|item| item.priority <= most);
            let eligible = &items[..eligible];
            let suffices = self.lacking.iter().enumerate().all(|(n, lacking)| {
                let sum = eligible
                    .iter()
                    .fold(0_u64, |sum, item| sum.saturating_add(item.frees[n]));
                sum >= *lacking
            });
            if !suffices {
                continue;
            }
            if let Some(found) = Search::run(self, eligible, &left) {
                return Some(found);
            }
            self.has_met_budgets = true;
        }
        None
    }
}

/// Looks for the smallest number of items first, and among those of that number for the least important, then for the
/// least overshoot. Exact within [`STEPS`]; beyond that it takes what frees most, and leaves out what proves needless.
struct Search<'a> {
    task: &'a Task<'a>,
    /// Large ones first, equal ones side by side.
    items: Vec<&'a Item>,
    /// The most that any item from here on frees, of each resource.
    largest: Vec<Vec<u64>>,
    left: Vec<u32>,
    steps: usize,
    chosen: Vec<usize>,
    best: Option<(u64, u64, Vec<usize>)>,
}

impl<'a> Search<'a> {
    fn run(task: &'a Task<'_>, eligible: &'a [Item], left: &[u32]) -> Option<Vec<usize>> {
        let useful = |item: &&Item| {
            let mut parts = item.frees.iter().zip(&task.lacking);
            parts.any(|(frees, lacking)| *frees > 0 && *lacking > 0)
        };
        let mut items: Vec<&Item> = eligible.iter().filter(useful).collect();
        items.sort_by_cached_key(|item| {
            (
                Reverse(task.share(&item.frees, &task.lacking)),
                item.frees.clone(),
                item.priority,
                item.budget,
                item.of,
            )
        });
        let mut largest = vec![vec![0; task.lacking.len()]; items.len() + 1];
        for n in (0..items.len()).rev() {
            for (part, most) in items[n].frees.iter().enumerate() {
                largest[n][part] = largest[n + 1][part].max(*most);
            }
        }
        let mut search = Search {
            task,
            items,
            largest,
            left: left.to_vec(),
            steps: 0,
            chosen: Vec::new(),
            best: None,
        };
        for picks in 1..=search.items.len() {
            search.pick(0, picks, &task.lacking.clone(), 0);
            if search.best.is_some() || search.steps > STEPS {
                break;
            }
        }
        match search.best {
            Some((_, _, chosen)) => Some(chosen),
            None if search.steps > STEPS => search.greedy(),
            None => None,
        }
    }

    fn pick(&mut self, from: usize, picks: usize, lacking: &[u64], priorities: u64) {
        self.steps += 1;
        if picks == 0 {
            self.consider(lacking, priorities);
            return;
        }
        for n in from..self.items.len() {
            if self.steps > STEPS || self.items.len() - n < picks {
                return;
            }
            let reach = u64::try_from(picks).unwrap_or(u64::MAX);
            let mut parts = lacking.iter().zip(&self.largest[n]);
            if parts.any(|(lacking, most)| *lacking > most.saturating_mul(reach)) {
                return;
            }
            let item = self.items[n];
            // One of several equal ones is as good as another.
            if n > from && is_alike(item, self.items[n - 1]) {
                continue;
            }
            let sum = priorities + u64::from(item.priority);
            if self.best.as_ref().is_some_and(|(best, ..)| sum > *best) {
                continue;
            }
            if let Some(budget) = item.budget {
                if self.left[budget] == 0 {
                    continue;
                }
                self.left[budget] -= 1;
            }
            let parts = lacking.iter().zip(&item.frees);
            let rest: Vec<u64> = parts
                .map(|(lacking, frees)| lacking.saturating_sub(*frees))
                .collect();
            self.chosen.push(n);
            self.pick(n + 1, picks - 1, &rest, sum);
            self.chosen.pop();
            if let Some(budget) = item.budget {
                self.left[budget] += 1;
            }
        }
    }

    fn consider(&mut self, lacking: &[u64], priorities: u64) {
        if lacking.iter().any(|lacking| *lacking > 0) {
            return;
        }
        let overshoot = self
            .task
            .overshoot(self.chosen.iter().map(|n| self.items[*n]));
        let better = self
            .best
            .as_ref()
            .is_none_or(|(p, o, _)| (priorities, overshoot) < (*p, *o));
        if better {
            let chosen = self.chosen.iter().map(|n| self.items[*n].of).collect();
            self.best = Some((priorities, overshoot, chosen));
        }
    }

    fn greedy(mut self) -> Option<Vec<usize>> {
        let mut lacking = self.task.lacking.clone();
        let mut chosen: Vec<&Item> = Vec::new();
        while lacking.iter().any(|lacking| *lacking > 0) {
            let left = &self.left;
            let allowed = |item: &&&Item| item.budget.is_none_or(|budget| left[budget] > 0);
            let most = self
                .items
                .iter()
                .enumerate()
                .filter(|(_, item)| allowed(item))
                .max_by_key(|(n, item)| (self.task.share(&item.frees, &lacking), Reverse(*n)));
            let (n, item) = most.map(|(n, item)| (n, *item))?;
            if self.task.share(&item.frees, &lacking) == 0 {
                return None;
            }
            if let Some(budget) = item.budget {
                self.left[budget] -= 1;
            }
            for (lacking, frees) in lacking.iter_mut().zip(&item.frees) {
                *lacking = lacking.saturating_sub(*frees);
            }
            self.items.remove(n);
            chosen.push(item);
        }
        // What was taken early may be needless by now, the most important first.
        chosen.sort_by_key(|item| (Reverse(item.priority), item.of));
        let mut n = 0;
        while n < chosen.len() {
            let suffices = self.task.lacking.iter().enumerate().all(|(part, lacking)| {
                let others = chosen.iter().enumerate().filter(|(other, _)| *other != n);
                let sum = others.fold(0_u64, |sum, (_, item)| sum.saturating_add(item.frees[part]));
                sum >= *lacking
            });
            if suffices {
                chosen.remove(n);
            } else {
                n += 1;
            }
        }
        Some(chosen.into_iter().map(|item| item.of).collect())
    }
}

impl Task<'_> {
    /// How much of what is lacking this frees, all resources together, in millionths of each.
    fn share(&self, frees: &[u64], lacking: &[u64]) -> u64 {
        let parts = frees.iter().zip(lacking).zip(&self.lacking);
        parts
            .filter(|(_, whole)| **whole > 0)
            .map(|((frees, lacking), whole)| millionths(*frees.min(lacking), *whole))
            .sum()
    }

    fn overshoot<'i>(&self, items: impl Iterator<Item = &'i Item>) -> u64 {
        let mut freed = self.spare;
        for item in items {
            for (freed, more) in freed.iter_mut().zip(&item.frees) {
                *freed = freed.saturating_add(*more);
            }
        }
        let whole = parts(&self.whole);
        (0..DIVISIBLE)
            .map(|n| millionths(freed[n].saturating_sub(self.lacking[n]), whole[n]))
            .max()
            .unwrap_or_default()
    }
}

/// The largest share of `whole` by which `freed` is more than `shortage`, in millionths.
pub(super) fn overshoot(freed: &Resources, shortage: &Resources, whole: &Resources) -> u64 {
    let over = parts(&freed.saturating_sub(shortage));
    let shares = over.into_iter().zip(parts(whole));
    let shares = shares.map(|(over, whole)| millionths(over, whole));
    shares.max().unwrap_or_default()
}

fn is_alike(a: &Item, b: &Item) -> bool {
    a.frees == b.frees && a.priority == b.priority && a.budget == b.budget
}

fn parts(resources: &Resources) -> [u64; DIVISIBLE] {
    [
        resources.cpu_millis,
        resources.memory_bytes,
        resources.disk_bytes,
    ]
}

fn millionths(part: u64, whole: u64) -> u64 {
    let whole = u128::from(whole.max(1));
    u64::try_from(u128::from(part) * 1_000_000 / whole).unwrap_or(u64::MAX)
}

const DIVISIBLE: usize = 3;
/// How many choices on one host are looked at.
const STEPS: usize = 4_096;
