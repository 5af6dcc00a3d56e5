use std::collections::BTreeMap;

use flynn_sched::{JobSpec, Partition, RestartPolicy};
use proptest::prelude::*;

use super::*;
use crate::model::{
    Counts, Env, NewJob, Port as ModelPort, PortService, ProcessType, VolumeRequest,
};

const APP: &str = "11111111-1111-4111-8111-111111111111";
const RELEASE: &str = "22222222-2222-4222-8222-222222222222";

fn app() -> App {
    App {
        id: APP.to_owned(),
        name: "blog".to_owned(),
        ..App::default()
    }
}

fn release() -> Release {
    let mut web = ProcessType::command(["./server"]);
    web.env = [("B", "type")].into();
    web.volumes = vec![VolumeRequest {
        path: "/var/Lib_data".to_owned(),
        delete_on_stop: false,
    }];
    let mut agent = ProcessType::command(["./agent"]);
    agent.omni = true;
    Release {
        id: RELEASE.to_owned(),
        app_id: APP.to_owned(),
        artifacts: vec!["slug".to_owned()],
        env: [
            ("A", "release"),
            ("B", "release"),
            ("FLYNN_APP_ID", "forged"),
        ]
        .into(),
        processes: [("web".to_owned(), web), ("agent".to_owned(), agent)].into(),
        ..Release::default()
    }
}

fn catalog(processes: &[(&str, u32)]) -> Catalog {
    let mut catalog = Catalog::default();
    Arc::make_mut(&mut catalog.apps).insert(APP.to_owned(), Arc::new(app()));
    Arc::make_mut(&mut catalog.releases).insert(RELEASE.to_owned(), Arc::new(release()));
    let slug = Artifact {
        id: "slug".to_owned(),
        ..Artifact::slug("blob:slugs/x.tgz", "ab", 7)
    };
    Arc::make_mut(&mut catalog.artifacts).insert("slug".to_owned(), Arc::new(slug));
    let formation = Formation {
        app: APP.to_owned(),
        release: RELEASE.to_owned(),
        processes: processes
            .iter()
            .map(|(n, c)| ((*n).to_owned(), *c))
            .collect(),
        tags: [(
            "web".to_owned(),
            [("disk".to_owned(), "ssd".to_owned())].into(),
        )]
        .into(),
        ..Formation::default()
    };
    Arc::make_mut(&mut catalog.formations)
        .insert((APP.to_owned(), RELEASE.to_owned()), Arc::new(formation));
    catalog
}

fn group_of(changes: &[Change], kind: &str) -> Arc<Group> {
    changes
        .iter()
        .find_map(|change| match change {
            Change::PutGroup(group) if group.id.as_str().ends_with(kind) => Some(Arc::clone(group)),
            _ => None,
        })
        .unwrap()
}

#[test]
fn a_process_type_becomes_a_group_with_all_a_host_needs() {
    let changes = reconcile(&catalog(&[("web", 3)]), []);
    let group = group_of(&changes, ".web");
    assert_eq!(group.id.as_str(), format!("{APP}.{RELEASE}.web"));
    assert_eq!(group.kind, GroupKind::Service { count: 3 });
    assert_eq!((group.owner.as_str(), group.priority), (OWNER, 50));
    let spec = &group.spec;
    assert_eq!(spec.args, ["./server"]);
    let env: Vec<(&str, &str)> = spec
        .env
        .iter()
        .map(|(k, v)| (k.as_str(), v.as_str()))
        .collect();
    assert_eq!(
        env,
        [
            ("A", "release"),
            ("B", "type"),
            ("FLYNN_APP_ID", APP),
            ("FLYNN_APP_NAME", "blog"),
            ("FLYNN_PROCESS_TYPE", "web"),
            ("FLYNN_RELEASE_ID", RELEASE),
        ]
    );
    assert_eq!(spec.artifacts[0].uri, "blob:slugs/x.tgz");
    assert_eq!(spec.artifacts[0].sha256.as_deref(), Some("ab"));
    let service = spec.ports[0].service.as_ref().unwrap();
    assert_eq!(
        (service.name.as_str(), spec.ports[0].port),
        ("blog-web", None)
    );
    assert!(service.check.is_some(), "health gates deployments");
    assert_eq!(spec.volumes[0].name, "var-lib-data");
    assert_eq!(spec.volumes[0].owner, APP);
    assert_eq!(spec.metadata[META_APP_NAME], "blog");
    assert_eq!(spec.restart, RestartPolicy::Always);
    assert_eq!(spec.partition, Partition::User);
    assert_eq!(spec.limit.memory_bytes, 1 << 30);
    assert!(spec.request.memory_bytes > 0 && spec.request.cpu_millis > 0);
    let tag = Constraint::Tag {
        key: "disk".to_owned(),
        value: "ssd".to_owned(),
    };
    assert_eq!(spec.constraints, [tag]);
}

#[test]
fn an_omni_type_runs_on_every_host_and_a_worker_gets_no_port() {
    let group = group_of(&reconcile(&catalog(&[("agent", 2)]), []), ".agent");
    assert_eq!(group.kind, GroupKind::Omni { per_host: 2 });
    assert!(group.spec.ports.is_empty());
}

#[test]
fn only_a_type_on_the_hosts_network_keeps_its_port_numbers() {
    let mut release = release();
    let web = release.processes.get_mut("web").unwrap();
    web.ports = vec![ModelPort {
        port: 8080,
        proto: "http".to_owned(),
        service: Some(PortService {
            name: "api".to_owned(),
            ..PortService::default()
        }),
    }];
    let spec = process_spec(&app(), &release, &[], "web", &release.processes["web"]);
    assert_eq!(
        (spec.ports[0].port, spec.ports[0].proto.as_str()),
        (None, "http")
    );
    assert_eq!(spec.ports[0].service.as_ref().unwrap().name, "api");
    release.processes.get_mut("web").unwrap().host_network = true;
    let spec = process_spec(&app(), &release, &[], "web", &release.processes["web"]);
    assert_eq!(spec.ports[0].port, Some(8080));
}

#[test]
fn a_system_app_runs_in_the_system_partition_and_a_user_cannot_ask_for_it() {
    let mut system = app();
    system
        .meta
        .insert(App::SYSTEM.to_owned(), "true".to_owned());
    let spec = process_spec(&system, &release(), &[], "web", &ProcessType::default());
    assert_eq!(spec.partition, Partition::System);
    let job = NewJob {
        partition: "system".to_owned(),
        ..NewJob::default()
    };
    assert_eq!(
        one_off_spec(&app(), &release(), &[], &job, false).partition,
        Partition::User
    );
    assert_eq!(
        one_off_spec(&system, &release(), &[], &job, false).partition,
        Partition::System
    );
    let job = NewJob {
        partition: "background".to_owned(),
        ..NewJob::default()
    };
    assert_eq!(
        one_off_spec(&app(), &release(), &[], &job, false).partition,
        Partition::Background
    );
}

#[test]
fn a_one_off_job_is_tried_once_and_gets_the_releases_variables_only_when_asked() {
    let mut job = NewJob {
        args: vec!["ls".to_owned()],
        env: [("C", "job")].into(),
        ..NewJob::default()
    };
    job.meta
        .insert("flynn-controller.app".to_owned(), "forged".to_owned());
    job.meta.insert("why".to_owned(), "test".to_owned());
    let spec = one_off_spec(&app(), &release(), &[], &job, true);
    assert!(!spec.env.contains_key("A") && spec.env["C"] == "job");
    assert!(spec.waits_for_attach && spec.has_stdin);
    assert_eq!(spec.restart, RestartPolicy::Never);
    assert_eq!(
        (
            spec.metadata[META_APP].as_str(),
            spec.metadata["why"].as_str()
        ),
        (APP, "test")
    );
    job.release_env = true;
    assert_eq!(
        one_off_spec(&app(), &release(), &[], &job, false).env["A"],
        "release"
    );
}

#[test]
fn an_app_that_is_being_deleted_has_no_groups() {
    let mut catalog = catalog(&[("web", 1)]);
    let deletion = crate::store::Deletion {
        app: APP.to_owned(),
        begun_at: crate::model::Time::from_millis(1),
    };
    Arc::make_mut(&mut catalog.deletions).insert(APP.to_owned(), Arc::new(deletion));
    assert_eq!(reconcile(&catalog, []), []);
}

fn any_catalog() -> impl Strategy<Value = Catalog> {
    let counts = prop::collection::btree_map("(web|agent|worker|gone)", 0..4_u32, 0..4);
    let formations = prop::collection::btree_map((0..3_u8, 0..3_u8), counts, 0..6);
    (formations, prop::collection::btree_set(0..3_u8, 0..2)).prop_map(|(formations, deleted)| {
        let mut catalog = Catalog::default();
        for n in 0..3_u8 {
            let id = format!("app{n}");
            let app = App {
                id: id.clone(),
                name: id.clone(),
                ..App::default()
            };
            Arc::make_mut(&mut catalog.apps).insert(id, Arc::new(app));
            for m in 0..3_u8 {
                let id = format!("rel{n}{m}");
                let mut release = release();
                release.id.clone_from(&id);
                release.app_id = format!("app{n}");
                release.env = Env::from([("M", m.to_string().as_str())]);
                release
                    .processes
                    .insert("worker".to_owned(), ProcessType::command(["w"]));
                Arc::make_mut(&mut catalog.releases).insert(id, Arc::new(release));
            }
        }
        for ((n, m), counts) in formations {
            let formation = Formation {
                app: format!("app{n}"),
                release: format!("rel{n}{m}"),
                processes: Counts::from_iter(counts),
                ..Formation::default()
            };
            let key = (formation.app.clone(), formation.release.clone());
            Arc::make_mut(&mut catalog.formations).insert(key, Arc::new(formation));
        }
        for n in deleted {
            let app = format!("app{n}");
            let deletion = crate::store::Deletion {
                app: app.clone(),
                begun_at: crate::model::Time::from_millis(1),
            };
            Arc::make_mut(&mut catalog.deletions).insert(app, Arc::new(deletion));
        }
        catalog
    })
}

fn foreign() -> BTreeMap<GroupId, Arc<Group>> {
    let groups = [
        ("their-service", "somebody"),
        ("app0.run.x", RUN_OWNER),
        ("nobodys", ""),
    ];
    groups
        .into_iter()
        .map(|(id, owner)| {
            let group = Group {
                id: GroupId::parse(id).unwrap(),
                kind: GroupKind::Service { count: 1 },
                spec: Arc::new(JobSpec::default()),
                priority: 50,
                max_unavailable: None,
                keep: None,
                owner: owner.to_owned(),
            };
            (group.id.clone(), Arc::new(group))
        })
        .collect()
}

fn apply(groups: &mut BTreeMap<GroupId, Arc<Group>>, change: &Change) {
    match change {
        Change::PutGroup(group) => {
            groups.insert(group.id.clone(), Arc::clone(group));
        }
        Change::RemoveGroup(id) => {
            groups.remove(id);
        }
        other => panic!("{other:?} is not a reconciler's to make"),
    }
}

proptest! {
    /// From any earlier state, with changes in any order and only some of them made at first, the cell converges to
    /// what the catalog says; then nothing is left to do; and groups of others are as they were.
    #[test]
    fn reconciliation_converges_and_leaves_others_alone(
        earlier in any_catalog(),
        catalog in any_catalog(),
        order in any::<prop::sample::Index>(),
    ) {
        let mut groups = foreign();
        for change in reconcile(&earlier, groups.values()).iter() {
            apply(&mut groups, change);
        }
        let changes = reconcile(&catalog, groups.values());
        if !changes.is_empty() {
            apply(&mut groups, &changes[order.index(changes.len())]);
        }
        for change in reconcile(&catalog, groups.values()).iter().rev() {
            apply(&mut groups, change);
        }
        prop_assert_eq!(reconcile(&catalog, groups.values()), vec![]);
        for (id, group) in foreign() {
            prop_assert_eq!(groups.get(&id), Some(&group));
        }
        let wanted: u32 = catalog
            .formations
            .values()
            .filter(|f| !catalog.deletions.contains_key(&f.app))
            .flat_map(|f| &f.processes)
            .filter(|(name, _)| *name != "gone")
            .map(|(_, count)| count)
            .sum();
        let present: u32 = groups
            .values()
            .filter(|group| group.owner == OWNER)
            .map(|group| match group.kind {
                GroupKind::Service { count } => count,
                GroupKind::Omni { per_host } => per_host,
                _ => 0,
            })
            .sum();
        prop_assert_eq!(present, wanted);
    }
}
