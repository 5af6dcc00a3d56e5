//! Draws jobs.

use rand::RngExt;
use rand_chacha::ChaCha8Rng;

use super::{
    CellShape, SECOND,
    distribution::{rounded, scaled},
};
use crate::sim::{
    cell::{Amount, Task},
    streams::{Purpose, stream},
    workload::{Class, Durations, Submission, Workload},
};

/// Draws jobs of a class.
pub(super) struct Draw<'s> {
    shape: &'s CellShape,
    class: Class,
    tasks: ChaCha8Rng,
    durations: ChaCha8Rng,
    requests: ChaCha8Rng,
    kinds: ChaCha8Rng,
}

impl<'s> Draw<'s> {
    pub(super) fn new(shape: &'s CellShape, class: Class, seed: u64) -> Self {
        Self {
            shape,
            class,
            tasks: stream(seed, Purpose::Tasks(class)),
            durations: stream(seed, Purpose::Duration(class)),
            requests: stream(seed, Purpose::Request(class)),
            kinds: stream(seed, Purpose::Kind(class)),
        }
    }

    /// From parts of one stream that are far from each other.
    pub(super) fn with(shape: &'s CellShape, class: Class, rng: ChaCha8Rng) -> Self {
        let part = |number: u128| {
            let mut part = rng.clone();
            part.set_word_pos(number << 50);
            part
        };
        Self {
            shape,
            class,
            tasks: part(1),
            durations: part(2),
            requests: part(3),
            kinds: part(4),
        }
    }

    pub(super) fn job(&mut self, at_us: u64) -> Submission {
        let shape = self.shape.class(self.class);
        let tasks = rounded(shape.tasks.sample(&mut self.tasks), 1);
        let cpu_millis = rounded(shape.cpu_millis.sample(&mut self.requests), 10);
        let memory_mib = rounded(shape.memory_mib.sample(&mut self.requests), 16);
        let is_picky = self.kinds.random::<f64>() < self.shape.picky && self.class == Class::Batch;
        let last = u8::try_from(self.shape.kinds.len() - 1).unwrap_or(u8::MAX);
        Submission {
            at_us,
            class: self.class,
            tasks: u32::try_from(tasks)
                .unwrap_or(u32::MAX)
                .min(Workload::MAX_TASKS),
            task: Task {
                amount: Amount {
                    cpu_millis,
                    memory_bytes: memory_mib.saturating_mul(1 << 20),
                },
                kind: is_picky.then_some(last),
                is_distinct: false,
            },
            durations: Durations::Same(scaled(
                shape.duration_s.sample(&mut self.durations),
                SECOND,
            )),
        }
    }
}
