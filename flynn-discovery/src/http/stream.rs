//! Streams of JSON: server-sent events in the one dialect every Flynn client reads, and lines of JSON.
//!
//! The dialect is strict. Go's client understands lines that begin with `data: `, ends an event at the next line feed,
//! and reads an empty event (and fails) from `\r\n`, from an extra empty line and from a comment followed by one: which
//! is what web frameworks send to keep a connection alive. So the keep-alive here is `:` and *one* line feed.

use std::{
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use axum::{
    body::Body,
    response::{IntoResponse, Response},
};
use bytes::{Bytes, BytesMut};
use futures::{Stream, StreamExt, stream::BoxStream};
use http::{HeaderValue, header};
use serde::Serialize;
use tokio::time::{Instant, Sleep};

use super::Failure;

/// How long a stream may be silent before the server says that it is still there.
pub const KEEP_ALIVE: Duration = Duration::from_secs(30);

/// Ready events are joined into one frame, so into one write, up to about this size.
const FRAME_BYTES: usize = 64 * 1024;

/// Marks a response that would never end by itself: the server ends it at shutdown.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Endless;

/// Answers with a stream of server-sent events, `data: {json}` and an empty line each.
///
/// An `Err` is sent as `event: error` and ends the stream.
pub fn events<T: Serialize + 'static>(
    stream: impl Stream<Item = Result<T, Failure>> + Send + 'static,
) -> Response {
    respond(
        EVENT_STREAM,
        ":\n",
        KEEP_ALIVE,
        stream,
        |item, out| match item {
            Ok(value) => data(&value, out),
            Err(failure) => error_event(&failure, out),
        },
    )
}

/// As [`events`], with a line `id: N` before each event.
pub fn events_with_id<T: Serialize + 'static>(
    stream: impl Stream<Item = Result<(i64, T), Failure>> + Send + 'static,
) -> Response {
    respond(
        EVENT_STREAM,
        ":\n",
        KEEP_ALIVE,
        stream,
        |item, out| match item {
            Ok((id, value)) => {
                out.extend_from_slice(format!("id: {id}\n").as_bytes());
                data(&value, out)
            }
            Err(failure) => error_event(&failure, out),
        },
    )
}

/// Answers with one line of JSON for each item. An `Err` becomes the last line, `{"error": {envelope}}`; silence is
/// broken by an empty line.
pub fn ndjson<T: Serialize + 'static>(
    stream: impl Stream<Item = Result<T, Failure>> + Send + 'static,
) -> Response {
    ndjson_every(KEEP_ALIVE, stream)
}

/// As [`ndjson`], with an empty line after each `keep_alive` of silence.
pub(crate) fn ndjson_every<T: Serialize + 'static>(
    keep_alive: Duration,
    stream: impl Stream<Item = Result<T, Failure>> + Send + 'static,
) -> Response {
    respond(LINES, "\n", keep_alive, stream, |item, out| {
        let written = match item {
            Ok(value) => json(&value, out),
            Err(failure) => {
                json(&serde_json::json!({ "error": failure.envelope() }), out);
                Next::End
            }
        };
        out.extend_from_slice(b"\n");
        written
    })
}

const EVENT_STREAM: &str = "text/event-stream; charset=utf-8";
const LINES: &str = "application/x-ndjson";

/// Does the stream go on after this item?
#[derive(PartialEq, Eq)]
enum Next {
    Go,
    End,
}

fn data<T: Serialize>(value: &T, out: &mut BytesMut) -> Next {
    out.extend_from_slice(b"data: ");
    let next = json(value, out);
    out.extend_from_slice(b"\n\n");
    next
}

fn json<T: Serialize>(value: &T, out: &mut BytesMut) -> Next {
    // serde_json's compact form has no line feed outside of strings, and escapes those inside.
    match serde_json::to_writer(bytes::BufMut::writer(&mut *out), value) {
        Ok(()) => Next::Go,
        Err(cause) => {
            tracing::error!(%cause, "an event is not JSON");
            Next::End
        }
    }
}

fn error_event(failure: &Failure, out: &mut BytesMut) -> Next {
    let line = failure.message.replace(['\r', '\n'], " ");
    out.extend_from_slice(format!("event: error\ndata: {line}\n\n").as_bytes());
    Next::End
}

fn respond<I: 'static>(
    content_type: &'static str,
    idle: &'static str,
    keep_alive: Duration,
    stream: impl Stream<Item = I> + Send + 'static,
    encode: impl Fn(I, &mut BytesMut) -> Next + Send + 'static,
) -> Response {
    let body = Body::from_stream(Encoder {
        stream: Some(stream.boxed()),
        encode: Box::new(encode),
        idle,
        keep_alive,
        timer: Box::pin(tokio::time::sleep(keep_alive)),
    });
    let headers = [
        (header::CONTENT_TYPE, HeaderValue::from_static(content_type)),
        (header::CACHE_CONTROL, HeaderValue::from_static("no-cache")),
    ];
    let mut response = (headers, body).into_response();
    response.extensions_mut().insert(Endless);
    response
}

/// Appends one item to a frame.
type Encode<I> = Box<dyn Fn(I, &mut BytesMut) -> Next + Send>;

/// Turns items into frames: everything that is ready goes into one.
struct Encoder<I> {
    /// `None` once it has ended.
    stream: Option<BoxStream<'static, I>>,
    encode: Encode<I>,
    idle: &'static str,
    keep_alive: Duration,
    timer: Pin<Box<Sleep>>,
}

impl<I> Stream for Encoder<I> {
    type Item = Result<Bytes, std::convert::Infallible>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = &mut *self;
        let mut frame = BytesMut::new();
        while let Some(stream) = &mut this.stream
            && frame.len() < FRAME_BYTES
        {
            match stream.poll_next_unpin(cx) {
                Poll::Ready(Some(item)) => {
                    if (this.encode)(item, &mut frame) == Next::End {
                        this.stream = None;
                    }
                }
                Poll::Ready(None) => this.stream = None,
                Poll::Pending => break,
            }
        }
        if frame.is_empty() {
            if this.stream.is_none() {
                return Poll::Ready(None);
            }
            futures::ready!(this.timer.as_mut().poll(cx));
            frame.extend_from_slice(this.idle.as_bytes());
        }
        this.timer.as_mut().reset(Instant::now() + this.keep_alive);
        Poll::Ready(Some(Ok(frame.freeze())))
    }
}

#[cfg(test)]
mod tests {
    use futures::stream;
    use http_body_util::BodyExt;
    use serde_json::json;

    use super::*;

    async fn text(response: Response) -> String {
        let body = response.into_body().collect().await.unwrap().to_bytes();
        String::from_utf8(body.to_vec()).unwrap()
    }

    #[tokio::test]
    async fn an_event_is_one_data_line_and_an_empty_line() {
        let response = events(stream::iter([
            Ok(json!({ "kind": "up", "text": "a\nb" })),
            Err(Failure::unavailable("no\nleader")),
            Ok(json!("never sent")),
        ]));
        assert_eq!(
            response.headers()["content-type"],
            "text/event-stream; charset=utf-8"
        );
        assert_eq!(
            text(response).await,
            "data: {\"kind\":\"up\",\"text\":\"a\\nb\"}\n\nevent: error\ndata: no leader\n\n"
        );
    }

    #[tokio::test]
    async fn an_id_comes_before_its_data() {
        let response = events_with_id(stream::iter([Ok((7, "x"))]));
        assert_eq!(text(response).await, "id: 7\ndata: \"x\"\n\n");
    }

    #[tokio::test]
    async fn lines_end_with_an_error_line() {
        let response = ndjson(stream::iter([Ok(1), Err(Failure::conflict("busy"))]));
        assert_eq!(
            text(response).await,
            "1\n{\"error\":{\"code\":\"conflict\",\"message\":\"busy\",\"retry\":false}}\n"
        );
    }

    #[tokio::test]
    async fn events_that_are_ready_together_leave_in_one_frame() {
        let mut body = events(stream::iter((0..100).map(Ok::<i32, Failure>)))
            .into_body()
            .into_data_stream();
        let frame = body.next().await.unwrap().unwrap();
        assert_eq!(frame.iter().filter(|b| **b == b'\n').count(), 200);
        assert!(body.next().await.is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn silence_is_broken_by_a_colon_and_one_line_feed() {
        let mut body = events(stream::pending::<Result<(), Failure>>())
            .into_body()
            .into_data_stream();
        let started = Instant::now();
        for _ in 0..2 {
            assert_eq!(body.next().await.unwrap().unwrap(), ":\n");
        }
        assert_eq!(started.elapsed().as_secs(), 60);
    }
}
