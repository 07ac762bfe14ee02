//! Copies and checksums.

use super::super::clock::now_ns;
use super::Floors;
use std::hint::black_box;

/// Bandwidth of memcpy and CRC-32, in a cache and beyond it.
pub(super) fn measure(floors: &mut Floors<'_>) {
    for (name, bytes) in [("memcpy_64k", 64 * 1024), ("memcpy_64m", 64 * 1024 * 1024)] {
        let from = vec![9u8; bytes];
        let mut to = vec![0u8; bytes];
        let rate = bandwidth(floors, bytes, || black_box(&mut to).copy_from_slice(black_box(&from)));
        floors.add(name, rate, "MB_per_s");
    }
    for (name, bytes) in [("crc32_1k", 1024), ("crc32_64k", 64 * 1024)] {
        let data = vec![9u8; bytes];
        let rate = bandwidth(floors, bytes, || _ = black_box(crc32fast::hash(black_box(&data))));
        floors.add(name, rate, "MB_per_s");
    }
}

/// Megabytes a second of `work` on `bytes` each time.
fn bandwidth(floors: &Floors<'_>, bytes: usize, mut work: impl FnMut()) -> f64 {
    let begin = now_ns();
    let end = begin + floors.time.as_nanos() as u64 / 4;
    let mut sum = 0u64;
    while now_ns() < end {
        for _ in 0..(1 << 20) / bytes.min(1 << 20) {
            work();
            sum += bytes as u64;
        }
    }
    sum as f64 / (now_ns() - begin).max(1) as f64 * 1e3
}
