//! A release: artifacts, settings and process types of an app, never changed after it was made.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{Env, ProcessType, Time, check_type, empty_is_none, nullable, time};
use crate::{Error, Result};

/// What an app is at one point of its history; immutable.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Release {
    /// Its identity.
    #[serde(
        deserialize_with = "nullable",
        skip_serializing_if = "String::is_empty"
    )]
    pub id: String,
    /// The app it belongs to.
    #[serde(
        deserialize_with = "nullable",
        skip_serializing_if = "String::is_empty"
    )]
    pub app_id: String,
    /// What its jobs are made of, unpacked in order.
    #[serde(deserialize_with = "nullable", skip_serializing_if = "Vec::is_empty")]
    pub artifacts: Vec<String>,
    /// Environment variables of all its jobs.
    #[serde(deserialize_with = "nullable", skip_serializing_if = "is_empty")]
    pub env: Env,
    /// Free-form facts, such as `git.commit`.
    #[serde(
        deserialize_with = "nullable",
        skip_serializing_if = "BTreeMap::is_empty"
    )]
    pub meta: BTreeMap<String, String>,
    /// Its process types.
    #[serde(
        deserialize_with = "nullable",
        skip_serializing_if = "BTreeMap::is_empty"
    )]
    pub processes: BTreeMap<String, ProcessType>,
    /// When it was created.
    #[serde(
        deserialize_with = "time::optional",
        skip_serializing_if = "Option::is_none"
    )]
    pub created_at: Option<Time>,
    /// The first artifact, for old clients.
    #[serde(
        rename = "artifact",
        deserialize_with = "empty_is_none",
        skip_serializing_if = "Option::is_none"
    )]
    pub legacy_artifact: Option<String>,
}

impl Release {
    /// Was it made by a git push?
    #[must_use]
    pub fn is_git(&self) -> bool {
        self.meta.get("git").is_some_and(|git| git == "true")
    }

    /// Checks names and services.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] names the field.
    pub fn check(&self) -> Result<()> {
        check_env("env", &self.env)?;
        for (name, process) in &self.processes {
            check_type(name)?;
            check_env("processes", &process.env)?;
            for service in process.ports.iter().filter_map(|p| p.service.as_ref()) {
                if let Err(error) = flynn_discovery::ServiceName::parse(&*service.name) {
                    return Err(Error::invalid(
                        "processes",
                        format!("has a port of {name} with a bad {error}"),
                    ));
                }
            }
        }
        Ok(())
    }

    /// This release without the values of its variables, for places that are kept or shown.
    #[must_use]
    pub fn without_env(&self) -> Self {
        let mut release = self.clone();
        release.env = Env::default();
        for process in release.processes.values_mut() {
            process.env = Env::default();
        }
        release
    }
}

pub(crate) fn check_env(field: &'static str, env: &Env) -> Result<()> {
    for (name, value) in env.iter() {
        if name.is_empty() || name.contains(['=', '\0']) {
            return Err(Error::invalid(
                field,
                "has a variable whose name is empty or has '=' in it",
            ));
        }
        if value.contains('\0') {
            return Err(Error::invalid(
                field,
                format!("has a zero byte in the value of {name}"),
            ));
        }
    }
    Ok(())
}

fn is_empty(env: &Env) -> bool {
    env.is_empty()
}
