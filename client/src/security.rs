//! Users and rules.

use crate::admin::{Admin, unsupported};
use crate::error::ClientError;
use crate::metadata::unexpected;
use crate::options::Backoff;
use lance_messages::security::{AclRule, Credentials};
use lance_messages::wire::security::{SecurityReply, SecurityRequest, UserDescription};
use lance_messages::wire::{Features, Request, Response};
use std::time::Duration;
use tokio::time::Instant;

/// How long a change is repeated while nobody leads the metadata.
const PATIENCE: Duration = Duration::from_secs(15);

impl Admin {
    /// Adds a user.
    pub async fn add_user(&self, name: &str, credentials: Credentials) -> Result<(), ClientError> {
        self.secure(SecurityRequest::AddUser { name: name.to_owned(), credentials }).await.map(drop)
    }

    /// Removes a user; its connections may do nothing more.
    pub async fn remove_user(&self, name: &str) -> Result<(), ClientError> {
        self.secure(SecurityRequest::RemoveUser { name: name.to_owned() }).await.map(drop)
    }

    /// Gives a user other credentials; those that are absent stay.
    pub async fn set_credentials(&self, name: &str, credentials: Credentials) -> Result<(), ClientError> {
        self.secure(SecurityRequest::SetCredentials { name: name.to_owned(), credentials }).await.map(drop)
    }

    /// All users.
    pub async fn users(&self) -> Result<Vec<UserDescription>, ClientError> {
        match self.secure(SecurityRequest::ListUsers).await? {
            SecurityReply::Users(users) => Ok(users),
            _ => Err(unexpected(&self.client.control().await?, "list users")),
        }
    }

    /// Adds a rule; one that is there already stays.
    pub async fn add_rule(&self, rule: AclRule) -> Result<(), ClientError> {
        self.secure(SecurityRequest::AddRule(rule)).await.map(drop)
    }

    /// Removes a rule.
    pub async fn remove_rule(&self, rule: AclRule) -> Result<(), ClientError> {
        self.secure(SecurityRequest::RemoveRule(rule)).await.map(drop)
    }

    /// All rules.
    pub async fn rules(&self) -> Result<Vec<AclRule>, ClientError> {
        match self.secure(SecurityRequest::ListRules).await? {
            SecurityReply::Rules(rules) => Ok(rules),
            _ => Err(unexpected(&self.client.control().await?, "list rules")),
        }
    }

    async fn secure(&self, asked: SecurityRequest) -> Result<SecurityReply, ClientError> {
        let deadline = Instant::now() + PATIENCE;
        let mut backoff = Backoff::new(self.client.options().retry_backoff);
        loop {
            let answered = async {
                let connection = self.client.control().await?;
                if !connection.supports(Features::SECURITY) {
                    return Err(unsupported(&connection, "users and rules"));
                }
                match connection.request(Request::Security(asked.clone()), "security").await? {
                    Response::Security(reply) => Ok(reply),
                    _ => Err(unexpected(&connection, "security")),
                }
            };
            match answered.await {
                Err(error) if error.is_retriable() && Instant::now() < deadline => {
                    self.client.ask_another_server().await;
                    tokio::time::sleep(backoff.next_wait()).await;
                }
                outcome => return outcome,
            }
        }
    }
}
