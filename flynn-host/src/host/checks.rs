//! Tries the ports of one job.

use std::sync::Arc;

use flynn_discovery::health::{self, HealthCheck, HealthEvent, HttpCheck, MonitorConfig, TcpCheck};
use flynn_sched::{Check, CheckKind, Job};
use futures::{StreamExt, stream::SelectAll};
use tokio::sync::mpsc;

use crate::supervisor::Event;

/// Tells the supervisor each change in the health of a job's ports, for ever.
pub(super) async fn check(
    job: Arc<Job>,
    addr: String,
    ports: Vec<u16>,
    run: u32,
    events: mpsc::Sender<Event>,
) {
    let mut changes = SelectAll::new();
    for (index, (port, number)) in job.spec.ports.iter().zip(&ports).enumerate() {
        let Some(check) = port.service.as_ref().and_then(|s| s.check.as_ref()) else {
            continue;
        };
        let target = host_port(&addr, *number);
        match checker(check, target) {
            Ok(checker) => {
                let config = MonitorConfig::default()
                    .with_interval(check.interval)
                    .with_threshold(check.threshold);
                let watched = health::watch(checker, config);
                changes.push(watched.map(move |event| (index, event)).boxed());
            }
            Err(error) => {
                // It can never pass; the start's timeout will say that it did not.
                tracing::warn!(job = %job.id, %error, "the health check cannot be carried out");
            }
        }
    }
    while let Some((port, change)) = changes.next().await {
        let id = job.id.clone();
        let event = match change {
            HealthEvent::Up => Event::Healthy(id, run, port),
            HealthEvent::Down { why } => Event::Unhealthy(id, run, port, why),
            _ => continue,
        };
        if events.send(event).await.is_err() {
            return;
        }
    }
}

fn checker(check: &Check, target: String) -> flynn_discovery::Result<Arc<dyn HealthCheck>> {
    Ok(match &check.kind {
        CheckKind::Http { path, status } => {
            Arc::new(HttpCheck::new(target, path.clone())?.with_status(*status))
        }
        _ => Arc::new(TcpCheck::new(target)),
    })
}

/// `host:port`, an IPv6 address in brackets.
pub(super) fn host_port(addr: &str, port: u16) -> String {
    if addr.contains(':') {
        format!("[{addr}]:{port}")
    } else {
        format!("{addr}:{port}")
    }
}
