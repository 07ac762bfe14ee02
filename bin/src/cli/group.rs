//! `lnc group`.

use super::args::{Common, OutputFormat};
use super::failure::Failure;
use super::group_args::{GroupCommand, ResetArgs};
use super::output::Out;
use super::session;
use lance_client::{Admin, Client, GroupDescription, GroupPartition, TopicPartition};
use serde_json::json;

/// Runs a command on consumer groups.
pub async fn run(command: &GroupCommand, common: &Common) -> Result<(), Failure> {
    let client = session::connect(common).await?;
    let admin = client.admin();
    let mut out = Out::stdout();
    let json = common.output == OutputFormat::Json;
    match command {
        GroupCommand::List => list(&admin, &mut out, json).await,
        GroupCommand::Describe { name } => describe(&admin, name, &mut out, json).await,
        GroupCommand::ResetOffsets(args) => reset(&client, args, &mut out, json).await,
        GroupCommand::Delete { name } => {
            let deleted = admin.delete_group(name).await;
            deleted.map_err(|error| Failure::of(format!("cannot delete group '{name}'"), &error))?;
            if json {
                return out.json(&json!({ "group": name, "deleted": true }));
            }
            out.line(&format!("deleted group {name}"))
        }
    }
}

async fn list(admin: &Admin, out: &mut Out, json: bool) -> Result<(), Failure> {
    let groups = admin.describe_groups(&[]).await.map_err(|error| Failure::of("cannot list groups", &error))?;
    if !json {
        out.line(&format!("{:<32} {:<12} {:>7} {:>10} {:>14}", "GROUP", "STATE", "MEMBERS", "PARTITIONS", "LAG"))?;
    }
    for group in groups {
        let lag: u64 = group.partitions.iter().filter_map(|partition| partition.lag_records).sum();
        let (members, partitions) = (group.members.len(), group.partitions.len());
        if json {
            let state = &group.state;
            out.json(&json!({ "group": group.name, "state": state, "members": members, "lag_records": lag }))?;
        } else {
            out.line(&format!("{:<32} {:<12} {members:>7} {partitions:>10} {lag:>14}", group.name, group.state))?;
        }
    }
    Ok(())
}

async fn describe(admin: &Admin, name: &str, out: &mut Out, json: bool) -> Result<(), Failure> {
    let what = || format!("cannot describe group '{name}'");
    let found = admin.describe_groups(&[name.to_owned()]).await.map_err(|error| Failure::of(what(), &error))?;
    let Some(group) = found.into_iter().next() else {
        return Err(
            Failure::failed(format!("{}: no such group", what())).with_hint("see the groups with `lnc group list`")
        );
    };
    if json {
        let value = serde_json::to_value(&group).map_err(|error| Failure::failed(format!("{}: {error}", what())))?;
        return out.json(&value);
    }
    show(&group, out)
}

fn show(group: &GroupDescription, out: &mut Out) -> Result<(), Failure> {
    out.line(&format!("group        {}", group.name))?;
    out.line(&format!("state        {}", group.state))?;
    out.line(&format!("epoch        {}", group.epoch))?;
    out.line(&format!("strategy     {}", group.strategy))?;
    out.line(&format!("coordinator  node {}", group.coordinator))?;
    out.line("")?;
    out.line(&format!("{:<32} {:<20} {:<24} {:>6} {:>10}", "MEMBER", "INSTANCE", "CLIENT", "EPOCH", "PARTITIONS"))?;
    for member in &group.members {
        let instance = member.instance.as_deref().unwrap_or("-");
        let count = member.partitions.len();
        let (name, client, epoch) = (&member.member, &member.client, member.epoch);
        out.line(&format!("{name:<32} {instance:<20} {client:<24} {epoch:>6} {count:>10}"))?;
    }
    out.line("")?;
    out.line(&format!(
        "{:<24} {:>9} {:>14} {:>14} {:>12} {:>14} {:>9}  {}",
        "TOPIC", "PARTITION", "COMMITTED", "END", "LAG RECORDS", "LAG BYTES", "LAG S", "OWNER"
    ))?;
    for partition in &group.partitions {
        out.line(&row(partition))?;
    }
    Ok(())
}

fn row(partition: &GroupPartition) -> String {
    let number = |value: Option<u64>| value.map_or_else(|| "-".to_owned(), |value| value.to_string());
    let seconds = partition.lag_seconds.map_or_else(|| "-".to_owned(), |seconds| format!("{seconds:.1}"));
    format!(
        "{:<24} {:>9} {:>14} {:>14} {:>12} {:>14} {:>9}  {}",
        partition.topic,
        partition.partition,
        number(partition.committed),
        number(partition.end_offset),
        number(partition.lag_records),
        number(partition.lag_bytes),
        seconds,
        partition.owner.as_deref().unwrap_or("-")
    )
}

async fn reset(client: &Client, args: &ResetArgs, out: &mut Out, json: bool) -> Result<(), Failure> {
    let what = format!("cannot reset the offsets of group '{}'", args.name);
    let fail = |error| Failure::of(&what, &error);
    let topic = client.refresh_topic(&args.topic, false).await.map_err(fail)?;
    let numbers = match args.partition {
        Some(number) => vec![number],
        None => (0..topic.partitions.len() as u16).collect(),
    };
    let consumer = client.consumer(Default::default());
    let mut offsets = Vec::with_capacity(numbers.len());
    for number in numbers {
        let offset = consumer.offset_of(&args.topic, number, args.to.0).await.map_err(fail)?;
        offsets.push((TopicPartition::new(topic.id, number), offset));
    }
    if !args.dry_run {
        client.admin().reset_group_offsets(&args.name, &offsets).await.map_err(fail)?;
    }
    for (partition, offset) in offsets {
        let number = partition.partition;
        if json {
            out.json(&json!({ "group": args.name, "topic": args.topic, "partition": number, "offset": offset }))?;
        } else {
            out.line(&format!("{} {number} {offset}", args.topic))?;
        }
    }
    Ok(())
}
