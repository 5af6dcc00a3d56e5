//! The host's daemon and the operator's commands.

use std::process::ExitCode;

fn main() -> ExitCode {
    flynn_distribution::host::main()
}
