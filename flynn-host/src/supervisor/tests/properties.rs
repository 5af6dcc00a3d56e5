//! Whatever happens, in whatever order: a simple world that obeys commands, and what must always hold in it.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;

/// What the world owes the supervisor an answer to, and what exists in it.
#[derive(Default)]
struct World {
    /// Answers to come, in any order.
    pending: Vec<Event>,
    containers: BTreeMap<JobId, Container>,
    registered: BTreeSet<JobId>,
    prepared: BTreeSet<JobId>,
    starting: BTreeSet<JobId>,
}

struct Container {
    run: u32,
    is_running: bool,
    is_watched: bool,
    got_term: bool,
}

/// One step of a story.
#[derive(Debug, Clone)]
enum Step {
    /// The cell wants these jobs here (by number).
    Assign(Vec<u8>),
    /// An answer arrives; a bad one where there are such.
    Answer {
        which: usize,
        is_bad: bool,
    },
    /// A running job ends by itself.
    Exit {
        which: usize,
        code: i32,
    },
    /// Time passes.
    Wait(u64),
    Unhealthy(u8),
    Stop(u8),
    Attach(u8),
}

fn any_step() -> impl Strategy<Value = Step> {
    prop_oneof![
        1 => prop::collection::vec(0u8..5, 0..5).prop_map(Step::Assign),
        6 => (any::<usize>(), prop::bool::weighted(0.2))
            .prop_map(|(which, is_bad)| Step::Answer { which, is_bad }),
        1 => (any::<usize>(), 0..3).prop_map(|(which, code)| Step::Exit { which, code }),
        2 => prop_oneof![Just(10u64), Just(1_000), Just(40_000)].prop_map(Step::Wait),
        1 => (0u8..5).prop_map(Step::Unhealthy),
        1 => (0u8..5).prop_map(Step::Stop),
        1 => (0u8..5).prop_map(Step::Attach),
    ]
}

/// Five jobs of different kinds.
fn numbered(number: u8) -> Arc<Job> {
    let spec = match number {
        0 => JobSpec::default(),
        1 => web(Some(Check::default())),
        2 => never(),
        3 => web(None),
        _ => JobSpec {
            waits_for_attach: true,
            ..never()
        },
    };
    job(&number.to_string(), spec)
}

struct Story {
    supervisor: Supervisor,
    world: World,
    clock: u64,
    wanted: BTreeSet<u8>,
}

impl Story {
    fn new() -> Self {
        Self {
            supervisor: Supervisor::new(Options::default()),
            world: World::default(),
            clock: 0,
            wanted: BTreeSet::new(),
        }
    }

    fn tell(&mut self, event: Event) -> Result<(), TestCaseError> {
        let commands = self.supervisor.handle(now(self.clock), event);
        for command in commands {
            self.obey(command)?;
        }
        Ok(())
    }

    /// Carries out a command, and checks that it makes sense where the world is.
    fn obey(&mut self, command: Command) -> Result<(), TestCaseError> {
        let world = &mut self.world;
        match command {
            Command::Prepare(job, run) => {
                prop_assert!(!world.containers.contains_key(&job.id), "two copies");
                prop_assert!(world.prepared.insert(job.id.clone()), "prepared twice");
                world.starting.insert(job.id.clone());
                prop_assert!(world.starting.len() <= 4, "too many start at once");
                let ports = job.spec.ports.iter().map(|_| 8000).collect();
                world
                    .pending
                    .push(Event::Prepared(job.id.clone(), run, ports));
            }
            Command::Create(job, _, run) => {
                prop_assert!(world.prepared.contains(&job.id), "created unprepared");
                let container = Container {
                    run,
                    is_running: false,
                    is_watched: false,
                    got_term: false,
                };
                let before = world.containers.insert(job.id.clone(), container);
                prop_assert!(before.is_none(), "created twice");
                world.pending.push(Event::Created(job.id.clone(), run));
            }
            Command::Start(id, run) => {
                let container = world.containers.get_mut(&id);
                prop_assert!(container.is_some_and(|c| c.run == run && !c.is_running));
                world
                    .pending
                    .push(Event::Started(id, run, started(self.clock)));
            }
            Command::Watch(id, run) => {
                let container = world.containers.get_mut(&id).unwrap();
                prop_assert_eq!(container.run, run);
                prop_assert!(!container.is_watched);
                container.is_watched = true;
            }
            Command::Check(job, _, run) => {
                world.pending.push(Event::Healthy(job.id.clone(), run, 0));
            }
            Command::Register(job, _) => {
                // It may have ended a moment ago; that news is then still on its way.
                let is_watched = world.containers.get(&job.id).is_some_and(|c| c.is_watched);
                prop_assert!(is_watched, "registered without having run");
                world.registered.insert(job.id.clone());
            }
            Command::Deregister(id, run) => {
                prop_assert!(world.registered.remove(&id), "not registered");
                world.pending.push(Event::Deregistered(id, run));
            }
            Command::Kill(id, run, signal) => {
                prop_assert!(!world.registered.contains(&id), "killed while registered");
                let container = world.containers.get_mut(&id).unwrap();
                prop_assert_eq!(container.run, run);
                if signal == Signal::KILL {
                    prop_assert!(container.got_term, "killed without being asked");
                    Self::end(world, &id, 137, self.clock);
                } else {
                    container.got_term = true;
                }
            }
            Command::Delete(id, run) => {
                prop_assert!(!world.registered.contains(&id), "deleted while registered");
                let container = world.containers.remove(&id);
                prop_assert!(container.is_none_or(|c| !c.is_running), "deleted running");
                world.prepared.remove(&id);
                world.starting.remove(&id);
                world.pending.push(Event::Deleted(id, run));
            }
            Command::Forget(id) => {
                prop_assert!(!world.containers.contains_key(&id));
                prop_assert!(!world.prepared.contains(&id));
            }
            Command::Report(id, status) if status.phase == Phase::Up => {
                prop_assert!(world.containers.contains_key(&id), "up without a container");
            }
            _ => {}
        }
        Ok(())
    }

    fn end(world: &mut World, id: &JobId, code: i32, clock: u64) {
        let container = world.containers.get_mut(id).unwrap();
        if std::mem::replace(&mut container.is_running, false) {
            let event = Event::Exited(id.clone(), container.run, exit(code, clock));
            world.pending.push(event);
        }
    }

    fn answer(&mut self, which: usize, is_bad: bool) -> Result<(), TestCaseError> {
        if self.world.pending.is_empty() {
            return Ok(());
        }
        let mut event = self
            .world
            .pending
            .swap_remove(which % self.world.pending.len());
        match &event {
            Event::Prepared(id, run, _) | Event::Created(id, run) if is_bad => {
                // Whatever was made by halves is not there.
                self.world.containers.remove(id);
                let failure = Failure {
                    error: "bad luck".to_owned(),
                    kind: FailureKind::Permanent,
                };
                event = Event::Failed(id.clone(), *run, failure);
            }
            Event::Started(id, run, _) => {
                self.world.starting.remove(id);
                if is_bad {
                    let failure = Failure {
                        error: "no command".to_owned(),
                        kind: FailureKind::Command,
                    };
                    event = Event::Failed(id.clone(), *run, failure);
                } else if let Some(container) = self.world.containers.get_mut(id) {
                    container.is_running = true;
                }
            }
            Event::Created(id, _) if id.as_str() == "4" => {
                // It waits for a client, and holds nobody up.
                self.world.starting.remove(id);
            }
            _ => {}
        }
        self.tell(event)
    }

    fn step(&mut self, step: Step) -> Result<(), TestCaseError> {
        match step {
            Step::Assign(numbers) => {
                self.wanted = numbers.into_iter().collect();
                let jobs = self.wanted.iter().map(|n| numbered(*n)).collect();
                self.tell(Event::Assigned(jobs))
            }
            Step::Answer { which, is_bad } => self.answer(which, is_bad),
            Step::Exit { which, code } => {
                let running: Vec<JobId> = self
                    .world
                    .containers
                    .iter()
                    .filter(|(_, container)| container.is_running)
                    .map(|(id, _)| id.clone())
                    .collect();
                if let Some(id) = running.get(which % running.len().max(1)) {
                    Self::end(&mut self.world, id, code, self.clock);
                }
                Ok(())
            }
            Step::Wait(ms) => {
                self.clock += ms;
                self.tell(Event::Woken)
            }
            Step::Unhealthy(number) => {
                let id = numbered(number).id.clone();
                let run = self.world.containers.get(&id).map_or(0, |c| c.run);
                self.tell(Event::Unhealthy(id, run, 0, "slow".to_owned()))
            }
            Step::Stop(number) => self.tell(Event::StopRequested(numbered(number).id.clone())),
            Step::Attach(number) => {
                let id = numbered(number).id.clone();
                if self.world.containers.contains_key(&id) {
                    self.world.starting.insert(id.clone());
                    self.tell(Event::Attached(id.clone()))?;
                    let starts =
                        |event: &Event| matches!(event, Event::Started(other, ..) if *other == id);
                    if !self.world.pending.iter().any(starts) {
                        self.world.starting.remove(&id);
                    }
                }
                Ok(())
            }
        }
    }

    /// Lets the world answer everything, and time pass, until nothing is left to do.
    fn settle(&mut self) -> Result<(), TestCaseError> {
        for _ in 0..1_000 {
            while !self.world.pending.is_empty() {
                self.answer(0, false)?;
            }
            let Some(wake) = self.supervisor.next_wake() else {
                return Ok(());
            };
            self.clock = self.clock.max(u64::try_from(wake.as_millis()).unwrap());
            self.tell(Event::Woken)?;
        }
        prop_assert!(false, "it never settles");
        Ok(())
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, ..ProptestConfig::default() })]

    /// Commands always make sense, there are never two copies of a job, and when nothing is wanted any more, nothing is
    /// left: every job was killed, deleted and forgotten.
    #[test]
    fn every_job_that_is_not_wanted_goes_and_none_runs_twice(
        steps in prop::collection::vec(any_step(), 0..120),
    ) {
        let mut story = Story::new();
        for step in steps {
            story.step(step)?;
        }
        story.wanted.clear();
        story.tell(Event::Assigned(Vec::new()))?;
        story.settle()?;
        prop_assert!(story.world.containers.is_empty());
        prop_assert!(story.world.registered.is_empty());
        prop_assert!(story.world.prepared.is_empty());
        prop_assert!(story.supervisor.jobs.is_empty(), "{:?}", story.supervisor.jobs);
    }

    /// A service that is wanted, and not stopped by hand, is up in the end, whatever happened before.
    #[test]
    fn a_service_that_is_wanted_is_up_in_the_end(
        steps in prop::collection::vec(any_step(), 0..80),
    ) {
        let mut story = Story::new();
        for step in steps {
            story.step(step)?;
        }
        // A job that was stopped stays so: a new one takes its place.
        let fresh = job("fresh", web(Some(Check::default())));
        story.tell(Event::Assigned(vec![Arc::clone(&fresh)]))?;
        story.settle()?;
        let state = &story.supervisor.jobs[&fresh.id];
        prop_assert_eq!(state.status.phase, Phase::Up);
        prop_assert!(story.world.registered.contains(&fresh.id));
    }
}
