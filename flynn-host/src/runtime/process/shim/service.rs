//! What a shim does when it is asked: start, signal, wait, attach.

use std::{
    io::{self, BufRead, BufReader, Read, Write},
    os::unix::{
        net::{UnixListener, UnixStream},
        process::CommandExt,
    },
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use bytes::BytesMut;
use rustix::process::Pid;

use super::{KILL, MAX_CONNECTIONS, Shim, State, never_started, sentence, spawn};
use crate::{
    attach::{Channel, Frame},
    runtime::{
        ExitStatus, Started,
        process::{
            identity::Identity,
            limits::{self, Applied},
            protocol::{JOB, Reply, Request, Running, write},
        },
    },
    wall::wall_ms,
};

impl Shim {
    pub(super) fn accept(self: &Arc<Self>, listener: &UnixListener) {
        for connection in listener.incoming() {
            let Ok(connection) = connection else { continue };
            if self.connections.fetch_add(1, Ordering::AcqRel) >= MAX_CONNECTIONS {
                self.connections.fetch_sub(1, Ordering::AcqRel);
                continue;
            }
            let shim = Arc::clone(self);
            let served = spawn(move || {
                let _ = shim.serve(connection);
                shim.connections.fetch_sub(1, Ordering::AcqRel);
            });
            if served.is_err() {
                self.connections.fetch_sub(1, Ordering::AcqRel);
            }
        }
    }

    pub(super) fn serve(self: &Arc<Self>, connection: UnixStream) -> io::Result<()> {
        let mut reader = BufReader::new(connection.try_clone()?);
        let mut line = String::new();
        reader.by_ref().take(4096).read_line(&mut line)?;
        let reply = match serde_json::from_str(&line)? {
            Request::Start => self.start(),
            Request::Signal { signal } => self.signal(signal),
            Request::Wait => match self.wait(&connection)? {
                Some(status) => Reply::Exited { status },
                None => return Ok(()),
            },
            Request::Attach { stdin } => return self.attach(connection, reader, stdin),
        };
        answer(&connection, &reply)
    }

    pub(super) fn start(self: &Arc<Self>) -> Reply {
        let mut state = self.state();
        match &*state {
            State::Created => {}
            State::Running { started, .. } => return Reply::Started { started: *started },
            State::Ending(_) | State::Exited(_) => return Reply::NotRunning,
        }
        match self.spawn_job() {
            Ok((pid, started, limits)) => {
                *state = State::Running {
                    pid,
                    started,
                    limits,
                };
                self.changed.notify_all();
                Reply::Started { started }
            }
            Err(why) => {
                *state = State::Ending(ExitStatus {
                    code: 127,
                    signal: None,
                    error: Some(format!("could not start {:?}: {why}", self.command())),
                    is_lost: false,
                    at_ms: wall_ms(),
                });
                self.wake();
                Reply::NoCommand { why }
            }
        }
    }

    pub(super) fn command(&self) -> &str {
        self.spec.args.first().map_or("", String::as_str)
    }

    pub(super) fn spawn_job(self: &Arc<Self>) -> Result<(Pid, Started, Applied), String> {
        let program = self.command();
        if program.is_empty() {
            return Err("the job has no command".to_owned());
        }
        let path = if program.contains('/') {
            self.spec.root.join(program)
        } else {
            PathBuf::from(program)
        };
        let mut command = Command::new(path);
        command
            .arg0(program)
            .args(&self.spec.args[1..])
            .env_clear()
            .envs(&self.spec.env)
            .current_dir(&self.spec.root)
            .process_group(0)
            .stdin(if self.spec.has_stdin {
                Stdio::piped()
            } else {
                Stdio::null()
            })
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let limits = limits::apply(&self.spec.limits, &self.cgroup, &mut command);
        let mut child = command.spawn().map_err(|e| sentence(&e, &self.spec.root))?;
        let started = Started {
            pid: Some(child.id()),
            at_ms: wall_ms(),
        };
        if let Ok(process) = Identity::of(child.id()) {
            let running = Running {
                process,
                started,
                cgroup: limits.cgroup().map(Path::to_owned),
            };
            if let Err(e) = write(Path::new("."), JOB, &running) {
                let _ = writeln!(io::stderr(), "could not write the job's identity: {e}");
            }
        }
        *self.stdin.lock().expect("no panic while the lock is held") = child.stdin.take();
        if let Some(pipe) = child.stdout.take() {
            self.pump(Channel::Stdout, pipe);
        }
        if let Some(pipe) = child.stderr.take() {
            self.pump(Channel::Stderr, pipe);
        }
        let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
        let pid = pid.ok_or_else(|| "its process id is out of range".to_owned())?;
        Ok((pid, started, limits))
    }

    pub(super) fn pump(self: &Arc<Self>, channel: Channel, pipe: impl Read + Send + 'static) {
        let shim = Arc::clone(self);
        self.output.expect_stream();
        if spawn(move || shim.output.pump(channel, pipe)).is_err() {
            let _ = writeln!(io::stderr(), "no thread for the job's output");
        }
    }

    pub(super) fn signal(&self, signal: i32) -> Reply {
        let mut state = self.state();
        match &*state {
            State::Running { pid, .. } => {
                let Some(known) = rustix::process::Signal::from_named_raw(signal) else {
                    return Reply::Failed {
                        why: format!("signal {signal} has no name on this system"),
                    };
                };
                // After the end of the first process the rest is killed as well: see `watch`.
                if rustix::process::kill_process_group(*pid, known).is_err() {
                    return Reply::NotRunning;
                }
                if known == rustix::process::Signal::TERM {
                    // A job that is suspended must wake up to hear it.
                    let go_on = rustix::process::Signal::CONT;
                    let _ = rustix::process::kill_process_group(*pid, go_on);
                }
                Reply::Signalled
            }
            State::Created if signal == KILL => {
                *state = State::Ending(never_started());
                self.wake();
                Reply::Signalled
            }
            State::Created | State::Ending(_) | State::Exited(_) => Reply::NotRunning,
        }
    }

    /// Makes `watch` look at the state.
    pub(super) fn wake(&self) {
        self.changed.notify_all();
        let me = rustix::process::getpid();
        let _ = rustix::process::kill_process(me, rustix::process::Signal::CHILD);
    }

    /// `None` when whoever asked has gone.
    pub(super) fn wait(&self, connection: &UnixStream) -> io::Result<Option<ExitStatus>> {
        let mut state = self.state();
        loop {
            if let State::Exited(status) = &*state {
                return Ok(Some(status.clone()));
            }
            (state, _) = self
                .changed
                .wait_timeout(state, Duration::from_secs(5))
                .expect("no panic while the lock is held");
            if !matches!(&*state, State::Exited(_)) && has_hung_up(connection)? {
                return Ok(None);
            }
        }
    }

    pub(super) fn attach(
        &self,
        connection: UnixStream,
        reader: BufReader<UnixStream>,
        stdin: bool,
    ) -> io::Result<()> {
        if let State::Ending(_) | State::Exited(_) = &*self.state() {
            return answer(&connection, &Reply::NotRunning);
        }
        let connection = Arc::new(connection);
        let (log_end, queue) = match self.output.attach(Arc::clone(&connection)) {
            Ok(Some(attached)) => attached,
            Ok(None) => return answer(&connection, &Reply::Busy),
            Err(e) => {
                let why = format!("could not read the end of the log: {e}");
                return answer(&connection, &Reply::Failed { why });
            }
        };
        answer(&connection, &Reply::Attached { log_end }).inspect_err(|_| queue.leave())?;
        let writer = spawn({
            let queue = Arc::clone(&queue);
            move || queue.write_to(&connection)
        })
        .inspect_err(|_| queue.leave())?;
        let _ = self.read_frames(reader, stdin);
        // Input ends with a frame; whoever closes the connection has gone.
        queue.leave();
        if stdin {
            self.wait_for_start();
            *self.stdin.lock().expect("no panic while the lock is held") = None;
        }
        let _ = writer.join();
        Ok(())
    }

    /// Carries out what an attached client says, until it hangs up.
    pub(super) fn read_frames(
        &self,
        mut reader: BufReader<UnixStream>,
        stdin: bool,
    ) -> io::Result<()> {
        let mut buffer = BytesMut::new();
        let mut chunk = [0; 8 * 1024];
        loop {
            while let Some(frame) = Frame::decode(&mut buffer).map_err(io::Error::other)? {
                match frame {
                    Frame::Data(Channel::Stdin, bytes) if stdin => self.feed(&bytes),
                    Frame::Signal(signal) => {
                        self.signal(i32::try_from(signal).unwrap_or(0));
                    }
                    _ => {}
                }
            }
            match reader.read(&mut chunk)? {
                0 => return Ok(()),
                count => buffer.extend_from_slice(&chunk[..count]),
            }
        }
    }

    /// A client may be here before the job is; its input is for the job all the same.
    pub(super) fn wait_for_start(&self) {
        let state = self.state();
        drop(
            self.changed
                .wait_while(state, |state| matches!(state, State::Created)),
        );
    }

    /// Writes to the job's standard input; nothing closes it.
    pub(super) fn feed(&self, bytes: &[u8]) {
        self.wait_for_start();
        let mut stdin = self.stdin.lock().expect("no panic while the lock is held");
        let is_open = !bytes.is_empty()
            && stdin
                .as_mut()
                .is_some_and(|pipe| pipe.write_all(bytes).is_ok());
        if !is_open {
            *stdin = None;
        }
    }
}

fn answer(mut to: &UnixStream, reply: &Reply) -> io::Result<()> {
    let mut line = serde_json::to_vec(reply)?;
    line.push(b'\n');
    to.write_all(&line)
}

fn has_hung_up(mut connection: &UnixStream) -> io::Result<bool> {
    connection.set_nonblocking(true)?;
    let read = connection.read(&mut [0; 1]);
    connection.set_nonblocking(false)?;
    Ok(matches!(read, Ok(0)))
}
