//! Schedulers that see the whole cell and commit optimistically.

use super::{Architecture, Plan, SchedulerPlan, ThinkTimes};
use crate::{Error, Result, sim::cell::Corner};

pub(super) fn plan(
    machines: u32,
    think: &ThinkTimes,
    corner: Corner,
    batch_schedulers: u32,
) -> Result<Plan> {
    if !(1..Architecture::MAX_SCHEDULERS).contains(&batch_schedulers) {
        return Err(Error::Invalid {
            what: format!("{batch_schedulers} batch schedulers"),
            why: format!("must be between 1 and {}", Architecture::MAX_SCHEDULERS - 1),
        });
    }
    let scheduler = |name: String| SchedulerPlan {
        name,
        machines: 0..machines,
        think: *think,
    };
    let mut schedulers: Vec<SchedulerPlan> = (1..=batch_schedulers)
        .map(|number| match batch_schedulers {
            1 => scheduler("batch".to_owned()),
            _ => scheduler(format!("batch {number}")),
        })
        .collect();
    schedulers.push(scheduler("service".to_owned()));
    Ok(Plan {
        schedulers,
        batch: 0..batch_schedulers,
        service: batch_schedulers,
        corner,
        allocation: None,
    })
}

/// Spreads jobs evenly (the finalizer of SplitMix64).
pub(super) fn hash(job: u32) -> u64 {
    let mut z = u64::from(job).wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::hash;

    #[test]
    fn the_hash_gives_every_scheduler_about_as_many_jobs() {
        let mut counts = [0_u32; 8];
        for job in 0..8_000 {
            counts[usize::try_from(hash(job) % 8).unwrap()] += 1;
        }
        assert!(
            counts.iter().all(|count| (900..1100).contains(count)),
            "{counts:?}"
        );
    }
}
