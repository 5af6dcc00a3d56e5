//! Constraint expressions: what they mean, how they are written, and what is said of mistakes.

use flynn_sched::{Constraint, Error, Expression, Host, Named, Resources};
use proptest::prelude::*;

use crate::fixture::{host_id, memory};

fn a_host() -> Host {
    let mut host = Host::new(
        host_id("h1"),
        Resources {
            cpu_millis: 8000,
            ..memory(64 << 10)
        },
    );
    host.zone = Some("a".to_owned());
    host.named = Named::from_iter([("gpu", 2)]);
    for (key, value) in [
        ("ssd", "true"),
        ("kernel", "5.10.3"),
        ("os", "debian 12"),
        ("odd key", "x"),
        ("beta", "2.0-rc1"),
    ] {
        host.tags.insert(key.to_owned(), value.to_owned());
    }
    host
}

fn parsed(text: &str) -> Expression {
    text.parse().unwrap_or_else(|error| panic!("{error}"))
}

#[test]
fn expressions_mean_what_they_say() {
    let host = a_host();
    for text in [
        "zone in (b, a) and tag.ssd = true and not rack = r7",
        "named.gpu >= 2",
        "named.tape = 0 and not has named.tape and has named.gpu",
        "cpu >= 4000 and cpu < 8001 and cpu in (1, 8000)",
        "memory >= 32GiB and memory = 64GiB and memory <= 68719476736 and memory > 60GB",
        "disk not in (1, 2KiB)",
        "tag.kernel matches 5.* and tag.kernel matches *.1?.* and not tag.kernel matches 5",
        "tag.kernel >= 5.9 and tag.kernel < 5.11 and tag.kernel > 5.10 and tag.kernel <= v5.10.3.0",
        "tag.beta < 2.0 and tag.beta > 1.9 and not tag.beta >= 2",
        "has tag.ssd and has zone and not has rack",
        "tag.os = \"debian 12\" and tag.\"odd key\" != \"\\\"and\\\\\"",
        "id = h1 or zone = b and zone = c",
        "(id = h1 or zone = b) and (zone = a or zone = c)",
        "not not zone == a",
        "not (zone = b or rack = a)",
        // Nothing is said of what is not there.
        "not rack = a and not rack != a and not rack in (a) and not rack not in (a) and not rack < 7 and not rack matches *",
        // Text that is no version is neither less nor more.
        "not tag.ssd < 1 and not tag.ssd >= 1",
    ] {
        assert!(parsed(text).admits(&host), "{text}");
        let denied = parsed(&format!("not ({text})"));
        assert!(!denied.admits(&host), "{denied}");
    }
}

#[test]
fn what_a_host_lacks_is_the_part_that_is_not_true() {
    let lack = |text: &str| Constraint::Expression(parsed(text)).lack(&a_host());
    assert_eq!(
        lack("zone in (b, c) and tag.ssd = true and not id = h1"),
        "needs zone in (b, c), it is a and needs not id = h1, it is h1"
    );
    assert_eq!(
        lack("rack = r7 or memory > 1TiB"),
        "needs rack = r7, there is none or needs memory > 1TiB, it is 64GiB"
    );
    assert_eq!(
        lack("not (zone = a and cpu > 1)"),
        "needs not (zone = a and cpu > 1)"
    );
    assert_eq!(lack("zone = a"), "");
}

#[test]
fn mistakes_are_shown_where_they_are() {
    for (text, at, message) in [
        ("", 0, "expected a condition, found the end"),
        (
            "zone",
            4,
            "expected =, !=, <, <=, >, >=, 'in', 'not in', 'matches', found the end",
        ),
        (
            "zone = a b",
            9,
            "expected 'and', 'or' or the end, found 'b'",
        ),
        (
            "zone =",
            6,
            "expected a value (keywords in double quotes), found the end",
        ),
        (
            "zone = and",
            7,
            "expected a value (keywords in double quotes), found 'and'",
        ),
        ("zone in a", 8, "expected '(', found 'a'"),
        (
            "zone in ()",
            9,
            "expected a value (keywords in double quotes), found ')'",
        ),
        ("zone not a", 9, "expected 'in', found 'a'"),
        (
            "tag.a = b and zoen = a",
            14,
            "expected one of id, zone, rack, cpu, memory, disk, named.<name>, tag.<key>, found 'zoen'",
        ),
        (
            "has tag.",
            4,
            "expected one of id, zone, rack, cpu, memory, disk, named.<name>, tag.<key>, found 'tag.'",
        ),
        (
            "cpu >= lots",
            7,
            "expected a whole number, such as 4000, found 'lots'",
        ),
        (
            "cpu >= 4GiB",
            7,
            "expected a whole number, such as 4000, found '4GiB'",
        ),
        (
            "cpu >= -1",
            7,
            "expected a whole number, such as 4000, found '-1'",
        ),
        (
            "cpu matches 4*",
            4,
            "expected =, !=, <, <=, >, >=, 'in', 'not in', found 'matches'",
        ),
        (
            "memory >= 99999999999TiB",
            10,
            "expected a whole number of bytes, such as 1073741824 or 32GiB, found '99999999999TiB'",
        ),
        ("(zone = a", 9, "expected 'and', 'or' or ')', found the end"),
        (
            "zone = \"a",
            7,
            "expected a second \" somewhere, found '\"'",
        ),
        (
            "zone = 'a'",
            7,
            "expected a word, a quoted text, a comparison or '(', found '''",
        ),
        (
            "zone = a; cpu",
            8,
            "expected a word, a quoted text, a comparison or '(', found ';'",
        ),
    ] {
        let error = text.parse::<Expression>().unwrap_err();
        let shown = error.to_string();
        let mut lines = shown.lines();
        assert_eq!(
            lines.next(),
            Some(format!("at {at}: {message}").as_str()),
            "{text}"
        );
        assert_eq!(lines.next(), Some(format!("  {text}").as_str()));
        assert_eq!(lines.next().map(str::len), Some(at + 3), "{text}");
        assert_eq!(error.position(), at);
    }
    let error = Error::from("zone".parse::<Expression>().unwrap_err());
    assert!(
        error.to_string().starts_with("constraint: at 4: expected"),
        "{error}"
    );
    let long = format!("zone = a and {} and zoen = b", "ü".repeat(200) + " = a");
    let shown = long.parse::<Expression>().unwrap_err().to_string();
    assert!(
        shown.lines().all(|line| line.chars().count() <= 170),
        "{shown}"
    );
}

#[test]
fn absurd_texts_are_refused_and_overflow_nothing() {
    for text in [
        "(".repeat(100_000),
        "not ".repeat(100_000),
        "zone = a and ".repeat(100_000),
    ] {
        let error = text.parse::<Expression>().unwrap_err().to_string();
        assert!(error.contains("expected at most 4096 bytes"), "{error}");
    }
    for text in ["(".repeat(4000), "not ".repeat(1000)] {
        let error = text.parse::<Expression>().unwrap_err().to_string();
        assert!(
            error.contains("at most 32 nested parentheses and 'not's"),
            "{error}"
        );
    }
    let deep = format!("{}zone = a{}", "(".repeat(32), ")".repeat(32));
    assert!(parsed(&deep).admits(&a_host()));
    // A pattern that would make a naive matcher try everything.
    let stars = format!("tag.a matches {}b", "*a".repeat(500));
    let mut host = a_host();
    host.tags.insert("a".to_owned(), "a".repeat(2000));
    assert!(!parsed(&stars).admits(&host));
}

#[test]
fn expressions_travel_as_text() {
    let constraint = Constraint::Expression(parsed("zone  in ( a,b ) and memory>=1024MiB"));
    let json = serde_json::to_string(&constraint).unwrap();
    assert_eq!(
        json,
        r#"{"expression":"zone in (a, b) and memory >= 1GiB"}"#
    );
    assert_eq!(
        serde_json::from_str::<Constraint>(&json).unwrap(),
        constraint
    );
    let error = serde_json::from_str::<Constraint>(r#"{"expression":"zone"}"#).unwrap_err();
    assert!(error.to_string().contains("at 4: expected"), "{error}");
}

fn any_value() -> impl Strategy<Value = String> {
    prop_oneof![
        "[a-z0-9.*?]{1,4}".prop_filter("a keyword is no value", |word| {
            !["and", "or", "not", "in", "has"].contains(&word.as_str())
        }),
        prop::sample::select(vec!["\"and\"", "\"\"", "\"a b\"", "\"\\\"\\\\\"", "\"ü(\""])
            .prop_map(str::to_owned),
    ]
}

fn any_test() -> impl Strategy<Value = String> {
    let text = prop::sample::select(vec![
        "id",
        "zone",
        "rack",
        "tag.a",
        "tag.\"a b\"",
        "tag.and",
    ]);
    let amount = prop::sample::select(vec!["cpu", "named.gpu", "named.\"or\""]);
    let bytes = prop::sample::select(vec!["memory", "disk"]);
    let sign = || prop::sample::select(vec!["=", "==", "!=", "<", "<=", ">", ">="]);
    let within = prop::sample::select(vec!["in", "not in"]);
    let size = (
        0..5000_u64,
        prop::sample::select(vec!["", "KiB", "MiB", "GiB", "TiB", "KB", "GB"]),
    );
    prop_oneof![
        (text.clone(), sign(), any_value()).prop_map(|(a, s, v)| format!("{a}{s}{v}")),
        (text.clone(), any_value()).prop_map(|(a, v)| format!("{a} matches {v}")),
        (
            text.clone(),
            within,
            prop::collection::vec(any_value(), 1..4)
        )
            .prop_map(|(a, w, list)| format!("{a} {w} ({})", list.join(","))),
        (amount, sign(), any::<u64>()).prop_map(|(a, s, n)| format!("{a} {s} {n}")),
        (bytes, sign(), size).prop_map(|(a, s, (n, unit))| format!("{a} {s} {n}{unit}")),
        text.prop_map(|a| format!("has {a}")),
    ]
}

fn any_expression() -> impl Strategy<Value = String> {
    any_test().prop_recursive(5, 24, 4, |inner| {
        let list = || prop::collection::vec(inner.clone(), 2..4);
        prop_oneof![
            list().prop_map(|all| format!("({})", all.join(" and "))),
            list().prop_map(|any| format!("({})", any.join(" or "))),
            list().prop_map(|any| any.join(" or ")),
            inner.clone().prop_map(|inner| format!("not {inner}")),
        ]
    })
}

proptest! {
    /// What is shown is what was parsed.
    #[test]
    fn the_text_form_is_canonical(text in any_expression()) {
        let expression = parsed(&text);
        let shown = expression.to_string();
        prop_assert_eq!(&parsed(&shown), &expression, "{} became {}", text, shown);
        prop_assert_eq!(parsed(&shown).to_string(), shown);
    }

    /// Whatever is written, the answer is an expression or an error within the text.
    #[test]
    fn no_text_is_too_odd(text in "(zone|tag\\.a|cpu|not|and|or|in|has|[ ()=<>!\",\\\\ü*0-9a-z.]){0,20}") {
        match text.parse::<Expression>() {
            Ok(expression) => prop_assert_eq!(parsed(&expression.to_string()), expression),
            Err(error) => prop_assert!(error.position() <= text.len() && !error.to_string().is_empty()),
        }
    }

    /// An expression is true, or says what is lacking.
    #[test]
    fn what_is_not_true_has_a_reason(text in any_expression()) {
        let expression = parsed(&text);
        prop_assert_eq!(expression.admits(&a_host()), expression.lack(&a_host()).is_empty());
    }
}
