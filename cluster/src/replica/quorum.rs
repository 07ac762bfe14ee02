//! How far a quorum has a partition's log on disk.

/// How many replicas make a quorum of `copies`: the majority.
pub const fn quorum_size(copies: usize) -> usize {
    copies / 2 + 1
}

/// The highest position that a quorum of `copies` replicas, the leader among them, has synced.
///
/// `own_flush` is the leader's own synced end; `acks` are the ends of the followers that count, each at most once. `None` while
/// fewer than a quorum count: the quorum is of the configured copies, however few are heard.
pub fn quorum_position(copies: usize, own_flush: u64, acks: impl Iterator<Item = u64> + Clone) -> Option<u64> {
    let followers_needed = quorum_size(copies) - 1;
    if followers_needed == 0 {
        return Some(own_flush);
    }
    // Few replicas, no allocation: an end is on the quorum when enough followers are at or past it.
    let on_quorum = |position: &u64| acks.clone().filter(|ack| ack >= position).count() >= followers_needed;
    acks.clone().filter(on_quorum).max().map(|position| position.min(own_flush))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cases_of_the_data_file_hold() {
        let mut count = 0;
        for line in include_str!("../../testdata/quorum.txt").lines() {
            let case = line.split('#').next().unwrap_or_default().trim();
            if case.is_empty() {
                continue;
            }
            let (input, expected) = case.split_once("->").unwrap();
            let mut fields = input.split('|').map(str::trim);
            let copies: usize = fields.next().unwrap().parse().unwrap();
            let own: u64 = fields.next().unwrap().parse().unwrap();
            let acks: Vec<u64> = fields.next().unwrap().split_whitespace().map(|ack| ack.parse().unwrap()).collect();
            let expected: Option<u64> = expected.trim().parse().ok();
            assert_eq!(quorum_position(copies, own, acks.iter().copied()), expected, "{line}");
            count += 1;
        }
        assert!(count >= 20);
    }

    proptest::proptest! {
        #[test]
        fn a_quorum_with_the_leader_is_at_or_past_the_position_and_none_past_a_higher_one(
            copies in 1usize..8,
            own in 0u64..20,
            acks in proptest::collection::vec(0u64..20, 0..7),
        ) {
            let acks = &acks[..acks.len().min(copies - 1)];
            let holders = |position: u64| 1 + acks.iter().filter(|ack| **ack >= position).count();
            match quorum_position(copies, own, acks.iter().copied()) {
                Some(position) => {
                    assert!(position <= own && holders(position) >= quorum_size(copies));
                    assert!(position == own || holders(position + 1) < quorum_size(copies));
                }
                None => assert!(1 + acks.len() < quorum_size(copies)),
            }
        }
    }
}
