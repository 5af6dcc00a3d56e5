//! Backends that do exactly what a test wants.

use std::{
    future::Future,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU32, AtomicUsize, Ordering},
    },
};

use tokio::{net::TcpListener, task::JoinSet};

use crate::client::{Client, Message};

/// A server on the loopback that ends, with all its connections, when it is dropped.
pub(crate) struct Backend {
    pub(crate) addr: SocketAddr,
    connections: Arc<AtomicUsize>,
    requests: Arc<AtomicUsize>,
    _server: JoinSet<()>,
}

/// What a backend's code gets with each connection.
pub(crate) struct Conn {
    pub(crate) client: Client,
    requests: Arc<AtomicUsize>,
}

impl Conn {
    /// The next request; `None` at the end of the connection.
    pub(crate) async fn request(&mut self) -> Option<Message> {
        let request = self.client.message("").await?;
        self.requests.fetch_add(1, Ordering::SeqCst);
        Some(request)
    }

    /// The head of the next request, leaving its body; `None` at the end of the connection.
    pub(crate) async fn head(&mut self) -> Option<String> {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.extend(self.client.exactly(1).await?);
        }
        self.requests.fetch_add(1, Ordering::SeqCst);
        Some(String::from_utf8(head).expect("heads of tests are text"))
    }

    /// A response with a length.
    pub(crate) async fn respond(&mut self, body: &str) {
        let length = body.len();
        self.client
            .send(format!(
                "HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n{body}"
            ))
            .await;
    }
}

impl Backend {
    pub(crate) async fn start<F, S>(serve: S) -> Self
    where
        F: Future<Output = ()> + Send + 'static,
        S: Fn(Conn) -> F + Send + 'static,
    {
        Self::start_on("127.0.0.1:0".parse().unwrap(), serve).await
    }

    pub(crate) async fn start_on<F, S>(addr: SocketAddr, serve: S) -> Self
    where
        F: Future<Output = ()> + Send + 'static,
        S: Fn(Conn) -> F + Send + 'static,
    {
        let listener = TcpListener::bind(addr).await.unwrap();
        let addr = listener.local_addr().unwrap();
        let connections = Arc::new(AtomicUsize::new(0));
        let requests = Arc::new(AtomicUsize::new(0));
        let (count, asked) = (Arc::clone(&connections), Arc::clone(&requests));
        let mut server = JoinSet::new();
        server.spawn(async move {
            let mut tasks = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                stream.set_nodelay(true).unwrap();
                count.fetch_add(1, Ordering::SeqCst);
                let conn = Conn {
                    client: Client::new(stream),
                    requests: Arc::clone(&asked),
                };
                tasks.spawn(serve(conn));
            }
        });
        Self {
            addr,
            connections,
            requests,
            _server: server,
        }
    }

    /// Answers every request with its name.
    pub(crate) async fn named(name: &'static str) -> Self {
        Self::start(move |conn| answer(conn, name)).await
    }

    /// Answers every request with its head and body as they arrived.
    pub(crate) async fn mirror() -> Self {
        Self::start(|mut conn| async move {
            while let Some(request) = conn.request().await {
                let body = format!("{}{}", request.head, request.text());
                conn.respond(&body).await;
            }
        })
        .await
    }

    /// How many connections it has accepted.
    pub(crate) fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }

    /// How many requests it has read.
    pub(crate) fn requests(&self) -> usize {
        self.requests.load(Ordering::SeqCst)
    }

    /// An address that refuses connections: of a port that the system does not give to whoever asks for any.
    pub(crate) async fn nobody() -> SocketAddr {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        loop {
            let next = std::process::id() * 61 + NEXT.fetch_add(1, Ordering::Relaxed);
            let port = 10_000 + u16::try_from(next % 10_000).unwrap();
            let addr = SocketAddr::from(([127, 0, 0, 1], port));
            if TcpListener::bind(addr).await.is_ok() {
                return addr;
            }
        }
    }
}

/// Answers every request with `name`.
pub(crate) async fn answer(mut conn: Conn, name: &'static str) {
    while conn.request().await.is_some() {
        conn.respond(name).await;
    }
}
