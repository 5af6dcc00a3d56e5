//! ps, log, run, kill.

use std::process::ExitCode;

use anyhow::{Context as _, Result, bail};
use flynn_controller::{http::LogQuery, model::NewJob};
use flynn_host::attach::{Attached, Channel, Frame};
use futures::StreamExt as _;
use tokio::{
    io::AsyncReadExt as _,
    signal::unix::{SignalKind, signal},
};

use super::{
    args::{LogArgs, RunArgs},
    context::{Context, about, about_app},
    output::{line, note, table},
};

/// Signals as the attach protocol numbers them.
const SIGINT: u32 = 2;
const SIGTERM: u32 = 15;

pub(super) async fn list(
    context: &Context,
    all: bool,
    quiet: bool,
    process_type: Option<&str>,
) -> Result<()> {
    let app = context.app()?;
    let mut jobs = about_app(&app, context.client()?.jobs(&app).await)?;
    jobs.retain(|job| {
        (all || job.state.is_active())
            && process_type.is_none_or(|wanted| job.process_type == wanted)
    });
    context.format.print(&jobs, |jobs| {
        if quiet {
            return jobs
                .iter()
                .map(|job| job.id.clone())
                .collect::<Vec<_>>()
                .join("\n");
        }
        table(
            ["ID", "TYPE", "STATE", "CREATED", "RESTARTS", "ERROR"],
            jobs.iter().map(|job| {
                let kind = if job.process_type.is_empty() {
                    "run"
                } else {
                    &job.process_type
                };
                [
                    if job.id.is_empty() {
                        job.uuid.clone()
                    } else {
                        job.id.clone()
                    },
                    kind.to_owned(),
                    job.state.to_string(),
                    job.created_at
                        .as_ref()
                        .map(ToString::to_string)
                        .unwrap_or_default(),
                    job.restarts.unwrap_or(0).to_string(),
                    job.host_error.clone().unwrap_or_default(),
                ]
            }),
        )
    })
}

pub(super) async fn kill(context: &Context, jobs: &[String]) -> Result<()> {
    let app = context.app()?;
    let client = context.client()?;
    about_app(&app, client.app(&app).await)?;
    for job in jobs {
        about(
            &format!("job {job}"),
            &format!("`flynn -a {app} ps` lists the jobs"),
            client.kill(&app, job).await,
        )?;
        note(&format!("Job {job} killed."));
    }
    Ok(())
}

pub(super) async fn log(context: &Context, args: LogArgs) -> Result<()> {
    let app = context.app()?;
    let client = context.client()?;
    let query = LogQuery {
        follow: args.follow,
        lines: args.number,
        job: args.job,
        process_type: args.process_type,
        ..LogQuery::default()
    };
    let mut lines = about_app(&app, client.log(&app, &query).await)?;
    while let Some(entry) = lines.next().await {
        let entry = entry?;
        let text = match context.format {
            super::output::Format::Json => serde_json::to_string(&entry)?,
            super::output::Format::Text if args.raw_output => entry.msg.clone(),
            super::output::Format::Text => {
                let kind = if entry.process_type.is_empty() {
                    "run"
                } else {
                    &entry.process_type
                };
                let time = entry
                    .timestamp
                    .as_ref()
                    .map(ToString::to_string)
                    .unwrap_or_default();
                format!("{time} app[{kind}.{}]: {}", entry.job_id, entry.msg)
            }
        };
        if args.split_stderr && entry.stream == "stderr" {
            note(&text);
        } else {
            line(&text);
        }
    }
    Ok(())
}

pub(super) async fn run(context: &Context, args: RunArgs) -> Result<ExitCode> {
    let app = context.app()?;
    let client = context.client()?;
    let release = match args.release {
        Some(id) => id,
        None => about_app(&app, client.app(&app).await)?
            .release
            .with_context(|| {
                format!(
                    "app {app} has no release yet: git push to make one, then run a command in it"
                )
            })?,
    };
    let release = about(
        &format!("release {release}"),
        "`flynn release` lists the app's releases",
        client.release(&release).await,
    )?;
    // What git push built has a profile to read first, as its own processes do.
    let args_of_job = if release.is_git() {
        in_slug(&args.command)
    } else {
        args.command
    };
    let job = NewJob {
        release: release.id,
        release_env: true,
        args: args_of_job,
        ..NewJob::default()
    };
    if args.detached {
        let job = about_app(&app, client.run(&app, &job).await)?;
        context.format.print(&job, |job| {
            if job.id.is_empty() {
                job.uuid.clone()
            } else {
                job.id.clone()
            }
        })?;
        return Ok(ExitCode::SUCCESS);
    }
    let connection = about_app(&app, client.run_attached(&app, &job).await)?;
    let (reader, writer) = tokio::io::split(connection);
    let (mut sender, mut receiver) = Attached::new(reader, writer).split();
    let mut stdin = tokio::io::stdin();
    let mut buffer = vec![0; 16 * 1024];
    let mut stdin_open = true;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    loop {
        tokio::select! {
            frame = receiver.recv() => match frame? {
                Some(Frame::Data(Channel::Stdout, bytes)) => write_all(std::io::stdout().lock(), &bytes)?,
                Some(Frame::Data(_, bytes)) => write_all(std::io::stderr().lock(), &bytes)?,
                Some(Frame::Exit(status)) => return Ok(ExitCode::from(u8::try_from(status).unwrap_or(u8::MAX))),
                Some(Frame::Error(message)) => bail!("the job failed: {message}"),
                Some(_) => {}
                None => bail!("the connection to the job broke; `flynn -a {app} ps -A` shows what became of it"),
            },
            read = stdin.read(&mut buffer), if stdin_open => {
                let n = read?;
                stdin_open = n > 0;
                // An empty frame tells the job that its input has ended.
                sender.send(Frame::Data(Channel::Stdin, bytes::Bytes::copy_from_slice(&buffer[..n]))).await?;
            }
            _ = interrupt.recv() => sender.send(Frame::Signal(SIGINT)).await?,
            _ = terminate.recv() => sender.send(Frame::Signal(SIGTERM)).await?,
        }
    }
}

fn write_all(mut out: impl std::io::Write, bytes: &[u8]) -> Result<()> {
    out.write_all(bytes)?;
    out.flush()?;
    Ok(())
}

/// What git push built has a profile to read first, as its own processes do: the slug's runner does it.
fn in_slug(command: &[String]) -> Vec<String> {
    ["/bin/sh", flynn_receive::builder::RUNNER]
        .into_iter()
        .map(str::to_owned)
        .chain(command.iter().cloned())
        .collect()
}
