use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use proptest::prelude::*;

use super::*;

fn key(text: &str) -> Key {
    Key::parse(text).unwrap()
}

fn put(text: &str, value: &str) -> Op {
    Op::put(key(text), value.to_owned())
}

fn leased(text: &str, lease: u64) -> Op {
    Op::Put {
        key: key(text),
        value: Bytes::new(),
        lease: Some(LeaseId(lease)),
    }
}

fn commit(compares: Vec<Compare>, ops: Vec<Op>) -> Command {
    Command::Commit { compares, ops }
}

fn done(applied: Applied) -> u64 {
    match applied.result.unwrap() {
        Outcome::Committed(revision) => revision.0,
        Outcome::Granted(lease) => lease.0,
    }
}

const GRANT: Command = Command::Grant { ttl_ms: 1000 };

#[test]
fn ops_are_carried_out_in_order_and_told_in_order() {
    let mut state = KvState::new();
    let ops = vec![
        put("a", "1"),
        Op::delete(key("a")),
        put("a", "2"),
        put("a", "3"),
    ];
    let applied = state.apply(commit(vec![], ops));
    let (revision, changes) = applied.changes.unwrap();
    let told: Vec<_> = changes
        .iter()
        .map(|change| match change {
            Change::Put(entry) => String::from_utf8(entry.value.to_vec()).unwrap(),
            Change::Delete(_) => "-".to_owned(),
        })
        .collect();
    assert_eq!(told, ["1", "-", "2", "3"]);
    assert_eq!(revision, Revision(1));
    assert_eq!(state.get(&key("a")).unwrap().value, "3");
}

#[test]
fn a_key_that_moves_between_leases_ends_with_the_last_one() {
    let mut state = KvState::new();
    assert_eq!((done(state.apply(GRANT)), done(state.apply(GRANT))), (1, 2));
    done(state.apply(commit(
        vec![],
        vec![
            leased("a", 1),
            leased("b", 1),
            leased("a", 2),
            leased("c", 1),
        ],
    )));
    done(state.apply(commit(vec![], vec![put("c", "kept")])));
    let applied = state.apply(Command::Expire {
        leases: vec![LeaseId(1), LeaseId(7)],
    });
    assert_eq!(applied.changes.unwrap().1, [Change::Delete(key("b"))]);
    assert!(state.get(&key("a")).is_some() && state.get(&key("c")).is_some());
    let revision = state.revision();
    assert_eq!(
        done(state.apply(Command::Revoke { lease: LeaseId(1) })),
        revision.0
    );
    assert_eq!(
        done(state.apply(Command::Revoke { lease: LeaseId(2) })),
        revision.0 + 1
    );
    assert_eq!(state.len(), 1);
    assert_eq!(
        done(state.apply(GRANT)),
        3,
        "no lease id is ever given twice"
    );
}

#[test]
fn limits_are_named() {
    let mut state = KvState::new();
    let mut refused = |ops| match state.apply(commit(vec![], ops)).result {
        Err(error @ Error::Invalid { .. }) => error.to_string(),
        other => panic!("not refused as invalid: {other:?}"),
    };
    assert_eq!(
        refused(vec![put("a", "x"); MAX_OPS + 1]),
        "a transaction of 4097 compares and ops: at most 4096 are allowed: split it"
    );
    assert_eq!(
        refused(vec![put("a", &"x".repeat(MAX_VALUE_LEN + 1))]),
        "the value of a, 1048577 bytes: a value has at most 1048576 bytes: keep large data elsewhere"
    );
    assert_eq!(
        refused(vec![put("a", &"x".repeat(MAX_VALUE_LEN)); 8]),
        "a transaction of 8388616 bytes: at most 8388608 are allowed: split it"
    );
    assert_eq!(state, KvState::new());
}

#[test]
fn a_page_of_large_values_ends_early_and_says_so() {
    let mut state = KvState::new();
    for i in 0..6 {
        let op = put(&format!("a/{i}"), &"x".repeat(MAX_VALUE_LEN));
        done(state.apply(commit(vec![], vec![op])));
    }
    let page = state.list(&Prefix::root(), &ListOptions::default());
    assert!(page.more && page.entries.len() == 3);
}

#[test]
fn a_lease_time_is_brought_into_range() {
    assert_eq!(Command::grant(Duration::ZERO), Command::Grant { ttl_ms: 1 });
    assert_eq!(Command::grant(Duration::MAX), Command::grant(MAX_TTL));
}

#[test]
fn a_snapshot_that_contradicts_itself_is_refused() {
    let entry = Entry {
        key: key("a"),
        value: Bytes::new(),
        version: Revision(3),
        created: Revision(3),
        lease: None,
    };
    let header = Header {
        revision: Revision(3),
        ..Header::default()
    };
    assert!(KvState::import(header.clone(), [entry.clone()]).is_ok());
    let of_no_lease = Entry {
        lease: Some(LeaseId(1)),
        ..entry.clone()
    };
    let of_tomorrow = Entry {
        version: Revision(4),
        ..entry
    };
    for wrong in [of_no_lease, of_tomorrow] {
        let error = KvState::import(header.clone(), [wrong]).unwrap_err();
        assert!(error.to_string().starts_with("protocol: a snapshot holds"));
    }
}

/// The same thing in the plainest way: every command looks at every key.
#[derive(Debug, Clone, Default)]
struct Model {
    entries: BTreeMap<Key, Entry>,
    leases: BTreeSet<LeaseId>,
    revision: u64,
    last_lease: u64,
}

impl Model {
    /// `Err(None)` is a lost lease.
    fn apply(&mut self, command: &Command) -> Result<u64, Option<Key>> {
        let before = self.entries.clone();
        let mut touched = false;
        match command {
            Command::Commit { compares, ops } => {
                for compare in compares {
                    if !compare.condition.holds(self.entries.get(&compare.key)) {
                        return Err(Some(compare.key.clone()));
                    }
                }
                let lost = |op: &&Op| matches!(op, Op::Put { lease: Some(l), .. } if !self.leases.contains(l));
                if ops.iter().find(lost).is_some() {
                    return Err(None);
                }
                for op in ops {
                    match op {
                        Op::Put { key, value, lease } => {
                            let version = Revision(self.revision + 1);
                            let created = self.entries.get(key).map_or(version, |e| e.created);
                            let entry = Entry {
                                key: key.clone(),
                                value: value.clone(),
                                version,
                                created,
                                lease: *lease,
                            };
                            self.entries.insert(key.clone(), entry);
                            touched = true;
                        }
                        Op::Delete { key } => touched |= self.entries.remove(key).is_some(),
                    }
                }
            }
            Command::Grant { .. } => {
                self.last_lease += 1;
                self.leases.insert(LeaseId(self.last_lease));
                return Ok(self.last_lease);
            }
            Command::Revoke { lease } => self.end(&[*lease]),
            Command::Expire { leases } => self.end(leases),
        }
        self.revision += u64::from(touched || before != self.entries);
        Ok(self.revision)
    }

    fn end(&mut self, leases: &[LeaseId]) {
        for lease in leases {
            self.leases.remove(lease);
            self.entries.retain(|_, entry| entry.lease != Some(*lease));
        }
    }
}

fn any_key() -> impl Strategy<Value = Key> {
    prop::sample::select(vec!["a", "a/b", "a/b/c", "a/bc", "ab", "b/a", "b/b"]).prop_map(key)
}

fn any_lease() -> impl Strategy<Value = LeaseId> {
    (1..6_u64).prop_map(LeaseId)
}

fn any_condition() -> impl Strategy<Value = Condition> {
    prop_oneof![
        Just(Condition::Any),
        Just(Condition::Absent),
        Just(Condition::Present),
        (1..12_u64).prop_map(|v| Condition::Version(Revision(v))),
    ]
}

fn any_command() -> impl Strategy<Value = Command> {
    let compare =
        (any_key(), any_condition()).prop_map(|(key, condition)| Compare { key, condition });
    let op = prop_oneof![
        3 => (any_key(), any::<u8>(), prop::option::of(any_lease())).prop_map(
            |(key, byte, lease)| Op::Put { key, value: Bytes::from(vec![byte]), lease }
        ),
        1 => any_key().prop_map(Op::delete),
    ];
    prop_oneof![
        6 => (prop::collection::vec(compare, 0..2), prop::collection::vec(op, 0..5))
            .prop_map(|(compares, ops)| Command::Commit { compares, ops }),
        2 => Just(GRANT),
        1 => any_lease().prop_map(|lease| Command::Revoke { lease }),
        1 => prop::collection::vec(any_lease(), 0..3).prop_map(|leases| Command::Expire { leases }),
    ]
}

proptest! {
    /// The indexed state and the plain model give the same answers, hold the same, and their changes lead from one
    /// state to the next; through the wire format and through a snapshot too.
    #[test]
    fn it_does_what_a_plain_map_does(commands in prop::collection::vec(any_command(), 1..60)) {
        let (mut state, mut model) = (KvState::new(), Model::default());
        let mut followed: BTreeMap<Key, Entry> = BTreeMap::new();
        for command in commands {
            let wire = postcard::to_stdvec(&command).unwrap();
            let command: Command = postcard::from_bytes(&wire).unwrap();
            let before = state.clone();
            let expected = model.apply(&command);
            let applied = state.apply(command);
            match (&applied.result, &expected) {
                (Ok(Outcome::Committed(Revision(n)) | Outcome::Granted(LeaseId(n))), Ok(m)) => {
                    prop_assert_eq!(n, m);
                }
                (Err(Error::Conflict { key }), Err(Some(expected))) => prop_assert_eq!(key, expected),
                (Err(Error::LeaseLost { .. }), Err(None)) => {}
                (got, expected) => prop_assert!(false, "{got:?} instead of {expected:?}"),
            }
            if applied.result.is_err() {
                prop_assert_eq!(&before, &state);
            }
            for change in applied.changes.into_iter().flat_map(|(_, changes)| changes) {
                match change {
                    Change::Put(entry) => { followed.insert(entry.key.clone(), entry); }
                    Change::Delete(key) => { prop_assert!(followed.remove(&key).is_some()); }
                }
            }
            prop_assert!(state.entries().eq(model.entries.values()));
            prop_assert!(state.leases().map(|l| l.id).eq(model.leases.iter().copied()));
            prop_assert_eq!(&followed, &model.entries);
        }
        prop_assert_eq!(&KvState::import(state.header(), state.entries().cloned()).unwrap(), &state);
    }

    /// Pages put together are what a filter over everything gives.
    #[test]
    fn pages_add_up_to_the_whole(
        keys in prop::collection::btree_set(any_key(), 0..7),
        prefix in prop::sample::select(vec!["", "a/", "a/b/", "b/", "c/"]),
        limit in 0..4_usize,
    ) {
        let mut state = KvState::new();
        for key in &keys {
            done(state.apply(commit(vec![], vec![Op::put(key.clone(), "x")])));
        }
        let prefix = Prefix::parse(prefix).unwrap();
        let mut listed = Vec::new();
        loop {
            let after = listed.last().cloned();
            let page = state.list(&prefix, &ListOptions { after, limit });
            prop_assert!(page.entries.len() <= limit.max(1));
            listed.extend(page.entries.into_iter().map(|e| e.key));
            if !page.more { break; }
        }
        let expected: Vec<_> = keys.into_iter().filter(|k| prefix.contains(k)).collect();
        prop_assert_eq!(listed, expected);
    }
}
