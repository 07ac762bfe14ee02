//! `lnc cluster`.

use super::args::{Common, OutputFormat};
use super::cluster_args::{ClusterCommands, DrainArgs, MaintenanceArgs, RecoverArgs, RemoveArgs};
use super::failure::Failure;
use super::output::Out;
use super::session;
use lance_client::wire::cluster::{
    ClusterCommand, ClusterDescription, ClusterNode, ClusterPartition, ClusterTopic, CopyPositions, RecoverPartition,
};
use lance_client::{Admin, NodeId, TopicPartition};
use serde_json::{Value, json};
use std::time::{Duration, Instant};

/// How often a node that is being emptied is looked at.
const DRAIN_POLL: Duration = Duration::from_millis(100);

/// Runs a command on the cluster.
pub async fn run(command: &ClusterCommands, common: &Common) -> Result<(), Failure> {
    if let ClusterCommands::Recover(RecoverArgs { accept_data_loss: false, .. }) = command {
        return Err(Failure::usage("recovery may lose records that only other copies have")
            .with_hint("say --accept-data-loss if that is better than a partition that is offline"));
    }
    let admin = session::connect(common).await?.admin();
    let mut out = Out::stdout();
    let json = common.output == OutputFormat::Json;
    let (order, what) = match command {
        ClusterCommands::Status => return status(&admin, &mut out, json).await,
        ClusterCommands::Drain(DrainArgs { node, off, wait }) => {
            let order = ClusterCommand::Drain { node: NodeId(*node), on: !off };
            return empty(&admin, (order, "draining", !off), *wait, &mut out, json).await;
        }
        ClusterCommands::Maintenance(MaintenanceArgs { node, wait }) => {
            let order = ClusterCommand::Maintenance { node: NodeId(*node), on: true };
            return empty(&admin, (order, "maintenance", true), *wait, &mut out, json).await;
        }
        ClusterCommands::Resume { node } => {
            let order = ClusterCommand::Maintenance { node: NodeId(*node), on: false };
            return empty(&admin, (order, "maintenance", false), Duration::ZERO, &mut out, json).await;
        }
        ClusterCommands::RemoveNode(args) => return remove(&admin, args, &mut out, json).await,
        ClusterCommands::Recover(args) => return recover(&admin, args, &mut out, json).await,
        ClusterCommands::Evict { node } => (ClusterCommand::Evict { node: NodeId(*node) }, "evicted"),
        ClusterCommands::Admit { node } => (ClusterCommand::Admit { node: NodeId(*node) }, "admitted"),
        ClusterCommands::AddNode { node, address } => {
            (ClusterCommand::AddNode { node: NodeId(*node), address: address.clone() }, "added")
        }
    };
    let about_partitions = matches!(order, ClusterCommand::Evict { .. } | ClusterCommand::Admit { .. });
    let node = node_of(&order);
    let done = admin.order(order).await;
    let done = done.map_err(|error| Failure::of(format!("node {node} is not {what}"), &error))?;
    let count = done.partition_count;
    match (json, about_partitions) {
        (true, true) => out.json(&json!({ "node": node, what: true, "partitions": count })),
        (true, false) => out.json(&json!({ "node": node, what: true })),
        (false, true) => out.line(&format!("{what} node {node} in {}", partitions(count))),
        (false, false) => out.line(&format!("{what} node {node}")),
    }
}

fn node_of(order: &ClusterCommand) -> u16 {
    match order {
        ClusterCommand::Drain { node, .. }
        | ClusterCommand::Evict { node }
        | ClusterCommand::Admit { node }
        | ClusterCommand::AddNode { node, .. }
        | ClusterCommand::RemoveNode { node } => node.0,
        ClusterCommand::Recover(order) => order.node.0,
        ClusterCommand::Maintenance { node, .. } => node.0,
        ClusterCommand::SetTopicMode { .. }
        | ClusterCommand::SetReplicationFactor { .. }
        | ClusterCommand::RestoreTopic(_)
        | ClusterCommand::RestoreIds { .. } => 0,
    }
}

async fn status(admin: &Admin, out: &mut Out, json: bool) -> Result<(), Failure> {
    let cluster = admin.describe_cluster().await;
    let cluster = cluster.map_err(|error| Failure::of("the state of the cluster is not known", &error))?;
    if json {
        return out.json(&status_json(&cluster));
    }
    for line in status_lines(&cluster) {
        out.line(&line)?;
    }
    Ok(())
}

fn state(node: &ClusterNode) -> &'static str {
    match (node.alive, node.maintenance, node.draining) {
        (false, ..) => "down",
        (true, true, _) => "maintenance",
        (true, false, true) => "draining",
        (true, false, false) => "serving",
    }
}

fn ids(nodes: &[NodeId]) -> Vec<u16> {
    nodes.iter().map(|node| node.0).collect()
}

fn status_json(cluster: &ClusterDescription) -> Value {
    let nodes: Vec<Value> = cluster
        .nodes
        .iter()
        .map(|node| {
            json!({
                "id": node.id.0,
                "address": node.address,
                "state": state(node),
                "maintenance": node.maintenance,
                "metadata_leader": cluster.metadata_leader == Some(node.id),
                "rack": node.rack,
            })
        })
        .collect();
    let partition_json = |topic: &ClusterTopic, number: usize, partition: &ClusterPartition| {
        json!({
            "topic": topic.name,
            "partition": number,
            "leader": partition.leader.map(|node| node.0),
            "epoch": partition.epoch,
            "replicas": ids(&partition.replicas),
            "in_quorum": ids(&partition.in_quorum),
            "high_watermark": partition.copy.map(|copy| copy.high_watermark),
            "log_end": partition.copy.map(|copy| copy.log_end),
        })
    };
    let partitions = cluster.topics.iter().flat_map(|topic| {
        topic.partitions.iter().enumerate().map(move |(number, partition)| partition_json(topic, number, partition))
    });
    json!({ "nodes": nodes, "partitions": partitions.collect::<Vec<Value>>() })
}

fn status_lines(cluster: &ClusterDescription) -> Vec<String> {
    let address = cluster.nodes.iter().map(|node| node.address.len()).max().unwrap_or(0).max(7);
    let mut lines = vec![format!("{:>5}  {:<address$}  {:<11}  METADATA", "NODE", "ADDRESS", "STATE")];
    for node in &cluster.nodes {
        let leads = if cluster.metadata_leader == Some(node.id) { "leader" } else { "" };
        let line = format!("{:>5}  {:<address$}  {:<11}  {leads}", node.id.0, node.address, state(node));
        lines.push(line.trim_end().to_owned());
    }
    let topics = cluster.topics.iter().filter(|topic| !topic.partitions.is_empty());
    let Some(width) = topics.map(|topic| topic.name.len()).max() else {
        return lines;
    };
    let width = width.max(5);
    lines.push(String::new());
    lines.push(format!(
        "{:<width$}  {:>9}  {:>6}  {:>5}  {:<11}  {:<11}  {:>14}  {:>14}",
        "TOPIC", "PARTITION", "LEADER", "EPOCH", "REPLICAS", "IN QUORUM", "HIGH WATERMARK", "LOG END"
    ));
    let list = |nodes: &[NodeId]| ids(nodes).iter().map(u16::to_string).collect::<Vec<_>>().join(",");
    let position = |copy: Option<CopyPositions>, of: fn(CopyPositions) -> u64| {
        copy.map_or_else(|| "?".to_owned(), |copy| of(copy).to_string())
    };
    for topic in &cluster.topics {
        for (number, partition) in topic.partitions.iter().enumerate() {
            let leader = partition.leader.map_or_else(|| "none".to_owned(), |node| node.to_string());
            lines.push(format!(
                "{:<width$}  {number:>9}  {leader:>6}  {:>5}  {:<11}  {:<11}  {:>14}  {:>14}",
                topic.name,
                partition.epoch,
                list(&partition.replicas),
                list(&partition.in_quorum),
                position(partition.copy, |copy| copy.high_watermark),
                position(partition.copy, |copy| copy.log_end),
            ));
        }
    }
    lines
}

/// Has a node emptied of leaderships, and waits for that; or lets it lead again.
async fn empty(
    admin: &Admin,
    (order, name, on): (ClusterCommand, &str, bool),
    wait: Duration,
    out: &mut Out,
    json: bool,
) -> Result<(), Failure> {
    let node = node_of(&order);
    let what = if on { "emptied" } else { "taken back" };
    let failed = |error| Failure::of(format!("node {node} is not {what}"), &error);
    admin.order(order).await.map_err(failed)?;
    let started = Instant::now();
    let mut left = 0;
    while on && !wait.is_zero() {
        let cluster = admin.describe_cluster().await.map_err(failed)?;
        left = movable(&cluster, NodeId(node));
        if left == 0 {
            break;
        }
        if started.elapsed() >= wait {
            let text = format!("node {node} still leads {} that another node could lead", partitions(left));
            return Err(Failure::failed(text).with_hint("it stays marked; see `lnc cluster status`"));
        }
        tokio::time::sleep(DRAIN_POLL).await;
    }
    if json {
        return out.json(&json!({ "node": node, name: on, "partitions_left": left }));
    }
    match (on, wait.is_zero()) {
        (false, _) => out.line(&format!("node {node} may lead again")),
        (true, true) => out.line(&format!("node {node} is being emptied")),
        (true, false) => out.line(&format!("node {node} leads nothing that another node could lead")),
    }
}

async fn remove(admin: &Admin, args: &RemoveArgs, out: &mut Out, json: bool) -> Result<(), Failure> {
    let node = args.node;
    let failed = |error| Failure::of(format!("node {node} is not removed"), &error);
    admin.order(ClusterCommand::RemoveNode { node: NodeId(node) }).await.map_err(failed)?;
    let started = Instant::now();
    let mut gone = false;
    while !gone && !args.wait.is_zero() {
        // A node that was removed is told nothing any more: the others know.
        let told = admin.describe_copies().await.map_err(failed)?;
        let mut others = told.iter().filter(|cluster| cluster.node != NodeId(node));
        gone = others.clone().any(|cluster| cluster.nodes.iter().all(|known| known.id != NodeId(node)));
        if !gone && started.elapsed() >= args.wait {
            let topics = others.next().map(|cluster| cluster.topics.as_slice()).unwrap_or_default();
            let held = topics.iter().flat_map(|topic| &topic.partitions);
            let held = held.filter(|partition| partition.replicas.contains(&NodeId(node))).count();
            let text = format!("node {node} still holds {}", partitions(u32::try_from(held).unwrap_or(u32::MAX)));
            let hint = "its copies need other nodes to go to: add one, or lower the replication factor; \
                `lnc cluster drain NODE --off` keeps it";
            return Err(Failure::failed(text).with_hint(hint));
        }
        if !gone {
            tokio::time::sleep(DRAIN_POLL).await;
        }
    }
    match (json, gone) {
        (true, _) => out.json(&json!({ "node": node, "removed": gone })),
        (false, true) => out.line(&format!("removed node {node}")),
        (false, false) => out.line(&format!("node {node} leaves once its copies are on other nodes")),
    }
}

/// How many partitions `node` leads that another node which is alive counts for.
fn movable(cluster: &ClusterDescription, node: NodeId) -> u32 {
    let able = |other: &NodeId| {
        let known = cluster.nodes.iter().find(|known| known.id == *other);
        *other != node && known.is_some_and(|known| known.alive && !known.draining)
    };
    let led = cluster.topics.iter().flat_map(|topic| &topic.partitions);
    let led = led.filter(|partition| partition.leader == Some(node) && partition.in_quorum.iter().any(able));
    u32::try_from(led.count()).unwrap_or(u32::MAX)
}

async fn recover(admin: &Admin, args: &RecoverArgs, out: &mut Out, json: bool) -> Result<(), Failure> {
    let RecoverArgs { topic, partition: number, .. } = args;
    let failed = |error| Failure::of(format!("partition {number} of topic '{topic}' is not recovered"), &error);
    let cluster = admin.describe_copies().await.map_err(failed)?;
    let (order, copy) = recovery(&cluster, args)?;
    let (node, lost_to) = (order.node.0, order.lost_to);
    admin.order(ClusterCommand::Recover(order)).await.map_err(failed)?;
    if json {
        let lost = json!({ "from": copy.log_end, "to": lost_to });
        return out
            .json(&json!({ "topic": topic, "partition": number, "node": node, "recovered": true, "lost": lost }));
    }
    out.line(&format!(
        "partition {number} of topic {topic} goes on with the copy of node {node}, from {}",
        copy.log_end
    ))
}

/// The order, and the copy that it goes on with.
fn recovery(nodes: &[ClusterDescription], args: &RecoverArgs) -> Result<(RecoverPartition, CopyPositions), Failure> {
    let RecoverArgs { topic, partition: number, .. } = args;
    let mut copies = Vec::new();
    let mut topic_id = None;
    for described in nodes {
        let Some(found) = described.topics.iter().find(|found| found.name == *topic) else { continue };
        topic_id = Some(found.id);
        let partition = found.partitions.get(usize::from(*number));
        copies.extend(partition.and_then(|partition| partition.copy).map(|copy| (described.node, copy)));
    }
    let topic_id = topic_id
        .ok_or_else(|| Failure::failed(format!("there is no topic '{topic}'")).with_hint("see `lnc topic list`"))?;
    let chosen = match args.node {
        Some(node) => copies.iter().find(|(of, _)| of.0 == node),
        None => copies.iter().max_by_key(|(_, copy)| copy.log_end),
    };
    let Some(&(node, copy)) = chosen else {
        let text = match args.node {
            Some(node) => format!("node {node} cannot be asked for its copy of partition {number} of topic '{topic}'"),
            None => format!("no node that can be asked has a copy of partition {number} of topic '{topic}'"),
        };
        return Err(Failure::failed(text).with_hint("see `lnc cluster status`; start a node that has a copy"));
    };
    let known_end = copies.iter().map(|(_, copy)| copy.log_end).max().unwrap_or(copy.log_end);
    let order = RecoverPartition {
        partition: TopicPartition::new(topic_id, *number),
        node,
        accept_data_loss: args.accept_data_loss,
        lost_from: copy.log_end,
        lost_to: known_end.max(copy.log_end),
        requested_by: std::env::var("USER").ok().filter(|user| !user.is_empty()).unwrap_or_else(|| "lnc".to_owned()),
    };
    Ok((order, copy))
}

fn partitions(count: u32) -> String {
    if count == 1 { "1 partition".to_owned() } else { format!("{count} partitions") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use lance_client::TopicId;

    fn node(id: u16, alive: bool, draining: bool) -> ClusterNode {
        let (address, rack) = (format!("lance-{id}:9000"), String::new());
        ClusterNode { id: NodeId(id), address, rack, alive, draining, maintenance: false }
    }

    fn cluster(of: u16, log_end: u64) -> ClusterDescription {
        let partition = ClusterPartition {
            leader: Some(NodeId(1)),
            epoch: 2,
            replicas: vec![NodeId(1), NodeId(2)],
            in_quorum: vec![NodeId(1), NodeId(2)],
            copy: Some(CopyPositions { high_watermark: 8, log_end }),
        };
        let unknown = ClusterPartition { leader: None, copy: None, ..partition.clone() };
        let topic = ClusterTopic { id: TopicId(4), name: "events".to_owned(), partitions: vec![partition, unknown] };
        ClusterDescription {
            node: NodeId(of),
            metadata_leader: Some(NodeId(2)),
            term: 3,
            nodes: vec![node(1, true, true), node(2, true, false), node(3, false, false)],
            topics: vec![topic],
        }
    }

    #[test]
    fn the_json_of_a_status_has_the_names_that_scripts_rely_on() {
        let json = status_json(&cluster(1, 9));
        let states: Vec<&str> =
            json["nodes"].as_array().unwrap().iter().map(|n| n["state"].as_str().unwrap()).collect();
        assert_eq!(states, ["draining", "serving", "down"]);
        assert_eq!((&json["nodes"][1]["metadata_leader"], &json["nodes"][0]["id"]), (&json!(true), &json!(1)));
        let expected = json!({
            "topic": "events", "partition": 0, "leader": 1, "epoch": 2, "replicas": [1, 2], "in_quorum": [1, 2],
            "high_watermark": 8, "log_end": 9,
        });
        assert_eq!(json["partitions"][0], expected);
        assert_eq!(json["partitions"][1]["log_end"], Value::Null);
    }

    #[test]
    fn the_text_of_a_status_has_a_line_for_each_node_and_partition() {
        let lines = status_lines(&cluster(1, 9));
        assert_eq!(lines.len(), 4 + 1 + 3, "{lines:#?}");
        assert!(lines[2].ends_with("leader") && lines[3].ends_with("down"), "{lines:#?}");
        assert!(lines[7].contains("none") && lines[7].ends_with('?'), "{lines:#?}");
    }

    #[test]
    fn only_what_another_living_node_counts_for_is_waited_for() {
        let mut cluster = cluster(1, 9);
        assert_eq!(movable(&cluster, NodeId(1)), 1);
        cluster.nodes[1].alive = false;
        assert_eq!(movable(&cluster, NodeId(1)), 0);
    }

    #[test]
    fn a_recovery_goes_on_with_the_copy_that_reaches_furthest() {
        let mut args = RecoverArgs { topic: "events".to_owned(), partition: 0, node: None, accept_data_loss: true };
        let nodes = [cluster(1, 9), cluster(2, 12)];
        let (order, copy) = recovery(&nodes, &args).unwrap();
        assert_eq!((order.node, order.lost_from, order.lost_to, copy.log_end), (NodeId(2), 12, 12, 12));
        args.node = Some(1);
        let (order, _) = recovery(&nodes, &args).unwrap();
        assert_eq!((order.node, order.lost_from, order.lost_to), (NodeId(1), 9, 12));
        args.node = Some(3);
        assert!(recovery(&nodes, &args).is_err());
    }
}
