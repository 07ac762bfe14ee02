//! From what a session asks to the command that is proposed.

use crate::network::session::MetadataCall;
use crate::network::session::answers::CallFailure;
use crate::view::{ClusterView, INTERNAL_PREFIX};
use lance_cluster::metadata::name::DEFAULT_TOPIC_NAME;
use lance_cluster::metadata::state::MetadataState;
use lance_cluster::metadata::{MetadataAnswer, MetadataCommand, ReplicationMode, TopicConfig};
use lance_messages::error_code::ErrorCode;
use lance_messages::id::TopicId;
use lance_messages::wire::hello::ProducerEpoch;
use lance_messages::wire::security::SecurityRequest;
use lance_messages::wire::topics::{CreateTopicWithConfig, TopicMode};

/// Copies of a topic where nobody says how many: the fewest that keep a quorum without one.
const USUAL_COPIES: u8 = 3;

/// How many topics and partitions clients may make.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TopicLimits {
    /// Topics, those of the broker itself not counted.
    pub max_topics: usize,
    /// Partitions of one topic.
    pub max_partitions: u16,
}

impl TopicLimits {
    /// Refuses what would go past a limit; what is there already stays as it is.
    pub fn check(&self, call: &MetadataCall, view: &ClusterView) -> Result<(), CallFailure> {
        let partitions = match call {
            MetadataCall::CreateTopic(wanted) => {
                let is_new = view.topic_by_name(&wanted.name).is_none();
                if is_new && view.topics.len() >= self.max_topics && !wanted.name.starts_with(INTERNAL_PREFIX) {
                    let text = format!(
                        "Limit reached: there are {} topics, allowed are {}",
                        view.topics.len(),
                        self.max_topics
                    );
                    return Err(CallFailure::Failed(ErrorCode::LimitReached, text));
                }
                wanted.partitions
            }
            MetadataCall::AlterTopic(alter) => alter.partitions,
            _ => None,
        };
        match partitions.filter(|partitions| *partitions > self.max_partitions) {
            Some(partitions) => {
                let text = format!("Limit reached: {partitions} partitions, a topic may have {}", self.max_partitions);
                Err(CallFailure::Failed(ErrorCode::LimitReached, text))
            }
            None => Ok(()),
        }
    }
}

/// The answer to a producer that comes back and whose epoch this node knows: it keeps it, so that its retries are
/// recognised. Anything else is decided in the metadata log, which this node may lag behind.
pub fn returning_producer(state: &MetadataState, claimed: ProducerEpoch) -> Option<MetadataAnswer> {
    let ProducerEpoch { id: producer, epoch } = claimed;
    (state.producer_epoch(producer) == Some(epoch)).then_some(MetadataAnswer::Producer { producer, epoch })
}

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
        MetadataCall::EnsureDefaultTopic => {
            Ok(create(DEFAULT_TOPIC_NAME.to_owned(), with_copies(*defaults, view), now_secs))
        }
        MetadataCall::CreateTopic(wanted) => {
            let config = with_copies(config_for(&wanted, defaults), view);
            Ok(create(wanted.name, config, now_secs))
        }
        MetadataCall::DeleteTopic(topic) => Ok(MetadataCommand::DeleteTopic { topic, deleted_at_secs: now_secs }),
        MetadataCall::AlterTopic(alter) => Ok(MetadataCommand::AlterTopic {
            topic: alter.topic,
            partitions: alter.partitions,
            max_age_secs: alter.max_age_secs,
            max_bytes: alter.max_bytes,
        }),
        MetadataCall::Cluster(order, _) => {
            let text = format!("this order is not decided here: {order:?}");
            Err(Err(CallFailure::Failed(ErrorCode::Unsupported, text)))
        }
        MetadataCall::Security(change) => security_command(change),
        MetadataCall::InitProducer(None) => Ok(MetadataCommand::InitProducer { existing: None, now_secs }),
        MetadataCall::InitProducer(Some(known)) => {
            Ok(MetadataCommand::BindProducer { producer: known.id, epoch: known.epoch })
        }
    }
}

fn security_command(change: SecurityRequest) -> Result<MetadataCommand, Result<MetadataAnswer, CallFailure>> {
    Ok(match change {
        SecurityRequest::AddUser { name, credentials } => MetadataCommand::AddUser { name, credentials },
        SecurityRequest::SetCredentials { name, credentials } => MetadataCommand::SetCredentials { name, credentials },
        SecurityRequest::RemoveUser { name } => MetadataCommand::RemoveUser { name },
        SecurityRequest::AddRule(rule) => MetadataCommand::AddAcl { rule },
        SecurityRequest::RemoveRule(rule) => MetadataCommand::RemoveAcl { rule },
        SecurityRequest::ListUsers | SecurityRequest::ListRules => {
            let text = "this is answered by the session".to_owned();
            return Err(Err(CallFailure::Failed(ErrorCode::Internal, text)));
        }
    })
}

fn create(name: String, config: TopicConfig, created_at_secs: u64) -> MetadataCommand {
    MetadataCommand::CreateTopic { name, config, created_at_secs, request: 0 }
}

/// `config` with a number of copies where it has none: three, or as many as there are nodes. Those that have yet to
/// register count too, or what is created while a cluster begins would stay with one copy.
fn with_copies(mut config: TopicConfig, view: &ClusterView) -> TopicConfig {
    if config.replication_factor == 0 {
        let nodes = view.nodes.len() + view.allowed.len();
        config.replication_factor = nodes.clamp(1, usize::from(USUAL_COPIES)) as u8;
    }
    config
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

#[cfg(test)]
mod tests {
    use super::*;
    use lance_messages::id::NodeId;
    use lance_messages::wire::topics::AlterTopic;

    fn creation(name: &str, partitions: Option<u16>) -> MetadataCall {
        MetadataCall::CreateTopic(CreateTopicWithConfig {
            name: name.to_owned(),
            partitions,
            replication_factor: None,
            mode: None,
            max_age_secs: None,
            max_bytes: None,
        })
    }

    #[test]
    fn a_topic_that_says_nothing_has_three_copies_or_as_many_as_there_are_nodes() {
        let copies = |nodes: u16, allowed: u16, default: u8| {
            let mut view = ClusterView::default();
            view.nodes = (0..nodes).map(|node| (NodeId(node), String::new())).collect();
            view.allowed = (nodes..nodes + allowed).map(|node| (NodeId(node), String::new())).collect();
            let defaults = TopicConfig { replication_factor: default, ..TopicConfig::default() };
            match command_for(creation("events", None), &view, &defaults, 0) {
                Ok(MetadataCommand::CreateTopic { config, .. }) => config.replication_factor,
                other => panic!("{other:?}"),
            }
        };
        assert_eq!([copies(1, 0, 0), copies(2, 0, 0), copies(3, 0, 0), copies(5, 0, 0)], [1, 2, 3, 3]);
        assert_eq!((copies(1, 2, 0), copies(3, 0, 2)), (3, 2), "all members count, and what is configured is kept");
    }

    fn is_refused(limits: TopicLimits, call: &MetadataCall) -> bool {
        let refused = |failure| matches!(failure, CallFailure::Failed(ErrorCode::LimitReached, _));
        limits.check(call, &ClusterView::default()).is_err_and(refused)
    }

    #[test]
    fn topics_past_the_limit_are_refused_but_not_those_of_the_broker() {
        let full = TopicLimits { max_topics: 0, max_partitions: 8 };
        assert!(is_refused(full, &creation("events", None)));
        assert!(!is_refused(full, &creation("__offsets", None)));
        assert!(!is_refused(TopicLimits { max_topics: 1, ..full }, &creation("events", None)));
    }

    #[test]
    fn only_a_known_epoch_is_bound_without_asking_the_log() {
        let mut state = MetadataState::new();
        state.apply(1, &MetadataCommand::InitProducer { existing: None, now_secs: 1 });
        let id = lance_messages::id::ProducerId(1);
        state.apply(2, &MetadataCommand::InitProducer { existing: Some((id, 0)), now_secs: 1 });
        let claim = |epoch| returning_producer(&state, ProducerEpoch { id, epoch });
        assert!(matches!(claim(1), Some(MetadataAnswer::Producer { epoch: 1, .. })));
        for other in [0, 2, u16::MAX] {
            assert!(claim(other).is_none());
        }
        let stranger = lance_messages::id::ProducerId(7);
        assert!(returning_producer(&state, ProducerEpoch { id: stranger, epoch: 0 }).is_none());
    }

    #[test]
    fn partitions_past_the_limit_are_refused_at_creation_and_later() {
        let limits = TopicLimits { max_topics: 9, max_partitions: 8 };
        let altered = |partitions| {
            MetadataCall::AlterTopic(AlterTopic { topic: TopicId(1), partitions, max_age_secs: None, max_bytes: None })
        };
        assert!(is_refused(limits, &creation("events", Some(9))) && is_refused(limits, &altered(Some(9))));
        assert!(!is_refused(limits, &creation("events", Some(8))) && !is_refused(limits, &altered(None)));
    }
}
