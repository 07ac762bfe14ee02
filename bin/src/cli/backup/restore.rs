//! `lnc restore --from DIR`: brings a backup into an empty cluster, record by record at the offsets they had.

use super::args::RestoreArgs;
use super::error::BackupError;
use super::files::BatchReader;
use super::manifest::{Manifest, PartitionBackup, Place, TopicBackup};
use super::named;
use super::verify::{Verified, verify};
use crate::cli::args::{Common, OutputFormat};
use crate::cli::failure::Failure;
use crate::cli::output::{Out, Progress};
use crate::cli::session;
use crate::cli::units::show_bytes;
use bytes::Bytes;
use lance_client::batch::{BatchHeader, BatchPlace};
use lance_client::rules::Credentials;
use lance_client::wire::cluster::{ClusterCommand, RestoreTopic};
use lance_client::wire::group::GroupOffset;
use lance_client::{Admin, ClientError, StoredLogs, TopicId, TopicPartition};
use serde_json::json;
use std::collections::HashMap;
use std::path::Path;
use std::time::Duration;

/// Bytes that are under way to a leader at most, and batches.
const WINDOW_BYTES: u64 = 4 * 1024 * 1024;
const WINDOW_BATCHES: usize = 256;
/// How long a cluster that has just begun may take until it uses what a restoration needs, and until topics have leaders.
const PATIENCE: Duration = Duration::from_secs(30);
const INTERNAL_PREFIX: &str = "__";

/// Restores the backup in the folder that the arguments name.
pub async fn run(args: &RestoreArgs, common: &Common) -> Result<(), Failure> {
    let dir = args.from.as_path();
    // Everything is checked before anything is written.
    let Verified { manifest, .. } = verify(dir).map_err(|error| named(dir, &error))?;
    let client = session::connect(common).await?;
    let admin = client.admin();
    let asked = |error: ClientError| Failure::of("the cluster cannot be asked what it holds", &error);
    if !args.resume {
        check_empty(&admin).await?;
    }
    let nodes = admin.describe_cluster().await.map_err(asked)?.nodes.len();
    let mut notes = Vec::new();
    let mut ids = HashMap::new();
    for topic in &manifest.topics {
        ids.insert(topic.name.clone(), make_topic(&admin, topic, nodes, &mut notes).await?);
    }
    let logs = client.stored_logs().await.map_err(|error| Failure::of("no restoration", &error))?;
    let mut run = Run { dir, logs: &logs, progress: Progress::new(), bytes: 0, records: 0 };
    for (topic, number, held) in manifest.partitions() {
        run.restore(topic, number, held).await?;
    }
    let (next_topic, next_producer) = (TopicId(manifest.next_topic_id), manifest.next_producer_id);
    let order = ClusterCommand::RestoreIds { next_topic, next_producer };
    admin.order(order).await.map_err(|error| Failure::of("ids are not kept", &error))?;
    restore_security(&admin, &manifest, &mut notes).await?;
    restore_offsets(&admin, &manifest, &ids).await?;
    if !manifest.tees.is_empty() {
        let count = manifest.tees.len();
        notes.push(format!(
            "{count} tee rules are not made: they would forward everything again; they are in the manifest"
        ));
    }
    run.progress.clear();
    report(&manifest, &run, &notes, common.output == OutputFormat::Json)
}

fn report(manifest: &Manifest, run: &Run<'_>, notes: &[String], as_json: bool) -> Result<(), Failure> {
    let (topics, groups) = (manifest.topics.len(), manifest.groups.len());
    let (records, bytes) = (run.records, run.bytes);
    let mut out = Out::stdout();
    if as_json {
        return out.json(&json!({
            "topics": topics, "groups": groups, "records": records, "bytes": bytes, "notes": notes,
        }));
    }
    out.line(&format!("restored {topics} topics and {groups} groups: {records} records, {}", show_bytes(bytes)))?;
    notes.iter().try_for_each(|note| out.line(&format!("note: {note}")))
}

/// A cluster that holds something keeps it: two histories cannot share one log.
async fn check_empty(admin: &Admin) -> Result<(), Failure> {
    let asked = |error: ClientError| Failure::of("the cluster cannot be asked what it holds", &error);
    let topics = admin.list_topics().await.map_err(asked)?;
    let named = topics.iter().map(|topic| topic.name.as_str()).filter(|name| !name.starts_with(INTERNAL_PREFIX));
    let mut found: Vec<String> = named.map(|name| format!("topic '{name}'")).collect();
    let groups = admin.describe_groups(&[]).await.map_err(asked)?;
    found.extend(groups.iter().map(|group| format!("group '{}'", group.name)));
    if found.is_empty() {
        return Ok(());
    }
    let count = found.len();
    found.truncate(10);
    let more = if count > found.len() { format!(" and {} more", count - found.len()) } else { String::new() };
    Err(Failure::failed(format!("the cluster is not empty: it has {}{more}", found.join(", ")))
        .with_hint("restore into a new cluster; --resume goes on with a restoration that was interrupted"))
}

/// Makes a topic, or finds it as an interrupted restoration made it; gives the id it has here.
async fn make_topic(
    admin: &Admin,
    topic: &TopicBackup,
    nodes: usize,
    notes: &mut Vec<String>,
) -> Result<TopicId, Failure> {
    let failed = |error: &ClientError| Failure::of(format!("topic '{}' is not made", topic.name), error);
    let copies = topic.replication_factor.min(u8::try_from(nodes.max(1)).unwrap_or(u8::MAX));
    if copies < topic.replication_factor {
        let (name, wanted) = (&topic.name, topic.replication_factor);
        notes.push(format!(
            "topic '{name}' has {copies} copies here instead of {wanted}: the cluster has {nodes} nodes"
        ));
    }
    let beginnings = topic.partitions.iter().map(|held| place(held.start)).collect();
    let order = ClusterCommand::RestoreTopic(RestoreTopic {
        topic: TopicId(topic.id),
        name: topic.name.clone(),
        replication_factor: copies,
        mode: topic.mode(),
        created_at: topic.created_at,
        max_age_secs: topic.max_age_secs,
        max_bytes: topic.max_bytes,
        beginnings,
    });
    admin.order(order).await.map_err(|error| failed(&error))?;
    let found = retried(async || admin.describe_topic(&topic.name).await).await.map_err(|error| failed(&error))?;
    if found.id.0 != topic.id {
        notes.push(format!("topic '{}' has the id {} here instead of {}", topic.name, found.id, topic.id));
    }
    Ok(found.id)
}

/// Tries again what a cluster that has just begun cannot answer yet.
async fn retried<T>(work: impl AsyncFn() -> Result<T, ClientError>) -> Result<T, ClientError> {
    let started = std::time::Instant::now();
    loop {
        match work().await {
            Err(error)
                if (error.is_retriable() || matches!(error, ClientError::UnknownTopic { .. }))
                    && started.elapsed() < PATIENCE =>
            {
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
            outcome => return outcome,
        }
    }
}

/// Rules are made again, and users that have yet to be given a token or a password.
async fn restore_security(admin: &Admin, manifest: &Manifest, notes: &mut Vec<String>) -> Result<(), Failure> {
    let failed = |what: String| move |error: ClientError| Failure::of(format!("{what} is not made"), &error);
    let known: Vec<String> = match manifest.users.is_empty() {
        true => Vec::new(),
        false => {
            let users = admin.users().await.map_err(failed("a user".to_owned()))?;
            users.into_iter().map(|user| user.name).collect()
        }
    };
    for user in manifest.users.iter().filter(|user| !known.contains(user)) {
        admin.add_user(user, Credentials::default()).await.map_err(failed(format!("user '{user}'")))?;
        notes.push(format!("user '{user}' needs a new token or password: lnc user set-token, set-password"));
    }
    for rule in &manifest.rules {
        admin.add_rule(rule.clone()).await.map_err(failed(format!("a rule of '{}'", rule.principal)))?;
    }
    Ok(())
}

async fn restore_offsets(admin: &Admin, manifest: &Manifest, ids: &HashMap<String, TopicId>) -> Result<(), Failure> {
    for group in &manifest.groups {
        let offsets = group.offsets.iter().filter_map(|at| {
            let partition = TopicPartition::new(*ids.get(&at.topic)?, at.partition);
            Some(GroupOffset { partition, offset: at.offset, metadata: at.metadata.clone() })
        });
        let committed = admin.commit_group_offsets(&group.name, offsets.collect()).await;
        committed
            .map_err(|error| Failure::of(format!("the offsets of group '{}' are not kept", group.name), &error))?;
    }
    for consumer in &manifest.consumers {
        let Some(topic) = ids.get(&consumer.at.topic) else { continue };
        let partition = TopicPartition::new(*topic, consumer.at.partition);
        let committed = admin.commit_plain_offset(consumer.consumer_id, partition, consumer.at.offset).await;
        let what = format!("the offset of consumer {} is not kept", consumer.consumer_id);
        committed.map_err(|error| Failure::of(what, &error))?;
    }
    Ok(())
}

fn place(place: Place) -> BatchPlace {
    BatchPlace { offset: place.offset, record: place.record }
}

/// One restoration.
struct Run<'a> {
    dir: &'a Path,
    logs: &'a StoredLogs,
    progress: Progress,
    bytes: u64,
    records: u64,
}

impl Run<'_> {
    /// Writes one partition, on from what is there already.
    async fn restore(&mut self, topic: &TopicBackup, number: u16, held: &PartitionBackup) -> Result<(), Failure> {
        let failed = |error: ClientError| {
            Failure::of(format!("partition {number} of topic '{}' is not restored", topic.name), &error)
        };
        let bounds = async || retried(async || self.logs.bounds(&topic.name, number).await).await.map_err(failed);
        let (start, end) = bounds().await?;
        if start != place(held.start) {
            let (name, found, wanted) = (&topic.name, start.offset, held.start.offset);
            let text = format!("partition {number} of topic '{name}' begins at {found}, the backup at {wanted}");
            return Err(Failure::failed(text).with_hint("restore into a new cluster"));
        }
        for file in held.files.iter().filter(|file| file.end.offset > end.offset) {
            let path = topic.dir(self.dir, number).join(&file.name);
            let unusable = |error: BackupError| named(self.dir, &error);
            let mut reader = BatchReader::open(&path, topic.partition(number), Some(file.start)).map_err(unusable)?;
            let (mut window, mut bytes): (Vec<(BatchHeader, Bytes)>, u64) = (Vec::new(), 0);
            loop {
                let batch = reader.next().map_err(|error| named(self.dir, &error))?;
                let is_last = batch.is_none();
                if let Some((header, records)) = batch {
                    bytes += header.batch_bytes();
                    window.push((header, records));
                }
                if !window.is_empty() && (is_last || bytes >= WINDOW_BYTES || window.len() >= WINDOW_BATCHES) {
                    self.logs.write(&topic.name, number, &window).await.map_err(failed)?;
                    self.bytes += bytes;
                    self.records += window.iter().map(|(header, _)| u64::from(header.record_count)).sum::<u64>();
                    let written = self.bytes;
                    self.progress.show(|| format!("{} restored", show_bytes(written)));
                    (window, bytes) = (Vec::new(), 0);
                }
                if is_last {
                    break;
                }
            }
        }
        let (_, end) = bounds().await?;
        if end != place(held.end) {
            let (name, found, wanted) = (&topic.name, end.offset, held.end.offset);
            let text = format!("partition {number} of topic '{name}' ends at {found}, the backup at {wanted}");
            return Err(Failure::failed(text).with_hint("did somebody write to it meanwhile?"));
        }
        Ok(())
    }
}
