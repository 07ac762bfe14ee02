//! Who may use the admin interface: with `auth.enabled` everything but health, metrics and the files of the console wants
//! a bearer token.

use super::actor::AdminSetup;
use super::error::ApiError;
use crate::audit::audit;
use crate::network::session::access::{AuditLine, Identity};
use axum::extract::{Request, State};
use axum::http::{HeaderMap, Method, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use lance_messages::security::{Operation, ResourceKind};
use serde_json::{Value, json};
use std::sync::Arc;

/// What a request needs before it is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Need {
    /// Nothing.
    Nothing,
    /// Somebody known: its handler asks for a right on the topic that the request names.
    Somebody,
    /// A right on the cluster.
    OnCluster(Operation),
}

/// The table of rights of the interface; what it does not name takes a right on the cluster.
fn need(method: &Method, path: &str) -> Need {
    let changes = changes(method);
    if path.starts_with("/health/") || path == "/metrics" || (!changes && (path == "/" || path.starts_with("/console")))
    {
        return Need::Nothing;
    }
    let of_topic = path == "/v1/topics" && *method == Method::POST
        || path.starts_with("/v1/topics/") && (!changes || *method == Method::DELETE);
    match of_topic || (path == "/v1/whoami" && !changes) {
        true => Need::Somebody,
        false => Need::OnCluster(if changes { Operation::Admin } else { Operation::Describe }),
    }
}

fn changes(method: &Method) -> bool {
    !matches!(*method, Method::GET | Method::HEAD)
}

/// Who asks, as handlers see it.
#[derive(Clone, Debug)]
pub struct Caller(Identity);

impl Caller {
    fn may(&self, setup: &AdminSetup, right: (Operation, ResourceKind, &str)) -> bool {
        let Some(gate) = &setup.auth else { return true };
        gate.may(&self.0, &setup.view.load().security, right)
    }

    /// Refuses who may not do this to a topic.
    pub fn require(&self, setup: &AdminSetup, operation: Operation, topic: &str) -> Result<(), ApiError> {
        if self.may(setup, (operation, ResourceKind::Topic, topic)) {
            return Ok(());
        }
        Err(ApiError::forbidden(format!("{} may not {} topic {topic}", self.0, operation.name())))
    }

    /// Who it is, and what it may do to the cluster.
    pub fn describe(&self, setup: &AdminSetup) -> Value {
        let may = |operation| self.may(setup, (operation, ResourceKind::Cluster, ""));
        json!({
            "authentication": setup.auth.is_some(),
            "principal": setup.auth.is_some().then(|| self.0.to_string()),
            "may_describe": may(Operation::Describe),
            "may_administer": may(Operation::Admin),
        })
    }
}

/// Lets a request through, or says what it lacks.
pub async fn guard(State(setup): State<Arc<AdminSetup>>, mut request: Request, next: Next) -> Response {
    let path = request.uri().path().to_owned();
    let changes = changes(request.method());
    let standing = standing(&setup, request.headers(), need(request.method(), &path));
    let action = format!("{} {path}", request.method());
    let (identity, refused) = match standing {
        Ok(identity) => (identity, None),
        Err((identity, refusal)) => (identity, Some(refusal)),
    };
    request.extensions_mut().insert(Caller(identity.clone()));
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

fn standing(setup: &AdminSetup, headers: &HeaderMap, need: Need) -> Result<Identity, (Identity, ApiError)> {
    let Some(gate) = &setup.auth else { return Ok(Identity::Nobody) };
    if need == Need::Nothing {
        return Ok(Identity::Nobody);
    }
    let sent = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
    let token = sent.and_then(|value| value.strip_prefix("Bearer ")).map(str::trim).unwrap_or_default();
    let view = setup.view.load();
    let Some(identity) = gate.identify(token.as_bytes(), &view.security) else {
        let sentence = "a token is needed: Authorization: Bearer TOKEN";
        return Err((Identity::Nobody, ApiError::unauthenticated(sentence)));
    };
    let Need::OnCluster(operation) = need else { return Ok(identity) };
    if gate.may(&identity, &view.security, (operation, ResourceKind::Cluster, "")) {
        return Ok(identity);
    }
    let sentence = format!("{identity} may not {} the cluster", operation.name());
    Err((identity, ApiError::forbidden(sentence)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_path_needs_what_the_table_says() {
        let (describe, admin) = (Need::OnCluster(Operation::Describe), Need::OnCluster(Operation::Admin));
        for (method, path, expected) in [
            (Method::GET, "/health/ready", Need::Nothing),
            (Method::GET, "/metrics", Need::Nothing),
            (Method::GET, "/", Need::Nothing),
            (Method::GET, "/console/main.js", Need::Nothing),
            (Method::POST, "/console/main.js", admin),
            (Method::POST, "/", admin),
            (Method::GET, "/v1/cluster", describe),
            (Method::HEAD, "/v1/cluster", describe),
            (Method::GET, "/v1/topics", describe),
            (Method::GET, "/v1/events", describe),
            (Method::GET, "/v1/whoami", Need::Somebody),
            (Method::POST, "/v1/topics", Need::Somebody),
            (Method::PUT, "/v1/topics", admin),
            (Method::DELETE, "/v1/topics/a", Need::Somebody),
            (Method::GET, "/v1/topics/a/partitions/0/records", Need::Somebody),
            (Method::POST, "/v1/drain", admin),
            (Method::PUT, "/v1/log-level", admin),
            (Method::POST, "/v1/faults", admin),
            (Method::GET, "/anything", describe),
        ] {
            assert_eq!(need(&method, path), expected, "{method} {path}");
        }
    }
}
