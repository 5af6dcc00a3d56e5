use futures::{FutureExt, StreamExt};

use super::*;
use crate::backend::{
    Key, Op,
    kv::{Applied, Command},
};

/// A state and a hub, as a backend holds them.
#[derive(Clone)]
struct Store {
    state: Arc<Mutex<KvState>>,
    hub: WatchHub,
}

impl Store {
    fn new(queue_bytes: usize) -> Self {
        Self {
            state: Arc::default(),
            hub: WatchHub::with_queue_bytes("test", queue_bytes),
        }
    }

    fn commit(&self, ops: Vec<Op>) {
        let mut state = self.state.lock();
        let Applied { result, changes } = state.apply(Command::Commit {
            compares: vec![],
            ops,
        });
        result.unwrap();
        if let Some((revision, changes)) = changes {
            self.hub.publish(revision, &changes);
        }
    }

    fn put(&self, key: &str, value: &str) {
        self.commit(vec![Op::put(Key::parse(key).unwrap(), value.to_owned())]);
    }

    fn watch(&self, prefix: &str) -> WatchStream {
        let state = Arc::clone(&self.state);
        self.hub.watch(&Prefix::parse(prefix).unwrap(), move || {
            state.lock().clone()
        })
    }
}

/// What the watch has to say right now: `reset@1 a` or `2 +a -b`.
fn said(watch: &mut WatchStream) -> Vec<String> {
    let mut said = Vec::new();
    while let Some(Some(event)) = watch.next().now_or_never() {
        said.push(match event {
            Ok(WatchEvent::Reset { entries, revision }) => {
                let keys: Vec<_> = entries.iter().map(|e| e.key.as_str()).collect();
                format!("reset@{revision} {}", keys.join(" "))
            }
            Ok(WatchEvent::Changes { changes, revision }) => {
                let changes: Vec<_> = changes
                    .iter()
                    .map(|change| match change {
                        Change::Put(entry) => format!("+{}", entry.key),
                        Change::Delete(key) => format!("-{key}"),
                    })
                    .collect();
                format!("{revision} {}", changes.join(" "))
            }
            Err(error) => error.to_string(),
        });
    }
    said
}

#[test]
fn a_watch_hears_only_its_prefix_and_one_commit_is_one_event() {
    let store = Store::new(1 << 20);
    store.put("a/1", "x");
    let mut a = store.watch("a/");
    let mut all = store.watch("");
    assert_eq!(said(&mut a), ["reset@1 a/1"]);
    assert_eq!(said(&mut all), ["reset@1 a/1"]);
    store.put("ab/1", "x");
    store.commit(vec![
        Op::put(Key::parse("b/1").unwrap(), "x"),
        Op::put(Key::parse("a/2/3").unwrap(), "x"),
        Op::delete(Key::parse("a/1").unwrap()),
    ]);
    assert_eq!(said(&mut a), ["3 +a/2/3 -a/1"]);
    assert_eq!(said(&mut all), ["2 +ab/1", "3 +b/1 +a/2/3 -a/1"]);
}

#[test]
fn changes_between_the_watch_and_its_first_poll_are_told_once() {
    let store = Store::new(1 << 20);
    let mut watch = store.watch("");
    store.put("a", "x");
    assert_eq!(said(&mut watch), ["reset@1 a"]);
    store.put("b", "x");
    assert_eq!(said(&mut watch), ["2 +b"]);
}

#[test]
fn a_commit_after_the_queue_opened_but_within_the_snapshot_is_not_told_again() {
    let store = Store::new(1 << 20);
    let writer = store.clone();
    let mut first = true;
    let mut watch = store.hub.watch(&Prefix::root(), move || {
        if std::mem::take(&mut first) {
            writer.put("a", "x"); // lands between opening the queue and the snapshot
        }
        writer.state.lock().clone()
    });
    assert_eq!(said(&mut watch), ["reset@1 a"]);
}

#[test]
fn a_slow_watcher_starts_afresh_and_the_others_do_not_notice() {
    let store = Store::new(2000);
    let (mut slow, mut quick) = (store.watch(""), store.watch(""));
    assert_eq!((said(&mut slow).len(), said(&mut quick).len()), (1, 1));
    for i in 0..100 {
        store.put(&format!("k{}", i % 3), "some value");
        assert_eq!(said(&mut quick).len(), 1);
    }
    assert_eq!(said(&mut slow), ["reset@100 k0 k1 k2"]);
    store.put("k", "x");
    assert_eq!(said(&mut slow), ["101 +k"]);
}

#[test]
fn one_change_larger_than_the_queue_still_arrives() {
    let store = Store::new(100);
    let mut watch = store.watch("");
    said(&mut watch);
    store.put("a", &"x".repeat(1000));
    assert_eq!(said(&mut watch), ["1 +a"]);
}

#[test]
fn a_reset_of_the_hub_reaches_everyone_and_close_ends_them() {
    let store = Store::new(1 << 20);
    let mut watch = store.watch("a/");
    said(&mut watch);
    store.put("a/1", "x");
    store.hub.reset();
    assert_eq!(said(&mut watch), ["reset@1 a/1"]);
    store.hub.close();
    assert_eq!(said(&mut watch), ["test is shut down"]);
    assert!(watch.next().now_or_never().unwrap().is_none());
    assert_eq!(said(&mut store.watch("a/")), ["test is shut down"]);
}

#[test]
fn a_dropped_watch_leaves_nothing_behind() {
    let store = Store::new(1 << 20);
    let watches: Vec<_> = (0..10).map(|i| store.watch(&format!("{i}/"))).collect();
    assert_eq!(store.hub.watchers(), 10);
    drop(watches);
    assert_eq!(store.hub.watchers(), 0);
    assert!(store.hub.shared.registry.lock().by_prefix.is_empty());
}
