//! What clients do, the same to both sides.

use std::{sync::Arc, time::Duration};

use anyhow::Result;
use flynn_benches::cpu_seconds;
use futures::future::{BoxFuture, try_join_all};
use hdrhistogram::Histogram;
use tokio::{sync::mpsc, time::Instant};

/// A store of three members; `client` chooses the member.
pub(crate) trait Store: Send + Sync {
    fn put(&self, client: usize, key: String, value: Vec<u8>) -> BoxFuture<'_, Result<()>>;

    /// Linearizable. The key exists.
    fn get(&self, client: usize, key: String) -> BoxFuture<'_, Result<()>>;

    /// Sends `watcher` for every change below `watched/`, from when this returns.
    fn watch(&self, watcher: usize, seen: mpsc::Sender<usize>) -> BoxFuture<'_, Result<()>>;
}

#[derive(Debug, Clone)]
pub(crate) struct Load {
    pub(crate) clients: usize,
    pub(crate) operations: usize,
}

impl Load {
    pub(crate) fn new(clients: usize, operations: usize) -> Self {
        Self {
            clients,
            operations,
        }
    }
}

const KEYS: usize = 1000;
const VALUE_BYTES: usize = 256;
const WATCHERS: usize = 300;
const WATCHED_PUTS: usize = 100;

fn key(i: usize) -> String {
    format!("bench/{:06}", i % KEYS)
}

/// Operations per second, median and 99th percentile in microseconds, CPU microseconds per operation.
pub(crate) async fn puts(store: &Arc<dyn Store>, load: &Load) -> Result<Vec<f64>> {
    run(store, load, |store, client, i| {
        Box::pin(async move { store.put(client, key(i), vec![b'v'; VALUE_BYTES]).await })
    })
    .await
}

/// As [`puts`]; the keys are those that `puts` wrote.
pub(crate) async fn gets(store: &Arc<dyn Store>, load: &Load) -> Result<Vec<f64>> {
    // Some key of each client is there already; all of them only after enough puts.
    run(store, load, |store, client, i| {
        Box::pin(async move { store.get(client, key(i)).await })
    })
    .await
}

async fn run(
    store: &Arc<dyn Store>,
    load: &Load,
    operation: impl Fn(Arc<dyn Store>, usize, usize) -> BoxFuture<'static, Result<()>>
    + Copy
    + Send
    + Sync
    + 'static,
) -> Result<Vec<f64>> {
    let each = load.operations / load.clients;
    let cpu = cpu_seconds(std::process::id())?;
    let started = Instant::now();
    let clients = (0..load.clients).map(|client| {
        let store = Arc::clone(store);
        tokio::spawn(async move {
            let mut latency = Histogram::<u64>::new(3)?;
            for n in 0..each {
                let asked = Instant::now();
                operation(Arc::clone(&store), client, client + n * 257).await?;
                latency.record(u64::try_from(asked.elapsed().as_micros())?)?;
            }
            anyhow::Ok(latency)
        })
    });
    let histograms = try_join_all(clients).await?;
    let elapsed = started.elapsed();
    // The processes of both sides are children of this one, so one of them idles in the figure of the other.
    let cpu = cpu_seconds(std::process::id())? - cpu;
    let mut latency = Histogram::<u64>::new(3)?;
    for histogram in histograms {
        latency.add(histogram?)?;
    }
    let operations = latency.len() as f64;
    Ok(vec![
        operations / elapsed.as_secs_f64(),
        latency.value_at_quantile(0.5) as f64,
        latency.value_at_quantile(0.99) as f64,
        cpu * 1e6 / operations,
    ])
}

/// Median and 99th percentile, in microseconds, of the time from a put until the last of the watchers knows.
pub(crate) async fn fan_out(store: &Arc<dyn Store>) -> Result<Vec<f64>> {
    let (seen, mut sightings) = mpsc::channel(WATCHERS);
    try_join_all((0..WATCHERS).map(|watcher| store.watch(watcher, seen.clone()))).await?;
    let mut latency = Histogram::<u64>::new(3)?;
    for i in 0..WATCHED_PUTS {
        let asked = Instant::now();
        store
            .put(i, format!("watched/{i}"), vec![b'v'; VALUE_BYTES])
            .await?;
        for _ in 0..WATCHERS {
            tokio::time::timeout(Duration::from_secs(10), sightings.recv()).await?;
        }
        latency.record(u64::try_from(asked.elapsed().as_micros())?)?;
    }
    // The watchers end with their channel.
    drop(sightings);
    Ok(vec![
        latency.value_at_quantile(0.5) as f64,
        latency.value_at_quantile(0.99) as f64,
    ])
}
