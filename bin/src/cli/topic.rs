//! `lnc topic`.

use super::args::{Common, OutputFormat};
use super::failure::Failure;
use super::output::Out;
use super::session;
use super::tee;
use super::topic_args::{AlterArgs, CreateArgs, RetentionArgs, TopicCommand};
use super::units::show_bytes;
use lance_client::admin::exists_already;
use lance_client::{Admin, NewTopic, TopicChange, TopicDescription};
use serde_json::{Value, json};
use std::time::Duration;

/// Runs a command on topics.
pub async fn run(command: &TopicCommand, common: &Common) -> Result<(), Failure> {
    let admin = session::connect(common).await?.admin();
    let mut out = Out::stdout();
    let json = common.output == OutputFormat::Json;
    match command {
        TopicCommand::Create(args) => create(&admin, args, &mut out, json).await,
        TopicCommand::List => list(&admin, &mut out, json).await,
        TopicCommand::Describe { name } => describe(&admin, name, &mut out, json).await,
        TopicCommand::Alter(args) => alter(&admin, args, &mut out, json).await,
        TopicCommand::Tee(command) => tee::run(command, &admin, &mut out, json).await,
        TopicCommand::SetRetention(args) => set_retention(&admin, args, &mut out, json).await,
        TopicCommand::Delete { name } => {
            let deleted = admin.delete_topic(name).await;
            let id = deleted.map_err(|error| Failure::of(format!("cannot delete topic '{name}'"), &error))?;
            let text = format!("deleted topic {name}");
            say(&mut out, json, || json!({ "topic": name, "id": id.0, "deleted": true }), &text)
        }
    }
}

fn say(out: &mut Out, as_json: bool, value: impl FnOnce() -> Value, text: &str) -> Result<(), Failure> {
    if as_json { out.json(&value()) } else { out.line(text) }
}

async fn create(admin: &Admin, args: &CreateArgs, out: &mut Out, json: bool) -> Result<(), Failure> {
    let name = &args.name;
    let topic = NewTopic {
        name: name.clone(),
        partitions: args.partitions,
        replication_factor: args.replication_factor,
        mode: args.mode.map(Into::into),
        max_age_secs: args.retention_age,
        max_bytes: args.retention_bytes,
    };
    match admin.create_topic(topic).await {
        Ok(created) => {
            let value = || {
                json!({
                    "topic": name,
                    "id": created.topic.0,
                    "partitions": created.partitions,
                    "replication_factor": created.replication_factor,
                    "mode": created.mode.name(),
                    "created": true,
                })
            };
            say(out, json, value, &format!("created topic {name} with {}", partitions(created.partitions.into())))
        }
        Err(error) if args.if_not_exists && exists_already(&error) => {
            say(out, json, || json!({ "topic": name, "created": false }), &format!("topic {name} exists"))
        }
        Err(error) => Err(Failure::of(format!("cannot create topic '{name}'"), &error)),
    }
}

async fn list(admin: &Admin, out: &mut Out, json: bool) -> Result<(), Failure> {
    let topics = admin.list_topics().await.map_err(|error| Failure::of("cannot list topics", &error))?;
    if json {
        let topics: Vec<Value> = topics.iter().map(topic_json).collect();
        return out.json(&json!({ "topics": topics }));
    }
    if topics.is_empty() {
        return out.line("no topics; create one with `lnc topic create NAME`");
    }
    let width = topics.iter().map(|topic| topic.name.len()).max().unwrap_or(0).max(4);
    out.line(&format!("{:<width$}  {:>6}  {:>10}  {:>4}  {:>6}  KEEPS", "NAME", "ID", "PARTITIONS", "MODE", "COPIES"))?;
    for topic in &topics {
        out.line(&format!(
            "{:<width$}  {:>6}  {:>10}  {:>4}  {:>6}  {}",
            topic.name,
            topic.id.0,
            topic.partitions.len(),
            topic.mode.name(),
            topic.replication_factor,
            keeps(topic.max_age_secs, topic.max_bytes)
        ))?;
    }
    Ok(())
}

async fn describe(admin: &Admin, name: &str, out: &mut Out, json: bool) -> Result<(), Failure> {
    let described = admin.describe_topic(name).await;
    let topic = described.map_err(|error| Failure::of(format!("cannot describe topic '{name}'"), &error))?;
    // A server of an earlier version has no rules.
    let tees = admin.list_tees(Some(name)).await.unwrap_or_default();
    if json {
        let mut described = topic_json(&topic);
        described["tees"] = tees.iter().map(tee::rule_json).collect();
        return out.json(&described);
    }
    out.line(&format!("topic        {}", topic.name))?;
    out.line(&format!("id           {}", topic.id.0))?;
    let created = std::time::UNIX_EPOCH + Duration::from_secs(topic.created_at);
    out.line(&format!("created      {}", humantime::format_rfc3339_seconds(created)))?;
    out.line(&format!("mode         {}, {} of each partition", topic.mode.name(), copies(topic.replication_factor)))?;
    out.line(&format!("keeps        {}", keeps(topic.max_age_secs, topic.max_bytes)))?;
    for (number, partition) in topic.partitions.iter().enumerate() {
        let leader = match (partition.leader, partition.error) {
            (Some(node), None) => format!("leader {node}, epoch {}", partition.leader_epoch),
            (_, Some(error)) => error.text().to_owned(),
            (None, None) => "no leader known".to_owned(),
        };
        out.line(&format!("partition {number:<3}{leader}"))?;
    }
    tees.iter().flat_map(tee::rule_lines).try_for_each(|line| out.line(&line))
}

async fn alter(admin: &Admin, args: &AlterArgs, out: &mut Out, json: bool) -> Result<(), Failure> {
    let name = &args.name;
    let change = TopicChange {
        partitions: args.partitions,
        max_age_secs: args.retention_age,
        max_bytes: args.retention_bytes,
        mode: args.mode.map(Into::into),
        replication_factor: args.replication_factor,
    };
    if change == TopicChange::default() {
        return Err(Failure::usage(
            "nothing to change: give --partitions, --replication-factor, --mode, --retention-age or --retention-bytes",
        ));
    }
    let altered = admin.alter_topic(name, change).await;
    let altered = altered.map_err(|error| Failure::of(format!("cannot alter topic '{name}'"), &error))?;
    let value = || json!({ "topic": name, "id": altered.topic.0, "partitions": altered.partitions, "mode": altered.mode.name(), "altered": true });
    let text = format!("altered topic {name}: {}, {}", partitions(altered.partitions.into()), altered.mode.name());
    say(out, json, value, &text)
}

async fn set_retention(admin: &Admin, args: &RetentionArgs, out: &mut Out, json: bool) -> Result<(), Failure> {
    let RetentionArgs { name, retention_age, retention_bytes } = args;
    let set = admin.set_retention(name, *retention_age, *retention_bytes).await;
    set.map_err(|error| Failure::of(format!("cannot set retention of topic '{name}'"), &error))?;
    let value = || json!({ "topic": name, "retention_age_secs": retention_age, "retention_bytes": retention_bytes });
    say(out, json, value, &format!("topic {name} keeps {}", keeps(*retention_age, *retention_bytes)))
}

fn topic_json(topic: &TopicDescription) -> Value {
    let partitions: Vec<Value> = topic
        .partitions
        .iter()
        .enumerate()
        .map(|(number, partition)| {
            json!({
                "partition": number,
                "leader": partition.leader.map(|node| node.0),
                "epoch": partition.leader_epoch,
                "error": partition.error.map(|error| error.text()),
            })
        })
        .collect();
    json!({
        "topic": topic.name,
        "id": topic.id.0,
        "created_at": topic.created_at,
        "mode": topic.mode.name(),
        "replication_factor": topic.replication_factor,
        "retention_age_secs": topic.max_age_secs,
        "retention_bytes": topic.max_bytes,
        "partitions": partitions,
    })
}

fn keeps(max_age_secs: u64, max_bytes: u64) -> String {
    let age = || humantime::format_duration(Duration::from_secs(max_age_secs)).to_string();
    match (max_age_secs, max_bytes) {
        (0, 0) => "everything".to_owned(),
        (_, 0) => age(),
        (0, _) => show_bytes(max_bytes),
        (_, _) => format!("{}, {}", age(), show_bytes(max_bytes)),
    }
}

fn partitions(count: usize) -> String {
    if count == 1 { "1 partition".to_owned() } else { format!("{count} partitions") }
}

fn copies(count: u8) -> String {
    if count == 1 { "1 copy".to_owned() } else { format!("{count} copies") }
}
