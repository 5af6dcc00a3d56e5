//! Keys, transactions and lists.

use std::{collections::BTreeSet, sync::Arc};

use futures::future::join_all;

use super::{all, assert_conflict, commit, compare, exists, key, prefix, put, read};
use crate::{
    Error,
    backend::{Backend, Condition, Key, ListOptions, MAX_OPS, Op, Revision},
};

/// A key that was never written is absent.
pub async fn a_key_that_was_never_written_is_absent(backend: Arc<dyn Backend>) {
    assert_eq!(read(&backend, "a/b").await, None);
    commit(&backend, vec![put("a/bc", "x"), put("a/b/c", "x")]).await;
    assert_eq!(read(&backend, "a/b").await, None);
}

/// A written key is read as it was written: any bytes, none too, with the revision that `commit` returned.
pub async fn a_written_key_is_read_as_it_was_written(backend: Arc<dyn Backend>) {
    for value in [vec![], vec![0_u8, 255, 10, 13, 34], vec![7; 70_000]] {
        let op = Op::put(key("a"), value.clone());
        let revision = commit(&backend, vec![op]).await;
        let entry = read(&backend, "a").await.unwrap();
        assert_eq!(entry.key, key("a"));
        assert_eq!(entry.value, value);
        assert_eq!(entry.version, revision);
        assert_eq!(entry.lease, None);
    }
}

/// A key may be any visible text.
pub async fn a_key_may_be_any_visible_text(backend: Arc<dyn Backend>) {
    let visible: String = (b'!'..=b'~')
        .filter(|b| *b != b'/')
        .map(char::from)
        .collect();
    let long = format!("{visible}/%2F%00/{}/...", "x".repeat(256));
    commit(&backend, vec![put(&long, "x")]).await;
    assert!(exists(&backend, &long).await);
    assert_eq!(
        all(&backend, &format!("{visible}/"))
            .await
            .into_keys()
            .next(),
        Some(key(&long))
    );
}

/// A put of a key that exists replaces its value and keeps its creation.
pub async fn an_overwritten_key_keeps_its_creation(backend: Arc<dyn Backend>) {
    let created = commit(&backend, vec![put("a", "1")]).await;
    let written = commit(&backend, vec![put("a", "2")]).await;
    let entry = read(&backend, "a").await.unwrap();
    assert_eq!(
        (entry.created, entry.version, &*entry.value),
        (created, written, &b"2"[..])
    );
}

/// A key written again after its deletion is a new creation.
pub async fn a_key_written_again_after_its_deletion_is_a_new_creation(backend: Arc<dyn Backend>) {
    commit(&backend, vec![put("a", "1")]).await;
    backend.delete(&key("a"), Condition::Any).await.unwrap();
    assert!(!exists(&backend, "a").await);
    let again = commit(&backend, vec![put("a", "2")]).await;
    assert_eq!(read(&backend, "a").await.unwrap().created, again);
}

/// A later change has a higher revision, whichever key it is of.
pub async fn revisions_grow_with_every_change(backend: Arc<dyn Backend>) {
    let mut last = Revision(0);
    for round in 0..3 {
        for name in ["a", "b/c"] {
            let revision = backend
                .put(&key(name), format!("{round}").into(), Condition::Any)
                .await
                .unwrap();
            assert!(revision > last, "{revision} after {last}");
            last = revision;
        }
        let revision = backend.delete(&key("a"), Condition::Present).await.unwrap();
        assert!(revision > last, "{revision} after {last}");
        last = revision;
    }
    let page = backend
        .list(&prefix("b/"), ListOptions::default())
        .await
        .unwrap();
    assert!(page.revision >= last);
}

/// Deleting an absent key succeeds.
pub async fn deleting_an_absent_key_succeeds(backend: Arc<dyn Backend>) {
    let before = commit(&backend, vec![put("b", "x")]).await;
    let deleted = backend.delete(&key("a"), Condition::Any).await.unwrap();
    assert!(deleted >= before, "the present revision, not an older one");
    let absent = backend.delete(&key("a"), Condition::Absent).await;
    assert!(absent.is_ok());
}

/// `Absent` holds of keys that do not exist.
pub async fn absent_holds_of_keys_that_do_not_exist(backend: Arc<dyn Backend>) {
    let create = |value: &'static str| backend.put(&A, value.into(), Condition::Absent);
    create("1").await.unwrap();
    assert_conflict(create("2").await, "a");
    assert_eq!(read(&backend, "a").await.unwrap().value, "1");
    backend.delete(&A, Condition::Any).await.unwrap();
    create("3").await.unwrap();
}

/// `Present` holds of keys that exist.
pub async fn present_holds_of_keys_that_exist(backend: Arc<dyn Backend>) {
    assert_conflict(backend.put(&A, "1".into(), Condition::Present).await, "a");
    assert_conflict(backend.delete(&A, Condition::Present).await, "a");
    commit(&backend, vec![put("a", "1")]).await;
    backend
        .put(&A, "2".into(), Condition::Present)
        .await
        .unwrap();
    backend.delete(&A, Condition::Present).await.unwrap();
    assert!(!exists(&backend, "a").await);
}

/// `Version` holds of keys that nobody changed since.
pub async fn version_holds_of_keys_that_nobody_changed(backend: Arc<dyn Backend>) {
    let first = commit(&backend, vec![put("a", "1")]).await;
    commit(&backend, vec![put("b", "other keys do not matter")]).await;
    let second = backend
        .put(&A, "2".into(), Condition::Version(first))
        .await
        .unwrap();
    let stale = backend.put(&A, "3".into(), Condition::Version(first));
    assert_conflict(stale.await, "a");
    assert_conflict(backend.delete(&A, Condition::Version(first)).await, "a");
    backend
        .delete(&A, Condition::Version(second))
        .await
        .unwrap();
    assert_conflict(
        backend
            .put(&A, "4".into(), Condition::Version(second))
            .await,
        "a",
    );
    commit(&backend, vec![put("a", "2")]).await;
    let recreated = backend.delete(&A, Condition::Version(second));
    assert_conflict(recreated.await, "a");
}

/// A conflict names the first compare that does not hold.
pub async fn the_first_compare_that_fails_is_named(backend: Arc<dyn Backend>) {
    commit(&backend, vec![put("b", "x"), put("d", "x")]).await;
    let compares = vec![
        compare("a", Condition::Any),
        compare("b", Condition::Present),
        compare("d", Condition::Absent),
        compare("c", Condition::Present),
    ];
    assert_conflict(backend.commit(compares, vec![put("a", "x")]).await, "d");
    assert!(!exists(&backend, "a").await);
}

/// A refused transaction changes nothing, not even where its compares hold.
pub async fn a_refused_transaction_changes_nothing(backend: Arc<dyn Backend>) {
    commit(&backend, vec![put("b", "1"), put("c", "1")]).await;
    let before = all(&backend, "").await;
    let compares = vec![
        compare("a", Condition::Absent),
        compare("b", Condition::Present),
        compare("x", Condition::Present),
    ];
    let ops = vec![put("a", "2"), put("b", "2"), Op::delete(key("c"))];
    assert_conflict(backend.commit(compares, ops).await, "x");
    assert_eq!(all(&backend, "").await, before);
}

/// A transaction changes all its keys at one revision.
pub async fn a_transaction_changes_all_its_keys_at_one_revision(backend: Arc<dyn Backend>) {
    commit(&backend, vec![put("old", "x"), put("gone", "x")]).await;
    let compares = vec![
        compare("new", Condition::Absent),
        compare("old", Condition::Present),
    ];
    let ops = vec![
        put("new", "1"),
        put("old", "1"),
        Op::delete(key("gone")),
        Op::delete(key("never")),
    ];
    let revision = backend.commit(compares, ops).await.unwrap();
    let entries = all(&backend, "").await;
    let versions: Vec<_> = entries
        .values()
        .map(|e| (e.key.as_str(), e.version))
        .collect();
    assert_eq!(versions, [("new", revision), ("old", revision)]);
}

/// Ops are carried out in their order.
pub async fn ops_are_carried_out_in_their_order(backend: Arc<dyn Backend>) {
    commit(&backend, vec![put("a", "0"), put("b", "0")]).await;
    let revision = commit(
        &backend,
        vec![
            Op::delete(key("a")),
            put("a", "1"),
            put("b", "1"),
            Op::delete(key("b")),
            put("c", "1"),
            put("c", "2"),
        ],
    )
    .await;
    let a = read(&backend, "a").await.unwrap();
    assert_eq!((a.created, &*a.value), (revision, &b"1"[..]));
    assert!(!exists(&backend, "b").await);
    assert_eq!(read(&backend, "c").await.unwrap().value, "2");
}

/// Compares see what was before the ops.
pub async fn compares_see_what_was_before_the_ops(backend: Arc<dyn Backend>) {
    let compares = vec![compare("a", Condition::Absent)];
    backend
        .commit(compares, vec![put("a", "1"), put("a", "2")])
        .await
        .unwrap();
    let compares = vec![compare("a", Condition::Present)];
    backend
        .commit(compares, vec![Op::delete(key("a"))])
        .await
        .unwrap();
    assert!(!exists(&backend, "a").await);
}

/// A transaction without ops only checks.
pub async fn a_transaction_without_ops_only_checks(backend: Arc<dyn Backend>) {
    let written = commit(&backend, vec![put("a", "1")]).await;
    let holds = vec![compare("a", Condition::Version(written))];
    assert!(backend.commit(holds, vec![]).await.unwrap() >= written);
    let fails = vec![compare("a", Condition::Absent)];
    assert_conflict(backend.commit(fails, vec![]).await, "a");
    assert!(backend.commit(vec![], vec![]).await.unwrap() >= written);
}

/// A transaction of `MAX_OPS` compares and ops is carried out.
pub async fn the_largest_transaction_is_carried_out(backend: Arc<dyn Backend>) {
    let compares = (0..MAX_OPS / 2).map(|i| compare(&format!("d/{i}"), Condition::Absent));
    let ops = (0..MAX_OPS / 2).map(|i| put(&format!("d/{i}"), "value"));
    backend
        .commit(compares.collect(), ops.collect())
        .await
        .unwrap();
    assert_eq!(all(&backend, "d/").await.len(), MAX_OPS / 2);
}

/// A transaction of more than `MAX_OPS` compares and ops is refused.
pub async fn a_transaction_of_too_many_ops_is_refused(backend: Arc<dyn Backend>) {
    let compares = vec![compare("a", Condition::Absent)];
    let ops = vec![put("a", "x"); MAX_OPS];
    let refused = backend.commit(compares, ops).await;
    assert!(matches!(refused, Err(Error::Invalid { .. })), "{refused:?}");
    assert!(!exists(&backend, "a").await);
}

/// A value may have the length that `Capabilities` promise, and no more.
pub async fn a_value_may_have_the_length_that_is_promised_and_no_more(backend: Arc<dyn Backend>) {
    let longest = vec![b'x'; backend.capabilities().max_value_len];
    commit(&backend, vec![Op::put(key("a"), longest.clone())]).await;
    assert_eq!(read(&backend, "a").await.unwrap().value, longest);
    let longer = [longest, vec![b'x']].concat();
    let refused = backend
        .commit(vec![], vec![put("b", "x"), Op::put(key("a"), longer)])
        .await;
    assert!(
        matches!(refused, Err(Error::Invalid { .. })),
        "one byte too many: {refused:?}"
    );
    assert!(!exists(&backend, "b").await);
}

/// A list is in the order of its keys and holds only those below its prefix.
pub async fn a_list_is_in_the_order_of_keys_and_only_of_its_prefix(backend: Arc<dyn Backend>) {
    let names = [
        "a", "a-", "a/b", "a/b-", "a/b/c", "a/c", "a0/b", "ab/c", "b/a",
    ];
    commit(&backend, names.iter().rev().map(|n| put(n, "x")).collect()).await;
    for (below, expected) in [
        ("", &names[..]),
        ("a/", &["a/b", "a/b-", "a/b/c", "a/c"]),
        ("a/b/", &["a/b/c"]),
        ("c/", &[]),
    ] {
        let page = backend
            .list(&prefix(below), ListOptions::default())
            .await
            .unwrap();
        let listed: Vec<_> = page.entries.iter().map(|e| e.key.as_str()).collect();
        assert_eq!((listed, page.more), (expected.to_vec(), false), "{below:?}");
    }
}

/// Pages, each after the last key of the one before, add up to the list.
pub async fn pages_add_up_to_the_list(backend: Arc<dyn Backend>) {
    let names: BTreeSet<String> = (0..25).map(|i| format!("d/{i}")).collect();
    commit(&backend, names.iter().map(|n| put(n, "x")).collect()).await;
    commit(&backend, vec![put("c/x", "x"), put("e/x", "x")]).await;
    for limit in [1, 7, 25, 26] {
        let mut listed = Vec::new();
        let mut after: Option<Key> = None;
        loop {
            let options = ListOptions { after, limit };
            let page = backend.list(&prefix("d/"), options).await.unwrap();
            assert!(page.entries.len() <= limit);
            listed.extend(page.entries.into_iter().map(|e| e.key.to_string()));
            assert!(listed.is_sorted_by(|a, b| a < b), "twice: {listed:?}");
            if !page.more {
                break;
            }
            after = Some(key(listed
                .last()
                .expect("a page that is not the last is not empty")));
        }
        assert!(listed.iter().eq(&names), "in pages of {limit}: {listed:?}");
    }
    let absent = ListOptions {
        after: Some(key("d/2/of-a-key-that-is-not-there")),
        limit: 2,
    };
    let page = backend.list(&prefix("d/"), absent).await.unwrap();
    let listed: Vec<_> = page.entries.iter().map(|e| e.key.as_str()).collect();
    assert_eq!(listed, ["d/20", "d/21"]);
}

/// A page has at most `MAX_LIMIT` entries, however many are asked for.
pub async fn a_page_has_a_largest_size(backend: Arc<dyn Backend>) {
    let count = ListOptions::MAX_LIMIT + 1;
    commit(
        &backend,
        (0..count).map(|i| put(&format!("d/{i:05}"), "x")).collect(),
    )
    .await;
    let options = ListOptions {
        after: None,
        limit: usize::MAX,
    };
    let page = backend.list(&prefix("d/"), options).await.unwrap();
    assert!(page.more && page.entries.len() <= ListOptions::MAX_LIMIT);
    assert_eq!(all(&backend, "d/").await.len(), count);
}

/// Of concurrent creations of one key, one wins.
pub async fn of_concurrent_creations_one_wins(backend: Arc<dyn Backend>) {
    let creations = (0..8).map(|i| {
        let backend = Arc::clone(&backend);
        async move {
            backend
                .put(&A, format!("{i}").into(), Condition::Absent)
                .await
                .map(|_| i)
        }
    });
    let won: Vec<i32> = join_all(creations).await.into_iter().flatten().collect();
    assert_eq!(won.len(), 1, "{won:?} all created it");
    assert_eq!(read(&backend, "a").await.unwrap().value, won[0].to_string());
}

/// A counter that several increment by compare-and-set loses nothing.
pub async fn a_contended_counter_loses_nothing(backend: Arc<dyn Backend>) {
    const WRITERS: u64 = 6;
    const ROUNDS: u64 = 10;
    commit(&backend, vec![put("a", "0")]).await;
    let increment = |backend: Arc<dyn Backend>| async move {
        let mut done = 0;
        while done < ROUNDS {
            let entry = read(&backend, "a").await.unwrap();
            let count: u64 = std::str::from_utf8(&entry.value).unwrap().parse().unwrap();
            let next = (count + 1).to_string();
            match backend
                .put(&A, next.into(), Condition::Version(entry.version))
                .await
            {
                Ok(_) => done += 1,
                Err(Error::Conflict { .. }) => {}
                Err(error) => panic!("{error}"),
            }
        }
    };
    let writers = (0..WRITERS).map(|_| tokio::spawn(increment(Arc::clone(&backend))));
    for writer in join_all(writers).await {
        writer.unwrap();
    }
    assert_eq!(
        read(&backend, "a").await.unwrap().value,
        (WRITERS * ROUNDS).to_string()
    );
}

static A: std::sync::LazyLock<Key> = std::sync::LazyLock::new(|| key("a"));
