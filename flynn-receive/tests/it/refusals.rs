//! Who may push, what may be pushed, and to what.

use flynn_receive::slug::Limits;

use crate::{
    tiny::{Tiny, get},
    town::eventually,
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wrong_key_is_told_what_to_do_and_a_new_key_works_at_once() {
    let mut tiny = Tiny::new().await;
    tiny.town.make_key("other").await;
    tiny.checkout.key = tiny.town.key_path("other");
    let said = tiny.push().await;
    said.refused()
        .shows("flynn: your key is not known here; add it with `flynn key add` and push again")
        .shows("Permission denied");
    tiny.town.know_key("other").await;
    tiny.push().await.ok();

    // Without any key at all.
    tiny.checkout.key = tiny.town.dir.path().join("no-such-key");
    let said = tiny.push().await;
    said.refused().shows("flynn: pushing needs an SSH key");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_pushed_to_is_refused_in_a_sentence() {
    let tiny = Tiny::new().await;
    let (town, checkout) = (&tiny.town, &tiny.checkout);
    let does_not_exist = async |app: &str| {
        let said = checkout.push(app).await;
        said.refused().shows(&format!(
            "flynn: app {app} does not exist; create it with `flynn create {app}`\n"
        ));
    };
    does_not_exist("nothing").await;

    town.app("gone").await;
    checkout.push("gone").await.ok();
    town.client.delete_app("gone").await.unwrap();
    eventually("the app is deleted", async || {
        town.client.app("gone").await.is_err()
    })
    .await;
    tiny.commit(&[("version", "2")]).await;
    does_not_exist("gone").await;

    // A name that is none, as a path would be.
    let said = checkout.push("../../etc").await;
    said.refused().shows("does not exist");
    // A new app of the old name begins anew.
    town.app("gone").await;
    let said = checkout.push("gone").await;
    said.ok().shows("Initial web job started");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn there_is_no_shell_and_nothing_to_fetch() {
    let Tiny {
        town: _town,
        checkout,
        ..
    } = Tiny::new().await;
    let no_shell = "flynn: there is no shell here, only `git push`";
    checkout.ssh(&[]).await.refused().shows(no_shell);
    checkout.ssh(&["ls", "/"]).await.refused().shows(no_shell);
    checkout
        .ssh(&["git-receive-pack 'tiny.git'; id"])
        .await
        .refused()
        .shows(no_shell);
    checkout
        .git(&["ls-remote", &checkout.url("tiny")])
        .await
        .refused()
        .shows("only `git push` works");
    // Nor a way around: forwarding, and subsystems.
    let said = checkout.ssh(&["-s", "sftp"]).await;
    said.refused();
    let said = checkout
        .ssh(&[
            "-o",
            "ExitOnForwardFailure=yes",
            "-R",
            "0:127.0.0.1:1",
            "ls",
        ])
        .await;
    said.refused();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_main_or_master_is_deployed_and_not_deleted() {
    let tiny = Tiny::new().await;
    let checkout = &tiny.checkout;
    let url = checkout.url("tiny");
    let push = async |what: &[&str]| checkout.git(&[&["push", &url], what].concat()).await;
    let said = push(&["main:feature"]).await;
    said.refused()
        .shows("feature is not deployed, only main or master is: push it as `git push <remote> feature:main`")
        .shows("[remote rejected]");
    checkout.git_ok(&["tag", "v1"]).await;
    let said = push(&["main", "v1"]).await;
    said.refused().shows("v1 is not deployed");
    assert!(tiny.release().await.is_none());

    push(&["main:master"]).await.ok();
    let port = tiny.port().await;
    let said = push(&[":master"]).await;
    said.refused().shows("master cannot be deleted here");
    assert!(get(port, "/").await.contains("version 1"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_push_that_is_too_large_is_refused() {
    let mut tiny = Tiny::new().await;
    let noise: String = (0..40_000_u32)
        .map(|n| format!("{:x}", n.wrapping_mul(2_654_435_761)))
        .collect();
    tiny.commit(&[("noise", &noise)]).await;
    let limits = Limits {
        bytes: 1000,
        entries: 1000,
    };
    let town = &tiny.town;
    let of_pushes = town.second_receiver(|b| b.with_push_limit(10_000)).await;
    let of_sources = town.second_receiver(|b| b.with_source_limits(limits)).await;
    for (receiver, why) in [
        (of_pushes, "exceeds maximum allowed size"),
        (of_sources, "keep what is large out of the repository"),
    ] {
        tiny.checkout.at(receiver.addr);
        tiny.push().await.refused().shows(why);
        receiver.shut_down().await;
    }
}
