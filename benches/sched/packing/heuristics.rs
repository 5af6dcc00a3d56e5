//! Offline heuristics for packing vectors into as few equal bins as possible.

use anyhow::{Result, ensure};
use flynn_sched::Resources;

/// Processor and memory of each task as shares of a host.
pub(super) struct Items(Vec<[f64; 2]>);

/// Sums of shares may be off by this.
const SLACK: f64 = 1e-9;

impl Items {
    #[expect(clippy::cast_precision_loss, reason = "shares need not be exact")]
    pub(super) fn new(tasks: &[Resources], host: Resources) -> Self {
        let share = |part: u64, whole: u64| part as f64 / whole as f64;
        let shares = tasks.iter().map(|task| {
            [
                share(task.cpu_millis, host.cpu_millis),
                share(task.memory_bytes, host.memory_bytes),
            ]
        });
        Self(shares.collect())
    }

    /// No packing uses fewer hosts.
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a few thousand"
    )]
    pub(super) fn bound(&self) -> usize {
        let sum = |n: usize| self.0.iter().map(|item| item[n]).sum::<f64>();
        (sum(0).max(sum(1)) - SLACK).ceil() as usize
    }

    /// How many hosts a plan (the host of each item) uses, each checked to have room.
    pub(super) fn hosts(&self, plan: &[usize]) -> Result<usize> {
        let bins = self.bins(plan);
        ensure!(
            bins.iter()
                .all(|bin| bin[0] <= 1.0 + SLACK && bin[1] <= 1.0 + SLACK),
            "a heuristic over-filled a host"
        );
        Ok(bins.iter().filter(|bin| bin[0] + bin[1] > 0.0).count())
    }

    fn bins(&self, plan: &[usize]) -> Vec<[f64; 2]> {
        let last = plan.iter().max().map_or(0, |last| last + 1);
        let mut bins = vec![[0.0; 2]; last];
        for (item, bin) in self.0.iter().zip(plan) {
            add(&mut bins[*bin], *item);
        }
        bins
    }

    /// The items, the largest share first.
    fn decreasing(&self) -> Vec<usize> {
        let mut order: Vec<usize> = (0..self.0.len()).collect();
        order.sort_by(|a, b| dominant(self.0[*b]).total_cmp(&dominant(self.0[*a])));
        order
    }
}

fn dominant(item: [f64; 2]) -> f64 {
    item[0].max(item[1])
}

fn add(bin: &mut [f64; 2], item: [f64; 2]) {
    bin[0] += item[0];
    bin[1] += item[1];
}

fn fits(bin: [f64; 2], item: [f64; 2]) -> bool {
    bin[0] + item[0] <= 1.0 + SLACK && bin[1] + item[1] <= 1.0 + SLACK
}

/// Each item, the largest dominant share first, into the first host with room.
pub(super) fn first_fit_decreasing(items: &Items) -> Vec<usize> {
    decreasing(items, |bins, item| {
        bins.iter().position(|bin| fits(*bin, item))
    })
}

/// Each item, the largest dominant share first, into the fullest host with room.
pub(super) fn best_fit_decreasing(items: &Items) -> Vec<usize> {
    decreasing(items, fullest)
}

fn fullest(bins: &[[f64; 2]], item: [f64; 2]) -> Option<usize> {
    let open = (0..bins.len()).filter(|bin| fits(bins[*bin], item));
    open.max_by(|a, b| (bins[*a][0] + bins[*a][1]).total_cmp(&(bins[*b][0] + bins[*b][1])))
}

fn decreasing(
    items: &Items,
    choose: impl Fn(&[[f64; 2]], [f64; 2]) -> Option<usize>,
) -> Vec<usize> {
    let mut plan = vec![0; items.0.len()];
    let mut bins: Vec<[f64; 2]> = Vec::new();
    for n in items.decreasing() {
        let bin = choose(&bins, items.0[n]).unwrap_or_else(|| {
            bins.push([0.0; 2]);
            bins.len() - 1
        });
        add(&mut bins[bin], items.0[n]);
        plan[n] = bin;
    }
    plan
}

/// One host after the other is filled, each time with the item that fits its remaining room best: the largest product of
/// the two vectors, weighed by how scarce each resource is. (Panigrahy, Talwar, Uyeda, Wieder, "Heuristics for Vector Bin
/// Packing", 2011.)
pub(super) fn dot_product(items: &Items) -> Vec<usize> {
    let mut plan = vec![0; items.0.len()];
    let sum = |n: usize| items.0.iter().map(|item| item[n]).sum::<f64>();
    let scarce = [sum(0), sum(1)];
    let mut left: Vec<usize> = (0..items.0.len()).collect();
    let mut bin = 0;
    let mut used = [0.0; 2];
    while !left.is_empty() {
        let worth = |n: usize| {
            let item = items.0[n];
            (0..2)
                .map(|d| scarce[d] * item[d] * (1.0 - used[d]))
                .sum::<f64>()
        };
        let open = (0..left.len()).filter(|at| fits(used, items.0[left[*at]]));
        let best = open.max_by(|a, b| worth(left[*a]).total_cmp(&worth(left[*b])));
        match best {
            Some(at) => {
                let n = left.swap_remove(at);
                add(&mut used, items.0[n]);
                plan[n] = bin;
            }
            None => {
                bin += 1;
                used = [0.0; 2];
            }
        }
    }
    plan
}

/// Tries to empty hosts, the emptiest first: each of its items goes to the fullest other host with room. A host that
/// cannot be emptied stays as it was.
pub(super) fn improved(items: &Items, mut plan: Vec<usize>) -> Vec<usize> {
    let mut bins = items.bins(&plan);
    let mut order: Vec<usize> = (0..bins.len()).collect();
    order.sort_by(|a, b| dominant(bins[*a]).total_cmp(&dominant(bins[*b])));
    for bin in order {
        let mut moved: Vec<usize> = (0..plan.len()).filter(|n| plan[*n] == bin).collect();
        moved.sort_by(|a, b| dominant(items.0[*b]).total_cmp(&dominant(items.0[*a])));
        let (before, plan_before) = (bins.clone(), plan.clone());
        // Nothing fits into a host that is full.
        bins[bin] = [f64::INFINITY; 2];
        let all_fit = moved.iter().all(|n| {
            let others: Option<usize> = {
                let open = (0..bins.len()).filter(|other| {
                    fits(bins[*other], items.0[*n]) && bins[*other][0] + bins[*other][1] > 0.0
                });
                open.max_by(|a, b| dominant(bins[*a]).total_cmp(&dominant(bins[*b])))
            };
            others.is_some_and(|other| {
                add(&mut bins[other], items.0[*n]);
                plan[*n] = other;
                true
            })
        });
        if all_fit {
            bins[bin] = [0.0; 2];
        } else {
            (bins, plan) = (before, plan_before);
        }
    }
    plan
}
