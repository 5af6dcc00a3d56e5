//! An SSH server that takes `git push` and nothing else.
//!
//! Public keys only, no shell, no forwarding. What a push means is decided by a [`GitService`]; who may push, by an
//! [`Authenticator`].

mod command;
mod connection;
mod host_key;

use std::{fmt, io, sync::Arc, time::Duration};

use async_trait::async_trait;
use russh::{
    MethodKind, MethodSet,
    server::{self, Config},
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream},
    sync::{Semaphore, watch},
    time::timeout,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{debug, info, warn};

use crate::Result;
use connection::{Connection, Progress};

pub use command::GitCommand;
pub use host_key::HostKey;

/// Knows who may push.
#[async_trait]
pub trait Authenticator: fmt::Debug + Send + Sync + 'static {
    /// Who has `key`; `None` when nobody known has it.
    ///
    /// # Errors
    ///
    /// When that cannot be known at present; the key is refused then.
    async fn identify(&self, key: &PushKey) -> Result<Option<Pusher>>;
}

/// A public key that was offered.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct PushKey {
    /// Its type and data, as in a `.pub` file, without the comment.
    pub line: String,
    /// `SHA256:…`, as SSH tools show it.
    pub fingerprint: String,
}

/// Who pushes.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Pusher {
    /// For the log: the comment of the key, or its fingerprint.
    pub name: String,
}

impl Pusher {
    /// Someone of this name.
    #[must_use]
    pub fn named(name: impl Into<String>) -> Self {
        Self { name: name.into() }
    }
}

/// Carries out git commands of clients that have shown a key.
#[async_trait]
pub trait GitService: fmt::Debug + Send + Sync + 'static {
    /// Carries out `command` and returns its exit status. When the client goes away, `gone` is cancelled.
    async fn run(
        &self,
        pusher: &Pusher,
        command: GitCommand,
        streams: Streams,
        gone: CancellationToken,
    ) -> u32;
}

/// The three streams of a command.
pub struct Streams {
    /// What the client sends.
    pub stdin: Box<dyn AsyncRead + Send + Unpin>,
    /// What git says to the client's git.
    pub stdout: Box<dyn AsyncWrite + Send + Unpin>,
    /// What is for the person.
    pub stderr: Box<dyn AsyncWrite + Send + Unpin>,
}

impl fmt::Debug for Streams {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Streams")
    }
}

/// The SSH server.
#[derive(Debug)]
pub(crate) struct SshServer {
    config: Arc<Config>,
    parts: Arc<Parts>,
}

#[derive(Debug)]
pub(crate) struct Parts {
    pub(crate) authenticator: Arc<dyn Authenticator>,
    pub(crate) service: Arc<dyn GitService>,
}

impl SshServer {
    pub(crate) fn new(
        host_key: HostKey,
        authenticator: Arc<dyn Authenticator>,
        service: Arc<dyn GitService>,
    ) -> Self {
        let config = Config {
            keys: vec![host_key.into_private()],
            // Keyboard-interactive asks nothing and accepts nobody: it is how a client whose keys were all refused is
            // told what to do about it.
            methods: MethodSet::from(&[MethodKind::PublicKey, MethodKind::KeyboardInteractive][..]),
            auth_rejection_time: Duration::from_millis(300),
            auth_rejection_time_initial: Some(Duration::ZERO),
            max_auth_attempts: MAX_AUTH_ATTEMPTS,
            inactivity_timeout: Some(IDLE_TIMEOUT),
            keepalive_interval: Some(KEEPALIVE_INTERVAL),
            keepalive_max: KEEPALIVES_MISSED,
            nodelay: true,
            ..Config::default()
        };
        Self {
            config: Arc::new(config),
            parts: Arc::new(Parts {
                authenticator,
                service,
            }),
        }
    }

    /// Accepts connections until `shutdown`; those open then are told and closed, and their commands stopped.
    pub(crate) async fn run(
        &self,
        listener: TcpListener,
        shutdown: impl Future<Output = ()>,
    ) -> io::Result<()> {
        let slots = Arc::new(Semaphore::new(MAX_SESSIONS));
        let sessions = TaskTracker::new();
        let closing = CancellationToken::new();
        tokio::pin!(shutdown);
        loop {
            let (stream, peer) = tokio::select! {
                accepted = listener.accept() => match accepted {
                    Ok(accepted) => accepted,
                    Err(error) if error.kind() == io::ErrorKind::InvalidInput => return Err(error),
                    Err(error) => {
                        warn!(%error, "cannot accept a connection");
                        tokio::time::sleep(ACCEPT_PAUSE).await;
                        continue;
                    }
                },
                () = &mut shutdown => break,
            };
            let Ok(slot) = Arc::clone(&slots).try_acquire_owned() else {
                warn!(%peer, limit = MAX_SESSIONS, "too many SSH sessions: this one is closed");
                continue;
            };
            let (config, parts) = (Arc::clone(&self.config), Arc::clone(&self.parts));
            let closing = closing.clone();
            sessions.spawn(async move {
                debug!(%peer, "connected");
                session(config, parts, stream, peer, closing).await;
                drop(slot);
            });
        }
        drop(listener);
        closing.cancel();
        sessions.close();
        if timeout(DRAIN_TIMEOUT, sessions.wait()).await.is_err() {
            warn!("some SSH sessions did not end in time");
        }
        Ok(())
    }
}

async fn session(
    config: Arc<Config>,
    parts: Arc<Parts>,
    stream: TcpStream,
    peer: std::net::SocketAddr,
    closing: CancellationToken,
) {
    let (progress, mut seen) = watch::channel(Progress::Connected);
    let gone = CancellationToken::new();
    let _gone = gone.clone().drop_guard();
    let commands = TaskTracker::new();
    let connection = Connection::new(parts, peer, progress, gone.clone(), commands.clone());
    let Ok(connected) = timeout(
        LOGIN_TIMEOUT,
        server::run_stream(config, stream, connection),
    )
    .await
    else {
        debug!(%peer, "no SSH greeting in time");
        return;
    };
    let mut session = match connected {
        Ok(session) => session,
        Err(error) => {
            debug!(%peer, %error, "no SSH session came about");
            return;
        }
    };
    let handle = session.handle();
    let too_slow = async {
        let begun = seen.wait_for(|progress| *progress == Progress::Commanded);
        if timeout(LOGIN_TIMEOUT, begun).await.is_ok() {
            std::future::pending::<()>().await;
        }
    };
    let goodbye = tokio::select! {
        ended = &mut session => {
            if let Err(error) = ended {
                debug!(%peer, %error, "session ended");
            }
            None
        }
        () = too_slow => Some("no command came in time"),
        () = closing.cancelled() => Some("the receiver shuts down; push again in a moment"),
    };
    gone.cancel();
    if let Some(goodbye) = goodbye {
        info!(%peer, goodbye, "session is closed");
        let reason = russh::Disconnect::ByApplication;
        let _ = handle
            .disconnect(reason, goodbye.to_owned(), String::new())
            .await;
        let _ = timeout(GOODBYE_TIMEOUT, session).await;
    }
    // What the session began is over when this is: nothing outlives the server.
    commands.close();
    commands.wait().await;
}

/// The most sessions at once; further ones are closed at once.
pub const MAX_SESSIONS: usize = 256;

/// The most keys a client may try.
const MAX_AUTH_ATTEMPTS: usize = 30;

/// How long a client may take to show a key and say what it wants.
const LOGIN_TIMEOUT: Duration = Duration::from_secs(60);

/// How long a session may be without a byte from the client, who answers our keep-alives.
const IDLE_TIMEOUT: Duration = Duration::from_secs(10 * 60);

/// How often a silent client is asked whether it is there; and after how many questions it is not.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(15);
const KEEPALIVES_MISSED: usize = 4;

const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
const GOODBYE_TIMEOUT: Duration = Duration::from_secs(2);
const DRAIN_TIMEOUT: Duration = Duration::from_secs(10);
