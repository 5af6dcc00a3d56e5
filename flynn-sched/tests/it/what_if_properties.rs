//! Snapshots and what-ifs of random cells.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use flynn_sched::{
    Claim, ClusterState, Constraint, Error, Group, GroupKind, Host, JobSpec, Jobs, Namespace,
    Quota, Reservation, ReservationId, SimCluster, Transaction,
    clock::Clock,
    scheduler::{BatchScheduler, ServiceScheduler},
    sim::Behaviour,
    what_if::{CellSnapshot, Hypothesis, Options, what_if},
};
use proptest::prelude::*;

use crate::{
    fixture::{group_id, host, host_id, memory},
    what_if::placed,
};

#[derive(Debug, Clone)]
struct Cell {
    seed: u64,
    /// Memory in MiB; the zone goes round.
    hosts: Vec<u64>,
    /// Kind, count, memory in MiB, priority, apart from its siblings?
    groups: Vec<(u8, u32, u64, u8, bool)>,
}

prop_compose! {
    fn any_cell()(
        seed in any::<u64>(),
        hosts in prop::collection::vec(50..400_u64, 2..8),
        groups in prop::collection::vec(
            (0..6_u8, 0..9_u32, 5..150_u64, 0..100_u8, prop::bool::weighted(0.2)),
            1..6,
        ),
    ) -> Cell {
        Cell { seed, hosts, groups }
    }
}

prop_compose! {
    /// Whichever hosts but the first are lost, there is room for all services and batches on what is left.
    fn roomy_cell()(
        cell in any_cell(),
        groups in prop::collection::vec((1..6_u8, 0..9_u32, 5..150_u64, 0..100_u8, Just(false)), 1..6),
    ) -> Cell {
        let asked: u64 = groups.iter().map(|group| u64::from(group.1) * group.2).sum();
        let mut cell = cell;
        cell.hosts[0] += asked;
        Cell { groups, ..cell }
    }
}

fn a_host(n: usize, memory_mib: u64) -> Host {
    Host {
        zone: Some(["a", "b", "c"][n % 3].to_owned()),
        ..host(&format!("h{n}"), memory_mib)
    }
}

impl Cell {
    fn group(&self, n: usize) -> Group {
        let (kind, count, memory_mib, priority, is_apart) = self.groups[n];
        let constraints = if is_apart {
            vec![Constraint::DistinctHosts]
        } else {
            Vec::new()
        };
        let spec = JobSpec {
            request: memory(memory_mib),
            constraints,
            ..JobSpec::default()
        };
        let kind = match kind {
            0 => GroupKind::Omni {
                per_host: count % 3,
            },
            1 => GroupKind::Batch { count, retries: 3 },
            _ => GroupKind::Service { count },
        };
        Group {
            priority,
            ..Group::new(group_id(&format!("g{n}")), kind, spec)
        }
    }

    /// The simulated cell at rest. Batches run for ever, as they do in a what-if.
    fn start(&self, schedulers: &mut Schedulers) -> SimCluster {
        let cell = SimCluster::new(self.seed);
        for (n, memory_mib) in self.hosts.iter().enumerate() {
            cell.join(a_host(n, *memory_mib)).unwrap();
        }
        for n in 0..self.groups.len() {
            cell.behave(group_id(&format!("g{n}")), Behaviour::Runs);
            cell.put_group(self.group(n));
        }
        schedulers.run(&cell, 120);
        cell
    }

    fn placed(&self, state: &ClusterState) -> Vec<BTreeMap<String, usize>> {
        (0..self.groups.len())
            .map(|n| placed(state, &format!("g{n}")))
            .collect()
    }
}

#[derive(Default)]
struct Schedulers {
    services: ServiceScheduler,
    batches: BatchScheduler,
}

impl Schedulers {
    fn run(&mut self, cell: &SimCluster, seconds: u64) {
        cell.run(
            &mut [&mut self.services, &mut self.batches],
            Duration::from_secs(seconds),
        );
    }
}

fn missing(state: &ClusterState) -> BTreeMap<String, u32> {
    let missing = state
        .group_statuses()
        .map(|(id, status)| (id.to_string(), status.missing));
    missing.filter(|(_, missing)| *missing > 0).collect()
}

/// All that schedulers look at, but for revisions.
fn assert_same(a: &ClusterState, b: &ClusterState) {
    assert_eq!(a.revision(), b.revision());
    assert_eq!(a.hosts().count(), b.hosts().count());
    for (a, b) in a.hosts().zip(b.hosts()) {
        assert_eq!(a.host, b.host);
        assert_eq!(
            (a.lost_since_ms, a.joined_ms, a.joined),
            (b.lost_since_ms, b.joined_ms, b.joined)
        );
        assert_eq!(
            (a.returned_from_ms, &a.promised),
            (b.returned_from_ms, &b.promised)
        );
        assert_eq!(a.jobs, b.jobs);
    }
    assert!(
        a.groups().eq(b.groups())
            && a.jobs().eq(b.jobs())
            && a.quotas().eq(b.quotas())
            && a.reservations().eq(b.reservations())
    );
    assert!(a.group_statuses().eq(b.group_statuses()));
    for job in a.jobs() {
        assert_eq!(
            a.is_confirmed(&job.id),
            b.is_confirmed(&job.id),
            "{}",
            job.id
        );
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn a_snapshot_survives_json(cell in any_cell(), troubles in prop::collection::vec((0..3_u8, 0..8_usize), 0..8)) {
        let mut schedulers = Schedulers::default();
        let sim = cell.start(&mut schedulers);
        for (trouble, n) in troubles {
            let n = n % cell.hosts.len();
            match trouble {
                0 => sim.lose(&host_id(&format!("h{n}"))),
                1 => sim.bring_back(&host_id(&format!("h{n}"))),
                _ => schedulers.run(&sim, 3),
            }
        }
        let state = sim.state();
        let limit = Quota { jobs: Some(99), ..Quota::of(Namespace::default()) };
        let put = Transaction::on(&state).with(flynn_sched::transaction::Change::PutQuota(Arc::new(limit)));
        let held = Reservation {
            id: ReservationId::parse("r").unwrap(),
            holder: Jobs::Group(group_id("g0")),
            claims: BTreeMap::from([(host_id("h0"), Claim { resources: memory(1), ..Claim::default() })]),
            from_ms: u64::MAX - 2,
            until_ms: u64::MAX - 1,
        };
        let put = put.with(flynn_sched::transaction::Change::PutReservation(Arc::new(held)));
        let state = state.apply(&put).unwrap().state;
        let json = CellSnapshot::of(&state).to_json().unwrap();
        let restored = CellSnapshot::from_json(&json).unwrap();
        assert_same(&state, restored.state());
        // Written again, it is the same: nothing is lost on the way.
        prop_assert_eq!(restored.to_json().unwrap(), json);
    }

    #[test]
    fn if_nothing_changes_nothing_happens(cell in any_cell(), is_lost in any::<bool>()) {
        let mut schedulers = Schedulers::default();
        let sim = cell.start(&mut schedulers);
        if is_lost {
            sim.lose(&host_id("h0"));
            schedulers.run(&sim, 90);
        }
        let state = sim.state();
        let Schedulers { services, batches } = &mut schedulers;
        let outcome = what_if(&state, &[], &mut [services, batches], &Options::at(sim.now_ms())).unwrap();
        prop_assert!(outcome.is_nothing() && outcome.is_at_rest, "{outcome}");
        prop_assert_eq!(&outcome.zones_after, &outcome.zones_before);
        prop_assert_eq!(missing(&outcome.state), missing(&state));
        prop_assert_eq!(outcome.took_ms, 0);
    }

    /// The simulator lets hosts take their time; what comes of it is the same where there is room for all. (Where there is
    /// not, it depends on who asks first: a service and a batch of one priority take what they find.)
    #[test]
    fn a_loss_has_the_same_end_as_in_the_simulator(cell in roomy_cell(), lost in prop::collection::vec(any::<bool>(), 8)) {
        let mut schedulers = Schedulers::default();
        let sim = cell.start(&mut schedulers);
        // The first host stays, and is large enough for everything.
        let lost = (1..cell.hosts.len()).filter(|n| lost[*n]).map(|n| format!("h{n}"));
        let lost: Vec<String> = lost.collect();
        let before = CellSnapshot::of(&sim.state()).to_json().unwrap();
        let before = CellSnapshot::from_json(&before).unwrap().into_state();
        let text: Vec<String> = lost.iter().map(|id| format!("lose host {id}")).collect();
        let hypotheses = Hypothesis::parse_all(&text.join(";")).unwrap();
        let mut imagined = Schedulers::default();
        let options = Options::at(sim.now_ms());
        let Schedulers { services, batches } = &mut imagined;
        let outcome = what_if(&before, &hypotheses, &mut [services, batches], &options).unwrap();

        lost.iter().for_each(|id| sim.lose(&host_id(id)));
        schedulers.run(&sim, 300);
        let wanted: Vec<usize> = cell.groups.iter().map(|group| group.1 as usize).collect();
        for state in [&outcome.state, &*sim.state()] {
            let counts = cell.placed(state).iter().map(|hosts| hosts.values().sum()).collect::<Vec<usize>>();
            prop_assert_eq!(&counts, &wanted, "{}\n{}", outcome, sim.log());
            prop_assert_eq!(missing(state), BTreeMap::new());
        }
        prop_assert!(outcome.is_at_rest && outcome.unplaced.is_empty(), "{outcome}");
    }

    /// One host fewer than it says is not enough, and what it says is.
    #[test]
    fn the_hosts_that_are_needed_are_the_least_that_do(cell in any_cell(), extra in 1..30_u32) {
        let mut schedulers = Schedulers::default();
        let state = cell.start(&mut schedulers).state();
        let Schedulers { services, batches } = &mut schedulers;
        let options = Options::at(SimCluster::EPOCH_MS + 120_000).with_like(host_id("h0"));
        let more = format!("scale g0 to {}", extra % 30);
        let mut ask = |text: &str| {
            let hypotheses = Hypothesis::parse_all(text).unwrap();
            what_if(&state, &hypotheses, &mut [services, batches], &options).unwrap()
        };
        let outcome = ask(&more);
        let lacks = |outcome: &flynn_sched::what_if::Outcome| !outcome.unplaced.is_empty();
        match outcome.hosts_needed.as_ref().map(|needed| needed.count) {
            None => prop_assert!(!lacks(&outcome)),
            Some(None) => {
                let one_more = ask(&format!("{more}; add 1 host like h0"));
                prop_assert!(lacks(&one_more));
            }
            Some(Some(n)) => {
                let rested = outcome.state;
                let ask = |n: u32| {
                    let add = format!("add {n} hosts like h0").parse();
                    let hypotheses: Vec<Hypothesis> = if n == 0 { vec![] } else { vec![add.unwrap()] };
                    let mut schedulers = Schedulers::default();
                    let Schedulers { services, batches } = &mut schedulers;
                    what_if(&rested, &hypotheses, &mut [services, batches], &options).unwrap()
                };
                prop_assert!(!lacks(&ask(n)), "{n} hosts were said to be enough");
                prop_assert!(lacks(&ask(n - 1)), "{n} hosts were said to be needed");
            }
        }
    }
}

fn sample() -> String {
    let join = |state: ClusterState, n| state.host_joined(a_host(n, 500), 7).unwrap();
    let state = (0..3).fold(ClusterState::default(), join);
    let spec = || JobSpec {
        args: vec!["./serve".to_owned()],
        request: memory(10),
        ..JobSpec::default()
    };
    let groups =
        ["one", "two"].map(|id| Group::new(group_id(id), GroupKind::Service { count: 50 }, spec()));
    let put = groups
        .into_iter()
        .fold(Transaction::on(&state), Transaction::put_group);
    let state = state.apply(&put).unwrap().state;
    let mut services = ServiceScheduler::new();
    let options = Options::at(9);
    let outcome = what_if(&state, &[], &mut [&mut services], &options).unwrap();
    CellSnapshot::of(&outcome.state).to_json().unwrap()
}

#[test]
fn each_distinct_description_is_written_once() {
    let json = sample();
    assert_eq!(
        json.matches("./serve").count(),
        1,
        "equal ones are one, even of two groups"
    );
    assert_eq!(
        CellSnapshot::from_json(&json)
            .unwrap()
            .state()
            .jobs()
            .count(),
        100
    );
    assert!(json.len() < 100 * 300, "{} bytes for 100 jobs", json.len());
    let state = CellSnapshot::from_json(&json).unwrap().into_state();
    let (first, rest) = (state.jobs().next().unwrap(), state.jobs());
    assert!(
        rest.into_iter()
            .all(|job| Arc::ptr_eq(&job.spec, &first.spec))
    );
}

#[test]
fn unknown_fields_are_ignored_and_newer_versions_refused() {
    let json = sample();
    let odd = json
        .replacen("{\"version\":1", "{\"moon\":[1],\"version\":1", 1)
        .replacen("\"host\":{", "\"host\":{\"colour\":\"red\",", 1)
        .replacen("\"args\":", "\"smell\":{},\"args\":", 1);
    assert_ne!(odd, json);
    assert_eq!(
        CellSnapshot::from_json(&odd).unwrap().to_json().unwrap(),
        json
    );
    let refused = |json: &str| match CellSnapshot::from_json(json).unwrap_err() {
        Error::Invalid { why, .. } => why,
        other => panic!("{other}"),
    };
    let newer = r#"{"version":2,"hosts":"a shape nobody knows"}"#;
    assert!(refused(newer).contains("of version 2, this program reads 1 to 1"));
    assert!(refused("{}").contains("missing field `version`"));
    assert!(refused("[1").contains("line 1"));
    let two = json.replace("\"h1\"", "\"h0\"");
    assert!(
        refused(&two).contains("host h0 occurs twice"),
        "{}",
        refused(&two)
    );
    let two = json.replacen("\"id\":\"two\"", "\"id\":\"one\"", 1);
    assert!(refused(&two).contains("group one occurs twice"));
    let none = json.replacen("\"spec\":0", "\"spec\":5", 1);
    assert!(
        refused(&none).contains("has description 5, of 1 from 0"),
        "{}",
        refused(&none)
    );
    let none = json.replacen("\"spec\":0", "\"spec\":-1", 1);
    assert!(refused(&none).contains("is not a place in the list"));
}
