//! flynn-router against haproxy and nginx: each with one thread, in front of the same upstream, driven by wrk.
//!
//! `cargo bench -p flynn-benches --bench router`; needs Debian's haproxy, nginx and wrk. Set `FLYNN_BENCH_SECONDS` for
//! longer or shorter rounds.
#![allow(clippy::print_stderr, reason = "a bench talks to its terminal")]

use std::{
    env, fs,
    net::SocketAddr,
    os::unix::fs::PermissionsExt as _,
    path::Path,
    process::{Command, ExitCode, Stdio},
    sync::Arc,
};

use anyhow::{Context as _, Result, bail, ensure};
use flynn_benches::{Metric, Program, Report, free_port, version};
use flynn_discovery::{ServiceName, backend::Condition};
use flynn_router::{Domain, MemoryRouteStore, Route, RouteStore as _, Router, StaticEndpoints};
use tokio::net::TcpListener;

const ROUNDS: usize = 5;

fn main() -> ExitCode {
    let args: Vec<String> = env::args().collect();
    let result = match args.iter().position(|arg| arg == SERVE) {
        Some(i) => serve(&args[i + 1..]),
        None => bench(),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench router: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// The argument that makes this program the router under test: a process of its own, to be weighed apart.
const SERVE: &str = "--serve-router";

/// One worker thread, as the peers have.
fn serve(args: &[String]) -> Result<()> {
    let [listen, upstream] = args else {
        bail!("{SERVE} wants the address to listen on and the upstream's");
    };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let service = ServiceName::parse("upstream")?;
        let routes = MemoryRouteStore::new();
        routes
            .put(
                Route::http(Domain::any(), service.clone()),
                Condition::Absent,
            )
            .await?;
        let endpoints = StaticEndpoints::new().with(service, [upstream.clone()]);
        let router = Router::builder(Arc::new(routes), Arc::new(endpoints)).build()?;
        let listener = TcpListener::bind(listen).await?;
        router.run(vec![listener], std::future::pending()).await;
        Ok(())
    })
}

/// A proxy under test.
struct Proxy {
    name: String,
    addr: SocketAddr,
    program: Program,
}

fn bench() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let upstream = start_upstream(dir.path())?;
    let ours = start_ours(upstream.addr)?;
    let haproxy = start_haproxy(dir.path(), upstream.addr)?;
    let nginx = start_nginx(dir.path(), upstream.addr)?;
    let mut report = Report::new("router");
    let runtime = tokio::runtime::Builder::new_current_thread().build()?;
    runtime.block_on(async {
        for peer in [&haproxy, &nginx] {
            for case in CASES {
                let metrics = case.metrics();
                let ours = async || case.run(&ours);
                report
                    .compare(&peer.name, ROUNDS, &metrics, ours, async || case.run(peer))
                    .await?;
            }
        }
        anyhow::Ok(())
    })?;
    report.write()
}

struct Case {
    name: &'static str,
    path: &'static str,
    connections: u32,
    figures: &'static [Figure],
}

#[derive(Clone, Copy)]
enum Figure {
    PerSecond,
    PerCpuSecond,
    MedianMicros,
    P99Micros,
}

const CASES: &[Case] = &[
    Case {
        name: "1 KiB, 64 connections",
        path: "/1k",
        connections: 64,
        figures: &[Figure::PerSecond, Figure::PerCpuSecond, Figure::P99Micros],
    },
    Case {
        name: "1 KiB, 1 connection",
        path: "/1k",
        connections: 1,
        figures: &[Figure::MedianMicros, Figure::PerCpuSecond],
    },
    Case {
        name: "64 KiB, 64 connections",
        path: "/64k",
        connections: 64,
        figures: &[Figure::PerSecond, Figure::PerCpuSecond],
    },
];

impl Case {
    fn metrics(&self) -> Vec<Metric> {
        let metric = |figure: &Figure| match figure {
            Figure::PerSecond => Metric::higher(self.name, "requests/s"),
            Figure::PerCpuSecond => Metric::higher(self.name, "requests/CPU s of the proxy"),
            Figure::MedianMicros => Metric::lower(format!("{}, median", self.name), "µs"),
            Figure::P99Micros => Metric::lower(format!("{}, p99", self.name), "µs"),
        };
        self.figures.iter().map(metric).collect()
    }

    fn run(&self, proxy: &Proxy) -> Result<Vec<f64>> {
        let seconds = env::var("FLYNN_BENCH_SECONDS").unwrap_or_else(|_| "3".to_owned());
        let before = proxy.program.cpu_seconds()?;
        let output = Command::new("wrk")
            .args(["-t1", "--latency"])
            .arg(format!("-c{}", self.connections))
            .arg(format!("-d{seconds}s"))
            .arg(format!("http://{}{}", proxy.addr, self.path))
            .output()
            .context("could not run wrk: is it installed?")?;
        let cpu = proxy.program.cpu_seconds()? - before;
        let text = String::from_utf8_lossy(&output.stdout);
        let failed = text.contains("Non-2xx") || text.contains("Socket errors");
        ensure!(
            output.status.success() && !failed,
            "{} failed under wrk:\n{text}",
            proxy.name
        );
        let figure = |figure: &Figure| match figure {
            Figure::PerSecond => number(&text, "Requests/sec:"),
            Figure::PerCpuSecond => Ok(number(&text, "requests in")? / cpu),
            Figure::MedianMicros => micros(&text, "50%"),
            Figure::P99Micros => micros(&text, "99%"),
        };
        self.figures.iter().map(figure).collect()
    }
}

/// The number in the line with `label`.
fn number(text: &str, label: &str) -> Result<f64> {
    let line = text.lines().find(|line| line.contains(label));
    let number = line.and_then(|line| line.split_whitespace().find_map(|word| word.parse().ok()));
    number.with_context(|| format!("wrk did not say {label}:\n{text}"))
}

/// The time behind `label` in wrk's distribution of latencies.
fn micros(text: &str, label: &str) -> Result<f64> {
    let line = text
        .lines()
        .find_map(|line| line.trim().strip_prefix(label));
    let time = line
        .with_context(|| format!("wrk did not say {label}:\n{text}"))?
        .trim();
    let units = [("us", 1.0), ("ms", 1e3), ("s", 1e6)];
    let parsed = units.iter().find_map(|(unit, factor)| {
        let number: f64 = time.strip_suffix(unit)?.parse().ok()?;
        Some(number * factor)
    });
    parsed.with_context(|| format!("{time:?} is not a time"))
}

fn start_upstream(dir: &Path) -> Result<Proxy> {
    let files = dir.join("files");
    fs::create_dir(&files)?;
    fs::write(files.join("1k"), vec![b'x'; 1024])?;
    fs::write(files.join("64k"), vec![b'x'; 64 * 1024])?;
    // nginx's workers may run as another user.
    for path in [dir, &files] {
        fs::set_permissions(path, fs::Permissions::from_mode(0o755))?;
    }
    let config = include_str!("router/upstream.conf");
    start("nginx", "-v", dir, config, None, |config| {
        let mut command = Command::new("nginx");
        command.arg("-p").arg(dir).arg("-c").arg(config);
        command
    })
}

fn start_nginx(dir: &Path, upstream: SocketAddr) -> Result<Proxy> {
    let config = include_str!("router/nginx.conf");
    start("nginx", "-v", dir, config, Some(upstream), |config| {
        let mut command = Command::new("nginx");
        command.arg("-p").arg(dir).arg("-c").arg(config);
        command
    })
}

fn start_haproxy(dir: &Path, upstream: SocketAddr) -> Result<Proxy> {
    let config = include_str!("router/haproxy.cfg");
    start("haproxy", "-v", dir, config, Some(upstream), |config| {
        let mut command = Command::new("haproxy");
        command.arg("-db").arg("-f").arg(config);
        command
    })
}

/// Writes a peer's configuration with its port and starts it.
fn start(
    program: &str,
    version_flag: &str,
    dir: &Path,
    config: &str,
    upstream: Option<SocketAddr>,
    command: impl FnOnce(&Path) -> Command,
) -> Result<Proxy> {
    let addr = SocketAddr::from(([127, 0, 0, 1], free_port()?));
    let upstream = upstream.map(|u| u.port().to_string()).unwrap_or_default();
    let config = config
        .replace("@PORT@", &addr.port().to_string())
        .replace("@UPSTREAM@", &upstream)
        .replace("@DIR@", &dir.display().to_string());
    let path = dir.join(format!("{program}-{}.conf", addr.port()));
    fs::write(&path, config)?;
    let mut command = command(&path);
    command.stdout(Stdio::null()).stderr(Stdio::null());
    Ok(Proxy {
        name: version(program, version_flag)?,
        addr,
        program: Program::start(&mut command, addr)?,
    })
}

fn start_ours(upstream: SocketAddr) -> Result<Proxy> {
    let addr = SocketAddr::from(([127, 0, 0, 1], free_port()?));
    let mut command = Command::new(env::current_exe()?);
    command
        .arg(SERVE)
        .arg(addr.to_string())
        .arg(upstream.to_string());
    Ok(Proxy {
        name: "flynn-router".to_owned(),
        addr,
        program: Program::start(&mut command, addr)?,
    })
}
