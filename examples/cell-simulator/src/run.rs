//! `flynn-sim run`.

use flynn_sched::sim::architecture::Simulation;

use crate::{
    Done,
    arguments::RunOptions,
    files::{Directory, tell},
};

pub(crate) fn run(options: &RunOptions) -> Done {
    let length = options.time.length();
    let seed = options.time.seed;
    let settings = options.architecture.settings(seed, length)?;
    let workload = options.cell.shape()?.generate(seed, length)?;
    let simulation = Simulation::new(&workload, options.architecture.architecture(), settings);
    let outcome = simulation.run()?;
    tell(&outcome);
    Directory::create(&options.out)?.outcome(&outcome)
}
