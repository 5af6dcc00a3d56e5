//! Schedulers that are offered resources, after Mesos (Hindman et al., NSDI 2011) as the Omega paper simulates it.
//!
//! An allocator offers all that is free and not offered yet to the scheduler with the smallest dominant share. As long as
//! that one thinks, nobody else sees these resources: this is pessimistic concurrency control. A scheduler answers an offer
//! for all jobs that were waiting when it came, one decision after the other, and then gives back what it did not use.

use std::time::Duration;

use super::{Plan, SchedulerPlan, ThinkTimes};
use crate::sim::cell::{Amount, Cell, Claim, Corner};

pub(super) fn plan(machines: u32, think: &ThinkTimes, allocation: Duration) -> Plan {
    let framework = |name: &str| SchedulerPlan {
        name: name.to_owned(),
        machines: 0..machines,
        think: *think,
    };
    Plan {
        schedulers: vec![framework("batch"), framework("service")],
        batch: 0..1,
        service: 1,
        corner: Corner::default(),
        allocation: Some(allocation),
    }
}

/// Who has been offered what.
#[derive(Debug)]
pub(super) struct Allocator {
    /// How long an offer takes to make, in microseconds.
    pub(super) allocation_us: u64,
    /// What of each machine is in an offer that is not answered yet.
    locked: Vec<Amount>,
    /// What each scheduler's tasks take up.
    used: Vec<Amount>,
    whole: Amount,
    /// The offer is being made.
    pub(super) is_allocating: bool,
}

/// An offer that a scheduler holds, and what it makes of it.
#[derive(Debug)]
pub(super) struct Offer {
    /// What of each machine it was given.
    given: Vec<Amount>,
    /// What of that is not claimed yet.
    pub(super) left: Vec<Amount>,
    /// What it answers: for each job, the claims.
    pub(super) answers: Vec<(u32, Vec<Claim>)>,
}

impl Allocator {
    pub(super) fn new(
        allocation: Duration,
        schedulers: usize,
        machines: u32,
        whole: Amount,
    ) -> Self {
        Self {
            allocation_us: u64::try_from(allocation.as_micros()).unwrap_or(u64::MAX),
            locked: vec![Amount::default(); machines as usize],
            used: vec![Amount::default(); schedulers],
            whole,
            is_allocating: false,
        }
    }

    /// The scheduler, of these, with the smallest dominant share (the first of them if there are several).
    pub(super) fn poorest(&self, candidates: impl Iterator<Item = u32>) -> Option<u32> {
        candidates.min_by(|a, b| {
            let share = |scheduler: u32| self.dominant_share(scheduler);
            share(*a).total_cmp(&share(*b)).then(a.cmp(b))
        })
    }

    /// All that is free and in no offer; `None` if there is nothing.
    pub(super) fn offer<C: Cell>(&mut self, cell: &C) -> Option<Offer> {
        let mut given = Vec::with_capacity(self.locked.len());
        let mut is_empty = true;
        for machine in 0..cell.len() {
            let locked = &mut self.locked[machine as usize];
            let rest = cell.free(machine).saturating_sub(locked);
            is_empty &= rest.is_exhausted();
            given.push(rest);
        }
        if is_empty {
            return None;
        }
        for (locked, given) in self.locked.iter_mut().zip(&given) {
            *locked = locked.saturating_add(given);
        }
        Some(Offer {
            left: given.clone(),
            given,
            answers: Vec::new(),
        })
    }

    /// The offer is answered: nothing of it is locked any more.
    pub(super) fn take_back(&mut self, offer: &Offer) {
        for (locked, given) in self.locked.iter_mut().zip(&offer.given) {
            *locked = locked.saturating_sub(given);
        }
    }

    pub(super) fn start(&mut self, scheduler: u32, amount: &Amount) {
        let used = &mut self.used[scheduler as usize];
        *used = used.saturating_add(amount);
    }

    pub(super) fn end(&mut self, scheduler: u32, amount: &Amount) {
        let used = &mut self.used[scheduler as usize];
        *used = used.saturating_sub(amount);
    }

    fn dominant_share(&self, scheduler: u32) -> f64 {
        let used = self.used[scheduler as usize];
        let cpu = share(used.cpu_millis, self.whole.cpu_millis);
        cpu.max(share(used.memory_bytes, self.whole.memory_bytes))
    }
}

impl Offer {
    /// Claims of a job's tasks are part of the answer.
    pub(super) fn answer(&mut self, job: u32, amount: &Amount, claims: Vec<Claim>) {
        for claim in &claims {
            let left = &mut self.left[claim.machine as usize];
            *left = left.saturating_sub(amount);
        }
        self.answers.push((job, claims));
    }
}

#[expect(
    clippy::cast_precision_loss,
    reason = "a share needs no more than 52 bits"
)]
fn share(part: u64, whole: u64) -> f64 {
    part as f64 / whole.max(1) as f64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sim::cell::{LightCell, Machine};

    fn amount(cores: u64) -> Amount {
        Amount {
            cpu_millis: cores * 1000,
            memory_bytes: cores << 30,
        }
    }

    #[test]
    fn what_one_holds_is_not_offered_to_another() {
        let machine = Machine {
            capacity: amount(4),
            kind: 0,
        };
        let cell = LightCell::new(&[machine, machine]);
        let mut allocator = Allocator::new(Duration::ZERO, 2, 2, amount(8));
        let offer = allocator.offer(&cell).unwrap();
        assert_eq!(offer.left, [amount(4), amount(4)]);
        assert!(allocator.offer(&cell).is_none());
        allocator.take_back(&offer);
        assert!(allocator.offer(&cell).is_some());
    }

    #[test]
    fn the_scheduler_with_the_smallest_dominant_share_is_served_first() {
        let mut allocator = Allocator::new(Duration::ZERO, 2, 1, amount(8));
        assert_eq!(allocator.poorest(0..2), Some(0));
        allocator.start(0, &amount(2));
        assert_eq!(allocator.poorest(0..2), Some(1));
        allocator.start(
            1,
            &Amount {
                memory_bytes: 3 << 30,
                ..Amount::default()
            },
        );
        assert_eq!(allocator.poorest(0..2), Some(0));
        allocator.end(0, &amount(2));
        assert_eq!(allocator.poorest([1].into_iter()), Some(1));
    }
}
