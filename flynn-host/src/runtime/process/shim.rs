//! The small process that stands between the daemon and a job, so that the job does not notice when the daemon is gone.
//!
//! It is the job's parent and the reaper of all its descendants. It writes the job's output to the log, its exit status
//! to a file, and answers the daemon on a socket in the job's directory. It has no async runtime, and little memory.

mod service;

use std::{
    ffi::OsString,
    fs,
    io::{self, Write},
    os::unix::net::UnixListener,
    path::Path,
    process::{ChildStdin, ExitCode},
    sync::{
        Arc, Condvar, Mutex, MutexGuard,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::Duration,
};

use nix::sys::signal::SigSet;
use rustix::process::{Pid, WaitOptions};

use super::{
    identity::{Identity, processes},
    limits::Applied,
    output::Output,
    protocol::{EXIT, READY, SHIM, SOCKET, SPEC, read, reserve, write},
};
use crate::{
    runtime::{ContainerSpec, ExitStatus, Started},
    wall::wall_ms,
};

/// Runs the shim of one job; `args` is the job's directory. Returns when the job has ended.
///
/// Call it from a hidden subcommand of the binary that embeds the host, first thing: before any thread exists. See
/// [`ProcessRuntime::new`](super::ProcessRuntime::new).
pub fn run(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    let mut args = args.into_iter();
    let result = match (args.next(), args.next()) {
        (Some(dir), None) => supervise(Path::new(&dir)),
        _ => Err("usage: shim <directory of the job>".to_owned()),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            // For the daemon, if it is still waiting for us to be ready, and for people.
            let _ = writeln!(io::stdout(), "{why}");
            let _ = writeln!(io::stderr(), "{why}");
            ExitCode::FAILURE
        }
    }
}

fn supervise(dir: &Path) -> Result<(), String> {
    let failed = |what: &'static str| move |e: io::Error| format!("could not {what}: {e}");
    std::env::set_current_dir(dir).map_err(failed("enter the job's directory"))?;
    let mut signals = SigSet::empty();
    for signal in WATCHED {
        signals.add(signal);
    }
    signals
        .thread_block()
        .map_err(|e| failed("block signals")(e.into()))?;
    // A session of our own: no terminal's ctrl-C reaches the job. It fails only if we lead one already.
    let _ = rustix::process::setsid();
    rustix::process::set_child_subreaper(Some(rustix::process::getpid()))
        .map_err(|e| failed("become the reaper of the job's processes")(e.into()))?;

    let here = Path::new(".");
    let spec: ContainerSpec = read(here, SPEC)
        .and_then(|spec| spec.ok_or_else(|| io::ErrorKind::NotFound.into()))
        .map_err(failed("read the job's spec"))?;
    reserve(here, EXIT).map_err(failed("reserve space for the exit status"))?;
    let listener = UnixListener::bind(SOCKET).map_err(failed("listen"))?;
    let output = Output::open(spec.log.as_ref(), spec.waits_for_readers)
        .map_err(failed("open the job's log"))?;
    let me = Identity::of(std::process::id()).map_err(failed("read our own identity"))?;
    write(here, SHIM, &me).map_err(failed("write our own identity"))?;

    let name = fs::canonicalize(here)
        .ok()
        .and_then(|path| Some(path.file_name()?.to_string_lossy().into_owned()))
        .unwrap_or_default();
    let shim = Arc::new(Shim {
        // The id alone would do, if two daemons on one machine never had the same job.
        cgroup: format!("{name}-{}", me.pid),
        spec,
        output,
        state: Mutex::new(State::Created),
        changed: Condvar::new(),
        stdin: Mutex::new(None),
        connections: AtomicUsize::new(0),
    });
    let acceptor = Arc::clone(&shim);
    spawn(move || acceptor.accept(&listener)).map_err(failed("start a thread"))?;
    let _ = writeln!(io::stdout(), "{READY}");
    let _ = io::stdout().flush();

    let status = shim.watch(&signals);
    shim.settle(status);
    shim.hang_up();
    Ok(())
}

struct Shim {
    spec: ContainerSpec,
    cgroup: String,
    output: Output,
    /// Held while the job is being spawned, so that nobody reaps it before its id is known.
    state: Mutex<State>,
    /// Told when the state has changed.
    changed: Condvar,
    stdin: Mutex<Option<ChildStdin>>,
    connections: AtomicUsize,
}

#[derive(Debug)]
enum State {
    Created,
    Running {
        pid: Pid,
        started: Started,
        limits: Applied,
    },
    /// The first process has ended, and the rest is being cleared away.
    Ending(ExitStatus),
    /// All of it is over.
    Exited(ExitStatus),
}

impl Shim {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no panic while the lock is held")
    }

    /// Waits for the end of the job's first process, passing on what we are told meanwhile.
    fn watch(&self, signals: &SigSet) -> ExitStatus {
        loop {
            let signal = signals.wait();
            let mut state = self.state();
            if let State::Ending(status) = &*state {
                return status.clone(); // it never ran
            }
            match signal {
                Ok(nix::sys::signal::SIGCHLD) | Err(_) => {}
                Ok(signal) => {
                    if let Some(signal) = rustix::process::Signal::from_named_raw(signal as i32) {
                        if let State::Running { pid, .. } = &*state {
                            let _ = rustix::process::kill_process_group(*pid, signal);
                        } else {
                            return never_started();
                        }
                    }
                }
            }
            while let Ok(Some((pid, status))) = rustix::process::wait(WaitOptions::NOHANG) {
                if let State::Running {
                    pid: job, limits, ..
                } = &*state
                    && *job == pid
                {
                    let signal = status.terminating_signal();
                    let killed = 128 + signal.unwrap_or(0);
                    let code = status.exit_status().unwrap_or(killed);
                    let error = (signal == Some(9) && limits.ran_out_of_memory())
                        .then(|| "was killed: it used more memory than its limit".to_owned());
                    let status = ExitStatus {
                        code,
                        signal,
                        error,
                        is_lost: false,
                        at_ms: wall_ms(),
                    };
                    // The cgroup can only be removed once it is empty.
                    let before = std::mem::replace(&mut *state, State::Ending(status.clone()));
                    drop(state);
                    self.kill_descendants();
                    drop(before);
                    return status;
                }
            }
        }
    }

    /// Kills and reaps until nothing is left; what the dead leave behind becomes our child in turn.
    fn kill_descendants(&self) {
        let me = std::process::id();
        for _ in 0..KILL_ROUNDS {
            for (pid, stat) in processes() {
                if stat.parent == me
                    && let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw)
                {
                    let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
                }
            }
            loop {
                match rustix::process::wait(WaitOptions::NOHANG) {
                    Ok(Some(_)) => {}
                    Ok(None) => break,
                    Err(_) => return, // there is no child any more
                }
            }
            thread::sleep(KILL_PAUSE);
        }
    }

    /// Writes down how the job ended, then says it to everyone who waits.
    fn settle(&self, status: ExitStatus) {
        *self.stdin.lock().expect("no panic while the lock is held") = None;
        self.output.wait_until_read();
        let here = Path::new(".");
        while let Err(e) = write(here, EXIT, &status) {
            if fs::symlink_metadata(SPEC).is_err() {
                break; // the directory was deleted: nobody will ask
            }
            let _ = writeln!(io::stderr(), "could not write the exit status: {e}");
            self.publish(&status);
            thread::sleep(Duration::from_secs(1));
        }
        self.publish(&status);
    }

    fn publish(&self, status: &ExitStatus) {
        *self.state() = State::Exited(status.clone());
        self.changed.notify_all();
        self.output
            .finish(u32::try_from(status.code).unwrap_or(255));
    }

    /// Lets answers that are under way arrive.
    fn hang_up(&self) {
        for _ in 0..HANG_UP_ROUNDS {
            if self.connections.load(Ordering::Acquire) == 0 {
                return;
            }
            thread::sleep(Duration::from_millis(20));
        }
    }
}

fn never_started() -> ExitStatus {
    ExitStatus {
        code: 128 + KILL,
        signal: Some(KILL),
        error: Some("was killed before it was started".to_owned()),
        is_lost: false,
        at_ms: wall_ms(),
    }
}

/// The system's error without its number, and with the directory if that is what is missing.
fn sentence(error: &io::Error, root: &Path) -> String {
    if error.kind() == io::ErrorKind::NotFound && !root.is_dir() {
        return format!("its directory {} is missing", root.display());
    }
    let text = error.to_string();
    text.split(" (os error")
        .next()
        .unwrap_or(&text)
        .to_lowercase()
}

/// A thread with a small stack: jobs are many.
fn spawn<T: Send + 'static>(
    body: impl FnOnce() -> T + Send + 'static,
) -> io::Result<thread::JoinHandle<T>> {
    thread::Builder::new().stack_size(STACK).spawn(body)
}

const WATCHED: [nix::sys::signal::Signal; 5] = [
    nix::sys::signal::SIGCHLD,
    nix::sys::signal::SIGTERM,
    nix::sys::signal::SIGINT,
    nix::sys::signal::SIGQUIT,
    nix::sys::signal::SIGHUP,
];
const KILL: i32 = 9;
const STACK: usize = 256 * 1024;
const MAX_CONNECTIONS: usize = 64;
/// Together ten seconds: a process that survives SIGKILL for longer is stuck in the kernel.
const KILL_ROUNDS: usize = 5000;
const KILL_PAUSE: Duration = Duration::from_millis(2);
/// Together five seconds.
const HANG_UP_ROUNDS: usize = 250;
