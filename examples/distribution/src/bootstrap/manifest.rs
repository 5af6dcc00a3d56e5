//! The manifest: a JSON list of steps, with `${name}` where a value of an earlier step belongs.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context as _, Result, bail, ensure};
use flynn_controller::model::ProcessType;
use serde::Deserialize;
use serde_json::Value;

/// The steps, in order.
#[derive(Debug)]
pub(super) struct Manifest(Vec<Step>);

#[derive(Debug, Deserialize)]
#[serde(tag = "action", rename_all = "kebab-case", deny_unknown_fields)]
pub(super) enum Step {
    /// Waits until enough hosts are in the cell.
    WaitHosts { id: String },
    /// Makes a random value.
    GenRandom { id: String },
    /// Makes the key by which users know the receivers.
    GenSshKey { id: String },
    /// Makes a key that the controller accepts, under a name.
    GenKey { id: String, name: String },
    /// Makes an app of the platform, with a release and a formation.
    DeployApp(AppStep),
    /// Waits until all jobs of all apps are up.
    WaitJobs { id: String },
    /// Adds an HTTP route.
    AddRoute {
        id: String,
        app: String,
        domain: String,
        service: String,
    },
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct AppStep {
    pub(super) id: String,
    #[serde(default)]
    pub(super) meta: BTreeMap<String, String>,
    #[serde(default)]
    pub(super) env: BTreeMap<String, String>,
    pub(super) processes: BTreeMap<String, Process>,
}

/// A process type of the controller's API, with the count it is scaled to.
#[derive(Debug, Deserialize)]
pub(super) struct Process {
    count: u32,
    #[serde(flatten)]
    process: Value,
}

impl Manifest {
    pub(super) fn parse(text: &str) -> Result<Self> {
        let steps: Vec<Step> =
            serde_json::from_str(text).context("the manifest is not a list of steps")?;
        let mut ids = BTreeSet::new();
        for step in &steps {
            ensure!(
                ids.insert(step.id()),
                "the manifest has two steps called {}",
                step.id()
            );
        }
        Ok(Self(steps))
    }

    pub(super) fn steps(&self) -> &[Step] {
        &self.0
    }
}

impl Step {
    pub(super) fn id(&self) -> &str {
        match self {
            Self::WaitHosts { id }
            | Self::GenRandom { id }
            | Self::GenSshKey { id }
            | Self::GenKey { id, .. }
            | Self::WaitJobs { id }
            | Self::AddRoute { id, .. }
            | Self::DeployApp(AppStep { id, .. }) => id,
        }
    }
}

impl Process {
    /// The count and the process type, with all values filled in.
    pub(super) fn fill(&self, values: &BTreeMap<String, String>) -> Result<(u32, ProcessType)> {
        let mut process = self.process.clone();
        fill_value(&mut process, values)?;
        Ok((self.count, serde_json::from_value(process)?))
    }
}

/// Replaces each `${name}`.
pub(super) fn fill(text: &str, values: &BTreeMap<String, String>) -> Result<String> {
    let mut filled = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("${") {
        let Some((name, after)) = after.split_once('}') else {
            bail!("{text:?} has a ${{ without a }}")
        };
        let value = values
            .get(name)
            .with_context(|| format!("{text:?} names {name}, which no earlier step has made"))?;
        filled.push_str(before);
        filled.push_str(value);
        rest = after;
    }
    filled.push_str(rest);
    Ok(filled)
}

fn fill_value(value: &mut Value, values: &BTreeMap<String, String>) -> Result<()> {
    match value {
        Value::String(text) if text.contains("${") => {
            let is_whole = text.starts_with("${") && text.find('}') == Some(text.len() - 1);
            let filled = fill(text, values)?;
            // A number stands for itself, so that a port may be a value.
            *value = match filled.parse::<u64>() {
                Ok(number) if is_whole => number.into(),
                Ok(_) | Err(_) => filled.into(),
            };
        }
        Value::Array(items) => items
            .iter_mut()
            .try_for_each(|item| fill_value(item, values))?,
        Value::Object(fields) => fields
            .values_mut()
            .try_for_each(|field| fill_value(field, values))?,
        Value::String(_) | Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn values() -> BTreeMap<String, String> {
        BTreeMap::from([
            ("http-port".to_owned(), "8080".to_owned()),
            ("domain".to_owned(), "example.com".to_owned()),
        ])
    }

    #[test]
    fn the_built_in_manifest_is_understood() {
        let manifest = Manifest::parse(include_str!("../../bootstrap.json")).unwrap();
        let apps: Vec<_> = manifest
            .steps()
            .iter()
            .filter_map(|step| {
                if let Step::DeployApp(app) = step {
                    Some(app.id.as_str())
                } else {
                    None
                }
            })
            .collect();
        assert_eq!(apps, ["controller", "scheduler", "router", "receive"]);
    }

    #[test]
    fn values_are_filled_in_and_a_port_is_a_number() {
        assert_eq!(
            fill("controller.${domain}", &values()).unwrap(),
            "controller.example.com"
        );
        let process: Process = serde_json::from_str(
            r#"{"count":1,"omni":true,"args":["r"],"ports":[{"port":"${http-port}","proto":"http"}]}"#,
        )
        .unwrap();
        let (count, process) = process.fill(&values()).unwrap();
        assert_eq!(
            (count, process.omni, process.ports[0].port),
            (1, true, 8080)
        );
    }

    #[test]
    fn a_value_that_no_step_has_made_is_named() {
        let error = fill("${nothing}", &values()).unwrap_err();
        assert!(error.to_string().contains("nothing"), "{error}");
        assert!(fill("${open", &values()).is_err());
        assert!(
            Manifest::parse(
                r#"[{"action":"wait-hosts","id":"a"},{"action":"wait-jobs","id":"a"}]"#
            )
            .is_err()
        );
    }
}
