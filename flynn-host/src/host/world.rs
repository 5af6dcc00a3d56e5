//! What a host's tasks act on.

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use flynn_discovery::Registry;
use flynn_sched::{HostId, Job, JobId};
use parking_lot::Mutex;

use super::{
    draining::Draining,
    environment::{Facts, environment},
};
use crate::{
    Error, Result,
    image::ImageStore,
    log::LogSink,
    ports::PortAllocator,
    runtime::{ContainerRuntime, ContainerSpec, Limits},
    volume::VolumeProvider,
};

/// Everything outside of the supervisor.
#[derive(Debug)]
pub(super) struct World {
    pub(super) id: HostId,
    pub(super) addr: String,
    pub(super) runtime: Arc<dyn ContainerRuntime>,
    pub(super) images: Arc<dyn ImageStore>,
    pub(super) volumes: Arc<dyn VolumeProvider>,
    pub(super) logs: Arc<dyn LogSink>,
    pub(super) registry: Option<Registry>,
    pub(super) ports: Mutex<PortAllocator>,
    pub(super) jobs_dir: PathBuf,
    pub(super) path: String,
    pub(super) system_env: SystemEnv,
    pub(super) max_files: u64,
    pub(super) prepare_timeout: Duration,
    pub(super) draining: Draining,
}

/// Variables that only jobs of the system are given. They hold credentials: `Debug` shows their names only.
#[derive(Clone, Default)]
pub(super) struct SystemEnv(pub(super) BTreeMap<String, String>);

impl std::fmt::Debug for SystemEnv {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

impl World {
    /// Makes ports and files of a job ready, anew for each run: a job begins with what its artifacts hold.
    pub(super) async fn prepare(&self, job: &Job) -> Result<Vec<u16>> {
        let ports = self.ports.lock().allocate(&job.id, &job.spec.ports)?;
        let root = self.root(&job.id);
        self.remove_files(&job.id).await?;
        for dir in [&root, &self.tmp(&job.id)] {
            make_dir(dir)?;
        }
        let unpacked = self.images.unpack(&job.spec.artifacts, &root);
        match tokio::time::timeout(self.prepare_timeout, unpacked).await {
            Ok(unpacked) => unpacked?,
            Err(_) => {
                let uri = job.spec.artifacts.first().map(|a| a.uri.clone());
                return Err(Error::Artifact {
                    uri: uri.unwrap_or_default(),
                    why: format!(
                        "fetching and unpacking took more than {} s",
                        self.prepare_timeout.as_secs()
                    ),
                    is_transient: true,
                });
            }
        }
        Ok(ports)
    }

    pub(super) async fn create(&self, job: &Job, ports: &[u16]) -> Result<()> {
        let mut volumes = BTreeMap::new();
        for volume in &job.spec.volumes {
            volumes.insert(volume.name.clone(), self.volumes.open(volume).await?);
        }
        let root = self.root(&job.id);
        let env = environment(&Facts {
            job,
            host: &self.id,
            addr: &self.addr,
            ports,
            root: &root,
            tmp: &self.tmp(&job.id),
            path: &self.path,
            volumes: &volumes,
            system: &self.system_env.0,
        });
        let keeps_log = !job.spec.metadata.contains_key(DISABLE_LOG);
        let memory = job.spec.limit.memory_bytes;
        let spec = ContainerSpec {
            args: job.spec.args.clone(),
            env,
            root,
            log: self.logs.target(&job.id).filter(|_| keeps_log),
            limits: Limits {
                memory_bytes: (memory > 0).then_some(memory),
                max_files: Some(self.max_files),
            },
            has_stdin: job.spec.has_stdin,
            waits_for_readers: job.spec.waits_for_attach || !keeps_log,
        };
        match self.runtime.create(&job.id, &spec).await {
            // Left over from a daemon that died between making and remembering it.
            Err(Error::Exists { .. }) => {
                self.runtime.delete(&job.id).await?;
                self.runtime.create(&job.id, &spec).await
            }
            created => created,
        }
    }

    pub(super) async fn delete(&self, id: &JobId) -> Result<()> {
        self.runtime.delete(id).await?;
        self.remove_files(id).await
    }

    async fn remove_files(&self, id: &JobId) -> Result<()> {
        let dir = self.jobs_dir.join(id.as_str());
        let removed = tokio::task::spawn_blocking(move || remove_tree(&dir).map_err(|e| (dir, e)));
        removed
            .await
            .map_err(|_| Error::Closed)?
            .map_err(|(dir, e)| Error::file("remove", dir, e))
    }

    fn root(&self, id: &JobId) -> PathBuf {
        self.jobs_dir.join(id.as_str()).join("root")
    }

    fn tmp(&self, id: &JobId) -> PathBuf {
        self.jobs_dir.join(id.as_str()).join("tmp")
    }
}

pub(super) fn make_dir(dir: &Path) -> Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(dir)
        .map_err(|e| Error::file("create", dir, e))
}

/// Removes a directory with all that is in it, also where its owner made parts of it read-only.
fn remove_tree(dir: &Path) -> io::Result<()> {
    match fs::remove_dir_all(dir) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(e) if e.kind() == io::ErrorKind::PermissionDenied => {
            make_removable(dir)?;
            fs::remove_dir_all(dir)
        }
        removed => removed,
    }
}

fn make_removable(dir: &Path) -> io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    fs::set_permissions(dir, fs::Permissions::from_mode(0o700))?;
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            make_removable(&entry.path())?;
        }
    }
    Ok(())
}

/// A job with this key in its metadata leaves no log: its output goes to attached clients only.
pub(super) const DISABLE_LOG: &str = "flynn-host.disable_log";
