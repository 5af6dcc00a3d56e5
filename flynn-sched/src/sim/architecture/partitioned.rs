//! Two schedulers that have nothing to do with each other.

use super::{Plan, SchedulerPlan, ThinkTimes};
use crate::{Error, Result, sim::cell::Corner};

pub(super) fn plan(machines: u32, think: &ThinkTimes, batch_share: f64) -> Result<Plan> {
    let border = boundary(machines, batch_share);
    if border == 0 || border >= machines {
        return Err(Error::Invalid {
            what: format!("partition of {batch_share} of {machines} machines for batch jobs"),
            why: "must leave both sides a machine at least".to_owned(),
        });
    }
    let part = |name: &str, machines| SchedulerPlan {
        name: name.to_owned(),
        machines,
        think: *think,
    };
    Ok(Plan {
        schedulers: vec![part("batch", 0..border), part("service", border..machines)],
        batch: 0..1,
        service: 1,
        corner: Corner::default(),
        allocation: None,
    })
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "the cast saturates, and what comes out of bounds is refused"
)]
fn boundary(machines: u32, batch_share: f64) -> u32 {
    (f64::from(machines) * batch_share).round() as u32
}
