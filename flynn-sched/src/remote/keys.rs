//! The cell's keys, written and read in one place.

use std::fmt;

use flynn_discovery::backend::{Key, Prefix};

use crate::{
    Error, GroupId, HostId, JobId, Namespace, ReservationId, Result, remote::specs::SpecHash,
};

/// A key of the cell.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum CellKey {
    // The order is the order in which several changes of one transaction are taken in: hosts before their jobs, jobs
    // before what is said of them.
    Host(HostId),
    Known(HostId),
    Group(GroupId),
    Spec(SpecHash),
    Job(HostId, JobId),
    Status(HostId, JobId),
    Note(GroupId),
    HostSeq(HostId),
    GroupSeq(GroupId),
    Reservation(ReservationId),
    Quota(Namespace),
    /// Its version counts placements of a namespace that has a quota.
    QuotaSeq(Namespace),
    /// Its version counts placements of jobs that keep others apart over more than their host.
    ApartSeq,
    /// Its version counts placements of groups that had none before.
    GroupsSeq,
    /// Somebody chose this id for a job that is listed.
    Id(JobId),
}

impl CellKey {
    /// Everything of the cell.
    pub(super) fn prefix() -> Prefix {
        Prefix::parse(ROOT).expect("it is a prefix")
    }

    /// The jobs of a host.
    pub(super) fn jobs_of(host: &HostId) -> Prefix {
        Prefix::parse(format!("{ROOT}jobs/{host}/")).expect("host ids are segments")
    }

    /// What a host says of its jobs.
    pub(super) fn statuses_of(host: &HostId) -> Prefix {
        Prefix::parse(format!("{ROOT}status/{host}/")).expect("host ids are segments")
    }

    /// As the store's key.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] for ids that are not segments of a key: the groups `.` and `..`.
    pub(super) fn key(&self) -> Result<Key> {
        Key::parse(self.to_string()).map_err(|error| Error::Invalid {
            what: format!("id in {self}"),
            why: error.to_string(),
        })
    }

    /// Reads a key below [`CellKey::prefix`]; `None` for keys of a later version of this program.
    pub(super) fn parse(key: &Key) -> Option<Self> {
        let mut segments = key.as_str().strip_prefix(ROOT)?.split('/');
        let (kind, id, rest) = (segments.next()?, segments.next()?, segments.next());
        if segments.next().is_some() {
            return None;
        }
        let host = || HostId::parse(id).ok();
        let group = || GroupId::parse(id).ok();
        Some(match (kind, rest) {
            ("hosts", None) => Self::Host(host()?),
            ("known", None) => Self::Known(host()?),
            ("groups", None) => Self::Group(group()?),
            ("notes", None) => Self::Note(group()?),
            ("seq", None) => Self::HostSeq(host()?),
            ("groupseq", None) => Self::GroupSeq(group()?),
            ("reservations", None) => Self::Reservation(ReservationId::parse(id).ok()?),
            ("quotas", None) => Self::Quota(Namespace::parse(id).ok()?),
            ("quotaseq", None) => Self::QuotaSeq(Namespace::parse(id).ok()?),
            ("specs", None) => Self::Spec(id.parse().ok()?),
            ("ids", None) => Self::Id(JobId::parse(id).ok()?),
            ("cellseq", None) if id == APART => Self::ApartSeq,
            ("cellseq", None) if id == GROUPS => Self::GroupsSeq,
            ("jobs", Some(job)) => Self::Job(host()?, JobId::parse(job).ok()?),
            ("status", Some(job)) => Self::Status(host()?, JobId::parse(job).ok()?),
            _ => return None,
        })
    }
}

impl fmt::Display for CellKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(ROOT)?;
        match self {
            Self::Host(id) => write!(f, "hosts/{id}"),
            Self::Known(id) => write!(f, "known/{id}"),
            Self::Group(id) => write!(f, "groups/{id}"),
            Self::Note(id) => write!(f, "notes/{id}"),
            Self::HostSeq(id) => write!(f, "seq/{id}"),
            Self::GroupSeq(id) => write!(f, "groupseq/{id}"),
            Self::Reservation(id) => write!(f, "reservations/{id}"),
            Self::Quota(id) => write!(f, "quotas/{id}"),
            Self::QuotaSeq(id) => write!(f, "quotaseq/{id}"),
            Self::Spec(hash) => write!(f, "specs/{hash}"),
            Self::ApartSeq => write!(f, "cellseq/{APART}"),
            Self::GroupsSeq => write!(f, "cellseq/{GROUPS}"),
            Self::Id(id) => write!(f, "ids/{id}"),
            Self::Job(host, id) => write!(f, "jobs/{host}/{id}"),
            Self::Status(host, id) => write!(f, "status/{host}/{id}"),
        }
    }
}

const ROOT: &str = "cell/";
const APART: &str = "apart";
const GROUPS: &str = "groups";
