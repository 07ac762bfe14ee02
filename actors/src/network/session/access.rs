//! Who a connection belongs to, and whether that may do what it asks. [`super::rights`] says which request needs what.

use super::rights::{every_right, is_open};
use crate::view::ClusterView;
use hashbrown::{HashMap, HashSet};
use hmac::{Hmac, KeyInit, Mac};
use lance_cluster::metadata::Security;
use lance_messages::error_code::ErrorCode;
use lance_messages::scram::{ScramError, ScramServer};
use lance_messages::security::{HASH_BYTES, Operation, ResourceKind};
use lance_messages::wire::{Request, text};
use sha2::{Digest, Sha256};
use std::fmt;
use std::sync::Arc;
use subtle::ConstantTimeEq;

/// Failed attempts to authenticate after which a connection is closed.
const MAX_FAILURES: u32 = 5;
/// Denials of one connection that the audit log hears of.
const MAX_DENIALS_TOLD: u32 = 16;
/// What the token of nodes is derived with.
const NODE_TOKEN_LABEL: &[u8] = b"lance node token 1";

type Hash = [u8; HASH_BYTES];

fn sha256(bytes: &[u8]) -> Hash {
    Sha256::digest(bytes).into()
}

fn is_equal(left: &Hash, right: &Hash) -> bool {
    left.ct_eq(right).into()
}

fn hmac_sha256(key: &[u8], message: &[u8]) -> Hash {
    // A key of any length will do, so this is never an error.
    let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(key) else { return [0; HASH_BYTES] };
    mac.update(message);
    mac.finalize().into_bytes().into()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The token by which nodes of a cluster know each other when they forward for clients.
pub fn node_token(cluster_secret: &[u8]) -> String {
    hex(&hmac_sha256(cluster_secret, NODE_TOKEN_LABEL))
}

/// What every connection of a node that authenticates is held against.
pub struct AuthGate {
    admin_token: Option<Hash>,
    node_token: Option<Hash>,
    superusers: HashSet<String>,
    /// Makes nonces, and salts of users that do not exist.
    secret: Hash,
}

impl fmt::Debug for AuthGate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AuthGate").field("superusers", &self.superusers).finish_non_exhaustive()
    }
}

impl AuthGate {
    /// A gate; `secret` is random and known to nobody else.
    pub fn new(
        admin_token: Option<&str>,
        cluster_secret: Option<&str>,
        superusers: impl IntoIterator<Item = String>,
        secret: [u8; HASH_BYTES],
    ) -> Self {
        let node_token = cluster_secret.map(|secret| node_token(secret.as_bytes()));
        Self {
            admin_token: admin_token.map(|token| sha256(token.as_bytes())),
            node_token: node_token.map(|token| sha256(token.as_bytes())),
            superusers: superusers.into_iter().collect(),
            secret,
        }
    }

    /// Who has this token.
    pub fn identify(&self, token: &[u8], security: &Security) -> Option<Identity> {
        let hash = sha256(token);
        let is = |own: &Option<Hash>| own.as_ref().is_some_and(|own| is_equal(own, &hash));
        let (admin, node) = (is(&self.admin_token), is(&self.node_token));
        let user = security.user_of_token(&hash, is_equal);
        match (admin, node, user) {
            (true, ..) => Some(Identity::Bootstrap),
            (_, true, _) => Some(Identity::Node),
            (.., Some((name, user))) => Some(Identity::User { name: Arc::from(name), version: user.version }),
            _ => None,
        }
    }

    /// Whether `identity` may do it.
    pub fn may(
        &self,
        identity: &Identity,
        security: &Security,
        (operation, kind, name): (Operation, ResourceKind, &str),
    ) -> bool {
        match identity {
            Identity::Nobody => false,
            Identity::Bootstrap | Identity::Node => true,
            Identity::User { name: principal, .. } | Identity::Certificate(principal) => {
                self.superusers.contains(&**principal) || security.allows(principal, operation, kind, name)
            }
        }
    }
}

/// Who a connection belongs to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Identity {
    /// Nobody has said.
    Nobody,
    /// The administrator of the configuration.
    Bootstrap,
    /// Another node of the cluster.
    Node,
    /// A user, by a token or a password.
    User {
        /// Its name.
        name: Arc<str>,
        /// The version of its credentials.
        version: u64,
    },
    /// Who the certificate of the connection says.
    Certificate(Arc<str>),
}

impl Identity {
    /// The user, or whom a certificate names.
    pub fn name(&self) -> Option<&Arc<str>> {
        match self {
            Self::Nobody | Self::Bootstrap | Self::Node => None,
            Self::User { name, .. } | Self::Certificate(name) => Some(name),
        }
    }
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Nobody => f.write_str("nobody"),
            Self::Bootstrap => f.write_str("__bootstrap"),
            Self::Node => f.write_str("__node"),
            Self::User { name, .. } | Self::Certificate(name) => f.write_str(name),
        }
    }
}

/// A line of the audit log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuditLine {
    /// Who.
    pub principal: String,
    /// What was asked.
    pub action: String,
    /// What became of it.
    pub outcome: String,
}

/// One connection's standing.
#[derive(Default)]
pub struct Access {
    gate: Option<Arc<AuthGate>>,
    identity: Option<Identity>,
    /// A login under way, and the version of the user's credentials.
    login: Option<(ScramServer, u64)>,
    logins: u64,
    failures: u32,
    denials: u32,
    /// What was asked of an administrator's rights and is not answered yet.
    pub actions: HashMap<u64, String>,
}

impl Access {
    /// The standing of a new connection. Without a gate anybody may do everything.
    pub fn new(gate: Option<Arc<AuthGate>>, certificate: Option<Arc<str>>) -> Self {
        Self { gate, identity: certificate.map(Identity::Certificate), ..Self::default() }
    }

    /// Who it is.
    pub fn identity(&self) -> &Identity {
        self.identity.as_ref().unwrap_or(&Identity::Nobody)
    }

    /// Whether users must be known before this request can be judged.
    pub fn needs_users(&self, request: &Request) -> bool {
        self.gate.is_some() && matches!(request, Request::Authenticate { .. } | Request::ScramStep(_))
    }

    /// Whether it is closed after so many failures.
    pub fn is_spent(&self) -> bool {
        self.failures >= MAX_FAILURES
    }

    /// Whether one more denial is told: somebody who is denied again and again is not news for ever.
    pub fn tells_denial(&mut self) -> bool {
        self.denials = self.denials.saturating_add(1);
        self.denials <= MAX_DENIALS_TOLD
    }

    /// What became of a token.
    pub fn authenticate(&mut self, token: &[u8], security: &Security) -> (bool, &'static str) {
        let Some(gate) = &self.gate else { return (true, text::AUTHENTICATED) };
        let found = gate.identify(token, security);
        if found.is_some() {
            self.identity = found;
            return (true, text::AUTHENTICATED);
        }
        // Whoever was there before does not go on under another's name.
        self.identity = None;
        self.failures += 1;
        (false, if token.is_empty() { text::NO_TOKEN } else { text::INVALID_TOKEN })
    }

    /// Goes on with a login by password: the server's message, and whether that completes it.
    pub fn login_step(
        &mut self,
        message: &str,
        connection: u64,
        security: &Security,
    ) -> Result<(String, bool), ScramError> {
        let Some(gate) = &self.gate else {
            return Err(ScramError::Malformed { what: "this server authenticates nobody" });
        };
        let stepped = match self.login.take() {
            Some((login, version)) => login.finish(message).map(|(user, answer)| {
                self.identity = Some(Identity::User { name: Arc::from(user), version });
                (answer, true)
            }),
            None => {
                self.logins += 1;
                let place = [connection.to_be_bytes(), self.logins.to_be_bytes()].concat();
                let nonce = hex(&hmac_sha256(&gate.secret, &place)[..16]);
                let mut version = 0;
                let find = |name: &str| {
                    let user = security.user(name)?;
                    version = user.version;
                    user.credentials.scram
                };
                ScramServer::begin(message, &nonce, &gate.secret, find).map(|(login, answer)| {
                    self.login = Some((login, version));
                    (answer, false)
                })
            }
        };
        if stepped.is_err() {
            self.identity = None;
            self.failures += 1;
        }
        stepped
    }

    /// Whether the connection may do what it asks.
    pub fn check(&self, request: &Request, view: &ClusterView) -> Result<(), ErrorCode> {
        let Some(gate) = &self.gate else { return Ok(()) };
        if is_open(request) {
            return Ok(());
        }
        let identity = self.identity();
        if !is_current(identity, &view.security) {
            return Err(ErrorCode::AuthenticationRequired);
        }
        let mut may = |operation, kind, name: &str| gate.may(identity, &view.security, (operation, kind, name));
        if every_right(request, view, &mut may) { Ok(()) } else { Err(ErrorCode::PermissionDenied) }
    }

    /// Whether it may do whatever an administrator may.
    pub fn may_administer(&self, view: &ClusterView) -> bool {
        let Some(gate) = &self.gate else { return true };
        let asked = (Operation::Admin, ResourceKind::Cluster, "");
        is_current(self.identity(), &view.security) && gate.may(self.identity(), &view.security, asked)
    }

    /// Whether one thing may be done to one topic.
    pub fn may(&self, operation: Operation, topic: &str, view: &ClusterView) -> bool {
        let Some(gate) = &self.gate else { return true };
        let identity = self.identity();
        is_current(identity, &view.security)
            && gate.may(identity, &view.security, (operation, ResourceKind::Topic, topic))
    }
}

/// Whether somebody is still who it was when it authenticated: removed users and old credentials are nobody.
fn is_current(identity: &Identity, security: &Security) -> bool {
    match identity {
        Identity::Nobody => false,
        Identity::Bootstrap | Identity::Node | Identity::Certificate(_) => true,
        Identity::User { name, version } => security.user(name).is_some_and(|user| user.version == *version),
    }
}
