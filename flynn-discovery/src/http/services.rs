//! The discovery API as discoverd's clients know it: `/services/…`, `/raft/…`, `/ping`.

mod announce;
mod raft_info;

use std::{sync::Arc, time::Duration};

use axum::{
    Router,
    extract::{Path, Request, State},
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::{get, post, put},
};
use futures::{StreamExt, stream};
use http::{HeaderMap, HeaderName, HeaderValue};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use self::announce::{Announcer, Wanted};
pub use self::raft_info::RaftInfo;
use super::{Failure, Health, Json, events, kv, kv_router, status_route};
use crate::{
    Backend, Error, Instance, InstanceId, LeaderPolicy, Registry, ServiceName,
    backend::{ListOptions, Prefix},
};

/// The discovery server's API: discoverd's routes over `registry`, the store's routes `/kv/…` over `backend`, and
/// `GET /.well-known/status`.
///
/// `raft` answers the questions about members, where the store has any. The API gives all there is: put
/// [`require_key`](super::require_key) before it, with `/ping` as an open path.
///
/// Beyond discoverd there is `GET /services`, the names of all services.
pub fn discovery_router(
    registry: Registry,
    backend: Arc<dyn Backend>,
    raft: Option<Arc<dyn RaftInfo>>,
) -> Router {
    let status_backend = Arc::clone(&backend);
    let status = status_route("dev", move || status(Arc::clone(&status_backend)));
    let api = Arc::new(Api { registry, raft });
    Router::new()
        .route("/services", get(services))
        .route(
            "/services/{service}",
            put(create).delete(remove).get(follow),
        )
        .route("/services/{service}/meta", get(metadata).put(set_metadata))
        .route("/services/{service}/instances", get(instances))
        .route(
            "/services/{service}/instances/{id}",
            put(put_instance).delete(delete_instance),
        )
        .route("/services/{service}/leader", get(leader).put(set_leader))
        .route("/ping", get(async || ()))
        .route("/raft/leader", get(raft_leader))
        .route("/raft/peers", get(raft_peers))
        .route(
            "/raft/peers/{peer}",
            put(add_raft_peer).delete(remove_raft_peer),
        )
        .route("/raft/promote", post(promote))
        .route("/raft/demote", post(demote))
        .layer(middleware::from_fn_with_state(Arc::clone(&api), stamp))
        .with_state(api)
        .merge(kv_router(backend))
        .merge(status)
}

struct Api {
    registry: Registry,
    raft: Option<Arc<dyn RaftInfo>>,
}

type App = State<Arc<Api>>;
type Answer<T> = Result<T, Failure>;

async fn services(State(api): App) -> Answer<Json<Vec<ServiceName>>> {
    Ok(Json(api.registry.services().await?))
}

#[derive(Debug, Deserialize)]
struct NewService {
    leader_type: Option<String>,
}

async fn create(
    State(api): App,
    Path(service): Path<String>,
    Json(new): Json<NewService>,
) -> Answer<()> {
    let service = name(&service)?;
    // Other words are accepted as discoverd does; it has no third policy either.
    let policy = match new.leader_type.as_deref() {
        Some("manual") => LeaderPolicy::Manual,
        _ => LeaderPolicy::Oldest,
    };
    Ok(api.registry.create_service(&service, policy).await?)
}

async fn remove(State(api): App, Path(service): Path<String>) -> Answer<()> {
    let service = existing(&service)?;
    Ok(api.registry.remove_service(&service).await?)
}

async fn follow(State(api): App, Path(service): Path<String>) -> Answer<Response> {
    Ok(announcements(&api, existing(&service)?, Wanted::All))
}

async fn metadata(State(api): App, Path(service): Path<String>) -> Answer<Response> {
    match api.registry.metadata(&existing(&service)?).await? {
        Some(metadata) => Ok(Json(metadata).into_response()),
        None => Err(Failure::not_found("service meta not found")),
    }
}

#[derive(Debug, Serialize, Deserialize)]
struct NewMetadata {
    #[serde(default)]
    data: Value,
    #[serde(default)]
    index: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    leader_id: Option<InstanceId>,
}

async fn set_metadata(
    State(api): App,
    Path(service): Path<String>,
    Json(mut new): Json<NewMetadata>,
) -> Answer<Json<NewMetadata>> {
    let service = existing(&service)?;
    let registry = &api.registry;
    let set = match &new.leader_id {
        None => registry.set_metadata(&service, &new.data, new.index).await,
        Some(leader) => {
            registry
                .set_metadata_and_leader(&service, &new.data, new.index, leader)
                .await
        }
    };
    match set {
        Ok(index) => {
            new.index = index;
            Ok(Json(new))
        }
        Err(Error::Conflict { .. }) => Err(Failure::precondition(format!(
            "the metadata of service {service} is not at index {}: read it again",
            new.index
        ))),
        Err(error) => Err(error.into()),
    }
}

async fn instances(
    State(api): App,
    Path(service): Path<String>,
    headers: HeaderMap,
) -> Answer<Response> {
    let service = existing(&service)?;
    if kv::wants_events(&headers) {
        return Ok(announcements(&api, service, Wanted::Instances));
    }
    let instances = api.registry.instances(&service).await?;
    if instances.is_empty() {
        return Err(Failure::not_found(format!(
            "service {service} has no instances"
        )));
    }
    Ok(Json(instances).into_response())
}

async fn put_instance(
    State(api): App,
    Path((service, id)): Path<(String, String)>,
    Json(instance): Json<Instance>,
) -> Answer<()> {
    let service = existing(&service)?;
    check_instance(&id, &instance)?;
    api.registry.heartbeat(&service, instance, TTL).await?;
    Ok(())
}

/// How long an instance stays after its last heartbeat.
const TTL: Duration = Duration::from_secs(10);

/// discoverd's rules: the id is derived from protocol and address, so that an instance replaces only itself.
fn check_instance(id: &str, instance: &Instance) -> Answer<()> {
    let is_proto = !instance.proto.is_empty()
        && instance
            .proto
            .bytes()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
    if !is_proto {
        return Err(Failure::validation(
            "proto",
            "must be letters a-z and digits",
        ));
    }
    let port = instance.addr.rsplit_once(':').map(|(_, port)| port);
    if port.is_none_or(|port| port.parse::<u16>().is_err()) {
        return Err(Failure::validation("addr", "must be host:port"));
    }
    let derived = instance_id(&instance.proto, &instance.addr);
    if instance.id != derived || id != derived.as_str() {
        return Err(Failure::validation(
            "id",
            &format!("must be the hex MD5 of proto-addr, here {derived}"),
        ));
    }
    Ok(())
}

/// The id every client of discoverd gives an instance: the MD5 of `proto-addr`. Whoever registers the same address again
/// replaces the earlier registration.
#[must_use]
#[expect(
    clippy::missing_panics_doc,
    reason = "hexadecimal digits are always an id"
)]
pub fn instance_id(proto: &str, addr: &str) -> InstanceId {
    let digest = md5::compute(format!("{proto}-{addr}"));
    InstanceId::parse(format!("{digest:x}")).expect("hexadecimal digits are allowed in an id")
}

async fn delete_instance(
    State(api): App,
    Path((service, id)): Path<(String, String)>,
) -> Answer<()> {
    let service = existing(&service)?;
    match InstanceId::parse(id) {
        Ok(id) => Ok(api.registry.remove_instance(&service, &id).await?),
        // Nothing can be registered under it, so it is gone.
        Err(_) => match api.registry.service(&service).await? {
            Some(_) => Ok(()),
            None => Err(Failure::not_found(format!(
                "service {service} does not exist"
            ))),
        },
    }
}

async fn leader(
    State(api): App,
    Path(service): Path<String>,
    headers: HeaderMap,
) -> Answer<Response> {
    let service = existing(&service)?;
    if kv::wants_events(&headers) {
        return Ok(announcements(&api, service, Wanted::Leader));
    }
    match api.registry.leader(&service).await? {
        Some(leader) => Ok(Json(leader).into_response()),
        None => Err(Failure::not_found("no leader found")),
    }
}

#[derive(Debug, Deserialize)]
struct NewLeader {
    id: InstanceId,
}

async fn set_leader(
    State(api): App,
    Path(service): Path<String>,
    Json(NewLeader { id }): Json<NewLeader>,
) -> Answer<()> {
    let service = existing(&service)?;
    Ok(api.registry.set_leader(&service, &id).await?)
}

async fn raft_leader(State(api): App) -> Answer<Json<Value>> {
    match api.raft.as_ref().and_then(|raft| raft.leader()) {
        Some(host) => Ok(Json(json!({ "host": host }))),
        None => Err(Failure::unavailable("there is no leader now; try again")),
    }
}

async fn raft_peers(State(api): App) -> Json<Vec<String>> {
    Json(api.raft.as_ref().map_or_else(Vec::new, |raft| raft.peers()))
}

async fn add_raft_peer(State(api): App, Path(peer): Path<String>) -> Answer<Json<Value>> {
    let last_index = api.members()?.add_peer(&peer).await?;
    Ok(Json(json!({ "last_index": last_index })))
}

async fn remove_raft_peer(State(api): App, Path(peer): Path<String>) -> Answer<()> {
    Ok(api.members()?.remove_peer(&peer).await?)
}

async fn promote(State(api): App) -> Answer<()> {
    Ok(api.members()?.promote().await?)
}

async fn demote(State(api): App) -> Answer<()> {
    Ok(api.members()?.demote().await?)
}

impl Api {
    fn members(&self) -> Answer<&dyn RaftInfo> {
        self.raft.as_deref().ok_or_else(|| {
            Failure::validation("", "this store has no Raft members to add or remove")
        })
    }
}

/// Adds the headers that tell clients about the cluster, in the spelling discoverd sends and the one its client reads.
async fn stamp(State(api): App, request: Request, next: Next) -> Response {
    let mut response = next.run(request).await;
    if let Some(raft) = &api.raft {
        let headers = response.headers_mut();
        let index = HeaderValue::from(raft.index());
        headers.insert(INDEX, index.clone());
        headers.insert(CURRENT_INDEX, index);
        if let Ok(peers) = HeaderValue::try_from(raft.peers().join(",")) {
            headers.insert(PEERS, peers.clone());
            headers.insert(CURRENT_PEERS, peers);
        }
    }
    response
}

const INDEX: HeaderName = HeaderName::from_static("discoverd-index");
const CURRENT_INDEX: HeaderName = HeaderName::from_static("discoverd-current-index");
const PEERS: HeaderName = HeaderName::from_static("discoverd-peers");
const CURRENT_PEERS: HeaderName = HeaderName::from_static("discoverd-current-peers");

fn announcements(api: &Api, service: ServiceName, wanted: Wanted) -> Response {
    let watch = api.registry.watch(&service);
    let mut announcer = Announcer::new(service, wanted);
    events(watch.flat_map(move |event| {
        stream::iter(match event {
            Ok(event) => announcer.handle(event).into_iter().map(Ok).collect(),
            Err(error) => vec![Err(Failure::from(error))],
        })
    }))
}

/// A name for a new service: a bad one is the caller's mistake.
fn name(service: &str) -> Answer<ServiceName> {
    Ok(ServiceName::parse(service)?)
}

/// The name of a service that should exist: under a name that is not one there is none.
fn existing(service: &str) -> Answer<ServiceName> {
    ServiceName::parse(service)
        .map_err(|_| Failure::not_found(format!("service {service:?} does not exist")))
}

/// Can the store be read?
async fn status(backend: Arc<dyn Backend>) -> Health {
    let options = ListOptions {
        limit: 1,
        ..ListOptions::default()
    };
    let everything = Prefix::root();
    let read = backend.list(&everything, options);
    match tokio::time::timeout(STATUS_TIMEOUT, read).await {
        Ok(Ok(_)) => Health::healthy(),
        Ok(Err(error)) => Health::unhealthy(error.to_string()),
        Err(_) => Health::unhealthy(format!(
            "the store did not answer within {STATUS_TIMEOUT:?}"
        )),
    }
}

const STATUS_TIMEOUT: Duration = Duration::from_secs(2);
