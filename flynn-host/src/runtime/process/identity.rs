//! Which process is meant, safe against the reuse of process ids.

use std::{fs, io};

use serde::{Deserialize, Serialize};

/// A process: its id, and when and in which boot it began, since ids are used again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Identity {
    pub(super) pid: u32,
    /// In clock ticks since the boot.
    pub(super) start_ticks: u64,
    pub(super) boot: String,
}

/// The fields of `/proc/<pid>/stat` that matter here.
#[derive(Debug, Clone, Copy)]
pub(super) struct Stat {
    pub(super) state: u8,
    pub(super) parent: u32,
    pub(super) session: u32,
    pub(super) start_ticks: u64,
}

impl Identity {
    pub(super) fn of(pid: u32) -> io::Result<Self> {
        let stat = Stat::read(pid).ok_or(io::ErrorKind::NotFound)?;
        Ok(Self {
            pid,
            start_ticks: stat.start_ticks,
            boot: boot_id(),
        })
    }

    /// Is it still this process, and has it not ended?
    pub(super) fn is_alive(&self) -> bool {
        Stat::read(self.pid).is_some_and(|stat| {
            stat.start_ticks == self.start_ticks
                && !matches!(stat.state, b'Z' | b'X')
                && self.boot == boot_id()
        })
    }

    /// The processes of the session that this process led, whether it still lives or not.
    pub(super) fn session_members(&self) -> Vec<u32> {
        let is_another = Stat::read(self.pid).is_some_and(|s| s.start_ticks != self.start_ticks);
        if is_another || self.boot != boot_id() {
            // The kernel does not give an id away while a session bears it: the old session is gone.
            return Vec::new();
        }
        processes()
            .filter(|(pid, stat)| {
                stat.session == self.pid
                    && *pid != self.pid
                    && stat.start_ticks >= self.start_ticks
                    && !matches!(stat.state, b'Z' | b'X')
            })
            .map(|(pid, _)| pid)
            .collect()
    }
}

impl Stat {
    /// `None` when there is no such process.
    pub(super) fn read(pid: u32) -> Option<Self> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // The command's name may hold anything, also parentheses: the fields begin after the last one.
        let fields: Vec<&str> = stat[stat.rfind(')')? + 1..].split_whitespace().collect();
        Some(Self {
            state: *fields.first()?.as_bytes().first()?,
            parent: fields.get(1)?.parse().ok()?,
            session: fields.get(3)?.parse().ok()?,
            start_ticks: fields.get(19)?.parse().ok()?,
        })
    }
}

/// All processes of the system.
pub(super) fn processes() -> impl Iterator<Item = (u32, Stat)> {
    fs::read_dir("/proc")
        .into_iter()
        .flatten()
        .filter_map(|entry| {
            let pid = entry.ok()?.file_name().to_str()?.parse().ok()?;
            Some((pid, Stat::read(pid)?))
        })
}

fn boot_id() -> String {
    fs::read_to_string("/proc/sys/kernel/random/boot_id")
        .map(|id| id.trim().to_owned())
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn we_are_alive_and_not_someone_who_began_at_another_time() {
        let me = Identity::of(std::process::id()).unwrap();
        assert!(me.is_alive());
        let other = Identity {
            start_ticks: me.start_ticks + 1,
            ..me.clone()
        };
        assert!(!other.is_alive());
        let earlier_boot = Identity {
            boot: "another".to_owned(),
            ..me
        };
        assert!(!earlier_boot.is_alive());
    }
}
