//! The light cell keeps the rules of the crate's own state, and the simulator gives the same bytes on both.

use std::time::Duration;

use flynn_sched::sim::{
    architecture::{Architecture, Settings, Simulation, ThinkTimes},
    cell::{Amount, Cell, Claim, Corner, FullCell, LightCell, Machine, Proposal, Task},
    report,
    workload::synthetic::CellShape,
};
use proptest::prelude::*;

/// What happens to a cell.
#[derive(Debug, Clone)]
enum Step {
    /// A job claims machines, from a snapshot that is so many steps old.
    Commit {
        task: Task,
        machines: Vec<u32>,
        age: usize,
        corner: usize,
    },
    /// Some of what has been committed ends: the job, counted from the first, and how many of its tasks.
    Release { job: usize, tasks: usize },
}

const MACHINES: u32 = 5;

fn any_task() -> impl Strategy<Value = Task> {
    (0_u64..5, 0_u64..5, prop::option::of(0_u8..3), any::<bool>()).prop_map(
        |(cores, gib, kind, is_distinct)| Task {
            amount: Amount {
                cpu_millis: cores * 500,
                memory_bytes: gib << 30,
            },
            kind,
            is_distinct,
        },
    )
}

fn any_step() -> impl Strategy<Value = Step> {
    let commit = (
        any_task(),
        prop::collection::vec(0..MACHINES, 1..6),
        0_usize..6,
        0_usize..4,
    );
    let release = (any::<prop::sample::Index>(), 1_usize..4);
    prop_oneof![
        3 => commit.prop_map(|(task, machines, age, corner)| Step::Commit { task, machines, age, corner }),
        1 => release.prop_map(|(job, tasks)| Step::Release { job: job.index(40), tasks }),
    ]
}

fn machines() -> Vec<Machine> {
    let machine = |number: u32| Machine {
        capacity: Amount {
            cpu_millis: 2_000 + u64::from(number % 3) * 1_000,
            memory_bytes: (4 + u64::from(number % 2) * 2) << 30,
        },
        kind: u8::try_from(number % 3).unwrap(),
    };
    (0..MACHINES).map(machine).collect()
}

/// Carries out the steps, and tells what was refused and what is free after each.
fn history<C: Cell>(steps: &[Step]) -> Vec<(Vec<Claim>, Vec<Amount>)> {
    let mut cell = C::new(&machines());
    let mut revisions = vec![cell.revision()];
    let mut running: Vec<(u32, Task, Vec<Claim>)> = Vec::new();
    let mut history = Vec::new();
    for (job, step) in (0..).zip(steps) {
        let mut refused = Vec::new();
        match step {
            Step::Commit {
                task,
                machines,
                age,
                corner,
            } => {
                let claims: Vec<Claim> = (0..)
                    .zip(machines)
                    .map(|(serial, machine)| Claim {
                        machine: *machine,
                        serial,
                    })
                    .collect();
                let basis = revisions[revisions.len().saturating_sub(1 + age)];
                let proposal = Proposal {
                    job,
                    task,
                    claims: &claims,
                    basis,
                    corner: Corner::ALL[*corner],
                };
                cell.commit(&proposal, &mut refused);
                let accepted = claims
                    .into_iter()
                    .filter(|claim| !refused.contains(claim))
                    .collect();
                running.push((job, *task, accepted));
            }
            Step::Release { job, tasks } => {
                let count = running.len().max(1);
                if let Some((job, task, claims)) = running.get_mut(job % count) {
                    let ended: Vec<Claim> = claims.drain(..(*tasks).min(claims.len())).collect();
                    if !ended.is_empty() {
                        cell.release(*job, task, &ended);
                    }
                }
            }
        }
        revisions.push(cell.revision());
        history.push((
            refused,
            (0..MACHINES).map(|machine| cell.free(machine)).collect(),
        ));
    }
    history
}

proptest! {
    /// In all four corners, for tasks that need a kind of machine or distinct machines, from old and new snapshots.
    #[test]
    fn the_light_cell_refuses_what_the_full_one_refuses(steps in prop::collection::vec(any_step(), 1..40)) {
        prop_assert_eq!(history::<LightCell>(&steps), history::<FullCell>(&steps));
    }
}

/// Everything that a simulation tells, as text.
fn told<C: Cell>(architecture: Architecture, seed: u64) -> String {
    let length = Duration::from_secs(120);
    let shape = CellShape::a().scaled_to(60).with_picky(0.05);
    let workload = shape.generate(seed, length).unwrap();
    let think = ThinkTimes::with_service_job(Duration::from_secs(2));
    let settings = Settings::new(seed, length).with_think(think);
    let outcome = Simulation::new(&workload, architecture, settings)
        .run_on::<C>()
        .unwrap();
    let mut text = Vec::new();
    report::write_schedulers([&outcome], &mut text).unwrap();
    report::write_classes([&outcome], &mut text).unwrap();
    report::write_timeline(&outcome, &mut text).unwrap();
    String::from_utf8(text).unwrap()
}

fn all_architectures() -> Vec<Architecture> {
    let mut all = Architecture::ALL.to_vec();
    all.extend(Corner::ALL.map(|corner| Architecture::SharedState {
        corner,
        batch_schedulers: 3,
    }));
    all
}

#[test]
fn a_simulation_tells_the_same_on_both_cells() {
    for architecture in all_architectures() {
        let (light, full) = (
            told::<LightCell>(architecture, 3),
            told::<FullCell>(architecture, 3),
        );
        assert_eq!(light, full, "{architecture}");
    }
}

#[test]
fn the_same_seed_gives_the_same_bytes_and_another_seed_others() {
    for architecture in all_architectures() {
        let first = told::<LightCell>(architecture, 3);
        assert_eq!(first, told::<LightCell>(architecture, 3), "{architecture}");
        assert_ne!(first, told::<LightCell>(architecture, 4), "{architecture}");
    }
}
