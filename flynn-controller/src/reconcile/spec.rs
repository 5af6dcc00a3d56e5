//! From process types and one-off jobs to what a host carries out.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use flynn_sched::{
    Artifact as Files, Check, CheckKind, JobSpec, Partition, Port, Resources, RestartPolicy,
    Service, Volume,
};

use crate::model::{
    App, Artifact, HealthCheck, Limits, NewJob, PortService, ProcessResources, ProcessType, Release,
};

/// The metadata key of a job with its app's id.
pub const META_APP: &str = "flynn-controller.app";
/// The metadata key of a job with its app's name.
pub const META_APP_NAME: &str = "flynn-controller.app_name";
/// The metadata key of a job with its release's id.
pub const META_RELEASE: &str = "flynn-controller.release";
/// The metadata key of a job with its process type; empty for a one-off job.
pub const META_TYPE: &str = "flynn-controller.type";

/// What a host makes of a process type.
#[must_use]
pub fn process_spec(
    app: &App,
    release: &Release,
    artifacts: &[Arc<Artifact>],
    name: &str,
    process: &ProcessType,
) -> JobSpec {
    let mut spec = common(app, release, name);
    spec.args = process.full_args();
    spec.env.extend((*release.env).clone());
    spec.env.extend((*process.env).clone());
    identify(&mut spec.env, app, release, name);
    spec.artifacts = artifacts.iter().map(|artifact| files(artifact)).collect();
    spec.ports = ports(app, name, process);
    set_resources(&mut spec, &process.resources);
    spec.restart = RestartPolicy::Always;
    spec.volumes = process
        .volumes
        .iter()
        .map(|volume| Volume {
            name: volume_name(&volume.path),
            owner: app.id.clone(),
        })
        .collect();
    spec
}

/// What a host makes of a one-off job. `release` may be that of another app when the caller gave its artifacts.
#[must_use]
pub fn one_off_spec(
    app: &App,
    release: &Release,
    artifacts: &[Arc<Artifact>],
    job: &NewJob,
    is_attached: bool,
) -> JobSpec {
    let mut spec = common(app, release, "");
    spec.args = job.full_args();
    if job.release_env {
        spec.env.extend((*release.env).clone());
    }
    spec.env.extend((*job.env).clone());
    identify(&mut spec.env, app, release, "");
    if job.tty && job.columns > 0 && job.lines > 0 {
        spec.env
            .insert("COLUMNS".to_owned(), job.columns.to_string());
        spec.env.insert("LINES".to_owned(), job.lines.to_string());
    }
    spec.artifacts = artifacts.iter().map(|artifact| files(artifact)).collect();
    set_resources(&mut spec, &job.resources.clone().unwrap_or_default());
    spec.restart = RestartPolicy::Never;
    if job.data {
        spec.volumes.push(Volume {
            name: "data".to_owned(),
            owner: app.id.clone(),
        });
    }
    spec.partition = match job.partition.as_str() {
        "background" => Partition::Background,
        // Only a part of the platform is given the cell's credentials.
        "system" if app.is_system() => Partition::System,
        _ => spec.partition,
    };
    spec.has_stdin = is_attached;
    spec.has_tty = job.tty;
    spec.waits_for_attach = is_attached;
    let user = job
        .meta
        .iter()
        .filter(|(key, _)| !key.starts_with("flynn-controller."));
    spec.metadata
        .extend(user.map(|(k, v)| (k.clone(), v.clone())));
    spec
}

fn common(app: &App, release: &Release, name: &str) -> JobSpec {
    let metadata = [
        (META_APP, app.id.as_str()),
        (META_APP_NAME, &app.name),
        (META_RELEASE, &release.id),
        (META_TYPE, name),
    ];
    JobSpec {
        metadata: metadata
            .into_iter()
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
            .collect(),
        partition: if app.is_system() {
            Partition::System
        } else {
            Partition::User
        },
        ..JobSpec::default()
    }
}

/// Who the job is; not for the release to say.
fn identify(env: &mut BTreeMap<String, String>, app: &App, release: &Release, name: &str) {
    for (key, value) in [
        ("FLYNN_APP_ID", app.id.as_str()),
        ("FLYNN_APP_NAME", &app.name),
        ("FLYNN_RELEASE_ID", &release.id),
        ("FLYNN_PROCESS_TYPE", name),
    ] {
        env.insert(key.to_owned(), value.to_owned());
    }
}

fn files(artifact: &Artifact) -> Files {
    Files {
        uri: artifact.uri.clone(),
        sha256: artifact.hashes.get("sha256").cloned(),
        size: artifact.size,
    }
}

fn ports(app: &App, name: &str, process: &ProcessType) -> Vec<Port> {
    if process.ports.is_empty() && name == "web" {
        return vec![Port {
            port: None,
            proto: "http".to_owned(),
            service: Some(Service {
                name: format!("{}-web", app.name),
                check: Some(Check::default()),
            }),
        }];
    }
    let ports = process.ports.iter().map(|port| Port {
        // Jobs share their host's address: a number is only kept where the release insists on it.
        port: (process.host_network && port.port > 0).then_some(port.port),
        proto: if port.proto.is_empty() {
            "tcp".to_owned()
        } else {
            port.proto.clone()
        },
        service: port.service.as_ref().and_then(service),
    });
    ports.collect()
}

fn service(service: &PortService) -> Option<Service> {
    (!service.name.is_empty()).then(|| Service {
        name: service.name.clone(),
        check: service.check.as_ref().map(check),
    })
}

fn check(check: &HealthCheck) -> Check {
    let default = Check::default();
    let kind = match check.kind.as_str() {
        "http" | "https" => CheckKind::Http {
            path: if check.path.starts_with('/') {
                check.path.clone()
            } else {
                format!("/{}", check.path)
            },
            status: check.status.unwrap_or(200),
        },
        _ => CheckKind::Tcp,
    };
    let nanos = |ns: Option<u64>| ns.filter(|ns| *ns > 0).map(Duration::from_nanos);
    Check {
        kind,
        interval: nanos(check.interval_ns).unwrap_or(default.interval),
        threshold: check
            .threshold
            .filter(|n| *n > 0)
            .unwrap_or(default.threshold),
        start_timeout: nanos(check.start_timeout_ns).unwrap_or(default.start_timeout),
        kill_down: check.kill_down,
    }
}

fn set_resources(spec: &mut JobSpec, resources: &ProcessResources) {
    let mut filled = resources.clone();
    filled.fill_defaults();
    let amount = |limits: Option<Limits>, pick: fn(Limits) -> Option<i64>| {
        limits
            .and_then(pick)
            .and_then(|n| u64::try_from(n).ok())
            .unwrap_or_default()
    };
    let all = |pick: fn(Limits) -> Option<i64>| Resources {
        cpu_millis: amount(filled.cpu, pick),
        memory_bytes: amount(filled.memory, pick),
        disk_bytes: amount(filled.temp_disk, pick),
    };
    spec.request = all(|limits| limits.request);
    spec.limit = all(|limits| limits.limit);
}

/// `/var/lib/data` → `var-lib-data`.
fn volume_name(path: &str) -> String {
    let lower = path.to_ascii_lowercase();
    let words: Vec<&str> = lower
        .split(|c: char| !c.is_ascii_alphanumeric())
        .filter(|word| !word.is_empty())
        .collect();
    if words.is_empty() {
        "data".to_owned()
    } else {
        words.join("-")
    }
}
