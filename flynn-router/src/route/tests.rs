use super::*;

fn service() -> ServiceName {
    ServiceName::parse("www-web").unwrap()
}

fn why(json: &str) -> String {
    serde_json::from_str::<Route>(json).unwrap_err().to_string()
}

#[test]
fn a_domain_is_lower_cased_and_keeps_its_wildcard() {
    assert_eq!(
        Domain::parse("WWW.Example.COM.").unwrap().as_str(),
        "www.example.com"
    );
    assert_eq!(
        Domain::parse("*.Example.com").unwrap().wildcard(),
        Some("example.com")
    );
    assert_eq!(Domain::parse("*").unwrap().wildcard(), Some(""));
    assert_eq!(Domain::parse("localhost").unwrap().wildcard(), None);
}

#[test]
fn what_is_not_a_domain_is_refused() {
    for bad in [
        "",
        ".",
        "a..b",
        "a.*.b",
        "*a.b",
        "a b",
        "example.com:80",
        "http://x",
        "*.",
        "é.com",
    ] {
        assert!(Domain::parse(bad).is_err(), "{bad:?}");
    }
    assert!(Domain::parse("a.".repeat(127)).is_ok());
    assert!(Domain::parse("a.".repeat(128)).is_err());
}

#[test]
fn a_path_prefix_ends_in_a_slash_and_matches_whole_segments() {
    let api = PathPrefix::parse("/api").unwrap();
    assert_eq!(api.as_str(), "/api/");
    assert!(api.contains("/api") && api.contains("/api/") && api.contains("/api/v1"));
    assert!(!api.contains("/apix") && !api.contains("/ap") && !api.contains("/"));
    assert!(PathPrefix::root().contains("/anything") && PathPrefix::root().contains(""));
    assert_eq!(PathPrefix::parse("").unwrap(), PathPrefix::root());
}

#[test]
fn what_is_not_a_path_prefix_is_refused() {
    for bad in [
        "api", "/a b", "/a?b", "/a#b", "/a/../b", "/./a", "//", "/a//b", "/ä",
    ] {
        assert!(PathPrefix::parse(bad).is_err(), "{bad:?}");
    }
    assert!(PathPrefix::parse(format!("/{}", "a".repeat(194))).is_ok());
    assert!(PathPrefix::parse(format!("/{}", "a".repeat(195))).is_err());
}

#[test]
fn a_route_id_is_written_with_its_type() {
    let id = RouteId::random(RouteKind::Tcp);
    assert_eq!(RouteId::parse(&id.to_string()).unwrap(), id);
    assert!(id.to_string().starts_with("tcp/"));
    for bad in [
        "",
        "http",
        "udp/7e8a7a72-6d0c-4d2c-8b26-4a3e2d9f1e11",
        "http/1",
    ] {
        assert!(RouteId::parse(bad).is_err(), "{bad:?}");
    }
}

#[test]
fn the_json_of_the_old_command_line_is_read() {
    let route: Route = serde_json::from_str(
        r#"{"type":"http","service":"www-web","leader":false,"created_at":"0001-01-01T00:00:00Z",
            "updated_at":"0001-01-01T00:00:00Z","domain":"WWW.example.com","drain_backends":true}"#,
    )
    .unwrap();
    assert_eq!(route.created_at, None);
    assert!(route.drain_backends);
    let rule = route.rule.as_http().unwrap();
    assert_eq!(
        (rule.domain.as_str(), rule.path.as_str()),
        ("www.example.com", "/")
    );
}

#[test]
fn json_goes_out_and_comes_back_the_same() {
    let mut http = Route::http(Domain::any(), service())
        .with_path(PathPrefix::parse("/a/b").unwrap())
        .with_sticky()
        .with_leader()
        .with_parent_ref("controller/apps/1");
    http.created_at = Some("2026-01-02T03:04:05.678901Z".parse().unwrap());
    for route in [http, Route::tcp(3000, service()).unwrap()] {
        let json = serde_json::to_string(&route).unwrap();
        assert_eq!(
            serde_json::from_str::<Route>(&json).unwrap(),
            route,
            "{json}"
        );
    }
}

#[test]
fn empty_fields_are_left_out_and_leader_and_times_are_not() {
    let route = Route::tcp(3000, service()).unwrap();
    let json = serde_json::to_value(&route).unwrap();
    let fields: Vec<_> = json
        .as_object()
        .unwrap()
        .keys()
        .map(String::as_str)
        .collect();
    let expected = [
        "created_at",
        "id",
        "leader",
        "port",
        "service",
        "type",
        "updated_at",
    ];
    assert_eq!(fields, expected);
    assert_eq!(json["created_at"], "0001-01-01T00:00:00Z");
    assert_eq!(json["id"], route.id.uuid.to_string());
}

#[test]
fn a_route_that_contradicts_itself_is_refused_with_the_reason() {
    assert!(why(r#"{"type":"http","service":"s"}"#).contains("name a domain"));
    assert!(
        why(r#"{"type":"http","service":"s","domain":"d","port":80}"#)
            .contains("leave out the port")
    );
    assert!(
        why(r#"{"type":"http","service":"s","domain":"d","path":"x"}"#)
            .contains("begin with a slash")
    );
    assert!(why(r#"{"type":"tcp","service":"s"}"#).contains("1 to 65535"));
    assert!(why(r#"{"type":"tcp","service":"s","port":70000}"#).contains("1 to 65535"));
    assert!(
        why(r#"{"type":"tcp","service":"s","port":3000,"domain":"d"}"#)
            .contains("leave out domain")
    );
    assert!(why(r#"{"type":"http","service":"S","domain":"d"}"#).contains("service name"));
    assert!(why(r#"{"type":"http","service":"s","domain":"d","tls_cert":"x"}"#).contains("TLS"));
    assert!(why(r#"{"type":"http","service":"s","domain":"d","id":"1"}"#).contains("route id"));
}

#[test]
fn routes_collide_by_domain_and_path_or_by_port() {
    let route = |d, p| {
        Route::http(Domain::parse(d).unwrap(), service())
            .with_path(PathPrefix::parse(p).unwrap())
            .rule
    };
    assert!(route("a.b", "/x").collides(&route("A.B", "/x/")));
    assert!(!route("a.b", "/x").collides(&route("a.b", "/y")));
    assert!(!route("a.b", "/").collides(&Rule::Tcp { port: 80 }));
    assert!(Rule::Tcp { port: 80 }.collides(&Rule::Tcp { port: 80 }));
}
