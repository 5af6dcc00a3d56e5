//! The `Procfile` of an app, and what a buildpack's `bin/release` says: process types and their commands.

use std::collections::BTreeMap;

use serde::Deserialize;

use crate::{Error, Result};

/// Commands by process type.
pub type ProcessTypes = BTreeMap<String, String>;

/// Parses a Procfile: lines `type: command`, empty lines, and comments that begin with `#`.
///
/// # Errors
///
/// [`Error::Refused`] names the line that is wrong, or says that there is none.
pub fn parse_procfile(text: &str) -> Result<ProcessTypes> {
    let mut types = ProcessTypes::new();
    for (number, line) in (1..).zip(text.trim_start_matches('\u{feff}').lines()) {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let (name, command) = line
            .split_once(':')
            .map(|(name, command)| (name.trim(), command.trim()))
            .filter(|(name, _)| is_type(name))
            .ok_or_else(|| {
                let shown: String = line.chars().take(60).collect();
                Error::refused(format!(
                    "Procfile line {number} is not `type: command` (`{shown}`); write a line such as `web: ./server`"
                ))
            })?;
        if command.is_empty() {
            return Err(Error::refused(format!(
                "Procfile line {number} gives process type {name} no command; write a line such as `{name}: ./server`"
            )));
        }
        if types.insert(name.to_owned(), command.to_owned()).is_some() {
            return Err(Error::refused(format!(
                "Procfile line {number} is the second for process type {name}; keep one of them"
            )));
        }
    }
    if types.is_empty() {
        return Err(Error::refused(
            "Procfile has no process type; write a line such as `web: ./server`",
        ));
    }
    Ok(types)
}

/// Parses what `bin/release` prints: JSON, or the small part of YAML that buildpacks use.
///
/// Of the document only `default_process_types` counts, a map from types to commands.
///
/// # Errors
///
/// [`Error::Refused`] when a line of that map is not `type: command`.
pub fn parse_release(text: &str) -> Result<ProcessTypes> {
    if text.trim_start().starts_with('{') {
        #[derive(Deserialize)]
        struct Release {
            #[serde(default)]
            default_process_types: ProcessTypes,
        }
        return serde_json::from_str::<Release>(text)
            .map(|release| release.default_process_types)
            .map_err(|e| Error::refused(format!("the buildpack's release is not JSON: {e}")));
    }
    let mut types = ProcessTypes::new();
    let mut is_inside = false;
    for line in text.lines() {
        let content = line.trim();
        if content.is_empty() || content.starts_with('#') || content == "---" {
            continue;
        }
        if !line.starts_with([' ', '\t']) {
            is_inside = content
                .strip_prefix("default_process_types:")
                .is_some_and(|rest| matches!(rest.trim(), "" | "{}" | "~" | "null"));
            continue;
        }
        if !is_inside {
            continue;
        }
        let (name, command) = content
            .split_once(':')
            .map(|(name, command)| (unquote(name.trim()), unquote(command.trim())))
            .filter(|(name, command)| is_type(name) && !command.is_empty())
            .ok_or_else(|| {
                Error::refused(format!(
                    "the buildpack's release has a line that is not `type: command`: `{content}`"
                ))
            })?;
        types.insert(name, command);
    }
    Ok(types)
}

fn unquote(text: &str) -> String {
    for quote in ['"', '\''] {
        if let Some(inner) = text.strip_prefix(quote).and_then(|t| t.strip_suffix(quote)) {
            return match quote {
                '"' => inner.replace("\\\"", "\"").replace("\\\\", "\\"),
                _ => inner.replace("''", "'"),
            };
        }
    }
    text.to_owned()
}

fn is_type(name: &str) -> bool {
    !name.is_empty()
        && name.len() <= 64
        && name
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn types(pairs: &[(&str, &str)]) -> ProcessTypes {
        pairs
            .iter()
            .map(|(name, command)| ((*name).to_owned(), (*command).to_owned()))
            .collect()
    }

    #[test]
    fn a_procfile_is_lines_of_type_and_command() {
        let text = "\u{feff}# ours\r\nweb: python3 -m app --url http://x:1\r\n\nworker_2:./work\n";
        let expected = types(&[
            ("web", "python3 -m app --url http://x:1"),
            ("worker_2", "./work"),
        ]);
        assert_eq!(parse_procfile(text).unwrap(), expected);
    }

    #[test]
    fn a_bad_procfile_is_refused_in_one_sentence_with_the_next_step() {
        let cases = [
            (
                "",
                "Procfile has no process type; write a line such as `web: ./server`",
            ),
            (
                "# only\n\n",
                "Procfile has no process type; write a line such as `web: ./server`",
            ),
            (
                "web python",
                "Procfile line 1 is not `type: command` (`web python`); write a line such as `web: ./server`",
            ),
            (
                "a: b\nw b: c",
                "Procfile line 2 is not `type: command` (`w b: c`); write a line such as `web: ./server`",
            ),
            (
                "web:  ",
                "Procfile line 1 gives process type web no command; write a line such as `web: ./server`",
            ),
            (
                "web: a\nweb: b",
                "Procfile line 2 is the second for process type web; keep one of them",
            ),
        ];
        for (text, sentence) in cases {
            assert_eq!(parse_procfile(text).unwrap_err().to_string(), sentence);
        }
    }

    #[test]
    fn a_release_is_yaml_or_json() {
        let yaml = "---\naddons:\n  - db\ndefault_process_types:\n  web: \"node \\\"a b\\\"\"\n  worker: 'it''s'\n  plain: run: it\nconfig_vars:\n  A: b\n";
        let expected = types(&[
            ("web", "node \"a b\""),
            ("worker", "it's"),
            ("plain", "run: it"),
        ]);
        assert_eq!(parse_release(yaml).unwrap(), expected);
        let json = r#"{"addons": [], "default_process_types": {"web": "x"}}"#;
        assert_eq!(parse_release(json).unwrap(), types(&[("web", "x")]));
        assert_eq!(parse_release("--- {}\n").unwrap(), types(&[]));
        assert_eq!(parse_release("").unwrap(), types(&[]));
        assert!(parse_release("{").is_err());
        assert!(parse_release("default_process_types:\n  - web\n").is_err());
    }
}
