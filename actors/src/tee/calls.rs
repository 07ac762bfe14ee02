//! What clients ask of rules: add, remove, list.

use super::actor::TeeActor;
use super::core::status::FlowStatus;
use super::core::walk::{LoopWalk, WalkStep};
use super::target::{self, Caller};
use crate::mailbox::Mailbox;
use crate::metadata::actor::{MetadataActor, ProposeChange};
use crate::network::session::answers::CallFailure;
use crate::view::ClusterView;
use actix::prelude::*;
use hashbrown::HashMap;
use lance_cluster::metadata::{MetadataAnswer, MetadataCommand, MetadataRefusal, TeeRule, TeeTarget};
use lance_messages::error_code::ErrorCode;
use lance_messages::id::{TeeId, TopicId};
use lance_messages::wire::tee::{AddTee, TeeDescription, TeeFrom, TeeList, TeePartition, TeeReply, TeeRequest};

/// A client's request about rules.
#[derive(Debug, Message)]
#[rtype(result = "Result<TeeReply, CallFailure>")]
pub struct TeeCall(pub TeeRequest);

/// Asks how far every partition is that this node forwards.
#[derive(Clone, Copy, Debug, Message)]
#[rtype(result = "Vec<FlowStatus>")]
pub struct ListFlows;

/// Most partitions of one listing; the others are left out.
const MAX_LISTED: usize = 20_000;
/// Longest error of one partition in a listing.
const MAX_ERROR_CHARS: usize = 200;

impl Handler<ListFlows> for TeeActor {
    type Result = Vec<FlowStatus>;

    fn handle(&mut self, _: ListFlows, _: &mut Self::Context) -> Self::Result {
        self.life.vitals.message_taken();
        self.status()
    }
}

impl Handler<TeeCall> for TeeActor {
    type Result = ResponseFuture<Result<TeeReply, CallFailure>>;

    fn handle(&mut self, message: TeeCall, _: &mut Self::Context) -> Self::Result {
        self.life.vitals.message_taken();
        let (view, metadata) = (self.setup.view.load_full(), self.setup.metadata.clone());
        match message.0 {
            TeeRequest::List { topic } => {
                let list = list(&view, topic, self.status());
                Box::pin(async move { Ok(TeeReply::List(list)) })
            }
            TeeRequest::Remove { topic, tee } => Box::pin(async move {
                match propose(&metadata, MetadataCommand::RemoveTee { topic, tee }).await? {
                    MetadataAnswer::TeeRemoved { tee } => Ok(TeeReply::Removed(tee)),
                    _ => Err(internal()),
                }
            }),
            TeeRequest::Add(_) if !self.setup.enabled => Box::pin(async move {
                let text = "tee forwarding is switched off on this node ([tee] enabled = false)".to_owned();
                Err(CallFailure::Failed(ErrorCode::Unsupported, text))
            }),
            TeeRequest::Add(wanted) => {
                let (caller, now_ns) = (self.caller(), self.setup.clock.now().wall_ns);
                Box::pin(async move { add(&view, &metadata, wanted, &caller, now_ns).await })
            }
        }
    }
}

impl TeeActor {
    fn status(&self) -> Vec<FlowStatus> {
        let wall_ns = self.setup.clock.now().wall_ns;
        self.core.as_ref().map_or_else(Vec::new, |core| core.status(wall_ns))
    }
}

fn internal() -> CallFailure {
    CallFailure::Failed(ErrorCode::Internal, ErrorCode::Internal.text().to_owned())
}

async fn propose(metadata: &Mailbox<MetadataActor>, command: MetadataCommand) -> Result<MetadataAnswer, CallFailure> {
    let unavailable = |_| CallFailure::Failed(ErrorCode::Unavailable, "no metadata".to_owned());
    metadata.send(ProposeChange(command)).await.map_err(unavailable)?
}

/// Looks for circles, then proposes the rule.
async fn add(
    view: &ClusterView,
    metadata: &Mailbox<MetadataActor>,
    wanted: AddTee,
    caller: &Caller,
    now_ns: u64,
) -> Result<TeeReply, CallFailure> {
    let topic = wanted.topic;
    let not_found = CallFailure::Refused(MetadataRefusal::TopicNotFound { topic });
    let name = &view.topics.get(&topic).ok_or(not_found)?.name;
    let cluster = follow(view, name, &wanted, caller).await?;
    let AddTee { target, bytes_per_second, from, .. } = wanted;
    let from_ns = match from {
        TeeFrom::Earliest => 0,
        TeeFrom::Latest => now_ns,
    };
    let target = TeeTarget { addresses: target.addresses, topic: target.topic, cluster };
    let created_at_secs = now_ns / 1_000_000_000;
    let rule = TeeRule { topic, target, bytes_per_second, from_ns, created_at_secs };
    match propose(metadata, MetadataCommand::AddTee { rule, own_cluster: view.cluster }).await? {
        MetadataAnswer::TeeAdded { tee } => Ok(TeeReply::Added(tee)),
        _ => Err(internal()),
    }
}

/// Follows the rules from the target on; gives its cluster, unless records would come back.
async fn follow(view: &ClusterView, name: &str, wanted: &AddTee, caller: &Caller) -> Result<u64, CallFailure> {
    let mut walk = LoopWalk::new(view.cluster, name, wanted.target.clone());
    loop {
        match walk.step() {
            WalkStep::Ask(at) => match target::rules(&at.addresses, caller).await {
                Ok(rules) => walk.on_rules(&rules),
                Err(reason) if walk.target_cluster().is_none() => {
                    let text = format!("the target cannot be asked for its rules: {reason}");
                    return Err(CallFailure::Failed(ErrorCode::Unavailable, text));
                }
                Err(reason) => {
                    tracing::warn!(%reason, topic = name, "a cluster behind the target of a new rule cannot be asked");
                    walk.on_silence();
                }
            },
            WalkStep::Circle(through) => {
                let refusal = MetadataRefusal::TeeCycle { topic: name.to_owned(), through };
                return Err(CallFailure::Refused(refusal));
            }
            WalkStep::Free => return walk.target_cluster().ok_or_else(internal),
        }
    }
}

fn list(view: &ClusterView, topic: Option<TopicId>, status: Vec<FlowStatus>) -> TeeList {
    let mut by_rule: HashMap<TeeId, Vec<TeePartition>> = HashMap::new();
    for flow in status.into_iter().take(MAX_LISTED) {
        let mut partition = flow.listed();
        if let Some((at, _)) = partition.error.char_indices().nth(MAX_ERROR_CHARS) {
            partition.error.truncate(at);
        }
        by_rule.entry(flow.tee).or_default().push(partition);
    }
    let rules = view.tees.iter().filter(|(_, rule)| topic.is_none_or(|topic| rule.topic == topic));
    let rules = rules.filter_map(|(id, rule)| {
        Some(TeeDescription {
            id: *id,
            topic: rule.topic,
            topic_name: view.any_topic(rule.topic)?.name.clone(),
            target: lance_messages::wire::tee::TeeTarget {
                addresses: rule.target.addresses.clone(),
                topic: rule.target.topic.clone(),
            },
            target_cluster: rule.target.cluster,
            bytes_per_second: rule.bytes_per_second,
            from_ns: rule.from_ns,
            created_at: rule.created_at_secs,
            partitions: by_rule.remove(id).unwrap_or_default(),
        })
    });
    TeeList { cluster: view.cluster, rules: rules.collect() }
}
