//! Offers, for the two-level architecture.

use super::{Engine, Event, Offer, Scheduler, State};
use crate::sim::{
    cell::{Cell, Corner},
    choice::Scope,
    metrics::Attempt,
};

impl<C: Cell> Engine<'_, C> {
    /// Lets the allocator make an offer soon, if somebody waits for one.
    pub(super) fn allocate(&mut self) {
        let is_wanted = self.schedulers.iter().any(Scheduler::wants_offer);
        if let Some(allocator) = &mut self.allocator
            && is_wanted
            && !allocator.is_allocating
        {
            allocator.is_allocating = true;
            let at = self.now_us.saturating_add(allocator.allocation_us);
            self.events.put(at, Event::Offer);
        }
    }

    pub(super) fn offer(&mut self) {
        let Some(allocator) = &mut self.allocator else {
            return;
        };
        allocator.is_allocating = false;
        let wanting = (0_u32..)
            .zip(&self.schedulers)
            .filter(|(_, scheduler)| scheduler.wants_offer())
            .map(|(number, _)| number);
        let Some(number) = allocator.poorest(wanting) else {
            return;
        };
        // Nothing to offer: the next task that ends, or the next answer, brings something.
        let Some(offer) = allocator.offer(&self.cell) else {
            return;
        };
        self.consider(number, offer);
        self.allocate();
    }

    /// A scheduler thinks about an offer, for all jobs that wait now.
    fn consider(&mut self, number: u32, mut offer: Offer) {
        let plan = &self.plan.schedulers[number as usize];
        let scheduler = &mut self.schedulers[number as usize];
        let residents = self.workload.residents.len();
        let mut until = self.now_us;
        for job in std::mem::take(&mut scheduler.queue) {
            let submission = &self.workload.submissions[job as usize - residents];
            let record = &mut self.jobs[job as usize - residents];
            let scope = Scope {
                cell: &self.cell,
                machines: plan.machines.clone(),
                offer: Some(&offer.left),
            };
            let (count, serial) = (record.remaining, record.next_serial());
            let claims = scheduler
                .chooser
                .place(&scope, job, &submission.task, count, serial);
            record.attempt(until, claims.len());
            let think_us = plan.think.of(submission.class).of(count);
            self.meter
                .busy(number, until, until.saturating_add(think_us));
            until = until.saturating_add(think_us);
            offer.answer(job, &submission.task.amount, claims);
        }
        scheduler.state = State::Holds(offer);
        self.events.put(until, Event::Decided(number));
    }

    pub(super) fn answered(&mut self, scheduler: u32, mut offer: Offer) {
        for (job, claims) in std::mem::take(&mut offer.answers) {
            let claimed = u32::try_from(claims.len()).unwrap_or(u32::MAX);
            let attempt = if claims.is_empty() {
                Attempt::NoRoom
            } else {
                let basis = self.cell.revision();
                let refused = self.commit(job, basis, claims, Corner::default());
                self.record(job).placed(claimed - refused);
                Attempt::Committed { claimed, refused }
            };
            self.meter.attempted(scheduler, self.now_us, attempt);
            if !self.is_settled(job) {
                self.try_later(job);
            }
        }
        if let Some(allocator) = &mut self.allocator {
            allocator.take_back(&offer);
        }
        self.allocate();
    }
}

impl Scheduler {
    fn wants_offer(&self) -> bool {
        matches!(self.state, State::Idle) && !self.queue.is_empty()
    }
}
