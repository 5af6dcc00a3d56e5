//! The users' command line.

use std::process::ExitCode;

use clap::Parser as _;
use flynn_distribution::{cli, program};

fn main() -> ExitCode {
    program::command("flynn", cli::run(cli::Cli::parse()))
}
