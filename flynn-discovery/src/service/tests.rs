use super::*;
use crate::backend::{
    Op,
    kv::{Applied, Command, KvState},
};

/// A service in a state machine; each commit is told as the events it means.
struct Fixture {
    kv: KvState,
    keys: ServiceKeys,
    state: ServiceState,
}

impl Fixture {
    fn new(policy: LeaderPolicy) -> Self {
        let keys = ServiceKeys::new(&ServiceName::parse("www").unwrap());
        let mut fixture = Self {
            kv: KvState::new(),
            state: ServiceState::new(keys.clone()),
            keys,
        };
        let config = serde_json::to_vec(&ServiceConfig::new(policy)).unwrap();
        assert_eq!(
            fixture.commit(vec![Op::put(fixture.keys.config.clone(), config)]),
            Vec::<String>::new()
        );
        fixture
    }

    fn commit(&mut self, ops: Vec<Op>) -> Vec<String> {
        let compares = vec![];
        let Applied { result, changes } = self.kv.apply(Command::Commit { compares, ops });
        result.unwrap();
        let (revision, changes) = changes.unwrap();
        tell(self.state.handle(WatchEvent::Changes { changes, revision }))
    }

    fn up(&self, id: &str, addr: &str) -> Op {
        let instance = Instance::new(id, addr, "http").unwrap();
        let key = self.keys.instance(&instance.id);
        Op::put(key, serde_json::to_vec(&instance).unwrap())
    }

    fn down(&self, id: &str) -> Op {
        Op::delete(self.keys.instance(&InstanceId::parse(id).unwrap()))
    }

    fn choose(&self, id: &str) -> Op {
        Op::put(self.keys.leader.clone(), id.to_owned())
    }

    fn meta(&self, json: &str) -> Op {
        Op::put(self.keys.meta.clone(), json.to_owned())
    }
}

fn tell(events: Vec<ServiceEvent>) -> Vec<String> {
    let id =
        |leader: Option<Instance>| leader.map_or_else(|| "none".to_owned(), |i| i.id.to_string());
    events
        .into_iter()
        .map(|event| match event {
            ServiceEvent::Reset {
                instances,
                leader,
                metadata,
            } => {
                let ids: Vec<_> = instances.iter().map(|i| i.id.as_str()).collect();
                let meta = metadata.map_or_else(|| "none".to_owned(), |m| m.data.to_string());
                format!("reset {} leader {} meta {meta}", ids.join(","), id(leader))
            }
            ServiceEvent::Up(i) => format!("up {} {}", i.id, i.created),
            ServiceEvent::Update(i) => format!("update {} {}", i.id, i.addr),
            ServiceEvent::Down(i) => format!("down {} {}", i.id, i.created),
            ServiceEvent::Leader(leader) => format!("leader {}", id(leader)),
            ServiceEvent::Metadata(meta) => {
                let text =
                    meta.map_or_else(|| "none".to_owned(), |m| format!("{}@{}", m.data, m.index));
                format!("meta {text}")
            }
        })
        .collect()
}

#[test]
fn the_leader_is_told_after_what_made_it_one() {
    let mut www = Fixture::new(LeaderPolicy::Oldest);
    assert_eq!(www.commit(vec![www.up("b", ":1")]), ["up b 2", "leader b"]);
    assert_eq!(www.commit(vec![www.up("a", ":2")]), ["up a 3"]);
    assert_eq!(www.commit(vec![www.up("b", ":3")]), ["update b :3"]);
    assert_eq!(www.commit(vec![www.down("b")]), ["down b 2", "leader a"]);
    assert_eq!(www.commit(vec![www.down("a")]), ["down a 3", "leader none"]);
}

#[test]
fn an_instance_that_comes_again_goes_to_the_end() {
    let mut www = Fixture::new(LeaderPolicy::Oldest);
    www.commit(vec![www.up("a", ":1")]);
    www.commit(vec![www.up("b", ":1")]);
    assert_eq!(
        www.commit(vec![www.down("a"), www.up("a", ":1")]),
        ["down a 2", "up a 4", "leader b"]
    );
}

#[test]
fn a_leader_chosen_by_hand_leads_while_it_is_registered() {
    let mut db = Fixture::new(LeaderPolicy::Manual);
    assert_eq!(db.commit(vec![db.up("a", ":1")]), ["up a 2"]);
    assert_eq!(db.commit(vec![db.up("b", ":1")]), ["up b 3"]);
    assert_eq!(
        db.commit(vec![db.meta("1"), db.choose("b")]),
        ["meta 1@4", "leader b"]
    );
    assert_eq!(
        db.commit(vec![db.choose("b")]),
        ["leader b"],
        "told again when chosen again"
    );
    assert_eq!(db.commit(vec![db.choose("x")]), ["leader none"]);
    assert_eq!(db.commit(vec![db.choose("y")]), Vec::<String>::new());
    assert_eq!(db.commit(vec![db.choose("a")]), ["leader a"]);
    assert_eq!(db.commit(vec![db.down("a")]), ["down a 2", "leader none"]);
    assert_eq!(
        db.commit(vec![db.up("a", ":2")]),
        ["up a 10", "leader a"],
        "the choice outlives it"
    );
}

#[test]
fn a_reset_tells_the_whole_and_only_later_changes_are_told_after_it() {
    let mut www = Fixture::new(LeaderPolicy::Oldest);
    www.commit(vec![www.up("b", ":1"), www.meta(r#"{"a":1}"#)]);
    www.commit(vec![www.up("a", ":1")]);
    let mut late = ServiceState::new(www.keys.clone());
    let entries = www.kv.entries().cloned().collect();
    let revision = www.kv.revision();
    assert_eq!(
        tell(late.handle(WatchEvent::Reset { entries, revision })),
        [r#"reset b,a leader b meta {"a":1}"#]
    );
    www.state = late;
    assert_eq!(www.commit(vec![www.down("a")]), ["down a 3"]);
}

#[test]
fn removing_a_service_takes_everything_down() {
    let mut www = Fixture::new(LeaderPolicy::Oldest);
    www.commit(vec![www.up("a", ":1"), www.meta("true")]);
    let ops = www
        .kv
        .entries()
        .map(|e| Op::delete(e.key.clone()))
        .collect();
    assert_eq!(www.commit(ops), ["down a 2", "meta none", "leader none"]);
}

#[test]
fn what_is_not_readable_is_left_out() {
    let mut www = Fixture::new(LeaderPolicy::Oldest);
    let key = www.keys.instance(&InstanceId::parse("a").unwrap());
    assert_eq!(
        www.commit(vec![
            Op::put(key, "{"),
            www.meta("{"),
            Op::put(www.keys.prefix.key("other/thing").unwrap(), "x"),
            www.up("b", ":1"),
        ]),
        ["up b 2", "leader b"]
    );
}
