use serde_json::json;

use super::*;

#[test]
fn what_go_clients_send_is_understood() {
    let app: App = serde_json::from_value(json!({"name": "X", "meta": null})).unwrap();
    assert_eq!(app.name, "X");
    let app: App =
        serde_json::from_value(json!({"id": "X", "meta": null, "deploy_timeout": 200})).unwrap();
    assert_eq!(app.deploy_timeout, Some(200));
    let update: AppUpdate =
        serde_json::from_value(json!({"id": "X", "meta": null, "deploy_timeout": 200})).unwrap();
    assert_eq!((update.meta, update.deploy_timeout), (None, Some(200)));
    let scale: ScaleRequest = serde_json::from_value(json!({
        "id": "", "app": "X", "release": "r", "state": "pending", "new_processes": {"web": 2}, "new_tags": {},
        "created_at": null, "updated_at": null
    }))
    .unwrap();
    assert_eq!(scale.new_processes.unwrap()["web"], 2);
    let release: Release = serde_json::from_value(json!({
        "app_id": "a", "env": {"A": "1", "B": null}, "meta": null, "unknown": [1],
        "processes": {"web": {"args": null, "ports": [{"port": 8080, "proto": "tcp", "service": {"name": "x-web",
            "create": true, "check": {"type": "tcp", "interval": 2_000_000_000_u64, "threshold": 2}}}],
            "resources": {"memory": {"request": null, "limit": 1}}}},
        "created_at": "0001-01-01T00:00:00Z"
    }))
    .unwrap();
    assert_eq!(release.env.get("A").map(String::as_str), Some("1"));
    assert_eq!(release.env.get("B"), None);
    assert_eq!(release.created_at, None);
    let check = release.processes["web"].ports[0]
        .service
        .clone()
        .unwrap()
        .check
        .unwrap();
    assert_eq!(check.interval_ns, Some(2_000_000_000));
}

#[test]
fn empty_fields_are_left_out_and_meta_never_is() {
    assert_eq!(
        serde_json::to_value(App::named("x")).unwrap(),
        json!({"name": "x", "meta": {}})
    );
    assert_eq!(
        serde_json::to_value(Job::default()).unwrap(),
        json!({"uuid": "", "state": "pending"})
    );
    assert_eq!(
        serde_json::to_value(ExpandedFormation::default()).unwrap(),
        json!({"updated_at": "0001-01-01T00:00:00Z"})
    );
    assert_eq!(
        serde_json::to_value(ScaleRequest::default()).unwrap(),
        json!({"id": "", "app": "", "release": "", "state": "pending", "created_at": null, "updated_at": null})
    );
}

#[test]
fn names_are_parts_joined_by_single_dashes() {
    for good in ["a", "blog", "my-blog-2", &"a".repeat(100)] {
        check_name(good).unwrap();
    }
    for bad in [
        "",
        "-a",
        "a-",
        "a--b",
        "A",
        "a.b",
        "a b",
        "ä",
        &"a".repeat(101),
    ] {
        let error = check_name(bad).unwrap_err();
        assert!(
            matches!(
                error,
                Error::Invalid {
                    field: Some("name"),
                    ..
                }
            ),
            "{bad}"
        );
    }
}

#[test]
fn debug_shows_no_values_of_variables() {
    let mut release = Release {
        env: [("PASSWORD", "hunter2")].into(),
        ..Release::default()
    };
    let mut web = ProcessType::command(["x"]);
    web.env = [("TOKEN", "hunter2")].into();
    release.processes.insert("web".to_owned(), web);
    let shown = format!(
        "{release:?} {:?}",
        NewJob {
            env: [("X", "hunter2")].into(),
            ..NewJob::default()
        }
    );
    assert!(
        shown.contains("PASSWORD") && !shown.contains("hunter2"),
        "{shown}"
    );
    let event = Event {
        id: 1,
        app: String::new(),
        kind: EventKind::Release,
        object_id: "r".to_owned(),
        data: json!({"env": {"A": "hunter2"}}),
        created_at: None,
    };
    assert!(!format!("{event:?}").contains("hunter2"));
    assert!(
        !serde_json::to_string(&release.without_env())
            .unwrap()
            .contains("hunter2")
    );
}

#[test]
fn times_are_rfc_3339_with_microseconds() {
    let time = Time::parse("2021-09-01T12:00:00.123456789Z").unwrap();
    assert_eq!(time.to_string(), "2021-09-01T12:00:00.123457Z");
    assert_eq!(
        Time::from_millis(1_500).to_string(),
        "1970-01-01T00:00:01.5Z"
    );
    assert_eq!(Time::from_millis(1_500).as_millis(), 1_500);
    assert!(serde_json::from_value::<App>(json!({"created_at": "yesterday"})).is_err());
}

#[test]
fn an_ssh_key_is_named_by_its_fingerprint() {
    let line = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIOMqqnkVzrm0SdG6UOoqKLsabgH5C9okWi0dh2l9GKJl me@example org";
    let key = Key::parse(line).unwrap();
    assert_eq!(key.comment, "me@example org");
    assert_eq!(
        key.fingerprint(),
        "SHA256:+DiY3wvvV6TuJJhbpZisF/zLDA0zPMSvHdkr4UvCOqU"
    );
    assert_eq!(Key::id_from(&key.id), Some(key.id.clone()));
    assert_eq!(Key::id_from(&key.fingerprint()), Some(key.id.clone()));
    assert_eq!(
        Key::id_from("-DiY3wvvV6TuJJhbpZisF_zLDA0zPMSvHdkr4UvCOqU"),
        Some(key.id)
    );
    for bad in [
        "",
        "ssh-ed25519",
        "ssh-ed25519 %%%",
        "ssh-rsa AAAAC3NzaC1lZDI1NTE5AAAAIOMq",
        "a b c",
    ] {
        assert!(Key::parse(bad).is_err(), "{bad}");
    }
}

#[test]
fn missing_resources_are_filled_in() {
    let mut resources = ProcessResources {
        memory: Some(Limits {
            request: None,
            limit: Some(1 << 20),
        }),
        ..ProcessResources::default()
    };
    resources.fill_defaults();
    assert_eq!(
        resources.memory,
        Some(Limits {
            request: Some(1 << 20),
            limit: Some(1 << 20)
        })
    );
    assert_eq!(
        resources.cpu,
        Some(Limits {
            request: Some(50),
            limit: Some(1000)
        })
    );
}
