//! Logs and attached jobs: what reaches hosts, and what comes back.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use async_trait::async_trait;
use flynn_controller::{
    Error, Result,
    http::LogQuery,
    model::{App, LogLine, NewJob, Time},
    streams::{AttachOptions, ByteStream, JobStreams, LogOptions, OutputLine},
};
use flynn_sched::{Cluster as _, Host, JobId};
use futures::{StreamExt as _, stream, stream::BoxStream};
use parking_lot::Mutex;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    sync::broadcast,
};

use crate::world::{DEADLINE, World, release_of, scale_to};

/// Hosts' logs in memory; an attached job says back what it is told.
#[derive(Debug)]
struct FakeStreams {
    lines: Mutex<BTreeMap<JobId, Vec<OutputLine>>>,
    live: broadcast::Sender<(JobId, OutputLine)>,
    attached: Mutex<Vec<(JobId, AttachOptions)>>,
    refuses: bool,
}

impl FakeStreams {
    fn new() -> Self {
        Self {
            lines: Mutex::default(),
            live: broadcast::Sender::new(100),
            attached: Mutex::default(),
            refuses: false,
        }
    }

    fn write(&self, job: &str, at_ms: u64, stream: &str, msg: &str) {
        let line = OutputLine {
            time: Time::from_millis(at_ms),
            stream: stream.to_owned(),
            msg: msg.to_owned(),
        };
        let job = JobId::parse(job).unwrap();
        self.lines
            .lock()
            .entry(job.clone())
            .or_default()
            .push(line.clone());
        let _ = self.live.send((job, line));
    }
}

#[async_trait]
impl JobStreams for FakeStreams {
    async fn log(
        &self,
        host: &Host,
        job: &JobId,
        options: &LogOptions,
    ) -> Result<BoxStream<'static, Result<OutputLine>>> {
        assert!(host.api_url.starts_with("http://"));
        let live = self.live.subscribe();
        let mut past = self.lines.lock().get(job).cloned().unwrap_or_default();
        past.retain(|line| options.streams.is_empty() || options.streams.contains(&line.stream));
        let skip = past
            .len()
            .saturating_sub(options.lines.unwrap_or(usize::MAX));
        let past = stream::iter(past.into_iter().skip(skip).map(Ok));
        if !options.follow {
            return Ok(past.boxed());
        }
        let job = job.clone();
        let live = stream::unfold((live, job), |(mut live, job)| async move {
            loop {
                let (of, line) = live.recv().await.ok()?;
                if of == job {
                    return Some((Ok(line), (live, job)));
                }
            }
        });
        Ok(past.chain(live).boxed())
    }

    async fn attach(
        &self,
        _: &Host,
        job: &JobId,
        options: &AttachOptions,
    ) -> Result<Box<dyn ByteStream>> {
        if self.refuses {
            return Err(Error::Unavailable {
                why: "host host0 does not answer".to_owned(),
            });
        }
        self.attached.lock().push((job.clone(), *options));
        let (ours, mut theirs) = tokio::io::duplex(1024);
        tokio::spawn(async move {
            let mut buffer = [0; 64];
            while let Ok(n @ 1..) = theirs.read(&mut buffer).await {
                theirs.write_all(&buffer[..n]).await.unwrap();
            }
        });
        Ok(Box::new(ours))
    }
}

async fn next(
    lines: &mut BoxStream<
        'static,
        std::result::Result<LogLine, flynn_controller::http::ClientError>,
    >,
) -> LogLine {
    let line = tokio::time::timeout(DEADLINE, lines.next()).await;
    line.expect("a line comes")
        .expect("the stream goes on")
        .unwrap()
}

#[tokio::test]
async fn lines_of_all_jobs_are_merged_by_time_filtered_and_counted() {
    let mut world = World::with_hosts(2).await;
    let _controller = world.controller();
    let streams = Arc::new(FakeStreams::new());
    let client = world
        .client_of(world.platform_with(Arc::<FakeStreams>::clone(&streams)))
        .await;
    let app = client.create_app(&App::named("blog")).await.unwrap();
    let release = client
        .create_release(&release_of(&app, "ok"))
        .await
        .unwrap();
    client.scale(&scale_to(&release, 2)).await.unwrap();
    world.until_up(&release, "web", 2).await;
    let jobs = client.jobs("blog").await.unwrap();
    streams.write(&jobs[0].uuid, 1_000, "stdout", "first");
    streams.write(&jobs[1].uuid, 2_000, "stderr", "second");
    streams.write(&jobs[0].uuid, 3_000, "stdout", "third");

    let read = async |query: LogQuery| -> Vec<String> {
        let lines = client.log("blog", &query).await.unwrap();
        lines.map(|line| line.unwrap().msg).collect().await
    };
    assert_eq!(
        read(LogQuery::default()).await,
        ["first", "second", "third"]
    );
    assert_eq!(
        read(LogQuery {
            lines: Some(2),
            ..LogQuery::default()
        })
        .await,
        ["second", "third"]
    );
    let stderr = LogQuery {
        streams: vec!["stderr".to_owned()],
        ..LogQuery::default()
    };
    assert_eq!(read(stderr).await, ["second"]);
    let one = LogQuery {
        job: Some(jobs[0].id.clone()),
        ..LogQuery::default()
    };
    assert_eq!(read(one).await, ["first", "third"]);
    let one_off = LogQuery {
        process_type: Some(String::new()),
        ..LogQuery::default()
    };
    assert_eq!(read(one_off).await, Vec::<String>::new());
    let Err(unknown) = client
        .log(
            "blog",
            &LogQuery {
                job: Some("x".to_owned()),
                ..LogQuery::default()
            },
        )
        .await
    else {
        panic!("an unknown job has no log");
    };
    assert!(unknown.is_not_found());

    let mut lines = client.log("blog", &LogQuery::default()).await.unwrap();
    let first = next(&mut lines).await;
    assert_eq!(
        (
            &*first.job_id,
            &*first.host_id,
            &*first.process_type,
            &*first.source,
            &*first.stream
        ),
        (&*jobs[0].uuid, &*jobs[0].host_id, "web", "app", "stdout")
    );
}

#[tokio::test]
async fn a_followed_log_goes_on_with_new_lines_and_new_jobs_and_repeats_none() {
    let mut world = World::with_hosts(1).await;
    let _controller = world.controller();
    let streams = Arc::new(FakeStreams::new());
    let client = world
        .client_of(world.platform_with(Arc::<FakeStreams>::clone(&streams)))
        .await;
    let app = client.create_app(&App::named("blog")).await.unwrap();
    let release = client
        .create_release(&release_of(&app, "ok"))
        .await
        .unwrap();
    client.scale(&scale_to(&release, 1)).await.unwrap();
    world.until_up(&release, "web", 1).await;
    let job = client.jobs("blog").await.unwrap().remove(0);
    streams.write(&job.uuid, 1_000, "stdout", "one");
    streams.write(&job.uuid, 1_000, "stdout", "two");
    let query = LogQuery {
        follow: true,
        ..LogQuery::default()
    };
    let mut lines = client.log("blog", &query).await.unwrap();
    assert_eq!(next(&mut lines).await.msg, "one");
    assert_eq!(next(&mut lines).await.msg, "two");
    streams.write(&job.uuid, 1_000, "stdout", "three");
    assert_eq!(next(&mut lines).await.msg, "three");

    client.scale(&scale_to(&release, 2)).await.unwrap();
    world.until_up(&release, "web", 2).await;
    let jobs = client.jobs("blog").await.unwrap();
    let other = jobs
        .into_iter()
        .find(|other| other.uuid != job.uuid)
        .unwrap();
    streams.write(&other.uuid, 2_000, "stdout", "four");
    let four = next(&mut lines).await;
    assert_eq!((four.msg.as_str(), four.job_id), ("four", other.uuid));
}

#[tokio::test]
async fn an_attached_job_talks_to_the_client_through_the_controller() {
    let mut world = World::with_hosts(1).await;
    let streams = Arc::new(FakeStreams::new());
    let client = world
        .client_of(world.platform_with(Arc::<FakeStreams>::clone(&streams)))
        .await;
    client.create_app(&App::named("blog")).await.unwrap();
    let job = NewJob {
        args: vec!["ok".to_owned()],
        tty: true,
        columns: 80,
        lines: 24,
        ..NewJob::default()
    };
    let mut attached = client.run_attached("blog", &job).await.unwrap();
    // A frame: data, standard input, five bytes.
    let frame = b"\x03\x00\x00\x00\x00\x05hello";
    attached.write_all(frame).await.unwrap();
    let mut back = [0; 11];
    tokio::time::timeout(DEADLINE, attached.read_exact(&mut back))
        .await
        .unwrap()
        .unwrap();
    assert_eq!(&back, frame);
    let (id, options) = streams.attached.lock()[0].clone();
    assert_eq!(options.tty, Some((80, 24)));
    let state = world.cluster.snapshot().await.unwrap();
    let spec = &state.job(&id).unwrap().spec;
    assert!(spec.waits_for_attach && spec.has_tty && spec.has_stdin);
    drop(attached);
}

#[tokio::test]
async fn a_job_that_cannot_be_attached_to_is_stopped_and_the_client_is_told_why() {
    let mut world = World::with_hosts(1).await;
    let streams = Arc::new(FakeStreams {
        refuses: true,
        ..FakeStreams::new()
    });
    let client = world.client_of(world.platform_with(streams)).await;
    client.create_app(&App::named("blog")).await.unwrap();
    let job = NewJob {
        args: vec!["ok".to_owned()],
        ..NewJob::default()
    };
    let error = client.run_attached("blog", &job).await.unwrap_err();
    assert_eq!(error.to_string(), "host host0 does not answer");
    world
        .until("the job is over", |state| {
            state.jobs().all(|job| job.status.phase.is_final())
        })
        .await;
}

#[tokio::test]
async fn without_a_way_to_hosts_logs_and_attaching_say_so() {
    let mut world = World::with_hosts(1).await;
    let client = world.client().await;
    client.create_app(&App::named("blog")).await.unwrap();
    let Err(error) = client.log("blog", &LogQuery::default()).await else {
        panic!("there is no log");
    };
    assert_eq!(error.status().map(|status| status.as_u16()), Some(503));
    let job = NewJob {
        args: vec!["ok".to_owned()],
        ..NewJob::default()
    };
    let error = tokio::time::timeout(Duration::from_secs(30), client.run_attached("blog", &job))
        .await
        .unwrap()
        .unwrap_err();
    assert_eq!(
        error.to_string(),
        "this controller has no way to the output of jobs: it was started without one"
    );
    assert_eq!(
        world.cluster.snapshot().await.unwrap().groups().count(),
        0,
        "nothing was started"
    );
}
