//! The contract suite: run it on a [`Backend`] of your own.
//!
//! ```
//! use std::sync::Arc;
//! use async_trait::async_trait;
//! use flynn_discovery::{Backend, backend::MemoryBackend, conformance::{Harness, Skip}};
//!
//! struct Mine;
//!
//! #[async_trait]
//! impl Harness for Mine {
//!     async fn fresh(&self) -> Result<Arc<dyn Backend>, Skip> {
//!         Ok(Arc::new(MemoryBackend::new()))
//!     }
//! }
//!
//! flynn_discovery::backend_conformance!(Mine); // in tests/…: one test for each case
//! # fn main() {}
//! ```
//!
//! Each case is a sentence of the contract. It starts with a backend (or a namespace of one) that nobody else uses, and
//! depends on no other case. The macro needs `tokio` with `macros` and `rt-multi-thread` in the crate that calls it.
#![allow(
    clippy::unwrap_used,
    clippy::missing_panics_doc,
    reason = "a case that does not hold ends by panicking: that is what it is for"
)]

pub mod keys;
pub mod leases;
pub mod registry;
pub mod watches;

use std::{collections::BTreeMap, future::Future, sync::Arc, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use futures::{StreamExt, stream::BoxStream};
use tokio::time::timeout;

use crate::{
    Error, Result,
    backend::{
        Backend, Change, Compare, Condition, Entry, Key, LeaseId, Op, Prefix, Revision, WatchEvent,
    },
};

/// Makes backends for cases.
#[async_trait]
pub trait Harness: Send + Sync {
    /// A backend, or a namespace of one, that nobody else uses; or why there is none.
    ///
    /// # Errors
    ///
    /// [`Skip`] when the case cannot run here.
    async fn fresh(&self) -> Result<Arc<dyn Backend>, Skip>;
}

/// Why a case cannot run.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{service} is missing: {why}")]
#[non_exhaustive]
pub struct Skip {
    /// What is missing, for example `etcd`.
    pub service: &'static str,
    /// How that was seen, and how to mend it.
    pub why: String,
}

impl Skip {
    /// Skips, because `service` is missing.
    #[must_use]
    pub fn new(service: &'static str, why: impl Into<String>) -> Self {
        Self {
            service,
            why: why.into(),
        }
    }
}

/// Runs one case; for the macro.
///
/// A case that cannot run says so on standard error. It fails instead when `FLYNN_TEST_REQUIRE` (a comma list) names the
/// missing service.
#[doc(hidden)]
pub async fn run<H, C, F>(harness: H, case: C)
where
    H: Harness,
    C: FnOnce(Arc<dyn Backend>) -> F,
    F: Future<Output = ()>,
{
    match harness.fresh().await {
        Ok(backend) => timeout(CASE_DEADLINE, case(backend))
            .await
            .expect("the case ends within its deadline"),
        Err(skip) => {
            let required = std::env::var("FLYNN_TEST_REQUIRE").unwrap_or_default();
            let is_required = required.split(',').any(|name| name.trim() == skip.service);
            assert!(!is_required, "{skip}");
            #[expect(clippy::print_stderr, reason = "a skipped case says so aloud")]
            {
                eprintln!("skipped: {skip}");
            }
        }
    }
}

/// Emits one `#[tokio::test]` for each case of the contract, for the [`Harness`](crate::conformance::Harness) given as
/// an expression.
#[macro_export]
macro_rules! backend_conformance {
    ($harness:expr) => {
        $crate::backend_conformance! { @suite $harness; keys:
            a_key_that_was_never_written_is_absent,
            a_written_key_is_read_as_it_was_written,
            a_key_may_be_any_visible_text,
            an_overwritten_key_keeps_its_creation,
            a_key_written_again_after_its_deletion_is_a_new_creation,
            revisions_grow_with_every_change,
            deleting_an_absent_key_succeeds,
            absent_holds_of_keys_that_do_not_exist,
            present_holds_of_keys_that_exist,
            version_holds_of_keys_that_nobody_changed,
            the_first_compare_that_fails_is_named,
            a_refused_transaction_changes_nothing,
            a_transaction_changes_all_its_keys_at_one_revision,
            ops_are_carried_out_in_their_order,
            compares_see_what_was_before_the_ops,
            a_transaction_without_ops_only_checks,
            the_largest_transaction_is_carried_out,
            a_transaction_of_too_many_ops_is_refused,
            a_value_may_have_the_length_that_is_promised_and_no_more,
            a_list_is_in_the_order_of_keys_and_only_of_its_prefix,
            pages_add_up_to_the_list,
            a_page_has_a_largest_size,
            of_concurrent_creations_one_wins,
            a_contended_counter_loses_nothing,
        }
        $crate::backend_conformance! { @suite $harness; leases:
            leases_are_told_apart,
            a_lease_that_is_not_renewed_takes_its_keys,
            a_lease_that_is_renewed_keeps_its_keys,
            the_shortest_lease_is_granted,
            the_end_of_a_lease_is_one_change,
            the_expiry_of_a_lease_is_one_change,
            revoking_a_lease_that_is_gone_succeeds,
            renewing_a_lease_that_is_gone_is_refused,
            a_put_with_a_lease_that_is_gone_is_refused,
            a_put_without_a_lease_takes_the_key_off_it,
            a_key_that_moved_to_another_lease_stays_with_that,
            a_deleted_key_is_off_its_lease,
        }
        $crate::backend_conformance! { @suite $harness; watches:
            a_watch_begins_with_the_whole_set,
            a_watch_may_begin_before_there_is_anything,
            one_transaction_is_one_event,
            a_change_tells_the_entry_as_it_is_read,
            a_watch_hears_nothing_of_other_prefixes,
            what_changed_nothing_is_not_told,
            several_watches_hear_the_same,
            no_change_of_concurrent_writers_is_missed,
            a_watch_that_begins_amid_writes_has_the_whole_truth,
            a_slow_watch_ends_with_the_truth_and_stops_nobody,
        }
        $crate::backend_conformance! { @suite $harness; registry:
            a_registered_instance_is_found_and_its_service_too,
            instances_are_listed_oldest_first,
            the_oldest_instance_leads_and_then_the_next,
            a_deregistered_instance_is_gone_at_once,
            a_dropped_registration_is_gone_soon,
            a_registration_outlives_its_time_to_live,
            a_registration_whose_lease_was_lost_comes_back,
            an_update_keeps_the_place_in_the_order,
            an_instance_registered_again_replaces_the_first,
            heartbeats_keep_an_instance_and_its_place,
            an_instance_without_heartbeats_goes_down,
            an_instance_can_be_taken_out,
            a_service_is_created_once_and_can_be_removed,
            all_services_are_listed,
            what_is_unknown_is_said_to_be,
            a_manual_service_is_led_by_whom_was_chosen,
            metadata_is_compared_and_set,
            metadata_and_leader_change_together,
            a_watch_tells_the_leader_after_its_cause,
        }
    };
    (@suite $harness:expr; $suite:ident: $($case:ident,)*) => {
        mod $suite {
            #[allow(unused_imports, reason = "the harness may be named by a path")]
            use super::*;
            $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $case() {
                    $crate::conformance::run($harness, $crate::conformance::$suite::$case).await;
                }
            )*
        }
    };
}

/// Far more than any case takes, even on a machine that is busy with other things.
const CASE_DEADLINE: Duration = Duration::from_secs(180);

/// How long to wait for one thing that has to come.
pub(crate) const SOON: Duration = Duration::from_secs(30);

pub(crate) fn key(text: &str) -> Key {
    Key::parse(text).unwrap()
}

pub(crate) fn prefix(text: &str) -> Prefix {
    Prefix::parse(text).unwrap()
}

pub(crate) fn put(text: &str, value: &str) -> Op {
    Op::put(key(text), value.to_owned())
}

pub(crate) fn leased(text: &str, lease: LeaseId) -> Op {
    Op::Put {
        key: key(text),
        value: Bytes::from_static(b"leased"),
        lease: Some(lease),
    }
}

pub(crate) fn compare(text: &str, condition: Condition) -> Compare {
    Compare {
        key: key(text),
        condition,
    }
}

pub(crate) async fn commit(backend: &Arc<dyn Backend>, ops: Vec<Op>) -> Revision {
    backend.commit(vec![], ops).await.unwrap()
}

pub(crate) async fn read(backend: &Arc<dyn Backend>, text: &str) -> Option<Entry> {
    backend.get(&key(text)).await.unwrap()
}

pub(crate) async fn exists(backend: &Arc<dyn Backend>, text: &str) -> bool {
    read(backend, text).await.is_some()
}

/// The keys below a prefix, with their values.
pub(crate) async fn all(backend: &Arc<dyn Backend>, text: &str) -> BTreeMap<Key, Entry> {
    let entries = crate::backend::list_all(&**backend, &prefix(text))
        .await
        .unwrap();
    entries.into_iter().map(|e| (e.key.clone(), e)).collect()
}

#[track_caller]
pub(crate) fn assert_conflict<T>(result: Result<T>, text: &str) {
    match result {
        Err(Error::Conflict { key }) => assert_eq!(key.as_str(), text),
        Err(error) => panic!("not a conflict on {text}: {error}"),
        Ok(_) => panic!("not refused: a conflict on {text} was expected"),
    }
}

pub(crate) async fn next<T>(stream: &mut BoxStream<'static, Result<T>>, awaited: &str) -> T {
    match timeout(SOON, stream.next()).await {
        Ok(Some(event)) => event.unwrap(),
        Ok(None) => panic!("the stream ended while {awaited} was awaited"),
        Err(_) => panic!("{awaited} did not come within {SOON:?}"),
    }
}

/// Waits until `holds`, looking again and again.
pub(crate) async fn until<F: Future<Output = bool>>(awaited: &str, mut holds: impl FnMut() -> F) {
    let looking = async {
        while !holds().await {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    if timeout(SOON, looking).await.is_err() {
        panic!("{awaited} was not so within {SOON:?}");
    }
}

/// What a watch has told, put together.
pub(crate) struct Follower {
    stream: BoxStream<'static, Result<WatchEvent>>,
    pub(crate) entries: BTreeMap<Key, Entry>,
    pub(crate) revision: Revision,
    pub(crate) resets: usize,
}

impl Follower {
    /// A follower that has heard the first event, which must be a reset.
    pub(crate) async fn begin(backend: &Arc<dyn Backend>, text: &str) -> Self {
        let mut follower = Self {
            stream: backend.watch(&prefix(text)),
            entries: BTreeMap::new(),
            revision: Revision(0),
            resets: 0,
        };
        let event = follower.next().await;
        assert!(
            matches!(event, WatchEvent::Reset { .. }),
            "a watch begins with a reset, not with {event:?}"
        );
        follower
    }

    /// The next event, after it was checked and taken in.
    pub(crate) async fn next(&mut self) -> WatchEvent {
        let event = next(&mut self.stream, "an event of a watch").await;
        match &event {
            WatchEvent::Reset { entries, revision } => {
                assert!(
                    entries.is_sorted_by(|a, b| a.key < b.key),
                    "a reset is in order: {entries:?}"
                );
                assert!(*revision >= self.revision, "a watch does not go back");
                self.entries = entries.iter().map(|e| (e.key.clone(), e.clone())).collect();
                self.revision = *revision;
                self.resets += 1;
            }
            WatchEvent::Changes { changes, revision } => {
                assert!(
                    *revision > self.revision,
                    "changes come in the order of revisions: {revision} after {}",
                    self.revision
                );
                assert!(!changes.is_empty(), "an event tells something");
                self.revision = *revision;
                for change in changes {
                    match change {
                        Change::Put(entry) => {
                            self.entries.insert(entry.key.clone(), entry.clone());
                        }
                        Change::Delete(key) => {
                            let removed = self.entries.remove(key);
                            assert!(removed.is_some(), "{key} was deleted but never there");
                        }
                    }
                }
            }
        }
        event
    }

    /// The next event, which must be of changes: `+key` for a put, `-key` for a delete, in their order.
    pub(crate) async fn changes(&mut self) -> (Revision, Vec<String>) {
        match self.next().await {
            WatchEvent::Changes { changes, revision } => {
                let told = changes.iter().map(|change| match change {
                    Change::Put(entry) => format!("+{}", entry.key),
                    Change::Delete(key) => format!("-{key}"),
                });
                (revision, told.collect())
            }
            event @ WatchEvent::Reset { .. } => panic!("changes were awaited, not {event:?}"),
        }
    }

    /// Follows until the revision is reached.
    pub(crate) async fn catch_up(&mut self, revision: Revision) {
        while self.revision < revision {
            self.next().await;
        }
    }
}
