//! A request's body, for one attempt after the other.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use axum::body::Body;
use bytes::Bytes;
use http_body::{Frame, SizeHint};
use parking_lot::Mutex;
use tokio::time::Instant;

/// A request's body, which may have to be sent more than once.
pub(super) enum Payload {
    Whole(Bytes),
    /// A body that can be read once, and its declared size.
    Streaming(Arc<Upload>, SizeHint),
}

/// The state of a body that is sent as it comes.
pub(super) struct Upload {
    /// The body, until somebody begins to read it.
    body: Mutex<Option<Body>>,
    /// When a part of it was asked for last.
    progress: Mutex<Instant>,
}

impl Payload {
    pub(super) fn streaming(body: Body) -> Self {
        let hint = http_body::Body::size_hint(&body);
        let upload = Upload {
            body: Mutex::new(Some(body)),
            progress: Mutex::new(Instant::now()),
        };
        Self::Streaming(Arc::new(upload), hint)
    }

    pub(super) fn body(&self) -> Body {
        match self {
            Self::Whole(bytes) => Body::from(bytes.clone()),
            Self::Streaming(upload, hint) => Body::new(Late {
                upload: Arc::clone(upload),
                body: None,
                hint: *hint,
            }),
        }
    }

    pub(super) fn can_be_sent(&self) -> bool {
        match self {
            Self::Whole(_) => true,
            Self::Streaming(upload, _) => upload.body.lock().is_some(),
        }
    }

    /// Since when an attempt that began at `start` has made no progress.
    pub(super) fn waiting_since(&self, start: Instant) -> Instant {
        match self {
            Self::Whole(_) => start,
            Self::Streaming(upload, _) => start.max(*upload.progress.lock()),
        }
    }
}

/// Takes the body when it is first read, so that a connection that never came about leaves it for the next.
struct Late {
    upload: Arc<Upload>,
    body: Option<Body>,
    hint: SizeHint,
}

impl http_body::Body for Late {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        if self.body.is_none() {
            let body = self.upload.body.lock().take();
            self.body = body;
        }
        *self.upload.progress.lock() = Instant::now();
        match &mut self.body {
            Some(body) => Pin::new(body).poll_frame(cx),
            None => Poll::Ready(Some(Err(axum::Error::new("the body was sent already")))),
        }
    }

    fn size_hint(&self) -> SizeHint {
        self.body
            .as_ref()
            .map_or_else(|| self.hint, http_body::Body::size_hint)
    }
}
