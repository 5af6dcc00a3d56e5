//! The receiver as a job of the platform; `build` is what runs inside a build job, `serve-static` what a static site's job runs.

use std::process::ExitCode;

fn main() -> ExitCode {
    flynn_distribution::components::receive::main()
}
