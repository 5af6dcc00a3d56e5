//! What a member does about a store that is full, damaged, in use or another's, and what it tells the operator.

use std::{
    sync::{atomic::Ordering, mpsc::RecvTimeoutError},
    time::Duration,
};

use tokio::time::Instant;

use super::{Driver, Event};
use crate::{
    Error, Result,
    backend::raft::{
        NAME,
        core::{Core, unavailable},
        log::{Batch, Identity, LogError},
        member::MemberId,
        replica::{Failure, Host, Replica},
        status::RaftRole,
    },
};

impl Driver {
    /// There is no room: nothing is acknowledged, the others go on without this member, and it starts anew from what
    /// its store holds as soon as that can be written again.
    pub(super) fn wait_for_room(
        &mut self,
        core: &mut Core,
        error: &LogError,
    ) -> Result<Option<Replica>> {
        tracing::error!(member = %self.config.me(), error = %Chain(error), "the disk is full: nothing is acknowledged until there is room");
        core.give_up_all();
        self.perform(core.effects());
        let problem = format!("{}: make room, this member goes on by itself", Chain(error));
        self.shared.status.send_modify(|status| {
            status.problem = Some(problem.clone());
            status.leader = None;
            status.role = RaftRole::Follower;
        });
        loop {
            let until = Instant::now() + ROOM_INTERVAL;
            while let Some(left) = until.checked_duration_since(Instant::now()) {
                match self.events.recv_timeout(left.max(Duration::from_millis(1))) {
                    Ok(Event::Frame(..)) => {
                        self.waiting_frames.fetch_sub(1, Ordering::Relaxed);
                    }
                    Ok(Event::Call(_, reply)) => {
                        reply.send(Err(unavailable(problem.as_str())));
                    }
                    Ok(Event::Shutdown | Event::Stop) | Err(RecvTimeoutError::Disconnected) => {
                        return Ok(None);
                    }
                    Ok(_) | Err(RecvTimeoutError::Timeout) => {}
                }
            }
            let probe = Batch {
                hard_state: None,
                ..Batch::default()
            };
            let again = self
                .store
                .recover()
                .and_then(|_| self.store.write(probe, true));
            match again {
                Ok(()) => {
                    tracing::info!(member = %self.config.me(), "there is room again");
                    return self.open().map(Some);
                }
                Err(LogError::Full { .. }) => {}
                Err(error) => return Err(self.explain(error)),
            }
        }
    }

    pub(super) fn check_identity(&self, identity: &Identity) -> Result<()> {
        let me = self.config.me();
        let refuse = |why: String| {
            Err(Error::Storage {
                backend: NAME,
                why,
                source: None,
            })
        };
        if identity.cell != self.config.cell {
            return refuse(format!(
                "the store is of cell {:?}, this member is of cell {:?}: give it the right directory",
                identity.cell, self.config.cell
            ));
        }
        if identity.member != me {
            return refuse(format!(
                "the store is of member {}, this is member {me}: give it the right directory, or its former name",
                identity.member
            ));
        }
        Ok(())
    }

    pub(super) fn fail(&self, failure: Failure) -> Error {
        match failure {
            Failure::Store(error) => self.explain(error),
            Failure::State(error) => error,
        }
    }

    pub(super) fn explain(&self, error: LogError) -> Error {
        explain(self.config.me(), error)
    }
}

/// What an operator has to do about a store.
fn explain(member: MemberId, error: LogError) -> Error {
    let why = match &error {
        LogError::Damaged { .. } => format!(
            "member {member}: {error}. It must not vote with what is left: remove this directory and start the member \
             again, then it joins as new; the other members keep the data"
        ),
        LogError::Full { .. } => format!(
            "member {member}: {}. Make room and start it again",
            Chain(&error)
        ),
        LogError::InUse { .. } => format!("member {member}: {error}. Stop that one first"),
        LogError::Failed { .. } => format!("member {member}: {}. Check the disk", Chain(&error)),
    };
    Error::Storage {
        backend: NAME,
        why,
        source: Some(error.into()),
    }
}

/// An error with its causes, in one line.
struct Chain<'a>(&'a LogError);

impl std::fmt::Display for Chain<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.0)?;
        let mut source = std::error::Error::source(self.0);
        while let Some(error) = source {
            write!(f, ": {error}")?;
            source = error.source();
        }
        Ok(())
    }
}

/// How often a full disk is tried again.
const ROOM_INTERVAL: Duration = Duration::from_secs(1);
