//! Who may use the admin interface: with `auth.enabled` everything but health and metrics wants a bearer token.

use super::actor::AdminSetup;
use super::error::ApiError;
use crate::audit::audit;
use crate::network::session::access::{AuditLine, Identity};
use axum::extract::{Request, State};
use axum::http::{HeaderMap, Method, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use lance_messages::security::{Operation, ResourceKind};
use std::sync::Arc;

/// Lets a request through, or says what it lacks.
pub async fn guard(State(setup): State<Arc<AdminSetup>>, request: Request, next: Next) -> Response {
    let path = request.uri().path().to_owned();
    let changes = request.method() != Method::GET;
    let standing = standing(&setup, request.headers(), &path, changes);
    let action = format!("{} {path}", request.method());
    let (identity, refused) = match standing {
        Ok(identity) => (identity, None),
        Err((identity, refusal)) => (identity, Some(refusal)),
    };
    let outcome = match &refused {
        Some(_) => "refused".to_owned(),
        None if changes => "begun".to_owned(),
        None => return next.run(request).await,
    };
    audit(&AuditLine { principal: identity.to_string(), action: action.clone(), outcome });
    if let Some(refusal) = refused {
        return refusal.into_response();
    }
    let response = next.run(request).await;
    audit(&AuditLine { principal: identity.to_string(), action, outcome: response.status().to_string() });
    response
}

fn standing(
    setup: &AdminSetup,
    headers: &HeaderMap,
    path: &str,
    changes: bool,
) -> Result<Identity, (Identity, ApiError)> {
    let Some(gate) = &setup.auth else { return Ok(Identity::Nobody) };
    if path.starts_with("/health/") || path == "/metrics" {
        return Ok(Identity::Nobody);
    }
    let sent = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
    let token = sent.and_then(|value| value.strip_prefix("Bearer ")).map(str::trim).unwrap_or_default();
    let view = setup.view.load();
    let Some(identity) = gate.identify(token.as_bytes(), &view.security) else {
        let sentence = "a token is needed: Authorization: Bearer TOKEN";
        return Err((Identity::Nobody, ApiError::unauthenticated(sentence)));
    };
    let operation = if changes { Operation::Admin } else { Operation::Describe };
    if gate.may(&identity, &view.security, (operation, ResourceKind::Cluster, "")) {
        return Ok(identity);
    }
    let sentence = format!("{identity} may not {} the cluster", operation.name());
    Err((identity, ApiError::forbidden(sentence)))
}
