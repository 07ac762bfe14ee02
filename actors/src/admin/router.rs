//! What is served under which path.

use super::actor::{AdminActor, AdminSetup};
use super::assets;
use super::cluster_figures::ClusterFigures;
use super::error::ApiError;
use super::exposition::{CONTENT_TYPE, Scrape, render};
use super::guard::{Caller, guard};
use super::listing::{ClusterListing, TopicsListing};
use super::origin::same_site;
use super::records::list_records;
use super::tee_figures::TeeFigures;
use super::topics::{create_topic, delete_topic};
use crate::events::{Event, MAX_EVENTS, events};
use crate::ingestion::maintenance::describe_partitions;
use crate::mailbox::Mailbox;
use crate::supervision::node_supervisor::{ActorNode, DescribeTree, ListVitals, PanicActor};
use crate::supervision::{ActorKind, ActorState, Vitals};
use crate::tee::ListFlows;
use crate::tee::core::status::FlowStatus;
use axum::body::Bytes;
use axum::extract::rejection::{BytesRejection, QueryRejection};
use axum::extract::{DefaultBodyLimit, FromRef, Path, Query, State};
use axum::http::{StatusCode, header};
use axum::middleware::from_fn_with_state;
use axum::response::IntoResponse;
use axum::routing::{delete, get, post, put};
use axum::{Extension, Json, Router};
use lance_messages::id::NodeId;
use lance_storage::disk::FaultCommand;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc::error::TrySendError;

/// How long a part of the node may take to answer.
pub(super) const PATIENCE: Duration = Duration::from_secs(5);
/// Largest request body.
const BODY_BYTES: usize = 64 * 1024;

/// What handlers are given.
#[derive(Clone)]
pub struct AdminState {
    /// What the interface shows and moves.
    pub setup: Arc<AdminSetup>,
    /// The actor that asks shards and other nodes.
    pub own: Mailbox<AdminActor>,
}

impl FromRef<AdminState> for Arc<AdminSetup> {
    fn from_ref(state: &AdminState) -> Self {
        Arc::clone(&state.setup)
    }
}

impl FromRef<AdminState> for Mailbox<AdminActor> {
    fn from_ref(state: &AdminState) -> Self {
        state.own.clone()
    }
}

type Admin = State<Arc<AdminSetup>>;
/// The body of a request, or why there is none.
pub(super) type Body = Result<Bytes, BytesRejection>;

/// The routes of the interface; those that break things exist only when faults may be injected.
pub fn router(state: AdminState) -> Router {
    let setup = Arc::clone(&state.setup);
    let mut router = Router::new()
        .route("/health/live", get(live))
        .route("/health/ready", get(ready))
        .route("/health/startup", get(startup))
        .route("/metrics", get(metrics))
        .route("/v1/cluster", get(cluster))
        .route("/v1/topics", get(topics).post(create_topic))
        .route("/v1/topics/{topic}", delete(delete_topic))
        .route("/v1/topics/{topic}/partitions/{partition}/records", get(list_records))
        .route("/v1/groups", get(groups))
        .route("/v1/actors", get(actors))
        .route("/v1/events", get(list_events))
        .route("/v1/whoami", get(whoami))
        .route("/v1/drain", post(drain))
        .route("/v1/log-level", put(log_level));
    if setup.faults.is_some() {
        router = router.route("/v1/actors/{name}/panic", post(panic_actor)).route("/v1/faults", post(faults));
    }
    router
        .merge(assets::routes())
        .fallback(|| async { ApiError::not_found("no such path: see /health/ready, /metrics and /v1/actors") })
        .method_not_allowed_fallback(|| async {
            ApiError::method_not_allowed("another method is served under this path")
        })
        .layer(DefaultBodyLimit::max(BODY_BYTES))
        .layer(from_fn_with_state(Arc::clone(&setup), guard))
        .layer(from_fn_with_state(setup, same_site))
        .with_state(state)
}

/// Waits for a part of the node, for a while.
async fn ask<T, E>(part: &str, asked: impl Future<Output = Result<T, E>>) -> Result<T, ApiError> {
    match tokio::time::timeout(PATIENCE, asked).await {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(_)) => Err(ApiError::unavailable(format!("{part} is restarting"))),
        Err(_) => Err(ApiError::unavailable(format!("{part} did not answer in {} s", PATIENCE.as_secs()))),
    }
}

pub(super) fn parse<T: DeserializeOwned>(body: Body) -> Result<T, ApiError> {
    let body = body.map_err(|rejection| ApiError::invalid(rejection.body_text()))?;
    serde_json::from_slice(&body)
        .map_err(|error| ApiError::invalid(format!("the body is not what is expected: {error}")))
}

fn ok() -> Json<Value> {
    Json(json!({ "status": "ok" }))
}

async fn live(State(setup): Admin) -> Result<Json<Value>, ApiError> {
    ask("the root supervisor", setup.supervisor.send(ListVitals)).await.map(|_| ok())
}

async fn startup(State(setup): Admin) -> Result<Json<Value>, ApiError> {
    match setup.health.not_serving() {
        Some(reason) if !setup.health.is_started() => Err(ApiError::not_ready(reason)),
        _ => Ok(ok()),
    }
}

async fn ready(State(setup): Admin) -> Result<Json<Value>, ApiError> {
    let vitals = ask("the root supervisor", setup.supervisor.send(ListVitals)).await?.0;
    not_ready(&setup, &vitals).map_or_else(|| Ok(ok()), |reason| Err(ApiError::not_ready(reason)))
}

/// Why the node does not serve; `None` when it does.
fn not_ready(setup: &AdminSetup, vitals: &[Arc<Vitals>]) -> Option<String> {
    let no_leader = || setup.view.load().metadata_leader.is_none().then(|| "the metadata has no leader".to_owned());
    let down = || {
        let actor = vitals.iter().find(|actor| serves(actor.kind) && actor.state() != ActorState::Running)?;
        Some(format!("{} is not running", actor.name))
    };
    setup.health.not_serving().or_else(no_leader).or_else(down)
}

/// Whether clients depend on actors of this kind.
fn serves(kind: ActorKind) -> bool {
    match kind {
        ActorKind::Network
        | ActorKind::Ingestion
        | ActorKind::Poller
        | ActorKind::Replication
        | ActorKind::Metadata => true,
        ActorKind::Node
        | ActorKind::Connection
        | ActorKind::Group
        | ActorKind::Forward
        | ActorKind::Tee
        | ActorKind::Retention
        | ActorKind::Scrub
        | ActorKind::Admin
        | ActorKind::Link
        | ActorKind::Acceptor
        | ActorKind::Session
        | ActorKind::Formation => false,
    }
}

async fn metrics(State(setup): Admin) -> Result<impl IntoResponse, ApiError> {
    let vitals = ask("the root supervisor", setup.supervisor.send(ListVitals)).await?.0;
    let is_ready = not_ready(&setup, &vitals).is_none();
    let metrics = Arc::clone(&setup.metrics);
    let statuses = describe_partitions(&setup.shards).await;
    let cluster = ClusterFigures::new(&setup.view.load(), &statuses);
    let tee = TeeFigures(list_flows(&setup).await);
    let scrape = Scrape { metrics, vitals, backend: setup.backend.clone(), is_ready, cluster, tee };
    let text = render(scrape).map_err(|error| ApiError::internal(format!("the figures cannot be written: {error}")))?;
    Ok(([(header::CONTENT_TYPE, CONTENT_TYPE)], text))
}

async fn cluster(State(setup): Admin) -> Json<ClusterListing> {
    // A shard that is recovering leaves its partitions without numbers.
    let statuses = describe_partitions(&setup.shards).await;
    Json(ClusterListing::new(&setup.view.load(), &setup.health, statuses))
}

async fn topics(State(setup): Admin) -> Json<TopicsListing> {
    let flows = list_flows(&setup).await;
    Json(TopicsListing::new(&setup.view.load(), &flows))
}

/// How far what this node forwards is; nothing while the tee actor cannot say.
async fn list_flows(setup: &AdminSetup) -> Vec<FlowStatus> {
    let asked = tokio::time::timeout(PATIENCE, setup.tee.send(ListFlows)).await;
    asked.ok().and_then(Result::ok).unwrap_or_default()
}

async fn groups(State(setup): Admin) -> Result<Json<Value>, ApiError> {
    let listed = (setup.groups)();
    ask("the group actor", async move { Ok::<_, std::convert::Infallible>(listed.await) }).await.map(Json)
}

async fn actors(State(setup): Admin) -> Result<Json<ActorNode>, ApiError> {
    ask("the root supervisor", setup.supervisor.send(DescribeTree)).await.map(Json)
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct EventsQuery {
    /// Only events with higher numbers.
    #[serde(default)]
    after: u64,
}

/// `GET /v1/events`.
#[derive(Debug, Serialize)]
struct EventsListing {
    /// The node that answers: each tells what it saw and decided.
    node: Option<NodeId>,
    /// How many are kept.
    capacity: usize,
    events: Vec<Event>,
}

async fn list_events(
    State(setup): Admin,
    query: Result<Query<EventsQuery>, QueryRejection>,
) -> Result<Json<EventsListing>, ApiError> {
    let Query(query) = query.map_err(|rejection| ApiError::invalid(rejection.body_text()))?;
    let node = setup.view.load().node;
    Ok(Json(EventsListing { node, capacity: MAX_EVENTS, events: events().after(query.after) }))
}

async fn whoami(State(setup): Admin, Extension(caller): Extension<Caller>) -> Json<Value> {
    Json(caller.describe(&setup))
}

async fn drain(State(setup): Admin) -> Result<(StatusCode, Json<Value>), ApiError> {
    match setup.drain.try_send(()) {
        // A second order changes nothing.
        Ok(()) | Err(TrySendError::Full(())) => Ok((StatusCode::ACCEPTED, Json(json!({ "status": "draining" })))),
        Err(TrySendError::Closed(())) => Err(ApiError::unavailable("the node is ending already")),
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct LogLevelRequest {
    level: String,
}

async fn log_level(State(setup): Admin, body: Body) -> Result<Json<Value>, ApiError> {
    let LogLevelRequest { level } = parse(body)?;
    let Some(log_level) = &setup.log_level else {
        return Err(ApiError::unavailable("the log of this process was set up by somebody else"));
    };
    let level = log_level.set(&level).map_err(|error| ApiError::invalid(error.to_string()))?;
    tracing::info!(%level, "log level changed");
    Ok(Json(json!({ "level": level })))
}

async fn panic_actor(State(setup): Admin, Path(name): Path<String>) -> Result<(StatusCode, Json<Value>), ApiError> {
    let found = ask("the root supervisor", setup.supervisor.send(PanicActor { name: name.clone() })).await?;
    if !found {
        return Err(ApiError::not_found(format!("there is no actor {name:?}, or its mailbox is full: see /v1/actors")));
    }
    Ok((StatusCode::ACCEPTED, Json(json!({ "status": "accepted", "actor": name }))))
}

async fn faults(State(setup): Admin, body: Body) -> Result<Json<Value>, ApiError> {
    let command: FaultCommand = parse(body)?;
    let Some(switch) = &setup.faults else {
        return Err(ApiError::not_found("fault injection is off"));
    };
    switch.apply(&command).map_err(|error| ApiError::invalid(error.to_string()))?;
    tracing::warn!(?command, "fault injected");
    Ok(ok())
}
