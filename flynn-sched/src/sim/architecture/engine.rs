//! The event loop that all architectures share.

mod offers;

use std::collections::VecDeque;

use super::{
    Architecture, MakeChoice, Plan, Settings,
    two_level::{Allocator, Offer},
};
use crate::sim::{
    cell::{Amount, Cell, Claim, Corner, Proposal},
    choice::{Chooser, Scope},
    events::Events,
    metrics::{Attempt, Fate, JobRecord, Meter, Outcome},
    streams::{Purpose, stream},
    workload::{Submission, Workload},
};

pub(super) struct Engine<'s, C> {
    cell: C,
    workload: &'s Workload,
    settings: &'s Settings,
    plan: &'s Plan,
    now_us: u64,
    end_us: u64,
    events: Events<Event>,
    schedulers: Vec<Scheduler>,
    /// Of the submissions; the residents' come before them in the numbers of jobs.
    jobs: Vec<JobRecord>,
    freed: Slab,
    meter: Meter,
    allocator: Option<Allocator>,
    refused: Vec<Claim>,
}

#[derive(Debug)]
enum Event {
    /// A scheduler has thought.
    Decided(u32),
    /// A job that found no room is tried again.
    Again(u32),
    /// Tasks end.
    Freed(u32),
    /// The allocator makes an offer.
    Offer,
}

#[derive(Debug)]
struct Scheduler {
    queue: VecDeque<u32>,
    chooser: Chooser,
    state: State,
}

#[derive(Debug)]
enum State {
    Idle,
    /// It thinks about a job, from a snapshot of this revision on.
    Thinks {
        job: u32,
        basis: u64,
        claims: Vec<Claim>,
    },
    /// It thinks about all the jobs of an offer.
    Holds(Offer),
}

/// Tasks that end together.
#[derive(Debug)]
struct Ending {
    job: u32,
    claims: Vec<Claim>,
}

#[derive(Debug, Default)]
struct Slab {
    entries: Vec<Option<Ending>>,
    vacant: Vec<u32>,
}

impl<'s, C: Cell> Engine<'s, C> {
    pub(super) fn new(
        cell: C,
        workload: &'s Workload,
        settings: &'s Settings,
        plan: &'s Plan,
        choice: &MakeChoice,
    ) -> Self {
        let capacity = workload
            .machines
            .iter()
            .fold(Amount::default(), |sum, machine| {
                sum.saturating_add(&machine.capacity)
            });
        let scheduler = |number: u32| Scheduler {
            queue: VecDeque::new(),
            chooser: Chooser::new(
                choice(),
                stream(settings.seed, Purpose::Choosing(number)),
                cell.len(),
            ),
            state: State::Idle,
        };
        let count = u32::try_from(plan.schedulers.len()).expect("there are at most a thousand");
        let allocation = plan.allocation;
        let allocator = allocation
            .map(|time| Allocator::new(time, plan.schedulers.len(), cell.len(), capacity));
        Self {
            schedulers: (0..count).map(scheduler).collect(),
            jobs: Vec::with_capacity(workload.submissions.len()),
            events: Events::new(),
            now_us: 0,
            end_us: u64::try_from(settings.length.as_micros()).unwrap_or(u64::MAX),
            meter: Meter::new(settings, plan.schedulers.len(), capacity),
            freed: Slab::default(),
            refused: Vec::new(),
            allocator,
            cell,
            workload,
            settings,
            plan,
        }
    }

    pub(super) fn run(mut self, architecture: Architecture) -> Outcome {
        self.settle();
        let mut next = 0;
        loop {
            let arrival = self.workload.submissions.get(next).map(|job| job.at_us);
            let event = self.events.next_at();
            let at = arrival.into_iter().chain(event).min().unwrap_or(u64::MAX);
            let queued = self
                .schedulers
                .iter()
                .map(|scheduler| scheduler.queue.len());
            self.meter.pass(at.min(self.end_us), queued);
            if at >= self.end_us {
                break;
            }
            self.now_us = at;
            if arrival == Some(at) {
                let job = &self.workload.submissions[next];
                let number = self.number(next);
                self.jobs.push(JobRecord::new(job));
                next += 1;
                self.enqueue(number);
            } else if let Some((_, event)) = self.events.pop() {
                self.handle(event);
            }
        }
        let names = (0_u32..)
            .zip(&self.plan.schedulers)
            .map(|(number, scheduler)| (scheduler.name.clone(), self.plan.classes(number)));
        self.meter.finish(
            architecture,
            self.workload,
            self.settings,
            names.collect(),
            &self.jobs,
        )
    }

    /// Places what runs at the beginning: each workload where its schedulers place theirs.
    fn settle(&mut self) {
        let rng = stream(self.settings.seed, Purpose::Settling);
        let choice = crate::sim::choice::RandomFirstFit::default();
        let mut chooser = Chooser::new(Box::new(choice), rng, self.cell.len());
        for (number, job) in (0_u32..).zip(&self.workload.residents) {
            let scheduler = self.plan.scheduler(number, job.class);
            let scope = Scope {
                cell: &self.cell,
                machines: self.plan.schedulers[scheduler as usize].machines.clone(),
                offer: None,
            };
            let claims = chooser.place(&scope, number, &job.task, job.tasks, 0);
            let placed = u32::try_from(claims.len()).unwrap_or(u32::MAX);
            self.meter.leave_out(u64::from(job.tasks - placed));
            let basis = self.cell.revision();
            self.commit(number, basis, claims, Corner::default());
        }
    }

    fn handle(&mut self, event: Event) {
        match event {
            Event::Decided(scheduler) => {
                let state =
                    std::mem::replace(&mut self.schedulers[scheduler as usize].state, State::Idle);
                match state {
                    State::Idle => {}
                    State::Thinks { job, basis, claims } => {
                        self.decided(scheduler, job, basis, claims);
                        self.think(scheduler);
                    }
                    State::Holds(offer) => self.answered(scheduler, offer),
                }
            }
            Event::Again(job) => self.enqueue(job),
            Event::Freed(ending) => {
                let Some(Ending { job, claims }) = self.freed.take(ending) else {
                    return;
                };
                let submission = self.submission(job);
                let (task, class) = (submission.task, submission.class);
                self.cell.release(job, &task, &claims);
                self.meter.end(&task.amount, claims.len());
                if let Some(allocator) = &mut self.allocator {
                    let ended = task.amount.saturating_mul(claims.len() as u64);
                    allocator.end(self.plan.scheduler(job, class), &ended);
                    self.allocate();
                }
            }
            Event::Offer => self.offer(),
        }
    }

    /// A job waits for its scheduler.
    fn enqueue(&mut self, job: u32) {
        let scheduler = self.plan.scheduler(job, self.submission(job).class);
        self.schedulers[scheduler as usize].queue.push_back(job);
        if self.allocator.is_some() {
            self.allocate();
        } else {
            self.think(scheduler);
        }
    }

    /// An idle scheduler looks at the cell and begins to think about the first job of its queue.
    fn think(&mut self, number: u32) {
        let scheduler = &mut self.schedulers[number as usize];
        if !matches!(scheduler.state, State::Idle) {
            return;
        }
        let Some(job) = scheduler.queue.pop_front() else {
            return;
        };
        let plan = &self.plan.schedulers[number as usize];
        let residents = self.workload.residents.len();
        let submission = &self.workload.submissions[job as usize - residents];
        let record = &mut self.jobs[job as usize - residents];
        let scope = Scope {
            cell: &self.cell,
            machines: plan.machines.clone(),
            offer: None,
        };
        let basis = self.cell.revision();
        let (count, serial) = (record.remaining, record.next_serial());
        let claims = scheduler
            .chooser
            .place(&scope, job, &submission.task, count, serial);
        record.attempt(self.now_us, claims.len());
        let think_us = plan.think.of(submission.class).of(count);
        let until = self.now_us.saturating_add(think_us);
        self.meter.busy(number, self.now_us, until);
        scheduler.state = State::Thinks { job, basis, claims };
        self.events.put(until, Event::Decided(number));
    }

    /// A scheduler commits what it thought of, and tries what is left again.
    fn decided(&mut self, scheduler: u32, job: u32, basis: u64, claims: Vec<Claim>) {
        let corner = self.plan.corner;
        let wanted = self.record(job).remaining;
        let claimed = u32::try_from(claims.len()).unwrap_or(u32::MAX);
        let is_short = claimed < wanted;
        // A gang goes together or not at all.
        let is_withheld = is_short && corner.mode == crate::transaction::Mode::AllOrNothing;
        let attempt = if claims.is_empty() || is_withheld {
            Attempt::NoRoom
        } else {
            let refused = self.commit(job, basis, claims, corner);
            self.record(job).placed(claimed - refused);
            Attempt::Committed { claimed, refused }
        };
        self.meter.attempted(scheduler, self.now_us, attempt);
        let has_conflict = matches!(attempt, Attempt::Committed { refused, .. } if refused > 0);
        if !self.is_settled(job) {
            if has_conflict {
                self.schedulers[scheduler as usize].queue.push_front(job);
            } else {
                self.try_later(job);
            }
        }
    }

    /// Is the job placed, or given up?
    fn is_settled(&mut self, job: u32) -> bool {
        let (now, patience) = (self.now_us, self.settings.patience);
        let record = self.record(job);
        if record.remaining == 0 {
            record.fate = Fate::Scheduled { at_us: now };
            return true;
        }
        let is_given_up = record.attempts >= patience.in_all
            || (record.has_placed_none() && record.attempts >= patience.without_progress);
        if is_given_up {
            record.fate = Fate::Abandoned;
        }
        is_given_up
    }

    fn try_later(&mut self, job: u32) {
        let delay = u64::try_from(self.settings.retry_delay.as_micros()).unwrap_or(u64::MAX);
        self.events
            .put(self.now_us.saturating_add(delay), Event::Again(job));
    }

    /// Commits claims; returns how many were refused. Those that were not end when their time has come.
    fn commit(&mut self, job: u32, basis: u64, mut claims: Vec<Claim>, corner: Corner) -> u32 {
        let residents = self.workload.residents.len();
        let submission = match self.workload.residents.get(job as usize) {
            Some(resident) => resident,
            None => &self.workload.submissions[job as usize - residents],
        };
        self.refused.clear();
        let proposal = Proposal {
            job,
            task: &submission.task,
            claims: &claims,
            basis,
            corner,
        };
        self.cell.commit(&proposal, &mut self.refused);
        if !self.refused.is_empty() {
            // Both are in order, so one pass sorts them out.
            let mut refused = self.refused.iter().peekable();
            claims.retain(|claim| refused.next_if_eq(&claim).is_none());
        }
        let refused = u32::try_from(self.refused.len()).unwrap_or(u32::MAX);
        if claims.is_empty() {
            return refused;
        }
        self.meter.start(&submission.task.amount, claims.len());
        if let Some(allocator) = &mut self.allocator {
            let started = submission.task.amount.saturating_mul(claims.len() as u64);
            allocator.start(self.plan.scheduler(job, submission.class), &started);
        }
        let before = (job as usize)
            .checked_sub(residents)
            .map_or(0, |index| self.jobs[index].already_placed());
        self.schedule_ends(job, submission, before, claims);
        refused
    }

    fn schedule_ends(
        &mut self,
        job: u32,
        submission: &Submission,
        before: u32,
        claims: Vec<Claim>,
    ) {
        use crate::sim::workload::Durations;
        let mut put = |duration: u64, claims: Vec<Claim>| {
            let at = self.now_us.saturating_add(duration);
            if at < self.end_us {
                let ending = self.freed.put(Ending { job, claims });
                self.events.put(at, Event::Freed(ending));
            }
        };
        match &submission.durations {
            Durations::Same(duration) => put(*duration, claims),
            Durations::Each(_) => {
                for (number, claim) in (before..).zip(claims) {
                    put(submission.durations.of(number), vec![claim]);
                }
            }
        }
    }

    /// The number of a submission among all jobs.
    fn number(&self, submission: usize) -> u32 {
        u32::try_from(self.workload.residents.len() + submission)
            .expect("a valid workload has fewer jobs")
    }

    fn submission(&self, job: u32) -> &'s Submission {
        let residents = &self.workload.residents;
        match residents.get(job as usize) {
            Some(resident) => resident,
            None => &self.workload.submissions[job as usize - residents.len()],
        }
    }

    fn record(&mut self, job: u32) -> &mut JobRecord {
        &mut self.jobs[job as usize - self.workload.residents.len()]
    }
}

impl Slab {
    fn put(&mut self, ending: Ending) -> u32 {
        if let Some(index) = self.vacant.pop() {
            self.entries[index as usize] = Some(ending);
            return index;
        }
        let index =
            u32::try_from(self.entries.len()).expect("fewer things end than there are jobs");
        self.entries.push(Some(ending));
        index
    }

    fn take(&mut self, index: u32) -> Option<Ending> {
        let ending = self.entries[index as usize].take();
        self.vacant.push(index);
        ending
    }
}
