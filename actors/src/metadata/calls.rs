//! From what a session asks to the command that is proposed.

use crate::network::session::MetadataCall;
use crate::network::session::answers::CallFailure;
use crate::view::ClusterView;
use lance_cluster::metadata::name::DEFAULT_TOPIC_NAME;
use lance_cluster::metadata::{MetadataAnswer, MetadataCommand, ReplicationMode, TopicConfig};
use lance_messages::id::TopicId;
use lance_messages::wire::topics::{CreateTopicWithConfig, TopicMode};

/// The command for a call; `Err` is an answer that needs no command.
pub fn command_for(
    call: MetadataCall,
    view: &ClusterView,
    defaults: &TopicConfig,
    now_secs: u64,
) -> Result<MetadataCommand, Result<MetadataAnswer, CallFailure>> {
    match call {
        MetadataCall::EnsureDefaultTopic if view.topics.contains_key(&TopicId(0)) => {
            Err(Ok(MetadataAnswer::TopicCreated { topic: TopicId(0) }))
        }
        MetadataCall::EnsureDefaultTopic => Ok(create(DEFAULT_TOPIC_NAME.to_owned(), *defaults, now_secs)),
        MetadataCall::CreateTopic(wanted) => {
            let config = config_for(&wanted, defaults);
            Ok(create(wanted.name, config, now_secs))
        }
        MetadataCall::DeleteTopic(topic) => Ok(MetadataCommand::DeleteTopic { topic, deleted_at_secs: now_secs }),
        MetadataCall::AlterTopic(alter) => Ok(MetadataCommand::AlterTopic {
            topic: alter.topic,
            partitions: alter.partitions,
            max_age_secs: alter.max_age_secs,
            max_bytes: alter.max_bytes,
        }),
        MetadataCall::InitProducer(existing) => Ok(MetadataCommand::InitProducer {
            existing: existing.map(|producer| (producer.id, producer.epoch)),
            now_secs,
        }),
    }
}

fn create(name: String, config: TopicConfig, created_at_secs: u64) -> MetadataCommand {
    MetadataCommand::CreateTopic { name, config, created_at_secs, request: 0 }
}

fn config_for(wanted: &CreateTopicWithConfig, defaults: &TopicConfig) -> TopicConfig {
    TopicConfig {
        partitions: wanted.partitions.unwrap_or(defaults.partitions),
        replication_factor: wanted.replication_factor.unwrap_or(defaults.replication_factor),
        mode: match wanted.mode {
            Some(TopicMode::L1) => ReplicationMode::L1,
            Some(TopicMode::L2) => ReplicationMode::L2,
            None => defaults.mode,
        },
        max_age_secs: wanted.max_age_secs.unwrap_or(defaults.max_age_secs),
        max_bytes: wanted.max_bytes.unwrap_or(defaults.max_bytes),
    }
}
