//! `flynn-host`: the command line of the daemon and of operators.

use std::{net::IpAddr, path::PathBuf, process::ExitCode, time::Duration};

use anyhow::{Context as _, Result, ensure};
use clap::{Parser, Subcommand};
use flynn_sched::HostId;

use crate::{
    bootstrap,
    cli::output::{Format, line, note},
    daemon,
    operator::{Operator, what_if},
    program,
    settings::{self, Settings},
};

/// Run a host of a Flynn cell, and look after the cell.
#[derive(Debug, Parser)]
#[command(name = "flynn-host", version, arg_required_else_help = true)]
struct Cli {
    /// Where this host keeps everything.
    #[arg(
        long,
        global = true,
        env = "FLYNN_DATA_DIR",
        default_value = "/var/lib/flynn"
    )]
    data_dir: PathBuf,
    /// Print JSON.
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Make this machine a host: write its settings and the cluster's token into the data directory.
    Init {
        /// The host's id: letters and digits.
        #[arg(long)]
        id: HostId,
        /// The address it listens on and is reached at.
        #[arg(long)]
        addr: IpAddr,
        /// The voters of the cell's store, `ID=ADDRESS` each; this host alone if it is left out.
        #[arg(long)]
        voters: Option<String>,
        /// The cell's name.
        #[arg(long, default_value = "default")]
        cell: String,
        /// The file with the cluster's token, copied from another host; a new token is made if it is left out.
        #[arg(long)]
        token_file: Option<PathBuf>,
        /// Labels that constraints refer to: `KEY=VALUE`.
        #[arg(long = "tag", value_name = "KEY=VALUE")]
        tags: Vec<String>,
        /// The failure domain this host stands in.
        #[arg(long)]
        zone: Option<String>,
    },
    /// Run the host: its member of the store, its jobs, its APIs.
    Daemon,
    /// Make a platform of running hosts.
    Bootstrap(bootstrap::Options),
    /// List the hosts.
    List,
    /// List the jobs of all hosts.
    Ps {
        /// Those that have ended too.
        #[arg(short = 'A', long)]
        all: bool,
    },
    /// Print the whole cell as JSON, without the jobs' environments and commands.
    Cell,
    /// Show what would happen if: `lose zone b`, `drain host h1`, `add 10 hosts like h1`, `scale shop.web to 200`, ….
    WhatIf {
        /// What comes true, in this order; several in one argument are separated by `;`.
        #[arg(required = true)]
        hypotheses: Vec<String>,
        /// Look at what `flynn-host cell` printed to this file, not at the cell that runs.
        #[arg(long)]
        cell: Option<PathBuf>,
    },
    /// Show a job's log.
    Log {
        /// Its id.
        job: String,
        /// Go on as more is written.
        #[arg(short, long)]
        follow: bool,
        /// Begin with so many lines.
        #[arg(short = 'n', long)]
        lines: Option<usize>,
    },
    /// Stop jobs; a group that still wants them gets others.
    Stop {
        /// Their ids.
        #[arg(required = true)]
        jobs: Vec<String>,
    },
    /// Have a host's jobs run elsewhere and place no more on it, until `undrain`; wait until it has none.
    ///
    /// Services move within what their groups can spare. The host stays in the cell, and its store's member goes on.
    Drain {
        /// Its id.
        host: HostId,
        /// For how many seconds jobs that end by themselves may go on, before they are run anew elsewhere; to their end
        /// if it is left out.
        #[arg(long, value_name = "SECONDS")]
        deadline: Option<u64>,
        /// Do not wait for its jobs to go.
        #[arg(long)]
        no_wait: bool,
        /// For how many seconds to wait.
        #[arg(long, default_value_t = 600, value_name = "SECONDS")]
        timeout: u64,
    },
    /// Let a drained host have jobs again.
    Undrain {
        /// Its id.
        host: HostId,
    },
    /// Make a host a voter of the store.
    Promote {
        /// Its id.
        host: HostId,
    },
    /// Make a host no longer a voter of the store.
    Demote {
        /// Its id.
        host: HostId,
    },
    /// What a job's shim runs; not for people.
    #[command(hide = true, disable_help_flag = true)]
    JobShim {
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<std::ffi::OsString>,
    },
}

/// Runs the command line.
#[must_use]
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    let format = if cli.json { Format::Json } else { Format::Text };
    match cli.command {
        // Before anything is started: a shim is one small thread.
        Command::JobShim { args } => flynn_host::runtime::process::shim::run(args),
        Command::Daemon => program::service("flynn-host", daemon::run(cli.data_dir)),
        command => program::command("flynn-host", async move {
            operate(cli.data_dir, format, command).await?;
            Ok(ExitCode::SUCCESS)
        }),
    }
}

async fn operate(data_dir: PathBuf, format: Format, command: Command) -> Result<()> {
    let operator = || Operator::open(&data_dir);
    match command {
        Command::Init {
            id,
            addr,
            voters,
            cell,
            token_file,
            tags,
            zone,
        } => {
            let voters = match voters {
                Some(voters) => settings::parse_voters(&voters)?,
                None => std::collections::BTreeMap::from([(id.clone(), addr)]),
            };
            let tags = tags
                .iter()
                .map(|tag| {
                    tag.split_once('=')
                        .map(|(key, value)| (key.to_owned(), value.to_owned()))
                        .with_context(|| format!("{tag:?} is not KEY=VALUE"))
                })
                .collect::<Result<_>>()?;
            ensure!(
                token_file.is_some() || voters.len() == 1 || voters.keys().next() == Some(&id),
                "name the cluster's token with --token-file: copy the file `token` from the data directory of {}",
                voters
                    .keys()
                    .next()
                    .map_or("the first host", |id| id.as_str())
            );
            let token = token_file
                .as_deref()
                .map_or_else(|| Ok(settings::new_token()), settings::read_token)?;
            let settings = Settings {
                id,
                addr,
                cell,
                voters,
                tags,
                zone,
                discovery_port: settings::DISCOVERY_PORT,
                raft_port: settings::RAFT_PORT,
                host_port: settings::HOST_PORT,
            };
            settings.create(&data_dir, &token)?;
            note(&format!(
                "Host {} is set up in {}; start it with `flynn-host daemon --data-dir {}`.",
                settings.id,
                data_dir.display(),
                data_dir.display()
            ));
            if token_file.is_none() && settings.voters.len() > 1 {
                note(&format!(
                    "The other hosts need the token in {}.",
                    settings::token_path(&data_dir).display()
                ));
            }
            line(settings.id.as_str());
            Ok(())
        }
        Command::Bootstrap(options) => bootstrap::run(operator()?, options).await,
        Command::List => operator()?.list(format).await,
        Command::Ps { all } => operator()?.ps(all, format).await,
        Command::Cell => operator()?.cell().await,
        Command::WhatIf { hypotheses, cell } => {
            let state = match cell {
                Some(path) => std::sync::Arc::new(what_if::read(&path)?),
                None => operator()?.state().await?,
            };
            what_if::print(&state, &hypotheses, format)
        }
        Command::Log { job, follow, lines } => operator()?.log(&job, lines, follow).await,
        Command::Stop { jobs } => operator()?.stop(&jobs).await,
        Command::Drain {
            host,
            deadline,
            no_wait,
            timeout,
        } => {
            let deadline = deadline.map(Duration::from_secs);
            let patience = (!no_wait).then(|| Duration::from_secs(timeout));
            operator()?.drain(&host, deadline, patience).await
        }
        Command::Undrain { host } => operator()?.undrain(&host).await,
        Command::Promote { host } => operator()?.set_voter(&host, true).await,
        Command::Demote { host } => operator()?.set_voter(&host, false).await,
        Command::Daemon | Command::JobShim { .. } => Ok(()),
    }
}
