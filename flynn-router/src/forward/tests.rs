use super::*;

const FACTS: RequestFacts<'static> = RequestFacts {
    client: "10.0.0.1",
    port: "80",
    scheme: "http",
    request_id: "11111111-2222-4333-8444-555555555555",
    started_ms: 1_700_000_000_123,
    close: false,
};

const ADDED: &str =
    "X-Request-Id: 11111111-2222-4333-8444-555555555555\r\nX-Request-Start: 1700000000123\r\n\r\n";

fn parse(head: &str) -> RequestHead {
    let mut request = RequestHead::default();
    assert_eq!(
        request.parse(head.as_bytes(), &mut String::new()),
        Ok(true),
        "{head:?}"
    );
    request
}

fn forwarded(head: &str) -> String {
    let mut out = Vec::new();
    write_request(&mut out, &parse(head), head.as_bytes(), &FACTS);
    String::from_utf8(out).unwrap()
}

fn answered(head: &str, facts: &ResponseFacts<'_>) -> String {
    let mut response = ResponseHead::default();
    assert_eq!(response.parse(head.as_bytes(), false), Ok(true), "{head:?}");
    let mut out = Vec::new();
    write_response(&mut out, &response, head.as_bytes(), facts);
    String::from_utf8(out).unwrap()
}

fn keep_alive() -> ResponseFacts<'static> {
    ResponseFacts {
        close: false,
        is_http_10: false,
        cookie: None,
    }
}

#[test]
fn the_request_line_and_end_to_end_headers_go_on_byte_for_byte() {
    let head = "GET //a/%2F?b=%zz&c=|{} HTTP/1.1\r\nhOST: A.b:81\r\nX-Odd:   spaced \r\nAccept:*/*\r\n\r\n";
    let expected = format!(
        "GET //a/%2F?b=%zz&c=|{{}} HTTP/1.1\r\nhOST: A.b:81\r\nX-Odd: spaced\r\nAccept: */*\r\n\
         X-Forwarded-For: 10.0.0.1\r\nX-Forwarded-Proto: http\r\nX-Forwarded-Port: 80\r\nX-Forwarded-Host: A.b:81\r\n{ADDED}"
    );
    assert_eq!(forwarded(head), expected);
    assert!(
        forwarded("GET http://a/b HTTP/1.1\r\nHost: a\r\n\r\n")
            .starts_with("GET http://a/b HTTP/1.1\r\n")
    );
    assert!(forwarded("GET /b HTTP/1.0\r\n\r\n").starts_with("GET /b HTTP/1.1\r\nX-Forwarded-For"));
}

#[test]
fn headers_for_this_connection_only_stay_here() {
    let head = "GET / HTTP/1.1\r\nHost: a\r\nConnection: close, X-Mine\r\nKeep-Alive: 5\r\nTE: gzip\r\nX-Mine: 1\r\n\
                Upgrade: h2c\r\nProxy-Connection: x\r\nProxy-Authorization: b\r\nTrailer: T\r\n\r\n";
    let out = forwarded(head);
    for gone in [
        "Connection",
        "Keep-Alive",
        "TE:",
        "X-Mine",
        "Upgrade",
        "close",
    ] {
        assert!(!out.contains(gone), "{gone} in {out}");
    }
    assert!(
        out.contains("Proxy-Authorization: b\r\nTrailer: T\r\n"),
        "{out}"
    );
}

#[test]
fn forwarded_headers_are_appended_to_and_the_host_is_not_believed() {
    let head = "GET / HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: 1.1.1.1\r\nx-forwarded-for: 2.2.2.2\r\n\
                X-Forwarded-Proto: https\r\nX-Forwarded-Host: evil\r\nX-Request-Start: 1\r\n\r\n";
    let out = forwarded(head);
    assert!(
        out.contains("X-Forwarded-For: 1.1.1.1, 2.2.2.2, 10.0.0.1\r\n"),
        "{out}"
    );
    assert!(out.contains("X-Forwarded-Proto: https, http\r\n"), "{out}");
    assert!(
        !out.contains("evil") && out.contains("X-Forwarded-Host: a\r\n"),
        "{out}"
    );
    assert_eq!(out.matches("X-Request-Start").count(), 1);
}

#[test]
fn the_length_of_the_body_goes_on_in_the_same_way() {
    let out = forwarded(
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n",
    );
    assert!(
        out.contains("Content-Length: 5\r\nExpect: 100-continue\r\n"),
        "{out}"
    );
    let out = forwarded("POST / HTTP/1.1\r\nHost: a\r\ntransfer-encoding: CHUNKED\r\n\r\n");
    assert!(
        out.contains("\r\nTransfer-Encoding: chunked\r\n") && !out.contains("CHUNKED"),
        "{out}"
    );
}

#[test]
fn an_upgrade_goes_on_and_a_route_without_keep_alive_closes() {
    let out =
        forwarded("GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: WebSocket\r\n\r\n");
    assert!(
        out.contains("Connection: upgrade\r\nUpgrade: WebSocket\r\n"),
        "{out}"
    );
    let head = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";
    let mut out = Vec::new();
    let facts = RequestFacts {
        close: true,
        ..FACTS
    };
    write_request(&mut out, &parse(head), head.as_bytes(), &facts);
    assert!(
        String::from_utf8(out)
            .unwrap()
            .contains("Connection: close\r\n")
    );
}

#[test]
fn a_request_id_is_kept_if_it_is_a_good_one() {
    let id = |value: &str| {
        let head = format!("GET / HTTP/1.1\r\nHost: a\r\nX-Request-ID: {value}\r\n\r\n");
        request_id(&parse(&head).fields, head.as_bytes()).map(str::to_owned)
    };
    let good = "aZ09+/=-aZ09+/=-aZ09";
    assert_eq!(id(good).as_deref(), Some(good));
    assert_eq!(id(&"a".repeat(200)), Some("a".repeat(200)));
    for bad in [
        "",
        &"a".repeat(19),
        &"a".repeat(201),
        "aaaaaaaaaaaaaaaaaaaa aaaa",
        "aaaaaaaaaaaaaaaaaaaa_",
    ] {
        assert_eq!(id(bad), None, "{bad:?}");
    }
}

#[test]
fn a_response_goes_back_without_the_headers_of_its_connection() {
    let head = "HTTP/1.0 200 Fine, thanks\r\nserver: x\r\nConnection: keep-alive, x-mine\r\nX-Mine: 1\r\n\
                Set-Cookie: a=b\r\nContent-Length: 3\r\ncontent-length: 3\r\n\r\n";
    let expected =
        "HTTP/1.1 200 Fine, thanks\r\nserver: x\r\nSet-Cookie: a=b\r\nContent-Length: 3\r\n\r\n";
    assert_eq!(answered(head, &keep_alive()), expected);
}

#[test]
fn a_client_is_told_what_becomes_of_its_connection() {
    let head = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
    let close = ResponseFacts {
        close: true,
        ..keep_alive()
    };
    assert!(answered(head, &close).contains("Connection: close\r\n"));
    let old = ResponseFacts {
        is_http_10: true,
        ..keep_alive()
    };
    let out = answered(head, &old);
    assert!(
        out.contains("Connection: keep-alive\r\n") && !out.contains("chunked"),
        "{out}"
    );
    let out = answered("HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n", &close);
    assert_eq!(out, "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n");
    let out = answered(
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: Upgrade\r\n\r\n",
        &close,
    );
    assert_eq!(
        out,
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n"
    );
}

#[test]
fn a_cookie_is_found_among_others_and_added_to_the_response() {
    let head = "GET / HTTP/1.1\r\nHost: a\r\nCookie: a=1; _backend=x=y;b=2\r\nCookie: c=3\r\n\r\n";
    let find = |name| cookie(&parse(head).fields, head.as_bytes(), name).map(str::to_owned);
    assert_eq!(find("_backend").as_deref(), Some("x=y"));
    assert_eq!(find("c").as_deref(), Some("3"));
    assert_eq!(find("backend"), None);
    let facts = ResponseFacts {
        cookie: Some("_backend=1; Path=/"),
        ..keep_alive()
    };
    let out = answered("HTTP/1.1 204 No Content\r\n\r\n", &facts);
    assert!(out.contains("Set-Cookie: _backend=1; Path=/\r\n"), "{out}");
}
