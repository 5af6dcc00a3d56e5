//! Builds of the sample apps with their real package managers, and the built slugs really run.

use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    time::Duration,
};

use flynn_receive::{
    Console, Error,
    builder::{Build, Built},
    slug::{Limits, unpack},
};
use tempfile::TempDir;
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    time::timeout,
};
use tokio_util::sync::CancellationToken;

use crate::process::{PATIENCE, Process, env, receive_program};

/// A build and all that is around it.
pub(crate) struct Workshop {
    dir: TempDir,
    pub(crate) env: BTreeMap<String, String>,
    /// The source; builds change it.
    pub(crate) source: PathBuf,
    buildpacks: Option<PathBuf>,
    timeout: Duration,
    pub(crate) output: String,
}

impl Workshop {
    pub(crate) fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let source = dir.path().join("source");
        fs::create_dir(&source).unwrap();
        fs::create_dir(dir.path().join("cache")).unwrap();
        Self {
            source,
            dir,
            env: env(),
            buildpacks: None,
            timeout: PATIENCE,
            output: String::new(),
        }
    }

    pub(crate) fn of_sample(name: &str) -> Self {
        let workshop = Self::new();
        copy_dir(&sample(name), &workshop.source);
        workshop
    }

    pub(crate) fn file(&self, path: &str, text: &str) -> &Self {
        let path = self.source.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
        self
    }

    fn slug(&self) -> PathBuf {
        self.dir.path().join("slug.tgz")
    }

    pub(crate) async fn build(&mut self) -> flynn_receive::Result<Built> {
        self.build_unless(&CancellationToken::new()).await
    }

    async fn build_unless(&mut self, cancel: &CancellationToken) -> flynn_receive::Result<Built> {
        let scratch = tempfile::tempdir().unwrap();
        let build = Build::new(
            &self.source,
            self.dir.path().join("cache"),
            scratch.path(),
            self.env.clone(),
        )
        .with_buildpacks(self.buildpacks.clone())
        .with_app_env([("SETTING".to_owned(), "from the app".to_owned())].into())
        .with_timeout(self.timeout);
        let (console, mut written) = Console::new();
        let slug = self.slug();
        let building = async move { build.run(&slug, &console, cancel).await };
        let reading = async {
            let mut all = Vec::new();
            while let Some(bytes) = written.recv().await {
                all.extend_from_slice(&bytes);
            }
            String::from_utf8_lossy(&all).into_owned()
        };
        let (built, output) = tokio::join!(building, reading);
        println!("{output}");
        self.output = output;
        built
    }

    /// Unpacks the slug somewhere else, and takes away where it was built.
    fn unpack(&self) -> TempDir {
        let elsewhere = tempfile::tempdir().unwrap();
        let slug = fs::File::open(self.slug()).unwrap();
        unpack(slug, elsewhere.path(), Limits::default()).unwrap();
        fs::remove_dir_all(&self.source).unwrap();
        elsewhere
    }

    /// A buildpack of the test's own.
    fn with_buildpack(&mut self, compile: &str) {
        let packs = self.dir.path().join("packs");
        let bin = packs.join("own/bin");
        fs::create_dir_all(&bin).unwrap();
        for (program, body) in [
            ("detect", "echo Own"),
            ("compile", compile),
            ("release", "echo 'default_process_types: {}'"),
        ] {
            let path = bin.join(program);
            fs::write(&path, format!("#!/bin/sh\n{body}\n")).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        }
        self.buildpacks = Some(packs);
    }

    async fn refusal(&mut self) -> String {
        match self.build().await {
            Err(Error::Refused { why }) => why,
            other => panic!("{other:?}"),
        }
    }
}

pub(crate) fn sample(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../examples/apps")
        .join(name)
}

pub(crate) fn copy_dir(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy_dir(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_python_app_is_built_with_its_package_and_runs_elsewhere() {
    let mut workshop = Workshop::of_sample("python-web");
    let built = workshop.build().await.unwrap();
    assert_eq!(built.kind, "Python");
    assert_eq!(built.processes["web"], "python3 app.py");
    assert!(workshop.output.contains("-----> Python app detected"));
    assert!(
        workshop.output.contains("waitress-3.0.2"),
        "pip's own words are shown"
    );

    let slug = workshop.unpack();
    let script = fs::read_to_string(slug.path().join(".venv/bin/waitress-serve")).unwrap();
    assert!(script.starts_with("#!/usr/bin/env python3\n"), "{script}");
    let mut web = Process::start(slug.path(), &built.processes["web"], &[]);
    let answer = web.get("/some/path").await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    assert!(
        answer.contains("job host-job\npath /some/path\n"),
        "{answer}"
    );
    assert!(web.stop().await.success());

    // The scripts of packages run too.
    let mut web = Process::start(
        slug.path(),
        "waitress-serve --port=$PORT wsgiref.simple_server:demo_app",
        &[],
    );
    assert!(web.get("/").await.contains("Hello world!"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_python_app_whose_requirements_did_not_change_takes_its_packages_from_the_cache() {
    let mut workshop = Workshop::of_sample("python-web");
    let first = workshop.build().await.unwrap();
    workshop
        .env
        .insert("PIP_NO_INDEX".to_owned(), "1".to_owned());
    workshop.env.remove("PIP_FIND_LINKS");
    let second = workshop.build().await.unwrap();
    assert!(workshop.output.contains("requirements.txt is unchanged"));
    assert_eq!(
        first.sha256, second.sha256,
        "the same source is the same slug"
    );
    let slug = workshop.unpack();
    let mut web = Process::start(slug.path(), &second.processes["web"], &[]);
    assert!(web.get("/").await.starts_with("HTTP/1.1 200"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_node_app_is_built_with_its_package_and_runs_elsewhere() {
    let mut workshop = Workshop::of_sample("node-web");
    let built = workshop.build().await.unwrap();
    assert_eq!(built.kind, "Node.js");
    assert_eq!(built.processes["web"], "node server.js");
    let slug = workshop.unpack();
    assert!(slug.path().join("node_modules/ms/package.json").is_file());
    let mut web = Process::start(slug.path(), &built.processes["web"], &[]);
    let answer = web.get("/x").await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    assert!(answer.contains("job host-job\npath /x\nup "), "{answer}");
    assert!(web.stop().await.success());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_build_script_runs_before_the_app_is_packed() {
    let mut workshop = Workshop::new();
    workshop
        .file("package.json", r#"{"name": "x", "version": "1.0.0", "scripts": {"build": "echo built > out.txt", "start": "cat out.txt && node ."}}"#);
    let built = workshop.build().await.unwrap();
    assert_eq!(
        built.processes["web"], "npm start",
        "a line of several commands is npm's"
    );
    assert_eq!(
        fs::read_to_string(workshop.unpack().path().join("out.txt")).unwrap(),
        "built\n"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_static_site_is_served_by_the_platforms_server() {
    let mut workshop = Workshop::of_sample("static-site");
    let program = receive_program(workshop.dir.path());
    workshop.env.insert(
        "FLYNN_STATIC_SERVER".to_owned(),
        program.to_string_lossy().into_owned(),
    );
    let built = workshop.build().await.unwrap();
    assert_eq!(built.kind, "Static files");
    assert!(workshop.output.contains("Serving 3 files"));
    let slug = workshop.unpack();
    let mut web = Process::start(slug.path(), &built.processes["web"], &[]);
    let page = web.get("/").await;
    assert!(page.starts_with("HTTP/1.1 200"), "{page}");
    assert!(page.contains("Hello from static-site"), "{page}");
    let missing = web.get("/missing").await;
    assert!(missing.starts_with("HTTP/1.1 404"), "{missing}");
    assert!(missing.contains("There is no such page"), "{missing}");
    assert!(web.stop().await.success());

    // A host that keeps the server elsewhere says where.
    let other = tempfile::tempdir().unwrap();
    let elsewhere = receive_program(other.path());
    fs::remove_file(program).unwrap();
    let named = elsewhere.to_string_lossy();
    let mut web = Process::start(
        slug.path(),
        &built.processes["web"],
        &[("FLYNN_STATIC_SERVER", &named)],
    );
    assert!(web.get("/style.css").await.contains("text/css"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_site_at_the_root_does_not_show_what_is_for_the_platform() {
    let mut workshop = Workshop::new();
    workshop
        .file("index.html", "hello")
        .file("Staticfile", "# here\n")
        .file("public/image.txt", "image");
    workshop.build().await.unwrap();
    let slug = workshop.unpack();
    let site = slug.path().join(".flynn/site");
    assert!(site.join("index.html").is_file());
    assert!(site.join("public/image.txt").is_file());
    assert!(!site.join("Staticfile").exists());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_tcp_echo_app_runs_as_it_is() {
    let mut workshop = Workshop::of_sample("tcp-echo");
    let built = workshop.build().await.unwrap();
    assert_eq!(built.kind, "Procfile");
    let slug = workshop.unpack();
    let mut echo = Process::start(slug.path(), &built.processes["echo"], &[]);
    let mut stream = BufReader::new(echo.connect().await);
    stream.write_all(b"ping\r\n").await.unwrap();
    let mut line = String::new();
    timeout(PATIENCE, stream.read_line(&mut line))
        .await
        .unwrap()
        .unwrap();
    assert_eq!(line, "ping (host-job)\n");
    assert!(echo.stop().await.success());
}

#[tokio::test]
async fn a_bad_procfile_is_refused_before_anything_is_built() {
    let mut workshop = Workshop::new();
    workshop.file("Procfile", "# nothing yet\n");
    assert_eq!(
        workshop.refusal().await,
        "Procfile has no process type; write a line such as `web: ./server`"
    );
    assert_eq!(workshop.output, "");
}

#[tokio::test]
async fn source_of_no_known_kind_is_refused_with_what_would_be_known() {
    let mut workshop = Workshop::new();
    workshop.file("main.c", "int main(void) {}");
    let why = workshop.refusal().await;
    assert!(
        why.contains("(asked: python, node, static, procfile)"),
        "{why}"
    );
    assert!(why.contains("add a requirements.txt"), "{why}");
}

#[tokio::test]
async fn an_app_without_any_process_type_is_refused() {
    let mut workshop = Workshop::new();
    workshop.file("requirements.txt", "").file("lib.py", "");
    let why = workshop.refusal().await;
    assert!(why.contains("add a Procfile"), "{why}");
}

#[tokio::test]
async fn a_program_that_cannot_be_run_is_named() {
    let mut workshop = Workshop::new();
    workshop.file("Procfile", "web: ./server --now\n");
    let why = workshop.refusal().await;
    assert_eq!(
        why,
        "the procfile build failed (exit status 1): its last lines above say why"
    );
    assert!(
        workshop
            .output
            .contains("runs ./server, which is not in the repository")
    );
    workshop.file("server", "#!/bin/sh\n");
    workshop.refusal().await;
    assert!(
        workshop
            .output
            .contains("git update-index --chmod=+x ./server")
    );
}

#[tokio::test]
async fn a_language_that_the_host_lacks_is_one_clear_line() {
    // A PATH with what scripts need, and no language.
    let tools = tempfile::tempdir().unwrap();
    for tool in ["sh", "cat", "grep", "env"] {
        let path = std::env::var("PATH")
            .unwrap()
            .split(':')
            .map(|dir| Path::new(dir).join(tool))
            .find(|path| path.is_file())
            .unwrap();
        std::os::unix::fs::symlink(path, tools.path().join(tool)).unwrap();
    }
    for (file, text, expected) in [
        (
            "requirements.txt",
            "",
            " !     this host has no python3: install it (apt-get install python3 python3-venv) and push again\n",
        ),
        (
            "package.json",
            "{}",
            " !     this host has no node: install it (apt-get install nodejs npm) and push again\n",
        ),
    ] {
        let mut workshop = Workshop::new();
        workshop.file(file, text);
        let path = tools.path().to_string_lossy().into_owned();
        workshop.env.insert("PATH".to_owned(), path);
        workshop.refusal().await;
        let after = workshop.output.split_once('\n').unwrap().1;
        assert_eq!(after, expected);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_package_that_does_not_exist_fails_the_build_with_pips_words() {
    let mut workshop = Workshop::new();
    workshop
        .file("requirements.txt", "./there-is-no-such-directory\n")
        .file("Procfile", "web: python3 x.py\n");
    let why = workshop.refusal().await;
    assert!(why.contains("exit status 1"), "{why}");
    assert!(
        workshop
            .output
            .contains("pip could not install the packages")
    );
}

#[tokio::test]
async fn buildpacks_find_the_apps_environment_as_files_and_nothing_of_the_platform() {
    let mut workshop = Workshop::new();
    workshop.file("Procfile", "web: ./x\n");
    workshop.with_buildpack("cat \"$3/SETTING\"; echo; env; echo kept > \"$2/kept\"");
    workshop.build().await.unwrap();
    assert!(workshop.output.contains("from the app\n"));
    assert!(!workshop.output.contains("CARGO"), "{}", workshop.output);
    assert!(workshop.dir.path().join("cache/kept").is_file());
}

#[tokio::test]
async fn a_stopped_build_leaves_nothing_running() {
    let mut workshop = Workshop::new();
    workshop.file("Procfile", "web: ./x\n");
    let marker = workshop.dir.path().join("pid");
    workshop.with_buildpack(&format!(
        "sh -c 'echo $$ > {0}.tmp; mv {0}.tmp {0}; exec sleep 1000' & wait",
        marker.display()
    ));
    let cancel = CancellationToken::new();
    let started = marker.clone();
    let canceller = {
        let cancel = cancel.clone();
        tokio::spawn(async move {
            while !started.exists() {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            cancel.cancel();
        })
    };
    let error = workshop.build_unless(&cancel).await.unwrap_err();
    assert!(matches!(error, Error::Stopped { .. }), "{error}");
    canceller.await.unwrap();
    let pid = fs::read_to_string(marker).unwrap();
    let proc = PathBuf::from(format!("/proc/{}/stat", pid.trim()));
    let gone = async {
        // A killed process may stay for a moment, as a zombie.
        while fs::read_to_string(&proc).is_ok_and(|stat| !stat.contains(") Z")) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(PATIENCE, gone)
        .await
        .expect("the sleeper is killed");
}

#[tokio::test]
async fn a_build_that_takes_too_long_is_stopped() {
    let mut workshop = Workshop::new();
    workshop.file("Procfile", "web: ./x\n");
    workshop.with_buildpack("exec sleep 1000");
    workshop.timeout = Duration::from_millis(300);
    assert_eq!(
        workshop.refusal().await,
        "the own build did not end in time and was stopped"
    );
}

#[tokio::test]
async fn what_slugignore_names_is_left_out() {
    let mut workshop = Workshop::new();
    workshop
        .file("Procfile", "web: ./server\n")
        .file("server", "#!/bin/sh\n")
        .file("docs/manual.txt", "long")
        .file(".git/config", "secret")
        .file("note.tmp", "x")
        .file(".slugignore", "docs/\n*.tmp\n");
    let server = workshop.source.join("server");
    fs::set_permissions(server, fs::Permissions::from_mode(0o755)).unwrap();
    workshop.build().await.unwrap();
    let slug = workshop.unpack();
    for absent in ["docs", ".git", "note.tmp"] {
        assert!(!slug.path().join(absent).exists(), "{absent}");
    }
    assert!(slug.path().join("Procfile").exists());
}

#[tokio::test]
async fn a_slug_that_would_be_too_large_is_refused() {
    let workshop = Workshop::new();
    workshop.file("Procfile", "web: sleep 1\n").file(
        "noise",
        &(0..20_000)
            .map(|n| format!("{:x} ", n * 7919))
            .collect::<String>(),
    );
    let scratch = tempfile::tempdir().unwrap();
    let build = Build::new(
        &workshop.source,
        scratch.path().join("c"),
        scratch.path(),
        env(),
    )
    .with_slug_limit(1000);
    let (console, _written) = Console::new();
    let error = build
        .run(&workshop.slug(), &console, &CancellationToken::new())
        .await
        .unwrap_err();
    assert!(error.to_string().contains(".slugignore"), "{error}");
}

/// What a process line becomes: signals must reach the program itself.
#[tokio::test]
async fn the_runner_becomes_the_program_whatever_the_line_looks_like() {
    let mut workshop = Workshop::new();
    workshop
        .file("Procfile", "web: ./server\n")
        .file("server", "#!/bin/sh\n")
        .file(".profile.d/own.sh", "export FROM_PROFILE=yes\n");
    let server = workshop.source.join("server");
    fs::set_permissions(server, fs::Permissions::from_mode(0o755)).unwrap();
    workshop.build().await.unwrap();
    let slug = workshop.unpack();
    let run = async |args: &[&str]| {
        let output = tokio::process::Command::new("/bin/sh")
            .arg(slug.path().join(".flynn/run"))
            .args(args)
            .current_dir("/")
            .output()
            .await
            .unwrap();
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        (output.status.code(), said.trim().to_owned())
    };
    let home = fs::canonicalize(slug.path()).unwrap();
    let home = home.to_string_lossy();
    assert_eq!(
        run(&["echo $FROM_PROFILE $HOME"]).await.1,
        format!("yes {home}")
    );
    assert_eq!(run(&["A='b c' printenv A"]).await.1, "b c");
    assert_eq!(run(&["true && echo two; echo three"]).await.1, "two\nthree");
    assert_eq!(run(&["exec echo x"]).await.1, "x");
    assert_eq!(run(&["printenv", "FROM_PROFILE"]).await.1, "yes");
    assert_eq!(run(&["echo", "$HOME"]).await.1, "$HOME");
    assert_eq!(run(&["sh -c 'exit 7'"]).await.0, Some(7));
    assert_eq!(run(&["no-such-program"]).await.0, Some(127));
}
