//! One scheduler for everything.

use super::{Plan, SchedulerPlan, ThinkTimes};
use crate::sim::cell::Corner;

pub(super) fn plan(machines: u32, think: &ThinkTimes, is_multi_path: bool) -> Plan {
    let think = if is_multi_path {
        *think
    } else {
        // "the same decision time for batch and service jobs, to reflect the need to run much of the same code"
        ThinkTimes {
            batch: think.service,
            service: think.service,
        }
    };
    Plan {
        schedulers: vec![SchedulerPlan {
            name: "monolithic".to_owned(),
            machines: 0..machines,
            think,
        }],
        batch: 0..1,
        service: 0,
        corner: Corner::default(),
        allocation: None,
    }
}
