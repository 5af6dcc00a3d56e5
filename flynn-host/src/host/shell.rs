//! The loop around the supervisor: facts in, commands carried out.

use std::{
    collections::{BTreeMap, HashMap},
    future::Future,
    sync::Arc,
    time::Duration,
};

use flynn_discovery::Backoff;
use flynn_sched::JobId;
use tokio::{
    sync::{mpsc, oneshot, watch},
    task::{AbortHandle, JoinHandle, JoinSet},
    time::{Instant, sleep_until, timeout},
};

use super::{
    JobView, Jobs, Shutdown, checks,
    registrar::{Registrar, Wish, instances},
    reporter::Reports,
    world::World,
};
use crate::{
    Error,
    journal::{Change, Journal},
    log::LogLine,
    runtime::ExitStatus,
    supervisor::{Command, Event, Failure, FailureKind, Now, Supervisor, Survivor},
    wall::wall_ms,
};

/// What the owner of a host tells it.
#[derive(Debug)]
pub(super) enum Order {
    Shutdown(Shutdown),
}

pub(super) struct Shell {
    pub(super) world: Arc<World>,
    pub(super) journal: Arc<dyn Journal>,
    pub(super) supervisor: Supervisor,
    pub(super) reports: Arc<Reports>,
    pub(super) events: mpsc::Receiver<Event>,
    pub(super) event_sender: mpsc::Sender<Event>,
    pub(super) orders: mpsc::Receiver<Order>,
    pub(super) jobs: watch::Sender<Arc<Jobs>>,
    pub(super) link: JoinHandle<Result<(), Error>>,
    pub(super) leave: Option<oneshot::Sender<bool>>,
    pub(super) failure: watch::Sender<Option<Arc<Error>>>,
    pub(super) stop_patience: Duration,
    /// Lines for jobs' logs, in order.
    pub(super) notes: mpsc::Sender<Note>,
    pub(super) registrars: HashMap<JobId, Registrar>,
    pub(super) checks: HashMap<JobId, AbortHandle>,
    pub(super) tasks: JoinSet<()>,
    pub(super) began: Instant,
    /// Held for as long as this works in its data directory.
    pub(super) _lock: std::fs::File,
}

/// What happens to a job's log, in order.
#[derive(Debug)]
pub(super) enum Note {
    Write(JobId, LogLine),
    Drop(JobId),
}

impl Shell {
    pub(super) async fn run(mut self, survivors: Vec<Survivor>) {
        self.handle(Event::Recovered(survivors)).await;
        let mut stopping: Option<Instant> = None;
        loop {
            let wake = self.supervisor.next_wake().map(|at| self.began + at);
            let event = tokio::select! {
                Some(event) = self.events.recv() => event,
                () = sleep_until(wake.unwrap_or(self.began)), if wake.is_some() => Event::Woken,
                order = self.orders.recv() => match order {
                    Some(Order::Shutdown(Shutdown::StopJobs)) => {
                        stopping = Some(Instant::now() + self.stop_patience);
                        Event::StopAll
                    }
                    Some(Order::Shutdown(Shutdown::LeaveJobs)) | None => {
                        self.leave_jobs().await;
                        return;
                    }
                },
                ended = &mut self.link, if !self.link.is_finished() || self.leave.is_some() => {
                    self.leave = None;
                    if let Ok(Err(error)) = ended {
                        tracing::error!(%error, "the host cannot go on");
                        // Whoever took our id speaks for its own jobs only: ours are no longer found.
                        self.registrars.clear();
                        self.failure.send_replace(Some(Arc::new(error)));
                    }
                    continue;
                },
                Some(_) = self.tasks.join_next() => continue,
                () = sleep_until(stopping.unwrap_or(self.began)), if stopping.is_some() => {
                    tracing::warn!("jobs did not stop in time");
                    self.leave_cell(true).await;
                    return;
                }
            };
            self.handle(event).await;
            if stopping.is_some() && self.supervisor.is_idle() {
                let _ = timeout(FLUSH, self.reports.flushed()).await;
                self.leave_cell(true).await;
                return;
            }
        }
    }

    async fn leave_jobs(&mut self) {
        let abandoned: Vec<_> = self
            .registrars
            .values()
            .map(|registrar| {
                let (done, is_done) = oneshot::channel();
                registrar.wish(Wish::Abandon(done));
                is_done
            })
            .collect();
        // Ended before it has heard that, a registrar would take its job out of discovery.
        let _ = timeout(FLUSH, futures::future::join_all(abandoned)).await;
        let _ = timeout(FLUSH, self.reports.flushed()).await;
        self.leave_cell(false).await;
    }

    async fn leave_cell(&mut self, leaves: bool) {
        if let Some(leave) = self.leave.take() {
            let _ = leave.send(leaves);
            if timeout(FLUSH, &mut self.link).await.is_err() {
                self.link.abort();
            }
        }
    }

    async fn handle(&mut self, event: Event) {
        let now = Now {
            at: Instant::now() - self.began,
            wall_ms: wall_ms(),
        };
        tracing::trace!(?event, "event");
        let commands = self.supervisor.handle(now, event);
        self.remember(&commands).await;
        for command in commands {
            tracing::debug!(?command, "command");
            self.perform(command);
        }
        let jobs: BTreeMap<JobId, JobView> = self
            .supervisor
            .jobs()
            .map(|(job, status, has_container)| {
                let view = JobView {
                    job: Arc::clone(job),
                    status: status.clone(),
                    has_container,
                };
                (job.id.clone(), view)
            })
            .collect();
        self.jobs.send_replace(Arc::new(jobs));
    }

    /// All that is to be remembered, in one write, before anything is done.
    async fn remember(&self, commands: &[Command]) {
        let changes: Vec<Change> = commands
            .iter()
            .filter_map(|command| match command {
                Command::Remember(record) => Some(Change::Put(record.clone())),
                Command::Forget(id) => Some(Change::Remove(id.clone())),
                _ => None,
            })
            .collect();
        if changes.is_empty() {
            return;
        }
        // Jobs matter more than remembering them: the next change writes everything.
        if let Err(error) = self.journal.apply(changes).await {
            tracing::error!(%error, "could not write the journal");
        }
    }

    fn perform(&mut self, command: Command) {
        let world = Arc::clone(&self.world);
        match command {
            Command::Remember(_) => {}
            Command::Forget(id) => {
                world.ports.lock().release(&id);
                self.registrars.remove(&id);
            }
            Command::Prepare(job, run) => {
                self.spawn(async move {
                    match world.prepare(&job).await {
                        Ok(ports) => Event::Prepared(job.id.clone(), run, ports),
                        Err(error) => failed(job.id.clone(), run, &error),
                    }
                });
            }
            Command::Create(job, ports, run) => {
                self.spawn(async move {
                    match world.create(&job, &ports).await {
                        Ok(()) => Event::Created(job.id.clone(), run),
                        Err(error) => failed(job.id.clone(), run, &error),
                    }
                });
            }
            Command::Start(id, run) => {
                self.spawn(async move {
                    match world.runtime.start(&id).await {
                        Ok(started) => Event::Started(id, run, started),
                        Err(error) => failed(id, run, &error),
                    }
                });
            }
            Command::Watch(id, run) => {
                self.spawn(async move {
                    let status = wait(&world, &id).await;
                    Event::Exited(id, run, status)
                });
            }
            Command::Check(job, ports, run) => {
                let id = job.id.clone();
                let checking = checks::check(
                    job,
                    world.addr.clone(),
                    ports,
                    run,
                    self.event_sender.clone(),
                );
                let checking = self.tasks.spawn(checking);
                if let Some(before) = self.checks.insert(id, checking) {
                    before.abort();
                }
            }
            Command::StopChecks(id, _) => {
                if let Some(checking) = self.checks.remove(&id) {
                    checking.abort();
                }
            }
            Command::Register(job, ports) => {
                let instances = instances(&world.id, &world.addr, &job, &ports);
                self.registrar(&job.id).wish(Wish::Register(instances));
            }
            Command::Deregister(id, run) => self.registrar(&id).wish(Wish::Deregister(run)),
            Command::Kill(id, _, signal) => {
                self.tasks.spawn(async move {
                    match world.runtime.kill(&id, signal).await {
                        Ok(()) | Err(Error::NotRunning { .. } | Error::UnknownJob { .. }) => {}
                        Err(error) => tracing::error!(job = %id, %error, "could not signal"),
                    }
                });
            }
            Command::Delete(id, run) => {
                self.spawn(async move {
                    let mut backoff = Backoff::default();
                    while let Err(error) = world.delete(&id).await {
                        tracing::error!(job = %id, %error, "could not clear a job away, trying again");
                        backoff.wait().await;
                    }
                    Event::Deleted(id, run)
                });
            }
            Command::DropLog(id) => self.note(Note::Drop(id)),
            Command::Note(id, text) => {
                self.note(Note::Write(id, LogLine::host(wall_ms(), text)));
            }
            Command::Report(id, status) => {
                tracing::info!(
                    job = %id,
                    phase = ?status.phase,
                    error = status.error.as_deref().unwrap_or_default(),
                    restarts = status.restarts,
                    "job"
                );
                self.reports.add(id, status);
            }
        }
    }

    /// Does something that takes a while, and tells the supervisor how it went.
    fn spawn(&mut self, work: impl Future<Output = Event> + Send + 'static) {
        let events = self.event_sender.clone();
        self.tasks.spawn(async move {
            let event = work.await;
            let _ = events.send(event).await;
        });
    }

    fn registrar(&mut self, id: &JobId) -> &Registrar {
        let (registry, events, tasks) = (&self.world.registry, &self.event_sender, &mut self.tasks);
        self.registrars.entry(id.clone()).or_insert_with(|| {
            Registrar::start(id.clone(), registry.clone(), events.clone(), tasks)
        })
    }

    fn note(&self, note: Note) {
        if let Err(error) = self.notes.try_send(note) {
            tracing::warn!(%error, "a line for a job's log was dropped");
        }
    }
}

/// Writes notes into logs, in order, for ever.
pub(super) async fn write_notes(world: Arc<World>, mut notes: mpsc::Receiver<Note>) {
    while let Some(note) = notes.recv().await {
        let written = match note {
            Note::Write(id, line) => world.logs.append(&id, vec![line]).await,
            Note::Drop(id) => world.logs.remove(&id).await,
        };
        if let Err(error) = written {
            tracing::warn!(%error, "could not write to a job's log");
        }
    }
}

async fn wait(world: &World, id: &JobId) -> ExitStatus {
    let mut backoff = Backoff::default();
    loop {
        match world.runtime.wait(id).await {
            Ok(status) => return status,
            Err(Error::UnknownJob { .. }) => {
                return ExitStatus {
                    code: 137,
                    signal: None,
                    error: Some("was lost: its container is gone".to_owned()),
                    is_lost: true,
                    at_ms: wall_ms(),
                };
            }
            Err(error) => {
                tracing::error!(job = %id, %error, "could not wait for a job, trying again");
                backoff.wait().await;
            }
        }
    }
}

fn failed(id: JobId, run: u32, error: &Error) -> Event {
    let kind = match error {
        Error::Command { .. } => FailureKind::Command,
        error if error.is_transient() => FailureKind::Transient,
        _ => FailureKind::Permanent,
    };
    let failure = Failure {
        error: error.to_string(),
        kind,
    };
    Event::Failed(id, run, failure)
}

/// How long the last reports may take at shutdown.
const FLUSH: Duration = Duration::from_secs(2);
