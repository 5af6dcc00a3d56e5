//! The schedulers: services (and one-per-host services), gangs, batches.

use std::{sync::Arc, time::Duration};

use anyhow::Result;
use flynn_sched::{
    Driver, Scheduler,
    remote::DiscoveryCluster,
    scheduler::{
        BatchScheduler, CronScheduler, GangScheduler, RebalanceScheduler, ServiceScheduler,
    },
};

use crate::{member::Member, signals};

/// The scheduler as a job of the platform. Several may run: the cell refuses what conflicts.
///
/// # Errors
///
/// When the environment is not that of a job of the platform.
pub async fn main() -> Result<()> {
    let stop = signals::shutdown()?;
    let member = Member::from_env()?;
    tracing::info!(host = %member.host, "scheduling");
    run(member.cluster(), async {
        let signal = stop.await;
        tracing::info!(%signal, "stopping");
    })
    .await
}

/// A host whose lease has ended gets this long to come back before its jobs are placed elsewhere.
const LOST_GRACE: Duration = Duration::from_secs(1);

/// Schedules until `shutdown`.
///
/// # Errors
///
/// None at present: what fails is tried again.
pub async fn run(
    cluster: Arc<DiscoveryCluster>,
    shutdown: impl Future<Output = ()> + Send,
) -> Result<()> {
    let driver = all()
        .into_iter()
        .fold(Driver::on_tokio(cluster), |driver, scheduler| {
            driver.with_boxed(scheduler)
        });
    driver.run(shutdown).await;
    Ok(())
}

/// The schedulers that the platform runs, the most important first.
#[must_use]
pub fn all() -> Vec<Box<dyn Scheduler>> {
    vec![
        Box::new(ServiceScheduler::new().with_lost_grace(LOST_GRACE)),
        Box::new(GangScheduler::new()),
        Box::new(BatchScheduler::new()),
        Box::new(CronScheduler::new()),
        Box::new(RebalanceScheduler::new()),
    ]
}
