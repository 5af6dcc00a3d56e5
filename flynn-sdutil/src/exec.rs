//! Runs a program while it is registered.

use flynn_discovery::Registry;

use crate::{
    Announcement, Error, Program, Result, Signals,
    announce::Announced,
    process::Process,
    signals::{comes_from_terminal, is_end},
};

/// Runs `program` and registers `announcement` while it runs; gives the exit status to end with.
///
/// The program has our input and output, and gets the signals we get. Its end, however it comes, takes the instances out
/// at once. A signal that asks it to end takes them out first, so that no new work arrives while it finishes.
///
/// # Errors
///
/// [`Error::Spawn`] when the program cannot be started. When the registry refuses for good, the program is stopped and
/// the refusal is the error.
pub async fn exec(
    registry: &Registry,
    announcement: &Announcement,
    program: &Program,
    signals: &mut Signals,
) -> Result<u8> {
    let prepared = announcement.prepare(registry)?;
    let mut process = program.start(&[])?;
    let mut announced = Some(prepared.start());
    loop {
        tokio::select! {
            status = process.exited() => {
                end(announced.take()).await;
                return status;
            }
            signal = signals.next() => {
                if is_end(signal) {
                    end(announced.take()).await;
                }
                if !comes_from_terminal(signal) {
                    process.signal(signal);
                }
            }
            error = failed(announced.as_mut()) => match error {
                Error::Replaced { .. } => {
                    // The program still serves whom it serves.
                    tracing::warn!("{error}");
                }
                error => {
                    return stop(process, announced.take(), error).await;
                }
            },
        }
    }
}

async fn stop(process: Process, announced: Option<Announced>, error: Error) -> Result<u8> {
    end(announced).await;
    process.stop(crate::expose::STOP_GRACE).await?;
    Err(error)
}

async fn end(announced: Option<Announced>) {
    if let Some(announced) = announced {
        announced.end().await;
    }
}

async fn failed(announced: Option<&mut Announced>) -> Error {
    match announced {
        Some(announced) => announced.failed().await,
        None => std::future::pending().await,
    }
}
