//! Folders of topics whose deletion was cut short by the end of the process.

use crate::view::ClusterView;
use lance_messages::id::{TopicId, TopicPartition};
use lance_storage::disk::{Disk, DiskError};
use std::path::Path;

/// Removes what is left of deleted topics in `logs_dir`; gives the partitions removed, and those that could not be.
/// May wait for the disk.
///
/// A topic that the metadata never knew is nobody's to remove.
pub fn remove_leftovers(
    disk: &dyn Disk,
    logs_dir: &Path,
    view: &ClusterView,
) -> Result<(Vec<TopicPartition>, Vec<DiskError>), DiskError> {
    let (mut removed, mut failed) = (Vec::new(), Vec::new());
    for entry in disk.list(logs_dir)?.iter().filter(|entry| entry.is_dir) {
        let Some(partition) = partition_of(&entry.name).filter(|partition| view.is_deleted(partition.topic)) else {
            continue;
        };
        match disk.remove_dir_all(&logs_dir.join(&entry.name)) {
            Ok(()) => removed.push(partition),
            // A deletion that is under way was faster.
            Err(error) if error.is_not_found() => {}
            Err(error) => failed.push(error),
        }
    }
    Ok((removed, failed))
}

fn partition_of(name: &str) -> Option<TopicPartition> {
    let (topic, partition) = name.split_once('-')?;
    let partition = TopicPartition::new(TopicId(topic.parse().ok()?), partition.parse().ok()?);
    (partition.to_string() == name).then_some(partition)
}

#[cfg(test)]
mod tests {
    use super::*;
    use lance_cluster::metadata::state::MetadataState;
    use lance_cluster::metadata::{MetadataCommand, ReplicationMode, TopicConfig};
    use lance_messages::id::NodeId;
    use lance_storage::disk::OpenMode;
    use lance_storage::disk::memory::{MemoryConfig, MemoryDisk};

    /// Topic 1 was deleted, topic 2 is there, topic 3 was never heard of.
    fn view() -> ClusterView {
        let mut state = MetadataState::new();
        let node = MetadataCommand::RegisterNode {
            rack: String::new(),
            node: NodeId(1),
            incarnation: 1,
            boot_number: 1,
            nonce: 1,
            address: "a:1".to_owned(),
        };
        state.apply(1, &node);
        for (index, name) in [(2, "gone"), (3, "there")] {
            let config = TopicConfig {
                partitions: 1,
                replication_factor: 1,
                mode: ReplicationMode::L1,
                max_age_secs: 0,
                max_bytes: 0,
            };
            let name = name.to_owned();
            state.apply(index, &MetadataCommand::CreateTopic { name, config, created_at_secs: 1, request: 0 });
        }
        state.apply(4, &MetadataCommand::DeleteTopic { topic: TopicId(1), deleted_at_secs: 2 });
        ClusterView::new(&state, NodeId(1), None, 1)
    }

    #[test]
    fn only_folders_of_topics_known_to_be_deleted_are_removed() {
        let disk = MemoryDisk::new(MemoryConfig::default());
        let logs = Path::new("/logs");
        let names = ["0-0", "1-0", "1-7", "2-0", "3-0", "01-0", "1-x", "notes"];
        for name in names {
            disk.create_dir_all(&logs.join(name)).unwrap();
            disk.open(&logs.join(name).join("file"), OpenMode::CreateOrOpen).unwrap();
        }
        let (removed, failed) = remove_leftovers(&disk, logs, &view()).unwrap();
        assert_eq!((removed.len(), failed.len()), (2, 0));
        let mut left: Vec<String> = disk.list(logs).unwrap().into_iter().map(|entry| entry.name).collect();
        left.sort();
        assert_eq!(left, ["0-0", "01-0", "1-x", "2-0", "3-0", "notes"]);
    }
}
