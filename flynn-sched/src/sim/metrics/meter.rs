//! Counts while the simulation runs.

use super::{ClassOutcome, Fate, JobRecord, Moment, Outcome, SchedulerOutcome, Step, mean, ratio};
use crate::sim::{
    architecture::{Architecture, Settings},
    cell::Amount,
    workload::{Class, Workload},
};

/// How an attempt to place a job ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::sim) enum Attempt {
    /// Nothing was committed.
    NoRoom,
    /// So many tasks were claimed; of these, so many were refused.
    Committed { claimed: u32, refused: u32 },
}

#[derive(Debug)]
pub(in crate::sim) struct Meter {
    bucket_us: u64,
    end_us: u64,
    capacity: Amount,
    taken: Amount,
    running: u64,
    left_out: u64,
    schedulers: Vec<Counters>,
    /// One for every step of time that is over.
    timeline: Vec<Moment>,
}

#[derive(Debug, Clone, Default)]
struct Counters {
    attempts: u64,
    without_room: u64,
    claims: u64,
    claims_refused: u64,
    /// By step of time, for as many as have been reached.
    busy_us: Vec<u64>,
    committed: Vec<u64>,
    conflicted: Vec<u64>,
}

impl Meter {
    pub(in crate::sim) fn new(settings: &Settings, schedulers: usize, capacity: Amount) -> Self {
        let micros =
            |duration: std::time::Duration| u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
        Self {
            bucket_us: micros(settings.bucket).max(1),
            end_us: micros(settings.length),
            capacity,
            taken: Amount::default(),
            running: 0,
            left_out: 0,
            schedulers: vec![Counters::default(); schedulers],
            timeline: Vec::new(),
        }
    }

    /// Time passes until `now`: notes how things stand at the end of each step that is over.
    pub(in crate::sim) fn pass(
        &mut self,
        now_us: u64,
        queued: impl Iterator<Item = usize> + Clone,
    ) {
        loop {
            let steps = self.timeline.len() as u64;
            let begin = steps * self.bucket_us;
            let end = begin.saturating_add(self.bucket_us).min(self.end_us);
            if begin >= self.end_us || end > now_us {
                return;
            }
            let schedulers = queued.clone().map(|queued| Step {
                queued: queued as u64,
                ..Step::default()
            });
            self.timeline.push(Moment {
                at_s: seconds(end),
                cpu: ratio(self.taken.cpu_millis, self.capacity.cpu_millis),
                memory: ratio(self.taken.memory_bytes, self.capacity.memory_bytes),
                running: self.running,
                schedulers: schedulers.collect(),
            });
        }
    }

    pub(in crate::sim) fn leave_out(&mut self, tasks: u64) {
        self.left_out += tasks;
    }

    pub(in crate::sim) fn start(&mut self, amount: &Amount, tasks: usize) {
        self.running += tasks as u64;
        self.taken = self
            .taken
            .saturating_add(&amount.saturating_mul(tasks as u64));
    }

    pub(in crate::sim) fn end(&mut self, amount: &Amount, tasks: usize) {
        self.running -= tasks as u64;
        self.taken = self
            .taken
            .saturating_sub(&amount.saturating_mul(tasks as u64));
    }

    /// A scheduler thinks from `from` until `until`.
    pub(in crate::sim) fn busy(&mut self, scheduler: u32, from_us: u64, until_us: u64) {
        let until = until_us.min(self.end_us);
        let mut from = from_us;
        while from < until {
            let step = from / self.bucket_us;
            let border = (step + 1).saturating_mul(self.bucket_us).min(until);
            *at(&mut self.schedulers[scheduler as usize].busy_us, step) += border - from;
            from = border;
        }
    }

    pub(in crate::sim) fn attempted(&mut self, scheduler: u32, now_us: u64, attempt: Attempt) {
        let step = now_us / self.bucket_us;
        let counters = &mut self.schedulers[scheduler as usize];
        counters.attempts += 1;
        match attempt {
            Attempt::NoRoom => counters.without_room += 1,
            Attempt::Committed { claimed, refused } => {
                counters.claims += u64::from(claimed);
                counters.claims_refused += u64::from(refused);
                let series = match refused {
                    0 => &mut counters.committed,
                    _ => &mut counters.conflicted,
                };
                *at(series, step) += 1;
            }
        }
    }

    pub(in crate::sim) fn finish(
        mut self,
        architecture: Architecture,
        workload: &Workload,
        settings: &Settings,
        names: Vec<(String, Vec<Class>)>,
        jobs: &[JobRecord],
    ) -> Outcome {
        for (step, moment) in (0_u64..).zip(&mut self.timeline) {
            let begin = step * self.bucket_us;
            let length = self.bucket_us.min(self.end_us - begin);
            for (counters, of_scheduler) in self.schedulers.iter_mut().zip(&mut moment.schedulers) {
                of_scheduler.busyness = ratio(*at(&mut counters.busy_us, step), length);
                of_scheduler.committed = *at(&mut counters.committed, step);
                of_scheduler.conflicted = *at(&mut counters.conflicted, step);
            }
        }
        let schedulers = names.into_iter().zip(&self.schedulers).enumerate();
        let schedulers = schedulers.map(|(number, ((name, classes), counters))| SchedulerOutcome {
            name,
            classes,
            attempts: counters.attempts,
            committed: counters.committed.iter().sum(),
            conflicted: counters.conflicted.iter().sum(),
            without_room: counters.without_room,
            claims: counters.claims,
            claims_refused: counters.claims_refused,
            busyness: self
                .timeline
                .iter()
                .map(|m| m.schedulers[number].busyness)
                .collect(),
        });
        Outcome {
            architecture,
            workload: workload.name.clone(),
            seed: settings.seed,
            length: settings.length,
            schedulers: schedulers.collect(),
            classes: Class::ALL
                .into_iter()
                .map(|class| tally(class, jobs, self.end_us))
                .collect(),
            timeline: self.timeline,
            residents_left_out: self.left_out,
        }
    }
}

/// What became of the jobs of a class.
fn tally(class: Class, jobs: &[JobRecord], end_us: u64) -> ClassOutcome {
    let mut outcome = ClassOutcome {
        class,
        submitted: 0,
        scheduled: 0,
        abandoned: 0,
        waiting: 0,
        tasks_placed: 0,
        tasks_missing: 0,
        attempts_mean: 0.0,
        attempts_most: 0,
        waits_s: Vec::new(),
        delays_s: Vec::new(),
    };
    let mut attempts = Vec::new();
    for job in jobs.iter().filter(|job| job.class == class) {
        outcome.submitted += 1;
        outcome.tasks_placed += u64::from(job.already_placed());
        outcome.tasks_missing += u64::from(job.remaining);
        let first_attempt = job.first_attempt_us.unwrap_or(end_us).min(end_us);
        outcome
            .waits_s
            .push(seconds(first_attempt - job.submitted_us));
        if job.attempts > 0 {
            attempts.push(f64::from(job.attempts));
            outcome.attempts_most = outcome.attempts_most.max(job.attempts);
        }
        match job.fate {
            Fate::Waiting => outcome.waiting += 1,
            Fate::Abandoned => outcome.abandoned += 1,
            Fate::Scheduled { at_us } => {
                outcome.scheduled += 1;
                outcome.delays_s.push(seconds(at_us - job.submitted_us));
            }
        }
    }
    outcome.attempts_mean = mean(attempts.into_iter());
    outcome.waits_s.sort_by(f64::total_cmp);
    outcome.delays_s.sort_by(f64::total_cmp);
    outcome
}

/// The entry of a step, which may be the first to be counted in.
fn at(series: &mut Vec<u64>, step: u64) -> &mut u64 {
    let index = usize::try_from(step).expect("a simulation has at most a hundred thousand steps");
    if series.len() <= index {
        series.resize(index + 1, 0);
    }
    &mut series[index]
}

#[expect(
    clippy::cast_precision_loss,
    reason = "a year has fewer than 2^52 microseconds"
)]
fn seconds(micros: u64) -> f64 {
    micros as f64 / 1e6
}
