//! Users, and rules about who may do what. Pure data; `cluster` keeps it, sessions obey it.

use serde::{Deserialize, Serialize};

/// The principal of rules about everybody who has authenticated.
pub const ANYBODY: &str = "*";
/// Longest name of a user, principal or resource.
pub const MAX_SECURITY_NAME_BYTES: usize = 255;
/// Bytes of a hashed token, and of each key of a password.
pub const HASH_BYTES: usize = 32;
/// Fewest and most rounds of a password's hash.
pub const SCRAM_ITERATIONS: std::ops::RangeInclusive<u32> = 4096..=1_000_000;
/// Bytes of a password's salt.
pub const SALT_BYTES: usize = 16;

/// What may be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[repr(u8)]
pub enum Operation {
    /// Fetch records, take part in a group.
    Read = 1,
    /// Produce records.
    Write = 2,
    /// Create.
    Create = 3,
    /// Delete.
    Delete = 4,
    /// Change.
    Alter = 5,
    /// See that it is there and how it stands.
    Describe = 6,
    /// Steer the cluster, and change users and rules.
    Admin = 7,
}

impl Operation {
    /// All of them.
    pub const ALL: [Self; 7] =
        [Self::Read, Self::Write, Self::Create, Self::Delete, Self::Alter, Self::Describe, Self::Admin];

    /// Its word.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Write => "write",
            Self::Create => "create",
            Self::Delete => "delete",
            Self::Alter => "alter",
            Self::Describe => "describe",
            Self::Admin => "admin",
        }
    }

    /// The operation of a byte on the wire.
    pub fn from_code(code: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|operation| *operation as u8 == code)
    }
}

/// What it is done to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[repr(u8)]
pub enum ResourceKind {
    /// A topic, by name.
    Topic = 1,
    /// A consumer group, by name.
    Group = 2,
    /// The cluster, whose name is empty.
    Cluster = 3,
}

impl ResourceKind {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Topic, Self::Group, Self::Cluster];

    /// Its word.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Topic => "topic",
            Self::Group => "group",
            Self::Cluster => "cluster",
        }
    }

    /// The kind of a byte on the wire.
    pub fn from_code(code: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| *kind as u8 == code)
    }
}

/// One rule. A rule that denies wins over all that allow; what no rule allows is denied.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct AclRule {
    /// The user or the name in a certificate; [`ANYBODY`] for all.
    pub principal: String,
    /// What kind of thing it is about.
    pub kind: ResourceKind,
    /// Its name, or how its name begins.
    pub name: String,
    /// Whether everything that begins with the name is meant.
    pub prefix: bool,
    /// The operation; `None` for every one.
    pub operation: Option<Operation>,
    /// Allows or denies.
    pub allow: bool,
}

impl AclRule {
    /// Whether it is about this thing.
    pub fn covers(&self, kind: ResourceKind, name: &str) -> bool {
        self.kind == kind && if self.prefix { name.starts_with(&self.name) } else { name == self.name }
    }

    /// Whether it is about this operation. Whoever may do something to a thing may see it.
    pub fn concerns(&self, operation: Operation) -> bool {
        match self.operation {
            None => true,
            Some(own) if own == operation => true,
            Some(Operation::Read | Operation::Write | Operation::Delete | Operation::Alter) => {
                self.allow && operation == Operation::Describe
            }
            Some(_) => false,
        }
    }
}

/// What the server keeps of a password: nothing that it could be found from but by trying (RFC 5802).
#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ScramVerifier {
    /// Rounds of the hash.
    pub iterations: u32,
    /// The salt.
    pub salt: [u8; SALT_BYTES],
    /// Checks a client.
    pub stored_key: [u8; HASH_BYTES],
    /// Proves the server.
    pub server_key: [u8; HASH_BYTES],
}

impl std::fmt::Debug for ScramVerifier {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ScramVerifier").field("iterations", &self.iterations).finish_non_exhaustive()
    }
}

/// A user's credentials. Both may be set; a user with neither can only be known by a certificate.
#[derive(Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Credentials {
    /// SHA-256 of the token.
    pub token_hash: Option<[u8; HASH_BYTES]>,
    /// Of the password.
    pub scram: Option<ScramVerifier>,
}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Credentials")
            .field("token", &self.token_hash.is_some())
            .field("password", &self.scram.is_some())
            .finish()
    }
}

/// Whether a name can be that of a user, a principal or a resource: visible ASCII, and none of the server's own.
pub fn is_valid_security_name(name: &str) -> bool {
    (1..=MAX_SECURITY_NAME_BYTES).contains(&name.len())
        && name.bytes().all(|byte| byte.is_ascii_graphic() && byte != b',' && byte != b'=')
        && !name.starts_with("__")
        && name != ANYBODY
}

/// What the server keeps of a token.
pub fn token_hash(token: &str) -> [u8; HASH_BYTES] {
    use sha2::Digest as _;
    sha2::Sha256::digest(token.as_bytes()).into()
}
