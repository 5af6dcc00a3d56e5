//! Healthy is what a program says by exiting with zero.

use std::{
    ffi::{OsStr, OsString},
    pin::pin,
    process::Stdio,
    time::Duration,
};

use async_trait::async_trait;
use futures::future::{FusedFuture, FutureExt};
use tokio::{io::AsyncReadExt, process::Command, time::timeout};

use super::{HealthCheck, Unhealthy};

/// Runs a program. It inherits the environment; a check that takes too long is killed.
#[derive(Debug, Clone)]
pub struct ExecCheck {
    program: OsString,
    args: Vec<OsString>,
}

impl ExecCheck {
    /// Runs `program` without arguments.
    #[must_use]
    pub fn new(program: impl AsRef<OsStr>) -> Self {
        Self {
            program: program.as_ref().to_owned(),
            args: Vec::new(),
        }
    }

    /// With these arguments after those there are.
    #[must_use]
    pub fn with_args<A: AsRef<OsStr>>(mut self, args: impl IntoIterator<Item = A>) -> Self {
        self.args
            .extend(args.into_iter().map(|arg| arg.as_ref().to_owned()));
        self
    }
}

#[async_trait]
impl HealthCheck for ExecCheck {
    async fn check(&self) -> Result<(), Unhealthy> {
        let program = self.program.display();
        let failed = |error| Unhealthy::new(format!("could not run {program}: {error}"));
        let mut child = Command::new(&self.program)
            .args(&self.args)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .map_err(failed)?;
        let mut said = Vec::new();
        let stderr = child.stderr.take();
        let status = {
            let listening = async {
                if let Some(mut stderr) = stderr {
                    let _ = (&mut stderr)
                        .take(STDERR_BYTES)
                        .read_to_end(&mut said)
                        .await;
                    // The rest goes nowhere; a closed pipe would kill the program.
                    let _ = tokio::io::copy(&mut stderr, &mut tokio::io::sink()).await;
                }
            };
            let mut listening = pin!(listening.fuse());
            // It is the exit that ends a check: a child of the child may keep the pipe open for ever.
            let status = loop {
                tokio::select! {
                    status = child.wait() => break status.map_err(failed)?,
                    () = &mut listening, if !listening.is_terminated() => {}
                }
            };
            let _ = timeout(LAST_WORDS, listening).await;
            status
        };
        if status.success() {
            return Ok(());
        }
        let said = String::from_utf8_lossy(&said);
        let last = said.lines().rev().find(|line| !line.trim().is_empty());
        let last = last.map(|line| format!(": {}", line.trim()));
        let last = last.unwrap_or_default();
        Err(Unhealthy::new(format!(
            "{program} ended with {status}{last}"
        )))
    }
}

/// How long to wait for what the program wrote before its end.
const LAST_WORDS: Duration = Duration::from_millis(100);

/// How much of the program's complaint is read.
const STDERR_BYTES: u64 = 8 * 1024;
