//! What would happen, hypothesis by hypothesis.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use flynn_sched::{
    ClusterState, Constraint, Error, Group, GroupId, GroupKind, Host, HostId, JobSpec, Named,
    Resources, Scheduler, Transaction,
    scheduler::{BatchScheduler, Context, ServiceScheduler},
    what_if::{Fate, Hypothesis, Options, Outcome, Rested, what_if},
};

use crate::fixture::{MIB, group, group_id, host, host_id, memory};

const NOW_MS: u64 = 1_700_000_000_000;

fn in_zone(id: &str, zone: &str, memory_mib: u64) -> Host {
    Host {
        zone: Some(zone.to_owned()),
        rack: Some(format!("r-{zone}")),
        ..host(id, memory_mib)
    }
}

fn service(id: &str, count: u32, memory_mib: u64) -> Group {
    group(id, GroupKind::Service { count }, memory_mib)
}

/// A cell at rest.
fn cell(hosts: Vec<Host>, groups: Vec<Group>) -> ClusterState {
    let join = |state: ClusterState, host| state.host_joined(host, NOW_MS - 3_600_000).unwrap();
    let state = hosts.into_iter().fold(ClusterState::default(), join);
    let put = Transaction::on(&state);
    let put = groups.into_iter().fold(put, Transaction::put_group);
    let state = state.apply(&put).unwrap().state;
    let rested = rest(&state);
    assert!(rested.is_at_rest);
    rested.state
}

fn rest(state: &ClusterState) -> Rested {
    let (mut services, mut batches) = (ServiceScheduler::new(), BatchScheduler::new());
    let before = NOW_MS - 600_000;
    Rested::run(
        state,
        before,
        Duration::from_secs(60),
        &mut [&mut services, &mut batches],
    )
}

/// Two zones: a with h1 and h2, b with h3 and h4; 100 MiB each.
fn two_zones(groups: Vec<Group>) -> ClusterState {
    let hosts = [("h1", "a"), ("h2", "a"), ("h3", "b"), ("h4", "b")];
    cell(
        hosts.map(|(id, zone)| in_zone(id, zone, 100)).to_vec(),
        groups,
    )
}

fn ask(state: &ClusterState, text: &str) -> Outcome {
    let (mut services, mut batches) = (ServiceScheduler::new(), BatchScheduler::new());
    let hypotheses = Hypothesis::parse_all(text).unwrap();
    let schedulers: &mut [&mut dyn Scheduler] = &mut [&mut services, &mut batches];
    what_if(state, &hypotheses, schedulers, &Options::at(NOW_MS)).unwrap()
}

/// How many of a group's jobs are on each host that is there.
pub(crate) fn placed(state: &ClusterState, group: &str) -> BTreeMap<String, usize> {
    let mut placed = BTreeMap::new();
    for job in state.jobs_of(&group_id(group)) {
        let is_lost = state.host(&job.host).unwrap().lost_since_ms.is_some();
        if !job.status.phase.is_final() && !job.is_stopping && !is_lost {
            *placed.entry(job.host.to_string()).or_default() += 1;
        }
    }
    placed
}

/// Moved, started, stopped, displaced.
fn fates(outcome: &Outcome) -> [usize; 4] {
    let mut counts = [0; 4];
    for change in &outcome.jobs {
        counts[match change.fate {
            Fate::Moved { .. } => 0,
            Fate::Started { .. } => 1,
            Fate::Stopped { .. } => 2,
            Fate::Displaced { .. } => 3,
            _ => panic!("{change:?}"),
        }] += 1;
    }
    counts
}

pub(crate) fn why<T: std::fmt::Debug>(result: flynn_sched::Result<T>) -> String {
    match result.unwrap_err() {
        Error::Invalid { what, why } => format!("{what}: {why}"),
        other => other.to_string(),
    }
}

#[test]
fn jobs_of_a_lost_zone_move_to_the_others_while_there_is_room() {
    let state = two_zones(vec![service("web", 4, 40), service("db", 2, 60)]);
    let outcome = ask(&state, "lose zone b");
    // 280 MiB are wanted, 200 are left: each host takes two of 40, or one of 40 and one of 60.
    assert_eq!(outcome.before.hosts, 4);
    assert_eq!(outcome.after.hosts, 2);
    let [moved, started, stopped, displaced] = fates(&outcome);
    assert_eq!(
        (moved + displaced, started, stopped),
        (3, 0, 0),
        "{outcome}"
    );
    assert!(displaced >= 1, "{outcome}");
    let missing: u32 = outcome.unplaced.iter().map(|lack| lack.missing).sum();
    assert_eq!(missing as usize, displaced);
    let lack = &outcome.unplaced[0];
    assert!(
        lack.why.contains("needs") && lack.why.contains("the nearest is"),
        "{}",
        lack.why
    );
    assert_eq!(lack.missing_before, 0);
    let zone = Some("b".to_owned());
    assert_eq!(
        (
            outcome.zones_before[&zone].hosts,
            outcome.zones_after[&zone].hosts
        ),
        (2, 0)
    );
    assert_eq!(outcome.tightest.as_ref().unwrap().0, "memory");
    assert_eq!(
        outcome.hosts_needed.as_ref().unwrap().count,
        Some(1),
        "{outcome}"
    );
    assert!(outcome.took_ms >= 2_000, "the grace of a lost host");
    assert_eq!(
        ask(&state, "lose rack r-b").to_string().lines().nth(1),
        outcome.to_string().lines().nth(1)
    );
}

#[test]
fn a_drained_host_gives_its_jobs_away_and_a_returned_one_takes_some_back() {
    let state = two_zones(vec![service("web", 4, 40)]);
    let drained = ask(&state, "drain host h1");
    assert_eq!(fates(&drained), [1, 0, 0, 0], "{drained}");
    assert!(!placed(&drained.state, "web").contains_key("h1"));
    assert_eq!(drained.after.hosts, 3);
    let both = ask(&state, "drain zone a; scale web to 6");
    assert_eq!(both.unplaced[0].missing, 2);
    assert_eq!(
        placed(&both.state, "web")["h1"],
        1,
        "it stays until there is room elsewhere"
    );
    let back = ask(&both.state, "return host h1");
    assert_eq!(fates(&back), [1, 0, 0, 0], "{back}");
    assert_eq!(
        placed(&back.state, "web")["h1"],
        2,
        "its own, and that of h2"
    );
    let lost = ask(&state, "lose host h3").state;
    assert!(ask(&lost, "").is_nothing());
    let back = ask(&lost, "return host h3; scale web to 8");
    assert_eq!(placed(&back.state, "web")["h3"], 2, "{back}");
}

#[test]
fn the_fullest_hosts_are_lost_where_only_a_number_is_given() {
    let state = cell(
        vec![host("h1", 400), host("h2", 100), host("h3", 100)],
        vec![service("web", 3, 60)],
    );
    let outcome = ask(&state, "lose 2 hosts");
    assert_eq!(
        placed(&outcome.state, "web"),
        BTreeMap::from([("h1".to_owned(), 3)])
    );
    assert_eq!(fates(&outcome), [2, 0, 0, 0]);
    assert!(
        outcome.took_ms >= 30_000,
        "most of the hosts are gone: that is suspicious"
    );
}

#[test]
fn added_hosts_take_what_had_no_place() {
    let state = two_zones(vec![service("web", 20, 50)]);
    assert_eq!(state.group_status(&group_id("web")).unwrap().missing, 12);
    let outcome = ask(&state, "add 2 hosts like h1");
    assert_eq!(fates(&outcome), [0, 4, 0, 0]);
    assert_eq!(
        (
            outcome.unplaced[0].missing,
            outcome.unplaced[0].missing_before
        ),
        (8, 12)
    );
    assert_eq!(outcome.hosts_needed.as_ref().unwrap().count, Some(4));
    let outcome = ask(&state, "add 1 host memory=600MiB zone=c");
    assert_eq!(fates(&outcome), [0, 12, 0, 0]);
    assert!(outcome.hosts_needed.is_none() && outcome.unplaced.is_empty());
    assert_eq!(outcome.zones_after[&Some("c".to_owned())].hosts, 1);
    let too_small = ask(&state, "add 100 hosts memory=49MiB");
    assert_eq!(too_small.unplaced[0].missing, 12);
    assert_eq!(
        too_small.hosts_needed.unwrap().like,
        host_id("new1"),
        "that is the usual host now"
    );
}

#[test]
fn a_group_is_scaled_or_removed_by_its_id_or_a_part_of_it() {
    let state = two_zones(vec![
        service("app1.rel1.web", 2, 10),
        service("app2.rel2.web", 1, 10),
    ]);
    assert_eq!(fates(&ask(&state, "scale app1 to 5")), [0, 3, 0, 0]);
    assert_eq!(
        fates(&ask(&state, "scale app1.rel1.web to 1")),
        [0, 0, 1, 0]
    );
    let removed = ask(&state, "remove group rel2");
    assert_eq!(fates(&removed), [0, 0, 1, 0]);
    assert!(removed.state.group(&group_id("app2.rel2.web")).is_none());
    let ambiguous: Hypothesis = "scale web to 9".parse().unwrap();
    let why = why(ambiguous.imagine(&state, NOW_MS));
    assert!(
        why.contains("app1.rel1.web, app2.rel2.web: give the whole id"),
        "{why}"
    );
}

#[test]
fn omni_and_batch_groups_are_counted_too() {
    let omni = group("agent", GroupKind::Omni { per_host: 1 }, 10);
    let batch = group(
        "crunch",
        GroupKind::Batch {
            count: 6,
            retries: 0,
        },
        50,
    );
    let state = two_zones(vec![omni, batch]);
    let outcome = ask(&state, "add 1 host like h1; scale crunch to 8");
    assert_eq!(placed(&outcome.state, "agent").len(), 5);
    assert_eq!(placed(&outcome.state, "crunch").values().sum::<usize>(), 5);
    assert_eq!(outcome.unplaced[0].missing, 3);
}

#[test]
fn where_no_host_like_the_usual_one_would_do_it_says_so() {
    let picky = JobSpec {
        request: memory(10),
        constraints: vec![Constraint::Tag {
            key: "disk".to_owned(),
            value: "ssd".to_owned(),
        }],
        ..JobSpec::default()
    };
    let kind = GroupKind::Service { count: 3 };
    let state = two_zones(vec![Group::new(group_id("db"), kind, picky)]);
    let outcome = ask(&state, "lose host h4");
    let needed = outcome.hosts_needed.clone().unwrap();
    assert_eq!((needed.count, needed.tried), (None, 3));
    assert!(
        outcome.to_string().contains("no number of hosts like h1"),
        "{outcome}"
    );
    assert!(
        outcome.unplaced[0].why.contains("needs the tag disk=ssd"),
        "{outcome}"
    );
    let with_ssd = ask(&state, "add 1 host memory=1GiB tag.disk=ssd");
    assert!(with_ssd.unplaced.is_empty(), "{with_ssd}");
}

#[test]
fn named_resources_are_part_of_the_room() {
    let with_gpus = |id: &str| Host {
        named: Named::from_iter([("gpu", 4)]),
        ..host(id, 1000)
    };
    let trainer = JobSpec {
        request: memory(10),
        named: Named::from_iter([("gpu", 1)]),
        ..JobSpec::default()
    };
    let kind = GroupKind::Service { count: 5 };
    let group = Group::new(group_id("train"), kind, trainer);
    let state = cell(vec![with_gpus("h1"), with_gpus("h2")], vec![group]);
    let outcome = ask(&state, "");
    assert!(outcome.is_nothing());
    assert_eq!(
        outcome.tightest,
        Some(("gpu".to_owned(), 5.0 / 8.0)),
        "{outcome}"
    );
}

#[test]
fn what_is_not_in_the_cell_is_named_and_so_is_what_is() {
    let state = two_zones(vec![service("web", 2, 10)]);
    let lost = ask(&state, "lose host h4").state;
    for (text, expected) in [
        ("lose zone c", "no host is in it; the zones are a, b"),
        ("drain rack x", "no host is in it; the racks are r-a, r-b"),
        (
            "lose host h9",
            "there is no host h9; the hosts are h1, h2, h3, h4",
        ),
        ("lose host h4", "host h4 is lost already"),
        ("lose 4 hosts", "only 3 hosts take jobs"),
        ("return host h1", "host h1 is neither lost nor draining"),
        ("add 3 hosts like h9", "there is no host h9"),
        ("scale db to 3", "there is no group db; the groups are web"),
    ] {
        let hypothesis: Hypothesis = text.parse().unwrap();
        let why = why(hypothesis.imagine(&lost, NOW_MS));
        assert!(
            why.contains(&format!("hypothesis \"{text}\"")) && why.contains(expected),
            "{why}"
        );
    }
    let mut services = ServiceScheduler::new();
    let options = Options::at(NOW_MS).with_like(HostId::parse("h9").unwrap());
    assert!(why(what_if(&state, &[], &mut [&mut services], &options)).contains("h9"));
}

/// Starts and stops for ever.
#[derive(Debug)]
struct Restless;

impl Scheduler for Restless {
    fn name(&self) -> &'static str {
        "restless"
    }

    fn schedule(&mut self, state: &ClusterState, context: &mut Context<'_>) -> Transaction {
        let group = state.groups().next().unwrap();
        let change = Transaction::on(state);
        match state.jobs().find(|job| !job.is_stopping) {
            Some(job) => change.stop(job.id.clone()),
            None => change.start(context.new_job(group, host_id("h1"))),
        }
    }
}

#[test]
fn schedulers_that_do_not_come_to_rest_are_given_up() {
    let state = two_zones(vec![service("web", 0, 10)]);
    let options = Options::at(NOW_MS);
    let outcome = what_if(&state, &[], &mut [&mut Restless], &options).unwrap();
    assert!(!outcome.is_at_rest);
    assert!(outcome.to_string().contains("had still not come to rest"));
}

#[test]
fn absurd_cells_are_survived() {
    let huge = Resources {
        cpu_millis: u64::MAX,
        memory_bytes: u64::MAX,
        disk_bytes: u64::MAX,
    };
    let hosts = ["h1", "h2"].map(|id| Host::new(host_id(id), huge)).to_vec();
    let state = cell(hosts, vec![service("web", 3, u64::MAX / MIB)]);
    let outcome = ask(&state, "scale web to 4294967295; remove group web");
    assert!(outcome.unplaced.is_empty());
    let empty = ask(&ClusterState::default(), "");
    assert!(empty.is_nothing() && empty.tightest.is_none(), "{empty}");
    let none = cell(Vec::new(), vec![service("web", 3, 1)]);
    let outcome = ask(&none, "");
    assert!(outcome.hosts_needed.is_none());
    assert_eq!(outcome.unplaced[0].why, "there are no hosts");
    let id = GroupId::parse("x").unwrap();
    let free = Group::new(
        id,
        GroupKind::Service { count: 1 },
        Arc::new(JobSpec::default()),
    );
    assert!(
        ask(
            &cell(
                vec![Host::new(host_id("h1"), Resources::default())],
                vec![free]
            ),
            ""
        )
        .is_nothing()
    );
}
