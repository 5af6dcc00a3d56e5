//! Run with `cargo run --release -p cell-simulator -- run --cell b --architecture shared-state --hours 24 --seed 1 --out day`.
//!
//! `flynn-sim` simulates scheduling architectures (monolithic, partitioned, two-level, shared state) on cells in the shape of
//! the Omega paper's and on traces, and writes what came out as CSV tables and SVG plots.
//!
//! Exit codes: 0 it is done, 1 it failed, 2 the command line makes no sense.
/// Prints a line. Whoever reads may stop reading (`| head`): that is no failure.
macro_rules! say {
    ($($what:tt)*) => {{
        use std::io::Write as _;
        let _ = writeln!(std::io::stdout(), $($what)*);
    }};
}

/// Prints a line to standard error, as [`say`].
macro_rules! complain {
    ($($what:tt)*) => {{
        use std::io::Write as _;
        let _ = writeln!(std::io::stderr(), $($what)*);
    }};
}

mod arguments;
mod files;
mod generate;
mod run;
mod sweep;
mod trace;

use std::process::ExitCode;

use clap::Parser;

use arguments::{Arguments, Command};

fn main() -> ExitCode {
    // clap ends the process with 2 when the command line makes no sense.
    let arguments = Arguments::parse();
    let result = match &arguments.command {
        Command::Run(options) => run::run(options),
        Command::Sweep(options) => sweep::sweep(options),
        Command::Trace(options) => trace::trace(options),
        Command::Generate(options) => generate::generate(options),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(Failure::Usage(why)) => {
            complain!("flynn-sim: {why}");
            ExitCode::from(2)
        }
        Err(Failure::Failed(why)) => {
            complain!("flynn-sim: {why}");
            ExitCode::FAILURE
        }
    }
}

/// Why a command did not do what it should, in one sentence.
#[derive(Debug)]
enum Failure {
    /// What was asked for makes no sense.
    Usage(String),
    /// It did not work.
    Failed(String),
}

impl From<flynn_sched::Error> for Failure {
    fn from(error: flynn_sched::Error) -> Self {
        Self::Failed(error.to_string())
    }
}

type Done = Result<(), Failure>;
