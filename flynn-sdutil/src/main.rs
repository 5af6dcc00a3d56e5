//! The command line of `flynn_sdutil`.

use std::{ffi::OsString, io::Write, path::PathBuf, process::ExitCode, sync::Arc, time::Duration};

use clap::{ArgAction, Args, Parser, Subcommand};
use flynn_discovery::{Registry, ServiceName, backend::RemoteBackend, http::Secret};
use flynn_sdutil::{
    Address, Announcement, CheckSpec, Dependency, Error, Program, Query, Result, Signals, Target,
    attribute, exec, expose, ping, register, services,
};

/// Plumbs any TCP server into service discovery
#[derive(Debug, Parser)]
#[command(name = "sdutil", version, disable_help_flag = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
    #[command(flatten)]
    discovery: Discovery,
    /// Prints help
    #[arg(long, global = true, action = ArgAction::Help)]
    help: Option<bool>,
}

/// Where the discovery service is.
#[derive(Debug, Args)]
struct Discovery {
    /// URLs of the discovery service, separated by commas
    #[arg(long, global = true, env = "DISCOVERD", default_value = DEFAULT_DISCOVERD)]
    discoverd: String,
    /// A file that holds the cluster's token
    #[arg(long, global = true, value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// The cluster's token
    #[arg(long, env = "FLYNN_CLUSTER_TOKEN", hide = true, hide_env_values = true)]
    token: Option<String>,
}

const DEFAULT_DISCOVERD: &str = "http://127.0.0.1:1111";

#[derive(Debug, Subcommand)]
enum Command {
    /// Runs a program and registers it while it runs: exec -s www:8080 program, or exec www:8080 program
    #[command(disable_help_flag = true)]
    Exec {
        #[command(flatten)]
        instance: InstanceArgs,
        /// A service and the port the program serves it on; may be given several times
        #[arg(short, long = "service", value_name = "NAME:PORT")]
        service: Vec<Target>,
        /// The program and its arguments
        #[arg(trailing_var_arg = true, required = true, value_name = "COMMAND")]
        command: Vec<OsString>,
    },
    /// Registers something that runs already, until interrupted
    #[command(disable_help_flag = true)]
    Register {
        #[command(flatten)]
        instance: InstanceArgs,
        /// The services and their ports
        #[arg(required = true, value_name = "NAME:PORT")]
        service: Vec<Target>,
    },
    /// Prints the addresses of a service, the oldest instance first; waits for one
    #[command(disable_help_flag = true)]
    Services {
        /// Only the first
        #[arg(short = '1')]
        first: bool,
        /// As JSON, with all that is known
        #[arg(long)]
        json: bool,
        /// Only instances with this attribute
        #[arg(short, long = "attribute", value_name = "KEY=VALUE", value_parser = attribute)]
        attributes: Vec<(String, String)>,
        /// How many seconds to wait for one
        #[arg(long, value_name = "SECONDS", default_value_t = Query::TIMEOUT.as_secs())]
        timeout: u64,
        /// The service
        service: ServiceName,
    },
    /// Checks that the discovery service can be reached
    #[command(disable_help_flag = true)]
    Check {
        /// Says nothing; the exit status tells
        #[arg(short)]
        silent: bool,
    },
    /// Runs a program with the addresses of services in its environment, while they have a leader
    #[command(disable_help_flag = true)]
    Expose {
        /// A service the program needs, and the variable that tells where it is (like the service, if not given)
        #[arg(
            short = 'd',
            long = "dependency",
            required = true,
            value_name = "[ENV:]SERVICE"
        )]
        dependencies: Vec<Dependency>,
        /// The program and its arguments
        #[arg(trailing_var_arg = true, required = true, value_name = "COMMAND")]
        command: Vec<OsString>,
    },
}

/// How an instance is registered.
#[derive(Debug, Args)]
struct InstanceArgs {
    /// The host name or address others reach it at
    #[arg(short = 'h', long, value_name = "HOST")]
    host: Option<String>,
    /// The network interface whose address others reach it at
    #[arg(short = 'i', long, value_name = "NAME")]
    interface: Option<String>,
    /// The address of this host, if neither is given
    #[arg(long, env = "EXTERNAL_IP", hide = true)]
    external_ip: Option<String>,
    /// An attribute of the instance; may be given several times
    #[arg(short, long = "attribute", value_name = "KEY=VALUE", value_parser = attribute)]
    attributes: Vec<(String, String)>,
    /// Registers only while this succeeds: tcp, http:/path or exec:command
    #[arg(long, value_name = "CHECK")]
    check: Option<CheckSpec>,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let filter = tracing_subscriber::EnvFilter::try_from_default_env()
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("warn"));
    tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .with_env_filter(filter)
        .without_time()
        .with_target(false)
        .init();
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // Help is not a mistake; for the rest the original's status is 1.
            _ = error.print();
            return ExitCode::from(u8::from(error.use_stderr()));
        }
    };
    let is_silent = matches!(cli.command, Command::Check { silent: true });
    match run(cli).await {
        Ok(status) => ExitCode::from(status),
        Err(error) => {
            if !is_silent {
                _ = writeln!(std::io::stderr(), "sdutil: {error}");
            }
            ExitCode::from(error.exit_status())
        }
    }
}

async fn run(cli: Cli) -> Result<u8> {
    let endpoints = cli.discovery.endpoints();
    let registry = cli.discovery.registry(&endpoints)?;
    match cli.command {
        Command::Exec {
            instance,
            mut service,
            mut command,
        } => {
            if service.is_empty() {
                // The form of 2013: the service comes before the program.
                let first = command.remove(0);
                service.push(first.to_string_lossy().parse()?);
            }
            let program = Program::parse(command)?;
            let announcement = instance.announcement(service, &endpoints)?;
            exec(&registry, &announcement, &program, &mut Signals::catch()?).await
        }
        Command::Register { instance, service } => {
            let announcement = instance.announcement(service, &endpoints)?;
            register(&registry, &announcement, &mut Signals::catch()?).await?;
            Ok(0)
        }
        Command::Services {
            first,
            json,
            attributes,
            timeout,
            service,
        } => {
            let query = Query::new(service)
                .with_attributes(attributes)
                .with_timeout(Duration::from_secs(timeout));
            let mut found = services(&registry, &query).await?;
            if first {
                found.truncate(1);
            }
            let mut out = std::io::stdout().lock();
            let written = if json {
                serde_json::to_writer_pretty(&mut out, &found)
                    .map_err(std::io::Error::from)
                    .and_then(|()| writeln!(out))
            } else {
                found
                    .iter()
                    .try_for_each(|instance| writeln!(out, "{}", instance.addr))
            };
            written.map(|()| 0).map_err(|source| Error::System {
                operation: "print",
                source,
            })
        }
        Command::Check { silent } => {
            ping(&registry).await?;
            if !silent {
                _ = writeln!(
                    std::io::stdout(),
                    "the discovery service at {} answers",
                    endpoints.join(", ")
                );
            }
            Ok(0)
        }
        Command::Expose {
            dependencies,
            command,
        } => {
            let program = Program::parse(command)?;
            expose(&registry, &dependencies, &program, &mut Signals::catch()?).await
        }
    }
}

impl Discovery {
    fn endpoints(&self) -> Vec<String> {
        let text = match self.discoverd.trim() {
            "" | "none" => DEFAULT_DISCOVERD,
            text => text,
        };
        text.split(',').map(|url| url.trim().to_owned()).collect()
    }

    fn registry(self, endpoints: &[String]) -> Result<Registry> {
        let token = match (self.token_file, self.token) {
            (Some(path), _) => {
                let text = std::fs::read_to_string(&path).map_err(|source| Error::Usage {
                    what: format!("token file {}", path.display()),
                    why: source.to_string(),
                })?;
                Some(Secret::new(text))
            }
            (None, token) => token.map(Secret::new),
        };
        let key = token.filter(|token| !token.is_empty());
        let backend = RemoteBackend::new(endpoints.to_vec(), key)?;
        Ok(Registry::new(Arc::new(backend)))
    }
}

impl InstanceArgs {
    fn announcement(self, targets: Vec<Target>, endpoints: &[String]) -> Result<Announcement> {
        let discovery = endpoints.first().map_or("", String::as_str);
        let discovery = discovery
            .trim_start_matches("http://")
            .trim_end_matches('/');
        let address = Address::choose(self.host, self.interface, self.external_ip, discovery)?;
        // What a job knows about itself is an attribute of its instances, as in every Flynn client.
        let inherited = INHERITED
            .iter()
            .filter_map(|name| Some(((*name).to_owned(), std::env::var(name).ok()?)));
        Ok(Announcement::new(targets, address.resolve()?)
            .with_attributes(inherited)
            .with_attributes(self.attributes)
            .with_check(self.check))
    }
}

const INHERITED: [&str; 5] = [
    "FLYNN_APP_ID",
    "FLYNN_APP_NAME",
    "FLYNN_RELEASE_ID",
    "FLYNN_PROCESS_TYPE",
    "FLYNN_JOB_ID",
];
