//! What is particular about a cell in a discovery backend.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use flynn_discovery::{
    Backend,
    backend::{
        Capabilities, Compare, Condition, Entry, Key, LeaseId, ListOptions, MemoryBackend, Op,
        Page, Prefix, Revision, WatchEvent,
    },
};
use flynn_sched::{
    Claim, Cluster, ClusterState, DiscoveryCluster, Error, GroupKind, GroupStatus, HostLink, Jobs,
    LocalCluster, Membership, Phase, Reservation, ReservationId, Transaction,
    clock::{Clock, ManualClock},
    transaction::Change,
};
use futures::{StreamExt, stream::BoxStream};
use proptest::prelude::*;

use crate::fixture::{group, group_id, host, host_id, job, job_id, memory, phase, until};

/// A backend that a host cannot reach for a while.
#[derive(Debug)]
struct CutOff {
    backend: Arc<dyn Backend>,
    is_cut: AtomicBool,
}

impl CutOff {
    fn check(&self) -> flynn_discovery::Result<()> {
        if self.is_cut.load(Ordering::SeqCst) {
            return Err(flynn_discovery::Error::Unavailable {
                backend: "cut-off",
                why: "the test has cut it off".to_owned(),
            });
        }
        Ok(())
    }
}

#[async_trait]
impl Backend for CutOff {
    fn name(&self) -> &'static str {
        "cut-off"
    }

    fn capabilities(&self) -> Capabilities {
        self.backend.capabilities()
    }

    async fn get(&self, key: &Key) -> flynn_discovery::Result<Option<Entry>> {
        self.check()?;
        self.backend.get(key).await
    }

    async fn list(&self, prefix: &Prefix, options: ListOptions) -> flynn_discovery::Result<Page> {
        self.check()?;
        self.backend.list(prefix, options).await
    }

    async fn commit(
        &self,
        compares: Vec<Compare>,
        ops: Vec<Op>,
    ) -> flynn_discovery::Result<Revision> {
        self.check()?;
        self.backend.commit(compares, ops).await
    }

    async fn grant(&self, ttl: Duration) -> flynn_discovery::Result<LeaseId> {
        self.check()?;
        self.backend.grant(ttl).await
    }

    async fn keep_alive(&self, lease: LeaseId) -> flynn_discovery::Result<()> {
        self.check()?;
        self.backend.keep_alive(lease).await
    }

    async fn revoke(&self, lease: LeaseId) -> flynn_discovery::Result<()> {
        self.check()?;
        self.backend.revoke(lease).await
    }

    fn watch(&self, prefix: &Prefix) -> BoxStream<'static, flynn_discovery::Result<WatchEvent>> {
        self.backend.watch(prefix)
    }
}

#[tokio::test(start_paused = true)]
async fn a_host_that_was_cut_off_is_lost_and_joins_again_by_itself() {
    let backend: Arc<dyn Backend> = Arc::new(MemoryBackend::new());
    let cut_off = Arc::new(CutOff {
        backend: Arc::clone(&backend),
        is_cut: AtomicBool::new(false),
    });
    let clock = Arc::new(ManualClock::at(5000));
    let observer = DiscoveryCluster::new(backend).with_clock(Arc::clone(&clock) as Arc<dyn Clock>);
    let link = DiscoveryCluster::new(Arc::clone(&cut_off) as Arc<dyn Backend>);
    let member = link.join(host("a", 100)).await.unwrap();
    let a = host_id("a");
    let is_lost = |state: &ClusterState| state.host(&a).unwrap().lost_since_ms.is_some();
    until(&observer, "it is alive", |state| state.host(&a).is_some()).await;
    tokio::time::sleep(10 * DiscoveryCluster::LEASE_TTL).await;
    assert!(!is_lost(&observer.snapshot().await.unwrap()), "renewals");

    cut_off.is_cut.store(true, Ordering::SeqCst);
    clock.advance(Duration::from_secs(1));
    let state = until(&observer, "it is lost", is_lost).await;
    assert_eq!(state.host(&a).unwrap().lost_since_ms, Some(6000));
    clock.advance(Duration::from_secs(60));
    cut_off.is_cut.store(false, Ordering::SeqCst);
    let state = until(&observer, "it is back", |state| !is_lost(state)).await;
    assert_eq!(state.host(&a).unwrap().joined_ms, 66_000);
    tokio::time::sleep(10 * DiscoveryCluster::LEASE_TTL).await;
    assert!(!is_lost(&observer.snapshot().await.unwrap()), "renewals");
    member.leave().await.unwrap();
    until(&observer, "it has left", is_lost).await;
}

#[tokio::test]
async fn a_new_observer_sees_lost_hosts_with_their_jobs() {
    let backend: Arc<dyn Backend> = Arc::new(MemoryBackend::new());
    let cell = DiscoveryCluster::new(Arc::clone(&backend));
    let member = cell.join(host("a", 100)).await.unwrap();
    until(&cell, "it is alive", |state| state.hosts().count() == 1).await;
    let start = Transaction::default().start(job("j", "g", "a", 60));
    cell.commit(start).await.unwrap();
    member.leave().await.unwrap();
    let clock = Arc::new(ManualClock::at(7000));
    let observer = DiscoveryCluster::new(backend).with_clock(clock);
    let state = observer.snapshot().await.unwrap();
    let lost = state.host(&host_id("a")).unwrap();
    assert_eq!(lost.lost_since_ms, Some(7000));
    assert_eq!(*lost.host, host("a", 100), "what it said is remembered");
    assert_eq!(state.jobs_on(&host_id("a")).count(), 1);
}

#[tokio::test]
async fn a_host_that_starts_anew_is_told_what_it_said_of_its_jobs() {
    let backend: Arc<dyn Backend> = Arc::new(MemoryBackend::new());
    let cell = DiscoveryCluster::new(backend);
    let _member = cell.join(host("a", 100)).await.unwrap();
    until(&cell, "it is alive", |state| state.hosts().count() == 1).await;
    let start = Transaction::default().start(job("j", "g", "a", 1));
    cell.commit(start).await.unwrap();
    let done = vec![(job_id("j"), phase(Phase::Done))];
    cell.report(&host_id("a"), done).await.unwrap();
    let mut assignments = cell.assignments(&host_id("a"));
    let jobs = assignments.next().await.unwrap().unwrap();
    assert_eq!(jobs[0].status.phase, Phase::Done);
}

#[tokio::test]
async fn a_large_transaction_is_split_and_still_applied_whole() {
    let cell = DiscoveryCluster::new(Arc::new(MemoryBackend::new()));
    let mut members = Vec::new();
    for n in 0..20 {
        let id = format!("h{n}");
        members.push(cell.join(host(&id, 1000)).await.unwrap());
    }
    until(&cell, "all are there", |state| state.hosts().count() == 20).await;
    let state = cell.snapshot().await.unwrap();
    let put = Transaction::on(&state).put_group(group("g", GroupKind::Service { count: 9 }, 1));
    let state = cell.commit(put).await.unwrap().state;
    let guard = Change::ExpectGroup {
        group: group_id("g"),
        version: state.group_version(&group_id("g")),
    };
    let transaction = (0..9000).fold(Transaction::on(&state).with(guard), |transaction, n| {
        transaction.start(job(&format!("j{n}"), "g", &format!("h{}", n % 20), 1))
    });
    let error = cell
        .commit(transaction.clone().all_or_nothing())
        .await
        .unwrap_err();
    assert!(matches!(error, Error::Invalid { .. }), "{error}");
    let committed = cell.commit(transaction).await.unwrap();
    assert_eq!(committed.refused, vec![]);
    assert_eq!(committed.state.jobs().count(), 9000);
}

#[tokio::test]
async fn a_damaged_value_hides_nothing_else() {
    let backend: Arc<dyn Backend> = Arc::new(MemoryBackend::new());
    let key = |key: &str| Key::parse(key).unwrap();
    for damaged in [
        "cell/hosts/bad",
        "cell/groups/bad",
        "cell/jobs/a/bad",
        "cell/later/x",
    ] {
        let value = Bytes::from_static(b"{nonsense");
        backend
            .put(&key(damaged), value, Condition::Any)
            .await
            .unwrap();
    }
    let cell = DiscoveryCluster::new(backend);
    let _member = cell.join(host("a", 100)).await.unwrap();
    until(&cell, "it is alive", |state| state.hosts().count() == 1).await;
    let start = Transaction::default().start(job("j", "g", "a", 1));
    let committed = cell.commit(start).await.unwrap();
    assert_eq!(committed.state.jobs().count(), 1);
    let mut assignments = cell.assignments(&host_id("a"));
    assert_eq!(assignments.next().await.unwrap().unwrap().len(), 1);
}

#[tokio::test]
async fn ids_that_are_no_keys_are_refused_by_name() {
    let cell = DiscoveryCluster::new(Arc::new(MemoryBackend::new()));
    let put = Transaction::default().put_group(group("..", GroupKind::Service { count: 1 }, 1));
    let error = cell.commit(put).await.unwrap_err();
    assert!(error.to_string().contains("cell/groups/.."), "{error}");
}

#[tokio::test(start_paused = true)]
async fn without_its_store_a_cell_says_so_in_time() {
    /// Never tells anything.
    #[derive(Debug)]
    struct Silent(MemoryBackend);

    #[async_trait]
    impl Backend for Silent {
        fn name(&self) -> &'static str {
            "silent"
        }
        fn capabilities(&self) -> Capabilities {
            self.0.capabilities()
        }
        async fn get(&self, key: &Key) -> flynn_discovery::Result<Option<Entry>> {
            self.0.get(key).await
        }
        async fn list(&self, p: &Prefix, o: ListOptions) -> flynn_discovery::Result<Page> {
            self.0.list(p, o).await
        }
        async fn commit(&self, c: Vec<Compare>, o: Vec<Op>) -> flynn_discovery::Result<Revision> {
            self.0.commit(c, o).await
        }
        async fn grant(&self, ttl: Duration) -> flynn_discovery::Result<LeaseId> {
            self.0.grant(ttl).await
        }
        async fn keep_alive(&self, lease: LeaseId) -> flynn_discovery::Result<()> {
            self.0.keep_alive(lease).await
        }
        async fn revoke(&self, lease: LeaseId) -> flynn_discovery::Result<()> {
            self.0.revoke(lease).await
        }
        fn watch(&self, _: &Prefix) -> BoxStream<'static, flynn_discovery::Result<WatchEvent>> {
            futures::stream::pending().boxed()
        }
    }

    let cell = DiscoveryCluster::new(Arc::new(Silent(MemoryBackend::new())));
    let error = cell.snapshot().await.unwrap_err();
    assert!(error.is_transient());
    assert!(error.to_string().contains("waiting for news"), "{error}");
}

// A stored cell and a local one, told the same, are the same.

#[derive(Debug, Clone)]
enum Step {
    Commit(Vec<Draft>, bool),
    Join(usize),
    Leave(usize),
    Report(usize, Phase),
}

/// A change that can be made of either cell's snapshot.
#[derive(Debug, Clone)]
enum Draft {
    Guard(usize, bool),
    Start(usize, usize, usize, u64),
    Stop(usize),
    Remove(usize),
    Put(usize),
    RemoveGroup(usize),
    Note(usize, u32),
    Forget(usize),
    Reserve(usize, usize, usize, u64),
    Unreserve(usize),
}

fn name(prefix: &str, n: usize) -> String {
    format!("{prefix}{n}")
}

impl Draft {
    fn on(&self, state: &ClusterState) -> Change {
        let g = |n: &usize| group_id(&name("g", *n));
        match self {
            Self::Guard(n, holds) => Change::ExpectGroup {
                version: state.group_version(&g(n)) + u64::from(!holds),
                group: g(n),
            },
            Self::Start(j, n, h, mib) => Change::Start(Arc::new(job(
                &name("j", *j),
                &name("g", *n),
                &name("h", *h),
                *mib,
            ))),
            Self::Stop(j) => Change::Stop(job_id(&name("j", *j))),
            Self::Remove(j) => Change::Remove(job_id(&name("j", *j))),
            Self::Put(n) => Change::PutGroup(Arc::new(group(
                &name("g", *n),
                GroupKind::Service { count: 1 },
                1,
            ))),
            Self::RemoveGroup(n) => Change::RemoveGroup(g(n)),
            Self::Note(n, missing) => Change::Note {
                group: g(n),
                status: Arc::new(GroupStatus {
                    missing: *missing,
                    ..GroupStatus::default()
                }),
            },
            Self::Forget(h) => Change::ForgetHost(host_id(&name("h", *h))),
            Self::Reserve(r, n, h, mib) => Change::PutReservation(Arc::new(Reservation {
                id: ReservationId::parse(name("r", *r)).unwrap(),
                holder: Jobs::Group(g(n)),
                claims: BTreeMap::from([(
                    host_id(&name("h", *h)),
                    Claim {
                        resources: memory(*mib),
                        ..Claim::default()
                    },
                )]),
                from_ms: 0,
                until_ms: 100,
            })),
            Self::Unreserve(r) => Change::RemoveReservation {
                id: ReservationId::parse(name("r", *r)).unwrap(),
                ending_by_ms: u64::MAX,
            },
        }
    }
}

fn any_draft() -> impl Strategy<Value = Draft> {
    prop_oneof![
        1 => (0..3_usize, prop::bool::weighted(0.8)).prop_map(|(g, holds)| Draft::Guard(g, holds)),
        5 => (0..20_usize, 0..3_usize, 0..4_usize, 0..70_u64)
            .prop_map(|(j, g, h, mib)| Draft::Start(j, g, h, mib)),
        2 => (0..20_usize).prop_map(Draft::Stop),
        2 => (0..20_usize).prop_map(Draft::Remove),
        1 => (0..3_usize).prop_map(Draft::Put),
        1 => (0..3_usize).prop_map(Draft::RemoveGroup),
        1 => (0..3_usize, 0..3_u32).prop_map(|(g, missing)| Draft::Note(g, missing)),
        1 => (0..3_usize).prop_map(Draft::Forget),
        2 => (0..3_usize, 0..3_usize, 0..4_usize, 0..70_u64)
            .prop_map(|(r, g, h, mib)| Draft::Reserve(r, g, h, mib)),
        1 => (0..3_usize).prop_map(Draft::Unreserve),
    ]
}

fn any_step() -> impl Strategy<Value = Step> {
    let phases = prop_oneof![Just(Phase::Up), Just(Phase::Done), Just(Phase::Crashed)];
    prop_oneof![
        6 => (prop::collection::vec(any_draft(), 1..6), any::<bool>())
            .prop_map(|(drafts, all)| Step::Commit(drafts, all)),
        2 => (0..3_usize).prop_map(Step::Join),
        1 => (0..3_usize).prop_map(Step::Leave),
        2 => (0..20_usize, phases).prop_map(|(j, p)| Step::Report(j, p)),
    ]
}

/// All but revisions, which count differently.
fn visible(state: &ClusterState) -> String {
    let hosts: Vec<_> = state
        .hosts()
        .map(|host| {
            let is_lost = host.lost_since_ms.is_some();
            (&host.host, is_lost, host.promised, &host.jobs)
        })
        .collect();
    let jobs: Vec<_> = state.jobs().collect();
    let groups: Vec<_> = state.groups().collect();
    let notes: Vec<_> = state.group_statuses().collect();
    let reservations: Vec<_> = state.reservations().collect();
    format!("{hosts:#?} {jobs:#?} {groups:#?} {notes:#?} {reservations:#?}")
}

/// Takes a step on a cell; says what came of it.
async fn take<C: Cluster + HostLink>(
    cell: &C,
    members: &mut BTreeMap<usize, Box<dyn Membership>>,
    step: &Step,
) -> String {
    match step {
        Step::Commit(drafts, is_whole) => {
            let state = cell.snapshot().await.unwrap();
            let drafted = drafts
                .iter()
                .fold(Transaction::on(&state), |transaction, draft| {
                    transaction.with(draft.on(&state))
                });
            let committed = if *is_whole {
                cell.commit(drafted.all_or_nothing()).await
            } else {
                cell.commit(drafted).await
            };
            match committed {
                Ok(committed) => committed
                    .refused
                    .iter()
                    .map(|refused| format!("{:?} {}; ", refused.host, refused.why))
                    .collect(),
                Err(error) => error.to_string(),
            }
        }
        Step::Join(h) => {
            let host = host(&name("h", *h), 100);
            match members.get(h) {
                Some(member) => member.update(host.clone()).await.unwrap(),
                None => {
                    let member = cell.join(host.clone()).await.unwrap();
                    members.insert(*h, member);
                }
            }
            until(cell, "it has joined", |state| {
                state
                    .host(&host.id)
                    .is_some_and(|host| host.lost_since_ms.is_none())
            })
            .await;
            String::new()
        }
        Step::Leave(h) => {
            if let Some(member) = members.remove(h) {
                member.leave().await.unwrap();
                let id = host_id(&name("h", *h));
                until(cell, "it has left", |state| {
                    state
                        .host(&id)
                        .is_none_or(|host| host.lost_since_ms.is_some())
                })
                .await;
            }
            String::new()
        }
        Step::Report(j, p) => {
            let id = job_id(&name("j", *j));
            let state = cell.snapshot().await.unwrap();
            // What is said after an end is only dropped by those who saw the end, so hosts do not say it.
            let Some(job) = state.job(&id).filter(|job| !job.status.phase.is_final()) else {
                return String::new();
            };
            cell.report(&job.host, vec![(id.clone(), phase(*p))])
                .await
                .unwrap();
            until(cell, "it is reported", |state| {
                state.job(&id).unwrap().status.phase == *p
            })
            .await;
            String::new()
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    /// Whatever is done to a stored cell and to a local one: both answer the same and look the same, and so does an
    /// observer that comes late and reads everything at once.
    #[test]
    fn a_stored_cell_is_what_a_local_one_is(steps in prop::collection::vec(any_step(), 1..40)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        runtime.block_on(async {
            let backend: Arc<dyn Backend> = Arc::new(MemoryBackend::new());
            let stored = DiscoveryCluster::new(Arc::clone(&backend))
                .with_lease_ttl(Duration::from_secs(600));
            let local = LocalCluster::new(Arc::new(ManualClock::at(1)));
            let (mut stored_members, mut local_members) = (BTreeMap::new(), BTreeMap::new());
            for step in std::iter::once(&Step::Join(0)).chain(&steps) {
                let there = take(&stored, &mut stored_members, step).await;
                let here = take(&local, &mut local_members, step).await;
                prop_assert_eq!(there, here, "{:?}", step);
                let there = stored.snapshot().await.unwrap();
                prop_assert_eq!(visible(&there), visible(&local.state()), "{:?}", step);
            }
            let late = DiscoveryCluster::new(backend).snapshot().await.unwrap();
            prop_assert_eq!(visible(&late), visible(&local.state()));
            Ok(())
        })?;
    }
}
