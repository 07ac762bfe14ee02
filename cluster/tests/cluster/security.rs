//! Users, rules, and what they allow.

use lance_cluster::metadata::{MetadataAnswer, MetadataCommand, MetadataRefusal, MetadataState};
use lance_messages::security::{AclRule, Credentials, Operation, ResourceKind, ScramVerifier, token_hash};

fn rule(principal: &str, kind: ResourceKind, name: &str, operation: Option<Operation>) -> AclRule {
    AclRule { principal: principal.into(), kind, name: name.into(), prefix: false, operation, allow: true }
}

fn apply(state: &mut MetadataState, command: MetadataCommand) -> Result<MetadataAnswer, MetadataRefusal> {
    let index = state.applied_index() + 1;
    state.apply(index, &command).answer
}

fn with_token(token: &str) -> Credentials {
    Credentials { token_hash: Some(token_hash(token)), scram: None }
}

#[test]
fn users_are_added_changed_and_removed_and_each_change_is_a_new_version() {
    let mut state = MetadataState::new();
    let add = || MetadataCommand::AddUser { name: "al".into(), credentials: with_token("one") };
    assert_eq!(apply(&mut state, add()), Ok(MetadataAnswer::SecurityChanged));
    assert_eq!(apply(&mut state, add()), Err(MetadataRefusal::UserExists { name: "al".into() }));
    let first = *state.security().user("al").unwrap();
    let set = MetadataCommand::SetCredentials { name: "al".into(), credentials: with_token("two") };
    apply(&mut state, set).unwrap();
    let second = *state.security().user("al").unwrap();
    assert!(second.version > first.version);
    let found = |token: &str| state.security().user_of_token(&token_hash(token), |a, b| a == b).is_some();
    assert!(!found("one") && found("two") && !found(""));
    apply(&mut state, MetadataCommand::RemoveUser { name: "al".into() }).unwrap();
    assert!(state.security().user("al").is_none());
    apply(&mut state, add()).unwrap();
    assert!(state.security().user("al").unwrap().version > second.version, "no version comes twice");
    let none = MetadataCommand::RemoveUser { name: "bo".into() };
    assert_eq!(apply(&mut state, none), Err(MetadataRefusal::UserNotFound { name: "bo".into() }));
    let bytes = state.encode_snapshot().unwrap();
    assert_eq!(MetadataState::decode_snapshot(&bytes).unwrap(), state);
}

#[test]
fn what_no_user_or_rule_can_be_is_refused_and_changes_nothing() {
    let mut state = MetadataState::new();
    for name in ["", "__node", "*", "a b", "a,b", &"x".repeat(256)] {
        let add = MetadataCommand::AddUser { name: name.into(), credentials: Credentials::default() };
        assert!(matches!(apply(&mut state, add), Err(MetadataRefusal::InvalidSecurity { .. })), "{name:?}");
    }
    let scram = ScramVerifier { iterations: 1, salt: [0; 16], stored_key: [0; 32], server_key: [0; 32] };
    let weak = Credentials { token_hash: None, scram: Some(scram) };
    assert!(apply(&mut state, MetadataCommand::AddUser { name: "al".into(), credentials: weak }).is_err());
    for bad in [
        rule("__x", ResourceKind::Topic, "t", None),
        rule("al", ResourceKind::Topic, "", None),
        rule("al", ResourceKind::Cluster, "t", None),
    ] {
        assert!(apply(&mut state, MetadataCommand::AddAcl { rule: bad.clone() }).is_err(), "{bad:?}");
        assert_eq!(apply(&mut state, MetadataCommand::RemoveAcl { rule: bad }), Err(MetadataRefusal::RuleNotFound));
    }
    assert_eq!(state.security().users().count() + state.security().rules().count(), 0);
}

#[test]
fn rules_allow_only_what_they_name_and_a_denial_wins() {
    use Operation::{Admin, Create, Delete, Describe, Read, Write};
    use ResourceKind::{Cluster, Group, Topic};
    let mut state = MetadataState::new();
    let prefixed = AclRule { prefix: true, ..rule("al", Topic, "ord", Some(Read)) };
    let denied = AclRule { allow: false, ..rule("*", Topic, "orders-secret", None) };
    for rule in [
        prefixed,
        rule("al", Topic, "audit", Some(Write)),
        rule("bo", Cluster, "", None),
        rule("*", Group, "g", Some(Read)),
        denied.clone(),
    ] {
        apply(&mut state, MetadataCommand::AddAcl { rule }).unwrap();
    }
    let cases = [
        ("al", Read, Topic, "orders", true),
        ("al", Describe, Topic, "orders", true),
        ("al", Write, Topic, "orders", false),
        ("al", Read, Topic, "or", false),
        ("al", Write, Topic, "audit", true),
        ("al", Describe, Topic, "audit", true),
        ("al", Read, Topic, "audit", false),
        ("al", Read, Topic, "orders-secret", false),
        ("al", Describe, Topic, "orders-secret", false),
        ("al", Admin, Cluster, "", false),
        ("bo", Admin, Cluster, "", true),
        ("bo", Read, Topic, "orders", false),
        ("eve", Read, Group, "g", true),
        ("eve", Delete, Group, "g", false),
        ("", Create, Topic, "orders", false),
    ];
    for (principal, operation, kind, name, expected) in cases {
        let allowed = state.security().allows(principal, operation, kind, name);
        assert_eq!(allowed, expected, "{principal} {operation:?} {kind:?} {name}");
    }
    apply(&mut state, MetadataCommand::RemoveAcl { rule: denied }).unwrap();
    assert!(state.security().allows("al", Read, Topic, "orders-secret"));
}
