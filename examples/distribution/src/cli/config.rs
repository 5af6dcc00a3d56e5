//! The users' configuration: which clusters there are, and the key to each. `~/.flynnrc`, or the file that `FLYNNRC` names.

use std::{
    env, fs,
    io::Write as _,
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail, ensure};
use serde::{Deserialize, Serialize};

/// The file.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Config {
    /// The cluster that is used when none is named.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub default: Option<String>,
    /// The clusters, in the order they were added.
    #[serde(default, rename = "cluster", skip_serializing_if = "Vec::is_empty")]
    pub clusters: Vec<Cluster>,
}

/// One cluster.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Cluster {
    /// What the user calls it.
    #[serde(alias = "name")]
    pub name: String,
    /// The controller's key.
    #[serde(alias = "key")]
    pub key: String,
    /// Where the controller is: `http://controller.<domain>:<port>`.
    #[serde(rename = "ControllerURL", alias = "controller_url")]
    pub controller_url: String,
    /// Where apps are pushed to: `ssh://git@<host>:<port>`.
    #[serde(
        rename = "GitURL",
        alias = "git_url",
        default,
        skip_serializing_if = "String::is_empty"
    )]
    pub git_url: String,
    /// Addresses (`host:port`) of the cluster's routers, tried in turn, where the controller's name has no address of its own.
    #[serde(default, alias = "addresses", skip_serializing_if = "Vec::is_empty")]
    pub addresses: Vec<String>,
}

impl std::fmt::Debug for Cluster {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Cluster")
            .field("name", &self.name)
            .field("controller_url", &self.controller_url)
            .finish_non_exhaustive()
    }
}

impl Cluster {
    /// The domain the cluster's apps get their names in, and the routers' port, from the controller's URL.
    #[must_use]
    pub fn domain(&self) -> (&str, Option<&str>) {
        let authority = self
            .controller_url
            .split("://")
            .nth(1)
            .unwrap_or(&self.controller_url)
            .trim_end_matches('/');
        let (host, port) = match authority.rsplit_once(':') {
            Some((host, port)) if port.bytes().all(|b| b.is_ascii_digit()) => (host, Some(port)),
            Some(_) | None => (authority, None),
        };
        (host.strip_prefix("controller.").unwrap_or(host), port)
    }

    /// The git remote of an app.
    #[must_use]
    pub fn git_remote(&self, app: &str) -> String {
        format!("{}/{app}.git", self.git_url.trim_end_matches('/'))
    }
}

impl Config {
    /// Where the file is.
    ///
    /// # Errors
    ///
    /// When neither `FLYNNRC` nor `HOME` is set.
    pub fn path() -> Result<PathBuf> {
        if let Some(path) = env::var_os("FLYNNRC") {
            return Ok(path.into());
        }
        let home = env::var_os("HOME")
            .context("HOME is not set: name the configuration file in FLYNNRC")?;
        Ok(Path::new(&home).join(".flynnrc"))
    }

    /// Reads the file; one that does not exist is empty.
    ///
    /// # Errors
    ///
    /// When it cannot be read or parsed.
    pub fn load(path: &Path) -> Result<Self> {
        match fs::read_to_string(path) {
            Ok(text) => toml::from_str(&text)
                .with_context(|| format!("{} is not a valid configuration", path.display())),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Self::default()),
            Err(error) => Err(error).with_context(|| format!("{} cannot be read", path.display())),
        }
    }

    /// Writes the file, readable by its owner only, as a whole or not at all.
    ///
    /// # Errors
    ///
    /// When it cannot be written.
    pub fn save(&self, path: &Path) -> Result<()> {
        let write = || -> Result<()> {
            let temporary = path.with_extension("new");
            // A leftover of an interrupted write may have other permissions.
            let _ = fs::remove_file(&temporary);
            let mut file = fs::OpenOptions::new()
                .write(true)
                .create_new(true)
                .mode(0o600)
                .open(&temporary)?;
            file.write_all(toml::to_string(self)?.as_bytes())?;
            file.sync_all()?;
            fs::rename(&temporary, path)?;
            Ok(())
        };
        write().with_context(|| format!("{} cannot be written", path.display()))
    }

    /// Adds a cluster.
    ///
    /// # Errors
    ///
    /// When there is one with its name and `force` is not set.
    pub fn add(&mut self, cluster: Cluster, force: bool, make_default: bool) -> Result<()> {
        let name = cluster.name.clone();
        match self.clusters.iter_mut().find(|known| known.name == name) {
            Some(known) if force => *known = cluster,
            Some(_) => bail!(
                "there is a cluster {name} already: choose another name, or replace it with --force"
            ),
            None => self.clusters.push(cluster),
        }
        if make_default || self.default.is_none() {
            self.default = Some(name);
        }
        Ok(())
    }

    /// Removes a cluster; the next one becomes the default if it was.
    ///
    /// # Errors
    ///
    /// When there is none of that name.
    pub fn remove(&mut self, name: &str) -> Result<()> {
        let before = self.clusters.len();
        self.clusters.retain(|cluster| cluster.name != name);
        ensure!(
            self.clusters.len() < before,
            "there is no cluster {name}; `flynn cluster` lists them"
        );
        if self.default.as_deref() == Some(name) {
            self.default = self.clusters.first().map(|cluster| cluster.name.clone());
        }
        Ok(())
    }

    /// Makes a cluster the default.
    ///
    /// # Errors
    ///
    /// When there is none of that name.
    pub fn set_default(&mut self, name: &str) -> Result<()> {
        ensure!(
            self.clusters.iter().any(|cluster| cluster.name == name),
            "there is no cluster {name}; `flynn cluster` lists them"
        );
        self.default = Some(name.to_owned());
        Ok(())
    }

    /// The cluster of that name, else the default, else the first.
    ///
    /// # Errors
    ///
    /// When there is none.
    pub fn cluster(&self, name: Option<&str>) -> Result<&Cluster> {
        if let Some(name) = name {
            let found = self.clusters.iter().find(|cluster| cluster.name == name);
            return found.with_context(|| {
                format!("there is no cluster {name}; `flynn cluster` lists them")
            });
        }
        self.clusters
            .iter()
            .find(|cluster| Some(&cluster.name) == self.default.as_ref())
            .or_else(|| self.clusters.first())
            .context("no clusters configured; add one with `flynn cluster add NAME DOMAIN KEY`, as `flynn-host bootstrap` told")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cluster(name: &str) -> Cluster {
        Cluster {
            name: name.to_owned(),
            key: "s3cret".to_owned(),
            controller_url: "http://controller.example.com:8080".to_owned(),
            git_url: "ssh://git@example.com:2222".to_owned(),
            addresses: Vec::new(),
        }
    }

    #[test]
    fn the_file_survives_a_round_trip_and_is_private() {
        use std::os::unix::fs::PermissionsExt as _;
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("rc");
        let mut config = Config::default();
        config.add(cluster("a"), false, false).unwrap();
        config.add(cluster("b"), false, true).unwrap();
        config.save(&path).unwrap();
        assert_eq!(Config::load(&path).unwrap(), config);
        assert_eq!(
            fs::metadata(&path).unwrap().permissions().mode() & 0o777,
            0o600
        );
        assert_eq!(config.cluster(None).unwrap().name, "b");
    }

    #[test]
    fn removing_the_default_promotes_the_next() {
        let mut config = Config::default();
        config.add(cluster("a"), false, false).unwrap();
        config.add(cluster("b"), false, false).unwrap();
        config.remove("a").unwrap();
        assert_eq!(config.default.as_deref(), Some("b"));
        assert!(config.remove("a").is_err());
    }

    #[test]
    fn a_file_of_the_original_is_understood() {
        let text = "default = \"prod\"\n[[cluster]]\n  Name = \"prod\"\n  Key = \"k\"\n  TLSPin = \"x=\"\n  ControllerURL = \"https://controller.example.com\"\n  GitURL = \"https://git.example.com\"\n";
        let config: Config = toml::from_str(text).unwrap();
        assert_eq!(
            config.cluster(None).unwrap().domain(),
            ("example.com", None)
        );
        assert_eq!(cluster("a").domain(), ("example.com", Some("8080")));
    }

    #[test]
    fn the_key_is_not_in_debug_output() {
        assert!(!format!("{:?}", cluster("a")).contains("s3cret"));
    }
}
