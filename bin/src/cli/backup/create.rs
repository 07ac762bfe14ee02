//! `lnc backup --to DIR`: copies what is committed, while the cluster serves.

use super::args::BackupArgs;
use super::error::BackupError;
use super::files::{BatchWriter, FILE_BYTES, finished, remove_others};
use super::manifest::{
    ConsumerBackup, FileBackup, GroupBackup, Manifest, OffsetBackup, PartitionBackup, Place, TopicBackup, VERSION,
};
use super::named;
use crate::cli::args::{Common, OutputFormat};
use crate::cli::failure::Failure;
use crate::cli::output::{Out, Progress};
use crate::cli::session;
use crate::cli::tee::rule_json;
use crate::cli::units::show_bytes;
use lance_client::batch::BatchPlace;
use lance_client::{Admin, ClientError, GroupDescription, StoredLogs, TopicDescription, TopicId, split_stored};
use serde_json::json;
use std::collections::HashMap;
use std::path::Path;
use std::time::{Duration, Instant, SystemTime};

/// Bytes asked for at a time.
const READ_BYTES: u32 = 4 * 1024 * 1024;
/// How long a leader may have nothing to show of what is committed.
const PATIENCE: Duration = Duration::from_secs(30);
/// Between two looks whether it has.
const PAUSE: Duration = Duration::from_millis(20);
/// Topics whose names begin so belong to the broker: what they hold is backed up by what it means.
const INTERNAL_PREFIX: &str = "__";

/// Copies a cluster into `dir`.
pub async fn run(dir: &Path, _: &BackupArgs, common: &Common) -> Result<(), Failure> {
    let failed = |error: BackupError| named(dir, &error);
    std::fs::create_dir_all(dir).map_err(|error| failed(BackupError::io(dir, "make")(error)))?;
    let before = match Manifest::read(dir) {
        Ok(manifest) => Some(manifest),
        Err(BackupError::ManifestMissing { .. }) => None,
        Err(error) => return Err(failed(error)),
    };
    let client = session::connect(common).await?;
    let admin = client.admin();
    let logs = client.stored_logs().await.map_err(|error| Failure::of("no backup", &error))?;
    // Offsets that groups have committed lie below the ends that are looked up after them.
    let mut manifest = metadata(&admin).await.map_err(|error| Failure::of("the metadata cannot be read", &error))?;
    manifest.runs = before.as_ref().map_or(0, |before| before.runs) + 1;
    manifest.begun_at = humantime::format_rfc3339_seconds(SystemTime::now()).to_string();
    check_same_cluster(dir, before.as_ref(), &manifest).map_err(failed)?;
    let mut run = Run { dir, logs: &logs, progress: Progress::new(), copied: 0, records: 0, total: 0 };
    let bounds = run.bounds(&manifest).await?;
    let mut bounds = bounds.into_iter();
    let mut topics = std::mem::take(&mut manifest.topics);
    for topic in &mut topics {
        for number in 0..topic.partitions.len() {
            let Some((start, end)) = bounds.next() else { continue };
            let known = before.as_ref().and_then(|before| before.topics.iter().find(|known| known.id == topic.id));
            let known = known.and_then(|known| known.partitions.get(number));
            let number = u16::try_from(number).unwrap_or(u16::MAX);
            let held = run.copy(topic, number, (start, end), known).await?;
            topic.partitions[usize::from(number)] = held;
        }
    }
    manifest.topics = topics;
    // Given out last: every producer of what was copied has a lower one.
    let next = admin.new_producer().await.map_err(|error| Failure::of("no producer id", &error))?;
    manifest.next_producer_id = next;
    manifest.write(dir).map_err(failed)?;
    clean(dir, before.as_ref(), &manifest).map_err(failed)?;
    run.progress.clear();
    report(&manifest, &run, common.output == OutputFormat::Json, dir)
}

fn report(manifest: &Manifest, run: &Run<'_>, as_json: bool, dir: &Path) -> Result<(), Failure> {
    let bytes: u64 = manifest.partitions().flat_map(|(.., held)| &held.files).map(|file| file.bytes).sum();
    let records: u64 = manifest.partitions().map(|(.., held)| held.end.record - held.start.record).sum();
    let (topics, groups) = (manifest.topics.len(), manifest.groups.len());
    let mut out = Out::stdout();
    if as_json {
        return out.json(&json!({
            "dir": dir, "run": manifest.runs, "begun_at": manifest.begun_at, "topics": topics, "groups": groups,
            "records": records, "bytes": bytes, "copied_records": run.records, "copied_bytes": run.copied,
        }));
    }
    out.line(&format!(
        "backed up {topics} topics and {groups} groups: {records} records, {}; copied now: {} records, {}",
        show_bytes(bytes),
        run.records,
        show_bytes(run.copied)
    ))
}

async fn metadata(admin: &Admin) -> Result<Manifest, ClientError> {
    let groups = admin.describe_groups(&[]).await?;
    let consumers = admin.plain_consumers().await?;
    let users = admin.users().await?.into_iter().map(|user| user.name).collect();
    let rules = admin.rules().await?;
    let tees = admin.list_tees(None).await?.iter().map(rule_json).collect();
    let topics = admin.list_topics().await?;
    let names: HashMap<u32, String> = topics.iter().map(|topic| (topic.id.0, topic.name.clone())).collect();
    let next_topic_id = topics.iter().map(|topic| topic.id.0.saturating_add(1)).max().unwrap_or(1);
    let mut topics: Vec<TopicBackup> =
        topics.into_iter().filter(|topic| !topic.name.starts_with(INTERNAL_PREFIX)).map(topic_backup).collect();
    topics.sort_by_key(|topic| topic.id);
    let consumers = consumers.into_iter().filter_map(|(consumer_id, topic, partition, offset)| {
        let topic = names.get(&topic.0)?.clone();
        let at = OffsetBackup { topic, partition, offset, metadata: String::new() };
        Some(ConsumerBackup { consumer_id, at })
    });
    Ok(Manifest {
        version: VERSION,
        next_topic_id,
        groups: groups.into_iter().map(group_backup).filter(|group| !group.offsets.is_empty()).collect(),
        consumers: consumers.collect(),
        topics,
        users,
        rules,
        tees,
        ..Manifest::default()
    })
}

fn topic_backup(topic: TopicDescription) -> TopicBackup {
    TopicBackup {
        id: topic.id.0,
        mode: format!("{:?}", topic.mode),
        replication_factor: topic.replication_factor,
        created_at: topic.created_at,
        max_age_secs: topic.max_age_secs,
        max_bytes: topic.max_bytes,
        partitions: vec![PartitionBackup::default(); topic.partitions.len()],
        name: topic.name,
    }
}

fn group_backup(group: GroupDescription) -> GroupBackup {
    let committed = group.partitions.into_iter().filter_map(|at| {
        let (topic, partition, metadata) = (at.topic, at.partition, at.metadata);
        at.committed.map(|offset| OffsetBackup { topic, partition, offset, metadata })
    });
    GroupBackup { name: group.name, offsets: committed.collect() }
}

/// The batches of two clusters would not follow each other.
fn check_same_cluster(dir: &Path, before: Option<&Manifest>, now: &Manifest) -> Result<(), BackupError> {
    for known in before.iter().flat_map(|before| &before.topics) {
        let same_id = now.topics.iter().find(|topic| topic.id == known.id);
        let other = |topic: &&TopicBackup| topic.name != known.name || topic.created_at != known.created_at;
        if let Some(found) = same_id.filter(other) {
            let (path, id) = (dir.to_owned(), known.id);
            return Err(BackupError::OtherCluster { path, id, known: known.name.clone(), found: found.name.clone() });
        }
    }
    Ok(())
}

/// Removes what the manifest names no longer.
fn clean(dir: &Path, before: Option<&Manifest>, now: &Manifest) -> Result<(), BackupError> {
    for (topic, number, held) in now.partitions() {
        remove_others(&topic.dir(dir, number), &held.files)?;
    }
    for (topic, number, _) in before.iter().flat_map(|before| before.partitions()) {
        if !now.topics.iter().any(|kept| kept.id == topic.id) {
            remove_others(&topic.dir(dir, number), &[])?;
        }
    }
    Ok(())
}

/// One run of a backup.
struct Run<'a> {
    dir: &'a Path,
    logs: &'a StoredLogs,
    progress: Progress,
    copied: u64,
    records: u64,
    /// Plain bytes of everything, about.
    total: u64,
}

impl Run<'_> {
    /// Where every partition begins and ends now: what comes later is left for the next run.
    async fn bounds(&mut self, manifest: &Manifest) -> Result<Vec<(Place, Place)>, Failure> {
        let mut bounds = Vec::new();
        for (topic, number, _) in manifest.partitions() {
            let found = self.logs.bounds(&topic.name, number).await;
            let (start, end) = found.map_err(|error| unreadable(topic, number, &error))?;
            self.total += end.offset - start.offset.min(end.offset);
            bounds.push((place(start), place(end)));
        }
        Ok(bounds)
    }

    /// Copies one partition up to `end`, on from what is there already.
    async fn copy(
        &mut self,
        topic: &TopicBackup,
        number: u16,
        (mut start, end): (Place, Place),
        known: Option<&PartitionBackup>,
    ) -> Result<PartitionBackup, Failure> {
        let folder = topic.dir(self.dir, number);
        let mut files = kept_files(&folder, known, start);
        let mut next = files.last().map_or(start, |file| file.end);
        // Unfinished ones, or damaged in an interrupted run, are copied again.
        files.extend(finished(&folder, topic.partition(number), next).unwrap_or_default());
        next = files.last().map_or(start, |file| file.end);
        if next.offset > end.offset {
            // What the folder holds may be the only copy by now, and what follows in the cluster is another history.
            let text = format!("partition {number} of topic '{}' ends at {} in the cluster", topic.name, end.offset);
            let more = format!("and at {} in the folder: records were lost since; use another folder", next.offset);
            return Err(Failure::failed(format!("{text} {more}")));
        }
        let mut writer: Option<BatchWriter> = None;
        let mut idle_since = Instant::now();
        while next.offset < end.offset {
            let read = self.logs.read(&topic.name, number, next.offset, READ_BYTES).await;
            let read = read.map_err(|error| unreadable(topic, number, &error))?;
            if read.log_start > next.offset {
                // Retention has overtaken the backup: what is left begins later.
                let (begins, _) =
                    self.logs.bounds(&topic.name, number).await.map_err(|e| unreadable(topic, number, &e))?;
                (files, writer) = (Vec::new(), None);
                (start, next) = (place(begins), place(begins));
                continue;
            }
            if read.data.is_empty() {
                if idle_since.elapsed() > PATIENCE {
                    let text = format!("partition {number} of topic '{}' ends at {}", topic.name, next.offset);
                    return Err(Failure::failed(format!("{text}, though {} was committed", end.offset)));
                }
                tokio::time::sleep(PAUSE).await;
                continue;
            }
            idle_since = Instant::now();
            let batches = split_stored(&read.data, topic.partition(number)).map_err(|(at, reason)| {
                let text = format!("partition {number} of topic '{}', byte {at} behind {}", topic.name, next.offset);
                Failure::failed(format!("{text}: {reason}"))
            })?;
            for (header, records) in batches.iter().filter(|(header, _)| header.base_offset < end.offset) {
                let open = match writer.take() {
                    Some(open) => Ok(open),
                    None => BatchWriter::create(&folder, next),
                };
                let mut open = open.map_err(|error| named(self.dir, &error))?;
                open.push(header, records, topic.partition(number)).map_err(|error| named(self.dir, &error))?;
                next = Place { offset: header.end_offset(), record: header.end_record() };
                self.copied += header.batch_bytes();
                self.records += u64::from(header.record_count);
                if open.bytes() >= FILE_BYTES {
                    files.push(open.finish().map_err(|error| named(self.dir, &error))?);
                } else {
                    writer = Some(open);
                }
            }
            let (copied, total) = (self.copied, self.total);
            self.progress.show(|| format!("{} of about {} copied", show_bytes(copied), show_bytes(total)));
        }
        if let Some(open) = writer {
            files.push(open.finish().map_err(|error| named(self.dir, &error))?);
        }
        let start = files.first().map_or(start, |file| file.start);
        Ok(PartitionBackup { start, end: next, files })
    }
}

/// The files of an earlier run that still belong to what the partition holds, each where the one before ends.
fn kept_files(folder: &Path, known: Option<&PartitionBackup>, start: Place) -> Vec<FileBackup> {
    let files = known.map(|known| known.files.as_slice()).unwrap_or_default();
    let is_there =
        |file: &&FileBackup| std::fs::metadata(folder.join(&file.name)).is_ok_and(|found| found.len() == file.bytes);
    let kept = files.iter().filter(|file| file.end.offset > start.offset).take_while(is_there);
    let kept: Vec<FileBackup> = kept.cloned().collect();
    match kept.first() {
        // What lies between is gone: nothing from before can stand in front of what is left.
        Some(first) if first.start.offset > start.offset => Vec::new(),
        _ => kept,
    }
}

fn place(found: BatchPlace) -> Place {
    Place { offset: found.offset, record: found.record }
}

fn unreadable(topic: &TopicBackup, number: u16, error: &ClientError) -> Failure {
    Failure::of(
        format!("partition {number} of topic '{}' (id {}) cannot be read", topic.name, TopicId(topic.id)),
        error,
    )
}
