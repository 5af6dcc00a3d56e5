//! The scheduler as a job of the platform.

use std::process::ExitCode;

fn main() -> ExitCode {
    flynn_distribution::program::service(
        "flynn-scheduler",
        flynn_distribution::components::scheduler::main(),
    )
}
