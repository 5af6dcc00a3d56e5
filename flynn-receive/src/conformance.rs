//! The contract of [`BlobStore`], as cases that any implementation can run.
//!
//! ```ignore
//! flynn_receive::blob_store_conformance!(async { Arc::new(MyStore::new()) as Arc<dyn BlobStore> });
//! ```
#![allow(
    clippy::unwrap_used,
    clippy::missing_panics_doc,
    reason = "a case that fails panics: that is how a test says so"
)]

use std::sync::Arc;

use bytes::Bytes;
use futures::StreamExt;

use crate::{
    Error,
    blob::{
        BlobName, BlobStore, BlobStream, DeleteOptions, Digest, ListOptions, PutOptions, Version,
        body_of,
    },
};

fn name(text: &str) -> BlobName {
    BlobName::parse(text).unwrap()
}

async fn put(store: &dyn BlobStore, at: &str, bytes: &'static [u8]) -> crate::blob::BlobInfo {
    store
        .put(&name(at), body_of(bytes), PutOptions::new())
        .await
        .unwrap()
}

async fn read(store: &dyn BlobStore, at: &str) -> crate::Result<Bytes> {
    store.get(&name(at)).await?.bytes(1 << 30).await
}

fn chunks(chunks: Vec<crate::Result<Bytes>>) -> BlobStream {
    futures::stream::iter(chunks).boxed()
}

/// What was put is what is got, and its description is right.
pub async fn a_blob_is_read_as_it_was_written(store: Arc<dyn BlobStore>) {
    let body = chunks(vec![
        Ok(Bytes::from_static(b"one ")),
        Ok(Bytes::new()),
        Ok(Bytes::from(vec![7; 300_000])),
    ]);
    let mut expected = b"one ".to_vec();
    expected.extend([7; 300_000]);
    let info = store
        .put(&name("slugs/a.tgz"), body, PutOptions::new())
        .await
        .unwrap();
    assert_eq!(info.size, 300_004);
    assert_eq!(info.sha256, Digest::of(&expected));
    assert_eq!(read(&*store, "slugs/a.tgz").await.unwrap(), expected);
    assert_eq!(store.head(&name("slugs/a.tgz")).await.unwrap(), info);
}

/// An empty blob is a blob.
pub async fn an_empty_blob_is_a_blob(store: Arc<dyn BlobStore>) {
    put(&*store, "empty", b"").await;
    assert_eq!(read(&*store, "empty").await.unwrap(), "");
    assert_eq!(store.head(&name("empty")).await.unwrap().size, 0);
}

/// What is not there is not found.
pub async fn an_absent_blob_is_not_found(store: Arc<dyn BlobStore>) {
    put(&*store, "there/x", b"x").await;
    for absent in ["absent", "there", "there/x/y", "there/xx"] {
        let got = store.get(&name(absent)).await.unwrap_err();
        assert!(matches!(got, Error::NotFound { .. }), "{absent}: {got}");
        let head = store.head(&name(absent)).await.unwrap_err();
        assert!(matches!(head, Error::NotFound { .. }), "{absent}: {head}");
    }
}

/// A later put replaces an earlier one.
pub async fn a_later_put_replaces_an_earlier_one(store: Arc<dyn BlobStore>) {
    let first = put(&*store, "a", b"first").await;
    let second = put(&*store, "a", b"second").await;
    assert!(second.version > first.version);
    assert_eq!(read(&*store, "a").await.unwrap(), "second");
}

/// A body that is not what was announced changes nothing.
pub async fn a_body_that_is_not_what_was_announced_changes_nothing(store: Arc<dyn BlobStore>) {
    put(&*store, "a", b"before").await;
    let wrong = [
        PutOptions::new().with_sha256(Digest::of(b"other")),
        PutOptions::new().with_limit(4),
    ];
    for options in wrong {
        let refused = store
            .put(&name("a"), body_of(&b"after"[..]), options.clone())
            .await;
        assert!(refused.is_err(), "{options:?} was accepted");
        assert_eq!(read(&*store, "a").await.unwrap(), "before");
    }
    let right = PutOptions::new()
        .with_sha256(Digest::of(b"after"))
        .with_size(5)
        .with_limit(5);
    store
        .put(&name("a"), body_of(&b"after"[..]), right)
        .await
        .unwrap();
    assert_eq!(read(&*store, "a").await.unwrap(), "after");
}

/// A body that breaks off changes nothing.
pub async fn a_body_that_breaks_off_changes_nothing(store: Arc<dyn BlobStore>) {
    put(&*store, "a", b"before").await;
    let broken = chunks(vec![
        Ok(Bytes::from_static(b"aft")),
        Err(Error::Stopped { what: "the writer" }),
    ]);
    let refused = store.put(&name("a"), broken, PutOptions::new()).await;
    assert!(refused.is_err());
    assert_eq!(read(&*store, "a").await.unwrap(), "before");
}

/// A put of an older version changes nothing; one of a newer version replaces.
pub async fn an_older_version_changes_nothing(store: Arc<dyn BlobStore>) {
    let at = |version| PutOptions::new().with_version(Version(version));
    let a = name("a");
    store.put(&a, body_of(&b"five"[..]), at(5)).await.unwrap();
    let kept = store.put(&a, body_of(&b"four"[..]), at(4)).await.unwrap();
    assert_eq!(kept.version, Version(5));
    assert_eq!(read(&*store, "a").await.unwrap(), "five");
    store.put(&a, body_of(&b"six"[..]), at(6)).await.unwrap();
    assert_eq!(read(&*store, "a").await.unwrap(), "six");
}

/// A deleted blob is gone, and an older version does not bring it back.
pub async fn a_deleted_blob_is_gone(store: Arc<dyn BlobStore>) {
    let first = put(&*store, "a", b"x").await;
    store
        .delete(&name("a"), DeleteOptions::default())
        .await
        .unwrap();
    store
        .delete(&name("a"), DeleteOptions::default())
        .await
        .unwrap();
    let got = read(&*store, "a").await.unwrap_err();
    assert!(matches!(got, Error::NotFound { .. }), "{got}");
    assert!(
        store
            .list(ListOptions::default())
            .await
            .unwrap()
            .blobs
            .is_empty()
    );

    let stale = PutOptions::new().with_version(first.version);
    store
        .put(&name("a"), body_of(&b"x"[..]), stale)
        .await
        .unwrap();
    assert!(read(&*store, "a").await.is_err());

    put(&*store, "a", b"again").await;
    assert_eq!(read(&*store, "a").await.unwrap(), "again");
}

/// Deleting what never was succeeds.
pub async fn deleting_an_absent_blob_succeeds(store: Arc<dyn BlobStore>) {
    store
        .delete(&name("never"), DeleteOptions::default())
        .await
        .unwrap();
}

/// A list is in the order of the names, by prefix and page by page.
pub async fn a_list_is_ordered_and_paged(store: Arc<dyn BlobStore>) {
    for at in ["b/2", "a", "b/1", "c", "b/3"] {
        put(&*store, at, b"x").await;
    }
    let mut options = ListOptions::prefix("b/");
    options.limit = 2;
    let first = store.list(options.clone()).await.unwrap();
    assert!(first.more);
    let names = |page: &crate::blob::Page| {
        page.blobs
            .iter()
            .map(|blob| blob.name.to_string())
            .collect::<Vec<_>>()
    };
    assert_eq!(names(&first), ["b/1", "b/2"]);
    options.after = first.blobs.last().map(|blob| blob.name.clone());
    let second = store.list(options).await.unwrap();
    assert_eq!(names(&second), ["b/3"]);
    assert!(!second.more);
    let all = store.list(ListOptions::default()).await.unwrap();
    assert_eq!(names(&all), ["a", "b/1", "b/2", "b/3", "c"]);
}

/// Writers of one name at once leave one of their bodies whole.
pub async fn writers_at_once_leave_one_body_whole(store: Arc<dyn BlobStore>) {
    let at = name("a");
    let writers = (0..8_u8).map(|n| {
        let (store, at) = (&store, &at);
        async move {
            let body = vec![n; 100_000];
            store.put(at, body_of(body), PutOptions::new()).await
        }
    });
    for put in futures::future::join_all(writers).await {
        put.unwrap();
    }
    let bytes = read(&*store, "a").await.unwrap();
    assert_eq!(bytes.len(), 100_000);
    assert!(bytes.iter().all(|b| *b == bytes[0]));
}

/// Makes a test of every case; the argument is an expression that makes a future of a fresh
/// `Arc<dyn BlobStore>` and something that keeps it alive.
#[macro_export]
macro_rules! blob_store_conformance {
    ($fixture:expr) => {
        $crate::blob_store_conformance!(@cases $fixture;
            a_blob_is_read_as_it_was_written,
            an_empty_blob_is_a_blob,
            an_absent_blob_is_not_found,
            a_later_put_replaces_an_earlier_one,
            a_body_that_is_not_what_was_announced_changes_nothing,
            a_body_that_breaks_off_changes_nothing,
            an_older_version_changes_nothing,
            a_deleted_blob_is_gone,
            deleting_an_absent_blob_succeeds,
            a_list_is_ordered_and_paged,
            writers_at_once_leave_one_body_whole,
        );
    };
    (@cases $fixture:expr; $($case:ident),* $(,)?) => {$(
        #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        async fn $case() {
            let (store, _alive) = $fixture.await;
            $crate::conformance::$case(store).await;
        }
    )*};
}
