//! Jobs that are to be spread strictly stay so, whoever places them on whatever old news.

use std::{sync::Arc, time::Duration};

use flynn_discovery::{Backend, backend::MemoryBackend};
use flynn_sched::{
    Cluster, ClusterState, DiscoveryCluster, Domain, Host, HostLink, Job, JobSpec, Spread,
    Transaction,
    placement::{Board, Need, Placer},
};
use proptest::prelude::*;

use crate::{
    checker::{assert_even, assert_sound},
    fixture::{group_id, host, host_id, job, job_id, memory, until},
};

fn zoned(id: &str, zone: &str, mib: u64) -> Host {
    Host {
        zone: Some(zone.to_owned()),
        ..host(id, mib)
    }
}

fn strict(over: Domain, most: u32) -> JobSpec {
    JobSpec {
        request: memory(10),
        spread: vec![Spread {
            over,
            weight: 50,
            max_skew: Some(most),
        }],
        ..JobSpec::default()
    }
}

fn of(id: &str, on: &str, spec: &JobSpec) -> Job {
    Job {
        spec: Arc::new(spec.clone()),
        ..job(id, "g", on, 0)
    }
}

fn two_zones() -> ClusterState {
    let hosts = [
        zoned("a", "z1", 100),
        zoned("b", "z1", 100),
        zoned("c", "z2", 10),
    ];
    hosts
        .into_iter()
        .fold(ClusterState::default(), |state, host| {
            state.host_joined(host, 0).unwrap()
        })
}

fn refused(state: &ClusterState, transaction: &Transaction) -> Vec<String> {
    let applied = state.apply(transaction).unwrap();
    assert_sound(&applied.state);
    applied
        .refused
        .into_iter()
        .map(|refused| refused.why)
        .collect()
}

#[test]
fn a_start_on_old_news_that_makes_a_group_uneven_is_refused_and_told_why() {
    let spec = strict(Domain::Zone, 1);
    let old = two_zones();
    let first = Transaction::on(&old).start(of("one", "a", &spec));
    let state = old.apply(&first).unwrap().state;
    let second = Transaction::on(&old)
        .start(of("two", "b", &spec))
        .start(of("three", "c", &spec))
        .start(of("four", "b", &spec));
    assert_eq!(
        refused(&state, &second),
        [
            "its zone has 1 jobs of group g by now, the emptiest that can take one has 0, and they may differ by 1",
        ],
        "the third is beside one in each zone, and then the second zone is full"
    );
    let error = state.apply(&second.all_or_nothing()).unwrap_err();
    assert!(error.is_transient(), "{error}");
    assert!(
        error.to_string().starts_with("host b: its zone has 1 jobs"),
        "{error}"
    );
}

#[test]
fn who_has_seen_all_jobs_of_the_group_decides_which_places_count() {
    let spec = strict(Domain::Zone, 1);
    let state = two_zones();
    let first = Transaction::on(&state).start(of("one", "a", &spec));
    let state = state.apply(&first).unwrap().state;
    // A filter of its own rules the second zone out.
    let second = Transaction::on(&state).start(of("two", "b", &spec));
    assert_eq!(refused(&state, &second), Vec::<String>::new());
}

#[test]
fn what_stops_and_what_is_lost_does_not_count() {
    let spec = strict(Domain::Zone, 1);
    let old = two_zones();
    let first = Transaction::on(&old)
        .start(of("one", "a", &spec))
        .start(of("two", "c", &spec));
    let state = old.apply(&first).unwrap().state;
    // From old news, but its own stop is done first.
    let instead = Transaction::on(&old)
        .stop(job_id("one"))
        .start(of("three", "b", &spec))
        .start(of("four", "b", &spec));
    assert_eq!(
        refused(&state, &instead),
        Vec::<String>::new(),
        "the second zone is full"
    );
    let state = state.host_lost(&host_id("c"), 1);
    let again = Transaction::on(&old).start(of("five", "b", &spec));
    assert_eq!(
        refused(&state, &again),
        Vec::<String>::new(),
        "the second zone is gone"
    );
}

#[derive(Debug, Clone)]
struct Place {
    /// Which of two schedulers.
    who: usize,
    /// How many commits old its news are.
    age: usize,
    /// How many jobs it places at once.
    jobs: usize,
    /// It places one of another group instead, without conditions.
    is_filler: bool,
}

fn any_places() -> impl Strategy<Value = Vec<Place>> {
    let any_place = (
        0..2_usize,
        0..4_usize,
        1..4_usize,
        prop::bool::weighted(0.2),
    )
        .prop_map(|(who, age, jobs, is_filler)| Place {
            who,
            age,
            jobs,
            is_filler,
        });
    prop::collection::vec(any_place, 1..30)
}

fn any_cell() -> impl Strategy<Value = ClusterState> {
    prop::collection::vec((0..3_u8, 0..6_u64), 1..8).prop_map(|rooms| {
        let hosts = rooms.iter().enumerate();
        let hosts =
            hosts.map(|(n, (zone, fit))| zoned(&format!("h{n}"), &format!("z{zone}"), fit * 10));
        hosts.fold(ClusterState::default(), |state, host| {
            state.host_joined(host, 0).unwrap()
        })
    })
}

/// What a scheduler proposes from what it sees. The two prefer different ends.
fn proposal(seen: &ClusterState, spec: &JobSpec, place: &Place, serial: &str) -> Transaction {
    let group = if place.is_filler { "filler" } else { "g" };
    let spec = if place.is_filler {
        JobSpec {
            request: memory(10),
            ..JobSpec::default()
        }
    } else {
        spec.clone()
    };
    let id = group_id(group);
    let mut board = Board::of(seen);
    let mut tally = board.tally(seen, &id);
    let placer = if place.who == 0 {
        Placer::new()
    } else {
        Placer::default()
    };
    let mut transaction = Transaction::on(seen);
    for n in 0..place.jobs {
        let need = Need::new(&id, &spec);
        let Some(on) = placer.place(&need, &mut board, &mut tally) else {
            break;
        };
        let job = Job {
            group: id.clone(),
            ..of(&format!("j{serial}-{n}"), on.as_str(), &spec)
        };
        transaction = transaction.start(job);
    }
    transaction
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, ..ProptestConfig::default() })]

    /// Two schedulers with news up to three commits old place jobs of one group: no start leaves it less even than it may
    /// be; and one with fresh news goes on until nothing fits, and is never refused.
    #[test]
    fn a_strictly_spread_group_stays_even_whoever_places_it_on_old_news(
        cell in any_cell(),
        over in prop_oneof![3 => Just(Domain::Zone), 1 => Just(Domain::Host)],
        most in 1..3_u32,
        places in any_places(),
    ) {
        let spec = strict(over, most);
        let mut past = vec![cell];
        for (at, place) in places.iter().enumerate() {
            let now = past.last().unwrap().clone();
            let seen = &past[past.len() - 1 - place.age.min(past.len() - 1)];
            let transaction = proposal(seen, &spec, place, &at.to_string());
            let applied = now.apply(&transaction).unwrap();
            if place.age == 0 {
                prop_assert_eq!(&applied.refused, &vec![]);
            }
            let mut step = now;
            for change in applied.accepted {
                if let flynn_sched::transaction::Change::Start(job) = &change {
                    assert_even(&step, job);
                }
                // As if it had been alone, with all in view.
                let alone = Transaction::on(&step).with(change);
                step = step.apply(&alone).unwrap().state;
            }
            past.push(applied.state);
        }
        let mut now = past.pop().unwrap();
        let one = Place { who: 0, age: 0, jobs: 1, is_filler: false };
        for at in 0..50 {
            let transaction = proposal(&now, &spec, &one, &format!("end{at}"));
            let applied = now.apply(&transaction).unwrap();
            prop_assert_eq!(&applied.refused, &vec![]);
            now = applied.state;
            if transaction.is_empty() {
                return Ok(());
            }
        }
        prop_assert!(false, "it does not come to rest");
    }
}

/// Two handles on one store place at the same time, each from its own mirror.
async fn race(cell: ClusterState, spec: JobSpec, rounds: Vec<(Place, Place)>) {
    let backend: Arc<dyn Backend> = Arc::new(MemoryBackend::new());
    let handle =
        || DiscoveryCluster::new(Arc::clone(&backend)).with_lease_ttl(Duration::from_secs(600));
    let (one, two) = (handle(), handle());
    let mut members = Vec::new();
    let hosts = cell.hosts().count();
    for known in cell.hosts() {
        members.push(one.join((*known.host).clone()).await.unwrap());
    }
    for cell in [&one, &two] {
        until(cell, "all hosts are there", |state| {
            state.hosts().count() == hosts
        })
        .await;
    }
    for (at, (mine, theirs)) in rounds.iter().enumerate() {
        let before = handle().snapshot().await.unwrap();
        let mine = proposal(
            &one.snapshot().await.unwrap(),
            &spec,
            mine,
            &format!("1-{at}"),
        );
        let theirs = proposal(
            &two.snapshot().await.unwrap(),
            &spec,
            theirs,
            &format!("2-{at}"),
        );
        let done = futures::future::join(one.commit(mine), two.commit(theirs)).await;
        let (Ok(_), Ok(_)) = done else {
            panic!("{done:?}")
        };
        // Nothing is ever taken away, so what is uneven in the end was uneven when it started. Which of those started last
        // is not known: each is judged as the last.
        let after = handle().snapshot().await.unwrap();
        assert_sound(&after);
        let is_new = |job: &&Arc<Job>| before.job(&job.id).is_none() && job.group == group_id("g");
        for job in after.jobs().filter(is_new) {
            let without = Transaction::on(&before);
            let others = after
                .jobs()
                .filter(|other| before.job(&other.id).is_none() && other.id != job.id);
            let without = others.fold(without, |t, other| {
                t.start(Job {
                    status: flynn_sched::JobStatus::default(),
                    ..(**other).clone()
                })
            });
            let without = before.apply(&without).unwrap().state;
            assert_even(&without, job);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn a_strictly_spread_group_stays_even_when_two_place_it_in_a_stored_cell_at_once(
        cell in any_cell(),
        most in 1..3_u32,
        rounds in any_places(),
    ) {
        let rounds = rounds.chunks_exact(2).map(|two| {
            let [one, other] = two else { unreachable!("they are two") };
            (Place { jobs: 1, ..one.clone() }, Place { jobs: 1, ..other.clone() })
        });
        let rounds = rounds.collect();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        runtime.block_on(race(cell, strict(Domain::Zone, most), rounds));
    }
}
