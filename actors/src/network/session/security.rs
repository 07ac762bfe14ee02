//! Authentication, users and rules, and what the audit log hears.

use super::access::AuditLine;
use super::rights::admin_action;
use super::{Effects, SessionCore, SessionEffect};
use crate::view::ClusterView;
use lance_messages::error_code::ErrorCode;
use lance_messages::wire::security::{SecurityReply, UserDescription};
use lance_messages::wire::typed_error::{Answers, TypedError};
use lance_messages::wire::{Request, Response};

/// What is audited and not answered yet, at most: no connection has more requests under way.
const MAX_ACTIONS: usize = 4096;

impl SessionCore {
    pub(super) fn on_token(&mut self, token: &[u8], view: &ClusterView, effects: &mut Effects) -> Response {
        let (ok, text) = self.access.authenticate(token, &view.security);
        self.after_attempt("authenticate by token", text, effects);
        Response::Authenticate { ok, text: text.to_owned() }
    }

    pub(super) fn on_scram_step(
        &mut self,
        message: &str,
        command: u8,
        view: &ClusterView,
        effects: &mut Effects,
    ) -> Response {
        match self.access.login_step(message, self.id.0, &view.security) {
            Ok((answer, complete)) => {
                if complete {
                    self.after_attempt("authenticate by password", "done", effects);
                }
                Response::ScramStep(answer)
            }
            Err(error) => {
                self.after_attempt("authenticate by password", &error.to_string(), effects);
                let error =
                    TypedError::with_message(ErrorCode::InvalidToken, Answers::Control(command), error.to_string());
                Response::Error(error)
            }
        }
    }

    /// Whoever fails again and again is given no more attempts on this connection.
    fn after_attempt(&mut self, action: &str, outcome: &str, effects: &mut Effects) {
        self.audit(action.to_owned(), outcome.to_owned(), effects);
        self.closing |= self.access.is_spent();
        effects.push(SessionEffect::Identified(self.access.identity().clone()));
    }

    fn audit(&self, action: String, outcome: String, effects: &mut Effects) {
        let principal = self.access.identity().to_string();
        effects.push(SessionEffect::Audit(AuditLine { principal, action, outcome }));
    }

    /// A request that was refused; of those that move records only the kind is told.
    pub(super) fn audit_denial(
        &mut self,
        request: &Request,
        code: ErrorCode,
        view: &ClusterView,
        effects: &mut Effects,
    ) {
        if !self.access.tells_denial() {
            return;
        }
        let action = admin_action(request, view).unwrap_or_else(|| match request {
            Request::Produce(produce) => format!("produce to topic {}", produce.topic),
            Request::Fetch(fetch) => format!("fetch from topic {}", fetch.topic),
            other => {
                let text = format!("{other:?}");
                text.chars().take_while(char::is_ascii_alphanumeric).collect()
            }
        });
        self.audit(action, code.text().to_owned(), effects);
    }

    /// The outcome of this request will be told.
    pub(super) fn note_action(&mut self, request: u64, action: Option<String>) {
        if let Some(action) = action.filter(|_| self.access.actions.len() < MAX_ACTIONS) {
            self.access.actions.insert(request, action);
        }
    }

    /// Tells what became of an action that was noted.
    pub(super) fn audit_outcome(&mut self, request: u64, outcome: impl FnOnce() -> String, effects: &mut Effects) {
        if let Some(action) = self.access.actions.remove(&request) {
            self.audit(action, outcome(), effects);
        }
    }
}

pub(super) fn list_users(view: &ClusterView) -> Response {
    let users = view.security.users().map(|(name, user)| UserDescription {
        name: name.to_owned(),
        has_token: user.credentials.token_hash.is_some(),
        has_password: user.credentials.scram.is_some(),
    });
    Response::Security(SecurityReply::Users(users.collect()))
}

pub(super) fn list_rules(view: &ClusterView) -> Response {
    Response::Security(SecurityReply::Rules(view.security.rules().cloned().collect()))
}
