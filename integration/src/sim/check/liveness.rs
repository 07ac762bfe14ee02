//! Once faults have ended, everybody's work is done within a bound of simulated time.

use crate::sim::oracle::Oracle;

/// Simulated time within which everything must work again once faults have ended.
pub const BOUND_NS: u64 = 30_000_000_000;

/// Judges what is unfinished at `now_ns`, faults having ended at `healed_ns`.
pub fn unfinished(oracle: &mut Oracle, healed_ns: u64, now_ns: u64, waiting: &[String]) {
    if !waiting.is_empty() && now_ns > healed_ns + BOUND_NS {
        let seconds = BOUND_NS / 1_000_000_000;
        oracle.violated(format!("{seconds} s after the last fault still unfinished: {}", waiting.join("; ")));
    }
}
