//! How long the path of a batch inside the process takes, from the received frame to the hand-off to the poller.
//!
//! `cargo bench -p lance-integration --bench in_process`. Durability is the disk's affair and not part of it.

use hdrhistogram::Histogram;
use lance_integration::in_process::{InProcess, produce_frame};
use std::time::Instant;

const WARM_UP: usize = 20_000;
const ROUNDS: usize = 200_000;

fn measure(records: u32, bytes: usize) -> Result<(), Box<dyn std::error::Error>> {
    let frame = produce_frame(records, bytes);
    let mut path = InProcess::new()?;
    let mut taken = Histogram::<u64>::new_with_bounds(1, 1_000_000_000, 3)?;
    let mut floor = Histogram::<u64>::new_with_bounds(1, 1_000_000_000, 3)?;
    let mut copy = vec![0u8; frame.len()];
    for round in 0..WARM_UP + ROUNDS {
        path.receive(&frame);
        let started = Instant::now();
        path.hand_off();
        let took = started.elapsed();
        path.complete();
        // The floor: one checksum and one copy of the same bytes.
        let started = Instant::now();
        std::hint::black_box(crc32fast::hash(&frame));
        copy.copy_from_slice(std::hint::black_box(&frame));
        std::hint::black_box(&copy);
        let least = started.elapsed();
        if round >= WARM_UP {
            taken.record(took.as_nanos() as u64)?;
            floor.record(least.as_nanos() as u64)?;
        }
    }
    let at = |histogram: &Histogram<u64>, quantile| histogram.value_at_quantile(quantile) as f64;
    println!("batch of {records} records of {bytes} B: frame to hand-off, ns (floor: CRC-32 + copy of the same bytes)");
    for (name, quantile) in [("p50", 0.5), ("p99", 0.99), ("p99.9", 0.999)] {
        let (own, least) = (at(&taken, quantile), at(&floor, quantile));
        println!(
            "  {name:6} {own:>9.0}   floor {least:>9.0}   {:.2} x   per record {:.1}",
            own / least,
            own / f64::from(records)
        );
    }
    Ok(())
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    measure(64, 1019)?;
    measure(1, 1019)
}
