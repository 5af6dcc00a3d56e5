use proptest::prelude::*;

use super::*;

fn table(routes: &[(&str, &str)]) -> RouteTable<String> {
    let parsed: Vec<_> = routes
        .iter()
        .map(|(d, p)| (Domain::parse(d).unwrap(), PathPrefix::parse(p).unwrap()))
        .collect();
    RouteTable::build(parsed.iter().map(|(d, p)| (d, p, format!("{d}{p}"))))
}

#[test]
fn an_exact_host_wins_over_wildcards_and_the_most_specific_wildcard_over_the_others() {
    let table = table(&[
        ("*", "/"),
        ("*.com", "/"),
        ("*.b.com", "/"),
        ("a.b.com", "/"),
    ]);
    for (host, expected) in [
        ("a.b.com", "a.b.com/"),
        ("x.b.com", "*.b.com/"),
        ("y.x.b.com", "*.b.com/"),
        ("b.com", "*.com/"),
        ("com", "*/"),
        ("", "*/"),
        ("other.org", "*/"),
    ] {
        assert_eq!(table.lookup(host, "/").unwrap(), expected, "{host}");
    }
}

#[test]
fn the_longest_prefix_by_whole_segments_wins() {
    let table = table(&[("h", "/"), ("h", "/a"), ("h", "/a/b/c")]);
    for (path, expected) in [
        ("/", "h/"),
        ("/ab", "h/"),
        ("/a", "h/a/"),
        ("/a/", "h/a/"),
        ("/a/b", "h/a/"),
        ("/a/b/c", "h/a/b/c/"),
        ("/a/b/c/d/e", "h/a/b/c/"),
        ("//a", "h/"),
        ("*", "h/"),
        ("", "h/"),
    ] {
        assert_eq!(table.lookup("h", path).unwrap(), expected, "{path}");
    }
}

#[test]
fn a_host_that_does_not_cover_the_path_leaves_it_to_the_next_wildcard() {
    let table = table(&[("a.com", "/api"), ("*", "/")]);
    assert_eq!(table.lookup("a.com", "/api/x").unwrap(), "a.com/api/");
    assert_eq!(table.lookup("a.com", "/").unwrap(), "*/");
}

#[test]
fn nothing_fits_an_empty_table() {
    assert_eq!(table(&[]).lookup("a.com", "/"), None);
    assert_eq!(table(&[("a.com", "/")]).lookup("b.com", "/"), None);
    assert_eq!(table(&[("*.a.com", "/")]).lookup("a.com", "/"), None);
}

/// Says for each route whether and how well it fits, and takes the best.
fn model(routes: &[(Domain, PathPrefix)], host: &str, path: &str) -> Option<usize> {
    let host_rank = |domain: &Domain| match domain.wildcard() {
        None => (domain.as_str() == host).then_some(1000),
        Some("") => Some(0),
        Some(name) => host.ends_with(&format!(".{name}")).then_some(name.len()),
    };
    let fits = routes
        .iter()
        .enumerate()
        .filter_map(|(i, (domain, prefix))| {
            let rank = host_rank(domain)?;
            let in_path = prefix.contains(path) || prefix.as_str() == "/";
            in_path.then_some((rank, prefix.as_str().len(), i))
        });
    fits.max().map(|(.., i)| i)
}

fn label() -> impl Strategy<Value = String> {
    prop::sample::select(vec!["a", "b", "c"]).prop_map(str::to_owned)
}

fn name() -> impl Strategy<Value = String> {
    prop::collection::vec(label(), 1..4).prop_map(|labels| labels.join("."))
}

fn domain() -> impl Strategy<Value = Domain> {
    prop_oneof![
        name(),
        name().prop_map(|n| format!("*.{n}")),
        Just("*".to_owned()),
    ]
    .prop_map(|d| Domain::parse(d).unwrap())
}

fn prefix() -> impl Strategy<Value = PathPrefix> {
    prop::collection::vec(label(), 0..4)
        .prop_map(|s| PathPrefix::parse(format!("/{}", s.join("/"))).unwrap())
}

fn path() -> impl Strategy<Value = String> {
    prop::collection::vec(
        prop_oneof![label(), Just("ab".to_owned()), Just(String::new())],
        0..6,
    )
    .prop_map(|s| format!("/{}", s.join("/")))
}

proptest! {
    /// The table finds what trying every route finds.
    #[test]
    fn a_lookup_agrees_with_trying_every_route(
        routes in prop::collection::hash_map((domain(), prefix()), Just(()), 0..20),
        host in name(),
        path in path(),
    ) {
        let routes: Vec<_> = routes.into_keys().collect();
        let table = RouteTable::build(routes.iter().enumerate().map(|(i, (d, p))| (d, p, i)));
        prop_assert_eq!(table.lookup(&host, &path).copied(), model(&routes, &host, &path));
    }
}
