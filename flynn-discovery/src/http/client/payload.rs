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

/// A request's body, which may have to be sent more than once.
pub(super) enum Payload {
    Whole(Bytes),
    /// A body that can be read once, its declared size, and whether reading has begun.
    Streaming(Arc<Mutex<Option<Body>>>, SizeHint),
}

impl Payload {
    pub(super) fn streaming(body: Body) -> Self {
        let hint = http_body::Body::size_hint(&body);
        Self::Streaming(Arc::new(Mutex::new(Some(body))), hint)
    }

    pub(super) fn body(&self) -> Body {
        match self {
            Self::Whole(bytes) => Body::from(bytes.clone()),
            Self::Streaming(slot, hint) => Body::new(Late {
                slot: Arc::clone(slot),
                body: None,
                hint: *hint,
            }),
        }
    }

    pub(super) fn can_be_sent(&self) -> bool {
        match self {
            Self::Whole(_) => true,
            Self::Streaming(slot, _) => slot.lock().is_some(),
        }
    }
}

/// Takes the body when it is first read, so that a connection that never came about leaves it for the next.
struct Late {
    slot: Arc<Mutex<Option<Body>>>,
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
            let body = self.slot.lock().take();
            self.body = body;
        }
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
