//! The child: started with our own input and output, signalled, and its status understood.

use std::{ffi::OsString, os::unix::process::ExitStatusExt, process::ExitStatus, time::Duration};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use tokio::process::{Child, Command};

use crate::{Error, Result};

/// A program and its arguments.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Program {
    /// The program: a path, or a name to be looked up.
    pub name: OsString,
    /// Its arguments.
    pub args: Vec<OsString>,
}

impl Program {
    /// The program and arguments a command line is made of.
    ///
    /// # Errors
    ///
    /// [`Error::Usage`] when it is empty.
    pub fn parse(line: impl IntoIterator<Item = OsString>) -> Result<Self> {
        let mut line = line.into_iter();
        let name = line.next().ok_or_else(|| Error::Usage {
            what: "the command".to_owned(),
            why: "say which program to run".to_owned(),
        })?;
        Ok(Self {
            name,
            args: line.collect(),
        })
    }

    /// Starts it with our standard input, output and error, and with more in its environment.
    pub(crate) fn start(&self, env: &[(String, String)]) -> Result<Process> {
        Command::new(&self.name)
            .args(&self.args)
            .envs(env.iter().map(|(name, value)| (name, value)))
            .kill_on_drop(true)
            .spawn()
            .map(|child| Process { child })
            .map_err(|source| Error::Spawn {
                program: self.name.clone(),
                source,
            })
    }
}

/// A running program.
#[derive(Debug)]
pub(crate) struct Process {
    child: Child,
}

impl Process {
    /// Waits for its end; gives the exit status for us to end with: its own, or 128 and the signal that killed it.
    ///
    /// Cancel safe.
    pub(crate) async fn exited(&mut self) -> Result<u8> {
        let status = self.child.wait().await.map_err(|source| Error::System {
            operation: "wait for the program",
            source,
        })?;
        Ok(exit_status(status))
    }

    /// Sends it a signal, if it still runs.
    pub(crate) fn signal(&self, signal: Signal) {
        if let Some(pid) = self.child.id().and_then(|id| i32::try_from(id).ok()) {
            // It has not been waited for, so the number is still its own.
            if let Err(error) = kill(Pid::from_raw(pid), signal) {
                tracing::warn!(%signal, %error, "cannot signal the program");
            }
        }
    }

    /// Asks it to end, and kills it if it does not within `grace`.
    pub(crate) async fn stop(mut self, grace: Duration) -> Result<u8> {
        self.signal(Signal::SIGTERM);
        if let Ok(status) = tokio::time::timeout(grace, self.exited()).await {
            return status;
        }
        self.signal(Signal::SIGKILL);
        self.exited().await
    }
}

fn exit_status(status: ExitStatus) -> u8 {
    match (status.code(), status.signal()) {
        (Some(code), _) => u8::try_from(code).unwrap_or(1),
        (None, Some(signal)) => u8::try_from(128 + signal).unwrap_or(1),
        (None, None) => 1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn our_status_is_the_childs_or_128_and_its_signal() {
        assert_eq!(exit_status(ExitStatus::from_raw(3 << 8)), 3);
        assert_eq!(exit_status(ExitStatus::from_raw(9)), 137);
    }
}
