//! Run with
//!
//! ```text
//! cargo run -p standalone-router -- 127.0.0.1:8080 \
//!     'example.test=127.0.0.1:3000,127.0.0.1:3001' 'example.test/api=127.0.0.1:4000' '*=127.0.0.1:5000' ':6379=10.0.0.7:6379'
//! curl -H 'Host: example.test' http://127.0.0.1:8080/api/
//! ```
//!
//! flynn-router alone: no discovery, no platform, a list of addresses. Each argument after the address to listen on is a
//! domain with an optional path, or `:` and a TCP port, then `=` and where the traffic goes. Ctrl-C lets what is in
//! flight finish.
#![allow(clippy::print_stderr, reason = "a program talks to its terminal")]

use std::{net::SocketAddr, process::ExitCode, sync::Arc};

use anyhow::{Context as _, Result};
use flynn_discovery::{ServiceName, backend::Condition};
use flynn_router::{
    Domain, MemoryRouteStore, PathPrefix, Route, RouteStore as _, Router, StaticEndpoints,
};
use tokio::net::TcpListener;

/// What the arguments say.
struct Settings {
    listen: SocketAddr,
    routes: Vec<(Route, Vec<String>)>,
}

#[tokio::main]
async fn main() -> ExitCode {
    tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .init();
    let settings = match settings(std::env::args().skip(1)) {
        Ok(settings) => settings,
        Err(error) => {
            eprintln!("standalone-router: {error:#}");
            eprintln!(
                "usage: standalone-router ADDR:PORT DOMAIN[/PATH]=ADDR:PORT[,…] [:PORT=ADDR:PORT[,…]] …"
            );
            return ExitCode::from(2);
        }
    };
    match serve(settings).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("standalone-router: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn serve(settings: Settings) -> Result<()> {
    let routes = MemoryRouteStore::new();
    let mut endpoints = StaticEndpoints::new();
    for (route, addrs) in settings.routes {
        endpoints = endpoints.with(route.service.clone(), addrs);
        routes.put(route, Condition::Absent).await?;
    }
    let router = Router::builder(Arc::new(routes), Arc::new(endpoints))
        .with_tcp_routes(settings.listen.ip())
        .build()?;
    let listener = TcpListener::bind(settings.listen).await;
    let listener = listener.with_context(|| format!("could not listen on {}", settings.listen))?;
    eprintln!("listening on http://{}", listener.local_addr()?);
    router
        .run(vec![listener], async {
            // Without signals it runs until it is killed.
            if tokio::signal::ctrl_c().await.is_err() {
                std::future::pending::<()>().await;
            }
        })
        .await;
    Ok(())
}

fn settings(mut args: impl Iterator<Item = String>) -> Result<Settings> {
    let listen = args.next().context("an address to listen on is missing")?;
    let listen = listen
        .parse()
        .with_context(|| format!("{listen} is not ADDR:PORT"))?;
    let routes: Vec<_> = args
        .enumerate()
        .map(|(i, arg)| route(i, &arg).with_context(|| format!("in {arg:?}")))
        .collect::<Result<_>>()?;
    anyhow::ensure!(!routes.is_empty(), "a route is missing");
    Ok(Settings { listen, routes })
}

fn route(number: usize, arg: &str) -> Result<(Route, Vec<String>)> {
    let (from, to) = arg.split_once('=').context("there is no =")?;
    let service = ServiceName::parse(format!("service-{number}"))?;
    let route = match from.strip_prefix(':') {
        Some(port) => Route::tcp(port.parse().context("the port is not a number")?, service)?,
        None => {
            let path = from.find('/').unwrap_or(from.len());
            let (domain, path) = from.split_at(path);
            Route::http(Domain::parse(domain)?, service).with_path(PathPrefix::parse(path)?)
        }
    };
    Ok((route, to.split(',').map(str::to_owned).collect()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(args: &[&str]) -> Result<Settings> {
        settings(args.iter().map(|&arg| arg.to_owned()))
    }

    #[test]
    fn arguments_name_domains_paths_and_ports() {
        let settings = parse(&[
            "127.0.0.1:80",
            "a.test/x=1.1.1.1:1,2.2.2.2:2",
            "*=[::1]:3",
            ":5432=db:5432",
        ])
        .unwrap();
        let rules: Vec<_> = settings
            .routes
            .iter()
            .map(|(r, to)| (r.rule.to_string(), to.len()))
            .collect();
        let expected = [("a.test/x/", 2), ("*/", 1), ("TCP port 5432", 1)];
        assert_eq!(rules, expected.map(|(rule, n)| (rule.to_owned(), n)));
    }

    #[test]
    fn what_is_missing_or_wrong_is_said() {
        for (args, why) in [
            (&[][..], "missing"),
            (&["x", "*=a:1"], "is not ADDR:PORT"),
            (&["127.0.0.1:80"], "a route is missing"),
            (&["127.0.0.1:80", "*"], "no ="),
            (&["127.0.0.1:80", "a b=c:1"], "domain"),
            (&["127.0.0.1:80", ":0=c:1"], "1 to 65535"),
        ] {
            let error = parse(args).err().expect("an error");
            assert!(format!("{error:#}").contains(why), "{error:#}");
        }
    }
}
