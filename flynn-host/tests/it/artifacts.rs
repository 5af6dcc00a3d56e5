//! Artifacts over HTTP, at a URL and in the cell's blob store.

use std::{fs, path::Path};

use axum::{Router, response::IntoResponse, routing::get};
use flynn_discovery::{
    Instance, RegisterOptions, Registry, ServiceName,
    backend::MemoryBackend,
    http::{Keys, Secret, require_key, serve},
};
use flynn_host::{
    Error,
    image::{ArtifactStore, BlobSource, HttpSource, ImageStore},
};
use flynn_sched::Artifact;
use sha2::{Digest, Sha256};
use tokio::net::TcpListener;

fn slug() -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_mode(0o644);
    header.set_size(2);
    tar.append_data(&mut header, "hello", &b"hi"[..]).unwrap();
    tar.into_inner().unwrap()
}

/// Serves the slug to whoever has the token; returns the address.
async fn serve_slug(path: &'static str) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap().to_string();
    let app = Router::new().route(path, get(|| async { slug().into_response() }));
    let app = require_key(
        app,
        Keys::new(vec![Secret::new("token")]).with_open_path("/open.tar"),
    );
    // Ends with the runtime of the test.
    tokio::spawn(serve(listener, app, std::future::pending()));
    addr
}

fn artifact(uri: String) -> Artifact {
    Artifact {
        uri,
        sha256: Some(hex::encode(Sha256::digest(slug()))),
        size: None,
    }
}

fn store(dir: &Path, registry: Registry) -> ArtifactStore {
    ArtifactStore::new(dir.join("cache"))
        .with_source("http", HttpSource)
        .with_source("blob", BlobSource::new(registry, Secret::new("token")))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_artifact_is_fetched_from_a_url() {
    let addr = serve_slug("/open.tar").await;
    let dir = tempfile::tempdir().unwrap();
    let store = store(
        dir.path(),
        Registry::new(std::sync::Arc::new(MemoryBackend::new())),
    );
    let artifact = artifact(format!("http://{addr}/open.tar"));
    store.unpack(&[artifact], dir.path()).await.unwrap();
    assert_eq!(fs::read_to_string(dir.path().join("hello")).unwrap(), "hi");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_blob_is_fetched_from_an_instance_that_has_it() {
    let registry = Registry::new(std::sync::Arc::new(MemoryBackend::new()));
    let service = ServiceName::parse("blobstore").unwrap();
    let dir = tempfile::tempdir().unwrap();
    let store = store(dir.path(), registry.clone());
    let wanted = artifact("blob:slugs/a.tgz".to_owned());
    // Nobody there yet: that may pass.
    let error = store
        .unpack(std::slice::from_ref(&wanted), dir.path())
        .await
        .unwrap_err();
    assert!(error.is_transient(), "{error}");
    assert_eq!(
        error.to_string(),
        "artifact blob:slugs/a.tgz: no instance of the blob store is up"
    );
    // One that has died, one that has not got it, and one that has.
    let mut held = Vec::new();
    let addrs = [
        "127.0.0.1:1".to_owned(),
        serve_slug("/other").await,
        serve_slug("/slugs/a.tgz").await,
    ];
    for (index, addr) in addrs.into_iter().enumerate() {
        let instance = Instance::new(format!("b{index}"), addr, "http").unwrap();
        let options = RegisterOptions::default();
        held.push(
            registry
                .register(&service, instance, options)
                .await
                .unwrap(),
        );
    }
    store.unpack(&[wanted], dir.path()).await.unwrap();
    assert_eq!(fs::read_to_string(dir.path().join("hello")).unwrap(), "hi");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wrong_key_is_no_reason_to_try_again() {
    let addr = serve_slug("/closed.tar").await;
    let dir = tempfile::tempdir().unwrap();
    let store = store(
        dir.path(),
        Registry::new(std::sync::Arc::new(MemoryBackend::new())),
    );
    let artifact = artifact(format!("http://{addr}/closed.tar"));
    let error = store.unpack(&[artifact], dir.path()).await.unwrap_err();
    assert!(
        matches!(
            error,
            Error::Artifact {
                is_transient: false,
                ..
            }
        ),
        "{error}"
    );
}
