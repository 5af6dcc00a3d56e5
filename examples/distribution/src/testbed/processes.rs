//! The processes of a host: those whose command line or environment names its data directory.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Result, bail};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use tokio::time::{Instant, sleep};

/// The processes that belong to a host with one of these data directories, ourselves left out.
#[must_use]
pub fn processes_of(data_dirs: &[PathBuf]) -> Vec<i32> {
    let needles: Vec<Vec<u8>> = data_dirs.iter().map(|dir| needle(dir)).collect();
    let own = i32::try_from(std::process::id()).unwrap_or(0);
    let Ok(entries) = fs::read_dir("/proc") else {
        return Vec::new();
    };
    entries
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok())
        .filter(|pid| *pid != own && belongs(*pid, &needles))
        .collect()
}

/// Kills all of a host's processes with SIGKILL and waits until none is left.
///
/// # Errors
///
/// When some are left after ten seconds.
pub async fn kill_all(data_dirs: &[PathBuf]) -> Result<()> {
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        if kill_all_now(data_dirs) == 0 {
            return Ok(());
        }
        if Instant::now() > deadline {
            bail!("processes {:?} do not die", processes_of(data_dirs));
        }
        sleep(Duration::from_millis(5)).await;
    }
}

/// One round of [`kill_all`]: how many were found.
pub(super) fn kill_all_now(data_dirs: &[PathBuf]) -> usize {
    let pids = processes_of(data_dirs);
    for pid in &pids {
        // It may have ended by itself meanwhile.
        let _ = kill(Pid::from_raw(*pid), Signal::SIGKILL);
    }
    pids.len()
}

/// The resident memory of a host's processes in bytes, summed by program name.
#[must_use]
pub fn rss_by_program(data_dirs: &[PathBuf]) -> BTreeMap<String, u64> {
    let mut sums = BTreeMap::new();
    for pid in processes_of(data_dirs) {
        let Ok(status) = fs::read_to_string(format!("/proc/{pid}/status")) else {
            continue;
        };
        let field = |name: &str| {
            status
                .lines()
                .find_map(|line| line.strip_prefix(name))
                .map(str::trim)
        };
        let Some(kib) =
            field("VmRSS:").and_then(|rss| rss.split_whitespace().next()?.parse::<u64>().ok())
        else {
            continue;
        };
        let program = program(pid)
            .or_else(|| field("Name:").map(str::to_owned))
            .unwrap_or_default();
        *sums.entry(program).or_insert(0) += kib * 1024;
    }
    sums
}

/// The file name of the first word of the command line; the kernel's own name is cut at 15 bytes.
fn program(pid: i32) -> Option<String> {
    let cmdline = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
    let mut words = cmdline.split(|b| *b == 0).map(String::from_utf8_lossy);
    let first = words.next()?;
    let name = Path::new(first.as_ref()).file_name()?.to_str()?.to_owned();
    // One binary may play several parts, told by its first argument.
    match words.next() {
        Some(part) if name == "flynn-host" && part != "daemon" => Some(format!("{name} {part}")),
        _ => Some(name),
    }
}

fn needle(dir: &Path) -> Vec<u8> {
    let mut text = dir.as_os_str().as_encoded_bytes().to_vec();
    while text.last() == Some(&b'/') {
        text.pop();
    }
    text
}

fn belongs(pid: i32, needles: &[Vec<u8>]) -> bool {
    ["cmdline", "environ"].iter().any(|file| {
        let Ok(content) = fs::read(format!("/proc/{pid}/{file}")) else {
            return false;
        };
        needles
            .iter()
            .any(|needle| names_directory(&content, needle))
    })
}

/// Does `content` name the directory `needle`, rather than one whose name only begins alike?
fn names_directory(content: &[u8], needle: &[u8]) -> bool {
    content
        .windows(needle.len())
        .enumerate()
        .any(|(at, window)| {
            window == needle
                && matches!(
                    content.get(at + needle.len()),
                    None | Some(b'/' | 0 | b':' | b'\n' | b' ')
                )
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_is_not_taken_for_one_that_begins_alike() {
        assert!(names_directory(b"HOME=/a/host1/jobs\0", b"/a/host1"));
        assert!(names_directory(b"x\0/a/host1", b"/a/host1"));
        assert!(!names_directory(b"HOME=/a/host10/jobs\0", b"/a/host1"));
    }
}
