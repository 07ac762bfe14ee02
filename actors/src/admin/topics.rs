//! Creating and deleting topics over HTTP: the same calls of the metadata that clients make.

use super::actor::AdminSetup;
use super::error::ApiError;
use super::guard::Caller;
use super::listing::TopicListing;
use super::router::{Body, PATIENCE, parse};
use crate::metadata::actor::Call;
use crate::network::session::MetadataCall;
use crate::network::session::answers::{CallFailure, refusal_code};
use crate::view::INTERNAL_PREFIX;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::{Extension, Json};
use lance_cluster::metadata::MetadataAnswer;
use lance_messages::security::Operation;
use lance_messages::wire::topics::{CreateTopicWithConfig, TopicMode};
use serde::Deserialize;
use serde_json::{Value, json};
use std::sync::Arc;

/// The body of `POST /v1/topics`; what is left out takes the server's default.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NewTopic {
    name: String,
    partitions: Option<u16>,
    replication_factor: Option<u8>,
    mode: Option<Mode>,
    retention_age_seconds: Option<u64>,
    retention_bytes: Option<u64>,
}

#[derive(Clone, Copy, Debug, Deserialize)]
enum Mode {
    L1,
    L2,
}

/// `POST /v1/topics`.
pub async fn create_topic(
    State(setup): State<Arc<AdminSetup>>,
    Extension(caller): Extension<Caller>,
    body: Body,
) -> Result<(StatusCode, Json<TopicListing>), ApiError> {
    let wanted: NewTopic = parse(body)?;
    caller.require(&setup, Operation::Create, &wanted.name)?;
    if wanted.name.starts_with(INTERNAL_PREFIX) {
        return Err(ApiError::invalid(format!("names that begin with {INTERNAL_PREFIX} belong to the server")));
    }
    let create = CreateTopicWithConfig {
        name: wanted.name.clone(),
        partitions: wanted.partitions,
        replication_factor: wanted.replication_factor,
        mode: wanted.mode.map(|mode| match mode {
            Mode::L1 => TopicMode::L1,
            Mode::L2 => TopicMode::L2,
        }),
        max_age_secs: wanted.retention_age_seconds,
        max_bytes: wanted.retention_bytes,
    };
    call(&setup, MetadataCall::CreateTopic(create)).await?;
    let view = setup.view.load();
    let Some(topic) = view.topic_by_name(&wanted.name) else {
        return Err(ApiError::not_found(format!("topic {:?} was created, and is deleted again", wanted.name)));
    };
    Ok((StatusCode::CREATED, Json(TopicListing::new(topic, Vec::new()))))
}

/// `DELETE /v1/topics/{name}`.
pub async fn delete_topic(
    State(setup): State<Arc<AdminSetup>>,
    Extension(caller): Extension<Caller>,
    path: Result<Path<String>, PathRejection>,
) -> Result<Json<Value>, ApiError> {
    let Path(name) = path.map_err(|rejection| ApiError::invalid(rejection.body_text()))?;
    caller.require(&setup, Operation::Delete, &name)?;
    let known = setup.view.load().topic_by_name(&name).map(|topic| topic.id);
    let topic = known.ok_or_else(|| ApiError::not_found(format!("there is no topic {name:?}")))?;
    call(&setup, MetadataCall::DeleteTopic(topic)).await?;
    Ok(Json(json!({ "deleted": name, "id": topic.0 })))
}

async fn call(setup: &AdminSetup, call: MetadataCall) -> Result<MetadataAnswer, ApiError> {
    match tokio::time::timeout(PATIENCE * 2, setup.metadata.send(Call(call))).await {
        Ok(Ok(Ok(answer))) => Ok(answer),
        Ok(Ok(Err(CallFailure::Refused(refusal)))) => {
            Err(ApiError::of_code(refusal_code(&refusal), refusal.to_string()))
        }
        Ok(Ok(Err(CallFailure::Failed(code, text)))) => Err(ApiError::of_code(code, text)),
        Ok(Err(_)) => Err(ApiError::unavailable("the metadata actor is restarting")),
        Err(_) => Err(ApiError::unavailable("the metadata did not decide in time: look whether it was done")),
    }
}
