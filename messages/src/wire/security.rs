//! Security: users and rules. `text` is a u16 length and UTF-8.
//!
//! ```text
//! Security 0x59: u8 what, then
//!   1 add user         text name, credentials
//!   2 remove user      text name
//!   3 set credentials  text name, credentials (what is absent stays as it is)
//!   4 list users
//!   5 add rule         rule
//!   6 remove rule      rule
//!   7 list rules
//! credentials  u8 1 = token: 32 bytes of SHA-256;
//!              u8 1 = password: u32 iterations, 16 bytes of salt, 32 of StoredKey, 32 of ServerKey
//! rule         text principal ("*": anybody), u8 kind (1 topic, 2 group, 3 cluster), text name, u8 1 = names that begin so,
//!              u8 operation (0 all, 1 read, 2 write, 3 create, 4 delete, 5 alter, 6 describe, 7 admin), u8 1 = allow, 0 = deny
//! SecurityResponse 0xD9: u8 what, then
//!   4 list users  u32 count, each: text name, u8 1 = has a token, u8 1 = has a password
//!   7 list rules  u32 count, each: rule
//!   others        nothing
//! ScramStep 0x5A and ScramStepResponse 0xDA: the messages of RFC 5802 (SCRAM-SHA-256, RFC 7677), UTF-8
//! ```

use super::payload::{PayloadReader, put_text};
use crate::security::{AclRule, Credentials, HASH_BYTES, Operation, ResourceKind, SALT_BYTES, ScramVerifier};
use bytes::{BufMut, BytesMut};

const ADD_USER: u8 = 1;
const REMOVE_USER: u8 = 2;
const SET_CREDENTIALS: u8 = 3;
const LIST_USERS: u8 = 4;
const ADD_RULE: u8 = 5;
const REMOVE_RULE: u8 = 6;
const LIST_RULES: u8 = 7;

/// A change of users and rules, or a question about them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SecurityRequest {
    /// A new user.
    AddUser {
        /// Its name.
        name: String,
        /// Its credentials.
        credentials: Credentials,
    },
    /// A user goes, and its connections with it.
    RemoveUser {
        /// Its name.
        name: String,
    },
    /// Other credentials for a user; what is absent stays.
    SetCredentials {
        /// Its name.
        name: String,
        /// The new ones.
        credentials: Credentials,
    },
    /// Which users there are.
    ListUsers,
    /// A new rule.
    AddRule(AclRule),
    /// A rule goes.
    RemoveRule(AclRule),
    /// Which rules there are.
    ListRules,
}

/// The answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SecurityReply {
    /// It is as asked.
    Done {
        /// The byte of what was asked.
        what: u8,
    },
    /// The users.
    Users(Vec<UserDescription>),
    /// The rules.
    Rules(Vec<AclRule>),
}

/// A user, without its secrets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UserDescription {
    /// Its name.
    pub name: String,
    /// Whether it has a token.
    pub has_token: bool,
    /// Whether it has a password.
    pub has_password: bool,
}

impl SecurityRequest {
    /// The byte of what is asked.
    pub const fn what(&self) -> u8 {
        match self {
            Self::AddUser { .. } => ADD_USER,
            Self::RemoveUser { .. } => REMOVE_USER,
            Self::SetCredentials { .. } => SET_CREDENTIALS,
            Self::ListUsers => LIST_USERS,
            Self::AddRule(_) => ADD_RULE,
            Self::RemoveRule(_) => REMOVE_RULE,
            Self::ListRules => LIST_RULES,
        }
    }

    pub(super) fn decode(payload: &[u8]) -> Option<Self> {
        let mut reader = PayloadReader::new(payload);
        Some(match reader.u8()? {
            ADD_USER => Self::AddUser { name: reader.text()?, credentials: credentials(&mut reader)? },
            REMOVE_USER => Self::RemoveUser { name: reader.text()? },
            SET_CREDENTIALS => Self::SetCredentials { name: reader.text()?, credentials: credentials(&mut reader)? },
            LIST_USERS => Self::ListUsers,
            ADD_RULE => Self::AddRule(rule(&mut reader)?),
            REMOVE_RULE => Self::RemoveRule(rule(&mut reader)?),
            LIST_RULES => Self::ListRules,
            _ => return None,
        })
    }

    pub(super) fn encode(&self, out: &mut BytesMut) {
        out.put_u8(self.what());
        match self {
            Self::AddUser { name, credentials } | Self::SetCredentials { name, credentials } => {
                put_text(out, name);
                put_credentials(out, credentials);
            }
            Self::RemoveUser { name } => put_text(out, name),
            Self::AddRule(rule) | Self::RemoveRule(rule) => put_rule(out, rule),
            Self::ListUsers | Self::ListRules => {}
        }
    }
}

impl SecurityReply {
    pub(super) fn decode(payload: &[u8]) -> Option<Self> {
        let mut reader = PayloadReader::new(payload);
        match reader.u8()? {
            LIST_USERS => {
                let mut users = Vec::new();
                for _ in 0..reader.u32()? {
                    let name = reader.text()?;
                    users.push(UserDescription {
                        name,
                        has_token: flag(&mut reader)?,
                        has_password: flag(&mut reader)?,
                    });
                }
                Some(Self::Users(users))
            }
            LIST_RULES => {
                let mut rules = Vec::new();
                for _ in 0..reader.u32()? {
                    rules.push(rule(&mut reader)?);
                }
                Some(Self::Rules(rules))
            }
            what @ (ADD_USER | REMOVE_USER | SET_CREDENTIALS | ADD_RULE | REMOVE_RULE) => Some(Self::Done { what }),
            _ => None,
        }
    }

    pub(super) fn encode(&self, out: &mut BytesMut) {
        match self {
            Self::Done { what } => out.put_u8(*what),
            Self::Users(users) => {
                out.put_u8(LIST_USERS);
                out.put_u32_le(users.len() as u32);
                for user in users {
                    put_text(out, &user.name);
                    out.put_u8(u8::from(user.has_token));
                    out.put_u8(u8::from(user.has_password));
                }
            }
            Self::Rules(rules) => {
                out.put_u8(LIST_RULES);
                out.put_u32_le(rules.len() as u32);
                rules.iter().for_each(|rule| put_rule(out, rule));
            }
        }
    }
}

fn flag(reader: &mut PayloadReader<'_>) -> Option<bool> {
    match reader.u8()? {
        0 => Some(false),
        1 => Some(true),
        _ => None,
    }
}

fn array<const N: usize>(reader: &mut PayloadReader<'_>) -> Option<[u8; N]> {
    reader.bytes(N)?.try_into().ok()
}

fn credentials(reader: &mut PayloadReader<'_>) -> Option<Credentials> {
    let token_hash = if flag(reader)? { Some(array::<HASH_BYTES>(reader)?) } else { None };
    let scram = match flag(reader)? {
        false => None,
        true => Some(ScramVerifier {
            iterations: reader.u32()?,
            salt: array::<SALT_BYTES>(reader)?,
            stored_key: array(reader)?,
            server_key: array(reader)?,
        }),
    };
    Some(Credentials { token_hash, scram })
}

fn put_credentials(out: &mut BytesMut, credentials: &Credentials) {
    out.put_u8(u8::from(credentials.token_hash.is_some()));
    out.put_slice(credentials.token_hash.as_ref().map_or(&[], |hash| &hash[..]));
    out.put_u8(u8::from(credentials.scram.is_some()));
    if let Some(scram) = &credentials.scram {
        out.put_u32_le(scram.iterations);
        out.put_slice(&scram.salt);
        out.put_slice(&scram.stored_key);
        out.put_slice(&scram.server_key);
    }
}

fn rule(reader: &mut PayloadReader<'_>) -> Option<AclRule> {
    let (principal, kind) = (reader.text()?, ResourceKind::from_code(reader.u8()?)?);
    let (name, prefix) = (reader.text()?, flag(reader)?);
    let operation = match reader.u8()? {
        0 => None,
        code => Some(Operation::from_code(code)?),
    };
    Some(AclRule { principal, kind, name, prefix, operation, allow: flag(reader)? })
}

fn put_rule(out: &mut BytesMut, rule: &AclRule) {
    put_text(out, &rule.principal);
    out.put_u8(rule.kind as u8);
    put_text(out, &rule.name);
    out.put_u8(u8::from(rule.prefix));
    out.put_u8(rule.operation.map_or(0, |operation| operation as u8));
    out.put_u8(u8::from(rule.allow));
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn a_rule() -> AclRule {
        AclRule {
            principal: "al".to_owned(),
            kind: ResourceKind::Group,
            name: "g-".to_owned(),
            prefix: true,
            operation: Some(Operation::Read),
            allow: false,
        }
    }

    const RULE: &[u8] = &[2, 0, b'a', b'l', 2, 2, 0, b'g', b'-', 1, 1, 0];

    #[test]
    fn requests_are_golden() {
        let scram = ScramVerifier { iterations: 4096, salt: [1; 16], stored_key: [2; 32], server_key: [3; 32] };
        let all = Credentials { token_hash: Some([9; 32]), scram: Some(scram) };
        let golden_all = [&[1u8][..], &[9; 32], &[1, 0, 16, 0, 0], &[1; 16], &[2; 32], &[3; 32]].concat();
        let name = || "al".to_owned();
        let cases = [
            (
                SecurityRequest::AddUser { name: name(), credentials: all },
                [&[1u8, 2, 0, b'a', b'l'][..], &golden_all].concat(),
            ),
            (SecurityRequest::RemoveUser { name: name() }, vec![2, 2, 0, b'a', b'l']),
            (
                SecurityRequest::SetCredentials { name: name(), credentials: Credentials::default() },
                vec![3, 2, 0, b'a', b'l', 0, 0],
            ),
            (SecurityRequest::ListUsers, vec![4]),
            (SecurityRequest::AddRule(a_rule()), [&[5u8][..], RULE].concat()),
            (SecurityRequest::RemoveRule(a_rule()), [&[6u8][..], RULE].concat()),
            (SecurityRequest::ListRules, vec![7]),
        ];
        for (request, golden) in cases {
            let mut out = BytesMut::new();
            request.encode(&mut out);
            assert_eq!(&out[..], &golden[..], "{request:?}");
            for cut in 0..golden.len() {
                assert_eq!(SecurityRequest::decode(&golden[..cut]), None, "{request:?} cut at {cut}");
            }
            assert_eq!(SecurityRequest::decode(&golden), Some(request));
        }
    }

    #[test]
    fn replies_are_golden() {
        let user = UserDescription { name: "al".to_owned(), has_token: true, has_password: false };
        let cases = [
            (SecurityReply::Done { what: 5 }, vec![5]),
            (SecurityReply::Users(vec![user]), vec![4, 1, 0, 0, 0, 2, 0, b'a', b'l', 1, 0]),
            (SecurityReply::Rules(vec![a_rule()]), [&[7u8, 1, 0, 0, 0][..], RULE].concat()),
        ];
        for (reply, golden) in cases {
            let mut out = BytesMut::new();
            reply.encode(&mut out);
            assert_eq!(&out[..], &golden[..], "{reply:?}");
            assert_eq!(SecurityReply::decode(&golden), Some(reply));
        }
    }

    proptest! {
        #[test]
        fn hostile_payloads_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = SecurityRequest::decode(&bytes);
            let _ = SecurityReply::decode(&bytes);
        }
    }
}
