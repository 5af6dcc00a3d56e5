//! Room kept for later: what may be reserved, who may use it, and when there is room.

mod model;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use flynn_sched::{
    Claim, Cluster, ClusterState, Constraint, Error, Group, GroupKind, Host, Job, JobSpec, Jobs,
    Named, Phase, Reservation, ReservationId, Resources, SimCluster, Transaction,
    clock::Clock,
    reservation::{ReservationRequest, Unreservable, reserve},
    scheduler::ServiceScheduler,
    transaction::Change,
};

use crate::fixture::{group_id, host, host_id, job, job_id, memory, phase};

fn cell(hosts: impl IntoIterator<Item = Host>) -> ClusterState {
    hosts
        .into_iter()
        .fold(ClusterState::default(), |state, host| {
            state.host_joined(host, 0).unwrap()
        })
}

fn reservation_id(id: &str) -> ReservationId {
    ReservationId::parse(id).unwrap()
}

fn group_of(id: &str) -> Jobs {
    Jobs::Group(group_id(id))
}

fn claims<'h>(
    on: impl IntoIterator<Item = (&'h str, u64)>,
) -> BTreeMap<flynn_sched::HostId, Claim> {
    let claim = |mib| Claim {
        resources: memory(mib),
        ..Claim::default()
    };
    on.into_iter()
        .map(|(host, mib)| (host_id(host), claim(mib)))
        .collect()
}

/// Holds memory on host a.
fn reservation(id: &str, holder: Jobs, mib: u64, from_ms: u64, until_ms: u64) -> Reservation {
    Reservation {
        id: reservation_id(id),
        holder,
        claims: claims([("a", mib)]),
        from_ms,
        until_ms,
    }
}

fn commit(state: &ClusterState, change: Change) -> Result<ClusterState, Error> {
    let transaction = Transaction::on(state).with(change).all_or_nothing();
    Ok(state.apply(&transaction)?.state)
}

fn put(state: &ClusterState, reservation: Reservation) -> Result<ClusterState, Error> {
    commit(state, Change::PutReservation(Arc::new(reservation)))
}

/// A job on host a, placed at this time, for so long or for ever.
fn stay(id: &str, group: &str, mib: u64, placed_at_ms: u64, expected_ms: Option<u64>) -> Job {
    let spec = JobSpec {
        request: memory(mib),
        expected: expected_ms.map(Duration::from_millis),
        ..JobSpec::default()
    };
    Job {
        spec: Arc::new(spec),
        placed_at_ms,
        ..job(id, group, "a", 0)
    }
}

fn start(state: &ClusterState, job: Job) -> Result<ClusterState, Error> {
    commit(state, Change::Start(Arc::new(job)))
}

fn refusal<T: std::fmt::Debug>(result: Result<T, Error>) -> String {
    result.unwrap_err().to_string()
}

#[test]
fn a_short_job_uses_the_room_until_the_reservation_begins() {
    let state = cell([host("a", 100)]);
    let state = put(&state, reservation("r", group_of("g"), 100, 1_000, 2_000)).unwrap();
    // Gone in time, by a hair.
    let state = start(&state, stay("j1", "x", 60, 400, Some(600))).unwrap();
    assert_eq!(
        refusal(start(&state, stay("j2", "x", 40, 400, Some(601)))),
        "host a: needs 40 MiB of memory, 0 B is free beside what is reserved: r (of group g)"
    );
    refusal(start(&state, stay("j2", "x", 40, 400, None)));
    // The room that the short job leaves is the holder's.
    let state = state.reported(&host_id("a"), vec![(job_id("j1"), phase(Phase::Done))]);
    refusal(start(&state, stay("j2", "x", 1, 1_000, Some(1))));
    let state = start(&state, stay("j3", "g", 100, 1_000, Some(1_000))).unwrap();
    let state = state.reported(&host_id("a"), vec![(job_id("j3"), phase(Phase::Done))]);
    // It holds nothing from its end on, cleared away or not.
    start(&state, stay("j4", "x", 100, 2_000, None)).unwrap();
}

#[test]
fn what_the_holder_uses_counts_against_its_reservation() {
    let state = cell([host("a", 100)]);
    let state = start(&state, stay("j1", "app.web", 30, 0, None)).unwrap();
    let holder = Jobs::Prefix("app.".to_owned());
    let state = put(&state, reservation("r", holder, 80, 0, 1_000)).unwrap();
    assert_eq!(
        refusal(start(&state, stay("j2", "x", 21, 0, None))),
        "host a: needs 21 MiB of memory, 20 MiB is free beside what is reserved: r (of groups app.*)"
    );
    let state = start(&state, stay("j2", "x", 20, 0, None)).unwrap();
    let state = start(&state, stay("j3", "app.worker", 50, 0, Some(10))).unwrap();
    assert_eq!(state.host(&host_id("a")).unwrap().free(), memory(0));
    // When the holder's job ends, its room is still the holder's.
    let state = state.reported(&host_id("a"), vec![(job_id("j3"), phase(Phase::Done))]);
    refusal(start(&state, stay("j4", "x", 1, 20, Some(1))));
    start(&state, stay("j4", "app.web", 50, 20, None)).unwrap();
}

#[test]
fn jobs_that_stay_are_in_the_way_of_a_reservation_and_short_ones_are_not() {
    let state = cell([host("a", 100)]);
    let state = start(&state, stay("j1", "x", 30, 0, None)).unwrap();
    let state = start(&state, stay("j2", "x", 60, 0, Some(500))).unwrap();
    assert_eq!(
        refusal(put(&state, reservation("r", group_of("g"), 71, 500, 600))),
        "host a: needs 71 MiB of memory, 70 MiB is free in its window"
    );
    let state = put(&state, reservation("r", group_of("g"), 70, 500, 600)).unwrap();
    refusal(put(&state, reservation("r2", group_of("h"), 11, 499, 500)));
    let state = put(&state, reservation("r2", group_of("h"), 10, 499, 500)).unwrap();
    // Replacing one does not count it twice.
    let state = put(&state, reservation("r2", group_of("h"), 10, 0, 500)).unwrap();
    refusal(put(&state, reservation("r2", group_of("h"), 10, 0, 501)));
    assert_eq!(state.reservations().len(), 2);
}

#[test]
fn a_job_that_stays_too_long_does_not_lend_the_room_it_should_have_left() {
    let state = cell([host("a", 100)]);
    let state = start(&state, stay("late", "x", 60, 0, Some(500))).unwrap();
    let state = put(&state, reservation("r", group_of("g"), 100, 1_000, 2_000)).unwrap();
    start(&state, stay("j", "x", 40, 400, Some(600))).unwrap();
    // At 700 it is known to be late: it may still be there when the reservation begins, and so must nobody else be.
    refusal(start(&state, stay("j", "x", 40, 700, Some(301))));
    // The holder has what is left.
    refusal(start(&state, stay("j", "g", 41, 1_000, None)));
    start(&state, stay("j", "g", 40, 1_000, Some(1_000))).unwrap();
}

#[test]
fn named_resources_are_reserved_as_well() {
    let gpus = |n: u64| Named::from_iter([("gpu", n)]);
    let state = cell([Host {
        named: gpus(4),
        ..host("a", 100)
    }]);
    let reserve = |n| Reservation {
        claims: BTreeMap::from([(
            host_id("a"),
            Claim {
                named: gpus(n),
                ..Claim::default()
            },
        )]),
        ..reservation("r", group_of("g"), 0, 0, 1_000)
    };
    assert_eq!(
        refusal(put(&state, reserve(5))),
        "host a: needs 5 of gpu, 4 is free in its window"
    );
    let state = put(&state, reserve(3)).unwrap();
    let needs = |id: &str, group: &str, n| Job {
        spec: Arc::new(JobSpec {
            named: gpus(n),
            ..JobSpec::default()
        }),
        ..job(id, group, "a", 0)
    };
    assert_eq!(
        refusal(start(&state, needs("j", "x", 2))),
        "host a: needs 2 of gpu, 1 is free beside what is reserved: r (of group g)"
    );
    let state = start(&state, needs("j", "x", 1)).unwrap();
    let state = start(&state, needs("j2", "g", 3)).unwrap();
    // What needs none of it is not held back.
    start(&state, stay("j3", "x", 100, 0, None)).unwrap();
}

#[test]
fn absurd_reservations_are_refused_in_a_sentence() {
    let state = cell([host("a", 100)]);
    let good = reservation("r", group_of("g"), 10, 5, 6);
    let with = |claims| Reservation {
        claims,
        ..good.clone()
    };
    let many: Vec<String> = (0..=Reservation::MAX_CLAIMS)
        .map(|n| format!("h{n}"))
        .collect();
    let names = (0..=Reservation::MAX_NAMED).map(|n| (format!("n{n}"), 1));
    let named = Claim {
        named: names.collect(),
        ..Claim::default()
    };
    for (reservation, why) in [
        (
            Reservation {
                until_ms: 5,
                ..good.clone()
            },
            "reservation r: it ends at 5 ms, which is not after its beginning at 5 ms: give it a later end",
        ),
        (
            with(BTreeMap::new()),
            "reservation r: it claims nothing on any host: say how much it holds where",
        ),
        (
            with(claims([("a", 0)])),
            "reservation r: it claims nothing on host a: leave the host out",
        ),
        (
            with(claims(many.iter().map(|host| (host.as_str(), 1)))),
            "reservation r: it names 1001 hosts, and 1000 is the most: split it",
        ),
        (
            with(BTreeMap::from([(host_id("a"), named)])),
            "reservation r: it claims 65 named resources on host a, and 64 is the most",
        ),
        (with(claims([("b", 1)])), "host b is not in the cluster"),
    ] {
        assert_eq!(refusal(put(&state, reservation)), why);
    }
    let whole = Claim {
        resources: Resources {
            memory_bytes: u64::MAX,
            ..Resources::default()
        },
        ..Claim::default()
    };
    let endless = Reservation {
        from_ms: 0,
        until_ms: u64::MAX,
        ..with(BTreeMap::from([(host_id("a"), whole)]))
    };
    let why = refusal(put(&state, endless));
    assert!(
        why.ends_with("of memory, 100 MiB is free in its window"),
        "{why}"
    );
    let state = state.host_lost(&host_id("a"), 1);
    assert_eq!(refusal(put(&state, good)), "host a: is lost");
}

#[test]
fn sums_that_overflow_do_not_fit() {
    let everything = Resources {
        memory_bytes: u64::MAX,
        ..Resources::default()
    };
    let state = cell([Host {
        capacity: everything,
        ..host("a", 0)
    }]);
    let claim = Claim {
        resources: everything,
        ..Claim::default()
    };
    let whole = |id: &str| Reservation {
        claims: BTreeMap::from([(host_id("a"), claim.clone())]),
        ..reservation(id, group_of(id), 0, 0, u64::MAX)
    };
    let state = put(&state, whole("r1")).unwrap();
    refusal(put(&state, whole("r2")));
    refusal(start(
        &state,
        stay("j", "x", 1, u64::MAX - 1, Some(u64::MAX)),
    ));
}

#[test]
fn a_host_and_a_cell_keep_a_bounded_number_of_reservations() {
    let mut state = cell([host("a", 10_000)]);
    for n in 0..Reservation::MAX_PER_HOST {
        state = put(
            &state,
            reservation(&format!("r{n}"), group_of("g"), 1, 0, 1),
        )
        .unwrap();
    }
    assert_eq!(
        refusal(put(&state, reservation("r", group_of("g"), 1, 0, 1))),
        "host a: has 64 reservations, and that is the most"
    );
    // One that is there already may be changed.
    put(&state, reservation("r7", group_of("g"), 2, 0, 1)).unwrap();
}

#[test]
fn two_holders_of_one_job_do_not_share_a_host_at_one_time() {
    let state = cell([host("a", 100)]);
    let app = Jobs::Prefix("app.".to_owned());
    let state = put(&state, reservation("r1", app.clone(), 10, 0, 100)).unwrap();
    assert_eq!(
        refusal(put(
            &state,
            reservation("r2", group_of("app.web"), 10, 50, 60)
        )),
        "host a: reservation r1 of groups app.* shares jobs with it: give both the same holder, or other times"
    );
    refusal(put(
        &state,
        reservation("r2", Jobs::Prefix("ap".to_owned()), 10, 50, 60),
    ));
    let state = put(&state, reservation("r2", group_of("app.web"), 10, 100, 160)).unwrap();
    let state = put(&state, reservation("r3", group_of("apples"), 10, 0, 160)).unwrap();
    // Of one holder, reservations add up.
    let state = put(&state, reservation("r4", app, 80, 20, 30)).unwrap();
    refusal(start(&state, stay("j", "x", 1, 10, Some(15))));
    start(&state, stay("j", "x", 80, 10, Some(10))).unwrap();
}

#[test]
fn a_scheduler_keeps_out_of_reserved_room_says_why_and_comes_when_it_is_free() {
    let sim = SimCluster::new(3);
    sim.join(host("a", 100)).unwrap();
    let ends_ms = sim.now_ms() + 60_000;
    let holder = group_of("vip");
    let held = reservation("r", holder, 80, sim.now_ms(), ends_ms);
    let write = Transaction::default().with(Change::PutReservation(Arc::new(held)));
    let committed = futures::executor::block_on(sim.commit(write)).unwrap();
    assert_eq!(committed.refused, vec![]);
    for id in ["vip", "web"] {
        let kind = GroupKind::Service { count: 1 };
        sim.put_group(Group::new(group_id(id), kind, needs(40)));
    }
    let mut scheduler = ServiceScheduler::new();
    let count = |sim: &SimCluster, id: &str| sim.state().jobs_of(&group_id(id)).count();
    sim.run(&mut [&mut scheduler], Duration::from_secs(30));
    assert_eq!((count(&sim, "vip"), count(&sim, "web")), (1, 0));
    let state = sim.state();
    let status = state.group_status(&group_id("web")).unwrap();
    let why = status.blocked.as_ref().unwrap();
    assert!(why.contains("20 MiB is free"), "{why}");
    sim.run(&mut [&mut scheduler], Duration::from_secs(40));
    assert_eq!((count(&sim, "vip"), count(&sim, "web")), (1, 1));
    assert_eq!(sim.state().reservations().len(), 0, "it is cleared away");
    let counters = sim.counters();
    assert_eq!((counters.conflicts, counters.livelocks), (0, 0));
}

// The planner.

fn request<'s>(spec: &'s JobSpec, count: u32, from_ms: u64) -> ReservationRequest<'s> {
    ReservationRequest {
        id: reservation_id("plan"),
        holder: group_of("g"),
        count,
        spec,
        from_ms,
        lasting: Duration::from_millis(100),
        latest_ms: 10_000,
    }
}

fn needs(mib: u64) -> JobSpec {
    JobSpec {
        request: memory(mib),
        ..JobSpec::default()
    }
}

#[test]
fn the_planner_waits_for_jobs_to_end_and_goes_round_other_reservations() {
    let state = cell([host("a", 100), host("b", 50)]);
    let state = start(&state, stay("j", "x", 60, 0, Some(300))).unwrap();
    let state = put(&state, reservation("r", group_of("h"), 60, 350, 400)).unwrap();
    let spec = needs(40);
    let plan = |count| reserve(&state, &request(&spec, count, 10), 0).unwrap();
    let at = |plan: &Reservation| (plan.from_ms, plan.until_ms);
    assert_eq!(at(&plan(2)), (10, 110));
    assert_eq!(plan(2).claims, claims([("a", 40), ("b", 40)]));
    // For a third it must be past the reservation, not only past the job.
    assert_eq!(at(&plan(3)), (400, 500));
    assert_eq!(plan(3).claims, claims([("a", 80), ("b", 40)]));
    put(&state, plan(3)).unwrap();
    // It is never earlier than now.
    let late = reserve(&state, &request(&spec, 2, 10), 50).unwrap();
    assert_eq!(late.from_ms, 50);
}

#[test]
fn the_planner_says_how_near_it_came() {
    let draining = Host {
        is_draining: true,
        ..host("b", 1_000)
    };
    let state = cell([host("a", 100), draining, host("c", 30)]);
    let spec = needs(40);
    assert_eq!(
        reserve(&state, &request(&spec, 3, 0), 0),
        Err::<Reservation, _>(unreservable(
            "reservation plan: at no time from 0 to 10000 ms is there room for 3 jobs; for 2 there is at 0 ms; \
             2 of 3 hosts cannot take one: b is draining",
            2
        )),
    );
    let picky = JobSpec {
        constraints: vec![Constraint::Tag {
            key: "disk".to_owned(),
            value: "ssd".to_owned(),
        }],
        ..needs(1)
    };
    let why = reserve(&cell([host("a", 1)]), &request(&picky, 1, 0), 0).unwrap_err();
    assert!(
        why.to_string()
            .ends_with("a needs the tag disk=ssd, there is none"),
        "{why}"
    );
    let why = reserve(&ClusterState::default(), &request(&spec, 1, 0), 0).unwrap_err();
    assert!(why.to_string().ends_with("there are no hosts"), "{why}");
    let alone = JobSpec {
        constraints: vec![Constraint::DistinctHosts],
        ..needs(10)
    };
    let two = cell([host("a", 100), host("c", 30)]);
    assert_eq!(
        reserve(&two, &request(&alone, 3, 0), 0).unwrap_err().most,
        2
    );
    assert_eq!(
        reserve(&two, &request(&alone, 2, 0), 0).unwrap().claims,
        claims([("a", 10), ("c", 10)])
    );
}

fn unreservable(why: &str, most: u32) -> Unreservable {
    let state = cell([host("a", 100), host("c", 30)]);
    let spec = needs(40);
    let mut error = reserve(&state, &request(&spec, 3, 0), 0).unwrap_err();
    (error.why, error.most) = (why.to_owned(), most);
    error
}

#[test]
fn the_planner_refuses_absurd_requests_in_a_sentence() {
    let state = cell([host("a", 100)]);
    let (spec, nothing) = (needs(1), needs(0));
    let good = request(&spec, 1, 5);
    for (request, why) in [
        (
            ReservationRequest {
                lasting: Duration::ZERO,
                ..good.clone()
            },
            "reservation plan: it is to last no time: give it at least a millisecond",
        ),
        (
            ReservationRequest {
                count: 0,
                ..good.clone()
            },
            "reservation plan: it is for 0 jobs: ask for 1 to 100000",
        ),
        (
            ReservationRequest {
                count: u32::MAX,
                ..good.clone()
            },
            "reservation plan: it is for 4294967295 jobs: ask for 1 to 100000",
        ),
        (
            ReservationRequest {
                spec: &nothing,
                ..good.clone()
            },
            "reservation plan: its jobs need nothing: say what they request",
        ),
        (
            ReservationRequest {
                latest_ms: 4,
                ..good.clone()
            },
            "reservation plan: it is to begin by 4 ms, which is before 5 ms, its earliest time",
        ),
    ] {
        assert_eq!(reserve(&state, &request, 0).unwrap_err().to_string(), why);
    }
    let late = ReservationRequest {
        latest_ms: 6,
        ..good
    };
    assert_eq!(
        reserve(&state, &late, 7).unwrap_err().to_string(),
        "reservation plan: it is to begin by 6 ms, and it is 7 ms already"
    );
}

#[test]
fn a_plan_for_more_hosts_than_one_reservation_names_says_so() {
    let hosts = (0..=Reservation::MAX_CLAIMS).map(|n| host(&format!("h{n}"), 1));
    let state = cell(hosts);
    let spec = needs(1);
    let why = reserve(&state, &request(&spec, 1_001, 0), 0).unwrap_err();
    assert!(why.to_string().ends_with("split it"), "{why}");
    let plan = reserve(&state, &request(&spec, 1_000, 0), 0).unwrap();
    assert_eq!(plan.claims.len(), 1_000);
    put(&state, plan).unwrap();
}
