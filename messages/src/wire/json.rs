//! The JSON bodies of 1.0 replies: compact, keys in alphabetical order.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// A topic, as in replies to create, get and list.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TopicBody {
    /// Seconds since the Unix epoch.
    pub created_at: u64,
    /// Topic id.
    pub id: u32,
    /// Only in the reply to CreateTopicWithRetention; 0 = unlimited.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_age_secs: Option<u64>,
    /// Only in the reply to CreateTopicWithRetention; 0 = unlimited.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_bytes: Option<u64>,
    /// Topic name.
    pub name: String,
    /// Starts at 1.
    #[serde(default)]
    pub topic_epoch: u64,
}

/// Reply to ListTopics.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TopicsBody {
    /// All topics, by id.
    pub topics: Vec<TopicBody>,
}

/// Reply to DeleteTopic.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeletedBody {
    /// Topic id.
    pub deleted: u32,
}

/// Reply to SetRetention.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RetentionBody {
    /// 0 = unlimited.
    pub max_age_secs: u64,
    /// 0 = unlimited.
    pub max_bytes: u64,
    /// Topic id.
    pub topic_id: u32,
}

/// Reply to GetClusterStatus.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterStatusBody {
    /// Raft term.
    pub current_term: u64,
    /// Nodes heard of lately, this one included.
    pub healthy_nodes: u64,
    /// Whether this node leads.
    pub is_leader: bool,
    /// Who leads.
    pub leader_id: Option<u64>,
    /// "standalone" alone, else absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mode: Option<String>,
    /// All nodes.
    pub node_count: u64,
    /// This node.
    pub node_id: u64,
    /// State of each peer by node id.
    pub peer_states: BTreeMap<String, String>,
    /// Whether a majority is there.
    pub quorum_available: bool,
}

/// Compact JSON. These bodies always serialise: plain structs with text keys.
pub fn to_json(body: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(body).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(body: &impl Serialize) -> String {
        String::from_utf8(to_json(body)).unwrap()
    }

    fn alpha() -> TopicBody {
        TopicBody {
            created_at: 1_700_000_000,
            id: 1,
            max_age_secs: None,
            max_bytes: None,
            name: "alpha".to_owned(),
            topic_epoch: 1,
        }
    }

    #[test]
    fn bodies_are_byte_exact() {
        assert_eq!(text(&alpha()), r#"{"created_at":1700000000,"id":1,"name":"alpha","topic_epoch":1}"#);
        assert_eq!(
            text(&TopicsBody { topics: vec![alpha()] }),
            r#"{"topics":[{"created_at":1700000000,"id":1,"name":"alpha","topic_epoch":1}]}"#
        );
        let retained = TopicBody { max_age_secs: Some(60), max_bytes: Some(0), ..alpha() };
        assert_eq!(
            text(&retained),
            r#"{"created_at":1700000000,"id":1,"max_age_secs":60,"max_bytes":0,"name":"alpha","topic_epoch":1}"#
        );
        assert_eq!(text(&DeletedBody { deleted: 1 }), r#"{"deleted":1}"#);
        assert_eq!(
            text(&RetentionBody { max_age_secs: 1, max_bytes: 2, topic_id: 3 }),
            r#"{"max_age_secs":1,"max_bytes":2,"topic_id":3}"#
        );
    }

    #[test]
    fn cluster_status_is_byte_exact() {
        let mut status = ClusterStatusBody {
            current_term: 1,
            healthy_nodes: 3,
            is_leader: true,
            leader_id: Some(1),
            mode: None,
            node_count: 3,
            node_id: 1,
            peer_states: BTreeMap::from([("0".to_owned(), "Connected".to_owned())]),
            quorum_available: true,
        };
        assert_eq!(
            text(&status),
            r#"{"current_term":1,"healthy_nodes":3,"is_leader":true,"leader_id":1,"node_count":3,"node_id":1,"peer_states":{"0":"Connected"},"quorum_available":true}"#
        );
        status.mode = Some("standalone".to_owned());
        status.peer_states.clear();
        assert!(text(&status).contains(r#""leader_id":1,"mode":"standalone","node_count":3"#));
        assert!(text(&status).contains(r#""peer_states":{}"#));
    }
}
