use proptest::prelude::*;

use super::*;

fn counts(pairs: &[(&str, u32)]) -> Counts {
    pairs
        .iter()
        .map(|(name, count)| ((*name).to_owned(), *count))
        .collect()
}

/// Jobs that are as the test says.
fn seen(pairs: &[(&str, u32)]) -> BTreeMap<String, TypeState> {
    pairs
        .iter()
        .map(|(name, count)| {
            let state = TypeState {
                up: *count,
                live: *count,
                ..TypeState::default()
            };
            ((*name).to_owned(), state)
        })
        .collect()
}

fn trouble(job: &str, restarts: u32, cause: &str) -> Trouble {
    Trouble {
        job: job.to_owned(),
        crashes: restarts,
        restarts,
        cause: Some(cause.to_owned()),
    }
}

fn plan<'a>(strategy: &'a dyn DeployStrategy, goal: &'a Counts) -> Plan<'a> {
    Plan {
        strategy,
        goal,
        timeout: Duration::from_secs(120),
    }
}

fn begun(goal: &Counts) -> Rollout {
    Rollout {
        old: goal.clone(),
        ..Rollout::default()
    }
}

#[test]
fn one_by_one_moves_job_by_job_in_the_order_of_types() {
    let goal = counts(&[("web", 2), ("clock", 1)]);
    let mut rollout = begun(&goal);
    let mut steps = Vec::new();
    loop {
        // A world in which everything happens at once.
        let observed = Observed {
            old: rollout
                .old
                .iter()
                .map(|(n, c)| {
                    (
                        n.clone(),
                        TypeState {
                            live: *c,
                            up: *c,
                            ..TypeState::default()
                        },
                    )
                })
                .collect(),
            new: rollout
                .new
                .iter()
                .map(|(n, c)| {
                    (
                        n.clone(),
                        TypeState {
                            live: *c,
                            up: *c,
                            ..TypeState::default()
                        },
                    )
                })
                .collect(),
            settles_at_ms: None,
        };
        match rollout.step(plan(&OneByOne, &goal), 0, &observed) {
            Action::Scale => steps.push((rollout.old.clone(), rollout.new.clone(), rollout.wait)),
            action => {
                assert_eq!(action, Action::Complete);
                break;
            }
        }
    }
    assert_eq!(
        steps,
        [
            (
                counts(&[("clock", 1), ("web", 2)]),
                counts(&[("clock", 1)]),
                Wait::Up
            ),
            (
                counts(&[("clock", 0), ("web", 2)]),
                counts(&[("clock", 1)]),
                Wait::Down
            ),
            (
                counts(&[("clock", 0), ("web", 2)]),
                counts(&[("clock", 1), ("web", 1)]),
                Wait::Up
            ),
            (
                counts(&[("clock", 0), ("web", 1)]),
                counts(&[("clock", 1), ("web", 1)]),
                Wait::Down
            ),
            (
                counts(&[("clock", 0), ("web", 1)]),
                counts(&[("clock", 1), ("web", 2)]),
                Wait::Up
            ),
            (
                counts(&[("clock", 0), ("web", 0)]),
                counts(&[("clock", 1), ("web", 2)]),
                Wait::Down
            ),
        ]
    );
}

#[test]
fn all_at_once_starts_all_and_then_stops_all_without_waiting() {
    let goal = counts(&[("web", 2), ("worker", 3)]);
    let mut rollout = begun(&goal);
    let plan = plan(&AllAtOnce, &goal);
    let before = Observed {
        old: seen(&[("web", 2), ("worker", 3)]),
        ..Observed::default()
    };
    assert_eq!(rollout.step(plan, 5, &before), Action::Scale);
    assert_eq!((&rollout.old, &rollout.new), (&goal, &goal));
    assert_eq!(rollout.step(plan, 6, &before), Action::WakeAt(120_005));
    let half = Observed {
        new: seen(&[("web", 2), ("worker", 2)]),
        ..before.clone()
    };
    assert_eq!(rollout.step(plan, 7, &half), Action::WakeAt(120_005));
    let all = Observed {
        new: seen(&[("web", 2), ("worker", 3)]),
        ..before
    };
    assert_eq!(rollout.step(plan, 8, &all), Action::Scale);
    assert_eq!(rollout.old, counts(&[("web", 0), ("worker", 0)]));
    assert_eq!(rollout.step(plan, 9, &all), Action::Complete);
}

#[test]
fn a_type_that_is_gone_from_the_new_release_is_stopped_and_one_that_is_new_is_not_started() {
    let goal = counts(&[("web", 1)]);
    let mut rollout = Rollout {
        old: counts(&[("old", 2), ("web", 1)]),
        ..Rollout::default()
    };
    let mut ends = Vec::new();
    for _ in 0..10 {
        let observed = Observed {
            old: seen(
                &rollout
                    .old
                    .iter()
                    .map(|(n, c)| (n.as_str(), *c))
                    .collect::<Vec<_>>(),
            ),
            new: seen(
                &rollout
                    .new
                    .iter()
                    .map(|(n, c)| (n.as_str(), *c))
                    .collect::<Vec<_>>(),
            ),
            settles_at_ms: None,
        };
        ends.push(rollout.step(plan(&OneByOne, &goal), 0, &observed));
    }
    assert!(ends.contains(&Action::Complete));
    assert_eq!(rollout.new, counts(&[("web", 1)]));
    assert!(rollout.old.values().all(|count| *count == 0));
}

#[test]
fn jobs_that_keep_crashing_end_it_early_with_their_hosts_words() {
    let goal = counts(&[("web", 2)]);
    let mut rollout = begun(&goal);
    let plan = plan(&OneByOne, &goal);
    rollout.step(plan, 0, &Observed::default());
    let crashing = |restarts| {
        let mut new = seen(&[("web", 0)]);
        new.get_mut("web").unwrap().troubles =
            vec![trouble("j1", restarts, "exited with status 1 after 0.2 s")];
        Observed {
            new,
            old: seen(&[("web", 2)]),
            settles_at_ms: None,
        }
    };
    assert_eq!(rollout.step(plan, 1, &crashing(4)), Action::WakeAt(120_000));
    let reason = "web failed to start: exited with status 1 after 0.2 s (5 restarts); the old release still serves";
    assert_eq!(
        rollout.step(plan, 2, &crashing(5)),
        Action::Fail {
            reason: reason.to_owned()
        }
    );
}

#[test]
fn crashes_of_replaced_jobs_are_not_forgotten() {
    let goal = counts(&[("web", 1)]);
    let mut rollout = begun(&goal);
    let plan = plan(&AllAtOnce, &goal);
    rollout.step(plan, 0, &Observed::default());
    for job in 0..5_u64 {
        let mut new = seen(&[("web", 0)]);
        new.get_mut("web").unwrap().troubles = vec![Trouble {
            job: format!("j{job}"),
            crashes: 1,
            restarts: 0,
            cause: Some("no such file: ./server".to_owned()),
        }];
        let observed = Observed {
            new,
            ..Observed::default()
        };
        let action = rollout.step(plan, job, &observed);
        if job < 4 {
            assert_eq!(action, Action::WakeAt(120_000));
        } else {
            let reason = "web failed to start: no such file: ./server (5 failed starts); the old release still serves";
            assert_eq!(
                action,
                Action::Fail {
                    reason: reason.to_owned()
                }
            );
        }
    }
}

#[test]
fn too_long_a_step_ends_it_with_the_cause() {
    let goal = counts(&[("web", 3)]);
    for (state, cause) in [
        (None, "0 of 3 are up: no job of it was placed"),
        (
            Some(TypeState {
                blocked: Some("no host has 4 GiB of memory free".to_owned()),
                ..TypeState::default()
            }),
            "0 of 3 are up: no host has 4 GiB of memory free",
        ),
        (
            Some(TypeState {
                up: 1,
                live: 3,
                ..TypeState::default()
            }),
            "1 of 3 are up: its jobs are still starting; does it listen on the port in $PORT?",
        ),
        (
            Some(TypeState {
                live: 3,
                troubles: vec![trouble("j", 1, "nothing listens on port 4000")],
                ..TypeState::default()
            }),
            "0 of 3 are up: nothing listens on port 4000",
        ),
    ] {
        let mut rollout = begun(&goal);
        let plan = plan(&AllAtOnce, &goal);
        rollout.step(plan, 0, &Observed::default());
        let observed = Observed {
            new: state
                .into_iter()
                .map(|state| ("web".to_owned(), state))
                .collect(),
            ..Observed::default()
        };
        assert_eq!(
            rollout.step(plan, 119_999, &observed),
            Action::WakeAt(120_000)
        );
        let reason =
            format!("web did not come up within 120 s, {cause}; the old release still serves");
        assert_eq!(
            rollout.step(plan, 120_000, &observed),
            Action::Fail { reason }
        );
    }
}

#[test]
fn old_jobs_that_stop_slowly_do_not_fail_the_new_release() {
    let goal = counts(&[("web", 1)]);
    let mut rollout = Rollout {
        old: counts(&[("web", 0)]),
        new: goal.clone(),
        wait: Wait::Down,
        ..Rollout::default()
    };
    let stuck = Observed {
        old: seen(&[("web", 1)]),
        new: seen(&[("web", 1)]),
        settles_at_ms: None,
    };
    assert_eq!(
        rollout.step(plan(&OneByOne, &goal), 1, &stuck),
        Action::WakeAt(120_000)
    );
    assert_eq!(
        rollout.step(plan(&OneByOne, &goal), 120_000, &stuck),
        Action::Complete
    );
}

#[test]
fn a_rollout_survives_being_stored() {
    let goal = counts(&[("web", 2)]);
    let mut rollout = begun(&goal);
    rollout.step(plan(&OneByOne, &goal), 7, &Observed::default());
    let stored = serde_json::to_string(&rollout).unwrap();
    assert_eq!(serde_json::from_str::<Rollout>(&stored).unwrap(), rollout);
}

/// What happens in the simulated world between two looks.
#[derive(Debug, Clone, Copy)]
enum Turn {
    NewComesUp(usize),
    OldStops(usize),
    Nothing,
}

fn any_turn() -> impl Strategy<Value = Turn> {
    prop_oneof![
        (0..3_usize).prop_map(Turn::NewComesUp),
        (0..3_usize).prop_map(Turn::OldStops),
        Just(Turn::Nothing),
    ]
}

/// Jobs that follow the counts one at a time, in an order that is not ours to choose.
#[derive(Debug)]
struct World {
    old: Counts,
    new: Counts,
}

impl World {
    fn turn(&mut self, rollout: &Rollout, turn: Turn) {
        match turn {
            Turn::NewComesUp(which) => {
                let waiting = rollout
                    .new
                    .iter()
                    .filter(|(n, c)| self.new.get(*n).copied().unwrap_or(0) < **c);
                let names: Vec<String> = waiting.map(|(n, _)| n.clone()).collect();
                if let Some(name) = names.get(which % names.len().max(1)) {
                    *self.new.entry(name.clone()).or_default() += 1;
                }
            }
            Turn::OldStops(which) => {
                let surplus = self
                    .old
                    .iter()
                    .filter(|(n, c)| **c > rollout.old.get(*n).copied().unwrap_or(0));
                let names: Vec<String> = surplus.map(|(n, _)| n.clone()).collect();
                if let Some(name) = names.get(which % names.len().max(1)) {
                    *self.old.get_mut(name).unwrap() -= 1;
                }
            }
            Turn::Nothing => {}
        }
    }

    fn observe(&self) -> Observed {
        let pairs = |counts: &Counts| {
            seen(
                &counts
                    .iter()
                    .map(|(n, c)| (n.as_str(), *c))
                    .collect::<Vec<_>>(),
            )
        };
        Observed {
            old: pairs(&self.old),
            new: pairs(&self.new),
            settles_at_ms: None,
        }
    }
}

fn any_goal() -> impl Strategy<Value = Counts> {
    prop::collection::btree_map("[a-c]", 0..6_u32, 1..4)
}

fn any_strategy() -> impl Strategy<Value = Box<dyn DeployStrategy>> {
    prop_oneof![
        Just(()).prop_map(|()| Box::new(AllAtOnce) as Box<dyn DeployStrategy>),
        Just(()).prop_map(|()| Box::new(OneByOne) as Box<dyn DeployStrategy>),
        (0..4_u32).prop_map(|size| Box::new(InBatches::new(size)) as Box<dyn DeployStrategy>),
    ]
}

proptest! {
    /// There are never fewer jobs up than before, whatever the order in which they come and go; and it ends.
    #[test]
    fn a_deployment_never_falls_below_the_old_count_and_completes(
        goal in any_goal(),
        strategy in any_strategy(),
        turns in prop::collection::vec(any_turn(), 0..200),
    ) {
        let mut rollout = begun(&goal);
        let mut world = World { old: goal.clone(), new: Counts::new() };
        // After the random turns, everything that can happen does.
        let orderly = (0..2000).map(|i| if i % 2 == 0 { Turn::NewComesUp(0) } else { Turn::OldStops(0) });
        let mut is_complete = false;
        for turn in turns.into_iter().chain(orderly) {
            match rollout.step(plan(&*strategy, &goal), 0, &world.observe()) {
                Action::Complete => { is_complete = true; break; }
                Action::Fail { reason } => prop_assert!(false, "failed: {reason}"),
                Action::Scale | Action::WakeAt(_) => {}
            }
            world.turn(&rollout, turn);
            for (name, wanted) in &goal {
                let up = world.old.get(name).copied().unwrap_or(0) + world.new.get(name).copied().unwrap_or(0);
                prop_assert!(up >= *wanted, "{name}: {up} of {wanted} with {rollout:?}");
            }
        }
        prop_assert!(is_complete, "{rollout:?} {world:?}");
        prop_assert_eq!(goal.iter().filter(|(_, c)| **c > 0).all(|(n, c)| rollout.new.get(n) == Some(c)), true);
        prop_assert!(rollout.old.values().all(|count| *count == 0));
    }

    /// With one down first there are never more jobs than before.
    #[test]
    fn one_down_one_up_never_exceeds_the_old_count(
        goal in any_goal(),
        turns in prop::collection::vec(any_turn(), 0..200),
    ) {
        let mut rollout = begun(&goal);
        let mut world = World { old: goal.clone(), new: Counts::new() };
        let orderly = (0..2000).map(|i| if i % 2 == 0 { Turn::NewComesUp(0) } else { Turn::OldStops(0) });
        let mut is_complete = false;
        for turn in turns.into_iter().chain(orderly) {
            if rollout.step(plan(&OneDownOneUp, &goal), 0, &world.observe()) == Action::Complete {
                is_complete = true;
                break;
            }
            world.turn(&rollout, turn);
            for (name, wanted) in &goal {
                let up = world.old.get(name).copied().unwrap_or(0) + world.new.get(name).copied().unwrap_or(0);
                prop_assert!(up <= *wanted);
            }
        }
        prop_assert!(is_complete);
    }

    /// However many new jobs come up before the rest never does, it fails in time, and the old ones that are needed
    /// were kept until then.
    #[test]
    fn a_release_that_does_not_come_up_fails_in_time(
        goal in any_goal().prop_filter("something runs", |goal| goal.values().any(|c| *c > 0)),
        strategy in any_strategy(),
        come_up in 0..3_usize,
    ) {
        let total: u32 = goal.values().sum();
        prop_assume!(come_up < usize::try_from(total).unwrap());
        let mut rollout = begun(&goal);
        let mut world = World { old: goal.clone(), new: Counts::new() };
        let mut left = come_up;
        let mut now_ms = 0;
        let mut failed = None;
        for _ in 0..2000 {
            match rollout.step(plan(&*strategy, &goal), now_ms, &world.observe()) {
                Action::Fail { reason } => { failed = Some(reason); break; }
                Action::Complete => prop_assert!(false, "completed without its jobs: {rollout:?}"),
                Action::Scale => {}
                Action::WakeAt(at) => {
                    if left > 0 {
                        left -= 1;
                        world.turn(&rollout, Turn::NewComesUp(0));
                    } else if rollout.wait == Wait::Down {
                        world.turn(&rollout, Turn::OldStops(0));
                    } else {
                        now_ms = at;
                    }
                }
            }
            for (name, wanted) in &goal {
                let up = world.old.get(name).copied().unwrap_or(0) + world.new.get(name).copied().unwrap_or(0);
                prop_assert!(up >= *wanted);
            }
        }
        prop_assert!(failed.is_some_and(|reason| reason.contains("the old release still serves")));
        prop_assert!(now_ms <= 120_000 * u64::from(total + 1));
    }
}
