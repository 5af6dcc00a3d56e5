use std::{
    io::Write,
    sync::atomic::{AtomicUsize, Ordering},
};

use flate2::{Compression, write::GzEncoder};
use tar::{Builder, EntryType, Header};

use super::*;

/// An archive of entries `(path, kind, content or link target)`, with paths as wild as they come.
fn archive(entries: &[(&str, EntryType, &str)]) -> Vec<u8> {
    let mut builder = Builder::new(GzEncoder::new(Vec::new(), Compression::fast()));
    for (path, kind, content) in entries {
        let mut header = Header::new_gnu();
        header.set_entry_type(*kind);
        header.set_mode(0o4755);
        header.set_mtime(1_000_000_000);
        // Around the builder's own checks: an attacker has none.
        header.as_gnu_mut().unwrap().name[..path.len()].copy_from_slice(path.as_bytes());
        let is_link = matches!(kind, EntryType::Symlink | EntryType::Link);
        let body = if is_link { "" } else { content };
        if is_link {
            header.as_gnu_mut().unwrap().linkname[..content.len()]
                .copy_from_slice(content.as_bytes());
        }
        header.set_size(body.len() as u64);
        header.set_cksum();
        builder.append(&header, body.as_bytes()).unwrap();
    }
    builder.into_inner().unwrap().finish().unwrap()
}

fn sha256(bytes: &[u8]) -> String {
    hex::encode(Sha256::digest(bytes))
}

struct Fixture {
    dir: tempfile::TempDir,
    root: PathBuf,
}

fn fixture() -> Fixture {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("root");
    fs::create_dir(&root).unwrap();
    Fixture { dir, root }
}

impl Fixture {
    fn artifact(&self, bytes: &[u8]) -> Artifact {
        let path = self.dir.path().join(sha256(bytes));
        fs::write(&path, bytes).unwrap();
        Artifact {
            uri: format!("file://{}", path.display()),
            sha256: Some(sha256(bytes)),
            size: Some(bytes.len() as u64),
        }
    }

    fn store(&self) -> ArtifactStore {
        ArtifactStore::new(self.dir.path().join("cache"))
    }

    async fn unpack(&self, entries: &[(&str, EntryType, &str)]) -> Result<()> {
        let artifact = self.artifact(&archive(entries));
        self.store().unpack(&[artifact], &self.root).await
    }
}

#[tokio::test]
async fn later_artifacts_replace_files_of_earlier_ones() {
    let f = fixture();
    let first = f.artifact(&archive(&[
        ("bin/run", EntryType::Regular, "one"),
        ("keep", EntryType::Regular, "kept"),
    ]));
    let second = f.artifact(&archive(&[("./bin/run", EntryType::Regular, "two")]));
    f.store().unpack(&[first, second], &f.root).await.unwrap();
    assert_eq!(fs::read_to_string(f.root.join("bin/run")).unwrap(), "two");
    assert_eq!(fs::read_to_string(f.root.join("keep")).unwrap(), "kept");
    let meta = fs::metadata(f.root.join("keep")).unwrap();
    use std::os::unix::fs::PermissionsExt;
    assert_eq!(meta.permissions().mode() & 0o7777, 0o755);
    let epoch = std::time::SystemTime::UNIX_EPOCH;
    assert_eq!(
        meta.modified().unwrap().duration_since(epoch).unwrap(),
        Duration::from_secs(1_000_000_000)
    );
}

#[tokio::test]
async fn nothing_is_written_outside_of_the_root() {
    use EntryType::{Directory, Fifo, Link, Regular, Symlink};
    let evil: &[&[(&str, EntryType, &str)]] = &[
        &[("../evil", Regular, "x")],
        &[("/evil", Regular, "x")],
        &[("a/../../evil", Regular, "x")],
        &[("out", Symlink, ".."), ("out/evil", Regular, "x")],
        &[("out", Symlink, "/tmp"), ("out/evil", Regular, "x")],
        &[("a/out", Symlink, "../../evil")],
        &[("hard", Link, "../evil")],
        &[("hard", Link, "/etc/passwd")],
        &[("soft", Symlink, "/etc"), ("hard", Link, "soft/passwd")],
        &[("soft", Symlink, "/etc/passwd"), ("hard", Link, "soft")],
        &[("pipe", Fifo, "")],
        &[
            ("d", Symlink, "/tmp"),
            ("d/", Directory, ""),
            ("d/../../evil", Regular, "x"),
        ],
    ];
    for entries in evil {
        let f = fixture();
        let error = f.unpack(entries).await.unwrap_err();
        assert!(
            matches!(error, Error::Artifact { .. }),
            "{entries:?}: {error}"
        );
        assert!(!f.dir.path().join("evil").exists(), "{entries:?}");
    }
}

#[tokio::test]
async fn a_link_is_replaced_not_written_through() {
    let f = fixture();
    let victim = f.dir.path().join("victim");
    fs::write(&victim, "untouched").unwrap();
    let target = victim.display().to_string();
    f.unpack(&[
        ("file", EntryType::Symlink, &target),
        ("file", EntryType::Regular, "new"),
        ("python", EntryType::Symlink, "/usr/bin/python3"),
    ])
    .await
    .unwrap();
    assert_eq!(fs::read_to_string(&victim).unwrap(), "untouched");
    assert_eq!(fs::read_to_string(f.root.join("file")).unwrap(), "new");
    let python = fs::read_link(f.root.join("python")).unwrap();
    assert_eq!(python, Path::new("/usr/bin/python3"));
}

#[tokio::test]
async fn an_artifact_that_is_not_what_its_checksum_says_is_refused() {
    let f = fixture();
    let mut artifact = f.artifact(&archive(&[("a", EntryType::Regular, "x")]));
    artifact.sha256 = Some("0".repeat(64));
    let error = f.store().unpack(&[artifact], &f.root).await.unwrap_err();
    assert!(error.to_string().contains("SHA-256"), "{error}");
    assert_eq!(fs::read_dir(&f.root).unwrap().count(), 0);
}

#[tokio::test]
async fn an_archive_beyond_the_limits_is_refused() {
    let f = fixture();
    let bytes = archive(&[
        ("a", EntryType::Regular, "12345"),
        ("b", EntryType::Regular, "12345"),
    ]);
    let artifact = f.artifact(&bytes);
    for limits in [
        UnpackLimits::default().with_entries(1),
        UnpackLimits::default().with_bytes(9),
    ] {
        let store = f.store().with_limits(limits);
        let error = store
            .unpack(std::slice::from_ref(&artifact), &f.root)
            .await
            .unwrap_err();
        assert!(matches!(error, Error::Artifact { .. }), "{error}");
    }
}

#[tokio::test]
async fn a_truncated_archive_is_refused() {
    let f = fixture();
    let body = "x".repeat(100_000);
    let bytes = archive(&[("a", EntryType::Regular, &body)]);
    let artifact = f.artifact(&bytes[..bytes.len() / 2]);
    f.store().unpack(&[artifact], &f.root).await.unwrap_err();
}

/// Counts how often it is asked.
#[derive(Debug, Clone)]
struct Counted {
    bytes: Vec<u8>,
    opened: Arc<AtomicUsize>,
}

#[async_trait]
impl ArtifactSource for Counted {
    async fn open(&self, _uri: &str) -> Result<ArtifactReader> {
        self.opened.fetch_add(1, Ordering::SeqCst);
        tokio::task::yield_now().await;
        Ok(Box::new(io::Cursor::new(self.bytes.clone())))
    }
}

#[tokio::test]
async fn many_who_want_one_artifact_cause_one_fetch() {
    let f = fixture();
    let bytes = archive(&[("a", EntryType::Regular, "x")]);
    let source = Counted {
        bytes: bytes.clone(),
        opened: Arc::default(),
    };
    let store = f.store().with_source("blob", source.clone());
    let artifact = Artifact {
        uri: "blob:slugs/a.tgz".to_owned(),
        sha256: Some(sha256(&bytes)),
        size: None,
    };
    let roots: Vec<PathBuf> = (0..5).map(|i| f.root.join(i.to_string())).collect();
    let unpacks = roots.iter().map(|root| {
        fs::create_dir(root).unwrap();
        store.unpack(std::slice::from_ref(&artifact), root)
    });
    futures::future::try_join_all(unpacks).await.unwrap();
    assert_eq!(source.opened.load(Ordering::SeqCst), 1);
    assert!(roots.iter().all(|root| root.join("a").exists()));
}

#[tokio::test]
async fn the_cache_keeps_within_its_bound() {
    let f = fixture();
    let store = f.store().with_cache_bytes(1500);
    let mut noise = String::new();
    for i in 0..4 {
        // Incompressible enough that an archive is over 500 bytes.
        noise.clear();
        for j in 0..60u64 {
            noise.push_str(&sha256(&(i * 100 + j).to_le_bytes())[..16]);
        }
        let artifact = f.artifact(&archive(&[("a", EntryType::Regular, &noise)]));
        store.unpack(&[artifact], &f.root).await.unwrap();
    }
    let total: u64 = fs::read_dir(f.dir.path().join("cache"))
        .unwrap()
        .map(|e| e.unwrap().metadata().unwrap().len())
        .sum();
    assert!(total > 0 && total <= 1500, "{total} bytes");
}

#[test]
fn an_unknown_scheme_names_those_that_are_known() {
    let f = fixture();
    let artifact = Artifact {
        uri: "gopher://x".to_owned(),
        sha256: None,
        size: None,
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap();
    let error = runtime
        .block_on(f.store().unpack(&[artifact], &f.root))
        .unwrap_err();
    assert_eq!(
        error.to_string(),
        "artifact gopher://x: no source for \"gopher\"; there are file"
    );
    let _ = io::stdout().flush();
}
