//! A program under test: started, waited for, weighed, ended.

use std::{
    collections::{HashMap, HashSet},
    fs,
    net::{SocketAddr, TcpListener, TcpStream},
    os::unix::process::CommandExt as _,
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicU32, Ordering},
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use rustix::process::{Pid, Signal, kill_process_group};

/// A running program and all its children. Dropping it ends them.
#[derive(Debug)]
pub struct Program {
    child: Child,
}

impl Program {
    /// How long a program may take until it answers on its port.
    pub const START_LIMIT: Duration = Duration::from_secs(20);

    /// Starts `command` in a process group of its own and waits until `addr` accepts connections.
    pub fn start(command: &mut Command, addr: SocketAddr) -> Result<Self> {
        let name = command.get_program().to_string_lossy().into_owned();
        command.process_group(0).stdin(Stdio::null());
        let child = command
            .spawn()
            .with_context(|| format!("could not start {name}: is it installed?"))?;
        let mut program = Self { child };
        let pause = Duration::from_millis(20);
        for _ in 0..Self::START_LIMIT.as_millis() / pause.as_millis() {
            if TcpStream::connect_timeout(&addr, pause).is_ok() {
                return Ok(program);
            }
            if let Some(status) = program.child.try_wait()? {
                bail!("{name} ended with {status} before it listened on {addr}");
            }
            thread::sleep(pause);
        }
        bail!(
            "{name} did not listen on {addr} within {:?}",
            Self::START_LIMIT
        )
    }

    /// The process id.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// The CPU time that the program and its children have used so far, user and system.
    pub fn cpu_seconds(&self) -> Result<f64> {
        cpu_seconds(self.id())
    }

    /// The memory that the program and its children have in RAM, in MiB.
    pub fn resident_mib(&self) -> Result<f64> {
        let mut kib = 0.0;
        for pid in family(self.id())? {
            let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
            let line = status.lines().find_map(|l| l.strip_prefix("VmRSS:"));
            let value = line.and_then(|l| l.trim().strip_suffix("kB"));
            kib += value
                .and_then(|v| v.trim().parse::<f64>().ok())
                .unwrap_or(0.0);
        }
        Ok(kib / 1024.0)
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let group = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw);
        let signal = |signal| group.map(|group| kill_process_group(group, signal));
        signal(Signal::TERM);
        for _ in 0..100 {
            match self.child.try_wait() {
                Ok(None) => thread::sleep(Duration::from_millis(20)),
                Ok(Some(_)) | Err(_) => break,
            }
        }
        signal(Signal::KILL);
        // It is dead: this cannot take long, and there is nobody to tell of a failure.
        let _ = self.child.wait();
    }
}

/// The CPU time that process `pid` and its living descendants have used so far, user and system.
pub fn cpu_seconds(pid: u32) -> Result<f64> {
    // The kernel shows times in USER_HZ, which is 100 on every Linux that Rust supports.
    const TICKS_PER_SECOND: f64 = 100.0;
    let mut ticks = 0.0;
    for pid in family(pid)? {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        // Fields after the name in parentheses, which may hold spaces: state is the third of the line.
        let fields: Vec<&str> = match stat.rsplit_once(')') {
            Some((_, rest)) => rest.split_whitespace().collect(),
            None => continue,
        };
        // utime and stime, fields 14 and 15 of the line.
        for field in fields.get(11..13).unwrap_or_default() {
            ticks += field.parse::<f64>()?;
        }
    }
    Ok(ticks / TICKS_PER_SECOND)
}

/// `pid` and all its living descendants.
fn family(pid: u32) -> Result<HashSet<u32>> {
    let mut parents = HashMap::new();
    for entry in fs::read_dir("/proc")? {
        let name = entry?.file_name();
        let Some(id) = name.to_str().and_then(|n| n.parse::<u32>().ok()) else {
            continue;
        };
        let stat = fs::read_to_string(format!("/proc/{id}/stat")).unwrap_or_default();
        let parent = stat
            .rsplit_once(')')
            .and_then(|(_, rest)| rest.split_whitespace().nth(1)?.parse::<u32>().ok());
        parents.extend(parent.map(|parent| (id, parent)));
    }
    let mut members = HashSet::from([pid]);
    loop {
        let before = members.len();
        let children = parents.iter().filter(|(_, p)| members.contains(p));
        members.extend(children.map(|(id, _)| *id).collect::<Vec<_>>());
        if members.len() == before {
            return Ok(members);
        }
    }
}

/// A free port of the loopback, of those that the system does not give to whoever asks for any: between now and its use
/// only somebody who wants this very one could take it.
pub fn free_port() -> Result<u16> {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    for _ in 0..PORTS {
        let next = std::process::id() * 61 + NEXT.fetch_add(1, Ordering::Relaxed);
        let port = u16::try_from(10_000 + next % PORTS)?;
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return Ok(port);
        }
    }
    bail!("none of the ports from 10000 on is free")
}

const PORTS: u32 = 10_000;

/// Name and version of an installed program: the first word with a digit and a dot in what `program flag` prints.
pub fn version(program: &str, flag: &str) -> Result<String> {
    let output = Command::new(program)
        .arg(flag)
        .output()
        .with_context(|| format!("could not run {program}: is it installed?"))?;
    let text = [output.stdout, output.stderr].concat();
    let text = String::from_utf8_lossy(&text);
    let is_version =
        |word: &&str| word.contains('.') && word.contains(|c: char| c.is_ascii_digit());
    let word = text.split_whitespace().find(is_version).unwrap_or("?");
    let word = word.rsplit_once('/').map_or(word, |(_, version)| version);
    let word = word.split_once('-').map_or(word, |(version, _)| version);
    Ok(format!("{program} {word}"))
}
