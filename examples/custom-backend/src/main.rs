//! Run with `cargo run -p custom-backend`, and again: it counts its runs. An argument names another file.
#![allow(
    clippy::print_stdout,
    reason = "an example shows on the terminal what it does"
)]

use std::{path::PathBuf, sync::Arc};

use custom_backend::JsonBackend;
use flynn_discovery::{
    Backend, Instance, RegisterOptions, Registry, Result, ServiceName,
    backend::{Condition, Key},
};

#[tokio::main]
async fn main() -> Result<()> {
    let path = match std::env::args_os().nth(1) {
        Some(path) => PathBuf::from(path),
        None => std::env::temp_dir().join("flynn-custom-backend.json"),
    };
    let backend: Arc<dyn Backend> = Arc::new(JsonBackend::open(&path).await?);

    let key = Key::parse("runs")?;
    let entry = backend.get(&key).await?;
    let runs: u64 = entry
        .as_ref()
        .and_then(|entry| std::str::from_utf8(&entry.value).ok()?.parse().ok())
        .unwrap_or(0);
    let unchanged = entry.map_or(Condition::Absent, |e| Condition::Version(e.version));
    backend
        .put(&key, (runs + 1).to_string().into(), unchanged)
        .await?;
    println!("run {}, counted in {}", runs + 1, path.display());

    // Everything that is built on `Backend` works on it.
    let registry = Registry::new(backend);
    let service = ServiceName::parse("example")?;
    let instance = Instance::new("me", "127.0.0.1:1", "tcp")?;
    let registration = registry
        .register(&service, instance, RegisterOptions::default())
        .await?;
    for instance in registry.instances(&service).await? {
        println!("{} is registered at {}", instance.id, instance.addr);
    }
    registration.deregister().await
}
