//! Why a change does not fit, as a refusal and as an error.

use crate::{Error, GroupId, HostId, Namespace, transaction::Change};

/// Why not.
pub(super) struct No {
    pub(super) host: Option<HostId>,
    pub(super) kind: NoKind,
    pub(super) why: String,
}

#[derive(PartialEq, Eq)]
pub(super) enum NoKind {
    /// The cell has moved on.
    Conflict,
    /// The group has moved on.
    Group(GroupId),
    /// The namespace has no room.
    Quota(Namespace),
    /// There is no such host.
    Unknown,
    /// The change is wrong in itself.
    Invalid,
}

impl No {
    pub(super) fn conflict(host: &HostId, why: impl Into<String>) -> Self {
        Self {
            host: Some(host.clone()),
            kind: NoKind::Conflict,
            why: why.into(),
        }
    }

    pub(super) fn group(group: &GroupId, why: impl Into<String>) -> Self {
        Self {
            host: None,
            kind: NoKind::Group(group.clone()),
            why: why.into(),
        }
    }

    pub(super) fn invalid(why: impl Into<String>) -> Self {
        Self {
            host: None,
            kind: NoKind::Invalid,
            why: why.into(),
        }
    }

    pub(super) fn is_conflict(&self) -> bool {
        self.kind != NoKind::Invalid
    }

    pub(super) fn into_error(self, change: &Change) -> Error {
        match (self.kind, self.host) {
            (NoKind::Conflict, Some(host)) => Error::Conflict {
                host,
                why: self.why,
            },
            (NoKind::Unknown, Some(host)) => Error::UnknownHost { host },
            (NoKind::Group(group), _) => Error::GroupChanged {
                group,
                why: self.why,
            },
            (NoKind::Quota(namespace), _) => Error::QuotaExceeded {
                namespace,
                why: self.why,
            },
            (NoKind::Conflict | NoKind::Unknown | NoKind::Invalid, _) => Error::Invalid {
                what: change.subject(),
                why: self.why,
            },
        }
    }
}

impl Change {
    /// What the change is about, for messages.
    fn subject(&self) -> String {
        match self {
            Self::Start(job) => format!("start of job {}", job.id),
            Self::Stop(job) => format!("stop of job {job}"),
            Self::Evict { job, .. } => format!("eviction of job {job}"),
            Self::Remove(job) => format!("removal of job {job}"),
            Self::PutGroup(group) => format!("group {}", group.id),
            Self::RemoveGroup(group) => format!("removal of group {group}"),
            Self::ExpectGroup { group, .. } => format!("guard of group {group}"),
            Self::Note { group, .. } => format!("note of group {group}"),
            Self::PutQuota(quota) => format!("quota of namespace {}", quota.namespace),
            Self::RemoveQuota(namespace) => format!("removal of the quota of {namespace}"),
            Self::PutReservation(reservation) => format!("reservation {}", reservation.id),
            Self::RemoveReservation { id, .. } => format!("removal of reservation {id}"),
            Self::ForgetHost(host) => format!("forgetting host {host}"),
        }
    }
}
