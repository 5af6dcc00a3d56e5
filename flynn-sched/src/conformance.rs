//! The contract of [`Cluster`] and [`HostLink`], as cases to run on an implementation of your own.
//!
//! ```
//! use std::sync::Arc;
//! use flynn_sched::{LocalCluster, clock::ManualClock, conformance::{Fixture, Harness}};
//!
//! #[derive(Debug)]
//! struct Mine;
//!
//! #[async_trait::async_trait]
//! impl Harness for Mine {
//!     async fn fresh(&self) -> Fixture {
//!         let cell = LocalCluster::new(Arc::new(ManualClock::default())); // yours instead
//!         Fixture { cluster: Arc::new(cell.clone()), link: Arc::new(cell) }
//!     }
//! }
//!
//! flynn_sched::cluster_conformance!(Mine); // the tests run in tokio, with `macros`, `rt` and `time`
//! ```
#![allow(
    clippy::unwrap_used,
    clippy::missing_panics_doc,
    reason = "a case that cannot go on must fail"
)]

pub mod commits;
pub mod hosts;
pub mod leaving;
pub mod reservations;
pub mod rules;

use std::{collections::BTreeMap, fmt, sync::Arc};

use async_trait::async_trait;
use futures::StreamExt;

use crate::{
    Cluster, ClusterState, Group, GroupId, GroupKind, Host, HostId, HostLink, Job, JobId, JobSpec,
    JobStatus, Membership, Phase, Resources,
};

/// Makes cells to run cases on.
#[async_trait]
pub trait Harness: fmt::Debug + Send + Sync {
    /// An empty cell that nobody else uses.
    async fn fresh(&self) -> Fixture;
}

/// A cell, from both sides.
#[derive(Debug, Clone)]
pub struct Fixture {
    /// For those who decide.
    pub cluster: Arc<dyn Cluster>,
    /// For those who carry out.
    pub link: Arc<dyn HostLink>,
}

/// Emits one test per case for a [`Harness`] value.
#[macro_export]
macro_rules! cluster_conformance {
    ($harness:expr) => {
        $crate::cluster_conformance! { @cases $harness;
            commits::a_commit_is_in_the_returned_state_and_in_the_next_snapshot,
            commits::an_incremental_commit_applies_what_fits_and_names_the_rest,
            commits::an_all_or_nothing_commit_that_does_not_fit_changes_nothing,
            commits::a_snapshot_never_changes,
            commits::by_sequence_a_host_that_changed_since_the_snapshot_conflicts,
            commits::by_resource_fit_an_old_snapshot_may_still_fit,
            commits::of_two_concurrent_commits_for_the_same_room_one_is_refused,
            commits::many_concurrent_commits_never_over_commit,
            commits::of_two_concurrent_guarded_commits_one_is_refused,
            commits::a_failed_guard_names_the_group_when_all_or_nothing,
            commits::a_thousand_jobs_start_in_one_commit,
            commits::stopping_and_removing_what_is_gone_succeeds,
            commits::a_job_is_removed_only_at_its_end,
            commits::groups_and_what_is_said_of_them_can_be_read_back,
            commits::a_removed_group_leaves_its_jobs_as_orphans,
            commits::a_preempted_job_is_told_to_stop_and_says_for_whom,
            commits::a_preemption_for_no_more_important_group_is_refused,
            commits::of_two_concurrent_preemptions_beyond_the_budget_one_is_refused,
            commits::a_moving_job_runs_on_until_it_is_stopped,
            commits::a_watch_begins_with_the_present_state,
            commits::a_watch_reaches_the_last_of_many_changes,
            reservations::a_reservation_can_be_read_back_and_is_removed_once_it_has_ended,
            reservations::what_is_reserved_only_the_holder_may_use,
            reservations::of_two_concurrent_reservations_of_the_same_room_one_is_refused,
            reservations::of_a_reservation_and_a_start_for_the_same_room_one_is_refused,
            reservations::the_room_of_a_removed_reservation_is_free_again,
            reservations::who_stays_too_long_gives_way_to_the_holder_and_to_nobody_else,
            hosts::a_host_that_joins_is_listed_with_what_it_says,
            hosts::a_host_that_leaves_is_lost_and_its_jobs_stay_listed,
            hosts::a_dropped_membership_loses_the_host,
            hosts::a_lost_host_that_joins_again_is_alive,
            hosts::a_host_id_is_not_taken_from_a_living_host,
            hosts::a_restarted_host_takes_over_and_the_old_membership_is_lost,
            hosts::an_updated_host_takes_no_more_jobs_when_it_drains,
            hosts::assignments_begin_with_the_whole_list_and_follow_each_change,
            hosts::a_stopping_job_stays_assigned_until_it_is_removed,
            hosts::reports_do_not_change_assignments,
            hosts::a_report_is_seen_in_the_state_and_frees_room_at_the_end,
            hosts::a_report_on_a_forgotten_job_is_dropped_and_the_others_are_not,
            hosts::an_ended_job_stays_ended,
            hosts::a_lost_host_without_jobs_can_be_forgotten,
            leaving::a_host_is_emptied_of_a_batch_only_by_a_set_time,
            leaving::a_taint_that_is_gone_evicts_nobody,
            leaving::a_gang_may_leave_all_its_hosts_when_one_is_being_emptied,
            leaving::of_two_concurrent_evictions_beyond_the_budget_one_is_refused,
            leaving::a_job_that_runs_to_its_end_is_not_moved,
            rules::of_two_concurrent_placements_that_must_be_apart_one_is_refused,
            rules::of_two_concurrent_placements_of_a_group_apart_from_itself_one_is_refused,
            rules::placements_apart_in_different_zones_both_succeed,
            rules::a_job_is_placed_near_another_only_while_that_one_is_there,
            rules::of_two_concurrent_placements_in_the_fuller_place_one_is_refused,
            rules::concurrent_placements_in_places_that_stay_even_both_succeed,
            rules::of_two_concurrent_starts_with_one_id_on_different_hosts_one_is_refused,
            rules::an_id_is_free_again_when_its_job_is_removed,
            rules::the_first_of_those_near_each_other_may_be_anywhere_and_the_next_is_near,
            rules::of_two_concurrent_first_ones_that_must_be_near_one_is_refused,
            rules::concurrent_commits_never_exceed_a_quota,
            rules::a_quota_counts_until_it_is_removed,
            rules::a_named_resource_is_given_once,
            rules::a_host_that_is_tainted_meanwhile_takes_no_more_jobs,
        }
    };
    (@cases $harness:expr; $($module:ident::$case:ident,)*) => {$(
        #[tokio::test]
        async fn $case() {
            let harness = $harness;
            let fixture = $crate::conformance::Harness::fresh(&harness).await;
            let case = $crate::conformance::$module::$case(fixture);
            ::tokio::time::timeout(::std::time::Duration::from_secs(60), case)
                .await
                .expect("the case ends within a minute");
        }
    )*};
}

// What cases are made of.

fn host_id(id: &str) -> HostId {
    HostId::parse(id).unwrap()
}

fn job_id(id: &str) -> JobId {
    JobId::parse(id).unwrap()
}

fn group_id(id: &str) -> GroupId {
    GroupId::parse(id).unwrap()
}

fn memory(memory_bytes: u64) -> Resources {
    Resources {
        memory_bytes,
        ..Resources::default()
    }
}

fn host(id: &str, memory_bytes: u64) -> Host {
    Host {
        addr: format!("addr-of-{id}"),
        api_url: format!("http://{id}"),
        tags: BTreeMap::from([("disk".to_owned(), "ssd".to_owned())]),
        zone: Some("z".to_owned()),
        incarnation: 1,
        ..Host::new(host_id(id), memory(memory_bytes))
    }
}

fn job(id: &str, group: &str, host: &str, memory_bytes: u64) -> Job {
    Job {
        id: job_id(id),
        group: group_id(group),
        host: host_id(host),
        spec: Arc::new(JobSpec {
            args: vec!["run".to_owned()],
            request: memory(memory_bytes),
            ..JobSpec::default()
        }),
        is_stopping: false,
        placed_at_ms: 7,
        attempt: 0,
        evicted: None,
        status: JobStatus::default(),
    }
}

fn group(id: &str, count: u32) -> Group {
    Group {
        id: group_id(id),
        kind: GroupKind::Service { count },
        spec: Arc::new(JobSpec::default()),
        priority: 50,
        max_unavailable: None,
        keep: None,
        owner: "conformance".to_owned(),
    }
}

fn phase(phase: Phase) -> JobStatus {
    JobStatus {
        phase,
        ..JobStatus::default()
    }
}

/// Waits until the cell looks like this.
async fn until(
    cluster: &dyn Cluster,
    looks_right: impl Fn(&ClusterState) -> bool,
) -> Arc<ClusterState> {
    let mut states = cluster.watch();
    while let Some(state) = states.next().await {
        let state = state.unwrap();
        if looks_right(&state) {
            return state;
        }
    }
    panic!("the watch ended before the cell looked right");
}

/// Joins, and waits until the cell shows it.
async fn join(fixture: &Fixture, host: Host) -> Box<dyn Membership> {
    let membership = fixture.link.join(host.clone()).await.unwrap();
    until(fixture.cluster.as_ref(), |state| {
        state
            .host(&host.id)
            .is_some_and(|known| known.lost_since_ms.is_none() && *known.host == host)
    })
    .await;
    membership
}
