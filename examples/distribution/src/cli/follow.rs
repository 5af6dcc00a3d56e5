//! Following events through the end of whoever serves them: a controller or a router may be stopped meanwhile, not least by
//! the very command that is waited for.

use std::time::Duration;

use anyhow::{Context as _, Result};
use flynn_controller::{
    http::{Client, EventQuery},
    model::Event,
};
use flynn_discovery::http::ClientError;
use futures::{StreamExt as _, stream::BoxStream};
use tokio::time::{Instant, sleep};

/// Events, each once and in order, over as many streams as it takes.
pub(super) struct Follow {
    client: Client,
    /// Everything after the last event that was seen.
    query: EventQuery,
    stream: Option<BoxStream<'static, Result<Event, ClientError>>>,
    /// How an error is to be followed up.
    advice: String,
}

/// How long nobody may be there to serve the events.
const PATIENCE: Duration = Duration::from_secs(30);

impl Follow {
    /// Those that happen from now on. `advice` says, after a semicolon, how to learn the outcome otherwise.
    pub(super) async fn from_now(
        client: &Client,
        query: EventQuery,
        advice: impl Into<String>,
    ) -> Result<Self> {
        let newest = EventQuery {
            count: Some(1),
            ..query.clone()
        };
        let newest = client.list_events(&newest).await?;
        let since = newest.first().map_or(0, |event| event.id);
        Ok(Self::after(client, query, since, advice))
    }

    /// Those that happened and those to come.
    pub(super) fn from_the_beginning(
        client: &Client,
        query: EventQuery,
        advice: impl Into<String>,
    ) -> Self {
        Self::after(client, query, 0, advice)
    }

    fn after(client: &Client, query: EventQuery, since: i64, advice: impl Into<String>) -> Self {
        Self {
            client: client.clone(),
            query: EventQuery {
                past: true,
                since: Some(since),
                ..query
            },
            stream: None,
            advice: advice.into(),
        }
    }

    /// The next one.
    ///
    /// # Errors
    ///
    /// When the controller refuses, or nobody serves events for [`PATIENCE`].
    pub(super) async fn next(&mut self) -> Result<Event> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let error = match self.attempt().await {
                Ok(Some(event)) => {
                    self.query.since = Some(event.id);
                    return Ok(event);
                }
                Ok(None) => None,
                Err(error) if is_final(&error) => return Err(error.into()),
                Err(error) => Some(error),
            };
            self.stream = None;
            if Instant::now() >= deadline {
                let what = format!("the events cannot be followed any more; {}", self.advice);
                return match error {
                    Some(error) => Err(error).context(what),
                    None => Err(anyhow::anyhow!(what)),
                };
            }
            sleep(Duration::from_millis(100)).await;
        }
    }

    async fn attempt(&mut self) -> Result<Option<Event>, ClientError> {
        let stream = match &mut self.stream {
            Some(stream) => stream,
            None => {
                let stream = self.client.events(&self.query, None).await?;
                self.stream.insert(stream)
            }
        };
        stream.next().await.transpose()
    }
}

/// Will asking again not help? What a stopped controller or router leaves behind is a broken connection or a 5xx.
fn is_final(error: &ClientError) -> bool {
    match error {
        ClientError::Denied { .. }
        | ClientError::NotFound { .. }
        | ClientError::Invalid { .. }
        | ClientError::Protocol { .. } => true,
        ClientError::Status { status, .. } => !status.is_server_error(),
        _ => false,
    }
}
