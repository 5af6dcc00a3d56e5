use std::time::Duration;

use flynn_discovery::{Instance, RegisterOptions, ServiceName};
use nix::sys::signal::Signal;

use crate::fixture::{Discovery, free_port, within};

#[tokio::test]
async fn register_stays_until_it_is_told_to_end() {
    let discovery = Discovery::start().await;
    for signal in [Signal::SIGTERM, Signal::SIGINT] {
        let sdutil = discovery.sdutil(&["register", "-h", "fd00::1", "-a", "zone=a", "www:8080"]);
        let instances = discovery.wait_for("www", 1).await;
        assert_eq!(instances[0].addr, "[fd00::1]:8080");
        assert_eq!(instances[0].attributes["zone"], "a");
        sdutil.signal(signal);
        let outcome = sdutil.outcome().await;
        assert_eq!(outcome.status, 0, "{outcome:?}");
        assert!(discovery.instances("www").await.is_empty());
    }
}

#[tokio::test]
async fn an_address_taken_over_is_not_taken_out_by_its_former_owner() {
    let discovery = Discovery::start().await;
    let first = discovery.sdutil(&["register", "-h", "a.example", "-a", "n=1", "www:80"]);
    discovery.wait_for("www", 1).await;
    let second = discovery.sdutil(&["register", "-h", "a.example", "-a", "n=2", "www:80"]);
    within("the second to take over", async {
        while discovery.instances("www").await[0].attributes["n"] != "2" {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
    first.signal(Signal::SIGTERM);
    assert_eq!(first.outcome().await.status, 0);
    assert_eq!(discovery.instances("www").await.len(), 1);
    second.signal(Signal::SIGTERM);
    assert_eq!(second.outcome().await.status, 0);
    assert!(discovery.instances("www").await.is_empty());
}

#[tokio::test]
async fn services_prints_the_oldest_first_and_filters_by_attributes() {
    let discovery = Discovery::start().await;
    let www = ServiceName::parse("www").unwrap();
    let mut registrations = Vec::new();
    for (id, zone) in [("b", "1"), ("a", "2"), ("c", "2")] {
        let instance = Instance::new(id, format!("{id}:80"), "tcp").unwrap();
        let instance = instance.with_attribute("zone", zone);
        let options = RegisterOptions::default();
        let registered = discovery.registry.register(&www, instance, options).await;
        registrations.push(registered.unwrap());
    }
    let print = async |args: &[&str]| {
        let outcome = discovery
            .sdutil(&[&["services"], args].concat())
            .outcome()
            .await;
        assert_eq!(outcome.status, 0, "{outcome:?}");
        outcome.stdout
    };
    assert_eq!(print(&["www"]).await, "b:80\na:80\nc:80\n");
    assert_eq!(print(&["-1", "www"]).await, "b:80\n");
    assert_eq!(print(&["-a", "zone=2", "www"]).await, "a:80\nc:80\n");
    let json: Vec<Instance> = serde_json::from_str(&print(&["--json", "-1", "www"]).await).unwrap();
    assert_eq!(json[0].attributes["zone"], "1");
}

#[tokio::test]
async fn services_waits_for_an_instance_but_not_for_ever() {
    let discovery = Discovery::start().await;
    let waiting = discovery.sdutil(&["services", "--timeout", "30", "-a", "k=v", "www"]);
    let nobody = discovery.sdutil(&["services", "--timeout", "1", "-a", "k=v", "www"]);
    let nobody = nobody.outcome().await;
    assert_eq!(nobody.status, 1);
    assert_eq!(
        nobody.stderr,
        "sdutil: service www has no instance with k=v after 1 s; is it running and healthy?\n"
    );
    let www = ServiceName::parse("www").unwrap();
    let instance = Instance::new("a", "a:80", "tcp")
        .unwrap()
        .with_attribute("k", "v");
    let registration = discovery
        .registry
        .register(&www, instance, RegisterOptions::default())
        .await
        .unwrap();
    let found = waiting.outcome().await;
    assert_eq!((found.status, &*found.stdout), (0, "a:80\n"), "{found:?}");
    registration.deregister().await.unwrap();
}

#[tokio::test]
async fn check_tells_whether_discovery_answers() {
    let discovery = Discovery::start().await;
    let good = discovery.sdutil(&["check"]).outcome().await;
    assert_eq!(good.status, 0, "{good:?}");
    let dead = format!("http://127.0.0.1:{}", free_port());
    let bad = discovery
        .sdutil(&["--discoverd", &dead, "check"])
        .outcome()
        .await;
    assert_eq!(bad.status, 1);
    assert!(
        bad.stderr.contains(&format!(
            "cannot reach the discovery service at {dead}: connection refused"
        )),
        "{bad:?}"
    );
    let silent = discovery
        .sdutil(&["--discoverd", &dead, "check", "-s"])
        .outcome()
        .await;
    assert_eq!(
        (silent.status, &*silent.stdout, &*silent.stderr),
        (1, "", "")
    );
}

#[tokio::test]
async fn bad_usage_has_the_statuses_scripts_know() {
    let discovery = Discovery::start().await;
    for (args, status, says) in [
        (&["frobnicate"][..], 1, "frobnicate"),
        (&["exec"], 1, "<COMMAND>"),
        (&["exec", "www:8080"], 1, "say which program to run"),
        (
            &["exec", "-s", "www", "true"],
            1,
            "name the service and its port",
        ),
        (
            &["exec", "-h", "a", "-i", "lo", "www:80", "true"],
            1,
            "not both",
        ),
        (
            &["exec", "-i", "nosuch0", "www:80", "true"],
            65,
            "does not exist",
        ),
        (
            &["register", "-i", "nosuch0", "www:80"],
            65,
            "does not exist",
        ),
        (
            &["exec", "--check", "udp", "www:80", "true"],
            1,
            "write tcp, http:/path or exec:command",
        ),
        (&["exec", "WWW:80", "true"], 1, "a-z, 0-9 and dashes"),
        (
            &["--discoverd", "ftp://a", "check"],
            1,
            "only http:// is supported",
        ),
    ] {
        let outcome = discovery.sdutil(args).outcome().await;
        assert_eq!(outcome.status, status, "{args:?}: {outcome:?}");
        assert!(outcome.stderr.contains(says), "{args:?}: {outcome:?}");
    }
    let help = discovery.sdutil(&["exec", "--help"]).outcome().await;
    assert_eq!(help.status, 0);
    assert!(help.stdout.contains("-h, --host <HOST>"), "{help:?}");
}
