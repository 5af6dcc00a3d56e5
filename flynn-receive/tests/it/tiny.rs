//! An app that needs no package, is quick to build and listens at once: what most pushes are tried with.

use std::{fs, os::unix::fs::PermissionsExt as _};

use flynn_controller::model::{App, Release};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

use crate::{
    process::PATIENCE,
    town::{Checkout, Said, Town},
};

/// The app `tiny` in a town of its own, with what its developer has on disk.
pub(crate) struct Tiny {
    pub(crate) town: Town,
    pub(crate) app: App,
    pub(crate) checkout: Checkout,
}

impl Tiny {
    pub(crate) async fn new() -> Self {
        Self::in_town(Town::new().await).await
    }

    /// Created, and committed in version 1; nothing is pushed yet.
    pub(crate) async fn in_town(town: Town) -> Self {
        let app = town.app("tiny").await;
        let checkout = town.empty_checkout().await;
        checkout.file("server", SERVER);
        let mode = fs::Permissions::from_mode(0o755);
        fs::set_permissions(checkout.dir.join("server"), mode).unwrap();
        let tiny = Self {
            town,
            app,
            checkout,
        };
        tiny.commit(&[("Procfile", "web: ./server\n"), ("version", "1")])
            .await;
        tiny
    }

    /// In version 1, and live.
    pub(crate) async fn live() -> Self {
        let tiny = Self::new().await;
        tiny.push().await.ok();
        tiny
    }

    /// Writes these files and commits them.
    pub(crate) async fn commit(&self, files: &[(&str, &str)]) {
        for (path, text) in files {
            self.checkout.file(path, text);
        }
        self.checkout.commit("change").await;
    }

    pub(crate) async fn push(&self) -> Said {
        self.checkout.push("tiny").await
    }

    /// Commits these files and pushes them.
    pub(crate) async fn push_with(&self, files: &[(&str, &str)]) -> Said {
        self.commit(files).await;
        self.push().await
    }

    /// Its current release.
    pub(crate) async fn release(&self) -> Option<Release> {
        self.town.client.current_release("tiny").await.unwrap()
    }

    /// The port of its web job.
    pub(crate) async fn port(&self) -> u16 {
        self.town.port_of(&self.app, "web").await
    }

    /// Its web job answers so.
    pub(crate) async fn answers(&self, text: &str) {
        let answer = get(self.port().await, "/").await;
        assert!(answer.ends_with(text), "no {text:?} at the end of {answer}");
    }
}

/// What a port of this machine answers to a GET.
pub(crate) async fn get(port: u16, path: &str) -> String {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    let read = stream.read_to_string(&mut answer);
    timeout(PATIENCE, read).await.unwrap().unwrap();
    answer
}

const SERVER: &str = "#!/usr/bin/env python3
import http.server, os, sys
class Answer(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        body = f\"version {open('version').read()} setting {os.environ.get('SETTING')}\".encode()
        self.send_response(200)
        self.send_header('Content-Length', str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def log_message(self, *_): pass
http.server.HTTPServer(('127.0.0.1', int(os.environ['PORT'])), Answer).serve_forever()
";
