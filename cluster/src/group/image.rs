//! What the records of one partition of `__groups` add up to: groups, members, offsets.

use super::offsets::{GroupOffsets, Replayed};
use super::record::{GroupRecord, MemberRecord, OffsetRecord, OffsetRecordError};
use lance_messages::wire::group::AssignmentStrategy;
use std::collections::BTreeMap;

/// Groups, members and offsets as the log says them.
#[derive(Clone, Debug, Default)]
pub struct GroupsImage {
    /// What is committed; it also counts the entries of a snapshot.
    pub offsets: GroupOffsets,
    /// Groups with their members.
    pub groups: Groups,
    /// The groups of a snapshot that is being read.
    staged: Groups,
}

/// Groups as the log says them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Groups {
    /// By name.
    pub by_name: BTreeMap<String, GroupImage>,
    /// No epoch of a group that is gone was higher.
    pub epoch_floor: i32,
}

/// One group as the log says it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GroupImage {
    /// Its epoch, no less than that of any member that is gone.
    pub epoch: i32,
    /// How partitions are spread.
    pub strategy: AssignmentStrategy,
    /// When its last member went, milliseconds since the Unix epoch, if that was noted.
    pub empty_since_ms: u64,
    /// Its members by id.
    pub members: BTreeMap<String, MemberRecord>,
}

impl GroupsImage {
    /// Applies a committed record given as bytes.
    pub fn replay(&mut self, bytes: &[u8]) -> Result<Replayed, OffsetRecordError> {
        self.apply(OffsetRecord::decode(bytes)?)
    }

    /// Applies a committed record.
    pub fn apply(&mut self, record: OffsetRecord) -> Result<Replayed, OffsetRecordError> {
        match &record {
            OffsetRecord::SnapshotBegin { .. } => self.staged = Groups::default(),
            OffsetRecord::InSnapshot(entry) => self.staged.apply(entry),
            plain => self.groups.apply(plain),
        }
        let replayed = self.offsets.apply(record)?;
        if replayed == Replayed::SnapshotComplete {
            self.groups = std::mem::take(&mut self.staged);
        }
        Ok(replayed)
    }
}

impl Groups {
    fn apply(&mut self, record: &OffsetRecord) {
        match record {
            OffsetRecord::Group(GroupRecord { group, epoch, strategy, empty_since_ms }) => {
                let image = self.group(group);
                image.epoch = image.epoch.max(*epoch);
                image.strategy = *strategy;
                image.empty_since_ms = *empty_since_ms;
            }
            OffsetRecord::Member(member) => self.group(&member.group).put(member),
            OffsetRecord::MemberGone { group, member } => {
                let image = self.group(group);
                let gone = image.members.remove(member);
                image.epoch = image.epoch.max(gone.map_or(0, |gone| gone.epoch));
            }
            OffsetRecord::GroupGone { group, epoch } => {
                self.by_name.remove(group);
                self.epoch_floor = self.epoch_floor.max(*epoch);
            }
            OffsetRecord::EpochFloor(epoch) => self.epoch_floor = self.epoch_floor.max(*epoch),
            _ => {}
        }
    }

    fn group(&mut self, name: &str) -> &mut GroupImage {
        let epoch = self.epoch_floor;
        self.by_name.entry(name.to_owned()).or_insert_with(|| GroupImage { epoch, ..GroupImage::default() })
    }
}

impl GroupImage {
    fn put(&mut self, member: &MemberRecord) {
        if member.instance.is_some() {
            let epoch = &mut self.epoch;
            self.members.retain(|id, other| {
                let stays = *id == member.member || other.instance != member.instance;
                // The one that comes back under the id of one whose place was taken begins above it.
                *epoch = if stays { *epoch } else { (*epoch).max(other.epoch) };
                stays
            });
        }
        self.members.insert(member.member.clone(), member.clone());
    }
}
