//! Hypotheses as a person types them.

use flynn_sched::what_if::Hypothesis;

use crate::what_if::why;

#[test]
fn a_hypothesis_is_written_as_it_is_read() {
    for text in [
        "lose zone b",
        "lose rack r7",
        "lose host h3",
        "lose 3 hosts",
        "lose 1 host",
        "drain host h1",
        "drain zone b",
        "return host h3",
        "add 10 hosts like h1",
        "add 10 hosts cpu=8000 memory=32GiB zone=c",
        "add 1 host cpu=0 memory=512MiB disk=1025KiB zone=c rack=r1 tag.disk=ssd named.gpu=4",
        "scale web to 200",
        "remove group x",
    ] {
        let hypothesis: Hypothesis = text.parse().unwrap();
        assert_eq!(hypothesis.to_string(), text);
        let json = serde_json::to_string(&hypothesis).unwrap();
        assert_eq!(
            serde_json::from_str::<Hypothesis>(&json).unwrap(),
            hypothesis
        );
    }
    let all = Hypothesis::parse_all(" LOSE Zone b ;\n\n scale  web to 3;").unwrap();
    let all: Vec<String> = all.iter().map(ToString::to_string).collect();
    assert_eq!(all, ["lose zone b", "scale web to 3"]);
    let decimal: Hypothesis = "add 2 hosts cpu=500m memory=1GB".parse().unwrap();
    assert_eq!(decimal.to_string(), "add 2 hosts cpu=500 memory=1000000000");
}

#[test]
fn a_hypothesis_that_cannot_be_read_names_the_position_and_what_is_accepted() {
    for (text, position, expected) in [
        (
            "loose zone b",
            1,
            "lose, drain, return, add, scale or remove",
        ),
        ("", 1, "lose, drain"),
        ("lose zone", 10, "a zone's name"),
        ("lose planet b", 6, "zone and its name"),
        ("lose 0 hosts", 6, "a number and hosts"),
        ("lose 3 zones", 8, "hosts"),
        ("lose host H-3", 11, "a-z and 0-9"),
        ("lose zone b now", 13, "nothing more"),
        ("add ten hosts like h1", 5, "from 1 to 10000"),
        ("add 10001 hosts like h1", 5, "from 1 to 10000"),
        ("add 5 hosts", 12, "cpu=8000"),
        ("add 5 hosts zone=c", 19, "nothing would fit"),
        ("add 5 hosts memory=lots", 13, "32GiB"),
        ("add 5 hosts memory=99999999999999999999GiB", 13, "32GiB"),
        ("add 5 hosts memory=17179869184GiB", 13, "32GiB"),
        ("add 5 hosts cpu=fast", 13, "thousandths of a core"),
        ("add 5 hosts colour=red", 13, "tag.KEY=VALUE"),
        ("scale web 200", 11, "to and a count"),
        ("scale web to -3", 14, "a count from 0"),
        ("scale wéb to x", 14, "a count from 0"),
        ("remove web", 8, "group"),
    ] {
        let why = why(text.parse::<Hypothesis>());
        let found = why.contains(&format!("at position {position} is"));
        assert!(found && why.contains(expected), "{text}: {why}");
    }
}
