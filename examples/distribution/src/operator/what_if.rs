//! What the cell looks like to schedulers, and what would happen to it if.

use std::{collections::BTreeMap, path::Path};

use anyhow::{Context as _, Result};
use flynn_discovery::http::{Failure, Json};
use flynn_sched::{
    Cluster as _, ClusterState, GroupId, HostId, Scheduler,
    clock::Clock as _,
    remote::{DiscoveryCluster, SystemClock},
    what_if::{CellSnapshot, Fate, Hypothesis, Options, Outcome, Unplaced, what_if},
};
use serde_json::{Value, json};

use super::Operator;
use crate::{
    cli::output::{Format, line},
    components::scheduler,
};

impl Operator {
    /// Prints the whole cell as JSON, without the jobs' environments and commands: for `what-if --cell`, and for other
    /// tools.
    ///
    /// # Errors
    ///
    /// As [`state`](Self::state).
    pub async fn cell(&self) -> Result<()> {
        let state = self.state().await?;
        line(&CellSnapshot::redacted(&state).to_json()?);
        Ok(())
    }
}

/// Prints what would happen to `state` if these came true: the schedulers that the platform runs, on a copy.
///
/// # Errors
///
/// When a hypothesis cannot be read, or names what is not there.
pub(crate) fn print(state: &ClusterState, hypotheses: &[String], format: Format) -> Result<()> {
    let names = Names::of(state);
    let mut imagined = Vec::new();
    for text in hypotheses {
        for mut hypothesis in Hypothesis::parse_all(text)? {
            if let Hypothesis::Scale { group, .. } | Hypothesis::Remove { group } = &mut hypothesis
                && let Some(id) = names.group(group)
            {
                *group = id.to_string();
            }
            imagined.push(hypothesis);
        }
    }
    let outcome = imagine(state, &imagined)?;
    match format {
        Format::Json => format.print(&as_json(&outcome, &names), Value::to_string),
        Format::Text => {
            line(names.shown(&outcome.to_string()).trim_end());
            Ok(())
        }
    }
}

/// What the schedulers that the platform runs would do.
fn imagine(state: &ClusterState, hypotheses: &[Hypothesis]) -> Result<Outcome> {
    let mut schedulers = scheduler::all();
    let mut schedulers: Vec<&mut dyn Scheduler> = schedulers
        .iter_mut()
        .map(|scheduler| &mut **scheduler as &mut dyn Scheduler)
        .collect();
    let options = Options::at(SystemClock.now_ms());
    Ok(what_if(state, hypotheses, &mut schedulers, &options)?)
}

/// What would be lacking if this host were drained: a sentence for each group that is worse off.
///
/// # Errors
///
/// When the host is not there.
pub(super) fn lacking_without(state: &ClusterState, host: &HostId) -> Result<Vec<String>> {
    let names = Names::of(state);
    let hypothesis = Hypothesis::parse_all(&format!("drain host {host}"))?;
    let outcome = imagine(state, &hypothesis)?;
    let worse = |it: &&Unplaced| it.missing > it.missing_before;
    Ok(outcome
        .unplaced
        .iter()
        .filter(worse)
        .map(|it| {
            format!(
                "{} will lack {} more of its jobs: {}",
                names.name(&it.group),
                it.missing - it.missing_before,
                it.why
            )
        })
        .collect())
}

/// What people call a group.
pub(super) fn name(state: &ClusterState, group: &GroupId) -> String {
    Names::of(state).name(group).to_owned()
}

/// Reads what `flynn-host cell` printed.
///
/// # Errors
///
/// When it is not that.
pub(crate) fn read(path: &Path) -> Result<ClusterState> {
    let json = std::fs::read_to_string(path)
        .with_context(|| format!("{} cannot be read", path.display()))?;
    let snapshot = CellSnapshot::from_json(&json)
        .with_context(|| format!("{} is not what `flynn-host cell` prints", path.display()))?;
    Ok(snapshot.into_state())
}

/// The cell for `GET /cell` of the host API.
pub(crate) async fn serve(cluster: &DiscoveryCluster) -> Result<Json<CellSnapshot>, Failure> {
    let state = cluster.snapshot().await;
    let state = state.map_err(|error| Failure::unavailable(error.to_string()))?;
    Ok(Json(CellSnapshot::redacted(&state)))
}

/// What people call groups: `app.type`, or `app` where it has one type only.
struct Names {
    by_name: BTreeMap<String, GroupId>,
    shown: BTreeMap<GroupId, String>,
}

impl Names {
    fn of(state: &ClusterState) -> Self {
        let mut names = Self {
            by_name: BTreeMap::new(),
            shown: BTreeMap::new(),
        };
        let mut types: BTreeMap<&str, Vec<&GroupId>> = BTreeMap::new();
        for group in state.groups() {
            let meta = |key: &str| group.spec.metadata.get(key).map(String::as_str);
            let (Some(app), Some(kind)) = (
                meta("flynn-controller.app_name"),
                meta("flynn-controller.type"),
            ) else {
                continue;
            };
            let name = format!("{app}.{kind}");
            // During a deployment there are two: the first keeps the name, the other is shown by its id.
            if names.by_name.contains_key(&name) {
                continue;
            }
            names.by_name.insert(name.clone(), group.id.clone());
            names.shown.insert(group.id.clone(), name);
            types.entry(app).or_default().push(&group.id);
        }
        for (app, groups) in types {
            if let [only] = groups[..] {
                names.by_name.insert(app.to_owned(), only.clone());
            }
        }
        names
    }

    fn group(&self, name: &str) -> Option<&GroupId> {
        self.by_name.get(name)
    }

    /// A report with names instead of ids, its columns kept.
    fn shown(&self, report: &str) -> String {
        self.shown
            .iter()
            .fold(report.to_owned(), |text, (id, name)| {
                let width = id.as_str().len();
                text.replace(id.as_str(), &format!("{name:width$}"))
            })
    }

    fn name<'a>(&'a self, group: &'a GroupId) -> &'a str {
        self.shown.get(group).map_or(group.as_str(), String::as_str)
    }
}

fn as_json(outcome: &Outcome, names: &Names) -> Value {
    let jobs: Vec<Value> = outcome
        .jobs
        .iter()
        .map(|change| {
            let group = names.name(&change.group);
            match &change.fate {
                Fate::Started { on } => json!({"group": group, "fate": "started", "to": on}),
                Fate::Stopped { job, on } => {
                    json!({"group": group, "fate": "stopped", "job": job, "from": on})
                }
                Fate::Moved { job, from, to } => {
                    json!({"group": group, "fate": "moved", "job": job, "from": from, "to": to})
                }
                Fate::Displaced { job, from } => {
                    json!({"group": group, "fate": "displaced", "job": job, "from": from})
                }
                _ => json!({"group": group}),
            }
        })
        .collect();
    let unplaced: Vec<Value> = outcome
        .unplaced
        .iter()
        .map(|unplaced| {
            json!({
                "group": names.name(&unplaced.group), "missing": unplaced.missing,
                "missing_before": unplaced.missing_before, "why": unplaced.why,
            })
        })
        .collect();
    let tightest = outcome
        .tightest
        .as_ref()
        .map(|(resource, share)| json!({"resource": resource, "share": share}));
    json!({
        "if": outcome.hypotheses.iter().map(|it| names.shown(&it.to_string())).collect::<Vec<_>>(),
        "jobs": jobs, "unplaced": unplaced, "tightest": tightest,
        "took_ms": outcome.took_ms, "is_at_rest": outcome.is_at_rest,
    })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use flynn_sched::{
        Group, GroupKind, Host, HostId, JobSpec, Resources, Transaction, what_if::Rested,
    };

    use super::*;

    #[test]
    fn groups_are_called_by_their_app() {
        let group = |id: &str, app: &str, kind: &str| {
            let metadata = [("app_name", app), ("type", kind)];
            let metadata = metadata
                .map(|(key, value)| (format!("flynn-controller.{key}"), value.to_owned()))
                .into();
            let spec = JobSpec {
                metadata,
                ..JobSpec::default()
            };
            Group::new(
                GroupId::parse(id).unwrap(),
                GroupKind::Service { count: 1 },
                spec,
            )
        };
        let host = Host::new(HostId::parse("h1").unwrap(), Resources::default());
        let state = ClusterState::default().host_joined(host, 1).unwrap();
        let transaction = Transaction::on(&state)
            .put_group(group("a1.r1.web", "shop", "web"))
            .put_group(group("a1.r1.worker", "shop", "worker"))
            .put_group(group("a2.r1.web", "blog", "web"));
        let state = state.apply(&transaction).unwrap().state;
        let names = Names::of(&state);
        assert_eq!(names.group("blog").unwrap().as_str(), "a2.r1.web");
        assert_eq!(names.group("shop.worker").unwrap().as_str(), "a1.r1.worker");
        assert!(names.group("shop").is_none());
        assert_eq!(names.shown("a2.r1.web  1"), "blog.web   1");

        let mut schedulers = scheduler::all();
        let mut schedulers: Vec<&mut dyn Scheduler> = schedulers
            .iter_mut()
            .map(|scheduler| &mut **scheduler as &mut dyn Scheduler)
            .collect();
        let state = Rested::run(&state, 1, Duration::from_secs(60), &mut schedulers).state;
        assert_eq!(state.jobs().count(), 3);
        print(
            &state,
            &["scale blog to 3; lose host h1".to_owned()],
            Format::Json,
        )
        .unwrap();
        let error = print(&state, &["scale shop to 3".to_owned()], Format::Text).unwrap_err();
        assert!(
            error.to_string().contains("there is no group shop"),
            "{error}"
        );
    }
}
