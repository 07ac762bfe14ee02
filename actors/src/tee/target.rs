//! One-off questions to targets: which cluster is there, who leads the partitions of the topic, which rules it has.

use super::core::TargetFound;
use crate::outbound::socket::{LinkCredentials, LinkError, LinkHello, LinkSocket, connect};
use hashbrown::HashMap;
use lance_messages::error_code::ErrorCode;
use lance_messages::wire::tee::{TeeList, TeeReply, TeeRequest};
use lance_messages::wire::topics::{CreateTopicWithConfig, MetadataRequest, MetadataResponse, TopicMetadata};
use lance_messages::wire::{Request, Response};
use std::time::Duration;

/// How long one address may take for everything it is asked.
const PATIENCE: Duration = Duration::from_secs(5);

/// As whom targets are called.
pub struct Caller {
    /// What this node says of itself.
    pub hello: LinkHello,
    /// What it proves that with.
    pub credentials: LinkCredentials,
}

/// How often a topic that was just made is looked at until it is led, and the pause between two looks.
const LEADER_LOOKS: usize = 20;
const LEADER_PAUSE: Duration = Duration::from_millis(25);

/// Finds out what is at a target; a topic that is not there is made, with so many partitions.
pub async fn survey(
    addresses: &[String],
    topic: &str,
    partitions: u16,
    caller: &Caller,
) -> Result<TargetFound, String> {
    ask_one_of(addresses, async |address| look(address, topic, partitions, caller).await).await
}

/// The rules of the cluster at these addresses.
pub async fn rules(addresses: &[String], caller: &Caller) -> Result<TeeList, String> {
    ask_one_of(addresses, async |address| {
        list(&mut connect(address, &caller.hello, &caller.credentials).await?.0).await
    })
    .await
}

/// The answer of the first address that gives one, or what each of them failed of.
async fn ask_one_of<T>(addresses: &[String], ask: impl AsyncFn(&str) -> Result<T, LinkError>) -> Result<T, String> {
    let mut failures = Vec::new();
    for address in addresses {
        match tokio::time::timeout(PATIENCE, ask(address)).await.unwrap_or(Err(LinkError::Timeout)) {
            Ok(answer) => return Ok(answer),
            Err(error) => failures.push(format!("{address}: {error}")),
        }
    }
    Err(failures.join("; "))
}

async fn list(socket: &mut LinkSocket) -> Result<TeeList, LinkError> {
    let asked = "TopicTee";
    match socket.ask(Request::TopicTee(TeeRequest::List { topic: None }), asked).await? {
        Response::TopicTee(TeeReply::List(list)) => Ok(list),
        _ => Err(LinkError::NoAnswer { asked }),
    }
}

async fn look(address: &str, topic: &str, partitions: u16, caller: &Caller) -> Result<TargetFound, LinkError> {
    let (mut socket, _) = connect(address, &caller.hello, &caller.credentials).await?;
    let cluster = list(&mut socket).await?.cluster;
    let mut metadata = describe(&mut socket, topic).await?;
    if known(&metadata, topic).is_none() {
        create(&mut socket, topic, partitions).await?;
        metadata = describe(&mut socket, topic).await?;
        // A new topic has leaders in a moment.
        for _ in 0..LEADER_LOOKS {
            if known(&metadata, topic).is_some_and(is_led) {
                break;
            }
            actix_rt::time::sleep(LEADER_PAUSE).await;
            metadata = describe(&mut socket, topic).await?;
        }
    }
    let refused = || LinkError::Refused {
        asked: "Metadata",
        code: ErrorCode::UnknownTopic,
        message: format!("topic '{topic}' is not there"),
    };
    let found = known(&metadata, topic).ok_or_else(refused)?;
    let nodes: HashMap<u16, &String> = metadata.nodes.iter().map(|node| (node.id.0, &node.address)).collect();
    let leader_of = |leader: Option<lance_messages::id::NodeId>| nodes.get(&leader?.0).map(|it| (*it).clone());
    let leaders = found.partitions.iter().map(|partition| leader_of(partition.leader)).collect();
    Ok(TargetFound { cluster, topic: found.id, leaders })
}

fn known<'a>(metadata: &'a MetadataResponse, topic: &str) -> Option<&'a TopicMetadata> {
    metadata.topics.iter().find(|found| found.name == topic && found.error.is_none())
}

fn is_led(topic: &TopicMetadata) -> bool {
    topic.partitions.iter().all(|partition| partition.leader.is_some())
}

async fn describe(socket: &mut LinkSocket, topic: &str) -> Result<MetadataResponse, LinkError> {
    let asked = "Metadata";
    let request = MetadataRequest { topics: vec![topic.to_owned()], create_missing: false };
    match socket.ask(Request::Metadata(request), asked).await? {
        Response::Metadata(metadata) => Ok(metadata),
        _ => Err(LinkError::NoAnswer { asked }),
    }
}

/// With as many partitions as the source has, and what the target gives to topics that do not say more.
async fn create(socket: &mut LinkSocket, topic: &str, partitions: u16) -> Result<(), LinkError> {
    let request = CreateTopicWithConfig {
        name: topic.to_owned(),
        partitions: Some(partitions),
        replication_factor: None,
        mode: None,
        max_age_secs: None,
        max_bytes: None,
    };
    match socket.ask(Request::CreateTopicWithConfig(request), "to create the topic").await {
        // Another node was faster.
        Err(LinkError::Refused { code: ErrorCode::TopicExists, .. }) | Ok(_) => Ok(()),
        Err(error) => Err(error),
    }
}
