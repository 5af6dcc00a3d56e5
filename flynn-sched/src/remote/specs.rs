//! Jobs as the store keeps them: what all jobs of a group share, their description, is kept once, under the hash of its
//! content.
//!
//! Every commit that writes a job writes the job's description as well, the same bytes under the same key. So the
//! description's version changes whenever a job comes to need it, and whoever deletes it compares that version: a
//! description that a job needs is never swept away.
//!
//! Jobs written by an earlier version hold their whole description themselves, and are read all the same.

use std::{collections::HashMap, fmt, str::FromStr, sync::Arc};

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::{Error, Eviction, GroupId, HostId, Job, JobId, JobSpec, JobStatus, Result};

/// The first half of the SHA-256 of a description as JSON.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub(super) struct SpecHash([u8; 16]);

impl SpecHash {
    /// Of a description in its JSON form.
    pub(super) fn of(json: &[u8]) -> Self {
        let digest: [u8; 32] = Sha256::digest(json).into();
        let mut hash = [0; 16];
        hash.copy_from_slice(&digest[..16]);
        Self(hash)
    }
}

impl fmt::Display for SpecHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl FromStr for SpecHash {
    type Err = &'static str;

    fn from_str(hex: &str) -> Result<Self, Self::Err> {
        const WHY: &str = "a description's hash is 32 hexadecimal digits";
        if hex.len() != 32 || !hex.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Err(WHY);
        }
        let number = u128::from_str_radix(hex, 16).map_err(|_| WHY)?;
        Ok(Self(number.to_be_bytes()))
    }
}

impl TryFrom<String> for SpecHash {
    type Error = &'static str;

    fn try_from(hex: String) -> Result<Self, Self::Error> {
        hex.parse()
    }
}

impl From<SpecHash> for String {
    fn from(hash: SpecHash) -> Self {
        hash.to_string()
    }
}

/// A description as JSON, and its hash.
pub(super) fn described(spec: &JobSpec) -> Result<(SpecHash, Bytes)> {
    let json = serde_json::to_vec(spec).map_err(|error| Error::Invalid {
        what: "a job's description".to_owned(),
        why: error.to_string(),
    })?;
    Ok((SpecHash::of(&json), json.into()))
}

/// The descriptions met so far, each turned into JSON once.
#[derive(Debug, Default)]
pub(super) struct Descriptions(HashMap<*const JobSpec, (SpecHash, Bytes, Arc<JobSpec>)>);

impl Descriptions {
    pub(super) fn of(&mut self, spec: &Arc<JobSpec>) -> Result<(SpecHash, Bytes)> {
        if let Some((hash, json, _)) = self.0.get(&Arc::as_ptr(spec)) {
            return Ok((*hash, json.clone()));
        }
        let (hash, json) = described(spec)?;
        // Held, so that its address is not used again.
        let known = (hash, json.clone(), Arc::clone(spec));
        self.0.insert(Arc::as_ptr(spec), known);
        Ok((hash, json))
    }
}

/// A job's value. Its id and host are in its key.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct StoredJob {
    group: GroupId,
    pub(super) spec: StoredSpec,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    is_stopping: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    evicted: Option<Eviction>,
    #[serde(default)]
    placed_at_ms: u64,
    #[serde(default, skip_serializing_if = "is_zero")]
    attempt: u32,
}

/// Where a job's description is.
#[derive(Debug, Serialize, Deserialize)]
#[serde(untagged)]
pub(super) enum StoredSpec {
    /// Under this hash.
    Hash(SpecHash),
    /// Here.
    Whole(Arc<JobSpec>),
}

impl StoredJob {
    /// What is written for `job`, whose description has this hash.
    pub(super) fn of(job: &Job, hash: SpecHash) -> Self {
        // Field by field, so that a new one is not forgotten.
        let Job {
            id: _,
            group,
            host: _,
            spec: _,
            is_stopping,
            evicted,
            placed_at_ms,
            attempt,
            status: _,
        } = job;
        Self {
            group: group.clone(),
            spec: StoredSpec::Hash(hash),
            is_stopping: *is_stopping,
            evicted: evicted.clone(),
            placed_at_ms: *placed_at_ms,
            attempt: *attempt,
        }
    }

    /// The job under the key of `id` on `host`, with its description.
    pub(super) fn with(self, id: JobId, host: HostId, spec: Arc<JobSpec>) -> Job {
        Job {
            id,
            host,
            group: self.group,
            spec,
            is_stopping: self.is_stopping,
            evicted: self.evicted,
            placed_at_ms: self.placed_at_ms,
            attempt: self.attempt,
            status: JobStatus::default(),
        }
    }
}

fn is_zero(number: &u32) -> bool {
    *number == 0
}

/// The descriptions of a mirrored cell, and how many jobs need each.
#[derive(Debug, Clone, Default)]
pub(super) struct Specs(imbl::OrdMap<SpecHash, Held>);

#[derive(Debug, Clone)]
struct Held {
    spec: Arc<JobSpec>,
    jobs: u64,
}

impl Specs {
    pub(super) fn get(&self, hash: &SpecHash) -> Option<&Arc<JobSpec>> {
        self.0.get(hash).map(|held| &held.spec)
    }

    /// How many jobs need it.
    pub(super) fn jobs(&self, hash: &SpecHash) -> u64 {
        self.0.get(hash).map_or(0, |held| held.jobs)
    }

    /// The one shared copy of a description.
    pub(super) fn share(&mut self, hash: SpecHash, spec: Arc<JobSpec>) -> Arc<JobSpec> {
        let held = self.0.entry(hash).or_insert(Held { spec, jobs: 0 });
        Arc::clone(&held.spec)
    }

    /// One more job needs it.
    pub(super) fn hold(&mut self, hash: &SpecHash) {
        if let Some(held) = self.0.get_mut(hash) {
            held.jobs += 1;
        }
    }

    /// One job less needs it.
    pub(super) fn release(&mut self, hash: &SpecHash) {
        if let Some(held) = self.0.get_mut(hash) {
            held.jobs = held.jobs.saturating_sub(1);
        }
    }

    /// Forgets it, unless a job needs it.
    pub(super) fn forget(&mut self, hash: &SpecHash) {
        if self.jobs(hash) == 0 {
            self.0.remove(hash);
        }
    }
}
