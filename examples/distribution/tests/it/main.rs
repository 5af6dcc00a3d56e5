//! System tests: real daemons on three loopback addresses, real `git` and `ssh`, real kills.
//!
//! Scenarios that leave the cluster as they found it share one, which is booted by the first of them. Those that break hosts
//! boot their own.
#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "these are tests")]

mod alone;
mod faults;
mod fixture;
mod operators;
mod platform;
mod push;
mod recovery;
mod users;

use std::process::ExitCode;

use libtest_mimic::{Arguments, Failed, Trial};

use self::fixture::Shared;

/// A scenario: a sentence, and what shows that it is true.
type Scenario = (&'static str, fn(&Shared) -> anyhow::Result<()>);

fn main() -> ExitCode {
    let mut arguments = Arguments::from_args();
    // They share a cluster and two cores.
    arguments.test_threads = Some(1);
    let shared: &'static Shared = Box::leak(Box::default());
    let scenarios = [
        alone::SCENARIOS,
        push::SCENARIOS,
        users::SCENARIOS,
        platform::SCENARIOS,
        operators::SCENARIOS,
        faults::SCENARIOS,
        recovery::SCENARIOS,
    ]
    .concat();
    let trials = scenarios
        .into_iter()
        .map(|(name, scenario): Scenario| {
            Trial::test(name, move || {
                scenario(shared).map_err(|error| Failed::from(format!("{error:#}")))
            })
        })
        .collect();
    let conclusion = libtest_mimic::run(&arguments, trials);
    shared.stop();
    conclusion.exit_code()
}
