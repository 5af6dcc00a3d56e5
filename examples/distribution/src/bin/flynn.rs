//! The users' command line.

use std::process::ExitCode;

fn main() -> ExitCode {
    flynn_distribution::cli::main()
}
