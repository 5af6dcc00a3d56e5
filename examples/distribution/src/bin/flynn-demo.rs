//! What `make demo` runs.

use std::process::ExitCode;

use clap::Parser as _;
use flynn_distribution::{demo, program};

fn main() -> ExitCode {
    let options = demo::Options::parse();
    program::command("flynn-demo", async { Ok(demo::run(options).await) })
}
