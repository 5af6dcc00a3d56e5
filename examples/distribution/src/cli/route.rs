//! route list, add, remove.

use anyhow::{Result, bail};
use flynn_controller::model::{NewRoute, Route};
use flynn_router::Rule;

use super::{
    args::{RouteAdd, RouteCommand},
    context::{Context, about, about_app},
    output::{note, table},
};

pub(super) async fn run(context: &Context, command: Option<RouteCommand>) -> Result<()> {
    let app = context.app()?;
    let client = context.client()?;
    match command.unwrap_or(RouteCommand::List) {
        RouteCommand::List => {
            let routes = about_app(&app, client.routes(&app).await)?;
            context.format.print(&routes, |routes| {
                table(
                    ["ROUTE", "SERVICE", "ID", "STICKY", "LEADER"],
                    routes.iter().map(|route| {
                        [
                            target(route),
                            route.service.to_string(),
                            route.id.to_string(),
                            route
                                .rule
                                .as_http()
                                .is_some_and(|rule| rule.sticky)
                                .to_string(),
                            route.leader.to_string(),
                        ]
                    }),
                )
            })
        }
        RouteCommand::Add(add) => {
            let route = about_app(&app, client.create_route(&app, &route_of(&app, add)).await)?;
            context
                .format
                .print(&route, |route| match route.rule.tcp_port() {
                    Some(port) => format!("{} listening on port {port}", route.id),
                    None => route.id.to_string(),
                })
        }
        RouteCommand::Remove { id } => {
            if !id.starts_with("http/") && !id.starts_with("tcp/") {
                bail!(
                    "{id:?} is not the id of a route, which begins with http/ or tcp/; `flynn route` lists them"
                );
            }
            about(
                &format!("route {id}"),
                "`flynn route` lists the app's routes",
                client.delete_route(&app, &id).await,
            )?;
            note(&format!("Route {id} removed."));
            Ok(())
        }
    }
}

fn target(route: &Route) -> String {
    match &route.rule {
        Rule::Http(rule) => format!("http:{}{}", rule.domain, rule.path),
        Rule::Tcp { port } => format!("tcp:{port}"),
        _ => String::new(),
    }
}

fn route_of(app: &str, add: RouteAdd) -> NewRoute {
    let service_of = |service: Option<String>| service.unwrap_or_else(|| format!("{app}-web"));
    match add {
        RouteAdd::Http {
            domain,
            service,
            sticky,
            leader,
            no_drain_backends,
            disable_keep_alives,
        } => {
            let (domain, path) = match domain.split_once('/') {
                Some((domain, path)) => (domain.to_owned(), format!("/{path}")),
                None => (domain, "/".to_owned()),
            };
            NewRoute {
                kind: "http".to_owned(),
                service: service_of(service),
                domain,
                path,
                sticky,
                leader,
                drain_backends: !no_drain_backends,
                disable_keep_alives,
                ..NewRoute::default()
            }
        }
        RouteAdd::Tcp {
            service,
            port,
            leader,
            no_drain_backends,
        } => NewRoute {
            kind: "tcp".to_owned(),
            service: service_of(service),
            port: port.map_or(0, i64::from),
            leader,
            drain_backends: !no_drain_backends,
            ..NewRoute::default()
        },
    }
}
