//! `flynn`: the users' command line, a client of the controller's API.

mod app;
mod args;
pub mod config;
mod context;
mod env;
mod follow;
mod job;
mod key;
pub(crate) mod output;
mod release;
mod route;
mod scale;

use std::process::ExitCode;

use anyhow::Result;
use clap::Parser as _;

pub(crate) use self::context::client;
use self::{
    args::{Cli, ClusterCommand, Command},
    config::{Cluster, Config},
    context::Context,
    output::{Format, table},
};
use crate::program;

/// Runs the command line.
#[must_use]
pub fn main() -> ExitCode {
    program::command("flynn", run(Cli::parse()))
}

/// Carries out a command; the exit status is that of the job for `flynn run`.
async fn run(cli: Cli) -> Result<ExitCode> {
    let format = if cli.json { Format::Json } else { Format::Text };
    let context = Context::new(cli.app, cli.cluster, format)?;
    match cli.command {
        Command::Create { name, remote, yes } => app::create(&context, name, &remote, yes).await,
        Command::Apps => app::list(&context).await,
        Command::Info => app::info(&context).await,
        Command::Delete { yes, remote } => app::delete(&context, yes, &remote).await,
        Command::Remote(command) => app::remote(&context, &command).await,
        Command::Key { command } => key::run(&context, command).await,
        Command::Env {
            process_type,
            command,
        } => env::run(&context, process_type.as_deref(), command).await,
        Command::Scale(args) => scale::run(&context, args).await,
        Command::Ps {
            all,
            quiet,
            process_type,
        } => job::list(&context, all, quiet, process_type.as_deref()).await,
        Command::Log(args) => job::log(&context, args).await,
        Command::Run(args) => return job::run(&context, args).await,
        Command::Kill { jobs } => job::kill(&context, &jobs).await,
        Command::Route { command } => route::run(&context, command).await,
        Command::Release { command } => release::run(&context, command).await,
        Command::Deployment { command } => release::deployments(&context, command).await,
        Command::Cluster { command } => clusters(format, command),
        Command::Version => {
            output::line(concat!("flynn ", env!("CARGO_PKG_VERSION")));
            Ok(())
        }
    }
    .map(|()| ExitCode::SUCCESS)
}

fn clusters(format: Format, command: Option<ClusterCommand>) -> Result<()> {
    let path = Config::path()?;
    let mut config = Config::load(&path)?;
    match command.unwrap_or(ClusterCommand::List) {
        ClusterCommand::List => {
            let shown: Vec<_> = config
                .clusters
                .iter()
                .map(|cluster| {
                    serde_json::json!({
                        "name": cluster.name,
                        "controller_url": cluster.controller_url,
                        "git_url": cluster.git_url,
                        "default": config.default.as_ref() == Some(&cluster.name),
                    })
                })
                .collect();
            return format.print(&shown, |_| {
                table(
                    ["NAME", "CONTROLLER URL", "GIT URL", ""],
                    config.clusters.iter().map(|cluster| {
                        let default = if config.default.as_ref() == Some(&cluster.name) {
                            "(default)"
                        } else {
                            ""
                        };
                        [
                            cluster.name.clone(),
                            cluster.controller_url.clone(),
                            cluster.git_url.clone(),
                            default.to_owned(),
                        ]
                    }),
                )
            });
        }
        ClusterCommand::Add {
            name,
            domain,
            key,
            default,
            force,
            git_url,
            addresses,
        } => {
            let controller_url = if domain.contains("://") {
                domain
            } else {
                format!("http://controller.{domain}")
            };
            let mut cluster = Cluster {
                name: name.clone(),
                key,
                controller_url,
                git_url: String::new(),
                addresses,
            };
            cluster.git_url =
                git_url.unwrap_or_else(|| format!("ssh://git@git.{}:2222", cluster.domain().0));
            config.add(cluster, force, default)?;
            config.save(&path)?;
            output::note(&format!("Cluster {name} added."));
        }
        ClusterCommand::Remove { name } => {
            config.remove(&name)?;
            config.save(&path)?;
            output::note(&format!("Cluster {name} removed."));
        }
        ClusterCommand::Default { name: Some(name) } => {
            config.set_default(&name)?;
            config.save(&path)?;
            output::note(&format!("{name} is now the default cluster."));
        }
        ClusterCommand::Default { name: None } => {
            let name = config.cluster(None)?.name.clone();
            return format.print(&name, Clone::clone);
        }
    }
    Ok(())
}
