//! What goes over the wire, byte for byte, for the requests that existing clients were seen to make.
//!
//! `tests/data/wire.txt` holds requests (`>`) and the answers to them. `UPDATE_EXPECT=1` rewrites it; read the diff.

use std::{collections::BTreeMap, fmt::Write as _, path::Path};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use crate::world::{DEADLINE, KEY, World};

#[tokio::test]
async fn requests_of_existing_clients_are_answered_as_they_expect() {
    let mut world = World::with_hosts(1).await;
    let _controller = world.controller();
    let endpoint = world.serve(world.platform.clone()).await;
    let addr = endpoint.strip_prefix("http://").unwrap();
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/wire.txt");
    let script = std::fs::read_to_string(&path).unwrap();
    let mut names = Names::default();
    let mut transcript = String::new();
    let mut is_answer = false;
    for line in script.lines() {
        if line.is_empty() || line.starts_with('#') {
            is_answer = false;
        }
        if let Some(request) = line.strip_prefix("> ") {
            let answer = exchange(addr, &names.fill(request)).await;
            writeln!(transcript, "{line}\n{}", names.hide(&answer).trim_end()).unwrap();
            is_answer = true;
        } else if !is_answer {
            writeln!(transcript, "{line}").unwrap();
        }
    }
    let is_update = std::env::var_os("UPDATE_EXPECT").is_some();
    if is_update {
        std::fs::write(&path, &transcript).unwrap();
    }
    assert_eq!(
        transcript,
        script,
        "UPDATE_EXPECT=1 rewrites {}",
        path.display()
    );
}

/// Sends `METHOD path [!option…] [body]`; gives status, content type and body.
///
/// Options: `!nokey`, `!text` (no content type), `!sse:N` (accept events, read so many lines), `!json` (accept JSON).
async fn exchange(addr: &str, request: &str) -> String {
    let mut words = request.splitn(3, ' ');
    let (method, path) = (words.next().unwrap(), words.next().unwrap());
    let mut rest = words.next().unwrap_or_default();
    let mut options = Vec::new();
    while let Some(option) = rest.strip_prefix('!') {
        let (option, after) = option.split_once(' ').unwrap_or((option, ""));
        options.push(option);
        rest = after;
    }
    let lines: Option<usize> = options
        .iter()
        .find_map(|option| option.strip_prefix("sse:"))
        .map(|n| n.parse().unwrap());
    let mut head = format!("{method} {path} HTTP/1.1\r\nHost: controller\r\nConnection: close\r\n");
    if !options.contains(&"nokey") {
        let pair = BASE64_STANDARD.encode(format!(":{KEY}"));
        write!(head, "Authorization: Basic {pair}\r\n").unwrap();
    }
    if lines.is_some() {
        head += "Accept: text/event-stream\r\nLast-Event-Id: 0\r\n";
    } else if options.contains(&"json") {
        head += "Accept: application/json\r\n";
    }
    if !rest.is_empty() {
        if !options.contains(&"text") {
            head += "Content-Type: application/json\r\n";
        }
        write!(head, "Content-Length: {}\r\n", rest.len()).unwrap();
    }
    let mut stream = TcpStream::connect(addr).await.unwrap();
    stream
        .write_all(format!("{head}\r\n{rest}").as_bytes())
        .await
        .unwrap();
    let answer = tokio::time::timeout(DEADLINE, read(&mut stream, lines))
        .await
        .expect(request);
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    let status = head.split(' ').nth(1).unwrap();
    let kind = head
        .lines()
        .find_map(|line| line.strip_prefix("content-type: "))
        .unwrap_or("-");
    let body = if head.contains("transfer-encoding: chunked") {
        unchunk(body)
    } else {
        body.to_owned()
    };
    let body: Vec<&str> = body.lines().take(lines.unwrap_or(usize::MAX)).collect();
    // What the events are framed with must be seen.
    let body = if lines.is_some() {
        body.join("\u{240a}\n")
    } else {
        body.join("\n")
    };
    format!("{status} {kind}\n{body}")
}

async fn read(stream: &mut TcpStream, lines: Option<usize>) -> String {
    let mut bytes = Vec::new();
    loop {
        let mut buffer = [0; 4096];
        let n = stream.read(&mut buffer).await.unwrap();
        bytes.extend_from_slice(&buffer[..n]);
        let text = String::from_utf8_lossy(&bytes);
        let is_enough = lines.is_some_and(|lines| {
            text.split_once("\r\n\r\n")
                .is_some_and(|(_, body)| unchunk(body).matches('\n').count() >= lines)
        });
        if n == 0 || is_enough {
            return text.into_owned();
        }
    }
}

fn unchunk(mut body: &str) -> String {
    let mut whole = String::new();
    while let Some((size, rest)) = body.split_once("\r\n") {
        let size = usize::from_str_radix(size, 16).unwrap_or(0);
        if size == 0 || rest.len() < size {
            break;
        }
        whole += &rest[..size];
        body = rest[size..].trim_start_matches("\r\n");
    }
    whole
}

/// Ids and times differ from run to run: they are shown as `<1>`, `<2>`, … and `<time>`.
#[derive(Default)]
struct Names(BTreeMap<String, String>);

impl Names {
    fn fill(&self, text: &str) -> String {
        self.0
            .iter()
            .fold(text.to_owned(), |text, (id, name)| text.replace(name, id))
    }

    fn hide(&mut self, text: &str) -> String {
        let mut hidden = String::new();
        let mut rest = text;
        while let Some(first) = rest.chars().next() {
            if let Some(id) = rest.get(..36).filter(|id| is_uuid(id)) {
                let next = format!("<{}>", self.0.len() + 1);
                hidden += self.0.entry(id.to_owned()).or_insert(next);
                rest = &rest[36..];
            } else if let Some(end) = time_len(rest) {
                hidden += "<time>";
                rest = &rest[end..];
            } else {
                hidden.push(first);
                rest = &rest[first.len_utf8()..];
            }
        }
        hidden
    }
}

fn is_uuid(text: &str) -> bool {
    uuid::Uuid::try_parse(text).is_ok()
}

fn time_len(text: &str) -> Option<usize> {
    let end = text.get(..40).unwrap_or(text).find('Z')? + 1;
    let is_time =
        text.starts_with("20") && text.get(10..11) == Some("T") && text.get(..end)?.len() >= 20;
    is_time.then_some(end)
}
