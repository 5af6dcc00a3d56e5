use std::sync::Arc;

use flynn_sched::{
    Cluster as _, GroupId, Host, HostLink as _, JobId, JobSpec, JobStatus, LocalCluster,
    Membership, Resources, Transaction, clock::ManualClock, transaction::Change,
};

use super::*;

/// A cell with one host and a job of an app on it.
async fn one_job() -> (LocalCluster, HostId, JobId, Box<dyn Membership>) {
    let cluster = LocalCluster::new(Arc::new(ManualClock::at(1_000)));
    let id = HostId::parse("host1").unwrap();
    let host = Host {
        addr: "127.0.0.1".to_owned(),
        api_url: "http://127.0.0.1:1113".to_owned(),
        incarnation: 1,
        ..Host::new(
            id.clone(),
            Resources {
                cpu_millis: 1000,
                memory_bytes: 1 << 30,
                disk_bytes: 0,
            },
        )
    };
    let membership = cluster.join(host).await.unwrap();
    let job = JobId::parse("j1").unwrap();
    let metadata = [
        (META_APP, "app"),
        (META_RELEASE, "rel"),
        (META_TYPE, "web"),
        ("why", "test"),
    ];
    let spec = JobSpec {
        args: vec!["./server".to_owned()],
        metadata: metadata
            .into_iter()
            .map(|(k, v)| (k.to_owned(), v.to_owned()))
            .collect(),
        ..JobSpec::default()
    };
    let start = Change::Start(Arc::new(flynn_sched::Job {
        id: job.clone(),
        group: GroupId::parse("app.rel.web").unwrap(),
        host: id.clone(),
        spec: Arc::new(spec),
        is_stopping: false,
        placed_at_ms: 500,
        attempt: 0,
        evicted: None,
        status: JobStatus::default(),
    }));
    let placed = cluster
        .commit(Transaction {
            changes: vec![start],
            ..Transaction::default()
        })
        .await
        .unwrap();
    assert!(placed.refused.is_empty());
    (cluster, id, job, membership)
}

async fn report(cluster: &LocalCluster, host: &HostId, job: &JobId, status: JobStatus) {
    cluster
        .report(host, vec![(job.clone(), status)])
        .await
        .unwrap();
}

fn record(jobs: Vec<Job>) -> BTreeMap<String, Job> {
    jobs.into_iter()
        .map(|job| (job.uuid.clone(), job))
        .collect()
}

#[tokio::test]
async fn each_phase_is_news_once() {
    let (cluster, host, job, _membership) = one_job().await;
    let now = Time::from_millis(9_000);
    let mut recorded = BTreeMap::new();
    let mut states = Vec::new();
    for phase in [
        Phase::Pending,
        Phase::Starting,
        Phase::Up,
        Phase::Restarting,
        Phase::Up,
        Phase::Stopping,
        Phase::Done,
    ] {
        let status = JobStatus {
            phase,
            since_ms: 2_000,
            ..JobStatus::default()
        };
        report(&cluster, &host, &job, status).await;
        let fresh = news(&recorded, &cluster.state(), now);
        states.extend(fresh.iter().map(|job| job.state));
        recorded.extend(record(fresh));
        assert_eq!(
            news(&recorded, &cluster.state(), now),
            [],
            "it is known now"
        );
    }
    use JobState::{Crashed, Down, Pending, Starting, Stopping, Up};
    assert_eq!(states, [Pending, Starting, Up, Crashed, Up, Stopping, Down]);
}

#[tokio::test]
async fn a_job_is_described_with_all_that_clients_ask_for() {
    let (cluster, host, job, _membership) = one_job().await;
    let status = JobStatus {
        phase: Phase::Crashed,
        exit_status: Some(3),
        error: Some("exited with status 3".to_owned()),
        restarts: 2,
        since_ms: 2_000,
        ..JobStatus::default()
    };
    report(&cluster, &host, &job, status).await;
    let described = news(&BTreeMap::new(), &cluster.state(), Time::from_millis(0)).remove(0);
    assert_eq!(
        described,
        Job {
            id: "host1-j1".to_owned(),
            uuid: "j1".to_owned(),
            host_id: "host1".to_owned(),
            app: "app".to_owned(),
            release: "rel".to_owned(),
            process_type: "web".to_owned(),
            state: JobState::Crashed,
            args: vec!["./server".to_owned()],
            meta: [("why".to_owned(), "test".to_owned())].into(),
            exit_status: Some(3),
            host_error: Some("exited with status 3".to_owned()),
            restarts: Some(2),
            created_at: Some(Time::from_millis(500)),
            updated_at: Some(Time::from_millis(2_000)),
        }
    );
}

#[tokio::test]
async fn jobs_of_a_lost_host_have_failed_and_forgotten_ones_are_down() {
    let (cluster, host, job, _membership) = one_job().await;
    report(
        &cluster,
        &host,
        &job,
        JobStatus {
            phase: Phase::Up,
            ..JobStatus::default()
        },
    )
    .await;
    let recorded = record(news(
        &BTreeMap::new(),
        &cluster.state(),
        Time::from_millis(0),
    ));
    cluster.lose(&host);
    let lost = news(&recorded, &cluster.state(), Time::from_millis(0)).remove(0);
    assert_eq!(
        (lost.state, lost.host_error.as_deref()),
        (JobState::Failed, Some("host host1 was lost"))
    );

    let now = Time::from_millis(77);
    let empty = ClusterState::default();
    let gone = news(&recorded, &empty, now).remove(0);
    assert_eq!((gone.state, gone.updated_at), (JobState::Down, Some(now)));
    assert_eq!(
        news(&record(vec![gone]), &empty, now),
        [],
        "it is known to be over"
    );
}

#[tokio::test]
async fn jobs_that_no_app_owns_are_nobodys_news() {
    let (cluster, .., _membership) = one_job().await;
    let state = cluster.state();
    let mut job = (**state.jobs().next().unwrap()).clone();
    let mut spec = (*job.spec).clone();
    spec.metadata.clear();
    job.spec = Arc::new(spec);
    assert_eq!(describe(&state, &job), None);
}
