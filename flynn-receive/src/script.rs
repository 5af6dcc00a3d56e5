//! Runs a program with its output as it comes, a time limit, and a way to stop it.

use std::{io, process::ExitStatus, process::Stdio, time::Duration};

use bytes::{Bytes, BytesMut};
use rustix::process::{Pid, Signal, kill_process_group};
use tokio::{
    io::AsyncReadExt,
    net::unix::pipe,
    process::{Child, Command},
    time::{Instant, timeout, timeout_at},
};
use tokio_util::sync::CancellationToken;

use crate::{Console, Error, Result};

/// Whose signals a program gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum ProcessGroup {
    /// It is the head of its own process group, all of which is killed when it is stopped.
    #[default]
    Own,
    /// It stays in ours: who runs us stops it with us.
    Ours,
}

/// Runs `command` to its end; what it writes to standard output and error goes to `console`, in its order.
///
/// # Errors
///
/// [`Error::Stopped`] after `cancel`; [`Error::Refused`] at the `deadline`; [`Error::Upstream`] when it cannot be
/// started. In all of them the program is gone.
///
/// # Cancel safety
///
/// Dropped, it kills the program.
pub(crate) async fn run(
    what: &str,
    mut command: Command,
    group: ProcessGroup,
    console: &Console,
    deadline: Instant,
    cancel: &CancellationToken,
) -> Result<ExitStatus> {
    let failed = || format!("start {what}");
    let (reader, writer) = io::pipe().map_err(Error::storage(failed()))?;
    command
        .stdin(Stdio::null())
        .stdout(writer.try_clone().map_err(Error::storage(failed()))?)
        .stderr(writer)
        .kill_on_drop(true);
    if group == ProcessGroup::Own {
        command.process_group(0);
    }
    let mut child = command
        .spawn()
        .map_err(|e| Error::upstream(format!("could not {}", failed()), e))?;
    // The command holds our copies of the pipe's other end.
    drop(command);
    let _group = Group::of(&child, group);
    let mut output = pipe::Receiver::from_owned_fd(reader.into())
        .map_err(Error::storage(format!("read the output of {what}")))?;

    let ended = tokio::select! {
        ended = timeout_at(deadline, follow(&mut child, &mut output, console)) => ended,
        () = cancel.cancelled() => return Err(Error::Stopped { what: "the build" }),
    };
    match ended {
        Ok(status) => status.map_err(|e| Error::upstream(format!("lost sight of {what}"), e)),
        Err(_) => Err(Error::refused(format!(
            "{what} did not end in time and was stopped"
        ))),
    }
}

async fn follow(
    child: &mut Child,
    output: &mut pipe::Receiver,
    console: &Console,
) -> io::Result<ExitStatus> {
    let status = loop {
        tokio::select! {
            biased;
            chunk = read(output) => match chunk? {
                Some(bytes) => console.write(bytes).await,
                None => break child.wait().await?,
            },
            status = child.wait() => break status?,
        }
    };
    // Something it left behind may hold the pipe open: what is in it is read, but its end is not waited for.
    while let Ok(Ok(Some(bytes))) = timeout(LAST_WORDS, read(output)).await {
        console.write(bytes).await;
    }
    Ok(status)
}

async fn read(output: &mut pipe::Receiver) -> io::Result<Option<Bytes>> {
    let mut buffer = BytesMut::with_capacity(8 << 10);
    let read = output.read_buf(&mut buffer).await?;
    Ok((read > 0).then(|| buffer.freeze()))
}

/// The process group of a program, killed when this is dropped.
#[derive(Debug)]
pub(crate) struct Group(Option<Pid>);

impl Group {
    /// The group of `child`, if it has its own.
    pub(crate) fn of(child: &Child, group: ProcessGroup) -> Self {
        let pid = child
            .id()
            .and_then(|id| i32::try_from(id).ok())
            .and_then(Pid::from_raw);
        Self(pid.filter(|_| group == ProcessGroup::Own))
    }

    /// Kills what is left of it.
    pub(crate) fn kill(&mut self) {
        if let Some(group) = self.0.take() {
            let _ = kill_process_group(group, Signal::KILL);
        }
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        self.kill();
    }
}

const LAST_WORDS: Duration = Duration::from_millis(500);
