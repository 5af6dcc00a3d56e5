//! scale.

use std::{collections::BTreeMap, time::Duration};

use anyhow::{Context as _, Result, bail};
use flynn_controller::{
    http::EventQuery,
    model::{EventKind, Job, JobState, ScaleRequest, ScaleState},
};
use tokio::time::{Instant, timeout};

use super::{
    args::ScaleArgs,
    context::{Context, about_app},
    follow::Follow,
    output::{Format, note, table},
};

/// How long the jobs may take to change.
const WAIT: Duration = Duration::from_secs(60);

pub(super) async fn run(context: &Context, args: ScaleArgs) -> Result<()> {
    let app = context.app()?;
    let client = context.client()?;
    about_app(&app, client.app(&app).await)?;
    let release = match args.release {
        Some(id) => client
            .release(&id)
            .await
            .with_context(|| format!("release {id} was not found"))?,
        None => client.current_release(&app).await?.with_context(|| {
            format!("app {app} has no release yet: git push to make one, then scale it")
        })?,
    };
    if args.types.is_empty() {
        return show(context, &app, &release.id, args.all).await;
    }

    let mut wanted = BTreeMap::new();
    for arg in &args.types {
        let Some((name, count)) = arg.split_once('=') else {
            bail!("{arg:?} is not TYPE=N, as in web=3")
        };
        let count: u32 = count
            .parse()
            .with_context(|| format!("{count:?} in {arg:?} is not a count"))?;
        wanted.insert(name.to_owned(), count);
    }
    let unknown: Vec<_> = wanted
        .keys()
        .filter(|name| !release.processes.contains_key(*name))
        .map(|name| format!("{name:?}"))
        .collect();
    if !unknown.is_empty() {
        let known: Vec<_> = release.processes.keys().cloned().collect();
        bail!(
            "unknown process types: {}; the release has {}",
            unknown.join(", "),
            known.join(", ")
        );
    }
    let before = client
        .formation(&app, &release.id)
        .await?
        .map(|formation| formation.processes)
        .unwrap_or_default();
    let started = Instant::now();
    // Followed from before the change, so that none of its events is missed.
    let query = EventQuery::of(&app).only(&[EventKind::Job, EventKind::ScaleRequest]);
    let advice = format!("`flynn -a {app} ps` shows how far it came");
    let mut events = Follow::from_now(&client, query, advice).await?;
    let request = ScaleRequest {
        app: app.clone(),
        release: release.id.clone(),
        new_processes: Some(wanted.clone()),
        ..ScaleRequest::default()
    };
    let request = client.scale(&request).await?;
    if context.format == Format::Text {
        let changes: Vec<_> = wanted
            .iter()
            .map(|(name, count)| {
                format!(
                    "{name}: {}=>{count}",
                    before.get(name).copied().unwrap_or(0)
                )
            })
            .collect();
        note(&format!("scaling {}", changes.join(", ")));
    }
    if args.no_wait || request.state != ScaleState::Pending {
        return context.format.print(&request, |_| String::new());
    }
    let mut last_error = None;
    let waiting = async {
        loop {
            let event = events.next().await?;
            if event.kind == EventKind::Job {
                let job: Job = serde_json::from_value(event.data)?;
                if context.format == Format::Text {
                    note(&format!(
                        "{:>7.3} s ==> {} {} {}",
                        started.elapsed().as_secs_f64(),
                        job.process_type,
                        job.id,
                        job.state
                    ));
                }
                if matches!(
                    job.state,
                    JobState::Crashed | JobState::Failed | JobState::Blocked
                ) || job.restarts.is_some_and(|n| n > 0)
                {
                    last_error = job.host_error.or_else(|| last_error.take());
                }
                continue;
            }
            let done: ScaleRequest = serde_json::from_value(event.data)?;
            if done.id == request.id {
                match done.state {
                    ScaleState::Pending => {}
                    ScaleState::Cancelled => bail!("another scale of {app} took this one's place"),
                    ScaleState::Complete => return Ok(done),
                    _ => {}
                }
            }
        }
    };
    match timeout(WAIT, waiting).await {
        Ok(done) => {
            let done = done?;
            context.format.print(&done, |_| {
                format!(
                    "scale completed in {:.3} s",
                    started.elapsed().as_secs_f64()
                )
            })
        }
        Err(_) => {
            let why = last_error
                .map(|error| format!("; a job said: {error}"))
                .unwrap_or_default();
            bail!(
                "the jobs did not all change within {WAIT:?}{why}; `flynn -a {app} ps` shows how far it came, `flynn -a {app} log` why"
            )
        }
    }
}

async fn show(context: &Context, app: &str, current: &str, all: bool) -> Result<()> {
    let client = context.client()?;
    let mut formations = client.formations(app).await?;
    formations.retain(|formation| {
        if all {
            formation.is_active()
        } else {
            formation.release == current
        }
    });
    // Types that were never scaled are shown with zero.
    let release = client.release(current).await?;
    if let Some(formation) = formations
        .iter_mut()
        .find(|formation| formation.release == current)
    {
        for name in release.processes.keys() {
            formation.processes.entry(name.clone()).or_insert(0);
        }
    } else {
        let processes = release
            .processes
            .keys()
            .map(|name| (name.clone(), 0))
            .collect();
        formations.push(flynn_controller::model::Formation {
            app: release.app_id,
            release: current.to_owned(),
            processes,
            ..Default::default()
        });
    }
    context.format.print(&formations, |formations| {
        table(
            ["TYPE", "COUNT", "RELEASE"],
            formations.iter().flat_map(|formation| {
                formation.processes.iter().map(|(name, count)| {
                    let is_current = if formation.release == current {
                        " (current)"
                    } else {
                        ""
                    };
                    [
                        name.clone(),
                        count.to_string(),
                        format!("{}{is_current}", formation.release),
                    ]
                })
            }),
        )
    })
}
