//! The store of another process, over its HTTP API.

mod keep_alives;

use std::{sync::OnceLock, time::Duration};

use async_trait::async_trait;
use futures::{
    StreamExt,
    stream::{self, BoxStream},
};
use tokio::time::Instant;

use self::keep_alives::KeepAlives;
use super::{
    Backend, Capabilities, Compare, Entry, Key, LeaseId, ListOptions, MAX_VALUE_LEN, Op, Page,
    Prefix, Revision, WatchEvent,
};
use crate::{
    Backoff, Error, Result,
    http::{
        Client, ClientError, Secret,
        kv::{
            WATCH_KEEP_ALIVE, errors,
            wire::{
                Assembly, Committed, Found, Grant, Granted, WatchLine, WireCapabilities,
                WireCommit, WirePage,
            },
        },
        segment,
    },
};

/// A [`Backend`] at the other end of HTTP: any of several servers that show the same store, such as the hosts of one
/// cluster.
///
/// Requests go to the server that answered last, and to the next when it refuses a connection. A watch reconnects for
/// ever and begins with [`WatchEvent::Reset`] each time.
#[derive(Debug)]
pub struct RemoteBackend {
    client: Client,
    keep_alives: KeepAlives,
    /// Learned from the first server that told.
    capabilities: OnceLock<Capabilities>,
}

impl RemoteBackend {
    /// The store at `endpoints`, URLs like `http://127.0.0.1:1111`. Does not connect yet; until a server has been
    /// asked, [`capabilities`](Backend::capabilities) promises as little as possible.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] when an endpoint is not a URL, or there is none.
    pub fn new(endpoints: Vec<String>, key: Option<Secret>) -> Result<Self> {
        let mut client = Client::new(endpoints)
            .map_err(read_error)?
            .with_noun("discovery service")
            .with_timeout(REQUEST_TIMEOUT);
        if let Some(key) = key {
            client = client.with_key(key);
        }
        Ok(Self {
            keep_alives: KeepAlives::new(client.clone()),
            client,
            capabilities: OnceLock::new(),
        })
    }

    /// As [`new`](Self::new), and asks a server what the store promises.
    ///
    /// # Errors
    ///
    /// [`Error::Unavailable`] when no server can be reached; [`Error::Denied`] when the key is wrong.
    pub async fn connect(endpoints: Vec<String>, key: Option<Secret>) -> Result<Self> {
        let remote = Self::new(endpoints, key)?;
        let told: WireCapabilities = remote
            .client
            .get("/kv/capabilities")
            .await
            .map_err(read_error)?;
        _ = remote.capabilities.set(told.into());
        Ok(remote)
    }

    async fn read<T: serde::de::DeserializeOwned>(&self, path: &str) -> Result<T> {
        self.client.get(path).await.map_err(read_error)
    }
}

#[async_trait]
impl Backend for RemoteBackend {
    fn name(&self) -> &'static str {
        NAME
    }

    fn capabilities(&self) -> Capabilities {
        self.capabilities.get().copied().unwrap_or(Capabilities {
            is_durable: false,
            linearizable_reads: false,
            min_ttl: Duration::from_secs(1),
            max_value_len: MAX_VALUE_LEN,
        })
    }

    async fn get(&self, key: &Key) -> Result<Option<Entry>> {
        let path = format!("/kv/get?key={}", segment(key.as_str()));
        let found: Found = self.read(&path).await?;
        Ok(found.entry.map(Into::into))
    }

    async fn list(&self, prefix: &Prefix, options: ListOptions) -> Result<Page> {
        let mut path = format!(
            "/kv/list?prefix={}&limit={}",
            segment(prefix.as_str()),
            options.limit
        );
        if let Some(after) = options.after {
            path.push_str("&after=");
            path.push_str(&segment(after.as_str()));
        }
        let page: WirePage = self.read(&path).await?;
        Ok(page.into())
    }

    async fn commit(&self, compares: Vec<Compare>, ops: Vec<Op>) -> Result<Revision> {
        let started = Instant::now();
        let body = WireCommit::new(compares, ops);
        match self.client.post::<Committed>("/kv/commit", &body).await {
            Ok(committed) => Ok(committed.revision),
            Err(error) => Err(write_error(error, "commit", started)),
        }
    }

    /// A grant that was sent and not answered counts as not carried out: a lease that nobody knows ends by itself.
    async fn grant(&self, ttl: Duration) -> Result<LeaseId> {
        let ttl_ms = u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX);
        let granted: Granted = self
            .client
            .post("/kv/leases", &Grant { ttl_ms })
            .await
            .map_err(read_error)?;
        Ok(granted.lease)
    }

    /// Renewals that are asked for at about the same time travel together.
    async fn keep_alive(&self, lease: LeaseId) -> Result<()> {
        self.keep_alives.renew(lease).await
    }

    async fn revoke(&self, lease: LeaseId) -> Result<()> {
        let started = Instant::now();
        self.client
            .delete(&format!("/kv/leases/{lease}"))
            .await
            .map_err(|error| write_error(error, "revoke", started))
    }

    fn watch(&self, prefix: &Prefix) -> BoxStream<'static, Result<WatchEvent>> {
        let watch = Watch {
            client: self.client.clone(),
            path: format!("/kv/watch?prefix={}", segment(prefix.as_str())),
            lines: None,
            assembly: Assembly::default(),
            backoff: Backoff::new(FIRST_WAIT, LONGEST_WAIT),
        };
        stream::unfold(Some(watch), async |watch| {
            let mut watch = watch?;
            let event = watch.next().await;
            let rest = event.is_ok().then_some(watch);
            Some((event, rest))
        })
        .boxed()
    }
}

/// One watch, over as many connections as it takes.
struct Watch {
    client: Client,
    path: String,
    lines: Option<BoxStream<'static, Result<WatchLine, ClientError>>>,
    assembly: Assembly,
    backoff: Backoff,
}

impl Watch {
    async fn next(&mut self) -> Result<WatchEvent> {
        loop {
            match self.next_line().await {
                Ok(line) => {
                    if let Some(event) = self.assembly.add(line) {
                        self.backoff.reset();
                        return Ok(event);
                    }
                }
                Err(error) => {
                    self.lines = None;
                    self.assembly = Assembly::default();
                    match read_error(error) {
                        // A server that shuts down is not the end of the store.
                        error @ (Error::Unavailable { .. }
                        | Error::Unknown { .. }
                        | Error::Closed { .. }) => {
                            tracing::debug!(%error, "watch interrupted");
                        }
                        error => return Err(error),
                    }
                    self.backoff.wait().await;
                }
            }
        }
    }

    async fn next_line(&mut self) -> Result<WatchLine, ClientError> {
        let lines = match &mut self.lines {
            Some(lines) => lines,
            None => {
                let lines = self.client.lines_within(&self.path, SILENCE).await?;
                self.lines.insert(lines)
            }
        };
        lines.next().await.unwrap_or_else(|| {
            Err(ClientError::Lost {
                noun: "discovery service".to_owned(),
                endpoint: self.client.endpoints(),
                request: "a watch".to_owned(),
                why: "the server ended it".to_owned(),
            })
        })
    }
}

/// What an error means for an operation that changes nothing, or may be repeated without harm.
fn read_error(error: ClientError) -> Error {
    match error {
        ClientError::Refused { .. } | ClientError::Timeout { .. } | ClientError::Lost { .. } => {
            Error::Unavailable {
                backend: NAME,
                why: error.to_string(),
            }
        }
        ClientError::Denied { .. } => Error::Denied {
            why: error.to_string(),
        },
        ClientError::Invalid { what, why } => Error::Invalid { what, why },
        ClientError::NotFound { .. } => Error::Protocol {
            why: format!("{error}; the server has no discovery API"),
        },
        ClientError::Protocol { .. } => Error::Protocol {
            why: error.to_string(),
        },
        ClientError::Status {
            status,
            code,
            message,
            detail,
            ..
        } => errors::rebuild(status, &code, message, detail.as_ref()),
    }
}

/// What it means for one that may have been carried out.
fn write_error(error: ClientError, operation: &'static str, started: Instant) -> Error {
    match error {
        ClientError::Timeout { .. } | ClientError::Lost { .. } => Error::Unknown {
            operation,
            after: started.elapsed(),
        },
        // A server that broke while it worked on it (or whatever stands before it) does not know either.
        ClientError::Status {
            status,
            ref code,
            ref message,
            ref detail,
            ..
        } if status.is_server_error() => {
            errors::known(code, message, detail.as_ref()).unwrap_or(Error::Unknown {
                operation,
                after: started.elapsed(),
            })
        }
        error => read_error(error),
    }
}

const NAME: &str = "remote";

/// How long a server may take to answer. Longer than a replicated store waits for its majority, so that what it says of
/// that is heard.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(15);

/// Between attempts to watch again. Short at first: the next server is usually there.
const FIRST_WAIT: Duration = Duration::from_millis(20);
const LONGEST_WAIT: Duration = Duration::from_secs(2);

/// A watch that says nothing for so long is lost.
const SILENCE: Duration = Duration::from_secs(4 * WATCH_KEEP_ALIVE.as_secs());
