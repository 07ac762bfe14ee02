//! A consumer group that works while everything fails, and what is seen of its offsets and owners.

use super::history::History;
use super::load::{TOPIC, connect};
use super::report::Verdict;
use lance_client::{ClientError, GroupDescription, GroupOptions};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// The group.
const GROUP: &str = "chaos-group";
/// Between two looks.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// Sessions are short, so that partitions often change their owners.
const SESSION: Duration = Duration::from_secs(6);

/// What was seen of the group.
#[derive(Debug)]
pub struct WatchedGroup {
    committed: BTreeMap<u16, u64>,
    forward: Verdict,
    one_owner: Verdict,
}

impl Default for WatchedGroup {
    fn default() -> Self {
        Self {
            committed: BTreeMap::new(),
            forward: Verdict::new(8, "offsets of a group do not go back"),
            one_owner: Verdict::new(8, "a group's partition has one owner at a time"),
        }
    }
}

impl WatchedGroup {
    /// The coordinator says that the group is there in a partition. Answers come here in the order of their questions.
    pub fn saw_offset(&mut self, partition: u16, offset: u64) {
        let known = self.committed.entry(partition).or_insert(offset);
        match offset >= *known {
            true => self.forward.held(),
            false => self.forward.broken(format!("partition {partition}: {offset} after {known}")),
        }
        *known = offset;
    }

    /// Members, and the partitions they have or are still giving up.
    pub fn saw_owners(&mut self, owners: &[(String, Vec<u16>)]) {
        let mut taken: BTreeMap<u16, &str> = BTreeMap::new();
        for (member, partitions) in owners {
            for partition in partitions {
                match taken.insert(*partition, member).filter(|other| other != member) {
                    None => self.one_owner.held(),
                    Some(other) => {
                        self.one_owner.broken(format!("partition {partition} is of {other} and of {member}"));
                    }
                }
            }
        }
    }

    fn saw(&mut self, group: &GroupDescription) {
        for partition in group.partitions.iter().filter(|partition| partition.topic == TOPIC) {
            if let Some(committed) = partition.committed {
                self.saw_offset(partition.partition, committed);
            }
        }
        let owners = group.members.iter().map(|member| {
            let held = member.partitions.iter().chain(&member.revoking);
            (member.member.clone(), held.map(|partition| partition.partition).collect())
        });
        self.saw_owners(&owners.collect::<Vec<_>>());
    }

    /// What became of it.
    pub fn verdicts(&self) -> Vec<Verdict> {
        vec![self.forward.clone(), self.one_owner.clone()]
    }
}

fn note(watched: &Mutex<WatchedGroup>, groups: &[GroupDescription]) {
    let mut watched = watched.lock().unwrap_or_else(PoisonError::into_inner);
    groups.iter().for_each(|group| watched.saw(group));
}

/// A member of the group: reads and commits until it is ended, over whatever fails.
pub async fn member(servers: String, history: Arc<History>) {
    loop {
        if let Err(error) = take_part(&servers).await {
            history.note(format!("a member of the group begins again: {error}"));
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

async fn take_part(servers: &str) -> Result<(), ClientError> {
    let client = connect(servers).await?;
    let options = GroupOptions { session_timeout: SESSION, ..GroupOptions::new(GROUP, [TOPIC]) };
    let mut consumer = client.group_consumer(options);
    loop {
        consumer.next_chunk().await?;
    }
}

/// Asks after the group again and again until it is ended.
pub async fn watch(servers: String, watched: Arc<Mutex<WatchedGroup>>) {
    loop {
        // A client of its own each time: one that lost its node would not ask for a while.
        if let Ok(client) = connect(&servers).await {
            let admin = client.admin();
            while let Ok(groups) = admin.describe_groups(&[GROUP.to_owned()]).await {
                note(&watched, &groups);
                tokio::time::sleep(LOOK_EVERY).await;
            }
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_offset_that_goes_back_is_found() {
        let mut watched = WatchedGroup::default();
        for (partition, offset) in [(0, 10), (1, 5), (0, 10), (0, 20)] {
            watched.saw_offset(partition, offset);
        }
        assert_eq!(watched.verdicts()[0].broken, 0);
        watched.saw_offset(0, 19);
        assert_eq!(watched.verdicts()[0].broken, 1);
    }

    #[test]
    fn a_partition_of_two_members_is_found() {
        let mut watched = WatchedGroup::default();
        watched.saw_owners(&[("a".to_owned(), vec![0, 1, 1]), ("b".to_owned(), vec![2])]);
        assert_eq!(watched.verdicts()[1].broken, 0);
        watched.saw_owners(&[("a".to_owned(), vec![0, 1]), ("b".to_owned(), vec![1])]);
        assert_eq!(watched.verdicts()[1].broken, 1);
    }
}
