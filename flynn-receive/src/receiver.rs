//! The receiver as one thing to build and run.

use std::{collections::HashSet, io, path::PathBuf, sync::Arc, time::Duration};

use async_trait::async_trait;
use flynn_controller::{http::Client, model::Key};
use parking_lot::Mutex;
use tokio::{net::TcpListener, time::Instant};
use tracing::info;

use crate::{
    Error, Result,
    build::BuildRunner,
    deploy::Deployer,
    git::{MAX_PUSH_BYTES, Repositories},
    push::Pushes,
    slug::Limits,
    ssh::{Authenticator, HostKey, PushKey, Pusher, SshServer},
};

/// Takes `git push` over SSH, builds, releases, deploys.
///
/// Any number of receivers may run; they share the host key, and know nothing of each other.
#[derive(Debug)]
pub struct Receiver {
    ssh: SshServer,
    fingerprint: String,
}

/// What a receiver is made of.
#[derive(Debug)]
pub struct ReceiverBuilder {
    controller: Client,
    runner: Arc<dyn BuildRunner>,
    host_key: HostKey,
    data_dir: PathBuf,
    authenticator: Option<Arc<dyn Authenticator>>,
    path: String,
    push_limit: u64,
    source_limits: Limits,
    http_port: u16,
    turn_timeout: Duration,
}

impl Receiver {
    /// A receiver for the apps of `controller`, whose builds `runner` carries out. Clients know it by `host_key`;
    /// repositories are cached in `data_dir`.
    #[must_use]
    pub fn builder(
        controller: Client,
        runner: Arc<dyn BuildRunner>,
        host_key: HostKey,
        data_dir: impl Into<PathBuf>,
    ) -> ReceiverBuilder {
        ReceiverBuilder {
            controller,
            runner,
            host_key,
            data_dir: data_dir.into(),
            authenticator: None,
            path: DEFAULT_PATH.to_owned(),
            push_limit: MAX_PUSH_BYTES,
            source_limits: Limits::default(),
            http_port: 80,
            turn_timeout: TURN_TIMEOUT,
        }
    }

    /// Serves SSH on `listener` until `shutdown`; pushes under way then are told and stopped, their builds with them.
    ///
    /// # Errors
    ///
    /// The listener is broken.
    pub async fn run(
        self,
        listener: TcpListener,
        shutdown: impl Future<Output = ()>,
    ) -> io::Result<()> {
        info!(addr = ?listener.local_addr(), host_key = self.fingerprint, "taking pushes");
        self.ssh.run(listener, shutdown).await
    }
}

impl ReceiverBuilder {
    /// Asks someone else than the controller's keys who may push.
    #[must_use]
    pub fn with_authenticator(mut self, authenticator: Arc<dyn Authenticator>) -> Self {
        self.authenticator = Some(authenticator);
        self
    }

    /// Where `git` and what it needs are found; default [`DEFAULT_PATH`].
    #[must_use]
    pub fn with_path(mut self, path: impl Into<String>) -> Self {
        self.path = path.into();
        self
    }

    /// The most bytes of one push; default [`MAX_PUSH_BYTES`].
    #[must_use]
    pub const fn with_push_limit(mut self, bytes: u64) -> Self {
        self.push_limit = bytes;
        self
    }

    /// Bounds of the files of an app.
    #[must_use]
    pub const fn with_source_limits(mut self, limits: Limits) -> Self {
        self.source_limits = limits;
        self
    }

    /// The router's HTTP port, for the address that is shown after a push; default 80.
    #[must_use]
    pub const fn with_http_port(mut self, port: u16) -> Self {
        self.http_port = port;
        self
    }

    /// How long a push waits for a deployment of its app that is under way before it is refused; default
    /// [`TURN_TIMEOUT`].
    #[must_use]
    pub const fn with_turn_timeout(mut self, timeout: Duration) -> Self {
        self.turn_timeout = timeout;
        self
    }

    /// Checks what can be checked: that git is there, and the directory writable.
    ///
    /// # Errors
    ///
    /// [`Error::Upstream`] without git; [`Error::Storage`] without a directory.
    pub async fn build(self) -> Result<Receiver> {
        let repositories = Repositories::open(&self.data_dir, &self.path, self.push_limit).await?;
        let authenticator = self
            .authenticator
            .unwrap_or_else(|| Arc::new(ControllerKeys::new(self.controller.clone())));
        let pushes = Pushes {
            repositories,
            deployer: Deployer {
                controller: self.controller.clone(),
                http_port: self.http_port,
                turn_timeout: self.turn_timeout,
            },
            controller: self.controller,
            runner: self.runner,
            source_limits: self.source_limits,
            under_way: Arc::new(Mutex::new(HashSet::new())),
        };
        Ok(Receiver {
            fingerprint: self.host_key.fingerprint(),
            ssh: SshServer::new(self.host_key, authenticator, Arc::new(pushes)),
        })
    }
}

/// Lets push whoever has a key that the controller knows.
#[derive(Debug)]
pub struct ControllerKeys {
    controller: Client,
    /// The keys, and when they were asked for. Held while they are asked for, so that many logins ask once.
    known: tokio::sync::Mutex<Option<(Instant, Arc<Vec<Key>>)>>,
}

impl ControllerKeys {
    /// Asks `controller`.
    #[must_use]
    pub fn new(controller: Client) -> Self {
        Self {
            controller,
            known: tokio::sync::Mutex::new(None),
        }
    }

    /// The keys, no older than `age`.
    async fn keys(&self, age: Duration) -> Result<Arc<Vec<Key>>> {
        let mut known = self.known.lock().await;
        if let Some((at, keys)) = &*known
            && at.elapsed() < age
        {
            return Ok(Arc::clone(keys));
        }
        let keys = self
            .controller
            .keys()
            .await
            .map_err(|e| Error::Unavailable {
                what: "the controller",
                why: e.to_string(),
            })?;
        let keys = Arc::new(keys);
        *known = Some((Instant::now(), Arc::clone(&keys)));
        Ok(keys)
    }
}

#[async_trait]
impl Authenticator for ControllerKeys {
    async fn identify(&self, key: &PushKey) -> Result<Option<Pusher>> {
        // One who is not known yet may have been added just now.
        for age in [KEYS_ARE_GOOD_FOR, UNKNOWN_KEYS_ARE_GOOD_FOR] {
            let keys = self.keys(age).await?;
            if let Some(known) = keys.iter().find(|known| same_key(&known.key, &key.line)) {
                let name = Some(&known.comment).filter(|comment| !comment.is_empty());
                return Ok(Some(Pusher::named(name.unwrap_or(&key.fingerprint))));
            }
        }
        Ok(None)
    }
}

/// Compares type and data of two lines of `.pub` files.
fn same_key(known: &str, offered: &str) -> bool {
    let mut known = known.split_whitespace();
    let mut offered = offered.split_whitespace();
    let pair = |words: &mut std::str::SplitWhitespace<'_>| {
        Some((words.next()?.to_owned(), words.next()?.to_owned()))
    };
    matches!((pair(&mut known), pair(&mut offered)), (Some(a), Some(b)) if a == b)
}

/// Where programs are found if nothing else is said.
pub const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// How long a push waits for a deployment of its app that is under way.
pub const TURN_TIMEOUT: Duration = Duration::from_secs(120);

/// How long a list of keys is used: a key that was removed is good that much longer.
const KEYS_ARE_GOOD_FOR: Duration = Duration::from_secs(3);

/// How long a list is used that lacks the key: strangers cannot make us ask more often than that.
const UNKNOWN_KEYS_ARE_GOOD_FOR: Duration = Duration::from_millis(200);
