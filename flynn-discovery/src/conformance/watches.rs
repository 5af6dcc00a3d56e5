//! Watches.

use std::{collections::HashSet, sync::Arc};

use futures::future::join_all;

use super::{Follower, all, assert_conflict, commit, compare, key, put};
use crate::backend::{Backend, Change, Condition, Op, Revision, WatchEvent};

/// A watch begins with the whole set below its prefix, in the order of keys.
pub async fn a_watch_begins_with_the_whole_set(backend: Arc<dyn Backend>) {
    let revision = commit(
        &backend,
        vec![put("d/b", "2"), put("d/a", "1"), put("e/a", "x")],
    )
    .await;
    let follower = Follower::begin(&backend, "d/").await;
    assert_eq!(follower.entries, all(&backend, "d/").await);
    assert_eq!(follower.entries.len(), 2);
    assert!(follower.revision >= revision);
}

/// A watch may begin before there is anything below its prefix.
pub async fn a_watch_may_begin_before_there_is_anything(backend: Arc<dyn Backend>) {
    let mut follower = Follower::begin(&backend, "d/").await;
    assert!(follower.entries.is_empty());
    let revision = commit(&backend, vec![put("d/a", "1")]).await;
    assert_eq!(follower.changes().await, (revision, told("+d/a")));
}

/// One transaction is one event: what it changed below the prefix, in the order of its ops, at its revision.
pub async fn one_transaction_is_one_event(backend: Arc<dyn Backend>) {
    commit(&backend, vec![put("d/a", "1")]).await;
    let mut follower = Follower::begin(&backend, "d/").await;
    let ops = vec![
        put("d/z", "1"),
        put("e/x", "1"),
        Op::delete(key("d/a")),
        put("d/a", "2"),
        Op::delete(key("d/none")),
        put("d/b/c", "1"),
    ];
    let revision = commit(&backend, ops).await;
    assert_eq!(
        follower.changes().await,
        (revision, told("+d/z -d/a +d/a +d/b/c"))
    );
    assert_eq!(follower.entries, all(&backend, "d/").await);
}

/// A change tells the entry as it is read.
pub async fn a_change_tells_the_entry_as_it_is_read(backend: Arc<dyn Backend>) {
    let mut follower = Follower::begin(&backend, "d/").await;
    for value in ["1", "2"] {
        commit(&backend, vec![put("d/a", value)]).await;
        let event = follower.next().await;
        let entry = backend.get(&key("d/a")).await.unwrap().unwrap();
        assert_eq!(
            event,
            WatchEvent::Changes {
                revision: entry.version,
                changes: vec![Change::Put(entry)],
            }
        );
    }
}

/// A watch hears nothing of other prefixes.
pub async fn a_watch_hears_nothing_of_other_prefixes(backend: Arc<dyn Backend>) {
    let mut follower = Follower::begin(&backend, "d/").await;
    for other in ["d", "d-", "d0/a", "da/a", "c/d/a", "e"] {
        commit(&backend, vec![put(other, "x")]).await;
    }
    let revision = commit(&backend, vec![put("d/a", "x")]).await;
    assert_eq!(follower.changes().await, (revision, told("+d/a")));
}

/// A refused transaction, and the deletion of what is not there, are not told.
pub async fn what_changed_nothing_is_not_told(backend: Arc<dyn Backend>) {
    let mut follower = Follower::begin(&backend, "").await;
    let compares = vec![compare("d/x", Condition::Present)];
    assert_conflict(backend.commit(compares, vec![put("d/a", "x")]).await, "d/x");
    backend.delete(&key("d/a"), Condition::Any).await.unwrap();
    backend.commit(vec![], vec![]).await.unwrap();
    let revision = commit(&backend, vec![put("d/b", "x")]).await;
    assert_eq!(follower.changes().await, (revision, told("+d/b")));
}

/// Several watches hear the same; one that ends takes no other with it.
pub async fn several_watches_hear_the_same(backend: Arc<dyn Backend>) {
    let mut one = Follower::begin(&backend, "d/").await;
    let mut two = Follower::begin(&backend, "d/").await;
    let mut root = Follower::begin(&backend, "").await;
    let three = Follower::begin(&backend, "d/").await;
    commit(&backend, vec![put("d/a", "1")]).await;
    drop(three);
    commit(&backend, vec![put("d/b", "1"), Op::delete(key("d/a"))]).await;
    for _ in 0..2 {
        let event = one.next().await;
        assert_eq!(event, two.next().await);
        assert_eq!(event, root.next().await);
    }
}

/// However many write at once, every change is told, once, in the order of revisions.
pub async fn no_change_of_concurrent_writers_is_missed(backend: Arc<dyn Backend>) {
    let mut follower = Follower::begin(&backend, "d/").await;
    // A store may reset a watch whenever it likes, for example when its leader changes. But not each time.
    for _ in 0..5 {
        let (last, heard) = tokio::join!(write_from_all_sides(&backend), async {
            let mut heard: HashSet<String> = HashSet::new();
            while heard.len() < WRITERS * ROUNDS {
                let WatchEvent::Changes { changes, .. } = follower.next().await else {
                    break;
                };
                assert_eq!(changes.len(), 2, "a transaction in pieces: {changes:?}");
                let Change::Put(entry) = &changes[0] else {
                    panic!("the first op was a put, not {changes:?}");
                };
                let text = String::from_utf8(entry.value.to_vec()).unwrap();
                assert!(heard.insert(text), "told twice: {entry:?}");
            }
            heard
        });
        follower.catch_up(last).await;
        assert_eq!(follower.entries, all(&backend, "d/").await);
        if heard.len() == WRITERS * ROUNDS {
            return;
        }
    }
    panic!("a watch that keeps up is reset again and again");
}

/// A watch that begins while others write has the whole truth in the end: no gap between its reset and its changes.
pub async fn a_watch_that_begins_amid_writes_has_the_whole_truth(backend: Arc<dyn Backend>) {
    let writing = write_from_all_sides(&backend);
    let watching = async {
        let mut followers = Vec::new();
        for _ in 0..10 {
            followers.push(Follower::begin(&backend, "d/").await);
            tokio::task::yield_now().await;
        }
        followers
    };
    let (last, mut followers) = tokio::join!(writing, watching);
    let truth = all(&backend, "d/").await;
    for follower in &mut followers {
        follower.catch_up(last).await;
        assert_eq!(follower.entries, truth);
    }
}

/// A watch that nobody reads stops no writer, and knows the truth when it is read again.
pub async fn a_slow_watch_ends_with_the_truth_and_stops_nobody(backend: Arc<dyn Backend>) {
    let mut slow = Follower::begin(&backend, "d/").await;
    let value = "x".repeat(16 * 1024);
    let mut last = Revision(0);
    for round in 0..24 {
        let ops = (0..32).map(|i| put(&format!("d/{}", round * 7 + i), &value));
        last = commit(&backend, ops.collect()).await;
    }
    slow.catch_up(last).await;
    assert_eq!(slow.entries, all(&backend, "d/").await);
    let revision = commit(&backend, vec![put("d/a", "x")]).await;
    assert_eq!(slow.changes().await, (revision, told("+d/a")));
}

/// Several tasks write transactions of two ops each; returns the last revision.
async fn write_from_all_sides(backend: &Arc<dyn Backend>) -> Revision {
    let writers = (0..WRITERS).map(|writer| {
        let backend = Arc::clone(backend);
        tokio::spawn(async move {
            let mut last = Revision(0);
            for round in 0..ROUNDS {
                let ops = vec![
                    put(&format!("d/{writer}"), &format!("{writer} {round}")),
                    put(&format!("d/shared/{}", round % 3), &writer.to_string()),
                ];
                last = commit(&backend, ops).await;
            }
            last
        })
    });
    let revisions = join_all(writers)
        .await
        .into_iter()
        .map(|last| last.unwrap());
    revisions.max().unwrap()
}

const WRITERS: usize = 6;
const ROUNDS: usize = 25;

fn told(text: &str) -> Vec<String> {
    text.split(' ').map(str::to_owned).collect()
}
