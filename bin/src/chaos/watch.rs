//! What the nodes say of themselves while everything fails, held against what must always be true of it.

use super::http;
use super::load::TOPIC;
use super::report::Verdict;
use serde_json::Value;
use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// Between two looks at all nodes.
const LOOK_EVERY: Duration = Duration::from_millis(250);

/// Of one partition, what a node had applied when it was asked.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sight {
    /// Topic, epoch of the topic's name, and partition.
    pub partition: String,
    /// Index of the last metadata command applied.
    pub applied: u64,
    /// Leader epoch, and who leads in it.
    pub led: (u64, Option<u64>),
    /// Who holds a copy.
    pub replicas: Vec<u64>,
    /// Whose acks count.
    pub in_quorum: Vec<u64>,
    /// Version of that.
    pub version: u64,
}

/// An in-quorum set, and the first and last index at which a node had it.
#[derive(Clone, Debug)]
struct Reign {
    in_quorum: Vec<u64>,
    first: u64,
    last: u64,
}

/// Everything seen so far.
#[derive(Debug)]
pub struct Watched {
    reigns: HashMap<String, BTreeMap<u64, Reign>>,
    leaders: HashMap<(String, u64), u64>,
    topics: BTreeMap<u64, (String, u64)>,
    quorums: Verdict,
    one_leader: Verdict,
    ids: Verdict,
}

impl Default for Watched {
    fn default() -> Self {
        Self {
            reigns: HashMap::new(),
            leaders: HashMap::new(),
            topics: BTreeMap::new(),
            quorums: Verdict::new(
                6,
                "in-quorum sets are quorums of the replicas, and change by a higher version alone",
            ),
            one_leader: Verdict::new(3, "nobody but one node leads in an epoch"),
            ids: Verdict::new(9, "a topic id names one topic for ever, on every node"),
        }
    }
}

impl Watched {
    /// A node said this of a partition.
    pub fn saw_partition(&mut self, sight: &Sight) {
        let Sight { partition, applied, led: (epoch, leader), replicas, in_quorum, version } = sight;
        let before = self.quorums.broken;
        if in_quorum.len() < replicas.len() / 2 + 1 {
            self.quorums.broken(format!("{partition}: {in_quorum:?} is no quorum of {replicas:?}"));
        }
        if let Some(stranger) = in_quorum.iter().find(|node| !replicas.contains(node)) {
            self.quorums.broken(format!("{partition}: {stranger} counts, and {replicas:?} have the copies"));
        }
        let reigns = self.reigns.entry(partition.clone()).or_default();
        let reign = Reign { in_quorum: in_quorum.clone(), first: *applied, last: *applied };
        let reign = reigns.entry(*version).or_insert(reign);
        if reign.in_quorum != *in_quorum {
            let one = &reign.in_quorum;
            self.quorums.broken(format!("{partition}: version {version} is {one:?} and {in_quorum:?}"));
        }
        (reign.first, reign.last) = (reign.first.min(*applied), reign.last.max(*applied));
        let (first, last) = (reign.first, reign.last);
        let earlier = reigns.range(..version).next_back().filter(|(_, earlier)| earlier.last >= first);
        let later = reigns.range(version + 1..).next().filter(|(_, later)| later.first <= last);
        for (other, reign) in earlier.into_iter().chain(later) {
            self.quorums.broken(format!(
                "{partition}: version {version} at {first} to {last}, version {other} at {} to {}",
                reign.first, reign.last
            ));
        }
        if self.quorums.broken == before {
            self.quorums.held();
        }
        let Some(leader) = leader else { return };
        let known = *self.leaders.entry((partition.clone(), *epoch)).or_insert(*leader);
        match known == *leader {
            true => self.one_leader.held(),
            false => self.one_leader.broken(format!("{partition}: {known} and {leader} lead in epoch {epoch}")),
        }
    }

    /// A node knows a topic under this id, created then.
    pub fn saw_topic(&mut self, id: u64, name: &str, created_at: u64) {
        let known = self.topics.entry(id).or_insert_with(|| (name.to_owned(), created_at));
        match (known.0.as_str(), known.1) == (name, created_at) {
            true => self.ids.held(),
            false => self.ids.broken(format!("id {id} is {known:?} and {:?}", (name, created_at))),
        }
    }

    /// What became of it.
    pub fn verdicts(&self) -> Vec<Verdict> {
        vec![self.one_leader.clone(), self.quorums.clone(), self.ids.clone()]
    }
}

/// Asks all nodes again and again until it is dropped with its task.
pub async fn watch(admins: Vec<String>, watched: Arc<Mutex<Watched>>) {
    loop {
        for admin in &admins {
            // Nodes that are down or stopped say nothing, and others should not wait for them.
            let asked = tokio::time::timeout(LOOK_EVERY, http::json(admin, "/v1/cluster"));
            let cluster = asked.await.ok().flatten();
            let asked = tokio::time::timeout(LOOK_EVERY, http::json(admin, "/v1/topics"));
            let topics = asked.await.ok().flatten();
            let mut watched = watched.lock().unwrap_or_else(PoisonError::into_inner);
            sights(cluster.as_ref()).iter().for_each(|sight| watched.saw_partition(sight));
            let listed = topics.as_ref().and_then(|topics| topics.get("topics")?.as_array());
            for topic in listed.into_iter().flatten() {
                let name = topic.get("name").and_then(Value::as_str).unwrap_or_default();
                watched.saw_topic(number(topic, "id"), name, number(topic, "created_at"));
            }
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

fn number(of: &Value, key: &str) -> u64 {
    of.get(key).and_then(Value::as_u64).unwrap_or_default()
}

/// The partitions of the run's topic in an answer. Others come and go under the same names.
fn sights(cluster: Option<&Value>) -> Vec<Sight> {
    let Some(cluster) = cluster else { return Vec::new() };
    let nodes = |of: &Value, key: &str| {
        let nodes = of.get(key).and_then(Value::as_array);
        nodes.into_iter().flatten().filter_map(Value::as_u64).collect::<Vec<u64>>()
    };
    let sight = |of: &Value| Sight {
        partition: format!("partition {}", number(of, "partition")),
        applied: number(cluster, "applied"),
        led: (number(of, "epoch"), of.get("leader").and_then(Value::as_u64)),
        replicas: nodes(of, "replicas"),
        in_quorum: nodes(of, "in_quorum"),
        version: number(of, "in_quorum_version"),
    };
    let partitions = cluster.get("partitions").and_then(Value::as_array);
    let ours = |of: &&Value| of.get("topic").and_then(Value::as_str) == Some(TOPIC);
    partitions.into_iter().flatten().filter(ours).map(sight).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn sight(applied: u64, version: u64, in_quorum: &[u64]) -> Sight {
        Sight {
            partition: "partition 0".to_owned(),
            applied,
            led: (1, Some(1)),
            replicas: vec![1, 2, 3],
            in_quorum: in_quorum.to_vec(),
            version,
        }
    }

    /// Findings about quorums, leaders and ids.
    fn broken(sights: &[Sight]) -> [u64; 3] {
        let mut watched = Watched::default();
        sights.iter().for_each(|sight| watched.saw_partition(sight));
        let verdicts = watched.verdicts();
        [1, 0, 2].map(|index: usize| verdicts[index].broken)
    }

    #[test]
    fn what_nodes_may_say_is_clean_in_whatever_order_it_is_heard() {
        let (evicted, back) = (sight(20, 2, &[1, 2]), sight(30, 3, &[1, 2, 3]));
        let late = sight(12, 1, &[1, 2, 3]);
        assert_eq!(broken(&[sight(10, 1, &[1, 2, 3]), evicted.clone(), late, back, sight(25, 2, &[1, 2])]), [0; 3]);
        assert_eq!(broken(&[Sight { led: (1, None), ..evicted }]), [0; 3]);
    }

    #[test]
    fn an_in_quorum_set_below_the_quorum_is_found() {
        assert_eq!(broken(&[sight(10, 1, &[1])])[0], 1);
        let even = Sight { replicas: vec![1, 2, 3, 4], ..sight(10, 1, &[1, 2]) };
        assert_eq!(broken(&[even])[0], 1, "two of four are no majority");
    }

    #[test]
    fn a_stranger_in_the_in_quorum_set_is_found() {
        assert_eq!(broken(&[sight(10, 1, &[1, 2, 4])])[0], 1);
    }

    #[test]
    fn a_change_without_a_higher_version_is_found() {
        assert_eq!(broken(&[sight(10, 1, &[1, 2, 3]), sight(20, 1, &[1, 2])])[0], 1, "the same version");
        assert_eq!(broken(&[sight(10, 5, &[1, 2, 3]), sight(20, 4, &[1, 2])])[0], 1, "a lower one");
        let back = [sight(10, 1, &[1, 2, 3]), sight(20, 2, &[1, 2]), sight(30, 1, &[1, 2, 3])];
        assert_eq!(broken(&back)[0], 1, "a version that comes back");
    }

    #[test]
    fn two_leaders_of_an_epoch_are_found() {
        let other = Sight { led: (1, Some(2)), ..sight(11, 1, &[1, 2, 3]) };
        assert_eq!(broken(&[sight(10, 1, &[1, 2, 3]), other.clone()])[1], 1);
        assert_eq!(broken(&[sight(10, 1, &[1, 2, 3]), Sight { led: (2, Some(2)), ..other }])[1], 0);
    }

    #[test]
    fn an_id_of_two_topics_is_found() {
        let mut watched = Watched::default();
        watched.saw_topic(7, "a", 100);
        watched.saw_topic(7, "a", 100);
        assert_eq!(watched.verdicts()[2].broken, 0);
        watched.saw_topic(7, "b", 100);
        watched.saw_topic(7, "a", 101);
        assert_eq!(watched.verdicts()[2].broken, 2);
    }

    #[test]
    fn only_the_topic_of_the_run_is_taken_from_an_answer() {
        let partition = |topic: &str| {
            json!({"topic": topic, "partition": 2, "leader": 3, "epoch": 9, "replicas": [1, 2, 3],
                   "in_quorum": [1, 3], "in_quorum_version": 4})
        };
        let answer = json!({"applied": 55, "partitions": [partition("churn-1"), partition(TOPIC)]});
        let expected = Sight {
            partition: "partition 2".to_owned(),
            applied: 55,
            led: (9, Some(3)),
            replicas: vec![1, 2, 3],
            in_quorum: vec![1, 3],
            version: 4,
        };
        assert_eq!(sights(Some(&answer)), [expected]);
        assert_eq!(sights(None), []);
    }
}
