//! Stands between a host daemon and one job: see `flynn_host::runtime::process::shim`.

use std::process::ExitCode;

fn main() -> ExitCode {
    flynn_host::runtime::process::shim::run(std::env::args_os().skip(1))
}
