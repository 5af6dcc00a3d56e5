//! The router as a job of the platform.

use std::process::ExitCode;

fn main() -> ExitCode {
    flynn_distribution::program::service(
        "flynn-router",
        flynn_distribution::components::router::main(),
    )
}
