//! `make demo`: the whole idea on real input. Three hosts boot, apps are pushed, one is scaled, a whole host is killed under load,
//! the power goes, and a table says how long each took.

mod dead_host;
mod looking;
mod pushing;
mod table;

use std::{env, fs, path::PathBuf, process::ExitCode, time::Duration};

use anyhow::{Context as _, Result, ensure};
use tokio::{process::Command, time::Instant};

use self::{
    dead_host::kill_a_host,
    looking::{flynn_json, hosts_up, inventory},
    pushing::{make_ssh_key, push},
    table::Table,
};
use crate::testbed::{self, Testbed, TestbedOptions, eventually, load};

/// How the demo is run.
#[derive(Debug, clap::Parser)]
#[command(
    name = "flynn-demo",
    about = "Boots three hosts on this machine and shows what Flynn does"
)]
pub struct Options {
    /// Stop everything at the end, and fail if anything fell short.
    #[arg(long)]
    once: bool,
    /// Stop the cluster that an earlier run left running, and do nothing else.
    #[arg(long)]
    stop: bool,
    /// Where the sample apps are.
    #[arg(long, default_value = "examples/apps")]
    apps: PathBuf,
    /// Where the buildpacks are.
    #[arg(long, default_value = "flynn-receive/buildpacks")]
    buildpacks: PathBuf,
    /// Where the cluster lives.
    #[arg(long, default_value = "target/demo")]
    dir: PathBuf,
    /// Where the table is written as JSON.
    #[arg(long, default_value = "target/demo.json")]
    table: PathBuf,
    /// The router's port on each host.
    #[arg(long, default_value_t = 8080)]
    http_port: u16,
    /// The SSH port on each host.
    #[arg(long, default_value_t = 2222)]
    ssh_port: u16,
}

/// The sample apps, in the order they are pushed, with the process type that is scaled.
const APPS: [(&str, &str); 4] = [
    ("python-web", "web"),
    ("node-web", "web"),
    ("static-site", "web"),
    ("tcp-echo", "echo"),
];
/// How many copies of the first app stand against the death of a host.
const COPIES: usize = 3;
/// What the issue of this demo promises; a run that misses it fails with `--once`.
const FIRST_ANSWER_LIMIT_S: f64 = 10.0;

/// Runs the demo.
pub async fn run(options: Options) -> ExitCode {
    match demo(&options).await {
        Ok(shortfalls) if shortfalls.is_empty() => ExitCode::SUCCESS,
        Ok(shortfalls) => {
            for shortfall in shortfalls {
                say(&format!("fell short: {shortfall}"));
            }
            ExitCode::FAILURE
        }
        Err(error) => {
            say(&format!("failed: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

async fn demo(options: &Options) -> Result<Vec<String>> {
    fs::create_dir_all(&options.dir)?;
    let dir = fs::canonicalize(&options.dir)?;
    let left: Vec<PathBuf> = (1..=3).map(|n| dir.join(format!("host{n}"))).collect();
    if !testbed::processes_of(&left).is_empty() {
        say("stopping the cluster of an earlier run");
        testbed::kill_all(&left).await?;
    }
    if options.stop {
        say(&format!(
            "nothing runs any more; what it left on disk is in {}",
            dir.display()
        ));
        return Ok(Vec::new());
    }
    fs::remove_dir_all(&dir)?;
    fs::create_dir_all(&dir)?;

    let mut bed = Testbed::open(TestbedOptions {
        dir: dir.clone(),
        bin_dir: env::current_exe()?
            .parent()
            .context("a program lies in a directory")?
            .to_owned(),
        network: [127, 0, 0],
        hosts: 3,
        http_port: options.http_port,
        ssh_port: options.ssh_port,
        domain: "flynn.localhost".to_owned(),
    })?;
    let outcome = show(&mut bed, options).await;
    if let Err(error) = &outcome {
        say(&format!(
            "the hosts' logs are {}/host*/daemon.log",
            dir.display()
        ));
        // With --once the reason must survive the cleaning up, so it is said before.
        say(&format!("{error:#}"));
    }
    if options.once {
        bed.stop_all().await?;
    } else if outcome.is_ok() {
        farewell(&bed, options);
        let _dir = bed.leave_running();
    }
    outcome
}

async fn show(bed: &mut Testbed, options: &Options) -> Result<Vec<String>> {
    let mut table = Table::new();
    let mut shortfalls = Vec::new();
    table.seconds("build_s", "build", build_seconds());

    // One command boots it.
    say("booting three hosts on 127.0.0.1, 127.0.0.2 and 127.0.0.3");
    let started = Instant::now();
    bed.start_all()?;
    bootstrap(bed, options).await?;
    table.seconds(
        "bootstrap_s",
        "hosts up, platform bootstrapped",
        seconds(started),
    );
    let addrs = bed.router_addrs();
    let controller = format!("controller.{}", bed.domain());
    eventually(
        "the controller to answer through the router",
        Duration::from_secs(30),
        || async {
            let (status, body) = load::get(&addrs, &controller, "/ping").await?;
            ensure!(
                status == 200,
                "status {status}: {}",
                String::from_utf8_lossy(&body)
            );
            Ok(())
        },
    )
    .await?;
    let first_answer = seconds(started);
    table.seconds(
        "first_answer_s",
        "first answer through the router",
        first_answer,
    );
    if first_answer > FIRST_ANSWER_LIMIT_S {
        shortfalls.push(format!(
            "the first answer took {first_answer:.1} s, more than {FIRST_ANSWER_LIMIT_S} s"
        ));
    }

    // One git push goes live.
    let key = make_ssh_key(bed).await?;
    flynn(
        bed,
        &[
            "key",
            "add",
            key.with_extension("pub")
                .to_str()
                .context("a readable path")?,
        ],
    )
    .await?;
    for (app, _) in APPS {
        let took = push(bed, options, app, &key).await?;
        table.push(app, took);
    }
    for (app, _) in APPS.iter().filter(|(_, process)| *process == "web") {
        let host = format!("{app}.{}", bed.domain());
        eventually(
            &format!("{app} to answer"),
            Duration::from_secs(10),
            || async {
                let (status, body) = load::get(&addrs, &host, "/").await?;
                ensure!(
                    status == 200 && !body.is_empty(),
                    "status {status}: {}",
                    String::from_utf8_lossy(&body)
                );
                Ok(())
            },
        )
        .await?;
    }
    let echo = echo_through_tcp_route(bed).await?;
    say(&format!("tcp-echo answered {echo:?} through its TCP route"));

    // Scale.
    let (app, process) = APPS[0];
    let started = Instant::now();
    flynn(bed, &["-a", app, "scale", &format!("{process}={COPIES}")]).await?;
    table.seconds(
        "scale_s",
        &format!("{app} scaled to {COPIES}"),
        seconds(started),
    );
    let before = inventory(bed).await?;

    // One dead host goes unnoticed.
    shortfalls.extend(kill_a_host(bed, app, &mut table).await?);
    bed.start_all()?;
    eventually(
        "the killed host to be back in the cluster",
        Duration::from_secs(30),
        || hosts_up(bed, 3),
    )
    .await?;

    // A power cut.
    say("cutting the power of all three hosts (kill -9), then starting them");
    bed.cut_power(&[0, 1, 2]).await?;
    let started = Instant::now();
    bed.start_all()?;
    eventually(
        "everything to be as before the power cut",
        Duration::from_secs(60),
        || async {
            let after = inventory(bed).await?;
            ensure!(after == before, "{after} is not {before}");
            let (status, _) = load::get(&addrs, &format!("{app}.{}", bed.domain()), "/").await?;
            ensure!(status == 200, "the app answers {status}");
            Ok(())
        },
    )
    .await?;
    table.seconds(
        "powercut_recovered_s",
        "back after a power cut of all hosts",
        seconds(started),
    );

    let dirs: Vec<PathBuf> = bed
        .hosts()
        .iter()
        .map(|host| host.data_dir.clone())
        .collect();
    table.memory(&testbed::rss_by_program(&dirs), bed.hosts().len());
    table.print();
    table.write(&options.table)?;
    Ok(shortfalls)
}

async fn bootstrap(bed: &Testbed, options: &Options) -> Result<()> {
    let buildpacks = fs::canonicalize(&options.buildpacks)
        .with_context(|| format!("the buildpacks are not in {}", options.buildpacks.display()))?;
    let mut command = Command::new(bed.bin("flynn-host"));
    command
        .arg("bootstrap")
        .arg("--data-dir")
        .arg(&bed.hosts()[0].data_dir)
        .args(["--min-hosts", "3", "--domain", bed.domain()])
        .arg("--http-port")
        .arg(options.http_port.to_string())
        .arg("--ssh-port")
        .arg(options.ssh_port.to_string())
        .arg("--buildpacks")
        .arg(buildpacks)
        .env("FLYNNRC", bed.flynnrc())
        .kill_on_drop(true);
    let status = command.status().await?;
    ensure!(status.success(), "flynn-host bootstrap ended with {status}");
    Ok(())
}

async fn echo_through_tcp_route(bed: &Testbed) -> Result<String> {
    use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _};
    let route = flynn_json(
        bed,
        &[
            "-a",
            "tcp-echo",
            "route",
            "add",
            "tcp",
            "-s",
            "tcp-echo-echo",
        ],
    )
    .await?;
    let port = route["port"].as_u64().context("a TCP route has a port")?;
    let addr = format!("{}:{port}", bed.hosts()[0].addr);
    eventually(
        "the TCP route to answer",
        Duration::from_secs(10),
        || async {
            let mut stream =
                tokio::io::BufReader::new(tokio::net::TcpStream::connect(&addr).await?);
            stream.write_all(b"hello\n").await?;
            let mut answer = String::new();
            tokio::time::timeout(Duration::from_secs(2), stream.read_line(&mut answer)).await??;
            ensure!(answer.contains("hello"), "it said {answer:?}");
            Ok(answer.trim().to_owned())
        },
    )
    .await
}

async fn flynn(bed: &Testbed, args: &[&str]) -> Result<()> {
    say(&format!("flynn {}", args.join(" ")));
    let status = bed.flynn().args(args).status().await?;
    ensure!(
        status.success(),
        "flynn {} ended with {status}",
        args.join(" ")
    );
    Ok(())
}

/// The Makefile knows when the build began and ended; a run by hand did not build.
fn build_seconds() -> f64 {
    let at = |name| env::var(name).ok()?.parse::<f64>().ok();
    match (at("FLYNN_BUILD_STARTED"), at("FLYNN_BUILD_FINISHED")) {
        (Some(started), Some(finished)) => finished - started,
        _ => 0.0,
    }
}

fn seconds(since: Instant) -> f64 {
    since.elapsed().as_secs_f64()
}

fn farewell(bed: &Testbed, options: &Options) {
    let (app, _) = APPS[0];
    let domain = bed.domain();
    let port = options.http_port;
    say(&format!(
        "the cluster is still running; try\n\
         \n    curl http://{app}.{domain}:{port}/\
         \n    export FLYNNRC={rc} PATH={bin}:$PATH\
         \n    flynn apps\
         \n    flynn -a {app} ps\
         \n    flynn -a {app} log -f\
         \n    flynn -a {app} scale web=5\
         \n    flynn -a router scale\
         \n    flynn-host list --data-dir {data}\
         \n\
         \nrouters: {routers}\
         \nkey of the controller: the `Key` in {rc}\
         \nstop it with `make stop`; everything it wrote is in {dir}\n",
        rc = bed.flynnrc().display(),
        bin = bed.bin("").display(),
        data = bed.hosts()[0].data_dir.display(),
        routers = bed.router_addrs().join(" "),
        dir = bed.dir().display(),
    ));
}

#[expect(clippy::print_stdout, reason = "the demo talks to a person")]
fn say(text: &str) {
    println!("demo: {text}");
}
