//! What the release of a push is made of: the slug, and what the app's release before it had.

use flynn_controller::model::{HealthCheck, Port, PortService, ProcessType, Release};

use crate::{build::Slug, builder::process_args};

/// The release of `slug`, after `current`.
///
/// The environment is kept, and so are the settings of process types that there were before; only what they run
/// changes. A process type that listens gets a port, and with it the service `<app>-<type>`.
pub(crate) fn next_release(
    app_id: &str,
    app_name: &str,
    current: Option<&Release>,
    slug: &Slug,
    artifact_id: &str,
    commit: &str,
) -> Release {
    let mut release = Release {
        app_id: app_id.to_owned(),
        artifacts: vec![artifact_id.to_owned()],
        env: current
            .map(|current| current.env.clone())
            .unwrap_or_default(),
        meta: [
            ("git", "true"),
            ("git.commit", commit),
            ("buildpack", &slug.kind),
        ]
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .into(),
        ..Release::default()
    };
    for (name, command) in &slug.processes {
        let before = current.and_then(|current| current.processes.get(name));
        let mut process = ProcessType {
            args: process_args(command),
            // What another kind of release ran is not what this one runs.
            cmd: Vec::new(),
            entrypoint: Vec::new(),
            ..before.cloned().unwrap_or_default()
        };
        if process.ports.is_empty() && listens(name, command) {
            process.ports.push(port(app_name, name));
        }
        release.processes.insert(name.clone(), process);
    }
    // Not a process of the app: its settings are those of its builds.
    if let Some((name, builds)) =
        current.and_then(|current| current.processes.get_key_value(BUILD_TYPE))
    {
        release
            .processes
            .entry(name.clone())
            .or_insert_with(|| builds.clone());
    }
    release
}

/// The process type that the first push of an app starts: `web`, else the only one there is.
pub(crate) fn first_type(release: &Release) -> Option<&str> {
    let mut types = release
        .processes
        .keys()
        .map(String::as_str)
        .filter(|name| *name != BUILD_TYPE);
    if release.processes.contains_key("web") {
        return Some("web");
    }
    let first = types.next()?;
    types.next().is_none().then_some(first)
}

/// Does a process type listen? `web` and what ends in `-web` does, and what uses the variable that names the port.
fn listens(name: &str, command: &str) -> bool {
    name == "web" || name.ends_with("-web") || uses_port(command)
}

fn uses_port(command: &str) -> bool {
    command.match_indices("$PORT").any(|(at, word)| {
        let next = command[at + word.len()..].bytes().next();
        !next.is_some_and(|b| b.is_ascii_alphanumeric() || b == b'_')
    }) || command.contains("${PORT")
}

fn port(app_name: &str, process_type: &str) -> Port {
    Port {
        // The host chooses a number and tells it in PORT.
        port: 0,
        proto: "tcp".to_owned(),
        service: Some(PortService {
            name: service_name(app_name, process_type),
            create: true,
            check: Some(HealthCheck {
                kind: "tcp".to_owned(),
                ..HealthCheck::default()
            }),
        }),
    }
}

/// The name of the service of a process type.
pub(crate) fn service_name(app_name: &str, process_type: &str) -> String {
    format!("{app_name}-{process_type}")
        .to_ascii_lowercase()
        .replace('_', "-")
}

/// The process type whose settings are those of build jobs.
const BUILD_TYPE: &str = "slugbuilder";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::blob::{BlobName, Digest};

    fn slug(types: &[(&str, &str)]) -> Slug {
        Slug {
            name: BlobName::parse("slugs/a.tgz").unwrap(),
            size: 1,
            sha256: Digest::of(b""),
            kind: "Python".to_owned(),
            processes: types
                .iter()
                .map(|(name, command)| ((*name).to_owned(), (*command).to_owned()))
                .collect(),
        }
    }

    fn services(release: &Release) -> Vec<(&str, &str)> {
        release
            .processes
            .iter()
            .flat_map(|(name, process)| {
                process.ports.iter().map(|port| {
                    let service = port.service.as_ref().unwrap();
                    (name.as_str(), service.name.as_str())
                })
            })
            .collect()
    }

    #[test]
    fn types_that_listen_get_a_port_and_a_service() {
        let slug = slug(&[
            ("web", "./a"),
            ("admin-web", "./b"),
            ("Echo_2", "./c \"$PORT\""),
            ("braced", "./c ${PORT:-1}"),
            ("worker", "./d $PORTS"),
        ]);
        let release = next_release("id", "shop", None, &slug, "artifact", "c0ffee");
        assert_eq!(
            services(&release),
            [
                ("Echo_2", "shop-echo-2"),
                ("admin-web", "shop-admin-web"),
                ("braced", "shop-braced"),
                ("web", "shop-web"),
            ]
        );
        assert_eq!(release.meta["git"], "true");
        assert_eq!(release.meta["git.commit"], "c0ffee");
        assert_eq!(release.artifacts, ["artifact"]);
        assert_eq!(release.processes["web"].args, process_args("./a"));
    }

    #[test]
    fn a_push_keeps_the_environment_and_the_settings_of_types() {
        let mut current = next_release(
            "id",
            "shop",
            None,
            &slug(&[("web", "old"), ("gone", "x")]),
            "a",
            "1",
        );
        current.env = serde_json::from_str(r#"{"KEY": "value"}"#).unwrap();
        current
            .processes
            .insert(BUILD_TYPE.to_owned(), ProcessType::default());
        let web = current.processes.get_mut("web").unwrap();
        web.ports[0].port = 8080;
        web.omni = true;

        let release = next_release(
            "id",
            "shop",
            Some(&current),
            &slug(&[("web", "new")]),
            "b",
            "2",
        );
        assert_eq!(release.env, current.env);
        assert_eq!(release.processes["web"].ports[0].port, 8080);
        assert!(release.processes["web"].omni);
        assert_eq!(release.processes["web"].args, process_args("new"));
        assert!(!release.processes.contains_key("gone"));
        assert!(release.processes.contains_key(BUILD_TYPE));
        assert_eq!(release.artifacts, ["b"]);
    }

    #[test]
    fn the_first_push_starts_web_or_the_only_type() {
        let first = |types: &[(&str, &str)]| {
            let release = next_release("id", "shop", None, &slug(types), "a", "1");
            first_type(&release).map(str::to_owned)
        };
        assert_eq!(
            first(&[("web", "x"), ("worker", "y")]).as_deref(),
            Some("web")
        );
        assert_eq!(first(&[("echo", "x")]).as_deref(), Some("echo"));
        assert_eq!(first(&[("a", "x"), ("b", "y")]), None);
    }
}
