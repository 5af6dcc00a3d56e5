//! A client that sends exactly what it is told and reads what comes, with a reader of its own.

use std::net::SocketAddr;

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use crate::within;

/// One end of a connection, with what was read too much.
pub(crate) struct Client {
    pub(crate) stream: TcpStream,
    buffer: Vec<u8>,
}

/// A message: a response, or a request as a backend sees it.
#[derive(Debug, Clone)]
pub(crate) struct Message {
    pub(crate) status: u16,
    pub(crate) head: String,
    pub(crate) body: Vec<u8>,
}

impl Message {
    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().skip(1).find_map(|line| {
            let (key, value) = line.split_once(':')?;
            key.eq_ignore_ascii_case(name).then(|| value.trim())
        })
    }

    /// Does the connection end after it?
    pub(crate) fn closes(&self) -> bool {
        self.header("connection")
            .is_some_and(|v| v.contains("close"))
    }

    pub(crate) fn request_line(&self) -> &str {
        self.head.lines().next().unwrap_or_default()
    }
}

impl Client {
    pub(crate) async fn connect(addr: SocketAddr) -> Self {
        let stream = within("a connection", TcpStream::connect(addr))
            .await
            .unwrap();
        stream.set_nodelay(true).unwrap();
        Self::new(stream)
    }

    pub(crate) fn new(stream: TcpStream) -> Self {
        Self {
            stream,
            buffer: Vec::new(),
        }
    }

    pub(crate) async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        let write = self.stream.write_all(bytes.as_ref());
        within("the other side to take bytes", write).await.unwrap();
    }

    /// A request without a body to host `test`, and its response.
    pub(crate) async fn request(&mut self, method: &str, path: &str) -> Message {
        self.send(format!("{method} {path} HTTP/1.1\r\nHost: test\r\n\r\n"))
            .await;
        self.response_to(method).await
    }

    pub(crate) async fn get(&mut self, path: &str) -> Message {
        self.request("GET", path).await
    }

    pub(crate) async fn response(&mut self) -> Message {
        self.response_to("GET").await
    }

    pub(crate) async fn response_to(&mut self, method: &str) -> Message {
        let message = within("a response", self.message(method)).await;
        message.expect("the connection ended before the response did")
    }

    /// A response, or `None` if the connection ends before that is complete.
    pub(crate) async fn try_response(&mut self) -> Option<Message> {
        within("a response or the end", self.message("GET")).await
    }

    /// The next message; `None` if the connection ends before it is complete.
    pub(crate) async fn message(&mut self, method: &str) -> Option<Message> {
        let end = loop {
            if let Some(i) = self.buffer.windows(4).position(|w| w == b"\r\n\r\n") {
                break i + 4;
            }
            self.more().await?;
        };
        let head: Vec<u8> = self.buffer.drain(..end).collect();
        let head = String::from_utf8(head).expect("heads of tests are text");
        let status = head
            .strip_prefix("HTTP/1.1 ")
            .map_or(0, |rest| rest[..3].parse().unwrap());
        let mut message = Message {
            status,
            head,
            body: Vec::new(),
        };
        let has_no_body = method == "HEAD" || matches!(status, 100..200 | 204 | 304);
        if has_no_body {
        } else if message.header("transfer-encoding").is_some() {
            message.body = self.chunks().await?;
        } else if let Some(length) = message.header("content-length") {
            let length: usize = length.parse().unwrap();
            message.body = self.exactly(length).await?;
        } else if status != 0 {
            while self.more_or_error().await? {}
            message.body = std::mem::take(&mut self.buffer);
        }
        Some(message)
    }

    async fn chunks(&mut self) -> Option<Vec<u8>> {
        let mut body = Vec::new();
        loop {
            let line = self.line().await?;
            let size = line.split(';').next().unwrap();
            let size = usize::from_str_radix(size, 16).expect("a chunk size");
            if size == 0 {
                while !self.line().await?.is_empty() {}
                return Some(body);
            }
            body.extend(self.exactly(size).await?);
            assert_eq!(self.line().await?, "", "a chunk ends in a line end");
        }
    }

    async fn line(&mut self) -> Option<String> {
        let end = loop {
            if let Some(i) = self.buffer.windows(2).position(|w| w == b"\r\n") {
                break i + 2;
            }
            self.more().await?;
        };
        let line: Vec<u8> = self.buffer.drain(..end).collect();
        Some(String::from_utf8(line[..end - 2].to_vec()).unwrap())
    }

    pub(crate) async fn exactly(&mut self, n: usize) -> Option<Vec<u8>> {
        while self.buffer.len() < n {
            self.more().await?;
        }
        Some(self.buffer.drain(..n).collect())
    }

    /// Everything until the connection ends.
    pub(crate) async fn rest(&mut self) -> Vec<u8> {
        within("the end of the connection", async {
            while self.more().await.is_some() {}
        })
        .await;
        std::mem::take(&mut self.buffer)
    }

    /// Waits until the other side has ended the connection; nothing else may come.
    pub(crate) async fn ended(&mut self) {
        let rest = self.rest().await;
        assert!(rest.is_empty(), "{}", rest.escape_ascii());
    }

    async fn more(&mut self) -> Option<()> {
        self.more_or_error().await.filter(|more| *more).map(drop)
    }

    /// `None`: the connection was cut; `Some(false)`: it ended in order.
    async fn more_or_error(&mut self) -> Option<bool> {
        match self.stream.read_buf(&mut self.buffer).await {
            Ok(n) => Some(n > 0),
            Err(_) => None,
        }
    }
}
