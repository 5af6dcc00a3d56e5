//! Blob stores: the contract, damage, replicas.

use std::{
    fs::{self, OpenOptions},
    io::{Seek, SeekFrom, Write},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use async_trait::async_trait;
use flynn_discovery::{
    Instance, InstanceId, RegisterOptions, Registry, ServiceName,
    backend::MemoryBackend,
    http::{Keys, Secret, serve},
};
use flynn_receive::{
    Error,
    blob::{
        BlobName, BlobServer, BlobStore, CapabilityKey, DeleteOptions, Digest, FsBlobStore, Grant,
        HttpBlobStore, Peer, Peers, PutOptions, RegistryPeers, ReplicatedBlobStore, StaticPeers,
        body_of,
    },
};
use parking_lot::Mutex;
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio_util::sync::{CancellationToken, DropGuard};

type Fixture<T> = (Arc<dyn BlobStore>, T);

async fn on_disk() -> Fixture<TempDir> {
    let dir = tempfile::tempdir().unwrap();
    let store = FsBlobStore::open(dir.path()).await.unwrap();
    (Arc::new(store), dir)
}

async fn over_http() -> Fixture<(DropGuard, TempDir)> {
    let (store, dir) = on_disk().await;
    let (url, guard) = serve_blobs(BlobServer::new(store, keys())).await;
    let store = HttpBlobStore::new(vec![url])
        .unwrap()
        .with_key(Secret::new("s3cret"));
    (Arc::new(store), (guard, dir))
}

async fn replicated() -> Fixture<Cluster> {
    let cluster = Cluster::of(3).await;
    (cluster.replicas[0].store.clone(), cluster)
}

mod disk {
    flynn_receive::blob_store_conformance!(super::on_disk());
}
mod http {
    flynn_receive::blob_store_conformance!(super::over_http());
}
mod replicas {
    flynn_receive::blob_store_conformance!(super::replicated());
}

fn keys() -> Keys {
    Keys::new(vec![Secret::new("s3cret")])
}

async fn serve_blobs(server: BlobServer) -> (String, DropGuard) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let stop = CancellationToken::new();
    tokio::spawn(serve(
        listener,
        server.router(),
        stop.clone().cancelled_owned(),
    ));
    (url, stop.drop_guard())
}

fn name(text: &str) -> BlobName {
    BlobName::parse(text).unwrap()
}

async fn put(store: &dyn BlobStore, at: &str, bytes: impl Into<bytes::Bytes>) {
    store
        .put(&name(at), body_of(bytes), PutOptions::new())
        .await
        .unwrap();
}

async fn read(store: &dyn BlobStore, at: &str) -> flynn_receive::Result<bytes::Bytes> {
    store.get(&name(at)).await?.bytes(1 << 30).await
}

/// The one file of a store on disk whose name has this in it.
fn file_of(dir: &Path, part: &str) -> PathBuf {
    fs::read_dir(dir.join("blobs"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .find(|path| path.to_string_lossy().contains(part))
        .unwrap()
}

fn flip_last_byte(path: &Path) {
    let mut file = OpenOptions::new()
        .read(true)
        .write(true)
        .open(path)
        .unwrap();
    file.seek(SeekFrom::End(-1)).unwrap();
    file.write_all(&[0xff]).unwrap();
}

#[tokio::test]
async fn a_flipped_bit_is_never_read_as_if_it_were_sound() {
    let (store, dir) = on_disk().await;
    put(&*store, "a", vec![1; 200_000]).await;
    flip_last_byte(&file_of(dir.path(), "a"));
    let error = read(&*store, "a").await.unwrap_err();
    assert!(matches!(error, Error::Corrupt { .. }), "{error}");
}

#[tokio::test]
async fn a_blob_cut_short_is_known_at_once() {
    let (store, dir) = on_disk().await;
    put(&*store, "a", vec![1; 1000]).await;
    for length in [900, 192, 100, 0] {
        OpenOptions::new()
            .write(true)
            .open(file_of(dir.path(), "a"))
            .unwrap()
            .set_len(length)
            .unwrap();
        let error = store.head(&name("a")).await.unwrap_err();
        assert!(matches!(error, Error::Corrupt { .. }), "{length}: {error}");
    }
    put(&*store, "a", "whole").await;
    assert_eq!(read(&*store, "a").await.unwrap(), "whole");
}

#[tokio::test]
async fn what_a_crash_left_half_written_is_cleared_away_and_the_rest_survives() {
    let (store, dir) = on_disk().await;
    put(&*store, "slugs/a.tgz", "whole").await;
    let half = dir.path().join("incoming/half");
    fs::write(&half, "flynn-blob 1 stored").unwrap();
    drop(store);
    let store = FsBlobStore::open(dir.path()).await.unwrap();
    assert!(!half.exists());
    assert_eq!(read(&store, "slugs/a.tgz").await.unwrap(), "whole");
}

#[tokio::test]
async fn a_failed_put_leaves_no_file_behind() {
    let (store, dir) = on_disk().await;
    let wrong = PutOptions::new().with_sha256(Digest::of(b"other"));
    let error = store
        .put(&name("a"), body_of("bytes"), wrong)
        .await
        .unwrap_err();
    assert!(error.to_string().contains("its SHA-256 is"), "{error}");
    for part in ["incoming", "blobs"] {
        assert_eq!(fs::read_dir(dir.path().join(part)).unwrap().count(), 0);
    }
}

/// A raw request, for what a well-behaved client cannot send.
async fn raw(url: &str, request: &str) -> String {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let addr = url.strip_prefix("http://").unwrap();
    let mut stream = tokio::net::TcpStream::connect(addr).await.unwrap();
    let request = format!("{request}\r\nhost: x\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}

#[tokio::test]
async fn the_server_answers_as_the_original_does() {
    let (store, _dir) = on_disk().await;
    put(&*store, "slugs/a.tgz", "hello").await;
    let (url, _guard) = serve_blobs(BlobServer::new(store, keys())).await;
    let key = "\r\nauthorization: Bearer s3cret";
    let status = |answer: &str| answer.lines().next().unwrap_or_default().to_owned();

    let got = raw(&url, &format!("GET /slugs/a.tgz HTTP/1.1{key}")).await;
    assert!(got.starts_with("HTTP/1.1 200"), "{got}");
    let etag = format!("etag: \"{}\"", Digest::of(b"hello"));
    assert!(got.contains(&etag), "{got}");
    assert!(got.contains("content-length: 5"), "{got}");
    assert!(got.ends_with("\r\n\r\nhello"), "{got}");

    let absent = raw(&url, &format!("GET /slugs/b.tgz HTTP/1.1{key}")).await;
    assert!(
        absent.starts_with("HTTP/1.1 404") && absent.ends_with("NotFound\n"),
        "{absent}"
    );

    let list = raw(&url, &format!("GET /?dir=/slugs HTTP/1.1{key}")).await;
    assert!(list.ends_with(r#"["slugs/a.tgz"]"#), "{list}");

    let health = raw(&url, "GET /.well-known/status HTTP/1.1").await;
    assert!(health.starts_with("HTTP/1.1 200"), "{health}");

    for no_key in ["", "\r\nauthorization: Bearer wrong"] {
        let denied = raw(&url, &format!("GET /slugs/a.tgz HTTP/1.1{no_key}")).await;
        assert!(denied.starts_with("HTTP/1.1 401"), "{denied}");
    }
    for out in [
        "/../secret",
        "/a/../../b",
        "/%2e%2e/x",
        "/.hidden",
        "//etc/passwd",
        "/a%00b",
    ] {
        for method in ["GET", "PUT", "DELETE"] {
            let answer = raw(&url, &format!("{method} {out} HTTP/1.1{key}")).await;
            assert_eq!(
                status(&answer),
                "HTTP/1.1 400 Bad Request",
                "{method} {out}"
            );
        }
    }
}

#[tokio::test]
async fn a_capability_opens_one_path_and_nothing_else() {
    let (store, _dir) = on_disk().await;
    put(&*store, "caches/app.tgz", "old").await;
    put(&*store, "slugs/secret.tgz", "secret").await;
    let signer = CapabilityKey::derive(b"cluster secret");
    let server = BlobServer::new(store.clone(), keys()).with_capabilities(signer.clone());
    let (url, _guard) = serve_blobs(server).await;
    let with = |grant, limit| {
        let capability = signer.grant(grant, Duration::from_secs(60), limit);
        HttpBlobStore::new(vec![url.clone()])
            .unwrap()
            .with_capability(&capability)
    };
    let denied = |result: flynn_receive::Result<()>| {
        let error = result.unwrap_err();
        assert!(matches!(error, Error::Denied { .. }), "{error:?}");
    };

    let reader = with(Grant::Get("caches/app.tgz".to_owned()), 0);
    assert_eq!(read(&reader, "caches/app.tgz").await.unwrap(), "old");
    denied(read(&reader, "slugs/secret.tgz").await.map(drop));
    let write = |store: HttpBlobStore, at: &'static str, bytes: &'static str| async move {
        store
            .put(&name(at), body_of(bytes), PutOptions::new())
            .await
            .map(drop)
    };
    denied(write(reader.clone(), "caches/app.tgz", "new").await);
    let cache = name("caches/app.tgz");
    denied(reader.delete(&cache, DeleteOptions::default()).await);

    let writer = with(Grant::Put("caches/app.tgz".to_owned()), 5);
    write(writer.clone(), "caches/app.tgz", "new")
        .await
        .unwrap();
    assert_eq!(read(&*store, "caches/app.tgz").await.unwrap(), "new");
    denied(write(writer.clone(), "caches/other.tgz", "new").await);
    denied(read(&writer, "caches/app.tgz").await.map(drop));
    let too_large = write(writer, "caches/app.tgz", "six666").await;
    assert!(too_large.is_err());
    assert_eq!(read(&*store, "caches/app.tgz").await.unwrap(), "new");

    let uploader = with(Grant::PutByDigest("slugs".to_owned()), 100);
    let own = format!("slugs/{}.tgz", Digest::of(b"slug"));
    uploader
        .put(&name(&own), body_of("slug"), PutOptions::new())
        .await
        .unwrap();
    assert_eq!(read(&*store, &own).await.unwrap(), "slug");
    // Under the name of something else nothing can be stored, nor under a name that is no digest.
    let forged = uploader
        .put(&name(&own), body_of("other"), PutOptions::new())
        .await;
    assert!(forged.is_err());
    denied(write(uploader, "slugs/secret.tgz", "x").await);
    assert_eq!(read(&*store, "slugs/secret.tgz").await.unwrap(), "secret");

    let other_key = CapabilityKey::derive(b"another cluster");
    let forged = other_key.grant(
        Grant::Get("slugs/secret.tgz".to_owned()),
        Duration::from_secs(60),
        0,
    );
    let forged = HttpBlobStore::new(vec![url.clone()])
        .unwrap()
        .with_capability(&forged);
    denied(read(&forged, "slugs/secret.tgz").await.map(drop));
}

/// Replicas that see each other over HTTP; who is live is up to the test.
struct Cluster {
    replicas: Vec<Replica>,
    live: Arc<Mutex<Vec<Peer>>>,
}

struct Replica {
    store: Arc<ReplicatedBlobStore>,
    id: String,
    dir: TempDir,
    server: Option<DropGuard>,
}

#[derive(Debug)]
struct LivePeers {
    own: String,
    live: Arc<Mutex<Vec<Peer>>>,
}

#[async_trait]
impl Peers for LivePeers {
    async fn peers(&self) -> flynn_receive::Result<Vec<Peer>> {
        let live = self.live.lock().clone();
        Ok(live.into_iter().filter(|p| p.id != self.own).collect())
    }
}

impl Cluster {
    async fn of(count: usize) -> Self {
        let live: Arc<Mutex<Vec<Peer>>> = Arc::default();
        let mut replicas = Vec::new();
        for index in 0..count {
            let dir = tempfile::tempdir().unwrap();
            let local = FsBlobStore::open(dir.path()).await.unwrap();
            let id = format!("replica-{index}");
            let peers = LivePeers {
                own: id.clone(),
                live: live.clone(),
            };
            let store = ReplicatedBlobStore::new(local.clone(), Arc::new(peers))
                .with_put_deadline(Duration::from_secs(2));
            let store = Arc::new(store);
            let server = BlobServer::new(store.clone(), keys()).with_local(Arc::new(local));
            let (url, guard) = serve_blobs(server).await;
            let client = HttpBlobStore::new(vec![url])
                .unwrap()
                .with_key(Secret::new("s3cret"))
                .one_replica();
            live.lock().push(Peer {
                id: id.clone(),
                store: Arc::new(client),
            });
            replicas.push(Replica {
                store,
                id,
                dir,
                server: Some(guard),
            });
        }
        Self { replicas, live }
    }

    fn local(&self, index: usize) -> &FsBlobStore {
        self.replicas[index].store.local()
    }

    /// The server dies; discovery has not noticed.
    fn kill(&mut self, index: usize) {
        self.replicas[index].server = None;
    }

    /// Discovery has noticed.
    fn forget(&self, index: usize) {
        let id = self.replicas[index].id.clone();
        self.live.lock().retain(|peer| peer.id != id);
    }
}

/// Waits for something that others do.
async fn eventually(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let waiting = async {
        while !holds().await {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), waiting)
        .await
        .unwrap_or_else(|_| panic!("waited in vain: {what}"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_put_reaches_every_replica() {
    let cluster = Cluster::of(3).await;
    put(&*cluster.replicas[0].store, "slugs/a.tgz", "slug").await;
    for index in 0..3 {
        eventually("every replica has it", async || {
            read(cluster.local(index), "slugs/a.tgz").await.is_ok()
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_one_of_three_dead_puts_succeed_and_any_other_one_may_then_die() {
    let mut cluster = Cluster::of(3).await;
    cluster.kill(2);
    put(&*cluster.replicas[0].store, "slugs/a.tgz", "slug").await;
    // The acknowledged slug is on both that live.
    assert_eq!(read(cluster.local(0), "slugs/a.tgz").await.unwrap(), "slug");
    assert_eq!(read(cluster.local(1), "slugs/a.tgz").await.unwrap(), "slug");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_put_without_a_majority_is_not_acknowledged_until_discovery_knows_who_is_gone() {
    let mut cluster = Cluster::of(2).await;
    cluster.kill(1);
    let store = cluster.replicas[0].store.clone();
    let refused = store
        .put(&name("a"), body_of("x"), PutOptions::new())
        .await
        .unwrap_err();
    assert!(refused.is_transient(), "{refused}");
    assert!(
        refused.to_string().contains("only 1 of 2 replicas"),
        "{refused}"
    );

    let waiting = tokio::spawn(async move {
        let options = PutOptions::new();
        store.put(&name("b"), body_of("x"), options).await
    });
    eventually("it is on the only replica that lives", async || {
        read(cluster.local(0), "b").await.is_ok()
    })
    .await;
    assert!(!waiting.is_finished());
    cluster.forget(1);
    waiting.await.unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_without_a_blob_takes_it_from_a_peer() {
    let cluster = Cluster::of(2).await;
    put(cluster.local(1), "slugs/a.tgz", "slug").await;
    let got = read(&*cluster.replicas[0].store, "slugs/a.tgz").await;
    assert_eq!(got.unwrap(), "slug");
    // And keeps it.
    assert_eq!(read(cluster.local(0), "slugs/a.tgz").await.unwrap(), "slug");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_damaged_copy_is_replaced_from_a_peer() {
    let cluster = Cluster::of(3).await;
    put(&*cluster.replicas[0].store, "slugs/a.tgz", vec![3; 100_000]).await;
    eventually("every replica has it", async || {
        cluster.local(2).verify(&name("slugs/a.tgz")).await.is_ok()
            && cluster.local(1).verify(&name("slugs/a.tgz")).await.is_ok()
    })
    .await;
    for index in [0, 1] {
        flip_last_byte(&file_of(cluster.replicas[index].dir.path(), "slugs"));
    }
    let got = read(&*cluster.replicas[0].store, "slugs/a.tgz").await;
    assert_eq!(got.unwrap(), vec![3; 100_000]);
    cluster.local(0).verify(&name("slugs/a.tgz")).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_that_was_away_catches_up_with_puts_and_deletes() {
    let cluster = Cluster::of(2).await;
    put(&*cluster.replicas[0].store, "deleted", "x").await;
    eventually("both have it", async || {
        cluster.local(1).head(&name("deleted")).await.is_ok()
    })
    .await;
    let present = cluster.live.lock().clone();
    cluster.forget(1);
    for index in 0..20 {
        put(
            &*cluster.replicas[0].store,
            &format!("slugs/{index}"),
            vec![index; 10],
        )
        .await;
    }
    cluster.replicas[0]
        .store
        .delete(&name("deleted"), DeleteOptions::default())
        .await
        .unwrap();
    assert!(cluster.local(1).head(&name("deleted")).await.is_ok());

    *cluster.live.lock() = present;
    assert_eq!(cluster.replicas[1].store.sync().await.unwrap(), 21);
    assert_eq!(
        read(cluster.local(1), "slugs/19").await.unwrap(),
        vec![19; 10]
    );
    assert!(cluster.local(1).head(&name("deleted")).await.is_err());
    // Nothing is left to do, in either direction: what was deleted does not come back.
    assert_eq!(cluster.replicas[1].store.sync().await.unwrap(), 0);
    assert_eq!(cluster.replicas[0].store.sync().await.unwrap(), 0);
    assert!(read(&*cluster.replicas[0].store, "deleted").await.is_err());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replicas_find_each_other_in_discovery() {
    let registry = Registry::new(Arc::new(MemoryBackend::new()));
    let service = ServiceName::parse("blobstore").unwrap();
    let mut stores = Vec::new();
    let mut alive = Vec::new();
    for index in 0..3 {
        let dir = tempfile::tempdir().unwrap();
        let local = FsBlobStore::open(dir.path()).await.unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap().to_string();
        let peers = RegistryPeers::new(
            registry.clone(),
            service.clone(),
            &*addr,
            Secret::new("s3cret"),
        );
        let store = Arc::new(ReplicatedBlobStore::new(local.clone(), Arc::new(peers)));
        let server = BlobServer::new(store.clone(), keys()).with_local(Arc::new(local));
        let stop = CancellationToken::new();
        tokio::spawn(serve(
            listener,
            server.router(),
            stop.clone().cancelled_owned(),
        ));
        let instance = Instance {
            id: InstanceId::parse(format!("replica-{index}")).unwrap(),
            addr,
            proto: "http".to_owned(),
            attributes: Default::default(),
            created: 0,
        };
        let registration = registry
            .register(&service, instance, RegisterOptions::default())
            .await
            .unwrap();
        alive.push((stop.drop_guard(), registration, dir));
        stores.push(store);
    }
    put(&*stores[0], "slugs/a.tgz", "slug").await;
    for store in &stores {
        eventually("every replica has it", async || {
            store.local().head(&name("slugs/a.tgz")).await.is_ok()
        })
        .await;
    }
}

#[tokio::test]
async fn a_lonely_replica_is_a_majority_of_itself() {
    let dir = tempfile::tempdir().unwrap();
    let local = FsBlobStore::open(dir.path()).await.unwrap();
    let store = ReplicatedBlobStore::new(local, Arc::new(StaticPeers::default()));
    put(&store, "a", "x").await;
    assert_eq!(read(&store, "a").await.unwrap(), "x");
}
