//! Filters, scores and explanations.

use std::sync::Arc;

use flynn_sched::{
    ClusterState, Constraint, Host, JobSpec, Transaction,
    placement::{
        BinPack, Board, Candidate, Filter, Lack, LeastLoaded, Need, Placer, Score, SpreadHosts,
    },
};
use proptest::prelude::*;

use crate::fixture::{group_id, host, host_id, job, memory, spec};

fn cell(hosts: &[Host]) -> ClusterState {
    hosts.iter().fold(ClusterState::default(), |state, host| {
        state.host_joined(host.clone(), 1000).unwrap()
    })
}

fn with_jobs(state: &ClusterState, jobs: &[(&str, &str, u64)]) -> ClusterState {
    let transaction = jobs.iter().enumerate().fold(
        Transaction::on(state).all_or_nothing(),
        |transaction, (n, (group, host, mib))| {
            transaction.start(job(&format!("j{n}"), group, host, *mib))
        },
    );
    state.apply(&transaction).unwrap().state
}

/// Where a job of `g` goes, and the ones after it.
fn places(placer: &Placer, state: &ClusterState, spec: &JobSpec, n: usize) -> Vec<String> {
    let group = group_id("g");
    let need = Need::new(&group, spec);
    let mut board = Board::of(state);
    let mut tally = board.tally(state, &group);
    (0..n)
        .map_while(|_| placer.place(&need, &mut board, &mut tally))
        .map(|host| host.to_string())
        .collect()
}

fn why(placer: &Placer, state: &ClusterState, spec: &JobSpec) -> String {
    let group = group_id("g");
    let need = Need::new(&group, spec);
    let board = Board::of(state);
    let tally = board.tally(state, &group);
    placer.why(&need, &board, &tally).to_string()
}

#[test]
fn least_loaded_evens_out_and_bin_pack_fills_up() {
    let state = cell(&[host("a", 100), host("b", 100), host("c", 100)]);
    let state = with_jobs(&state, &[("other", "b", 30)]);
    let least = Placer::new().with_score(LeastLoaded, 1.0);
    assert_eq!(places(&least, &state, &spec(20), 4), ["a", "c", "a", "c"]);
    let pack = Placer::new().with_score(BinPack, 1.0);
    assert_eq!(places(&pack, &state, &spec(35), 4), ["b", "b", "a", "a"]);
}

#[test]
fn weights_decide_between_scores() {
    let state = cell(&[host("a", 100), host("b", 100)]);
    let state = with_jobs(&state, &[("g", "a", 10), ("other", "b", 50)]);
    let spread = Placer::new()
        .with_score(SpreadHosts, 2.0)
        .with_score(LeastLoaded, 1.0);
    assert_eq!(places(&spread, &state, &spec(10), 1), ["b"]);
    let even = Placer::new()
        .with_score(SpreadHosts, 1.0)
        .with_score(LeastLoaded, 2.0);
    assert_eq!(places(&even, &state, &spec(10), 1), ["a"]);
}

#[test]
fn equal_hosts_are_taken_by_their_number_of_jobs_then_by_id() {
    let state = cell(&[host("b", 100), host("a", 100), host("c", 100)]);
    let any = Placer::new();
    let chosen = places(&any, &state, &spec(0), 6);
    assert_eq!(chosen, ["a", "b", "c", "a", "b", "c"]);
}

#[test]
fn an_unplaceable_job_says_what_it_lacks_and_how_near_the_nearest_host_came() {
    let mut tagged = host("c", 100);
    tagged.tags.insert("disk".to_owned(), "ssd".to_owned());
    let draining = Host {
        is_draining: true,
        ..host("d", 1000)
    };
    let state =
        cell(&[host("a", 1000), host("b", 1000), tagged, draining]).host_lost(&host_id("b"), 2000);
    let picky = JobSpec {
        request: memory(128),
        constraints: vec![Constraint::Tag {
            key: "disk".to_owned(),
            value: "ssd".to_owned(),
        }],
        ..JobSpec::default()
    };
    assert_eq!(
        why(&Placer::default(), &state, &picky),
        "none of 4 hosts can take it (schedulable: 2, constraints: 1, resources: 1); the nearest is c: \
         needs 128 MiB of memory, 100 MiB is free"
    );
    assert_eq!(
        why(&Placer::default(), &ClusterState::default(), &picky),
        "there are no hosts"
    );
    let small = cell(&[host("a", 100), host("b", 120)]);
    assert_eq!(
        why(&Placer::default(), &small, &spec(1536)),
        "none of 2 hosts can take it (resources: 2); the nearest is b: \
         needs 1.5 GiB of memory, 120 MiB is free"
    );
}

#[test]
fn a_placeable_job_says_where_and_why_there() {
    let state = cell(&[host("a", 100), host("b", 200), host("c", 5)]);
    let group = group_id("g");
    let needed = spec(10);
    let need = Need::new(&group, &needed);
    let board = Board::of(&state);
    let tally = board.tally(&state, &group);
    let placer = Placer::default();
    let why = placer.why(&need, &board, &tally);
    let ranking: Vec<&str> = why.best.iter().map(|ranked| ranked.host.as_str()).collect();
    assert_eq!(ranking, ["b", "a"]);
    let parts: f64 = why.best[0].parts.iter().map(|(_, part)| part).sum();
    assert!((parts - why.best[0].total).abs() < 1e-9);
    assert_eq!(why.rejected[0].filter, "resources");
    assert_eq!(why.rejected[0].hosts, [host_id("c")]);
    assert_eq!(why.to_string(), "host b is the best of 3");
}

/// A filter and a score of one's own.
#[derive(Debug)]
struct Even;

impl Filter for Even {
    fn name(&self) -> &'static str {
        "even"
    }
    fn admits(&self, _: &Need<'_>, candidate: &Candidate<'_>) -> bool {
        candidate.host.id.as_str().len().is_multiple_of(2)
    }
    fn lack(&self, _: &Need<'_>, _: &Candidate<'_>) -> Lack {
        Lack {
            why: "has an odd name".to_owned(),
            distance: 1.0,
        }
    }
}

impl Score for Even {
    fn name(&self) -> &'static str {
        "long"
    }
    #[expect(clippy::cast_precision_loss, reason = "names are short")]
    fn score(&self, _: &Need<'_>, candidate: &Candidate<'_>) -> f64 {
        candidate.host.id.as_str().len() as f64 / 63.0
    }
}

#[test]
fn filters_and_scores_of_ones_own_take_part() {
    let state = cell(&[host("a", 100), host("bb", 100), host("cccc", 100)]);
    let placer = Placer::new().with_filter(Even).with_score(Even, 1.0);
    assert_eq!(places(&placer, &state, &spec(60), 9), ["cccc", "bb"]);
    let only_odd = cell(&[host("a", 100)]);
    assert_eq!(
        why(&placer, &only_odd, &spec(1)),
        "the one host cannot take it (even: 1); the nearest is a: has an odd name"
    );
}

proptest! {
    /// What a placer proposes from a fresh snapshot is never refused; and it stops only when no host is left that could
    /// take another, which an obviously right model counts.
    #[test]
    fn proposals_from_a_fresh_snapshot_fit(
        rooms in prop::collection::vec(0..200_u64, 1..8),
        request in 1..60_u64,
        wanted in 0..40_usize,
        is_distinct in any::<bool>(),
    ) {
        let hosts: Vec<Host> = rooms.iter().enumerate().map(|(n, mib)| host(&format!("h{n}"), *mib)).collect();
        let state = cell(&hosts);
        let mut needed = JobSpec { request: memory(request), ..JobSpec::default() };
        if is_distinct {
            needed.constraints.push(Constraint::DistinctHosts);
        }
        let chosen = places(&Placer::default(), &state, &needed, wanted);
        let shared = Arc::new(needed);
        let transaction = chosen.iter().enumerate().fold(Transaction::on(&state), |transaction, (n, on)| {
            let mut started = job(&format!("j{n}"), "g", on, 0);
            started.spec = Arc::clone(&shared);
            transaction.start(started)
        });
        prop_assert_eq!(state.apply(&transaction).unwrap().refused, vec![]);
        let room_for: u64 = rooms.iter().map(|mib| {
            let fits = mib / request;
            if is_distinct { fits.min(1) } else { fits }
        }).sum();
        prop_assert_eq!(chosen.len() as u64, room_for.min(wanted as u64));
    }
}
