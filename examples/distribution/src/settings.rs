//! What a host is told about itself and its cluster: `host.toml` in its data directory, written by `flynn-host init`.

use std::{
    collections::BTreeMap,
    fs,
    io::Write as _,
    net::IpAddr,
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail, ensure};
use flynn_discovery::http::Secret;
use flynn_sched::HostId;
use serde::{Deserialize, Serialize};

/// The port of the discovery API.
pub const DISCOVERY_PORT: u16 = 1111;
/// The port Raft members reach each other on.
pub const RAFT_PORT: u16 = 1112;
/// The port of the host API.
pub const HOST_PORT: u16 = 1113;

/// A host's settings.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// Its id in the cell.
    pub id: HostId,
    /// The address it listens on and is reached at.
    pub addr: IpAddr,
    /// The cell's name; hosts of different cells refuse each other.
    pub cell: String,
    /// The voters of the embedded store: host id and address. A host that is not among them uses their store.
    pub voters: BTreeMap<HostId, IpAddr>,
    /// Free-form labels that constraints refer to.
    #[serde(default)]
    pub tags: BTreeMap<String, String>,
    /// The failure domain it stands in.
    #[serde(default)]
    pub zone: Option<String>,
    /// The port of the discovery API, the same on all hosts.
    #[serde(default = "discovery_port")]
    pub discovery_port: u16,
    /// The port of the embedded store's members, the same on all hosts.
    #[serde(default = "raft_port")]
    pub raft_port: u16,
    /// The port of the host API.
    #[serde(default = "host_port")]
    pub host_port: u16,
}

fn discovery_port() -> u16 {
    DISCOVERY_PORT
}
fn raft_port() -> u16 {
    RAFT_PORT
}
fn host_port() -> u16 {
    HOST_PORT
}

impl Settings {
    /// Reads and checks `host.toml` in `data_dir`.
    ///
    /// # Errors
    ///
    /// When the file is missing, cannot be parsed or names a setting that cannot be.
    pub fn load(data_dir: &Path) -> Result<Self> {
        let path = settings_path(data_dir);
        let text = fs::read_to_string(&path).with_context(|| {
            format!(
                "{} cannot be read; make it with `flynn-host init --data-dir {}`",
                path.display(),
                data_dir.display()
            )
        })?;
        let settings: Self = toml::from_str(&text).with_context(|| {
            format!(
                "{} is not a valid settings file; write it anew with `flynn-host init`",
                path.display()
            )
        })?;
        settings.check()?;
        Ok(settings)
    }

    /// Writes `host.toml` and the token into `data_dir`, which is made if it is absent.
    ///
    /// # Errors
    ///
    /// When the directory holds another host already, or cannot be written.
    pub fn create(&self, data_dir: &Path, token: &Secret) -> Result<()> {
        self.check()?;
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(data_dir)
            .with_context(|| format!("{} cannot be made", data_dir.display()))?;
        let path = settings_path(data_dir);
        ensure!(
            !path.exists(),
            "{} exists already: this directory belongs to a host; choose another, or remove it to start afresh",
            path.display()
        );
        write_new(
            &token_path(data_dir),
            format!("{}\n", token.expose()).as_bytes(),
            0o600,
        )?;
        write_new(&path, toml::to_string(self)?.as_bytes(), 0o644)
    }

    /// The URLs of the voters' discovery APIs, this host's own first if it is one.
    #[must_use]
    pub fn discovery_urls(&self) -> Vec<String> {
        let own = self.voters.get(&self.id);
        let others = self
            .voters
            .iter()
            .filter(|(id, _)| **id != self.id)
            .map(|(_, addr)| addr);
        own.into_iter()
            .chain(others)
            .map(|addr| format!("http://{}", at(*addr, self.discovery_port)))
            .collect()
    }

    /// Is this host a member of the embedded store from the start?
    #[must_use]
    pub fn is_voter(&self) -> bool {
        self.voters.contains_key(&self.id)
    }

    fn check(&self) -> Result<()> {
        ensure!(
            !self.voters.is_empty(),
            "the voters' list is empty: name at least one host, as in --voters host1=127.0.0.1"
        );
        ensure!(
            self.voters.len() <= 5,
            "{} voters are too many: name at most five; further hosts use their store",
            self.voters.len()
        );
        if let Some(addr) = self.voters.get(&self.id) {
            ensure!(
                *addr == self.addr,
                "host {} is listed among the voters with {addr}, but its own address is {}: make them the same",
                self.id,
                self.addr
            );
        }
        // Until hosts speak TLS to each other, what they say must not leave the machine.
        for addr in self.voters.values().chain([&self.addr]) {
            ensure!(
                addr.is_loopback(),
                "{addr} is not a loopback address, and hosts do not encrypt what they say to each other yet: \
                 use addresses in 127.0.0.0/8, or join the machines by an encrypted network and forward its ports to loopback"
            );
        }
        Ok(())
    }
}

/// `addr:port`, with brackets where IPv6 needs them.
#[must_use]
pub fn at(addr: IpAddr, port: u16) -> String {
    std::net::SocketAddr::new(addr, port).to_string()
}

/// Parses `host1=127.0.0.1,host2=127.0.0.2`.
///
/// # Errors
///
/// When an entry has no `=`, a bad id, a bad address, or an id twice.
pub fn parse_voters(text: &str) -> Result<BTreeMap<HostId, IpAddr>> {
    let mut voters = BTreeMap::new();
    for entry in text
        .split(',')
        .map(str::trim)
        .filter(|entry| !entry.is_empty())
    {
        let Some((id, addr)) = entry.split_once('=') else {
            bail!("{entry:?} is not ID=ADDRESS, as in host1=127.0.0.1");
        };
        let id = HostId::parse(id)?;
        let addr = addr
            .parse()
            .with_context(|| format!("{addr:?} is not an IP address"))?;
        ensure!(
            voters.insert(id.clone(), addr).is_none(),
            "host {id} is listed twice among the voters"
        );
    }
    Ok(voters)
}

/// Reads the cluster's token.
///
/// # Errors
///
/// When the file is missing or empty.
pub fn read_token(path: &Path) -> Result<Secret> {
    let text = fs::read_to_string(path)
        .with_context(|| format!("the cluster's token cannot be read from {}", path.display()))?;
    let token = text.trim();
    ensure!(
        !token.is_empty(),
        "{} is empty: copy the token from another host of the cluster",
        path.display()
    );
    Ok(Secret::new(token.to_owned()))
}

/// A new token: 256 random bits in hex.
#[must_use]
pub fn new_token() -> Secret {
    Secret::new(hex::encode(rand::random::<[u8; 32]>()))
}

/// Where the settings are.
#[must_use]
pub fn settings_path(data_dir: &Path) -> PathBuf {
    data_dir.join("host.toml")
}

/// Where the token is.
#[must_use]
pub fn token_path(data_dir: &Path) -> PathBuf {
    data_dir.join("token")
}

fn write_new(path: &Path, content: &[u8], mode: u32) -> Result<()> {
    let write = || -> std::io::Result<()> {
        let mut file = fs::OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(mode)
            .open(path)?;
        file.write_all(content)?;
        file.sync_all()
    };
    write().with_context(|| format!("{} cannot be written", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings() -> Settings {
        Settings {
            id: HostId::parse("host1").unwrap(),
            addr: "127.0.0.1".parse().unwrap(),
            cell: "demo".to_owned(),
            voters: parse_voters("host1=127.0.0.1,host2=127.0.0.2").unwrap(),
            tags: BTreeMap::new(),
            zone: None,
            discovery_port: DISCOVERY_PORT,
            raft_port: RAFT_PORT,
            host_port: HOST_PORT,
        }
    }

    #[test]
    fn settings_survive_the_way_to_disk_and_the_token_is_private() {
        use std::os::unix::fs::PermissionsExt as _;
        let dir = tempfile::tempdir().unwrap();
        let data = dir.path().join("data");
        settings()
            .create(&data, &Secret::new("s3cret".to_owned()))
            .unwrap();
        assert_eq!(Settings::load(&data).unwrap(), settings());
        assert_eq!(read_token(&token_path(&data)).unwrap().expose(), "s3cret");
        let mode = fs::metadata(token_path(&data))
            .unwrap()
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    #[test]
    fn a_directory_that_belongs_to_a_host_is_not_taken_over() {
        let dir = tempfile::tempdir().unwrap();
        settings().create(dir.path(), &new_token()).unwrap();
        let error = settings().create(dir.path(), &new_token()).unwrap_err();
        assert!(error.to_string().contains("belongs to a host"), "{error}");
    }

    #[test]
    fn an_address_that_would_leave_the_machine_is_refused() {
        let mut settings = settings();
        settings.addr = "10.0.0.1".parse().unwrap();
        settings.voters.clear();
        settings.voters.insert(settings.id.clone(), settings.addr);
        let error = settings.check().unwrap_err();
        assert!(
            error.to_string().contains("not a loopback address"),
            "{error}"
        );
    }

    #[test]
    fn a_voter_with_two_addresses_is_refused() {
        let mut settings = settings();
        settings.addr = "127.0.0.9".parse().unwrap();
        assert!(
            settings
                .check()
                .unwrap_err()
                .to_string()
                .contains("make them the same")
        );
        assert!(
            parse_voters("host1=127.0.0.1,host1=127.0.0.2")
                .unwrap_err()
                .to_string()
                .contains("twice")
        );
        assert!(
            parse_voters("host1")
                .unwrap_err()
                .to_string()
                .contains("ID=ADDRESS")
        );
    }
}
