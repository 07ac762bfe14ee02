//! How long a link rests between two attempts. Pure.

use std::time::Duration;

/// The shortest rest.
const FIRST_MS: u64 = 50;
/// The longest.
const LONGEST_MS: u64 = 1000;

/// The rest before the next attempt, after `failures` in a row: 50 ms, doubling up to 1 s, of which `randomness` takes
/// up to a half away, so that nodes that lost each other do not all come back in one moment.
pub fn retry_delay(failures: u32, randomness: u32) -> Duration {
    if failures == 0 {
        return Duration::ZERO;
    }
    let full_ms = FIRST_MS.saturating_mul(1 << (failures - 1).min(10)).min(LONGEST_MS);
    let taken_ms = full_ms / 2 * u64::from(randomness) / u64::from(u32::MAX);
    Duration::from_millis(full_ms - taken_ms)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rests_double_up_to_a_second_and_jitter_takes_at_most_a_half() {
        assert_eq!(retry_delay(0, u32::MAX), Duration::ZERO);
        for (failures, ms) in [(1, 50), (2, 100), (3, 200), (5, 800), (6, 1000), (7, 1000), (u32::MAX, 1000)] {
            assert_eq!(retry_delay(failures, 0), Duration::from_millis(ms));
            assert_eq!(retry_delay(failures, u32::MAX), Duration::from_millis(ms / 2));
        }
    }
}
