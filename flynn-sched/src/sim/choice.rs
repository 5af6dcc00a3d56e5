//! How a simulated scheduler chooses machines.

use std::{fmt, ops::Range};

use rand::RngExt;
use rand_chacha::ChaCha8Rng;

use super::cell::{Amount, Cell, Claim, Task};

/// What a scheduler sees while it places the tasks of one job: a snapshot, less what it has claimed itself.
pub trait View {
    /// The machines it may use.
    fn machines(&self) -> Range<u32>;

    /// What is left of one.
    fn free(&self, machine: u32) -> Amount;

    /// Can a task of the job run there?
    fn fits(&self, machine: u32) -> bool;
}

/// Chooses machines, task by task.
pub trait Choice: fmt::Debug {
    /// A new job, or a new attempt at one, begins.
    fn begin(&mut self, rng: &mut ChaCha8Rng, view: &dyn View);

    /// A machine for the next task, which [fits](View::fits) it; `None` if there is none.
    fn choose(&mut self, rng: &mut ChaCha8Rng, view: &dyn View) -> Option<u32>;
}

/// Randomised first fit: some random machines are tried; if none fits, all are looked at in turn from a random one on.
#[derive(Debug, Clone)]
pub struct RandomFirstFit {
    tries: u32,
    /// Where the search goes on, and how many machines it has passed.
    scan: Option<(u32, u32)>,
}

impl RandomFirstFit {
    /// How many random machines are tried for a task by default.
    pub const DEFAULT_TRIES: u32 = 16;

    /// With so many random tries a task.
    #[must_use]
    pub fn new(tries: u32) -> Self {
        Self { tries, scan: None }
    }
}

impl Default for RandomFirstFit {
    fn default() -> Self {
        Self::new(Self::DEFAULT_TRIES)
    }
}

impl Choice for RandomFirstFit {
    fn begin(&mut self, _rng: &mut ChaCha8Rng, _view: &dyn View) {
        self.scan = None;
    }

    fn choose(&mut self, rng: &mut ChaCha8Rng, view: &dyn View) -> Option<u32> {
        let machines = view.machines();
        if machines.is_empty() {
            return None;
        }
        if self.scan.is_none() {
            for _ in 0..self.tries {
                let machine = rng.random_range(machines.clone());
                if view.fits(machine) {
                    return Some(machine);
                }
            }
        }
        // While one job is placed, machines only fill up: what was passed need not be looked at again.
        let (start, passed) = self
            .scan
            .unwrap_or_else(|| (rng.random_range(machines.clone()), 0));
        let count = machines.end - machines.start;
        for step in passed..count {
            let machine = machines.start + (start - machines.start + step) % count;
            if view.fits(machine) {
                self.scan = Some((start, step));
                return Some(machine);
            }
        }
        self.scan = Some((start, count));
        None
    }
}

/// The fullest of some random machines that fit (or, with none, the first that fits in turn): packs more tightly.
#[derive(Debug, Clone)]
pub struct FullestOf {
    candidates: u32,
    fallback: RandomFirstFit,
}

impl FullestOf {
    /// The fullest of so many.
    #[must_use]
    pub fn new(candidates: u32) -> Self {
        Self {
            candidates,
            fallback: RandomFirstFit::new(0),
        }
    }
}

impl Choice for FullestOf {
    fn begin(&mut self, rng: &mut ChaCha8Rng, view: &dyn View) {
        self.fallback.begin(rng, view);
    }

    fn choose(&mut self, rng: &mut ChaCha8Rng, view: &dyn View) -> Option<u32> {
        let machines = view.machines();
        if machines.is_empty() {
            return None;
        }
        let mut candidates = Vec::with_capacity(self.candidates as usize);
        for _ in 0..self.candidates {
            let machine = rng.random_range(machines.clone());
            if view.fits(machine) {
                let free = view.free(machine);
                candidates.push((free.cpu_millis, free.memory_bytes, machine));
            }
        }
        let fullest = candidates.into_iter().min().map(|(_, _, machine)| machine);
        fullest.or_else(|| self.fallback.choose(rng, view))
    }
}

/// Places the tasks of one job on the machines of a snapshot, which is the cell as it is now.
#[derive(Debug)]
pub(super) struct Chooser {
    choice: Box<dyn Choice>,
    rng: ChaCha8Rng,
    /// What the job at hand has claimed of each machine already.
    claimed: Vec<Amount>,
    /// Which jobs' tasks on distinct machines are claimed at hand.
    is_claimed: Vec<bool>,
}

/// What a scheduler may use of a cell.
#[derive(Debug, Clone)]
pub(super) struct Scope<'a, C> {
    pub(super) cell: &'a C,
    pub(super) machines: Range<u32>,
    /// What of each machine may be used, when it is less than what is free.
    pub(super) offer: Option<&'a [Amount]>,
}

struct Snapshot<'a, C> {
    scope: &'a Scope<'a, C>,
    job: u32,
    task: &'a Task,
    claimed: &'a [Amount],
    is_claimed: &'a [bool],
}

impl<C: Cell> View for Snapshot<'_, C> {
    fn machines(&self) -> Range<u32> {
        self.scope.machines.clone()
    }

    fn free(&self, machine: u32) -> Amount {
        let free = match self.scope.offer {
            Some(offer) => offer[machine as usize],
            None => self.scope.cell.free(machine),
        };
        free.saturating_sub(&self.claimed[machine as usize])
    }

    fn fits(&self, machine: u32) -> bool {
        self.free(machine).fits(&self.task.amount)
            && self
                .task
                .kind
                .is_none_or(|kind| kind == self.scope.cell.kind(machine))
            && (!self.task.is_distinct
                || (!self.is_claimed[machine as usize]
                    && !self.scope.cell.is_taken(machine, self.job)))
    }
}

impl Chooser {
    pub(super) fn new(choice: Box<dyn Choice>, rng: ChaCha8Rng, machines: u32) -> Self {
        Self {
            choice,
            rng,
            claimed: vec![Amount::default(); machines as usize],
            is_claimed: vec![false; machines as usize],
        }
    }

    /// Claims for up to `count` tasks, numbered from `serial` on; fewer if no more fit.
    pub(super) fn place<C: Cell>(
        &mut self,
        scope: &Scope<'_, C>,
        job: u32,
        task: &Task,
        count: u32,
        serial: u32,
    ) -> Vec<Claim> {
        let mut claims = Vec::new();
        for number in 0..count {
            let view = Snapshot {
                scope,
                job,
                task,
                claimed: &self.claimed,
                is_claimed: &self.is_claimed,
            };
            if number == 0 {
                self.choice.begin(&mut self.rng, &view);
            }
            let Some(machine) = self.choice.choose(&mut self.rng, &view) else {
                break;
            };
            let claimed = &mut self.claimed[machine as usize];
            *claimed = claimed.saturating_add(&task.amount);
            self.is_claimed[machine as usize] = true;
            claims.push(Claim {
                machine,
                serial: serial.wrapping_add(number),
            });
        }
        for claim in &claims {
            self.claimed[claim.machine as usize] = Amount::default();
            self.is_claimed[claim.machine as usize] = false;
        }
        claims
    }
}
