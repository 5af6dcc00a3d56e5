//! The contract suites: run them on a [`ContainerRuntime`] or a [`LogSink`] of your own.
//!
//! Each case is a sentence of the contract. It starts with a runtime or a sink that nobody else uses, and depends on no
//! other case. The macros [`runtime_conformance!`](crate::runtime_conformance) and
//! [`log_sink_conformance!`](crate::log_sink_conformance) emit a test for each, and need `tokio` with `macros` and
//! `rt-multi-thread` in the crate that calls them.
#![allow(
    clippy::unwrap_used,
    clippy::missing_panics_doc,
    reason = "a case that does not hold ends by panicking: that is what it is for"
)]

pub mod log_sink;
pub mod runtime;

use std::{future::Future, path::PathBuf, sync::Arc, time::Duration};

use async_trait::async_trait;
use tokio::time::timeout;

use crate::{log::LogSink, runtime::ContainerRuntime};

/// Makes runtimes for cases. Commands in the cases are those of any Unix: `sh`, `cat`, `sleep`.
#[async_trait]
pub trait RuntimeHarness: Send + Sync {
    /// A runtime without containers; or why there is none.
    ///
    /// # Errors
    ///
    /// [`Skip`] when the case cannot run here.
    async fn fresh(&self) -> Result<RuntimeFixture, Skip>;
}

/// What a case about runtimes starts with.
pub struct RuntimeFixture {
    /// The runtime.
    pub runtime: Arc<dyn ContainerRuntime>,
    /// Makes another runtime over the same records, as a restarted daemon does.
    pub reopen: Box<dyn Fn() -> Arc<dyn ContainerRuntime> + Send + Sync>,
    /// An empty directory, the root of containers.
    pub root: PathBuf,
    /// Where their output goes.
    pub logs: Arc<dyn LogSink>,
    /// Kept until the case has ended, for example a temporary directory.
    pub keep: Box<dyn Send + Sync>,
}

/// Makes log sinks for cases.
#[async_trait]
pub trait LogSinkHarness: Send + Sync {
    /// A sink without logs, that keeps at least 1,000 lines of 100 bytes and fewer than 100,000 of them for each job; or
    /// why there is none.
    ///
    /// # Errors
    ///
    /// [`Skip`] when the case cannot run here.
    async fn fresh(&self) -> Result<LogSinkFixture, Skip>;
}

/// What a case about log sinks starts with.
pub struct LogSinkFixture {
    /// The sink.
    pub logs: Arc<dyn LogSink>,
    /// Kept until the case has ended, for example a temporary directory.
    pub keep: Box<dyn Send + Sync>,
}

/// Why a case cannot run.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{service} is missing: {why}")]
#[non_exhaustive]
pub struct Skip {
    /// What is missing, for example `docker`.
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

macro_rules! opaque_debug {
    ($($name:ident),*) => {$(
        impl std::fmt::Debug for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.debug_struct(stringify!($name)).finish_non_exhaustive()
            }
        }
    )*};
}
opaque_debug!(RuntimeFixture, LogSinkFixture);

/// Runs one case; for the macros.
///
/// A case that cannot run says so on standard error. It fails instead when `FLYNN_TEST_REQUIRE` (a comma list) names
/// the missing service.
#[doc(hidden)]
pub async fn run<T, C, F>(fresh: impl Future<Output = Result<T, Skip>>, case: C)
where
    C: FnOnce(T) -> F,
    F: Future<Output = ()>,
{
    match fresh.await {
        Ok(fixture) => timeout(CASE_DEADLINE, case(fixture))
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

/// Emits one test for each case of the contract of [`ContainerRuntime`](crate::runtime::ContainerRuntime), for the
/// [`RuntimeHarness`](crate::conformance::RuntimeHarness) given as an expression.
#[macro_export]
macro_rules! runtime_conformance {
    ($harness:expr) => {
        $crate::runtime_conformance! { @cases $harness;
            a_created_container_does_not_run_yet,
            a_container_cannot_be_created_twice,
            the_command_gets_its_arguments_its_directory_and_no_environment_but_its_own,
            a_command_with_a_slash_is_relative_to_the_root,
            a_missing_command_is_named_and_ends_with_127,
            the_exit_status_is_known_to_all_who_wait_and_until_deletion,
            a_signal_ends_a_job_with_128_and_its_number,
            a_job_may_handle_a_signal,
            kill_reaches_every_process_of_the_job,
            nothing_of_a_job_is_left_when_its_first_process_has_ended,
            what_has_ended_cannot_be_signalled,
            a_container_that_was_never_made_is_unknown,
            deleting_a_running_container_kills_it,
            deleting_an_absent_container_succeeds,
            containers_are_listed_with_their_states,
            output_is_logged_from_the_first_byte_to_the_last,
            a_client_attached_before_the_start_misses_nothing,
            a_client_attached_later_continues_the_log_exactly,
            input_reaches_the_job_and_its_end_too,
            without_input_a_job_reads_an_end,
            jobs_outlive_the_daemon_with_their_output_and_status,
        }
    };
    (@cases $harness:expr; $($case:ident,)*) => {
        $(
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $case() {
                let harness = $harness;
                let fresh = $crate::conformance::RuntimeHarness::fresh(&harness);
                $crate::conformance::run(fresh, $crate::conformance::runtime::$case).await;
            }
        )*
    };
}

/// Emits one test for each case of the contract of [`LogSink`](crate::log::LogSink), for the
/// [`LogSinkHarness`](crate::conformance::LogSinkHarness) given as an expression.
#[macro_export]
macro_rules! log_sink_conformance {
    ($harness:expr) => {
        $crate::log_sink_conformance! { @cases $harness;
            lines_are_read_as_they_were_written,
            the_newest_lines_are_read_oldest_first,
            lines_are_read_by_stream,
            a_log_is_read_up_to_a_point,
            a_long_line_is_split,
            a_log_is_bounded_and_keeps_the_newest,
            a_follower_sees_every_line_once,
            a_follower_that_starts_at_the_end_sees_only_what_comes,
            a_follower_that_is_too_slow_is_told_so,
            an_unknown_log_is_empty,
            a_removed_log_is_gone_and_others_are_not,
        }
    };
    (@cases $harness:expr; $($case:ident,)*) => {
        $(
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $case() {
                let harness = $harness;
                let fresh = $crate::conformance::LogSinkHarness::fresh(&harness);
                $crate::conformance::run(fresh, $crate::conformance::log_sink::$case).await;
            }
        )*
    };
}

const CASE_DEADLINE: Duration = Duration::from_secs(60);
