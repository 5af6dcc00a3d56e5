//! The controller as a job of the platform.

use std::process::ExitCode;

fn main() -> ExitCode {
    flynn_distribution::program::service(
        "flynn-controller",
        flynn_distribution::components::controller::main(),
    )
}
