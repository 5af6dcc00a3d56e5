use proptest::prelude::*;

use super::*;
use crate::body::Framing;

fn parse(head: &str) -> Result<(RequestHead, String), Refusal> {
    let mut request = RequestHead::default();
    let mut host = String::new();
    assert!(
        request.parse(head.as_bytes(), &mut host)?,
        "the head is complete: {head:?}"
    );
    Ok((request, host))
}

fn status(head: &str) -> u16 {
    parse(head).map_or_else(|refusal| refusal.status, |_| 200)
}

fn response(head: &str) -> Result<ResponseHead, BadResponse> {
    let mut response = ResponseHead::default();
    assert!(
        response.parse(head.as_bytes(), false)?,
        "the head is complete: {head:?}"
    );
    Ok(response)
}

#[test]
fn the_host_is_in_lower_case_without_port_and_dot() {
    for (line, expected) in [
        ("Host: WWW.Example.com:8080", "www.example.com"),
        ("Host: example.com.", "example.com"),
        ("host:a", "a"),
        ("Host: 127.0.0.1:1", "127.0.0.1"),
        ("Host: [::1]:80", "[::1]"),
        ("Host:", ""),
    ] {
        let (_, host) = parse(&format!("GET / HTTP/1.1\r\n{line}\r\n\r\n")).unwrap();
        assert_eq!(host, expected, "{line}");
    }
    assert_eq!(parse("GET / HTTP/1.0\r\n\r\n").unwrap().1, "");
    assert_eq!(
        parse("GET http://A.b:80/x HTTP/1.1\r\nHost: a.b:80\r\n\r\n")
            .unwrap()
            .1,
        "a.b"
    );
}

#[test]
fn a_request_whose_host_or_target_is_not_clear_is_refused() {
    for (head, expected) in [
        ("GET / HTTP/1.1\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nHost: a/b\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nHost: a b\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nHost: a:b\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nHost: u@a\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nHost: a,b\r\n\r\n", 400),
        ("GET http://a/ HTTP/1.1\r\nHost: b\r\n\r\n", 400),
        ("GET ftp://a/ HTTP/1.1\r\nHost: a\r\n\r\n", 400),
        ("GET a HTTP/1.1\r\nHost: a\r\n\r\n", 400),
        ("GET * HTTP/1.1\r\nHost: a\r\n\r\n", 400),
        ("OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n", 200),
        ("CONNECT a:1 HTTP/1.1\r\nHost: a:1\r\n\r\n", 405),
        ("GET / HTTP/2.0\r\nHost: a\r\n\r\n", 505),
        ("GET /\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nHost : a\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nHost: a\r\n folded: b\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nHost: a\r\nx: \x01\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nHost: a\r\nx: a\rb\r\n\r\n", 400),
    ] {
        assert_eq!(status(head), expected, "{head:?}");
    }
}

#[test]
fn a_request_whose_length_is_not_clear_is_refused() {
    for (lines, expected) in [
        ("Content-Length: 5", 200),
        ("Transfer-Encoding: Chunked", 200),
        ("Content-Length: 5\r\nTransfer-Encoding: chunked", 400),
        ("Transfer-Encoding: chunked\r\nContent-Length: 5", 400),
        ("Content-Length: 5\r\nContent-Length: 5", 400),
        ("Content-Length: 5\r\nContent-Length: 6", 400),
        ("Content-Length: 5, 5", 400),
        ("Content-Length: +5", 400),
        ("Content-Length: -5", 400),
        ("Content-Length: 0x5", 400),
        ("Content-Length:", 400),
        ("Content-Length: 99999999999999999999", 400),
        (
            "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
            400,
        ),
        (
            "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity",
            400,
        ),
        ("Transfer-Encoding: gzip, chunked", 501),
        ("Transfer-Encoding: xchunked", 501),
        ("Transfer-Encoding: \"chunked\"", 501),
        ("Transfer-Encoding:", 501),
        ("Transfer-Encoding : chunked", 400),
    ] {
        let head = format!("POST / HTTP/1.1\r\nHost: a\r\n{lines}\r\n\r\n");
        assert_eq!(status(&head), expected, "{lines:?}");
    }
    let old = "POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n";
    assert_eq!(status(old), 400);
}

#[test]
fn too_many_header_lines_are_refused() {
    let lines = |n| "a: b\r\n".repeat(n);
    assert_eq!(
        status(&format!(
            "GET / HTTP/1.1\r\nHost: a\r\n{}\r\n",
            lines(MAX_FIELDS - 1)
        )),
        200
    );
    assert_eq!(
        status(&format!(
            "GET / HTTP/1.1\r\nHost: a\r\n{}\r\n",
            lines(MAX_FIELDS)
        )),
        431
    );
}

#[test]
fn connection_says_whether_the_connection_goes_on() {
    let keeps = |head: &str| parse(head).unwrap().0.keeps_alive();
    assert!(keeps("GET / HTTP/1.1\r\nHost: a\r\n\r\n"));
    assert!(!keeps(
        "GET / HTTP/1.1\r\nHost: a\r\nConnection: x, Close\r\n\r\n"
    ));
    assert!(!keeps("GET / HTTP/1.0\r\n\r\n"));
    assert!(keeps("GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n"));
}

#[test]
fn connection_removes_what_it_names_but_not_the_length_or_the_host() {
    let head = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nX-Mine: 1\r\nKeep-Alive: 5\r\nTE: trailers\r\n\
                Connection: x-mine, content-length\r\nConnection: host\r\n\r\n";
    let (request, _) = parse(head).unwrap();
    let removed: Vec<_> = request
        .fields
        .with(Role::HopByHop)
        .map(|f| &head[f.name.clone()])
        .collect();
    assert_eq!(removed, ["X-Mine", "Keep-Alive", "TE"]);
    assert_eq!(request.framing, Framing::Length(1));
}

#[test]
fn an_upgrade_needs_both_headers_and_may_have_a_body() {
    let upgrade = |lines: &str| {
        let head = format!("GET / HTTP/1.1\r\nHost: a\r\n{lines}\r\n\r\n");
        parse(&head).unwrap().0.upgrade(head.as_bytes()).is_some()
    };
    assert!(upgrade(
        "Connection: keep-alive, Upgrade\r\nUpgrade: websocket"
    ));
    assert!(!upgrade("Upgrade: websocket"));
    assert!(!upgrade("Connection: upgrade\r\nUpgrade: websocket, H2C"));
    assert!(!upgrade(
        "Connection: upgrade\r\nUpgrade: websocket\r\nUpgrade: h2c"
    ));
    assert!(!upgrade("Connection: upgrade"));
    assert!(upgrade(
        "Connection: upgrade\r\nUpgrade: x\r\nContent-Length: 1"
    ));
}

#[test]
fn the_path_is_that_of_the_target_without_the_query() {
    for (target, expected) in [
        ("/a//b?c=/d", "/a//b"),
        ("http://a?x=1", "/"),
        ("http://a/b?x", "/b"),
        ("/", "/"),
        ("/%2e%2e/", "/%2e%2e/"),
    ] {
        let head = format!("GET {target} HTTP/1.1\r\nHost: a\r\n\r\n");
        assert_eq!(
            parse(&head).unwrap().0.path(head.as_bytes()),
            expected,
            "{target}"
        );
    }
}

#[test]
fn a_response_says_how_long_its_body_is() {
    for (head, expected) in [
        (
            "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n",
            Framing::Length(3),
        ),
        (
            "HTTP/1.1 200 OK\r\nContent-Length: 3\r\ncontent-length: 3\r\n\r\n",
            Framing::Length(3),
        ),
        (
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
            Framing::Chunked,
        ),
        ("HTTP/1.0 200\r\n\r\n", Framing::UntilClose),
        ("HTTP/1.1 204 No Content\r\n\r\n", Framing::None),
        ("HTTP/1.1 304 x\r\nContent-Length: 3\r\n\r\n", Framing::None),
        ("HTTP/1.1 100 Continue\r\n\r\n", Framing::None),
    ] {
        assert_eq!(response(head).unwrap().framing, expected, "{head:?}");
    }
    for head in [
        "HTTP/1.1 200 OK\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n",
        "HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
        "HTTP/1.1 099 OK\r\n\r\n",
        "SSH-2.0-OpenSSH_9\r\n\r\n",
    ] {
        assert!(response(head).is_err(), "{head:?}");
    }
}

#[test]
fn a_head_that_arrives_byte_by_byte_is_parsed_when_it_may_be_complete() {
    let head = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n";
    let parsed = (1..=head.len()).filter(|&n| n > 1 && may_be_complete(&head[..n], n - 1));
    assert_eq!(parsed.collect::<Vec<_>>(), [head.len()]);
}

proptest! {
    /// No input makes the parsers panic.
    #[test]
    fn any_bytes_are_parsed_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let _ = RequestHead::default().parse(&bytes, &mut String::new());
        let _ = ResponseHead::default().parse(&bytes, false);
    }

    /// Nor does any mixture of the lines that matter.
    #[test]
    fn any_lines_are_parsed_or_refused(
        lines in prop::collection::vec(prop::sample::select(vec![
            "Host: a", "Host:", "Content-Length: 1", "Content-Length:", "Transfer-Encoding: chunked",
            "Connection: close, , upgrade", "Connection: host", "Upgrade: x", "Expect: 100-continue", "x", ": y",
        ]), 0..8),
        target in prop::sample::select(vec!["/", "*", "http://", "http://a", "://", "?", "/?"]),
    ) {
        let head = format!("GET {target} HTTP/1.1\r\n{}\r\n\r\n", lines.join("\r\n"));
        if let Ok(true) = RequestHead::default().parse(head.as_bytes(), &mut String::new()) {
            prop_assert!(lines.iter().filter(|l| l.starts_with("Host")).count() == 1);
            prop_assert!(!(head.contains("Length") && head.contains("Encoding")));
        }
    }
}
