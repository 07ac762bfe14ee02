//! Which right each request needs: the one table.

use crate::view::ClusterView;
use lance_cluster::metadata::name::DEFAULT_TOPIC_NAME;
use lance_messages::id::TopicId;
use lance_messages::security::{Operation, ResourceKind};
use lance_messages::wire::Request;
use lance_messages::wire::cluster::ClusterCommand;
use lance_messages::wire::security::SecurityRequest;
use lance_messages::wire::tee::TeeRequest;

/// Whether a request may come from anybody: what says who somebody is, and what asks for nothing.
pub fn is_open(request: &Request) -> bool {
    matches!(
        request,
        Request::Ignored
            | Request::Keepalive
            | Request::Hello(_)
            | Request::Authenticate { .. }
            | Request::ScramStep(_)
    )
}

/// Asks `may` for every right that a request needs; whether all were granted.
///
/// A topic that does not exist needs none: nothing is done to it, and the answer says so.
pub fn every_right(
    request: &Request,
    view: &ClusterView,
    may: &mut impl FnMut(Operation, ResourceKind, &str) -> bool,
) -> bool {
    use Operation::{Admin, Alter, Create, Delete, Describe, Read, Write};
    match request {
        Request::Ignored
        | Request::Keepalive
        | Request::Hello(_)
        | Request::Authenticate { .. }
        | Request::ScramStep(_) => true,
        // Whoever has authenticated: the reply holds only what it may see, or its own number.
        Request::ListTopics | Request::InitProducer(_) => true,
        Request::Produce(produce) if produce.topic == TopicId(0) && !view.topics.contains_key(&TopicId(0)) => {
            let name = DEFAULT_TOPIC_NAME;
            may(Write, ResourceKind::Topic, name) && may(Create, ResourceKind::Topic, name)
        }
        Request::Produce(produce) => on_topic(produce.topic, Write, view, may),
        Request::Fetch(fetch) => on_topic(fetch.topic, Read, view, may),
        Request::FetchPartitions(fetch) => {
            fetch.partitions.iter().all(|asked| on_topic(asked.partition.topic, Read, view, may))
        }
        Request::LookupOffset(look_up) => on_topic(look_up.partition.topic, Describe, view, may),
        Request::Subscribe(subscribe) => on_topic(subscribe.topic, Read, view, may),
        Request::Unsubscribe { topic, .. } => on_topic(*topic, Read, view, may),
        Request::CommitOffset(commit) => on_topic(commit.topic, Read, view, may),
        Request::CreateTopic { name } | Request::CreateTopicWithRetention { name, .. } => {
            may(Create, ResourceKind::Topic, name)
        }
        Request::CreateTopicWithConfig(create) => may(Create, ResourceKind::Topic, &create.name),
        Request::DeleteTopic { topic } => on_topic(*topic, Delete, view, may),
        Request::GetTopic { topic } => on_topic(*topic, Describe, view, may),
        Request::SetRetention { topic, .. } => on_topic(*topic, Alter, view, may),
        Request::AlterTopic(alter) => on_topic(alter.topic, Alter, view, may),
        Request::Metadata(wanted) => wanted.topics.iter().all(|name| may(Describe, ResourceKind::Topic, name)),
        Request::GetClusterStatus | Request::DescribeCluster => may(Describe, ResourceKind::Cluster, ""),
        Request::ClusterCommand(ClusterCommand::SetTopicMode { topic, .. })
        | Request::ClusterCommand(ClusterCommand::SetReplicationFactor { topic, .. }) => {
            on_topic(*topic, Alter, view, may)
        }
        // Who forwards here asks for the rules, to close no circle.
        Request::TopicTee(TeeRequest::List { .. }) => may(Describe, ResourceKind::Cluster, ""),
        Request::ClusterCommand(_) | Request::TopicTee(_) | Request::Security(_) => {
            may(Admin, ResourceKind::Cluster, "")
        }
        Request::GroupHeartbeat(heartbeat) => {
            may(Read, ResourceKind::Group, &heartbeat.group)
                && heartbeat.topics.iter().all(|name| may(Read, ResourceKind::Topic, name))
        }
        Request::GroupCommit(commit) => {
            may(Read, ResourceKind::Group, &commit.group)
                && commit.offsets.iter().all(|offset| on_topic(offset.partition.topic, Read, view, may))
        }
        Request::GroupOffsets(wanted) => may(Describe, ResourceKind::Group, &wanted.group),
        Request::DescribeGroups(describe) if describe.groups.is_empty() => may(Describe, ResourceKind::Cluster, ""),
        Request::DescribeGroups(describe) => {
            describe.groups.iter().all(|group| may(Describe, ResourceKind::Group, group))
        }
        Request::DeleteGroup { group } => may(Delete, ResourceKind::Group, group),
    }
}

fn on_topic(
    topic: TopicId,
    operation: Operation,
    view: &ClusterView,
    may: &mut impl FnMut(Operation, ResourceKind, &str) -> bool,
) -> bool {
    view.topics.get(&topic).is_none_or(|topic| may(operation, ResourceKind::Topic, &topic.name))
}

/// What the audit log says of a request that changes something for others; `None` for those that move records, or ask.
pub fn admin_action(request: &Request, view: &ClusterView) -> Option<String> {
    let named = |topic: &TopicId| view.topics.get(topic).map_or_else(|| topic.to_string(), |topic| topic.name.clone());
    Some(match request {
        Request::CreateTopic { name } | Request::CreateTopicWithRetention { name, .. } => {
            format!("create topic {name}")
        }
        Request::CreateTopicWithConfig(create) => format!("create topic {}", create.name),
        Request::DeleteTopic { topic } => format!("delete topic {}", named(topic)),
        Request::SetRetention { topic, .. } => format!("set retention of topic {}", named(topic)),
        Request::AlterTopic(alter) => format!("alter topic {}", named(&alter.topic)),
        Request::ClusterCommand(order) => format!("{order:?}"),
        Request::DeleteGroup { group } => format!("delete group {group}"),
        Request::TopicTee(TeeRequest::List { .. }) => return None,
        Request::TopicTee(tee) => format!("{tee:?}"),
        Request::Security(security) => match security {
            SecurityRequest::AddUser { name, .. } => format!("add user {name}"),
            SecurityRequest::RemoveUser { name } => format!("remove user {name}"),
            SecurityRequest::SetCredentials { name, .. } => format!("set credentials of user {name}"),
            SecurityRequest::AddRule(rule) => format!("add rule {rule:?}"),
            SecurityRequest::RemoveRule(rule) => format!("remove rule {rule:?}"),
            SecurityRequest::ListUsers | SecurityRequest::ListRules => return None,
        },
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::network::session::access::{Access, AuthGate};
    use crate::view::TopicView;
    use bytes::Bytes;
    use lance_cluster::metadata::state::MetadataState;
    use lance_cluster::metadata::{MetadataCommand, ReplicationMode, TopicConfig};
    use lance_messages::error_code::ErrorCode;
    use lance_messages::id::{NodeId, TeeId, TopicPartition};
    use lance_messages::security::{AclRule, Credentials, token_hash};
    use lance_messages::wire::fetch::{Fetch, FetchList, FetchPartition, FetchPartitions};
    use lance_messages::wire::group::{DescribeGroups, GroupCommit, GroupHeartbeat, GroupOffset, GroupOffsetsWanted};
    use lance_messages::wire::hello::InitProducer;
    use lance_messages::wire::lookup::{LookupOffset, LookupTarget};
    use lance_messages::wire::produce::Produce;
    use lance_messages::wire::request::{CommitOffset, Subscribe};
    use lance_messages::wire::topics::{AlterTopic, CreateTopicWithConfig, MetadataRequest, TopicMode};
    use std::sync::Arc;

    const TOPIC: TopicId = TopicId(7);
    const TOKENS: [&str; 2] = ["token-of-the-bootstrap-admin", "a-user's-token-is-long-too"];

    fn state(rules: &[AclRule]) -> MetadataState {
        let mut state = MetadataState::new();
        let credentials = Credentials { token_hash: Some(token_hash(TOKENS[1])), scram: None };
        let user = MetadataCommand::AddUser { name: "al".into(), credentials };
        let rules = rules.iter().cloned().map(|rule| MetadataCommand::AddAcl { rule });
        for (index, command) in (1..).zip(std::iter::once(user).chain(rules)) {
            assert!(state.apply(index, &command).answer.is_ok(), "{command:?}");
        }
        state
    }

    fn view(state: &MetadataState) -> ClusterView {
        let mut view = ClusterView::new(state, NodeId(1), None, 1);
        let config = TopicConfig {
            partitions: 1,
            replication_factor: 1,
            mode: ReplicationMode::L1,
            max_age_secs: 0,
            max_bytes: 0,
        };
        view.insert(TopicView {
            id: TOPIC,
            name: "orders".into(),
            created_at: 0,
            topic_epoch: 1,
            config,
            partitions: vec![(None, lance_messages::id::LeaderEpoch(0))],
            members: Vec::new(),
        });
        view
    }

    fn gate() -> Arc<AuthGate> {
        let secret = Some("the secret of the cluster");
        Arc::new(AuthGate::new(Some(TOKENS[0]), secret, ["root".to_owned()], [1; 32]))
    }

    fn rule(kind: ResourceKind, name: &str, operation: Operation) -> AclRule {
        let (principal, name) = ("al".to_owned(), name.to_owned());
        AclRule { principal, kind, name, prefix: false, operation: Some(operation), allow: true }
    }

    /// Every command, with the rules that it takes; those without any need somebody, and nothing else.
    fn table() -> Vec<(Request, Vec<AclRule>)> {
        [of_records_and_topics(), of_reading(), of_groups_and_the_cluster()].concat()
    }

    fn on_topic(operation: Operation) -> Vec<AclRule> {
        vec![rule(ResourceKind::Topic, "orders", operation)]
    }

    fn of_records_and_topics() -> Vec<(Request, Vec<AclRule>)> {
        let name = || "orders".to_owned();
        let produce = |topic| {
            Request::Produce(Produce {
                topic,
                batch_id: 1,
                timestamp: 0,
                record_count: 1,
                compression: lance_messages::wire::compression::Compression::None,
                records: Bytes::from_static(b"x"),
                records_crc: 0,
            })
        };
        let create = CreateTopicWithConfig {
            name: name(),
            partitions: None,
            replication_factor: None,
            mode: None,
            max_age_secs: None,
            max_bytes: None,
        };
        let alter = AlterTopic { topic: TOPIC, partitions: None, max_age_secs: None, max_bytes: None };
        let default_topic = |operation| rule(ResourceKind::Topic, DEFAULT_TOPIC_NAME, operation);
        vec![
            (produce(TOPIC), on_topic(Operation::Write)),
            (produce(TopicId(0)), vec![default_topic(Operation::Write), default_topic(Operation::Create)]),
            (Request::CreateTopic { name: name() }, on_topic(Operation::Create)),
            (
                Request::CreateTopicWithRetention { name: name(), max_age_secs: 0, max_bytes: 0 },
                on_topic(Operation::Create),
            ),
            (Request::CreateTopicWithConfig(create), on_topic(Operation::Create)),
            (Request::DeleteTopic { topic: TOPIC }, on_topic(Operation::Delete)),
            (Request::ListTopics, Vec::new()),
            (Request::GetTopic { topic: TOPIC }, on_topic(Operation::Describe)),
            (Request::SetRetention { topic: TOPIC, max_age_secs: 0, max_bytes: 0 }, on_topic(Operation::Alter)),
            (Request::AlterTopic(alter), on_topic(Operation::Alter)),
        ]
    }

    fn of_reading() -> Vec<(Request, Vec<AclRule>)> {
        let (partition, consumer_id) = (TopicPartition::new(TOPIC, 0), 1);
        let fetch = FetchPartition { partition, offset: 0, max_bytes: 1, near: false };
        let name = || "orders".to_owned();
        vec![
            (Request::Fetch(Fetch { topic: TOPIC, offset: 0, max_bytes: 1 }), on_topic(Operation::Read)),
            (
                Request::FetchPartitions(FetchPartitions {
                    max_wait_ms: 0,
                    min_bytes: 0,
                    max_bytes: 1,
                    partitions: FetchList::new(&[fetch]),
                    rack: String::new(),
                }),
                on_topic(Operation::Read),
            ),
            (
                Request::Subscribe(Subscribe { topic: TOPIC, start_offset: 0, max_batch_bytes: 0, consumer_id }),
                on_topic(Operation::Read),
            ),
            (Request::Unsubscribe { topic: TOPIC, consumer_id }, on_topic(Operation::Read)),
            (Request::CommitOffset(CommitOffset { topic: TOPIC, consumer_id, offset: 1 }), on_topic(Operation::Read)),
            (Request::InitProducer(InitProducer { existing: None }), Vec::new()),
            (
                Request::LookupOffset(LookupOffset { partition, target: LookupTarget::Latest }),
                on_topic(Operation::Describe),
            ),
            (
                Request::Metadata(MetadataRequest { topics: vec![name()], create_missing: false }),
                on_topic(Operation::Describe),
            ),
        ]
    }

    fn of_groups_and_the_cluster() -> Vec<(Request, Vec<AclRule>)> {
        let on_group = |operation| vec![rule(ResourceKind::Group, "g", operation)];
        let on_cluster = |operation| vec![rule(ResourceKind::Cluster, "", operation)];
        let reads_in_group = || [on_group(Operation::Read), on_topic(Operation::Read)].concat();
        let (name, group) = (|| "orders".to_owned(), || "g".to_owned());
        let offset = GroupOffset { partition: TopicPartition::new(TOPIC, 0), offset: 1, metadata: String::new() };
        vec![
            (Request::GetClusterStatus, on_cluster(Operation::Describe)),
            (Request::DescribeCluster, on_cluster(Operation::Describe)),
            (
                Request::ClusterCommand(ClusterCommand::Drain { node: NodeId(1), on: true }),
                on_cluster(Operation::Admin),
            ),
            (
                Request::ClusterCommand(ClusterCommand::SetTopicMode { topic: TOPIC, mode: TopicMode::L2 }),
                on_topic(Operation::Alter),
            ),
            (
                Request::GroupHeartbeat(GroupHeartbeat { group: group(), topics: vec![name()], ..Default::default() }),
                reads_in_group(),
            ),
            (
                Request::GroupCommit(GroupCommit { group: group(), offsets: vec![offset], ..Default::default() }),
                reads_in_group(),
            ),
            (
                Request::GroupOffsets(GroupOffsetsWanted { group: group(), partitions: Vec::new() }),
                on_group(Operation::Describe),
            ),
            (Request::DescribeGroups(DescribeGroups { groups: vec![group()] }), on_group(Operation::Describe)),
            (Request::DescribeGroups(DescribeGroups { groups: Vec::new() }), on_cluster(Operation::Describe)),
            (Request::DeleteGroup { group: group() }, on_group(Operation::Delete)),
            (Request::TopicTee(TeeRequest::List { topic: None }), on_cluster(Operation::Describe)),
            (Request::TopicTee(TeeRequest::Remove { topic: TopicId(1), tee: TeeId(1) }), on_cluster(Operation::Admin)),
            (Request::Security(SecurityRequest::ListUsers), on_cluster(Operation::Admin)),
            (Request::Security(SecurityRequest::RemoveUser { name: "al".into() }), on_cluster(Operation::Admin)),
        ]
    }

    fn of_token(token: &str, view: &ClusterView) -> Access {
        let mut access = Access::new(Some(gate()), None);
        assert!(access.authenticate(token.as_bytes(), &view.security).0);
        access
    }

    #[test]
    fn each_principal_may_exactly_what_the_table_says() {
        for (request, rules) in table() {
            let (bare, ruled) = (state(&[]), state(&rules));
            let (bare, ruled) = (view(&bare), view(&ruled));
            let denied = Err(ErrorCode::PermissionDenied);
            let nobody = Access::new(Some(gate()), None);
            assert_eq!(nobody.check(&request, &ruled), Err(ErrorCode::AuthenticationRequired), "{request:?}");
            assert_eq!(Access::default().check(&request, &bare), Ok(()), "without a gate: {request:?}");
            assert_eq!(of_token(TOKENS[0], &bare).check(&request, &bare), Ok(()), "bootstrap: {request:?}");
            let node = crate::network::session::access::node_token(b"the secret of the cluster");
            assert_eq!(of_token(&node, &bare).check(&request, &bare), Ok(()), "a node: {request:?}");
            let root = Access::new(Some(gate()), Some(Arc::from("root")));
            assert_eq!(root.check(&request, &bare), Ok(()), "a superuser by certificate: {request:?}");
            let expected = if rules.is_empty() { Ok(()) } else { denied };
            assert_eq!(of_token(TOKENS[1], &bare).check(&request, &bare), expected, "without rules: {request:?}");
            assert_eq!(of_token(TOKENS[1], &ruled).check(&request, &ruled), Ok(()), "with its rules: {request:?}");
            let by_certificate = Access::new(Some(gate()), Some(Arc::from("al")));
            assert_eq!(by_certificate.check(&request, &ruled), Ok(()), "by certificate: {request:?}");
            let stranger = Access::new(Some(gate()), Some(Arc::from("eve")));
            assert_eq!(stranger.check(&request, &ruled), expected, "somebody else: {request:?}");
            for missing in 0..rules.len() {
                let mut fewer = rules.clone();
                fewer.remove(missing);
                let fewer = state(&fewer);
                let fewer = view(&fewer);
                assert_eq!(of_token(TOKENS[1], &fewer).check(&request, &fewer), denied, "{request:?}");
                let mut denies = rules.clone();
                denies.push(AclRule { allow: false, ..rules[missing].clone() });
                let denies = state(&denies);
                let denies = view(&denies);
                assert_eq!(of_token(TOKENS[1], &denies).check(&request, &denies), denied, "deny wins: {request:?}");
            }
        }
    }

    #[test]
    fn what_says_who_somebody_is_may_come_from_anybody() {
        let state = state(&[]);
        let nobody = Access::new(Some(gate()), None);
        for request in [Request::Ignored, Request::Keepalive, Request::ScramStep(String::new())] {
            assert_eq!(nobody.check(&request, &view(&state)), Ok(()), "{request:?}");
        }
    }

    #[test]
    fn a_removed_user_and_an_old_token_are_nobody() {
        let mut state = state(&[]);
        let access = of_token(TOKENS[1], &view(&state));
        assert_eq!(access.check(&Request::ListTopics, &view(&state)), Ok(()));
        let credentials = Credentials { token_hash: Some([5; 32]), scram: None };
        state.apply(50, &MetadataCommand::SetCredentials { name: "al".into(), credentials });
        let required = Err(ErrorCode::AuthenticationRequired);
        assert_eq!(access.check(&Request::ListTopics, &view(&state)), required);
        state.apply(51, &MetadataCommand::RemoveUser { name: "al".into() });
        assert_eq!(access.check(&Request::ListTopics, &view(&state)), required);
        state.apply(52, &MetadataCommand::AddUser { name: "al".into(), credentials: Credentials::default() });
        assert_eq!(access.check(&Request::ListTopics, &view(&state)), required, "another user of the same name");
    }

    #[test]
    fn a_wrong_token_ends_what_was_before_and_five_end_the_connection() {
        let state = state(&[]);
        let view = view(&state);
        let mut access = of_token(TOKENS[0], &view);
        assert_eq!(access.authenticate(b"", &view.security), (false, "No token provided"));
        assert_eq!(access.check(&Request::ListTopics, &view), Err(ErrorCode::AuthenticationRequired));
        for _ in 0..4 {
            assert!(!access.is_spent());
            assert_eq!(access.authenticate(b"guess", &view.security), (false, "Invalid token"));
        }
        assert!(access.is_spent());
    }
}
