//! Buildpacks: what turns a kind of source into something that runs.
//!
//! A buildpack is a directory with three programs, as Heroku's are:
//! `bin/detect <build>` succeeds for source it knows and prints its kind; `bin/compile <build> <cache> <env>` makes the
//! source runnable in place; `bin/release <build>` prints the process types it suggests.

use std::{
    collections::BTreeMap,
    ffi::OsStr,
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use tokio::process::Command;

use crate::{
    Error, Result,
    procfile::{ProcessTypes, parse_release},
};

/// One buildpack.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Buildpack {
    name: String,
    dir: PathBuf,
}

impl Buildpack {
    /// The buildpacks in `dir`, in the order in which they are asked: as the file `order` there says, the rest by name.
    ///
    /// # Errors
    ///
    /// [`Error::Storage`] when `dir` cannot be read; [`Error::Invalid`] when `order` names one that is not there.
    pub fn all(dir: &Path) -> Result<Vec<Self>> {
        let failed = || Error::storage(format!("read buildpacks in {}", dir.display()));
        let mut found = BTreeMap::new();
        for entry in fs::read_dir(dir).map_err(failed())? {
            let path = entry.map_err(failed())?.path();
            let Some(name) = path.file_name().and_then(OsStr::to_str) else {
                continue;
            };
            if path.join("bin/detect").is_file() {
                found.insert(name.to_owned(), path.clone());
            }
        }
        let mut packs = Vec::new();
        let order = fs::read_to_string(dir.join("order")).unwrap_or_default();
        for name in order.lines().map(str::trim) {
            if name.is_empty() || name.starts_with('#') {
                continue;
            }
            let dir = found.remove(name).ok_or_else(|| {
                Error::invalid(
                    format!("{}", dir.join("order").display()),
                    format!("it names the buildpack {name}, which is not there"),
                )
            })?;
            let name = name.to_owned();
            packs.push(Self { name, dir });
        }
        packs.extend(found.into_iter().map(|(name, dir)| Self { name, dir }));
        if packs.is_empty() {
            return Err(Error::invalid(
                format!("{}", dir.display()),
                "there is no buildpack in it: one is a directory with bin/detect, bin/compile and bin/release",
            ));
        }
        Ok(packs)
    }

    /// Writes the buildpacks of this crate (`python`, `node`, `static`, `procfile`) into `dir`.
    ///
    /// # Errors
    ///
    /// [`Error::Storage`].
    pub fn write_builtin(dir: &Path) -> Result<()> {
        let failed = || Error::storage(format!("write buildpacks to {}", dir.display()));
        for (name, text) in BUILTIN {
            let path = dir.join(name);
            if let Some(parent) = path.parent() {
                fs::create_dir_all(parent).map_err(failed())?;
            }
            fs::write(&path, text).map_err(failed())?;
            let mode = fs::Permissions::from_mode(0o755);
            fs::set_permissions(&path, mode).map_err(failed())?;
        }
        Ok(())
    }

    /// Its name: that of its directory.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Does it know the source in `build`? Then what it calls that kind of source.
    ///
    /// # Errors
    ///
    /// [`Error::Upstream`] when its program cannot be run.
    pub async fn detect(
        &self,
        build: &Path,
        env: &BTreeMap<String, String>,
    ) -> Result<Option<String>> {
        let (succeeded, output) = self.ask("detect", build, env).await?;
        let kind = output.lines().next().unwrap_or_default().trim();
        let kind = if kind.is_empty() { &self.name } else { kind };
        Ok(succeeded.then(|| kind.to_owned()))
    }

    /// The program that compiles the source in `build`.
    pub(crate) fn compile(
        &self,
        build: &Path,
        cache: &Path,
        env_dir: &Path,
        env: &BTreeMap<String, String>,
    ) -> Command {
        let mut command = self.program("compile", build, env);
        command.arg(cache).arg(env_dir);
        command
    }

    /// The process types it suggests for the source in `build`, once that is compiled.
    ///
    /// # Errors
    ///
    /// [`Error::Refused`] when it fails or says something that is not a release.
    pub async fn release(
        &self,
        build: &Path,
        env: &BTreeMap<String, String>,
    ) -> Result<ProcessTypes> {
        if !self.dir.join("bin/release").is_file() {
            return Ok(ProcessTypes::new());
        }
        let (succeeded, output) = self.ask("release", build, env).await?;
        if !succeeded {
            let name = &self.name;
            return Err(Error::refused(format!(
                "bin/release of the buildpack {name} failed"
            )));
        }
        parse_release(&output)
    }

    async fn ask(
        &self,
        program: &str,
        build: &Path,
        env: &BTreeMap<String, String>,
    ) -> Result<(bool, String)> {
        let mut command = self.program(program, build, env);
        command
            .stdin(Stdio::null())
            .stderr(Stdio::null())
            .kill_on_drop(true);
        let what = || format!("run bin/{program} of the buildpack {}", self.name);
        let output = tokio::time::timeout(ANSWER_TIMEOUT, command.output())
            .await
            .map_err(|e| Error::upstream(format!("could not {} in time", what()), e))?
            .map_err(|e| Error::upstream(format!("could not {}", what()), e))?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        Ok((output.status.success(), text))
    }

    fn program(&self, program: &str, build: &Path, env: &BTreeMap<String, String>) -> Command {
        let mut command = Command::new(self.dir.join("bin").join(program));
        command.arg(build).current_dir(build).env_clear().envs(env);
        command
    }
}

/// How long `detect` and `release` may take.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);

macro_rules! builtin {
    ($($name:literal),* $(,)?) => {
        &[$(($name, include_str!(concat!("../buildpacks/", $name)))),*]
    };
}

const BUILTIN: &[(&str, &str)] = builtin![
    "order",
    "python/bin/detect",
    "python/bin/compile",
    "python/bin/release",
    "node/bin/detect",
    "node/bin/compile",
    "node/bin/release",
    "static/bin/detect",
    "static/bin/compile",
    "static/bin/release",
    "procfile/bin/detect",
    "procfile/bin/compile",
    "procfile/bin/release",
];
