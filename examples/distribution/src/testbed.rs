//! Several hosts on one machine: each a daemon of its own with its own directory and loopback address. The demo shows itself on
//! one, and the system tests break one.

pub mod load;
mod processes;

use std::{
    fs,
    net::{IpAddr, Ipv4Addr},
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::{Child, Stdio},
    time::Duration,
};

use anyhow::{Context as _, Result, bail, ensure};
use flynn_discovery::http::Secret;
use flynn_sched::HostId;
use tokio::{
    process::Command,
    time::{Instant, sleep},
};

pub use self::processes::{kill_all, processes_of, rss_by_program};
use crate::settings::{self, Settings};

/// Hosts on one machine.
#[derive(Debug)]
pub struct Testbed {
    dir: PathBuf,
    bin_dir: PathBuf,
    token: Secret,
    hosts: Vec<TestHost>,
    http_port: u16,
    ssh_port: u16,
    domain: String,
}

/// One of them.
#[derive(Debug)]
pub struct TestHost {
    /// Its id.
    pub id: HostId,
    /// Its address.
    pub addr: IpAddr,
    /// Its data directory.
    pub data_dir: PathBuf,
    daemon: Option<Child>,
}

/// What a testbed is made of.
#[derive(Debug, Clone)]
pub struct TestbedOptions {
    /// Where everything is kept.
    pub dir: PathBuf,
    /// Where the binaries are.
    pub bin_dir: PathBuf,
    /// The network of the hosts: host n gets `127.x.y.n` of it.
    pub network: [u8; 3],
    /// How many hosts; all are voters.
    pub hosts: u8,
    /// The router's HTTP port on each host.
    pub http_port: u16,
    /// The receiver's SSH port on each host.
    pub ssh_port: u16,
    /// The domain apps get their names in.
    pub domain: String,
}

impl Testbed {
    /// Writes the hosts' settings, or opens a testbed made earlier in the same directory. Starts nothing.
    ///
    /// # Errors
    ///
    /// When the directory cannot be written or holds something else.
    pub fn open(options: TestbedOptions) -> Result<Self> {
        ensure!(options.hosts >= 1, "a testbed needs at least one host");
        let voters: std::collections::BTreeMap<HostId, IpAddr> = (1..=options.hosts)
            .map(|n| {
                let [a, b, c] = options.network;
                Ok((
                    HostId::parse(format!("host{n}"))?,
                    Ipv4Addr::new(a, b, c, n).into(),
                ))
            })
            .collect::<Result<_>>()?;
        let first = options.dir.join("host1");
        let token = if settings::token_path(&first).exists() {
            settings::read_token(&settings::token_path(&first))?
        } else {
            settings::new_token()
        };
        let mut hosts = Vec::new();
        for (id, addr) in &voters {
            let data_dir = options.dir.join(id.as_str());
            if !settings::settings_path(&data_dir).exists() {
                let settings = Settings {
                    id: id.clone(),
                    addr: *addr,
                    cell: "default".to_owned(),
                    voters: voters.clone(),
                    tags: std::collections::BTreeMap::from([("host".to_owned(), id.to_string())]),
                    zone: None,
                    discovery_port: settings::DISCOVERY_PORT,
                    raft_port: settings::RAFT_PORT,
                    host_port: settings::HOST_PORT,
                };
                settings.create(&data_dir, &token)?;
            }
            hosts.push(TestHost {
                id: id.clone(),
                addr: *addr,
                data_dir,
                daemon: None,
            });
        }
        Ok(Self {
            dir: options.dir,
            bin_dir: options.bin_dir,
            token,
            hosts,
            http_port: options.http_port,
            ssh_port: options.ssh_port,
            domain: options.domain,
        })
    }

    /// The hosts.
    #[must_use]
    pub fn hosts(&self) -> &[TestHost] {
        &self.hosts
    }

    /// The directory of everything.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The cluster's token.
    #[must_use]
    pub fn token(&self) -> &Secret {
        &self.token
    }

    /// The domain apps get their names in.
    #[must_use]
    pub fn domain(&self) -> &str {
        &self.domain
    }

    /// The routers' addresses.
    #[must_use]
    pub fn router_addrs(&self) -> Vec<String> {
        self.hosts
            .iter()
            .map(|host| settings::at(host.addr, self.http_port))
            .collect()
    }

    /// The receiver's port.
    #[must_use]
    pub fn ssh_port(&self) -> u16 {
        self.ssh_port
    }

    /// The path of one of our binaries.
    #[must_use]
    pub fn bin(&self, name: &str) -> PathBuf {
        self.bin_dir.join(name)
    }

    /// The users' CLI with its configuration inside the testbed.
    #[must_use]
    pub fn flynn(&self) -> Command {
        let mut command = Command::new(self.bin("flynn"));
        command
            .env("FLYNNRC", self.flynnrc())
            .env_remove("FLYNN_APP")
            .env_remove("FLYNN_CLUSTER")
            .stdin(Stdio::null())
            .kill_on_drop(true);
        command
    }

    /// Where the users' CLI keeps its configuration.
    #[must_use]
    pub fn flynnrc(&self) -> PathBuf {
        self.dir.join("flynnrc")
    }

    /// Starts the daemon of host `n` (from 0). Its output goes to `daemon.log` in its directory.
    ///
    /// # Errors
    ///
    /// When it runs already or cannot be started.
    pub fn start_host(&mut self, n: usize) -> Result<()> {
        let program = self.bin("flynn-host");
        let host = self.hosts.get_mut(n).context("no such host")?;
        ensure!(host.daemon.is_none(), "{} runs already", host.id);
        let log = fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(host.log_path())?;
        let mut command = std::process::Command::new(&program);
        command
            .arg("daemon")
            .arg("--data-dir")
            .arg(&host.data_dir)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .process_group(0);
        let child = command
            .spawn()
            .with_context(|| format!("{} cannot be started", program.display()))?;
        host.daemon = Some(child);
        Ok(())
    }

    /// Starts all that do not run.
    ///
    /// # Errors
    ///
    /// As [`start_host`](Self::start_host).
    pub fn start_all(&mut self) -> Result<()> {
        for n in 0..self.hosts.len() {
            if self.hosts[n].daemon.is_none() {
                self.start_host(n)?;
            }
        }
        Ok(())
    }

    /// Takes the power from hosts: every process that belongs to them is killed at once, daemon and jobs alike.
    ///
    /// # Errors
    ///
    /// When `/proc` cannot be read or a process does not die.
    pub async fn cut_power(&mut self, hosts: &[usize]) -> Result<()> {
        let dirs: Vec<PathBuf> = hosts
            .iter()
            .map(|n| self.hosts[*n].data_dir.clone())
            .collect();
        kill_all(&dirs).await?;
        for n in hosts {
            if let Some(mut child) = self.hosts[*n].daemon.take() {
                child.wait()?;
            }
        }
        Ok(())
    }

    /// Kills only the daemon of host `n`; its jobs go on.
    ///
    /// # Errors
    ///
    /// When it does not run.
    pub fn kill_daemon(&mut self, n: usize) -> Result<()> {
        let host = &mut self.hosts[n];
        let Some(mut child) = host.daemon.take() else {
            bail!("{} does not run", host.id)
        };
        child.kill()?;
        child.wait()?;
        Ok(())
    }

    /// The exit status of host `n`'s daemon, if it has ended.
    ///
    /// # Errors
    ///
    /// When the system cannot tell.
    pub fn daemon_exit(&mut self, n: usize) -> Result<Option<std::process::ExitStatus>> {
        match &mut self.hosts[n].daemon {
            Some(child) => Ok(child.try_wait()?),
            None => Ok(None),
        }
    }

    /// Forgets the daemon of host `n`, which has ended by itself, so that it can be started again.
    pub fn forget_daemon(&mut self, n: usize) {
        if let Some(mut child) = self.hosts[n].daemon.take() {
            // It has ended: this only reaps it.
            let _ = child.wait();
        }
    }

    /// Lets go of the daemons without stopping them.
    #[must_use]
    pub fn leave_running(mut self) -> PathBuf {
        for host in &mut self.hosts {
            host.daemon = None;
        }
        std::mem::take(&mut self.dir)
    }

    /// Kills everything that belongs to the testbed.
    ///
    /// # Errors
    ///
    /// As [`cut_power`](Self::cut_power).
    pub async fn stop_all(&mut self) -> Result<()> {
        let all: Vec<usize> = (0..self.hosts.len()).collect();
        self.cut_power(&all).await
    }
}

impl TestHost {
    /// Where its daemon's output goes.
    #[must_use]
    pub fn log_path(&self) -> PathBuf {
        self.data_dir.join("daemon.log")
    }
}

impl Drop for Testbed {
    /// A test that fails must not leave daemons behind.
    fn drop(&mut self) {
        if self.hosts.iter().any(|host| host.daemon.is_some()) {
            let dirs: Vec<PathBuf> = self
                .hosts
                .iter()
                .map(|host| host.data_dir.clone())
                .collect();
            processes::kill_all_now(&dirs);
        }
    }
}

/// Asks again and again until `probe` gives a value, at most for `limit`.
///
/// # Errors
///
/// When the time is over; the message says what was awaited and what the last attempt said.
pub async fn eventually<T, F, Fut>(what: &str, limit: Duration, mut probe: F) -> Result<T>
where
    F: FnMut() -> Fut,
    Fut: Future<Output = Result<T>>,
{
    let deadline = Instant::now() + limit;
    loop {
        match probe().await {
            Ok(value) => return Ok(value),
            Err(error) if Instant::now() >= deadline => {
                return Err(error.context(format!("waited {limit:?} for {what}")));
            }
            Err(_) => sleep(Duration::from_millis(20)).await,
        }
    }
}
