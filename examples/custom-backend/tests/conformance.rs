//! The contract of a backend, case by case, and what is special about this one.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use custom_backend::JsonBackend;
use flynn_discovery::{
    Backend, Error,
    backend::{Condition, Key, Op, Prefix, list_all},
    conformance::{Harness, Skip},
};
use tempfile::TempDir;

/// A directory for one case; it goes with the harness.
struct InFreshDirectory(TempDir);

impl InFreshDirectory {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }
}

#[async_trait]
impl Harness for InFreshDirectory {
    async fn fresh(&self) -> Result<Arc<dyn Backend>, Skip> {
        let backend = JsonBackend::open(self.0.path().join("store.json")).await;
        Ok(Arc::new(backend.unwrap()))
    }
}

flynn_discovery::backend_conformance!(InFreshDirectory::new());

#[tokio::test]
async fn what_was_acknowledged_is_there_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store.json");
    let leased = key("leased");
    let before = {
        let backend = JsonBackend::open(&path).await.unwrap();
        let lease = backend.grant(Duration::from_secs(3600)).await.unwrap();
        let ops = vec![
            Op::put(key("text"), "grüße"),
            Op::put(key("binary"), vec![0, 255]),
            Op::Put {
                key: leased.clone(),
                value: "x".into(),
                lease: Some(lease),
            },
        ];
        backend.commit(vec![], ops).await.unwrap();
        let busy = JsonBackend::open(&path).await;
        assert!(matches!(busy, Err(Error::Storage { .. })), "{busy:?}");
        list_all(&backend, &Prefix::root()).await.unwrap()
    };
    assert_eq!(before.len(), 3);
    let backend = reopen(&path).await;
    for entry in before {
        assert_eq!(backend.get(&entry.key).await.unwrap(), Some(entry));
    }
    let lease = backend.get(&leased).await.unwrap().unwrap().lease.unwrap();
    backend.keep_alive(lease).await.unwrap();
    backend.revoke(lease).await.unwrap();
    assert_eq!(backend.get(&leased).await.unwrap(), None);
    assert_ne!(
        backend.grant(Duration::from_secs(1)).await.unwrap(),
        lease,
        "no lease id is given twice"
    );
}

#[tokio::test]
async fn a_damaged_file_is_named_and_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store.json");
    {
        let backend = JsonBackend::open(&path).await.unwrap();
        backend
            .put(&key("a"), "x".into(), Condition::Any)
            .await
            .unwrap();
    }
    let json = std::fs::read(&path).unwrap();
    std::fs::write(&path, &json[..json.len() / 2]).unwrap();
    let refused = loop {
        match JsonBackend::open(&path).await {
            Err(error) if error.to_string().contains("open already") => {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            other => break other.unwrap_err().to_string(),
        }
    };
    assert!(refused.contains("store.json is damaged"), "{refused}");
    assert_eq!(std::fs::read(&path).unwrap().len(), json.len() / 2);
}

/// Opens the file as soon as the backend before has let go of it.
async fn reopen(path: &std::path::Path) -> JsonBackend {
    let trying = async {
        loop {
            if let Ok(backend) = JsonBackend::open(path).await {
                return backend;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), trying)
        .await
        .expect("the file is free once its backend was dropped")
}

fn key(text: &str) -> Key {
    Key::parse(text).unwrap()
}
