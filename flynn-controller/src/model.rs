//! What travels on the wire: the resources of the controller's API, field by field as existing Flynn clients know them.
//!
//! Unknown fields are ignored, `null` stands for absent, and what is empty is left out where those clients expect it.
//! Identities of apps, releases and so on are UUIDs in text form; they are made by the server and only looked up after.

mod app;
mod artifact;
mod deployment;
mod env;
mod event;
mod formation;
mod job;
mod key;
mod process;
mod release;
mod route;
mod time;

pub use app::{App, AppUpdate};
pub use artifact::Artifact;
pub use deployment::{Deployment, DeploymentEvent, DeploymentStatus};
pub use env::Env;
pub use event::{
    AppDeletion, AppDeletionEvent, AppRelease, Event, EventKind, ReleaseDeletion,
    ReleaseDeletionEvent, Scale,
};
#[doc(no_inline)]
pub use flynn_router::Route;
pub use formation::{Counts, ExpandedFormation, Formation, ScaleRequest, ScaleState, Tags};
pub use job::{Job, JobState, LogLine, NewJob};
pub use key::Key;
pub use process::{
    HealthCheck, Limits, Port, PortService, ProcessResources, ProcessType, VolumeRequest,
};
pub use release::Release;
pub(crate) use release::check_env;
pub use route::NewRoute;
pub use time::Time;

use serde::{Deserialize, Deserializer};

use crate::{Error, Result};

/// The longest name of an app.
pub const MAX_NAME_LEN: usize = 100;

/// The longest name of a process type.
pub const MAX_TYPE_LEN: usize = 63;

/// Checks the name of an app: groups of `a-z` and `0-9` joined by single dashes, at most [`MAX_NAME_LEN`] bytes.
///
/// # Errors
///
/// [`Error::Invalid`] says what is allowed.
pub fn check_name(name: &str) -> Result<()> {
    let fits = name.len() <= MAX_NAME_LEN
        && name.split('-').all(|part| {
            !part.is_empty()
                && part
                    .bytes()
                    .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit())
        });
    if fits {
        Ok(())
    } else {
        Err(Error::invalid(
            "name",
            "must be at most 100 of a-z and 0-9, in parts joined by single dashes",
        ))
    }
}

/// Checks the name of a process type: 1 to [`MAX_TYPE_LEN`] letters, digits, dashes and underscores.
///
/// # Errors
///
/// [`Error::Invalid`] says what is allowed.
pub fn check_type(name: &str) -> Result<()> {
    let fits = !name.is_empty()
        && name.len() <= MAX_TYPE_LEN
        && name
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_');
    if fits {
        Ok(())
    } else {
        Err(Error::invalid(
            "processes",
            format!(
                "has a type {name:?}: use 1 to {MAX_TYPE_LEN} letters, digits, dashes and underscores"
            ),
        ))
    }
}

/// Checks an identity that a client chose: a UUID in text form.
///
/// # Errors
///
/// [`Error::Invalid`] names the field.
pub fn check_id(field: &'static str, id: &str) -> Result<()> {
    let is_canonical = id.len() == 36
        && uuid::Uuid::try_parse(id).is_ok()
        && !id.bytes().any(|b| b.is_ascii_uppercase());
    if is_canonical {
        Ok(())
    } else {
        Err(Error::invalid(field, "must be a UUID"))
    }
}

/// A new identity.
#[must_use]
pub fn new_id() -> String {
    uuid::Uuid::new_v4().to_string()
}

/// Reads `null` as the default: Go clients send it for an empty map, list or string.
fn nullable<'de, D: Deserializer<'de>, T: Default + Deserialize<'de>>(
    deserializer: D,
) -> Result<T, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

/// Reads an empty string as absent, as Go's `omitempty` writes it.
fn empty_is_none<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    Ok(Option::<String>::deserialize(deserializer)?.filter(|text| !text.is_empty()))
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde's signature")]
fn is_false(b: &bool) -> bool {
    !*b
}

#[cfg(test)]
mod tests;
