//! Rate and rest: how fast a rule may send, and how long it waits after a failure. Pure.

/// A bucket of bytes that fills at a rate. What is taken may be more than it holds: the debt is waited for, so that the
/// average holds for batches of any size.
#[derive(Clone, Copy, Debug)]
pub struct TokenBucket {
    bytes_per_second: u64,
    /// Bytes in it, times 1000.
    level: i128,
    filled_ms: u64,
}

/// How much of a second fits into a bucket.
const BURST_MS: i128 = 250;

impl TokenBucket {
    /// A bucket that is full at `now_ms`; 0 bytes a second has no limit.
    pub fn new(bytes_per_second: u64, now_ms: u64) -> Self {
        Self { bytes_per_second, level: i128::from(bytes_per_second) * BURST_MS, filled_ms: now_ms }
    }

    /// Changes the rate; what is in it stays.
    pub fn set_rate(&mut self, bytes_per_second: u64, now_ms: u64) {
        if (self.bytes_per_second == 0) != (bytes_per_second == 0) {
            *self = Self::new(bytes_per_second, now_ms);
        }
        self.fill(now_ms);
        self.bytes_per_second = bytes_per_second;
    }

    /// Whether something may be taken at `now_ms`.
    pub fn may_take(&mut self, now_ms: u64) -> bool {
        self.fill(now_ms);
        self.bytes_per_second == 0 || self.level > 0
    }

    /// Takes bytes out.
    pub fn take(&mut self, bytes: usize) {
        if self.bytes_per_second > 0 {
            self.level -= bytes as i128 * 1000;
        }
    }

    fn fill(&mut self, now_ms: u64) {
        let rate = i128::from(self.bytes_per_second);
        let passed = i128::from(now_ms.saturating_sub(self.filled_ms));
        self.filled_ms = self.filled_ms.max(now_ms);
        self.level = (self.level + passed * rate).min(rate * BURST_MS);
    }
}

/// The shortest rest after a failure, and the longest.
const FIRST_REST_MS: u64 = 100;
const LONGEST_REST_MS: u64 = 30_000;

/// The rest after `failures` in a row: 100 ms, doubling up to 30 s, of which up to a half is taken away, by `seed`, so
/// that what failed together does not come back together.
pub fn rest_ms(failures: u32, seed: u64) -> u64 {
    if failures == 0 {
        return 0;
    }
    let full = FIRST_REST_MS.saturating_mul(1 << (failures - 1).min(16)).min(LONGEST_REST_MS);
    let mixed = (seed ^ u64::from(failures)).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 32;
    full - full / 2 * mixed / u64::from(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_more_than_the_rate_and_one_burst_leaves_in_any_time() {
        for (rate, batch) in [(1000u64, 10usize), (1000, 5000), (10 << 20, 100 << 10), (7, 3)] {
            let mut bucket = TokenBucket::new(rate, 0);
            let mut sent = 0u64;
            for now_ms in (0..20_000).step_by(20) {
                while bucket.may_take(now_ms) {
                    bucket.take(batch);
                    sent += batch as u64;
                }
                let allowed = rate * (now_ms + 250) / 1000 + batch as u64;
                assert!(sent <= allowed, "{sent} bytes after {now_ms} ms at {rate} a second, {allowed} are allowed");
            }
            assert!(sent + 2 * batch as u64 >= rate * 19, "{sent} bytes in 20 s at {rate} a second");
        }
    }

    #[test]
    fn no_limit_is_none() {
        let mut bucket = TokenBucket::new(0, 5);
        bucket.take(usize::MAX);
        assert!(bucket.may_take(5));
        bucket.set_rate(1000, 6);
        assert!(bucket.may_take(6), "a limit begins with a full bucket");
        bucket.take(251);
        assert!(!bucket.may_take(7));
    }

    #[test]
    fn rests_double_up_to_half_a_minute() {
        assert_eq!(rest_ms(0, 9), 0);
        for (failures, full) in [(1, 100), (2, 200), (5, 1600), (9, 25_600), (10, 30_000), (u32::MAX, 30_000)] {
            let rests: Vec<u64> = (0..100).map(|seed| rest_ms(failures, seed * 77)).collect();
            assert!(rests.iter().all(|rest| (full / 2..=full).contains(rest)), "{failures}: {rests:?}");
            assert!(rests.iter().max() > rests.iter().min(), "{failures}: they differ");
        }
    }
}
