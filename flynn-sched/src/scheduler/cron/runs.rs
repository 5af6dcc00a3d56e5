//! The batch groups that are runs of cron groups, and their names.

use std::collections::BTreeMap;

use jiff::{Timestamp, civil::DateTime, tz::TimeZone};

use crate::{ClusterState, Cron, Error, Group, GroupId, GroupKind, Result, transaction::Change};

/// A run that the cell has.
#[derive(Debug)]
pub(super) struct Run<'s> {
    pub(super) group: &'s Group,
    due_ms: u64,
    pub(super) is_complete: bool,
    has_failed: bool,
}

/// The runs of a cell, by the id of their cron group.
#[derive(Debug)]
pub(super) struct Runs<'s>(BTreeMap<&'s str, Vec<Run<'s>>>);

impl<'s> Runs<'s> {
    pub(super) fn of(state: &'s ClusterState) -> Self {
        let mut runs: BTreeMap<&str, Vec<Run<'_>>> = BTreeMap::new();
        for group in state.groups().filter(|group| group.owner == OWNER) {
            let Some((cron, due_ms)) = parse(group.id.as_str()) else {
                continue;
            };
            let status = state.group_status(&group.id);
            let is_complete = status.is_some_and(|status| status.is_complete);
            runs.entry(cron).or_default().push(Run {
                group,
                due_ms,
                is_complete,
                has_failed: status.is_some_and(|status| status.failed > 0),
            });
        }
        Self(runs)
    }

    /// The runs of one group.
    pub(super) fn take(&mut self, group: &GroupId) -> Vec<Run<'s>> {
        self.0.remove(group.as_str()).unwrap_or_default()
    }

    /// Removes the runs of groups that are gone.
    pub(super) fn without_timetable(self) -> impl Iterator<Item = Change> {
        let runs = self.0.into_values().flatten();
        runs.map(|run| Change::RemoveGroup(run.group.id.clone()))
    }
}

/// Removes the oldest runs that have ended, beyond what is to be kept.
pub(super) fn surplus(cron: &Cron, runs: &[Run<'_>]) -> Vec<Change> {
    let mut changes = Vec::new();
    for (has_failed, keep) in [(false, cron.keep_succeeded), (true, cron.keep_failed)] {
        let mut ended: Vec<&Run<'_>> = runs
            .iter()
            .filter(|run| run.is_complete && run.has_failed == has_failed)
            .collect();
        ended.sort_by_key(|run| run.due_ms);
        let keep = usize::try_from(keep).unwrap_or(usize::MAX);
        let surplus = ended.len().saturating_sub(keep);
        let oldest = ended[..surplus].iter();
        changes.extend(oldest.map(|run| Change::RemoveGroup(run.group.id.clone())));
    }
    changes
}

/// The batch group that is a run.
///
/// # Errors
///
/// [`Error::Invalid`] when the cron group's id is too long to have the time appended.
pub(super) fn new_run(group: &Group, cron: &Cron, due_ms: u64) -> Result<Group> {
    let stamp = i64::try_from(due_ms)
        .ok()
        .and_then(|ms| Timestamp::from_millisecond(ms).ok())
        .map(|time| time.strftime(STAMP).to_string())
        .unwrap_or_default();
    let id = GroupId::parse(format!("{}.{stamp}", group.id)).map_err(|_| Error::Invalid {
        what: format!("group id {}", group.id),
        why: format!(
            "is too long for a cron group: its runs append the time, so use at most {} bytes",
            200 - STAMP_LEN
        ),
    })?;
    let kind = GroupKind::Batch {
        count: cron.count,
        retries: cron.retries,
    };
    Ok(Group {
        priority: group.priority,
        max_unavailable: group.max_unavailable,
        owner: OWNER.to_owned(),
        ..Group::new(id, kind, std::sync::Arc::clone(&group.spec))
    })
}

/// The cron group of a run, and when the run was due.
fn parse(id: &str) -> Option<(&str, u64)> {
    let (cron, stamp) = id.rsplit_once('.')?;
    let time = DateTime::strptime(STAMP, stamp).ok()?;
    let time = time.to_zoned(TimeZone::UTC).ok()?.timestamp();
    Some((cron, u64::try_from(time.as_millisecond()).ok()?))
}

/// Who writes runs.
const OWNER: &str = "cron-scheduler";
const STAMP: &str = "%Y%m%dT%H%M%SZ";
/// The length of `.20261121T023000Z`.
const STAMP_LEN: usize = 17;
