//! How a program of the distribution ends: one sentence and an exit status that tells bad usage from failure.

use std::process::ExitCode;

/// The exit status of a failure.
pub const FAILED: u8 = 1;
/// The exit status of a command that was not understood.
pub const BAD_USAGE: u8 = 2;

/// Prints an error as one sentence and gives the exit status of a failure.
#[expect(
    clippy::print_stderr,
    reason = "this is where programs tell why they failed"
)]
pub fn report(program: &str, error: &anyhow::Error) -> ExitCode {
    eprintln!("{program}: {}", sentence(error));
    ExitCode::from(FAILED)
}

/// Says what a command line should have been, and gives the exit status of bad usage.
#[expect(
    clippy::print_stderr,
    reason = "this is where programs tell why they failed"
)]
pub fn bad_usage(program: &str, why: &str) -> ExitCode {
    eprintln!("{program}: {why}");
    ExitCode::from(BAD_USAGE)
}

/// The error and its causes in one line, without what is said twice.
#[must_use]
pub fn sentence(error: &anyhow::Error) -> String {
    let mut text = String::new();
    for cause in error.chain().map(ToString::to_string) {
        if text.is_empty() {
            text = cause;
        } else if !text.contains(&cause) {
            text = format!("{text}: {cause}");
        }
    }
    text.replace('\n', " ")
}

#[cfg(test)]
mod tests {
    use anyhow::anyhow;

    use super::*;

    #[test]
    fn a_cause_is_said_once() {
        let error = anyhow!("connection refused")
            .context("cannot reach host1: connection refused")
            .context("list failed");
        assert_eq!(
            sentence(&error),
            "list failed: cannot reach host1: connection refused"
        );
    }
}
