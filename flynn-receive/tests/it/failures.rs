//! Pushes that come to nothing: they can be mended and pushed again, and what served before serves on.

use crate::{
    tiny::{Tiny, get},
    town::eventually,
};

const GOOD: (&str, &str) = ("Procfile", "web: ./server\n");
const CRASHING: (&str, &str) = (
    "Procfile",
    "web: echo cannot find my database >&2; exit 3\n",
);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failed_build_rejects_the_push_and_the_mended_one_goes_through() {
    let tiny = Tiny::new().await;
    let said = tiny.push_with(&[("Procfile", "# nothing\n")]).await;
    said.refused()
        .shows("remote:  !     Procfile has no process type; write a line such as `web: ./server`")
        .shows("pre-receive hook declined");
    // The same commit again: nothing of it was accepted.
    tiny.push().await.refused().shows("Building tiny...");

    let said = tiny.push_with(&[("Procfile", "web: ./missing\n")]).await;
    said.refused()
        .shows("the Procfile runs ./missing, which is not in the repository")
        .shows("the procfile build failed (exit status 1)");
    assert!(tiny.release().await.is_none());
    tiny.push_with(&[GOOD]).await.ok();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_first_release_that_exits_at_once_is_refused_with_its_last_words() {
    let tiny = Tiny::new().await;
    let said = tiny.push_with(&[CRASHING]).await;
    said.refused()
        .shows("| cannot find my database")
        .shows("the web process does not stay up (exit status 3)");
    eventually("nothing of it goes on", async || {
        let state = tiny.town.cluster.state();
        !state.jobs().any(|job| !job.status.phase.is_final())
    })
    .await;

    let said = tiny.push_with(&[GOOD]).await;
    said.ok().shows("Initial web job started");
    tiny.answers("version 1 setting None").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failed_deployment_leaves_the_old_release_serving() {
    let tiny = Tiny::live().await;
    let port = tiny.port().await;
    let said = tiny.push_with(&[CRASHING]).await;
    said.refused()
        .shows("the deployment failed (")
        .shows("the release before it serves on")
        .shows("| cannot find my database");
    assert_eq!(tiny.port().await, port);
    assert!(get(port, "/").await.contains("version 1"));

    tiny.push_with(&[GOOD, ("version", "2")]).await.ok();
    tiny.answers("version 2 setting None").await;
}
