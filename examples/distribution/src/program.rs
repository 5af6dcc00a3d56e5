//! What every program of the distribution does first: logging, a runtime, one way to end.

use std::process::ExitCode;

use anyhow::Result;
use tracing_subscriber::EnvFilter;

use crate::failure;

/// Worker threads of a program's runtime: enough for a small host, more where there are more cores.
fn workers() -> usize {
    std::thread::available_parallelism().map_or(2, |cores| cores.get().clamp(2, 8))
}

/// Runs a service: logs to standard error, works until its future ends.
pub fn service(name: &'static str, main: impl Future<Output = Result<()>>) -> ExitCode {
    let filter = EnvFilter::try_from_env("FLYNN_LOG")
        .unwrap_or_else(|_| EnvFilter::new("info,raft=warn,slog=warn"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_target(false)
        .with_ansi(false)
        .init();
    match run(main) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => failure::report(name, &error),
    }
}

/// Runs a command: logs only what it is asked for.
pub fn command(name: &'static str, main: impl Future<Output = Result<ExitCode>>) -> ExitCode {
    let filter = EnvFilter::try_from_env("FLYNN_LOG").unwrap_or_else(|_| EnvFilter::new("off"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .init();
    match run(main) {
        Ok(code) => code,
        Err(error) => failure::report(name, &error),
    }
}

fn run<T>(main: impl Future<Output = Result<T>>) -> Result<T> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(workers())
        .enable_all()
        .build()?;
    let result = runtime.block_on(main);
    // A blocking read of a terminal must not keep us.
    runtime.shutdown_background();
    result
}
