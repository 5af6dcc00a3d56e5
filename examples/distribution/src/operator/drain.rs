//! Emptying a host, for example to mend it, and giving it back.

use std::{collections::BTreeMap, time::Duration};

use anyhow::{Context as _, Result, bail, ensure};
use flynn_host::host::Drain;
use flynn_sched::{
    Cluster as _, ClusterState, GroupKind, HostId, clock::Clock as _, remote::SystemClock,
};
use futures::StreamExt as _;

use super::{Operator, PATIENCE, what_if};
use crate::cli::output::note;

impl Operator {
    /// Has a host's jobs run elsewhere; with `patience`, waits until it has none. Jobs that end by themselves may run
    /// for `deadline`.
    ///
    /// # Errors
    ///
    /// When the host is not there or does not answer; when it still has jobs after `patience` (it goes on draining).
    pub(crate) async fn drain(
        &self,
        host: &HostId,
        deadline: Option<Duration>,
        patience: Option<Duration>,
    ) -> Result<()> {
        let state = self.state().await?;
        self.reachable(&state, host)?;
        for sentence in what_if::lacking_without(&state, host)? {
            note(&format!("Beware: {sentence}."));
        }
        let by_ms = deadline.map(|deadline| {
            let ms = u64::try_from(deadline.as_millis()).unwrap_or(u64::MAX);
            SystemClock.now_ms().saturating_add(ms)
        });
        self.set_drain(&state, host, Some(Drain { by_ms })).await?;
        let Some(patience) = patience else {
            note(&format!(
                "Host {host} drains; `flynn-host list` shows how many jobs it has left."
            ));
            return Ok(());
        };
        note(&format!("Host {host} drains."));
        let left = match tokio::time::timeout(patience, self.until_empty(host)).await {
            Ok(emptied) => return emptied,
            Err(_) => left_on(&*self.state().await?, host),
        };
        if left.is_empty() {
            return emptied(host);
        }
        bail!(
            "host {host} still has jobs after {} s: {}; it goes on draining, and `flynn-host undrain {host}` ends that",
            patience.as_secs(),
            sentences(&left)
        )
    }

    /// Lets a host have jobs again.
    ///
    /// # Errors
    ///
    /// When the host is not there or does not answer.
    pub(crate) async fn undrain(&self, host: &HostId) -> Result<()> {
        let state = self.state().await?;
        self.set_drain(&state, host, None).await?;
        note(&format!("Host {host} may have jobs again."));
        Ok(())
    }

    /// Tells the host, and waits until the cell knows.
    async fn set_drain(
        &self,
        state: &ClusterState,
        host: &HostId,
        drain: Option<Drain>,
    ) -> Result<()> {
        self.reachable(state, host)?;
        self.host_client(state, host)?.set_drain(drain).await?;
        let mut states = self.cluster.watch();
        let known = async {
            while let Some(state) = states.next().await {
                let state = state?;
                let known = state.host(host);
                if known.is_none_or(|known| known.host.is_draining == drain.is_some()) {
                    return Ok(());
                }
            }
            bail!("the cell's store ended the watch")
        };
        tokio::time::timeout(PATIENCE, known)
            .await
            .unwrap_or_else(|_| {
                bail!("host {host} knows, but could not tell the cell's store within {PATIENCE:?}; it goes on trying")
            })
    }

    fn reachable(&self, state: &ClusterState, host: &HostId) -> Result<()> {
        let known = state.host(host).with_context(|| {
            format!("host {host} is not in the cell; `flynn-host list` shows those that are")
        })?;
        ensure!(
            known.lost_since_ms.is_none(),
            "host {host} is lost: its jobs are placed elsewhere already, and its daemon has to run to be told anything"
        );
        Ok(())
    }

    /// Says what is left whenever that changes.
    async fn until_empty(&self, host: &HostId) -> Result<()> {
        let mut states = self.cluster.watch();
        let mut said = None;
        while let Some(state) = states.next().await {
            let left = left_on(&*state?, host);
            let count: usize = left.values().map(|left| left.jobs).sum();
            if count == 0 {
                return emptied(host);
            }
            if said.replace(count) != Some(count) {
                let noun = if count == 1 { "job is" } else { "jobs are" };
                note(&format!("{count} {noun} left."));
            }
        }
        bail!("the cell's store ended the watch")
    }
}

fn emptied(host: &HostId) -> Result<()> {
    note(&format!(
        "Host {host} has no jobs any more; `flynn-host undrain {host}` gives it some again."
    ));
    Ok(())
}

/// What a group has on a host.
struct Left {
    jobs: usize,
    /// Why it is still there, as far as the schedulers say.
    why: Option<String>,
}

/// The jobs that have not ended, by the name of their group.
fn left_on(state: &ClusterState, host: &HostId) -> BTreeMap<String, Left> {
    let mut left = BTreeMap::new();
    for job in state
        .jobs_on(host)
        .filter(|job| !job.status.phase.is_final())
    {
        let group = state.group(&job.group);
        let entry = left
            .entry(what_if::name(state, &job.group))
            .or_insert_with(|| Left {
                jobs: 0,
                why: match group.map(|group| &group.kind) {
                    Some(GroupKind::Service { .. } | GroupKind::Omni { .. }) | None => state
                        .group_status(&job.group)
                        .and_then(|status| status.blocked.clone()),
                    Some(_) => Some("it runs to its end".to_owned()),
                },
            });
        entry.jobs += 1;
    }
    left
}

fn sentences(left: &BTreeMap<String, Left>) -> String {
    let sentences: Vec<String> = left
        .iter()
        .map(|(group, left)| match &left.why {
            Some(why) => format!("{} of {group} ({why})", left.jobs),
            None => format!("{} of {group}", left.jobs),
        })
        .collect();
    sentences.join(", ")
}
