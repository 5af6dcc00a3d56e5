//! Reading streams: bytes to lines, lines to server-sent events or JSON.

use std::{sync::Arc, time::Duration};

use bytes::{Bytes, BytesMut};
use futures::stream::{self, BoxStream, StreamExt};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use serde::de::DeserializeOwned;

use super::{ClientError, client_error::root_cause, envelope::Envelope};

/// The longest line of a stream.
pub const MAX_LINE_BYTES: usize = 16 * 1024 * 1024;

/// A stream that says nothing for so long, not even that it is still there, is taken for lost.
pub const STREAM_SILENCE: Duration = Duration::from_secs(75);

/// Who is being read, for messages.
#[derive(Debug, Clone)]
pub(crate) struct Source {
    pub(crate) noun: Arc<str>,
    pub(crate) endpoint: String,
    pub(crate) request: String,
}

impl Source {
    pub(crate) fn lost(&self, why: impl Into<String>) -> ClientError {
        ClientError::Lost {
            noun: self.noun.to_string(),
            endpoint: self.endpoint.clone(),
            request: self.request.clone(),
            why: why.into(),
        }
    }

    pub(crate) fn protocol(&self, why: impl Into<String>) -> ClientError {
        ClientError::Protocol {
            noun: self.noun.to_string(),
            request: self.request.clone(),
            why: why.into(),
        }
    }
}

/// The lines of a body.
struct Lines {
    body: Incoming,
    source: Source,
    silence: Duration,
    buffer: BytesMut,
    /// So much of `buffer` is known to hold no line feed.
    scanned: usize,
}

impl Lines {
    /// The next line, without its line feed (and carriage return); `None` at the end.
    async fn next(&mut self) -> Result<Option<Bytes>, ClientError> {
        loop {
            if let Some(at) = self.buffer[self.scanned..].iter().position(|b| *b == b'\n') {
                let mut line = self.buffer.split_to(self.scanned + at + 1);
                line.truncate(line.len() - 1);
                if line.ends_with(b"\r") {
                    line.truncate(line.len() - 1);
                }
                self.scanned = 0;
                return Ok(Some(line.freeze()));
            }
            self.scanned = self.buffer.len();
            if self.buffer.len() > MAX_LINE_BYTES {
                return Err(self.source.protocol("a line without end"));
            }
            match tokio::time::timeout(self.silence, self.body.frame()).await {
                Err(_) => {
                    let why = format!("silence for {} s", self.silence.as_secs());
                    return Err(self.source.lost(why));
                }
                Ok(None) if self.buffer.is_empty() => return Ok(None),
                Ok(None) => return Err(self.source.lost("it ended in the middle of a line")),
                Ok(Some(Err(e))) => return Err(self.source.lost(root_cause(&e))),
                Ok(Some(Ok(frame))) => {
                    if let Ok(data) = frame.into_data() {
                        self.buffer.extend_from_slice(&data);
                    }
                }
            }
        }
    }

    /// The data of the next server-sent event.
    async fn next_event(&mut self) -> Result<Option<Bytes>, ClientError> {
        let mut data: Option<BytesMut> = None;
        let mut is_error = false;
        while let Some(line) = self.next().await? {
            if line.is_empty() {
                match data.take() {
                    None => is_error = false,
                    Some(text) if is_error => {
                        return Err(ClientError::Status {
                            status: http::StatusCode::INTERNAL_SERVER_ERROR,
                            code: "stream_error".to_owned(),
                            message: String::from_utf8_lossy(&text).into_owned(),
                            detail: None,
                            retry: false,
                        });
                    }
                    Some(text) => return Ok(Some(text.freeze())),
                }
            } else if let Some(text) = line.strip_prefix(b"data:") {
                let text = text.strip_prefix(b" ").unwrap_or(text);
                match &mut data {
                    None => data = Some(BytesMut::from(text)),
                    Some(data) => {
                        data.extend_from_slice(b"\n");
                        data.extend_from_slice(text);
                    }
                }
            } else if let Some(kind) = line.strip_prefix(b"event:") {
                is_error = kind.trim_ascii() == b"error";
            }
            // Comments, ids and whatever else there is say nothing to us.
        }
        Ok(None)
    }

    /// The next line that is not empty; an error line is an error.
    async fn next_json(&mut self) -> Result<Option<Bytes>, ClientError> {
        while let Some(line) = self.next().await? {
            if line.is_empty() {
                continue;
            }
            if line.starts_with(b"{\"error\":{")
                && let Ok(ErrorLine { error }) = serde_json::from_slice(&line)
            {
                return Err(ClientError::Status {
                    status: http::StatusCode::INTERNAL_SERVER_ERROR,
                    code: error.code,
                    message: error.message,
                    detail: error.detail,
                    retry: error.retry,
                });
            }
            return Ok(Some(line));
        }
        Ok(None)
    }
}

#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct ErrorLine {
    error: Envelope,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Format {
    Events,
    Lines,
}

/// The items of a stream; it ends after the first error, or when the server ends it.
pub(crate) fn items<T: DeserializeOwned + Send + 'static>(
    body: Incoming,
    source: Source,
    format: Format,
    silence: Duration,
) -> BoxStream<'static, Result<T, ClientError>> {
    let lines = Lines {
        body,
        source,
        silence,
        buffer: BytesMut::new(),
        scanned: 0,
    };
    stream::unfold(Some(lines), move |lines| async move {
        let mut lines = lines?;
        let next = match format {
            Format::Events => lines.next_event().await,
            Format::Lines => lines.next_json().await,
        };
        let item = match next {
            Ok(None) => return None,
            Ok(Some(text)) => serde_json::from_slice(&text)
                .map_err(|e| lines.source.protocol(format!("{e} in the stream"))),
            Err(e) => Err(e),
        };
        let lines = item.is_ok().then_some(lines);
        Some((item, lines))
    })
    .boxed()
}
