//! `lnc topic tee`.

use super::failure::Failure;
use super::output::Out;
use super::topic_args::{TeeAddArgs, TeeCommand, TeePlace, TeeRemoveArgs};
use super::units::show_bytes;
use lance_client::wire::tee::{TeeDescription, TeePartition};
use lance_client::{Admin, NewTee, TeeId};
use serde_json::{Value, json};
use std::time::Duration;

/// Runs a command on rules.
pub async fn run(command: &TeeCommand, admin: &Admin, out: &mut Out, json: bool) -> Result<(), Failure> {
    match command {
        TeeCommand::Add(args) => add(args, admin, out, json).await,
        TeeCommand::Remove(args) => remove(args, admin, out, json).await,
        TeeCommand::List { name } => list(name.as_deref(), admin, out, json).await,
    }
}

async fn add(args: &TeeAddArgs, admin: &Admin, out: &mut Out, as_json: bool) -> Result<(), Failure> {
    let TeeAddArgs { name, to, rate_limit, from } = args;
    let tee = NewTee { target: to.0.clone(), bytes_per_second: rate_limit.unwrap_or(0), from: (*from).into() };
    let added = admin.add_tee(name, tee).await;
    let id = added.map_err(|error| Failure::of(format!("topic '{name}' does not go on to {to}"), &error))?;
    if as_json {
        return out.json(&json!({ "topic": name, "id": id.0, "to": to.to_string(), "added": true }));
    }
    out.line(&format!("topic {name} goes on to {to}: rule {}", id.0))
}

async fn remove(args: &TeeRemoveArgs, admin: &Admin, out: &mut Out, as_json: bool) -> Result<(), Failure> {
    let TeeRemoveArgs { name, to, id } = args;
    let id = match (to, id) {
        (_, Some(id)) => TeeId(*id),
        (Some(to), None) => find(name, to, admin).await?,
        (None, None) => return Err(Failure::usage("which rule? give --to HOST:PORT/TOPIC or --id N")),
    };
    let removed = admin.remove_tee(name, id).await;
    removed.map_err(|error| Failure::of(format!("rule {id} of topic '{name}' is not removed"), &error))?;
    if as_json {
        return out.json(&json!({ "topic": name, "id": id.0, "removed": true }));
    }
    out.line(&format!("removed rule {id} of topic {name}"))
}

/// The rule that goes to a place; one of its addresses is enough.
async fn find(name: &str, to: &TeePlace, admin: &Admin) -> Result<TeeId, Failure> {
    let rules = rules_of(Some(name), admin).await?;
    let names = |rule: &&TeeDescription| {
        rule.target.topic == to.0.topic && to.0.addresses.iter().any(|address| rule.target.addresses.contains(address))
    };
    let mut found = rules.iter().filter(names);
    match (found.next(), found.next()) {
        (Some(rule), None) => Ok(rule.id),
        (None, _) => Err(Failure::failed(format!("no rule of topic '{name}' goes to {to}"))
            .with_hint(format!("lnc topic tee list {name} shows those there are"))),
        (Some(_), Some(_)) => Err(Failure::failed(format!("several rules of topic '{name}' go to {to}"))
            .with_hint(format!("lnc topic tee list {name} shows their ids: give --id N"))),
    }
}

async fn rules_of(name: Option<&str>, admin: &Admin) -> Result<Vec<TeeDescription>, Failure> {
    admin.list_tees(name).await.map_err(|error| Failure::of("cannot list tee rules", &error))
}

async fn list(name: Option<&str>, admin: &Admin, out: &mut Out, as_json: bool) -> Result<(), Failure> {
    let rules = rules_of(name, admin).await?;
    if as_json {
        let rules: Vec<Value> = rules.iter().map(rule_json).collect();
        return out.json(&json!({ "tees": rules }));
    }
    if rules.is_empty() {
        return out.line("no rules; add one with `lnc topic tee add TOPIC --to HOST:PORT/TOPIC`");
    }
    rules.iter().flat_map(rule_lines).try_for_each(|line| out.line(&line))
}

/// A rule and its partitions as lines of text.
pub fn rule_lines(rule: &TeeDescription) -> Vec<String> {
    let rate = match rule.bytes_per_second {
        0 => String::new(),
        rate => format!(", at most {} a second", show_bytes(rate)),
    };
    let from = match rule.from_ns {
        0 => "earliest".to_owned(),
        from_ns => humantime::format_rfc3339_seconds(std::time::UNIX_EPOCH + Duration::from_nanos(from_ns)).to_string(),
    };
    let to = TeePlace(rule.target.clone());
    let mut lines = vec![format!("rule {:<8}{} → {to}, from {from}{rate}", rule.id.0, rule.topic_name)];
    lines.extend(rule.partitions.iter().map(partition_line));
    lines
}

fn partition_line(partition: &TeePartition) -> String {
    let TeePartition { lag_records, lag_bytes, lost_records, .. } = *partition;
    let mut line = format!("  partition {:<3}{}", partition.partition, partition.state.name());
    if lag_records > 0 {
        let behind = humantime::format_duration(Duration::from_millis(partition.lag_ms));
        line.push_str(&format!(", {lag_records} records ({}, {behind}) behind", show_bytes(lag_bytes)));
    }
    if lost_records > 0 {
        line.push_str(&format!(", {lost_records} records lost to retention"));
    }
    if !partition.error.is_empty() {
        line.push_str(&format!(": {}", partition.error));
    }
    line
}

/// A rule as JSON.
pub fn rule_json(rule: &TeeDescription) -> Value {
    let partitions: Vec<Value> = rule
        .partitions
        .iter()
        .map(|partition| {
            json!({
                "partition": partition.partition,
                "state": partition.state.name(),
                "lag_records": partition.lag_records,
                "lag_bytes": partition.lag_bytes,
                "lag_seconds": partition.lag_ms as f64 / 1e3,
                "forwarded_records": partition.forwarded_records,
                "lost_records": partition.lost_records,
                "error": (!partition.error.is_empty()).then_some(&partition.error),
            })
        })
        .collect();
    json!({
        "id": rule.id.0,
        "topic": rule.topic_name,
        "to": TeePlace(rule.target.clone()).to_string(),
        "addresses": rule.target.addresses,
        "target_topic": rule.target.topic,
        "target_cluster": format!("{:016x}", rule.target_cluster),
        "bytes_per_second": rule.bytes_per_second,
        "from_ns": rule.from_ns,
        "created_at": rule.created_at,
        "partitions": partitions,
    })
}
