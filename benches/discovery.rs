//! The embedded Raft store against etcd: three members each, on one disk, every write synced by a majority.
//!
//! - *embedded*: our members are part of the program that asks, as they are in a host; etcd's are processes of their
//!   own, asked over gRPC. This is the choice an application has.
//! - *served*: our members are processes of their own too, asked over their HTTP API with JSON. This is the same kind
//!   of work on both sides.
//!
//! Clients spread over all three members. Each side works with an untouched directory and the same keys and values.
#![allow(clippy::print_stderr, reason = "a bench talks to its terminal")]

#[path = "discovery/etcd.rs"]
mod etcd;
#[path = "discovery/load.rs"]
mod load;
#[path = "discovery/members.rs"]
mod members;

use std::{path::PathBuf, sync::Arc};

use anyhow::Result;
use flynn_benches::{Metric, Report, workspace_root};

use self::{
    etcd::Etcd,
    load::{Load, Store, fan_out, gets, puts},
    members::{Embedded, Served},
};

const ROUNDS: usize = 5;

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().collect();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    match arguments.get(1).map(String::as_str) {
        Some("member") => runtime.block_on(members::serve(&arguments[2..])),
        _ => runtime.block_on(compare()),
    }
}

async fn compare() -> Result<()> {
    let dir = data_dir()?;
    let etcd = Arc::new(Etcd::start(dir.path()).await?);
    let peer = etcd.name().to_owned();
    let mut report = Report::new("discovery");

    let embedded = Arc::new(Embedded::start(dir.path()).await?);
    for load in [
        Load::new(1, 500),
        Load::new(64, 10_000),
        Load::new(256, 20_000),
    ] {
        let (ours, theirs): (Arc<dyn Store>, Arc<dyn Store>) =
            (Arc::clone(&embedded) as _, Arc::clone(&etcd) as _);
        report
            .compare(
                &peer,
                ROUNDS,
                &metrics("embedded", "put", &load),
                async || puts(&ours, &load).await,
                async || puts(&theirs, &load).await,
            )
            .await?;
    }
    for load in [Load::new(1, 1000), Load::new(64, 20_000)] {
        let (ours, theirs): (Arc<dyn Store>, Arc<dyn Store>) =
            (Arc::clone(&embedded) as _, Arc::clone(&etcd) as _);
        report
            .compare(
                &peer,
                ROUNDS,
                &metrics("embedded", "linearizable get", &load),
                async || gets(&ours, &load).await,
                async || gets(&theirs, &load).await,
            )
            .await?;
    }
    let (ours, theirs): (Arc<dyn Store>, Arc<dyn Store>) =
        (Arc::clone(&embedded) as _, Arc::clone(&etcd) as _);
    report
        .compare(
            &peer,
            ROUNDS,
            &[
                Metric::lower("embedded, put until 300 watchers know, p50", "µs"),
                Metric::lower("embedded, put until 300 watchers know, p99", "µs"),
            ],
            async || fan_out(&ours).await,
            async || fan_out(&theirs).await,
        )
        .await?;
    drop(ours);
    embedded.stop().await;

    let served: Arc<dyn Store> = Arc::new(Served::start(dir.path()).await?);
    for load in [
        Load::new(1, 500),
        Load::new(64, 10_000),
        Load::new(256, 20_000),
    ] {
        let theirs: Arc<dyn Store> = Arc::clone(&etcd) as _;
        report
            .compare(
                &peer,
                ROUNDS,
                &metrics("served", "put", &load),
                async || puts(&served, &load).await,
                async || puts(&theirs, &load).await,
            )
            .await?;
    }
    let load = Load::new(64, 20_000);
    let theirs: Arc<dyn Store> = Arc::clone(&etcd) as _;
    report
        .compare(
            &peer,
            ROUNDS,
            &metrics("served", "linearizable get", &load),
            async || gets(&served, &load).await,
            async || gets(&theirs, &load).await,
        )
        .await?;
    report.write()
}

fn metrics(how: &str, what: &str, load: &Load) -> [Metric; 4] {
    let case = |figure: &str| format!("{how}, {what}, {} clients{figure}", load.clients);
    [
        Metric::higher(case(""), "op/s"),
        Metric::lower(case(", p50"), "µs"),
        Metric::lower(case(", p99"), "µs"),
        Metric::lower(case(", CPU of all processes"), "µs/op"),
    ]
}

/// On the disk of the build, which is a real one; a temporary directory may be memory.
fn data_dir() -> Result<tempfile::TempDir> {
    let parent: PathBuf = workspace_root().join("target");
    std::fs::create_dir_all(&parent)?;
    Ok(tempfile::tempdir_in(parent)?)
}
