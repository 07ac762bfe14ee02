//! `SpaceCore`: from free disk space to what is allowed, with room between the two so that nothing flaps.
//! And which partitions retention has to look at.

use crate::view::ClusterView;
use lance_messages::id::TopicPartition;
use lance_storage::retention::RetentionPolicy;
use std::time::Duration;

/// A watermark is left again only this part of it above.
const MARGIN: u64 = 8;
/// With less free than this part of the reserve, the disk counts as full.
const FULL: u64 = 4;
/// Time between two attempts to take the reserve again.
const REFILL_PAUSE: Duration = Duration::from_secs(10);

/// The watermarks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SpaceLimits {
    /// Free bytes below which there is a warning.
    pub low_free_bytes: u64,
    /// Free bytes below which appends are refused.
    pub min_free_bytes: u64,
    /// Bytes of the reserve.
    pub reserve_bytes: u64,
}

/// What was seen of the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SpaceSeen {
    /// Free bytes.
    pub free_bytes: u64,
    /// Partitions whose last write found no space.
    pub exhausted_partitions: u64,
}

/// What follows from it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SpaceEffect {
    /// Say that space runs low.
    WarnLow,
    /// Say that there is enough again.
    SayPlenty,
    /// Refuse appends from now on.
    Refuse,
    /// Allow appends again.
    Allow,
    /// Give the reserve back to the file system.
    ReleaseReserve,
    /// Try to take the reserve again.
    RefillReserve,
}

/// What the disk's space allows.
#[derive(Debug)]
pub struct SpaceCore {
    limits: SpaceLimits,
    low: bool,
    refusing: bool,
    reserve_held: Option<bool>,
    next_refill: Duration,
}

impl SpaceCore {
    /// Appends are allowed until something else is seen; the reserve is not known yet.
    pub fn new(limits: SpaceLimits) -> Self {
        Self { limits, low: false, refusing: false, reserve_held: None, next_refill: Duration::ZERO }
    }

    /// Whether appends are allowed.
    pub fn appends_allowed(&self) -> bool {
        !self.refusing
    }

    /// The reserve is held, or is not.
    pub fn on_reserve(&mut self, held: bool, now: Duration) {
        self.reserve_held = Some(held);
        self.next_refill = now.saturating_add(REFILL_PAUSE);
    }

    /// The disk was looked at.
    pub fn on_space_seen(&mut self, seen: SpaceSeen, now: Duration, effects: &mut Vec<SpaceEffect>) {
        let SpaceLimits { low_free_bytes, min_free_bytes, reserve_bytes } = self.limits;
        // What the reserve gave back is not for appends.
        let lent = if self.reserve_held == Some(false) { reserve_bytes } else { 0 };
        let free_bytes = seen.free_bytes.saturating_sub(lent);
        let was_low = self.low;
        self.low = is_below(free_bytes, low_free_bytes, self.low);
        match (was_low, self.low) {
            (false, true) => effects.push(SpaceEffect::WarnLow),
            (true, false) => effects.push(SpaceEffect::SayPlenty),
            _ => {}
        }
        let was_refusing = self.refusing;
        self.refusing = is_below(free_bytes, min_free_bytes, self.refusing);
        match (was_refusing, self.refusing) {
            (false, true) => effects.push(SpaceEffect::Refuse),
            (true, false) => effects.push(SpaceEffect::Allow),
            _ => {}
        }
        let is_full = seen.exhausted_partitions > 0 || seen.free_bytes < reserve_bytes / FULL;
        match self.reserve_held {
            Some(true) if is_full => {
                // Until the shell says otherwise, so that it is not asked for twice.
                self.reserve_held = None;
                effects.push(SpaceEffect::ReleaseReserve);
            }
            Some(false) if !is_full && !self.refusing && now >= self.next_refill => {
                self.reserve_held = None;
                effects.push(SpaceEffect::RefillReserve);
            }
            _ => {}
        }
    }
}

fn is_below(free_bytes: u64, limit: u64, was_below: bool) -> bool {
    let margin = if was_below { limit / MARGIN } else { 0 };
    free_bytes < limit.saturating_add(margin)
}

/// The partitions whose topics keep records for a limited time or up to a limited size.
pub fn limited_partitions(view: &ClusterView) -> Vec<(TopicPartition, RetentionPolicy)> {
    let mut limited = Vec::new();
    for topic in view.sorted_topics() {
        let policy = RetentionPolicy::from_wire(topic.config.max_age_secs, topic.config.max_bytes);
        if policy != RetentionPolicy::default() {
            let partitions = 0..u16::try_from(topic.partitions.len()).unwrap_or(u16::MAX);
            limited.extend(partitions.map(|number| (TopicPartition::new(topic.id, number), policy)));
        }
    }
    limited
}

#[cfg(test)]
mod tests {
    use super::SpaceEffect::{Allow, RefillReserve, Refuse, ReleaseReserve, SayPlenty, WarnLow};
    use super::*;

    const LIMITS: SpaceLimits = SpaceLimits { low_free_bytes: 1000, min_free_bytes: 160, reserve_bytes: 80 };

    struct Rig {
        core: SpaceCore,
        now: Duration,
    }

    impl Rig {
        fn new() -> Self {
            let mut core = SpaceCore::new(LIMITS);
            core.on_reserve(true, Duration::ZERO);
            Self { core, now: Duration::ZERO }
        }

        fn see(&mut self, free_bytes: u64, exhausted_partitions: u64) -> Vec<SpaceEffect> {
            let mut effects = Vec::new();
            self.now += Duration::from_secs(1);
            self.core.on_space_seen(SpaceSeen { free_bytes, exhausted_partitions }, self.now, &mut effects);
            effects
        }
    }

    #[test]
    fn each_watermark_is_reported_once_and_left_with_a_margin() {
        let mut rig = Rig::new();
        assert_eq!(rig.see(5000, 0), []);
        assert_eq!(rig.see(999, 0), [WarnLow]);
        assert_eq!(rig.see(500, 0), []);
        assert_eq!(rig.see(1100, 0), [], "not enough to leave the watermark");
        assert_eq!(rig.see(159, 0), [Refuse]);
        assert!(!rig.core.appends_allowed());
        assert_eq!(rig.see(170, 0), []);
        assert_eq!(rig.see(180, 0), [Allow]);
        assert_eq!(rig.see(1125, 0), [SayPlenty]);
        assert!(rig.core.appends_allowed());
    }

    #[test]
    fn a_full_disk_gets_the_reserve_and_appends_do_not() {
        let mut rig = Rig::new();
        assert_eq!(rig.see(10, 0), [WarnLow, Refuse, ReleaseReserve]);
        assert_eq!(rig.see(10, 3), [], "it is asked for once");
        rig.core.on_reserve(false, rig.now);
        assert_eq!(rig.see(90, 0), []);
        // 180 would be enough, but 80 of them are the reserve's.
        assert_eq!(rig.see(200, 0), []);
        assert!(!rig.core.appends_allowed());
        assert_eq!(rig.see(260, 0), [Allow]);
    }

    #[test]
    fn a_write_that_found_no_space_releases_the_reserve_whatever_is_reported_as_free() {
        let mut rig = Rig::new();
        assert_eq!(rig.see(5000, 1), [ReleaseReserve]);
        assert!(rig.core.appends_allowed());
    }

    #[test]
    fn the_reserve_is_taken_again_after_a_pause_once_nobody_lacks_space() {
        let mut rig = Rig::new();
        assert_eq!(rig.see(5000, 1), [ReleaseReserve]);
        rig.core.on_reserve(false, rig.now);
        assert_eq!(rig.see(5000, 0), [], "too early");
        rig.now += REFILL_PAUSE;
        assert_eq!(rig.see(5000, 1), [], "somebody still waits for space");
        assert_eq!(rig.see(5000, 0), [RefillReserve]);
        assert_eq!(rig.see(5000, 0), [], "under way");
        rig.core.on_reserve(true, rig.now);
        assert_eq!(rig.see(5000, 0), []);
    }

    #[test]
    fn a_reserve_that_is_not_known_yet_is_not_touched() {
        let mut core = SpaceCore::new(LIMITS);
        let mut effects = Vec::new();
        core.on_space_seen(SpaceSeen { free_bytes: 0, exhausted_partitions: 9 }, Duration::ZERO, &mut effects);
        assert_eq!(effects, [WarnLow, Refuse]);
    }
}
