//! May a request that failed be sent again? Pure.
//!
//! A request that reached a backend may have been carried out. So it is repeated only if that cannot be (nothing of it
//! was sent), or if doing it twice is the same as once (its method is idempotent and all of its body is still here).

use std::time::Duration;

/// How an attempt failed, before a byte of the answer was passed on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Failure {
    /// There was no connection: nothing was sent.
    Connect,
    /// The connection ended before the head of a response was complete.
    Closed {
        /// The system took some bytes of the request.
        was_sent: bool,
    },
    /// The backend did not answer in time.
    TimedOut,
    /// The backend answered something that is not a response.
    BadResponse,
}

/// What is known about the request and its attempts so far.
#[derive(Debug, Clone, Copy)]
pub(crate) struct History {
    pub(crate) is_idempotent: bool,
    /// All of its body is at hand, to be sent again.
    pub(crate) is_replayable: bool,
    /// Something was passed on to the client already, such as `103 Early Hints`.
    pub(crate) was_answered: bool,
    /// Attempts so far.
    pub(crate) attempts: u32,
    /// Those of them in which something was sent.
    pub(crate) sent: u32,
    /// Since the request was there.
    pub(crate) spent: Duration,
}

/// The most attempts for one request.
pub(crate) const MAX_ATTEMPTS: u32 = 4;

/// The most attempts that reach a backend: a request that kills backends must not kill them all.
pub(crate) const MAX_SENT: u32 = 3;

/// No attempt begins later than this.
pub(crate) const MAX_SPENT: Duration = Duration::from_secs(10);

/// May the request be sent again, to another backend?
pub(crate) fn may_repeat(failure: Failure, history: &History) -> bool {
    if history.attempts >= MAX_ATTEMPTS || history.spent >= MAX_SPENT || history.was_answered {
        return false;
    }
    match failure {
        Failure::Connect => true,
        Failure::Closed { was_sent: false } => history.is_replayable,
        Failure::Closed { was_sent: true } => {
            history.is_idempotent && history.is_replayable && history.sent < MAX_SENT
        }
        // It may still be at work on it, and waiting as long again helps nobody.
        Failure::TimedOut => false,
        Failure::BadResponse => false,
    }
}

/// Is carrying out a request with this method twice the same as once (RFC 9110, 9.2.2)?
pub(crate) fn is_idempotent(method: &[u8]) -> bool {
    matches!(
        method,
        b"GET" | b"HEAD" | b"OPTIONS" | b"TRACE" | b"PUT" | b"DELETE"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    const GET: History = History {
        is_idempotent: true,
        is_replayable: true,
        was_answered: false,
        attempts: 1,
        sent: 1,
        spent: Duration::ZERO,
    };
    const POST: History = History {
        is_idempotent: false,
        ..GET
    };
    const LOST: Failure = Failure::Closed { was_sent: true };
    const UNSENT: Failure = Failure::Closed { was_sent: false };

    #[test]
    fn what_was_not_sent_is_repeated_whatever_it_is() {
        for history in [GET, POST] {
            assert!(may_repeat(Failure::Connect, &history));
            assert!(may_repeat(UNSENT, &history));
        }
        assert!(may_repeat(
            Failure::Connect,
            &History {
                is_replayable: false,
                ..POST
            }
        ));
        assert!(!may_repeat(
            UNSENT,
            &History {
                is_replayable: false,
                ..POST
            }
        ));
    }

    #[test]
    fn what_was_sent_is_repeated_only_if_twice_is_the_same_as_once() {
        assert!(may_repeat(LOST, &GET));
        assert!(!may_repeat(LOST, &POST));
        assert!(!may_repeat(
            LOST,
            &History {
                is_replayable: false,
                ..GET
            }
        ));
    }

    #[test]
    fn a_request_that_timed_out_or_was_answered_is_not_repeated() {
        assert!(!may_repeat(Failure::TimedOut, &GET));
        assert!(!may_repeat(Failure::BadResponse, &GET));
        assert!(!may_repeat(
            LOST,
            &History {
                was_answered: true,
                ..GET
            }
        ));
    }

    #[test]
    fn repeating_has_bounds() {
        assert!(!may_repeat(
            Failure::Connect,
            &History {
                attempts: MAX_ATTEMPTS,
                ..GET
            }
        ));
        assert!(!may_repeat(
            LOST,
            &History {
                sent: MAX_SENT,
                ..GET
            }
        ));
        assert!(!may_repeat(
            Failure::Connect,
            &History {
                spent: MAX_SPENT,
                ..GET
            }
        ));
    }

    #[test]
    fn the_methods_of_the_standard_are_known() {
        for method in ["GET", "HEAD", "OPTIONS", "TRACE", "PUT", "DELETE"] {
            assert!(is_idempotent(method.as_bytes()));
        }
        for method in ["POST", "PATCH", "get", "LOCK", ""] {
            assert!(!is_idempotent(method.as_bytes()));
        }
    }
}
