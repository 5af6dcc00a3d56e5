//! The host API over a real socket.

use flynn_discovery::http::{Keys, Secret, serve};
use flynn_host::{
    Error,
    attach::{Attached, Channel, Frame, flags},
    host::{AttachRequest, Drain},
    http::{Client, LogQuery, router},
    runtime::Signal,
};
use flynn_sched::{JobSpec, Phase, RestartPolicy};
use futures::StreamExt;
use tokio::{net::TcpListener, sync::oneshot, task::JoinHandle, time::timeout};

use crate::fixture::{Cell, DEADLINE, sh};

struct Api {
    url: String,
    client: Client,
    shutdown: oneshot::Sender<()>,
    server: JoinHandle<std::io::Result<()>>,
}

impl Api {
    async fn start(cell: &Cell) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let keys = Keys::new(vec![Secret::new("token")]).with_open_path("/.well-known/status");
        let app = router(cell.host().handle().clone(), keys);
        let (shutdown, stopped) = oneshot::channel();
        let server = tokio::spawn(serve(listener, app, async {
            let _ = stopped.await;
        }));
        let client = Client::new(&url, Secret::new("token")).unwrap();
        Self {
            url,
            client,
            shutdown,
            server,
        }
    }

    async fn end(self) {
        self.shutdown.send(()).unwrap();
        timeout(DEADLINE, self.server)
            .await
            .unwrap()
            .unwrap()
            .unwrap();
    }
}

/// Everything a job said on a connection, and its exit status.
async fn read_all(attached: &mut Attached) -> (String, String, Option<u32>) {
    let (mut out, mut err, mut exit) = (String::new(), String::new(), None);
    let reading = async {
        while let Some(frame) = attached.recv().await.unwrap() {
            match frame {
                Frame::Data(Channel::Stdout, b) => out.push_str(std::str::from_utf8(&b).unwrap()),
                Frame::Data(Channel::Stderr, b) => err.push_str(std::str::from_utf8(&b).unwrap()),
                Frame::Exit(code) => exit = Some(code),
                other => panic!("unexpected {other:?}"),
            }
        }
    };
    timeout(DEADLINE, reading).await.unwrap();
    (out, err, exit)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_attached_job_gets_its_input_and_gives_its_output_and_status() {
    let cell = Cell::start().await;
    let api = Api::start(&cell).await;
    let id = cell
        .place(JobSpec {
            has_stdin: true,
            waits_for_attach: true,
            restart: RestartPolicy::Never,
            ..sh("echo ready; tr a-z A-Z; echo bye >&2; exit 7")
        })
        .await;
    // By its name beyond the host, and at once: the job may not even have arrived.
    let mut attached = api
        .client
        .attach(&format!("h1-{id}"), AttachRequest::ALL)
        .await
        .unwrap();
    for part in ["hello ", "world\n", ""] {
        let frame = Frame::Data(Channel::Stdin, part.into());
        attached.send(frame).await.unwrap();
    }
    let (out, err, exit) = read_all(&mut attached).await;
    assert_eq!(out, "ready\nHELLO WORLD\n");
    assert_eq!(err, "bye\n");
    assert_eq!(exit, Some(7));
    let status = cell.until_phase(&id, Phase::Crashed).await;
    assert_eq!(status.exit_status, Some(7));

    // And who comes too late reads it from the log.
    let late = AttachRequest {
        flags: flags::STDOUT | flags::STDERR | flags::LOGS | flags::STREAM,
    };
    let mut attached = api.client.attach(id.as_str(), late).await.unwrap();
    let (out, _, exit) = read_all(&mut attached).await;
    assert_eq!(out, "ready\nHELLO WORLD\n");
    assert_eq!(exit, Some(7));
    let only_stream = AttachRequest {
        flags: flags::STDOUT | flags::STREAM,
    };
    let error = api
        .client
        .attach(id.as_str(), only_stream)
        .await
        .unwrap_err();
    assert_eq!(error.to_string(), "host: job not running");
    api.end().await;
    cell.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replay_and_stream_together_are_all_output_once() {
    let cell = Cell::start().await;
    let api = Api::start(&cell).await;
    let script = "i=0; while [ $i -lt 4000 ]; do echo line $i; i=$((i+1)); done; exec sleep 1000";
    let id = cell.place(sh(script)).await;
    cell.until_phase(&id, Phase::Up).await;
    let request = AttachRequest {
        flags: flags::STDOUT | flags::LOGS | flags::STREAM,
    };
    let mut attached = api.client.attach(id.as_str(), request).await.unwrap();
    let expected: String = (0..4000).map(|i| format!("line {i}\n")).collect();
    let mut out = String::new();
    let reading = async {
        while out.len() < expected.len() {
            match attached.recv().await.unwrap() {
                Some(Frame::Data(Channel::Stdout, b)) => {
                    out.push_str(std::str::from_utf8(&b).unwrap());
                }
                other => panic!("unexpected {other:?}"),
            }
        }
    };
    timeout(DEADLINE, reading).await.unwrap();
    assert_eq!(out, expected);
    drop(attached);
    api.end().await;
    cell.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn jobs_are_listed_signalled_and_stopped() {
    let cell = Cell::start().await;
    let api = Api::start(&cell).await;
    let script = "trap 'echo got usr1' USR1; echo ready; while :; do sleep 0.05; done";
    let id = cell.place(sh(script)).await;
    cell.until_logged(&id, "ready").await;
    cell.until_phase(&id, Phase::Up).await;
    let name = format!("h1-{id}");
    let jobs = api.client.jobs(true).await.unwrap();
    assert_eq!(jobs.keys().collect::<Vec<_>>(), [&name]);
    assert_eq!((jobs[&name].status, jobs[&name].phase), (1, Phase::Up));
    assert_eq!(jobs[&name].job.config.args[0], "sh");

    api.client
        .signal(&name, Signal::parse(10).unwrap())
        .await
        .unwrap();
    cell.until_logged(&id, "got usr1").await;
    assert_eq!(api.client.status().await.unwrap().jobs, 1);
    for drain in [Some(Drain { by_ms: Some(7) }), Some(Drain::default()), None] {
        api.client.set_drain(drain).await.unwrap();
        assert_eq!(api.client.status().await.unwrap().drain, drain);
    }

    api.client.stop(&name).await.unwrap();
    cell.until_phase(&id, Phase::Done).await;
    assert_eq!(api.client.job(&name).await.unwrap().status, 2);
    assert!(api.client.jobs(true).await.unwrap().is_empty());
    let error = api.client.signal(&name, Signal::TERM).await.unwrap_err();
    assert!(error.to_string().contains("is not running"), "{error}");
    let error = api.client.job("h1-nothere").await.unwrap_err();
    assert_eq!(error.to_string(), "job nothere is not on this host");
    api.end().await;
    cell.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_is_followed_to_the_end_of_the_job() {
    let cell = Cell::start().await;
    let api = Api::start(&cell).await;
    let id = cell
        .place(JobSpec {
            restart: RestartPolicy::Never,
            ..sh("echo one; echo two >&2; sleep 0.5; echo three")
        })
        .await;
    cell.until_logged(&id, "one").await;
    let query = LogQuery::default()
        .with_follow(true)
        .with_streams([flynn_host::log::LogStream::Stdout]);
    let lines = api.client.log(id.as_str(), &query).await.unwrap();
    let lines: Vec<String> = timeout(DEADLINE, lines.map(|line| line.unwrap().msg).collect())
        .await
        .unwrap();
    assert_eq!(lines, ["one", "three"]);
    let query = LogQuery::default().with_lines(1);
    let last = api.client.log(id.as_str(), &query).await.unwrap();
    let last: Vec<_> = last.map(|line| line.unwrap().msg).collect().await;
    assert_eq!(last.len(), 1);
    api.end().await;
    cell.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wrong_token_is_refused_everywhere_but_for_health() {
    let cell = Cell::start().await;
    let api = Api::start(&cell).await;
    let stranger = Client::new(&api.url, Secret::new("guess")).unwrap();
    let errors = [
        stranger.jobs(false).await.unwrap_err(),
        stranger.status().await.unwrap_err(),
        stranger.stop("h1-x").await.unwrap_err(),
        stranger
            .set_drain(Some(Drain::default()))
            .await
            .unwrap_err(),
        stranger
            .attach("h1-x", AttachRequest::ALL)
            .await
            .unwrap_err(),
    ];
    for error in errors {
        assert!(
            matches!(&error, Error::Api(e) if e.status() == Some(http::StatusCode::UNAUTHORIZED)),
            "{error}"
        );
    }
    assert_eq!(cell.host().handle().drain(), None);
    let health = flynn_discovery::http::Client::new(vec![api.url.clone()]).unwrap();
    let health: serde_json::Value = health.get("/.well-known/status").await.unwrap();
    assert_eq!(health["data"]["status"], "healthy");
    api.end().await;
    cell.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_happens_to_jobs_is_told_as_it_happens() {
    let cell = Cell::start().await;
    let api = Api::start(&cell).await;
    let mut events = api.client.events().await.unwrap();
    let id = cell.place(sh("exec sleep 1000")).await;
    cell.until_phase(&id, Phase::Up).await;
    cell.stop(&id).await;
    let mut seen = Vec::new();
    let reading = async {
        while let Some(event) = events.next().await {
            let event = event.unwrap();
            assert_eq!(event.job_id, format!("h1-{id}"));
            let phase = event.job.unwrap().phase;
            seen.push(event.event);
            if phase == Phase::Done {
                break;
            }
        }
    };
    timeout(DEADLINE, reading).await.unwrap();
    assert!(seen.contains(&"start".to_owned()), "{seen:?}");
    assert_eq!(seen.last().unwrap(), "stop");
    drop(events);
    api.end().await;
    cell.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_without_a_log_admits_one_client_at_a_time() {
    let cell = Cell::start().await;
    let api = Api::start(&cell).await;
    let mut spec = sh("exec sleep 1000");
    spec.metadata
        .insert("flynn-host.disable_log".to_owned(), "true".to_owned());
    const ONLOOKER: AttachRequest = AttachRequest {
        flags: flags::STDOUT | flags::STREAM,
    };
    let id = cell.place(spec).await;
    cell.until_phase(&id, Phase::Up).await;
    let first = api.client.attach(id.as_str(), ONLOOKER).await;
    let first = first.unwrap();
    let error = api.client.attach(id.as_str(), ONLOOKER).await.unwrap_err();
    assert_eq!(error.to_string(), "host: job is attached");
    drop(first);
    // Its place is free again, also though the job has not said a word meanwhile.
    let attach = async || {
        let attached = api.client.attach(id.as_str(), ONLOOKER).await;
        attached.ok()
    };
    let third = crate::fixture::eventually("another client is attached", attach).await;
    drop(third);
    assert_eq!(cell.cluster.state().job(&id).unwrap().status.restarts, 0);
    api.end().await;
    cell.end().await;
}
