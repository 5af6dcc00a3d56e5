//! The static file server over real connections.

use std::fs;

use flynn_discovery::http::serve;
use flynn_receive::StaticServer;
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};
use tokio_util::sync::{CancellationToken, DropGuard};

struct Site {
    addr: std::net::SocketAddr,
    dir: TempDir,
    _stop: DropGuard,
}

impl Site {
    async fn with(files: &[(&str, &str)]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("root");
        fs::create_dir(&root).unwrap();
        for (path, text) in files {
            let path = root.join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        let server = StaticServer::new(&root).await.unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let stop = CancellationToken::new();
        tokio::spawn(serve(
            listener,
            server.router(),
            stop.clone().cancelled_owned(),
        ));
        Self {
            addr,
            dir,
            _stop: stop.drop_guard(),
        }
    }

    async fn ask(&self, request: &str) -> String {
        let mut stream = TcpStream::connect(self.addr).await.unwrap();
        let request = format!("{request}\r\nhost: x\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    }

    async fn status(&self, request: &str) -> String {
        let answer = self.ask(request).await;
        answer.split(' ').nth(1).unwrap().to_owned()
    }
}

#[tokio::test]
async fn files_and_index_pages_are_served_with_their_types() {
    let site = Site::with(&[
        ("index.html", "home"),
        ("docs/index.html", "docs"),
        ("docs/a b.css", "css"),
        ("empty", ""),
    ])
    .await;
    let home = site.ask("GET / HTTP/1.1").await;
    assert!(home.contains("content-type: text/html"), "{home}");
    assert!(home.ends_with("\r\n\r\nhome"), "{home}");
    let css = site.ask("GET /docs/a%20b.css?v=1 HTTP/1.1").await;
    assert!(css.contains("content-type: text/css"), "{css}");
    let docs = site.ask("GET /docs?x=1 HTTP/1.1").await;
    assert!(docs.starts_with("HTTP/1.1 301"), "{docs}");
    assert!(docs.contains("location: /docs/?x=1\r\n"), "{docs}");
    assert!(site.ask("GET /docs/ HTTP/1.1").await.ends_with("docs"));
    let head = site.ask("HEAD / HTTP/1.1").await;
    assert!(head.contains("content-length: 4"), "{head}");
    assert!(head.ends_with("\r\n\r\n"), "{head}");
    assert_eq!(site.status("GET /empty HTTP/1.1").await, "200");
    assert_eq!(site.status("GET /none HTTP/1.1").await, "404");
    assert_eq!(site.status("GET /index.html/ HTTP/1.1").await, "404");
    assert_eq!(site.status("POST / HTTP/1.1").await, "405");
    // A redirect never leads to another host.
    let tricky = site.ask("GET //docs HTTP/1.1").await;
    assert!(tricky.contains("location: /docs/\r\n"), "{tricky}");
}

#[tokio::test]
async fn nothing_outside_the_directory_is_served_by_name_or_link() {
    let site = Site::with(&[("index.html", "home"), (".env", "secret")]).await;
    fs::write(site.dir.path().join("secret"), "secret").unwrap();
    let root = site.dir.path().join("root");
    std::os::unix::fs::symlink("../secret", root.join("link")).unwrap();
    std::os::unix::fs::symlink("index.html", root.join("inside")).unwrap();
    for path in [
        "/../secret",
        "/%2e%2e/secret",
        "/..%2fsecret",
        "/link",
        "/.env",
        "/%2eenv",
        "/x/../../secret",
    ] {
        let answer = site.ask(&format!("GET {path} HTTP/1.1")).await;
        assert!(answer.starts_with("HTTP/1.1 404"), "{path}: {answer}");
        assert!(
            !answer.contains("secret\n") && !answer.ends_with("secret"),
            "{path}"
        );
    }
    assert_eq!(site.status("GET /inside HTTP/1.1").await, "200");
}

#[tokio::test]
async fn parts_and_unchanged_files_are_answered_as_http_says() {
    let site = Site::with(&[("data.txt", "0123456789")]).await;
    let part = site.ask("GET /data.txt HTTP/1.1\r\nrange: bytes=2-4").await;
    assert!(part.starts_with("HTTP/1.1 206"), "{part}");
    assert!(part.contains("content-range: bytes 2-4/10"), "{part}");
    assert!(part.ends_with("\r\n\r\n234"), "{part}");
    let beyond = site.status("GET /data.txt HTTP/1.1\r\nrange: bytes=10-");
    assert_eq!(beyond.await, "416");

    let whole = site.ask("GET /data.txt HTTP/1.1").await;
    let etag = whole
        .lines()
        .find_map(|line| line.strip_prefix("etag: "))
        .unwrap();
    let again = format!("GET /data.txt HTTP/1.1\r\nif-none-match: {etag}");
    assert_eq!(site.status(&again).await, "304");
    fs::write(site.dir.path().join("root/data.txt"), "changed....").unwrap();
    assert_eq!(site.status(&again).await, "200");
}

#[tokio::test]
async fn the_page_for_what_is_missing_is_the_sites_own() {
    let site = Site::with(&[("404.html", "own page")]).await;
    let answer = site.ask("GET /none HTTP/1.1").await;
    assert!(answer.starts_with("HTTP/1.1 404"), "{answer}");
    assert!(answer.ends_with("own page"), "{answer}");
}
