//! A line for each request.

use std::{
    io,
    sync::{Arc, Mutex},
};

use tracing_subscriber::fmt::MakeWriter;

use crate::{backend::Backend, stage::Stage};

/// Keeps what is written.
#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<u8>>>);

impl io::Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl MakeWriter<'_> for Lines {
    type Writer = Self;

    fn make_writer(&self) -> Self {
        self.clone()
    }
}

impl Lines {
    fn requests(&self) -> Vec<String> {
        let text = String::from_utf8(self.0.lock().unwrap().clone()).unwrap();
        let lines = text
            .lines()
            .filter(|line| line.contains("flynn_router::access"));
        lines.map(str::to_owned).collect()
    }
}

#[tokio::test]
async fn each_request_is_one_line_that_names_its_backend() {
    let lines = Lines::default();
    let subscriber = tracing_subscriber::fmt()
        .with_ansi(false)
        .with_writer(lines.clone());
    let _guard = tracing::subscriber::set_default(subscriber.finish());
    let backend = Backend::named("hello").await;
    let stage = Stage::simple(&[backend.addr]).await;
    let mut client = stage.connect().await;
    let id = "my-own-request-id-0001";
    let request =
        format!("PUT /a/b?secret=1 HTTP/1.1\r\nHost: Test:1\r\nX-Request-Id: {id}\r\n\r\n");
    client.send(request).await;
    assert_eq!(client.response().await.status, 200);
    client.send("GET /x HTTP/1.1\r\nHost: nobody\r\n\r\n").await;
    assert_eq!(client.response().await.status, 404);
    client.send("nonsense\r\n\r\n").await;
    assert_eq!(client.response().await.status, 400);
    client.ended().await;
    let requests = crate::until("three lines", async || {
        let requests = lines.requests();
        (requests.len() == 3).then_some(requests)
    })
    .await;
    let backend = format!("backend={}", backend.addr);
    for (line, expected) in requests.iter().zip([
        &[
            id,
            "\"PUT\"",
            "host=\"test\"",
            "path=\"/a/b\"",
            "status=200",
            &backend,
            "bytes=5",
            "duration_us=",
            "127.0.0.1",
        ][..],
        &["\"GET\"", "host=\"nobody\"", "path=\"/x\"", "status=404"],
        &["status=400"],
    ]) {
        assert!(
            expected.iter().all(|part| line.contains(part)),
            "{expected:?} in {line}"
        );
        assert!(!line.contains("secret"), "{line}");
    }
}
