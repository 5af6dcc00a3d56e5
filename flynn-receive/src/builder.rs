//! The build itself: source in, slug out. It runs inside the build job, or in this process for tests.
//!
//! ```text
//! Procfile ─► detect ─► compile ─► release ─► .flynn/run ─► pack
//! ```

mod job;

use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    time::Duration,
};

use serde::{Deserialize, Serialize};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::{
    Console, Error, ProcessGroup, Result,
    buildpack::Buildpack,
    procfile::{ProcessTypes, parse_procfile},
    script,
    slug::{Ignore, MAX_SLUG_BYTES, Packed, pack},
};

pub use job::{JOB_ORDER_VARIABLE, main_in_job};
pub(crate) use job::{JobOrder, JobReport, REPORT_PREFIX, SLUGS, slug_name};

/// One build: what is built with what.
#[derive(Debug, Clone)]
pub struct Build {
    dir: PathBuf,
    cache: PathBuf,
    scratch: PathBuf,
    buildpacks: Option<PathBuf>,
    app_env: BTreeMap<String, String>,
    env: BTreeMap<String, String>,
    group: ProcessGroup,
    timeout: Duration,
    slug_limit: u64,
}

/// What a build came to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Built {
    /// The size of the slug in bytes.
    pub size: u64,
    /// The SHA-256 of the slug.
    pub sha256: crate::blob::Digest,
    /// What the buildpack calls this kind of app.
    pub kind: String,
    /// The commands, by process type.
    pub processes: ProcessTypes,
}

impl Build {
    /// Builds the source in `dir`, in place. `cache` holds what builds of this app keep for the next; `scratch` is an
    /// empty directory for the time of the build. `env` is the environment of the buildpack's programs.
    #[must_use]
    pub fn new(
        dir: impl Into<PathBuf>,
        cache: impl Into<PathBuf>,
        scratch: impl Into<PathBuf>,
        env: BTreeMap<String, String>,
    ) -> Self {
        Self {
            dir: dir.into(),
            cache: cache.into(),
            scratch: scratch.into(),
            buildpacks: None,
            app_env: BTreeMap::new(),
            env,
            group: ProcessGroup::Own,
            timeout: BUILD_TIMEOUT,
            slug_limit: MAX_SLUG_BYTES,
        }
    }

    /// Takes the buildpacks from `dir` instead of those of this crate.
    #[must_use]
    pub fn with_buildpacks(mut self, dir: Option<PathBuf>) -> Self {
        self.buildpacks = dir;
        self
    }

    /// The environment of the app, which buildpacks find as files.
    #[must_use]
    pub fn with_app_env(mut self, env: BTreeMap<String, String>) -> Self {
        self.app_env = env;
        self
    }

    /// In which process group programs run; default their own.
    #[must_use]
    pub const fn with_group(mut self, group: ProcessGroup) -> Self {
        self.group = group;
        self
    }

    /// How long the whole build may take; default [`BUILD_TIMEOUT`].
    #[must_use]
    pub const fn with_timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// How large the slug may be; default [`MAX_SLUG_BYTES`].
    #[must_use]
    pub const fn with_slug_limit(mut self, limit: u64) -> Self {
        self.slug_limit = limit;
        self
    }

    /// Builds, and packs the slug into the file `slug`.
    ///
    /// # Errors
    ///
    /// [`Error::Refused`] with a sentence for the one who pushed; [`Error::Stopped`] after `cancel`.
    pub async fn run(
        &self,
        slug: &Path,
        console: &Console,
        cancel: &CancellationToken,
    ) -> Result<Built> {
        let deadline = Instant::now() + self.timeout;
        // Before anything that takes time: a Procfile that is wrong is wrong at once.
        let procfile = self.procfile()?;
        let (buildpack, kind) = self.detect(console).await?;
        self.compile(&buildpack, console, deadline, cancel).await?;
        let mut processes = buildpack.release(&self.dir, &self.env).await?;
        processes.extend(procfile.unwrap_or_default());
        if processes.is_empty() {
            return Err(Error::refused(
                "the app has no process type: add a Procfile with a line such as `web: ./server`",
            ));
        }
        let types: Vec<_> = processes.keys().map(String::as_str).collect();
        console
            .line(format!("-----> Process types: {}", types.join(", ")))
            .await;
        self.write_runner()?;
        let packed = self.pack(slug.to_owned()).await?;
        Ok(Built {
            size: packed.size,
            sha256: packed.sha256,
            kind,
            processes,
        })
    }

    fn procfile(&self) -> Result<Option<ProcessTypes>> {
        match fs::read(self.dir.join("Procfile")) {
            Ok(bytes) => parse_procfile(&String::from_utf8_lossy(&bytes)).map(Some),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(Error::storage("read the Procfile")(error)),
        }
    }

    async fn detect(&self, console: &Console) -> Result<(Buildpack, String)> {
        let dir = match &self.buildpacks {
            Some(dir) => dir.clone(),
            None => {
                let dir = self.scratch.join("buildpacks");
                Buildpack::write_builtin(&dir)?;
                dir
            }
        };
        let packs = Buildpack::all(&dir)?;
        for pack in &packs {
            if let Some(kind) = pack.detect(&self.dir, &self.env).await? {
                console.line(format!("-----> {kind} app detected")).await;
                return Ok((pack.clone(), kind));
            }
        }
        let names: Vec<_> = packs.iter().map(Buildpack::name).collect();
        Err(Error::refused(format!(
            "no buildpack knows this app (asked: {}): add a requirements.txt, a package.json, an index.html or a Procfile at its root",
            names.join(", ")
        )))
    }

    async fn compile(
        &self,
        buildpack: &Buildpack,
        console: &Console,
        deadline: Instant,
        cancel: &CancellationToken,
    ) -> Result<()> {
        let env_dir = self.scratch.join("env");
        for dir in [&env_dir, &self.cache] {
            fs::create_dir_all(dir).map_err(Error::storage(format!("create {}", dir.display())))?;
        }
        for (name, value) in &self.app_env {
            if is_variable(name) {
                fs::write(env_dir.join(name), value)
                    .map_err(Error::storage("write the app's environment"))?;
            }
        }
        let command = buildpack.compile(&self.dir, &self.cache, &env_dir, &self.env);
        let what = format!("the {} build", buildpack.name());
        let status = script::run(&what, command, self.group, console, deadline, cancel).await?;
        if status.success() {
            return Ok(());
        }
        let how = status
            .code()
            .map_or_else(|| status.to_string(), |code| format!("exit status {code}"));
        Err(Error::refused(format!(
            "{what} failed ({how}): its last lines above say why"
        )))
    }

    /// Every process of the app begins with this script, wherever the slug is unpacked.
    fn write_runner(&self) -> Result<()> {
        let path = self.dir.join(RUNNER);
        let failed = || Error::storage(format!("write {}", path.display()));
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent).map_err(failed())?;
        }
        fs::write(&path, include_str!("builder/run.sh")).map_err(failed())?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).map_err(failed())
    }

    async fn pack(&self, slug: PathBuf) -> Result<Packed> {
        let (dir, limit) = (self.dir.clone(), self.slug_limit);
        let packing = move || {
            let ignore = Ignore::of(&dir)?;
            pack(&dir, &slug, &ignore, limit)
        };
        let packed = tokio::task::spawn_blocking(packing)
            .await
            .map_err(|e| Error::upstream("packing the slug broke off", e))?;
        match packed {
            Err(Error::TooLarge { limit, .. }) => Err(Error::refused(format!(
                "the built app is larger than the {} MiB allowed: leave out what it does not need with a .slugignore",
                limit >> 20
            ))),
            packed => packed,
        }
    }
}

/// The arguments that start `command`, a command line of a Procfile, in an unpacked slug.
#[must_use]
pub fn process_args(command: &str) -> Vec<String> {
    ["/bin/sh", RUNNER, command].map(str::to_owned).to_vec()
}

/// The variables of `vars` that the programs of a build may see: where to find programs and a home, the language, and
/// how package managers reach their registries. Nothing of the platform is among them.
pub fn build_env(vars: impl IntoIterator<Item = (String, String)>) -> BTreeMap<String, String> {
    const NAMES: &[&str] = &[
        "PATH",
        "HOME",
        "LANG",
        "TZ",
        "TMPDIR",
        "SSL_CERT_FILE",
        "SSL_CERT_DIR",
        "CURL_CA_BUNDLE",
        "REQUESTS_CA_BUNDLE",
        "NODE_EXTRA_CA_CERTS",
        "GIT_SSL_CAINFO",
        "FLYNN_STATIC_SERVER",
    ];
    const PREFIXES: &[&str] = &["lc_", "pip_", "npm_config_", "uv_"];
    vars.into_iter()
        .filter(|(name, _)| {
            let lower = name.to_ascii_lowercase();
            NAMES.contains(&name.as_str())
                || lower.ends_with("_proxy")
                || PREFIXES.iter().any(|prefix| lower.starts_with(prefix))
        })
        .collect()
}

fn is_variable(name: &str) -> bool {
    name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_') && !name.is_empty()
}

/// The script in a slug that becomes one of its processes.
pub const RUNNER: &str = ".flynn/run";

/// How long a build may take.
pub const BUILD_TIMEOUT: Duration = Duration::from_secs(30 * 60);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_of_the_platform_are_not_for_builds() {
        let vars = [
            "PATH",
            "PIP_CERT",
            "npm_config_cafile",
            "https_proxy",
            "HTTPS_PROXY",
            "LC_ALL",
            "FLYNN_CLUSTER_TOKEN",
            "CONTROLLER_KEY",
            "AUTH_KEY",
            "DISCOVERD",
        ];
        let env = build_env(vars.map(|name| (name.to_owned(), String::new())));
        let seen: Vec<_> = env.keys().map(String::as_str).collect();
        assert_eq!(
            seen,
            [
                "HTTPS_PROXY",
                "LC_ALL",
                "PATH",
                "PIP_CERT",
                "https_proxy",
                "npm_config_cafile"
            ]
        );
    }
}
