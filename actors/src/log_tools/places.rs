//! From a path that somebody typed to segment files, in log order.

use super::LogToolError;
use lance_messages::id::{TopicId, TopicPartition};
use lance_storage::disk::{Disk, OpenMode};
use lance_storage::segment::parse_file_name;
use std::path::{Path, PathBuf};

/// Where partitions lie below a data directory.
const LOGS: &str = "logs";

/// One segment file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct SegmentPlace {
    /// The file.
    pub path: PathBuf,
    /// Its partition.
    pub partition: TopicPartition,
    /// Log position of its first byte.
    pub base_position: u64,
    /// The last one of its partition.
    pub is_newest: bool,
}

/// The segments that `path` stands for.
pub(super) fn find(disk: &dyn Disk, path: &Path) -> Result<Vec<SegmentPlace>, LogToolError> {
    if !path.is_dir() {
        return segment_file(disk, path).map(|place| vec![place]);
    }
    let mut places = partition_folder(disk, path)?;
    if places.is_empty() {
        let logs = path.join(LOGS);
        let logs = if logs.is_dir() { logs } else { path.to_owned() };
        let mut partitions: Vec<(TopicPartition, PathBuf)> = Vec::new();
        for entry in disk.list(&logs)? {
            if let Some(partition) = parse_partition(&entry.name).filter(|_| entry.is_dir) {
                partitions.push((partition, logs.join(entry.name)));
            }
        }
        partitions.sort();
        for (_, folder) in partitions {
            places.extend(partition_folder(disk, &folder)?);
        }
    }
    if places.is_empty() {
        return Err(LogToolError::NoSegments { path: path.to_owned() });
    }
    Ok(places)
}

fn segment_file(disk: &dyn Disk, path: &Path) -> Result<SegmentPlace, LogToolError> {
    // First of all it has to be there.
    disk.open(path, OpenMode::Read)?;
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let Some(base_position) = parse_file_name(name) else {
        return Err(LogToolError::NotASegment { path: path.to_owned() });
    };
    let partition = partition_of(path)?;
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let newest = disk.list(folder)?.iter().filter_map(|entry| parse_file_name(&entry.name)).max();
    let is_newest = newest.is_none_or(|newest| newest == base_position);
    Ok(SegmentPlace { path: path.to_owned(), partition, base_position, is_newest })
}

/// The segments directly inside `folder`.
fn partition_folder(disk: &dyn Disk, folder: &Path) -> Result<Vec<SegmentPlace>, LogToolError> {
    let mut places = Vec::new();
    for entry in disk.list(folder)? {
        let Some(base_position) = parse_file_name(&entry.name).filter(|_| !entry.is_dir) else { continue };
        let path = folder.join(&entry.name);
        let partition = partition_of(&path)?;
        places.push(SegmentPlace { path, partition, base_position, is_newest: false });
    }
    places.sort_by_key(|place| place.base_position);
    if let Some(newest) = places.last_mut() {
        newest.is_newest = true;
    }
    Ok(places)
}

/// The partition that the folder of a file is named after.
fn partition_of(path: &Path) -> Result<TopicPartition, LogToolError> {
    let unknown = || LogToolError::UnknownPartition { path: path.to_owned() };
    // A relative path may not show the folder.
    let whole = std::path::absolute(path).map_err(|_| unknown())?;
    let folder = whole.parent().and_then(Path::file_name).and_then(|name| name.to_str());
    folder.and_then(parse_partition).ok_or_else(unknown)
}

fn parse_partition(name: &str) -> Option<TopicPartition> {
    let (topic, partition) = name.split_once('-')?;
    let parsed = TopicPartition::new(TopicId(topic.parse().ok()?), partition.parse().ok()?);
    // One name for each partition: no leading zeroes, no signs.
    (parsed.to_string() == name).then_some(parsed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folders_are_named_after_topic_and_partition() {
        assert_eq!(parse_partition("12-3"), Some(TopicPartition::new(TopicId(12), 3)));
        for other in ["12", "12-", "-3", "012-3", "12-+3", "12-3-4", "12-65536", "logs"] {
            assert_eq!(parse_partition(other), None, "{other}");
        }
    }
}
