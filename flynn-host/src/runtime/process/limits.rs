//! What a job may use: resource limits, and a memory cgroup where the daemon may make one.

use std::{
    fs::{self, File, OpenOptions},
    io,
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use nix::sys::signal::SigSet;
use rustix::process::{Pid, Resource, Rlimit, Signal, getrlimit, kill_process, setrlimit};

use crate::runtime::Limits;

/// Limits that a command was given. Keep it until the job has ended: then the cgroup is removed.
#[derive(Debug)]
pub(super) struct Applied {
    cgroup: Option<PathBuf>,
}

impl Applied {
    /// Has a memory cgroup of this job killed something?
    pub(super) fn ran_out_of_memory(&self) -> bool {
        let Some(cgroup) = &self.cgroup else {
            return false;
        };
        ["memory.oom_control", "memory.events"].iter().any(|name| {
            fs::read_to_string(cgroup.join(name))
                .unwrap_or_default()
                .lines()
                .any(|line| {
                    line.strip_prefix("oom_kill ")
                        .is_some_and(|n| n.trim() != "0")
                })
        })
    }
}

impl Applied {
    /// The cgroup, for whoever has to clear up after us.
    pub(super) fn cgroup(&self) -> Option<&Path> {
        self.cgroup.as_deref()
    }
}

impl Drop for Applied {
    fn drop(&mut self) {
        if let Some(cgroup) = &self.cgroup {
            let _ = fs::remove_dir(cgroup);
        }
    }
}

/// Kills what is in a cgroup, and removes it.
pub(super) fn clear(cgroup: &Path) {
    for _ in 0..CLEAR_ROUNDS {
        let members = fs::read_to_string(cgroup.join("cgroup.procs")).unwrap_or_default();
        for pid in members.lines().filter_map(|line| line.parse().ok()) {
            if let Some(pid) = Pid::from_raw(pid) {
                let _ = kill_process(pid, Signal::KILL);
            }
        }
        match fs::remove_dir(cgroup) {
            Err(e) if e.kind() == io::ErrorKind::ResourceBusy => {
                std::thread::sleep(Duration::from_millis(5));
            }
            _ => return,
        }
    }
}

/// Together five seconds.
const CLEAR_ROUNDS: usize = 1000;

/// Makes `command` run within `limits`. `name` is the cgroup's, unique on this machine.
pub(super) fn apply(limits: &Limits, name: &str, command: &mut Command) -> Applied {
    let cgroup = limits
        .memory_bytes
        .and_then(|bytes| make_cgroup(name, bytes));
    let members: Option<File> = cgroup
        .as_ref()
        .and_then(|dir| writable(&dir.join("cgroup.procs")));
    let data = match (limits.memory_bytes, &members) {
        // Without a cgroup the limit holds for each process by itself, and counts what it may write to.
        (Some(bytes), None) => Some(lowered(Resource::Data, bytes)),
        _ => None,
    };
    let files = limits
        .max_files
        .map(|files| lowered(Resource::Nofile, files));
    let no_signals = SigSet::empty();
    let in_child = move || -> io::Result<()> {
        // The shim blocks signals to wait for them; what it starts must not inherit that.
        no_signals.thread_set_mask()?;
        if let Some(members) = &members {
            rustix::io::write(members, b"0")?;
        }
        if let Some(data) = data {
            setrlimit(Resource::Data, data)?;
        }
        if let Some(files) = files {
            setrlimit(Resource::Nofile, files)?;
        }
        Ok(())
    };
    #[expect(
        unsafe_code,
        reason = "limits must hold before the job's first instruction; the closure only makes plain system calls on \
                  values made before the fork"
    )]
    // SAFETY: `pthread_sigmask`, `write` and `setrlimit` are async-signal-safe, and nothing is allocated or locked.
    unsafe {
        command.pre_exec(in_child);
    }
    Applied { cgroup }
}

/// A limit no higher than what we may give.
fn lowered(resource: Resource, wanted: u64) -> Rlimit {
    let hard = getrlimit(resource).maximum;
    let value = Some(hard.map_or(wanted, |hard| wanted.min(hard)));
    Rlimit {
        current: value,
        maximum: value,
    }
}

/// A cgroup with a memory limit, in the hierarchy of either version. `None` where we may not make one.
fn make_cgroup(name: &str, bytes: u64) -> Option<PathBuf> {
    for (parent, file) in [
        ("/sys/fs/cgroup/memory/flynn", "memory.limit_in_bytes"),
        ("/sys/fs/cgroup/flynn", "memory.max"),
    ] {
        let parent = Path::new(parent);
        let is_mounted = parent
            .parent()
            .is_some_and(|root| root.join("cgroup.procs").exists());
        if !is_mounted {
            continue;
        }
        let _ = fs::create_dir(parent);
        // Version 2 hands a controller down only when told to; version 1 has no such file.
        let _ = fs::write(parent.join("cgroup.subtree_control"), "+memory");
        let dir = parent.join(name);
        if fs::create_dir(&dir).is_ok() {
            if fs::write(dir.join(file), bytes.to_string()).is_ok() {
                return Some(dir);
            }
            let _ = fs::remove_dir(dir);
        }
    }
    None
}

fn writable(path: &Path) -> Option<File> {
    OpenOptions::new().write(true).open(path).ok()
}
