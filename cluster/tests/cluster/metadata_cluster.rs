//! The metadata plane of several nodes: nodes die, come back, are wiped, join and leave.

use crate::metadata_network::Network;
use crate::support::create;
use lance_cluster::metadata::{MetadataAnswer, MetadataCommand, MetadataRefusal, ProposeFailure};
use lance_messages::id::NodeId;

/// Three nodes with a topic of nine partitions that all of them hold.
fn settled(seed: u64) -> Network {
    let mut network = Network::new(seed, 3);
    network.run_until("all nodes register", |network| network.state().is_some_and(|state| state.nodes().count() == 3));
    assert!(matches!(network.ask(&create("alpha", 9, 3)), Ok(MetadataAnswer::TopicCreated { .. })));
    network.run_until("every partition is led", |network| network.leaderless() == 0);
    network
}

#[test]
fn three_nodes_lead_evenly_and_survive_the_loss_of_any_one() {
    for seed in 0..12 {
        let mut network = settled(seed);
        let counts: Vec<u32> = network.state().unwrap().leader_counts().values().copied().collect();
        assert_eq!(counts.iter().sum::<u32>(), 9, "seed {seed}");
        let victim = 1 + (seed % 3) as u16;
        network.crash(victim);
        network.run_until("the others take over", |network| network.leaderless() == 0);
        network.start(victim);
        network.run_until("it is registered again", |network| {
            network.state().is_some_and(|state| state.node(NodeId(victim)).unwrap().boot_number == 2)
        });
        network.run_until("all know the same", Network::is_quiet);
        network.run_until("leaders are balanced", |network| {
            network.state().is_some_and(|state| {
                let counts = state.leader_counts();
                counts.len() == 3 && counts.values().all(|count| *count <= 4)
            })
        });
    }
}

#[test]
fn the_metadata_leader_and_its_partitions_are_replaced_within_a_few_seconds() {
    for seed in 0..12 {
        let mut network = settled(seed);
        network.lost_percent = 2;
        network.run_ms(1000);
        let victim = network.leading().unwrap();
        network.crash(victim);
        let at_ms = network.now_ms;
        network.run_until("the others take over", |network| network.leaderless() == 0);
        assert!(network.now_ms - at_ms < 6000, "seed {seed}: {} ms", network.now_ms - at_ms);
    }
}

#[test]
fn a_wiped_voter_joins_with_a_new_incarnation_and_votes_in_the_place_of_the_old_one() {
    for seed in 0..12 {
        let mut network = settled(seed);
        let victim = 1 + (seed % 3) as u16;
        network.crash(victim);
        let incarnation = 900 + u64::from(victim);
        network.join(victim, incarnation);
        let mut expected: Vec<u64> = (1..=3).filter(|node| *node != victim).map(|node| 100 + u64::from(node)).collect();
        expected.push(incarnation);
        network.run_until("it votes", |network| network.voters() == expected);
        network.run_until("no change is left half done", |network| {
            network.core().is_some_and(|core| core.raft().conf().voters_outgoing.is_empty())
        });
        network.run_until("all know the same", Network::is_quiet);
        assert!(network.hosts[&victim].snapshots_received > 0, "who knows no members begins with a snapshot");
        let other = 1 + victim % 3;
        network.crash(other);
        network.run_until("the newcomer's vote is one", |network| network.leading().is_some_and(|node| node != other));
        assert!(network.ask(&create("beta", 1, 1)).is_ok());
    }
}

#[test]
fn a_follower_that_was_away_for_long_catches_up_by_a_snapshot() {
    for seed in 0..6 {
        let mut network = settled(seed);
        network.crash(3);
        for number in 0..60 {
            let command = MetadataCommand::InitProducer { existing: None, now_secs: number };
            assert!(network.ask(&command).is_ok());
        }
        network.start(3);
        network.run_until("it knows the same", |network| network.leaderless() == 0 && network.is_quiet());
        assert!(network.hosts[&3].snapshots_received > 0, "seed {seed}");
    }
}

#[test]
fn one_node_grows_to_three_voters_and_a_fourth_learns() {
    for seed in 0..6 {
        let mut network = Network::new(seed, 1);
        network.run_until("it leads", |network| network.state().is_some_and(|state| state.nodes().count() == 1));
        network.join(2, 202);
        network.run_ms(3000);
        assert_eq!(network.state().unwrap().nodes().count(), 1, "nobody has allowed it");
        for node in 2..=4 {
            if node > 2 {
                network.join(node, 200 + u64::from(node));
            }
            let allow = MetadataCommand::AllowNode { node: NodeId(node), address: format!("lance-{node}:9000") };
            assert_eq!(network.ask(&allow), Ok(MetadataAnswer::NodeChanged { node: NodeId(node) }));
            let expected = usize::from(node.min(3));
            network.run_until("it takes part", |network| {
                network.voters().len() == expected
                    && network
                        .core()
                        .is_some_and(|core| core.raft().conf().learners.len() == usize::from(node) - expected)
            });
        }
        network.run_until("all know the same", Network::is_quiet);
        assert!(network.ask(&create("alpha", 4, 4)).is_ok());
        network.run_until("every partition is led", |network| network.leaderless() == 0);
    }
}

#[test]
fn a_removed_node_leaves_the_voters_even_when_it_leads_them() {
    for seed in 0..6 {
        let mut network = Network::new(seed, 3);
        network
            .run_until("all nodes register", |network| network.state().is_some_and(|state| state.nodes().count() == 3));
        let leaver = network.leading().unwrap();
        let remove = MetadataCommand::RemoveNode { node: NodeId(leaver) };
        assert_eq!(network.ask(&remove), Ok(MetadataAnswer::NodeChanged { node: NodeId(leaver) }));
        network.run_until("it votes no more", |network| {
            let voters = network.voters();
            voters.len() == 2 && !voters.contains(&(100 + u64::from(leaver)))
        });
        assert_ne!(network.leading(), Some(leaver));
        network.crash(leaver);
        assert!(network.ask(&create("alpha", 1, 2)).is_ok());
        let again = network.ask(&remove);
        assert_eq!(again, Err(ProposeFailure::Refused(MetadataRefusal::NodeNotFound { node: NodeId(leaver) })));
    }
}

#[test]
fn a_drained_node_leads_nothing_after_a_while_and_no_partition_is_without_a_leader_for_long() {
    for seed in 0..6 {
        let mut network = settled(seed);
        assert!(network.ask(&MetadataCommand::SetDraining { node: NodeId(2), draining: true }).is_ok());
        network.run_until("it leads nothing", |network| {
            network.leaderless() == 0
                && network.state().is_some_and(|state| !state.leader_counts().contains_key(&NodeId(2)))
        });
    }
}

#[test]
fn members_change_while_nodes_crash_and_messages_are_lost() {
    for seed in 0..10 {
        let mut network = settled(seed);
        network.lost_percent = 20;
        for round in 0..6u16 {
            let node = 1 + (seed as u16 + round) % 3;
            network.crash(node);
            network.run_ms(700);
            if round % 2 == 0 {
                network.join(node, 1000 + u64::from(round) * 10 + u64::from(node));
            } else {
                network.start(node);
            }
            let incarnation = network.hosts[&node].incarnation;
            // Before the old voter is out of the joint configuration, the loss of a second disk would be one too many.
            network.run_until("it votes", |network| {
                let conf = network.core().map(|core| core.raft().conf());
                let done = conf.is_some_and(|conf| conf.voters_outgoing.is_empty() && conf.voters.len() == 3);
                done && network.voters().contains(&incarnation) && network.is_quiet()
            });
        }
    }
}
