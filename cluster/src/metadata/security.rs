//! Users and rules, and what they allow.

use super::answer::{MetadataAnswer, MetadataEvent, MetadataRefusal};
use super::state::{MetadataState, Outcome};
use lance_messages::security::{
    ANYBODY, AclRule, Credentials, HASH_BYTES, Operation, ResourceKind, SCRAM_ITERATIONS, is_valid_security_name,
};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// Most users.
pub const MAX_USERS: usize = 10_000;
/// Most rules.
pub const MAX_RULES: usize = 10_000;

/// A user.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UserState {
    /// How it proves itself.
    pub credentials: Credentials,
    /// Raised whenever they change, over all users: what was proven before holds no longer.
    pub version: u64,
}

/// Who there is and what they may do.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Security {
    users: BTreeMap<String, UserState>,
    rules: BTreeSet<AclRule>,
    next_version: u64,
}

impl Security {
    /// A user by name.
    pub fn user(&self, name: &str) -> Option<&UserState> {
        self.users.get(name)
    }

    /// All users.
    pub fn users(&self) -> impl Iterator<Item = (&str, &UserState)> {
        self.users.iter().map(|(name, user)| (name.as_str(), user))
    }

    /// All rules.
    pub fn rules(&self) -> impl Iterator<Item = &AclRule> {
        self.rules.iter()
    }

    /// The user of a token, by its hash. `is_equal` compares in a time that says nothing about the hashes.
    pub fn user_of_token(
        &self,
        hash: &[u8; HASH_BYTES],
        is_equal: impl Fn(&[u8; HASH_BYTES], &[u8; HASH_BYTES]) -> bool,
    ) -> Option<(&str, &UserState)> {
        let of_token = |user: &UserState| user.credentials.token_hash.is_some_and(|own| is_equal(&own, hash));
        // Every user is compared: how long it takes says nothing about which one it was.
        self.users().filter(|(_, user)| of_token(user)).last()
    }

    /// Whether rules allow it: a rule that denies wins, and what none allows is denied.
    pub fn allows(&self, principal: &str, operation: Operation, kind: ResourceKind, name: &str) -> bool {
        let mut allowed = false;
        for rule in self.rules_of(principal).chain(self.rules_of(ANYBODY)) {
            if rule.covers(kind, name) && rule.concerns(operation) {
                if !rule.allow {
                    return false;
                }
                allowed = true;
            }
        }
        allowed
    }

    /// The rules of one principal: they stand together, as its name is what rules are sorted by first.
    fn rules_of(&self, principal: &str) -> impl Iterator<Item = &AclRule> {
        let first = AclRule {
            principal: principal.to_owned(),
            kind: ResourceKind::Topic,
            name: String::new(),
            prefix: false,
            operation: None,
            allow: false,
        };
        let owner = principal.to_owned();
        self.rules.range(first..).take_while(move |rule| rule.principal == owner)
    }

    /// What no sequence of commands can have made of it.
    pub(super) fn contradiction(&self) -> Option<&'static str> {
        if self.users.keys().any(|name| !is_valid_security_name(name)) {
            return Some("a user has a name that none can have");
        }
        if self.users.values().any(|user| user.version >= self.next_version) {
            return Some("a user's version was never given out");
        }
        None
    }

    fn next_version(&mut self) -> u64 {
        let version = self.next_version;
        self.next_version += 1;
        version
    }
}

fn check_credentials(credentials: &Credentials) -> Result<(), MetadataRefusal> {
    match &credentials.scram {
        Some(scram) if !SCRAM_ITERATIONS.contains(&scram.iterations) => {
            Err(MetadataRefusal::InvalidSecurity { what: "number of rounds of a password: 4096 to 1000000" })
        }
        _ => Ok(()),
    }
}

fn check_rule(rule: &AclRule) -> Result<(), MetadataRefusal> {
    let invalid = |what| Err(MetadataRefusal::InvalidSecurity { what });
    if rule.principal != ANYBODY && !is_valid_security_name(&rule.principal) {
        return invalid("principal: 1 to 255 visible ASCII characters without , and = that do not begin with __, or *");
    }
    let named = match rule.kind {
        ResourceKind::Cluster => rule.name.is_empty() && !rule.prefix,
        ResourceKind::Topic | ResourceKind::Group => rule.prefix || !rule.name.is_empty(),
    };
    if !named || rule.name.len() > lance_messages::security::MAX_SECURITY_NAME_BYTES {
        return invalid("resource: a topic or group of 1 to 255 bytes, or the beginning of its name, or the cluster");
    }
    Ok(())
}

impl MetadataState {
    /// Users and rules.
    pub fn security(&self) -> &Arc<Security> {
        &self.security
    }

    pub(super) fn add_user(
        &mut self,
        name: &str,
        credentials: Credentials,
        events: &mut Vec<MetadataEvent>,
    ) -> Outcome {
        if !is_valid_security_name(name) {
            let what = "user name: 1 to 255 visible ASCII characters without , and = that do not begin with __";
            return Err(MetadataRefusal::InvalidSecurity { what });
        }
        check_credentials(&credentials)?;
        if self.security.users.contains_key(name) {
            return Err(MetadataRefusal::UserExists { name: name.to_owned() });
        }
        if self.security.users.len() >= MAX_USERS {
            return Err(MetadataRefusal::TooManyOf { what: "users", limit: MAX_USERS });
        }
        let security = Arc::make_mut(&mut self.security);
        let version = security.next_version();
        security.users.insert(name.to_owned(), UserState { credentials, version });
        Ok(self.security_changed(events))
    }

    pub(super) fn set_credentials(
        &mut self,
        name: &str,
        credentials: Credentials,
        events: &mut Vec<MetadataEvent>,
    ) -> Outcome {
        check_credentials(&credentials)?;
        if !self.security.users.contains_key(name) {
            return Err(MetadataRefusal::UserNotFound { name: name.to_owned() });
        }
        let security = Arc::make_mut(&mut self.security);
        let version = security.next_version();
        if let Some(user) = security.users.get_mut(name) {
            let Credentials { token_hash, scram } = credentials;
            user.credentials.token_hash = token_hash.or(user.credentials.token_hash);
            user.credentials.scram = scram.or(user.credentials.scram);
            user.version = version;
        }
        Ok(self.security_changed(events))
    }

    /// Its rules stay: they may be those of a certificate too.
    pub(super) fn remove_user(&mut self, name: &str, events: &mut Vec<MetadataEvent>) -> Outcome {
        if !self.security.users.contains_key(name) {
            return Err(MetadataRefusal::UserNotFound { name: name.to_owned() });
        }
        Arc::make_mut(&mut self.security).users.remove(name);
        Ok(self.security_changed(events))
    }

    pub(super) fn add_acl(&mut self, rule: &AclRule, events: &mut Vec<MetadataEvent>) -> Outcome {
        check_rule(rule)?;
        if self.security.rules.len() >= MAX_RULES && !self.security.rules.contains(rule) {
            return Err(MetadataRefusal::TooManyOf { what: "rules", limit: MAX_RULES });
        }
        Arc::make_mut(&mut self.security).rules.insert(rule.clone());
        Ok(self.security_changed(events))
    }

    pub(super) fn remove_acl(&mut self, rule: &AclRule, events: &mut Vec<MetadataEvent>) -> Outcome {
        if !self.security.rules.contains(rule) {
            return Err(MetadataRefusal::RuleNotFound);
        }
        Arc::make_mut(&mut self.security).rules.remove(rule);
        Ok(self.security_changed(events))
    }

    fn security_changed(&self, events: &mut Vec<MetadataEvent>) -> MetadataAnswer {
        events.push(MetadataEvent::SecurityChanged);
        MetadataAnswer::SecurityChanged
    }
}
