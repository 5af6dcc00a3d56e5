//! From formations to groups of the cell, decided without clocks or sockets.
//!
//! A formation of an app's release becomes one [`Group`] per process type, called `app.release.type` and owned by
//! [`OWNER`]. What schedulers and hosts then make of it is theirs; groups of other owners are never touched.

mod spec;

use std::{collections::BTreeMap, sync::Arc};

use flynn_sched::{Constraint, Group, GroupId, GroupKind, Host, transaction::Change};

pub use self::spec::{
    META_APP, META_APP_NAME, META_RELEASE, META_TYPE, one_off_spec, process_spec,
};
use crate::{
    Result,
    model::{App, Artifact, Formation, Release},
    store::Catalog,
};

/// The owner of the groups that formations become.
pub const OWNER: &str = "controller";

/// The owner of the groups of one-off jobs.
pub const RUN_OWNER: &str = "controller-run";

/// How urgent a group of a system app is, and one of a user's app.
pub const PRIORITIES: (u8, u8) = (90, 50);

/// The group of a process type of a release.
///
/// # Errors
///
/// When the three do not fit into the name of a group.
pub fn group_id(app: &str, release: &str, process: &str) -> Result<GroupId> {
    Ok(GroupId::parse(format!("{app}.{release}.{process}"))?)
}

/// What must change in the cell so that its groups are what the catalog says. `groups` are all groups of the cell.
///
/// The result is empty once the changes were made, whatever the order they are made in.
#[must_use]
pub fn reconcile<'a>(
    catalog: &Catalog,
    groups: impl IntoIterator<Item = &'a Arc<Group>>,
) -> Vec<Change> {
    let wanted = wanted(catalog);
    let present: BTreeMap<&GroupId, &Arc<Group>> =
        groups.into_iter().map(|group| (&group.id, group)).collect();
    let mut changes = Vec::new();
    for group in present.values().filter(|group| group.owner == OWNER) {
        if !wanted.contains_key(&group.id) {
            changes.push(Change::RemoveGroup(group.id.clone()));
        }
    }
    for (id, group) in wanted {
        match present.get(&id) {
            Some(present) if present.owner != OWNER => {
                tracing::warn!(group = %id, owner = %present.owner, "a group of another owner has the name of one of ours");
            }
            Some(present) if ***present == group => {}
            Some(_) | None => changes.push(Change::PutGroup(Arc::new(group))),
        }
    }
    changes
}

/// The groups that the catalog asks for.
fn wanted(catalog: &Catalog) -> BTreeMap<GroupId, Group> {
    let mut wanted = BTreeMap::new();
    for ((app, release), formation) in &*catalog.formations {
        let (Some(app), Some(release)) = (catalog.apps.get(app), catalog.releases.get(release))
        else {
            continue;
        };
        if catalog.deletions.contains_key(&app.id) {
            continue;
        }
        let artifacts: Vec<Arc<Artifact>> = release
            .artifacts
            .iter()
            .filter_map(|id| catalog.artifacts.get(id).cloned())
            .collect();
        for (name, count) in &formation.processes {
            match group(app, release, &artifacts, formation, name, *count) {
                Ok(Some(group)) => {
                    wanted.insert(group.id.clone(), group);
                }
                Ok(None) => {}
                Err(error) => {
                    tracing::error!(app = %app.name, process = %name, %error, "this process type cannot be run");
                }
            }
        }
    }
    wanted
}

fn group(
    app: &App,
    release: &Release,
    artifacts: &[Arc<Artifact>],
    formation: &Formation,
    name: &str,
    count: u32,
) -> Result<Option<Group>> {
    let Some(process) = release.processes.get(name).filter(|_| count > 0) else {
        return Ok(None);
    };
    let kind = if process.omni {
        GroupKind::Omni { per_host: count }
    } else {
        GroupKind::Service { count }
    };
    let mut spec = process_spec(app, release, artifacts, name, process);
    if let Some(tags) = formation.tags.get(name) {
        spec.constraints = tags
            .iter()
            .map(|(key, value)| Constraint::Tag {
                key: key.clone(),
                value: value.clone(),
            })
            .collect();
    }
    Ok(Some(Group {
        id: group_id(&app.id, &release.id, name)?,
        kind,
        spec: Arc::new(spec),
        priority: if app.is_system() {
            PRIORITIES.0
        } else {
            PRIORITIES.1
        },
        max_unavailable: None,
        keep: None,
        owner: OWNER.to_owned(),
    }))
}

/// Has the host the tags that the constraints ask for?
pub(crate) fn matches_tags(host: &Host, constraints: &[Constraint]) -> bool {
    constraints.iter().all(|constraint| constraint.admits(host))
}

#[cfg(test)]
mod tests;
