//! The index beside the plain scan, and the placer beside what commits insist on: on random cells they must agree.

use std::{sync::Arc, time::Duration};

use flynn_sched::{
    Affinity, Artifact, ClusterState, Constraint, Domain, Host, Job, JobSpec, Jobs, Named, Port,
    Reservation, ReservationId, Resources, Service, Spread, Taint, TaintEffect, Toleration,
    Transaction,
    placement::{
        AffinitiesToHosts, AffinitiesToPlaces, Alignment, AskedSpread, AskedSpreadOverHosts,
        AvoidFailures, BinPack, Board, LeastLoaded, Locality, Need, Placer, Search, SpreadHosts,
        SpreadOver, SpreadZones, Tally, Untainted,
    },
    reservation::Claim,
    transaction::Change,
};
use proptest::prelude::*;

use crate::fixture::{MIB, group_id, host, host_id, job, job_id, memory, phase};

const GROUPS: [&str; 6] = ["app.a", "app.b", "app.c", "db", "noisy.1", "noisy.2"];

fn any_domain() -> impl Strategy<Value = Domain> {
    prop_oneof![
        Just(Domain::Host),
        Just(Domain::Rack),
        Just(Domain::Zone),
        Just(Domain::Tag("row".to_owned())),
    ]
}

fn any_jobs() -> impl Strategy<Value = Jobs> {
    prop_oneof![
        prop::sample::select(&GROUPS[..]).prop_map(|id| Jobs::Group(group_id(id))),
        prop::sample::select(vec!["app.", "noisy.", "", "x"])
            .prop_map(|prefix| Jobs::Prefix(prefix.to_owned())),
    ]
}

fn any_taint() -> impl Strategy<Value = Taint> {
    let effect = prop_oneof![
        Just(TaintEffect::NoSchedule),
        Just(TaintEffect::PreferNoSchedule),
        Just(TaintEffect::NoExecute),
    ];
    (prop::sample::select(vec!["k", "l"]), effect).prop_map(|(key, effect)| Taint {
        key: key.to_owned(),
        value: String::new(),
        effect,
    })
}

prop_compose! {
    fn any_host()(
        mib in prop_oneof![Just(400_u64), 0..1000_u64],
        cpu in prop_oneof![Just(1000_u64), 0..2000_u64],
        zone in prop::option::of(0..3_u8),
        rack in prop::option::weighted(0.5, 0..4_u8),
        row in prop::option::weighted(0.3, 0..3_u8),
        gpu in prop::option::weighted(0.2, 1..4_u64),
        taint in prop::option::weighted(0.15, any_taint()),
        holds in prop::option::weighted(0.2, 0..2_u8),
        oddity in 0..30_u8,
    ) -> Host {
        let mut host = host("x", mib);
        host.capacity.cpu_millis = cpu;
        host.zone = zone.map(|n| format!("z{n}"));
        host.rack = rack.map(|n| format!("r{n}"));
        host.tags.extend(row.map(|n| ("row".to_owned(), n.to_string())));
        host.named = Named::from_iter(gpu.map(|n| ("gpu", n)));
        host.taints.extend(taint);
        host.holds.extend(holds.map(|n| format!("image:{n}")));
        host.is_draining = oddity == 0;
        host.unhealthy = (oddity == 1).then(|| "its disk is full".to_owned());
        host
    }
}

prop_compose! {
    fn any_constraint()(
        which in 0..5_u8,
        jobs in any_jobs(),
        within in any_domain(),
        row in 0..3_u8,
    ) -> Constraint {
        match which {
            0 => Constraint::DistinctHosts,
            1 => Constraint::Near { jobs, within },
            2 | 3 => Constraint::Apart { jobs, within },
            _ => Constraint::Tag { key: "row".to_owned(), value: row.to_string() },
        }
    }
}

prop_compose! {
    fn any_spread()(
        over in any_domain(),
        weight in 1..100_u8,
        max_skew in prop::option::of(0..3_u32),
    ) -> Spread {
        Spread { over, weight, max_skew }
    }
}

prop_compose! {
    fn any_affinity()(to in any_jobs(), within in any_domain(), weight in -100..100_i8) -> Affinity {
        Affinity { to, within, weight }
    }
}

prop_compose! {
    fn any_spec()(
        mib in prop_oneof![Just(0_u64), Just(50), 1..300_u64],
        cpu in prop_oneof![Just(100_u64), 0..500_u64],
        gpu in prop::option::weighted(0.15, 1..3_u64),
        constraints in prop::collection::vec(any_constraint(), 0..2),
        spread in prop::collection::vec(any_spread(), 0..2),
        affinities in prop::collection::vec(any_affinity(), 0..2),
        tolerated in prop::option::weighted(0.3, prop::sample::select(vec!["k", "l"])),
        port in prop::option::weighted(0.15, 80..82_u16),
        service in prop::option::of(Just("web")),
        image in prop::option::weighted(0.3, 0..3_u8),
    ) -> JobSpec {
        let service = service.map(|name| Service { name: name.to_owned(), check: None });
        JobSpec {
            request: Resources { cpu_millis: cpu, ..memory(mib) },
            named: Named::from_iter(gpu.map(|n| ("gpu", n))),
            constraints,
            spread,
            affinities,
            tolerations: tolerated.map(|key| Toleration { key: Some(key.to_owned()), ..Toleration::default() })
                .into_iter().collect(),
            ports: port.map(|n| Port { port: Some(n), proto: "tcp".to_owned(), service }).into_iter().collect(),
            artifacts: image.map(|n| Artifact { uri: "blob:x".to_owned(), sha256: Some(n.to_string()), size: None })
                .into_iter().collect(),
            ..JobSpec::default()
        }
    }
}

fn any_cell(hosts: std::ops::Range<usize>) -> impl Strategy<Value = ClusterState> {
    prop::collection::vec(any_host(), hosts).prop_map(|hosts| {
        let named = hosts.into_iter().enumerate().map(|(n, host)| Host {
            id: host_id(&format!("h{n:03}")),
            ..host
        });
        named.fold(ClusterState::default(), |state, host| {
            state.host_joined(host, 1000).unwrap()
        })
    })
}

/// What is done to a board and its tallies.
#[derive(Debug, Clone)]
enum Step {
    Place(usize),
    PlaceMany(usize, usize),
    /// Gives back the n-th of what was placed.
    Release(usize),
    /// Commits what was placed and brings the board up to it.
    Refresh,
    /// A host says something new.
    Describe(usize, Box<Host>),
    /// A host stops beating, or its oldest job ends badly.
    Lose(usize),
    Fail(usize),
    /// A tally is made anew.
    Recount(usize),
}

fn any_step() -> impl Strategy<Value = Step> {
    let group = 0..GROUPS.len();
    prop_oneof![
        6 => group.clone().prop_map(Step::Place),
        4 => (group.clone(), 1..12_usize).prop_map(|(group, n)| Step::PlaceMany(group, n)),
        2 => (0..1000_usize).prop_map(Step::Release),
        1 => Just(Step::Refresh),
        1 => (0..200_usize, any_host()).prop_map(|(n, host)| Step::Describe(n, Box::new(host))),
        1 => (0..200_usize).prop_map(Step::Lose),
        1 => (0..200_usize).prop_map(Step::Fail),
        1 => group.prop_map(Step::Recount),
    ]
}

fn any_placer() -> impl Strategy<Value = fn() -> Placer> {
    let choices: Vec<fn() -> Placer> = vec![
        Placer::default,
        Placer::new,
        || Placer::new().with_score(BinPack, 1.0),
        || Placer::new().with_score(Alignment, 1.0),
        || Placer::new().with_wishes().with_score(LeastLoaded, 1.0),
        || {
            Placer::new()
                .with_score(SpreadOver(Domain::Rack), 3.0)
                .with_score(SpreadOver(Domain::Tag("row".to_owned())), 2.0)
                .with_score(SpreadZones, -1.0)
                .with_score(SpreadHosts, -1.0)
                .with_score(AvoidFailures, 1.0)
                .with_score(Untainted, -0.1)
                .with_score(Locality, 5.0)
                .with_score(AskedSpread, 1.0)
                .with_score(AskedSpreadOverHosts, 1.0)
                .with_score(AffinitiesToHosts, 2.0)
                .with_score(AffinitiesToPlaces, 2.0)
        },
    ];
    prop::sample::select(choices)
}

/// One searcher with its own board; two of them are led through the same steps.
struct Led {
    placer: Placer,
    state: ClusterState,
    board: Board,
    tallies: Vec<Tally>,
    specs: Vec<Arc<JobSpec>>,
    /// What was placed and is on the board only: group and host.
    claimed: Vec<(usize, String)>,
    started: usize,
}

impl Led {
    fn new(placer: Placer, state: &ClusterState, specs: &[Arc<JobSpec>]) -> Self {
        let board = Board::of(state);
        let tally = |id: &&str| board.tally(state, &group_id(id));
        Self {
            placer,
            state: state.clone(),
            tallies: GROUPS.iter().map(tally).collect(),
            board,
            specs: specs.to_vec(),
            claimed: Vec::new(),
            started: 0,
        }
    }

    /// Does the step; returns what was placed where.
    fn step(&mut self, step: &Step) -> Vec<String> {
        match step {
            Step::Place(group) => self.place(*group, 1),
            Step::PlaceMany(group, n) => self.place(*group, *n),
            Step::Release(n) if !self.claimed.is_empty() => {
                let (group, on) = self.claimed.swap_remove(n % self.claimed.len());
                let tally = &mut self.tallies[group];
                self.board.release(&host_id(&on), &self.specs[group], tally);
                Vec::new()
            }
            Step::Release(_) => Vec::new(),
            Step::Refresh => {
                self.commit();
                Vec::new()
            }
            Step::Describe(n, host) => {
                self.commit();
                let known = self.state.hosts().nth(n % self.state.hosts().count());
                let host = Host {
                    id: known.unwrap().host.id.clone(),
                    ..(**host).clone()
                };
                self.state = self.state.host_joined(host, 2000).unwrap();
                self.board.refresh(&self.state);
                Vec::new()
            }
            Step::Lose(n) => {
                self.commit();
                let host = self.state.hosts().nth(n % self.state.hosts().count());
                let id = host.unwrap().host.id.clone();
                self.state = self.state.host_lost(&id, 3000);
                self.board.refresh(&self.state);
                Vec::new()
            }
            Step::Fail(n) => {
                self.commit();
                let job = self.state.jobs().nth(*n).cloned();
                if let Some(job) = job {
                    let failed = vec![(job.id.clone(), phase(flynn_sched::Phase::Failed))];
                    let host = job.host.clone();
                    self.state = self.state.reported(&host, failed);
                    self.board.refresh(&self.state);
                }
                Vec::new()
            }
            Step::Recount(group) => {
                self.tallies[*group] = self.board.tally(&self.state, &group_id(GROUPS[*group]));
                Vec::new()
            }
        }
    }

    fn place(&mut self, group: usize, n: usize) -> Vec<String> {
        let id = group_id(GROUPS[group]);
        let need = Need::new(&id, &self.specs[group]);
        let tally = &mut self.tallies[group];
        let hosts = if n == 1 {
            let host = self.placer.place(&need, &mut self.board, tally);
            host.into_iter().collect()
        } else {
            self.placer.place_many(&need, n, &mut self.board, tally)
        };
        let hosts: Vec<String> = hosts.iter().map(ToString::to_string).collect();
        self.claimed
            .extend(hosts.iter().map(|on| (group, on.clone())));
        hosts
    }

    /// Writes what was placed into the cell; that may be refused where a release came between.
    fn commit(&mut self) {
        let mut transaction = Transaction::on(&self.state);
        for (group, on) in std::mem::take(&mut self.claimed) {
            self.started += 1;
            let id = format!("j{}", self.started);
            transaction = transaction.start(a_job(&id, GROUPS[group], &on, &self.specs[group]));
        }
        self.state = self.state.apply(&transaction).unwrap().state;
        self.board.refresh(&self.state);
    }
}

fn a_job(id: &str, group: &str, on: &str, spec: &Arc<JobSpec>) -> Job {
    Job {
        spec: Arc::clone(spec),
        ..job(id, group, on, 0)
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    /// Whatever is claimed, released, committed and said by hosts: the index chooses what the plain scan chooses.
    #[test]
    fn the_index_chooses_what_a_scan_chooses(
        state in any_cell(33..90),
        specs in prop::collection::vec(any_spec().prop_map(Arc::new), GROUPS.len()),
        steps in prop::collection::vec(any_step(), 1..60),
        placer in any_placer(),
    ) {
        let mut indexed = Led::new(placer(), &state, &specs);
        let mut scanned = Led::new(placer().with_search(Search::Scan), &state, &specs);
        for (n, step) in steps.iter().enumerate() {
            prop_assert_eq!(indexed.step(step), scanned.step(step), "step {}: {:?}", n, step);
        }
    }

    /// What the placer proposes on the newest snapshot is accepted, and when it finds no host, no host would be accepted
    /// (but for a skew, which is a wish that commits do not know).
    #[test]
    fn the_placer_finds_a_host_exactly_where_a_commit_would_accept_one(
        state in any_cell(1..60),
        specs in prop::collection::vec(any_spec(), GROUPS.len()),
        wanted in prop::collection::vec(0..GROUPS.len(), 1..40),
        keeps_board in any::<bool>(),
    ) {
        let specs: Vec<Arc<JobSpec>> = specs.into_iter().map(|mut spec| {
            spec.spread.clear();
            Arc::new(spec)
        }).collect();
        let placer = Placer::default();
        let mut state = state;
        let mut board = Board::of(&state);
        for (n, group) in wanted.into_iter().enumerate() {
            if keeps_board {
                board.refresh(&state);
            } else {
                board = Board::of(&state);
            }
            let id = group_id(GROUPS[group]);
            let mut tally = board.tally(&state, &id);
            let need = Need::new(&id, &specs[group]);
            let start = |on: &str| {
                let job = a_job(&format!("j{n}"), GROUPS[group], on, &specs[group]);
                state.apply(&Transaction::on(&state).all_or_nothing().start(job))
            };
            match placer.place(&need, &mut board, &mut tally) {
                Some(on) => {
                    let applied = start(on.as_str());
                    prop_assert!(applied.is_ok(), "{:?}", applied.unwrap_err().to_string());
                    state = applied.unwrap().state;
                }
                None => for host in state.hosts() {
                    prop_assert!(start(host.host.id.as_str()).is_err(), "{} is free", host.host.id);
                }
            }
        }
    }

    /// Claims on a board count like commits: what is proposed in one round is accepted as a whole.
    #[test]
    fn what_one_round_proposes_fits_together(
        state in any_cell(1..60),
        specs in prop::collection::vec(any_spec().prop_map(Arc::new), GROUPS.len()),
        wanted in prop::collection::vec((0..GROUPS.len(), 1..6_usize), 1..20),
    ) {
        let mut led = Led::new(Placer::default(), &state, &specs);
        for (group, n) in wanted {
            led.place(group, n);
        }
        let mut transaction = Transaction::on(&state);
        for (n, (group, on)) in led.claimed.iter().enumerate() {
            transaction = transaction.start(a_job(&format!("j{n}"), GROUPS[*group], on, &specs[*group]));
        }
        prop_assert_eq!(state.apply(&transaction).unwrap().refused, vec![]);
    }

    /// No zone gets ahead of the emptiest zone that can take a job by more than was asked for.
    #[test]
    fn a_skew_is_kept(
        rooms in prop::collection::vec((0..3_u8, 0..5_u64), 1..40),
        most in 1..3_u32,
        wanted in 1..60_usize,
    ) {
        let hosts = rooms.iter().enumerate().map(|(n, (zone, fit))| Host {
            zone: Some(format!("z{zone}")),
            ..host(&format!("h{n:02}"), fit * 10)
        });
        let state = hosts.fold(ClusterState::default(), |state, host| state.host_joined(host, 1).unwrap());
        let spec = JobSpec {
            request: memory(10),
            spread: vec![Spread { over: Domain::Zone, weight: 50, max_skew: Some(most) }],
            ..JobSpec::default()
        };
        let (id, mut board) = (group_id("g"), Board::of(&state));
        let mut tally = board.tally(&state, &id);
        // By zone: how many are there, and how many more fit.
        let mut zones: std::collections::BTreeMap<u8, (u64, u64)> = std::collections::BTreeMap::new();
        for (zone, fit) in &rooms {
            zones.entry(*zone).or_default().1 += fit;
        }
        let placer = Placer::new().with_score(BinPack, 1.0);
        for _ in 0..wanted {
            let floor = zones.values().filter(|(_, fit)| *fit > 0).map(|(there, _)| *there).min();
            let may = |there: u64| there < floor.unwrap_or(0) + u64::from(most);
            match placer.place(&Need::new(&id, &spec), &mut board, &mut tally) {
                Some(on) => {
                    let zone = state.host(&on).unwrap().host.zone.clone().unwrap();
                    let (there, fit) = zones.get_mut(&zone[1..].parse::<u8>().unwrap()).unwrap();
                    prop_assert!(*fit > 0 && may(*there));
                    *there += 1;
                    *fit -= 1;
                }
                None => prop_assert!(zones.values().all(|(there, fit)| *fit == 0 || !may(*there))),
            }
        }
    }
}

#[test]
fn a_sampled_search_places_all_that_fits() {
    let hosts = (0..200).map(|n| host(&format!("h{n:03}"), if n == 150 { 100 } else { 10 }));
    let state = hosts.fold(ClusterState::default(), |state, host| {
        state.host_joined(host, 1).unwrap()
    });
    let placer = Placer::default().with_search(Search::Sampled(2));
    let (id, mut board) = (group_id("g"), Board::of(&state));
    let mut tally = board.tally(&state, &id);
    let spec = JobSpec {
        request: Resources {
            memory_bytes: 50 * MIB,
            ..Resources::default()
        },
        ..JobSpec::default()
    };
    let placed = placer.place_many(&Need::new(&id, &spec), 9, &mut board, &mut tally);
    assert_eq!(placed, vec![host_id("h150"); 2]);
}

#[test]
fn a_release_gives_back_what_a_job_of_the_snapshot_has() {
    let state = ClusterState::default()
        .host_joined(host("a", 100), 1)
        .unwrap();
    let start = Transaction::on(&state).start(job("j", "g", "a", 100));
    let state = state.apply(&start).unwrap().state;
    let mut board = Board::of(&state);
    let mut other = board.tally(&state, &group_id("other"));
    let (id, spec) = (group_id("other"), crate::fixture::spec(60));
    let need = Need::new(&id, &spec);
    assert_eq!(Placer::default().place(&need, &mut board, &mut other), None);
    let mut tally = board.tally(&state, &group_id("g"));
    let running = state.job(&job_id("j")).unwrap();
    board.release(&running.host, &running.spec, &mut tally);
    let placed = Placer::default().place(&need, &mut board, &mut other);
    assert_eq!(placed, Some(host_id("a")));
}

#[test]
fn what_is_reserved_for_others_is_not_free() {
    let hosts = ["a", "b"].map(|id| host(id, 100));
    let state = hosts
        .into_iter()
        .fold(ClusterState::default(), |state, host| {
            state.host_joined(host, 1).unwrap()
        });
    let reservation = Reservation {
        id: ReservationId::parse("r").unwrap(),
        holder: Jobs::Group(group_id("holder")),
        claims: [(
            host_id("a"),
            Claim {
                resources: memory(60),
                ..Claim::default()
            },
        )]
        .into(),
        from_ms: 1_000,
        until_ms: 2_000,
    };
    let put = Transaction::on(&state).with(Change::PutReservation(Arc::new(reservation)));
    let state = state.apply(&put).unwrap().state;
    let placed = |group: &str, expected_ms: Option<u64>, now_ms: u64| -> Vec<String> {
        let spec = JobSpec {
            request: memory(50),
            expected: expected_ms.map(Duration::from_millis),
            ..JobSpec::default()
        };
        let (id, mut board) = (group_id(group), Board::of(&state));
        let mut tally = board.tally(&state, &id);
        let need = Need::new(&id, &spec).at(now_ms);
        let hosts = Placer::new().place_many(&need, 9, &mut board, &mut tally);
        hosts.iter().map(ToString::to_string).collect()
    };
    assert_eq!(placed("holder", None, 0), ["a", "b", "a", "b"]);
    assert_eq!(placed("g", None, 0), ["b", "b"]);
    assert_eq!(placed("g", Some(500), 0), ["a", "b", "a", "b"]);
    assert_eq!(placed("g", Some(500), 600), ["b", "b"]);
    assert_eq!(placed("g", None, 2_000), ["a", "b", "a", "b"]);
}

#[test]
fn large_jobs_are_placed_first_and_answers_come_in_the_order_of_the_questions() {
    let state = ["a", "b"]
        .iter()
        .fold(ClusterState::default(), |state, id| {
            state.host_joined(host(id, 100), 1).unwrap()
        });
    let (small, large) = (crate::fixture::spec(30), crate::fixture::spec(90));
    let groups = ["s", "l", "t"].map(group_id);
    let needs = [
        (Need::new(&groups[0], &small), 2),
        (Need::new(&groups[1], &large), 1),
        (Need::new(&groups[2], &small), 2),
    ];
    let placer = Placer::new().with_score(LeastLoaded, 1.0);
    let placed = placer.place_all(&needs, &mut Board::of(&state));
    let placed: Vec<Vec<&str>> = placed
        .iter()
        .map(|hosts| hosts.iter().map(flynn_sched::HostId::as_str).collect())
        .collect();
    assert_eq!(placed, [vec!["b", "b"], vec!["a"], vec!["b"]]);
}

#[test]
fn an_aligned_host_is_one_whose_room_has_the_shape_of_the_job() {
    let both = |cpu_millis, mib| Resources {
        cpu_millis,
        ..memory(mib)
    };
    let mut state = ClusterState::default();
    // What is free: nothing promised; much processor; much memory.
    for (id, cpu, mib) in [("a", 0, 0), ("b", 100, 800), ("c", 800, 100)] {
        let mut host = host(id, 1000);
        host.capacity.cpu_millis = 1000;
        state = state.host_joined(host, 1).unwrap();
        let mut job = job(&format!("on-{id}"), "other", id, 0);
        Arc::make_mut(&mut job.spec).request = both(cpu, mib);
        let start = Transaction::on(&state).start(job);
        state = state.apply(&start).unwrap().state;
    }
    let id = group_id("g");
    let best = |cpu, mib| {
        let spec = JobSpec {
            request: both(cpu, mib),
            ..JobSpec::default()
        };
        let mut board = Board::of(&state);
        let mut tally = board.tally(&state, &id);
        let placer = Placer::new().with_score(Alignment, 1.0);
        placer.place(&Need::new(&id, &spec), &mut board, &mut tally)
    };
    assert_eq!(best(100, 20), Some(host_id("b")));
    assert_eq!(best(20, 100), Some(host_id("c")));
    assert_eq!(best(900, 900), Some(host_id("a")));
}
