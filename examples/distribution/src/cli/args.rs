//! The command line of `flynn`.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

/// Deploy and run apps on a Flynn cluster.
#[derive(Debug, Parser)]
#[command(
    name = "flynn",
    version,
    propagate_version = true,
    arg_required_else_help = true
)]
pub(crate) struct Cli {
    /// The app, or the git remote that names it.
    #[arg(short, long, global = true, env = "FLYNN_APP", value_name = "APP")]
    pub(crate) app: Option<String>,
    /// The cluster, one of `flynn cluster`.
    #[arg(
        short,
        long,
        global = true,
        env = "FLYNN_CLUSTER",
        value_name = "CLUSTER"
    )]
    pub(crate) cluster: Option<String>,
    /// Print JSON.
    #[arg(long, global = true)]
    pub(crate) json: bool,
    /// What to do.
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// What `flynn` can do.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Create an app and a git remote to push it to.
    Create {
        /// The app's name; one is made up if it is left out.
        name: Option<String>,
        /// The git remote to add; an empty one adds none.
        #[arg(short, long, default_value = "flynn")]
        remote: String,
        /// Replace a git remote of that name without asking.
        #[arg(short, long)]
        yes: bool,
    },
    /// List the apps.
    Apps,
    /// Show where an app is pushed to and answers.
    Info,
    /// Delete an app with its routes and releases.
    Delete {
        /// Do not ask.
        #[arg(short, long)]
        yes: bool,
        /// The git remote to remove too.
        #[arg(short, long, default_value = "flynn")]
        remote: String,
    },
    /// Manage git remotes.
    #[command(subcommand)]
    Remote(RemoteCommand),
    /// Manage the SSH keys that may push.
    Key {
        /// What to do; list if it is left out.
        #[command(subcommand)]
        command: Option<KeyCommand>,
    },
    /// Show or change the environment of an app: each change makes a release and deploys it.
    Env {
        /// Of one process type only.
        #[arg(short = 't', long, global = true, value_name = "TYPE")]
        process_type: Option<String>,
        /// What to do; list if it is left out.
        #[command(subcommand)]
        command: Option<EnvCommand>,
    },
    /// Show or change how many jobs of each process type run.
    Scale(ScaleArgs),
    /// List the jobs of an app.
    Ps {
        /// Those that have ended too.
        #[arg(short = 'A', long)]
        all: bool,
        /// Only the ids.
        #[arg(short, long)]
        quiet: bool,
        /// Of one process type only.
        #[arg(short = 't', long, value_name = "TYPE")]
        process_type: Option<String>,
    },
    /// Show the log of an app.
    Log(LogArgs),
    /// Run a command in the environment of an app, attached to this terminal.
    Run(RunArgs),
    /// Stop jobs; a formation that still wants them starts others.
    Kill {
        /// Their ids, as `flynn ps` shows them.
        #[arg(required = true, value_name = "JOB")]
        jobs: Vec<String>,
    },
    /// Manage the routes that lead to an app.
    Route {
        /// What to do; list if it is left out.
        #[command(subcommand)]
        command: Option<RouteCommand>,
    },
    /// Show, roll back or remove releases.
    Release {
        /// What to do; list if it is left out.
        #[command(subcommand)]
        command: Option<ReleaseCommand>,
    },
    /// Show deployments and how they are made.
    Deployment {
        /// What to do; list if it is left out.
        #[command(subcommand)]
        command: Option<DeploymentCommand>,
    },
    /// Manage the clusters this CLI knows.
    Cluster {
        /// What to do; list if it is left out.
        #[command(subcommand)]
        command: Option<ClusterCommand>,
    },
    /// Show the version.
    Version,
}

/// `flynn remote …`
#[derive(Debug, Subcommand)]
pub(crate) enum RemoteCommand {
    /// Add a git remote for the app.
    Add {
        /// Its name.
        #[arg(default_value = "flynn")]
        remote: String,
        /// Replace one of that name without asking.
        #[arg(short, long)]
        yes: bool,
    },
}

/// `flynn key …`
#[derive(Debug, Subcommand)]
pub(crate) enum KeyCommand {
    /// Let the holder of a key push.
    Add {
        /// The public key's file; the first of ~/.ssh/id_*.pub if it is left out.
        file: Option<PathBuf>,
    },
    /// List the keys.
    List,
    /// Take the right away again.
    Remove {
        /// The key's id, as `flynn key list` shows it.
        id: String,
    },
}

/// `flynn env …`
#[derive(Debug, Subcommand)]
pub(crate) enum EnvCommand {
    /// Print one variable.
    Get {
        /// Its name.
        name: String,
    },
    /// Set variables.
    Set {
        /// `NAME=VALUE` each.
        #[arg(required = true, value_name = "NAME=VALUE")]
        vars: Vec<String>,
    },
    /// Remove variables.
    Unset {
        /// Their names.
        #[arg(required = true, value_name = "NAME")]
        names: Vec<String>,
    },
}

/// `flynn scale …`
#[derive(Debug, Args)]
pub(crate) struct ScaleArgs {
    /// How many of each: `web=3`; types that are not named stay as they are.
    #[arg(value_name = "TYPE=N")]
    pub(crate) types: Vec<String>,
    /// Do not wait until the jobs have changed.
    #[arg(short, long)]
    pub(crate) no_wait: bool,
    /// Of this release instead of the current one.
    #[arg(short, long)]
    pub(crate) release: Option<String>,
    /// Show all releases that run.
    #[arg(short = 'A', long)]
    pub(crate) all: bool,
}

/// `flynn log …`
#[derive(Debug, Args)]
pub(crate) struct LogArgs {
    /// Go on as more is written.
    #[arg(short, long)]
    pub(crate) follow: bool,
    /// Of one job only.
    #[arg(short, long)]
    pub(crate) job: Option<String>,
    /// Begin with so many lines of each job.
    #[arg(short = 'n', long, value_name = "N")]
    pub(crate) number: Option<usize>,
    /// Without time and source.
    #[arg(short, long)]
    pub(crate) raw_output: bool,
    /// What was written to standard error on standard error.
    #[arg(short, long)]
    pub(crate) split_stderr: bool,
    /// Of one process type only.
    #[arg(short = 't', long, value_name = "TYPE")]
    pub(crate) process_type: Option<String>,
}

/// `flynn run …`
#[derive(Debug, Args)]
pub(crate) struct RunArgs {
    /// Do not attach: print the job's id and return.
    #[arg(short, long)]
    pub(crate) detached: bool,
    /// In this release instead of the current one.
    #[arg(short, long)]
    pub(crate) release: Option<String>,
    /// The command.
    #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true)]
    pub(crate) command: Vec<String>,
}

/// `flynn route …`
#[derive(Debug, Subcommand)]
pub(crate) enum RouteCommand {
    /// List the routes.
    List,
    /// Add a route.
    #[command(subcommand)]
    Add(RouteAdd),
    /// Remove a route.
    Remove {
        /// Its id, as `flynn route` shows it: `http/…` or `tcp/…`.
        id: String,
    },
}

/// `flynn route add …`
#[derive(Debug, Subcommand)]
pub(crate) enum RouteAdd {
    /// By domain, and path if there is one.
    Http {
        /// `domain` or `domain/path`.
        domain: String,
        /// The service; `<app>-web` if it is left out.
        #[arg(short, long)]
        service: Option<String>,
        /// Keep a client with one backend by a cookie.
        #[arg(long)]
        sticky: bool,
        /// Only to the service's leader.
        #[arg(long)]
        leader: bool,
        /// Do not wait for a stopping job's open requests.
        #[arg(long)]
        no_drain_backends: bool,
        /// A new connection to the backend for each request.
        #[arg(long)]
        disable_keep_alives: bool,
    },
    /// By port.
    Tcp {
        /// The service; `<app>-web` if it is left out.
        #[arg(short, long)]
        service: Option<String>,
        /// The port; a free one of 3000 to 3500 if it is left out.
        #[arg(short, long)]
        port: Option<u16>,
        /// Only to the service's leader.
        #[arg(long)]
        leader: bool,
        /// Do not wait for a stopping job's open connections.
        #[arg(long)]
        no_drain_backends: bool,
    },
}

/// `flynn release …`
#[derive(Debug, Subcommand)]
pub(crate) enum ReleaseCommand {
    /// List the releases, the newest first.
    List,
    /// Show one.
    Show {
        /// Its id; the current one if it is left out.
        id: Option<String>,
    },
    /// Deploy an earlier release again.
    Rollback {
        /// Its id; the one before the current one if it is left out.
        id: Option<String>,
        /// Do not ask.
        #[arg(short, long)]
        yes: bool,
    },
    /// Remove a release that is not the current one.
    Delete {
        /// Its id.
        id: String,
        /// Do not ask.
        #[arg(short, long)]
        yes: bool,
    },
}

/// `flynn deployment …`
#[derive(Debug, Subcommand)]
pub(crate) enum DeploymentCommand {
    /// List the deployments, the newest first.
    List,
    /// Show or set how long a step of a deployment may take.
    Timeout {
        /// In seconds.
        seconds: Option<i32>,
    },
    /// Show or set how a deployment goes: all-at-once, one-by-one or in-batches.
    Strategy {
        /// Its name.
        name: Option<String>,
    },
    /// Show or set how many jobs are replaced at a time by in-batches.
    BatchSize {
        /// How many.
        size: Option<u32>,
    },
}

/// `flynn cluster …`
#[derive(Debug, Subcommand)]
pub(crate) enum ClusterCommand {
    /// List the clusters.
    List,
    /// Add a cluster.
    Add {
        /// What to call it.
        name: String,
        /// Its domain, or the controller's URL.
        domain: String,
        /// The controller's key.
        key: String,
        /// Make it the default.
        #[arg(short, long)]
        default: bool,
        /// Replace one of that name.
        #[arg(short, long)]
        force: bool,
        /// Where apps are pushed to; `ssh://git@git.<domain>:2222` if it is left out.
        #[arg(short, long)]
        git_url: Option<String>,
        /// The routers' addresses (`host:port`), where the domain has none of its own.
        #[arg(long, value_delimiter = ',', value_name = "HOST:PORT")]
        addresses: Vec<String>,
    },
    /// Forget a cluster.
    Remove {
        /// Its name.
        name: String,
    },
    /// Show or set the default.
    Default {
        /// Its name.
        name: Option<String>,
    },
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn the_original_s_spellings_are_understood() {
        for line in [
            "flynn -a x scale web=2 worker=1",
            "flynn create -y -r origin x",
            "flynn env set A=1 B=2",
            "flynn env -t web unset A",
            "flynn run -d -- sh -c true",
            "flynn run ls -la",
            "flynn route add http -s x-web --sticky example.com/path",
            "flynn route add tcp -p 3000",
            "flynn release rollback -y",
            "flynn log -f -n 10 -t web",
            "flynn cluster add -d -f prod example.com key",
            "flynn key",
        ] {
            Cli::try_parse_from(line.split(' ')).unwrap_or_else(|error| panic!("{line}: {error}"));
        }
    }
}
