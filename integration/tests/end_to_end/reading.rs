//! Where the bytes of fetches come from: memory at the tail, and from closed segments by the kernel where batches are large.

use lance_integration::harness::records::{record, split};
use lance_integration::harness::{Server, ServerSpec, eventually, http};

/// Bytes of TLV header before a value.
const RECORD_HEADER_BYTES: usize = 5;

fn figure(server: &Server, name: &str) -> f64 {
    http::metric(&server.admin(), name, &[]).unwrap_or_else(|| panic!("{name} is not shown"))
}

fn segment_fetches(server: &Server) -> f64 {
    figure(server, "lance_segment_fetches_total")
}

fn kernel_bytes(server: &Server) -> f64 {
    figure(server, "lance_fetched_kernel_bytes_total")
}

#[test]
fn fetches_at_the_tail_never_read_segments() {
    let server = ServerSpec::new().start();
    let mut connection = server.connect();
    let topic = connection.create_topic("tail");
    let mut ends = vec![0];
    for number in 0..50 {
        let batch = record(format!("{number}-{}", "t".repeat(10_000)).as_bytes());
        connection.store(topic, number, &batch);
        ends.push(ends[ends.len() - 1] + batch.len() as u64);
    }
    let (from_memory, from_segments) = (figure(&server, "lance_tail_fetches_total"), segment_fetches(&server));
    let starts = &ends[ends.len() - 21..ends.len() - 1];
    for (start, records) in starts.iter().rev().zip(1..) {
        assert_eq!(split(&connection.fetch(topic, *start, 1 << 20).data).len(), records);
    }
    // What comes next, too, by a reader that keeps up.
    let mut next = ends[ends.len() - 1];
    for number in 50..60 {
        connection.store(topic, number, &record(b"next"));
        next = connection.fetch(topic, next, 1 << 20).next_offset;
    }
    eventually("the fetches are counted", || {
        (figure(&server, "lance_tail_fetches_total") >= from_memory + 30.0).then_some(())
    });
    assert_eq!(segment_fetches(&server).to_bits(), from_segments.to_bits(), "fetches that read segments");
}

/// Fills a topic with batches of so many bytes over several segments, reads all of it from the beginning; which part of it
/// went inside the kernel.
fn share_in_kernel(server: &Server, name: &str, batch_bytes: usize) -> f64 {
    let mut connection = server.connect();
    let topic = connection.create_topic(name);
    let mut all = Vec::new();
    for number in 0..(6 << 20) / batch_bytes {
        let value: Vec<u8> = (0..batch_bytes - RECORD_HEADER_BYTES).map(|at| (at * 31 + number * 7) as u8).collect();
        let batch = record(&value);
        assert_eq!(batch.len(), batch_bytes);
        connection.store(topic, number as u64, &batch);
        all.extend_from_slice(&batch);
    }
    let (before, from_segments, fetched) =
        (kernel_bytes(server), segment_fetches(server), figure(server, "lance_fetched_bytes_total"));
    assert!(connection.read_from(topic, 0) == all, "{name}: what was stored");
    eventually("all that was fetched is counted", || {
        (figure(server, "lance_fetched_bytes_total") >= fetched + all.len() as f64).then_some(())
    });
    eventually("what was read from segments is counted", || (segment_fetches(server) > from_segments).then_some(()));
    // The reply to a ping comes after all that went before it, and so does what is counted of it.
    connection.ping();
    (kernel_bytes(server) - before) / all.len() as f64
}

#[test]
fn catch_up_reads_of_large_batches_go_from_closed_segments_inside_the_kernel() {
    let server = ServerSpec::new().set("storage.segment_bytes=1MiB").set("storage.tail_ring_bytes=1MiB").start();
    for (name, batch_bytes) in [("at-the-limit", 32 << 10), ("large", 100_000)] {
        let share = share_in_kernel(&server, name, batch_bytes);
        // The last segment is not closed, and the tail is in memory.
        assert!((0.5..=1.0).contains(&share), "{name}: {share} of it went inside the kernel");
    }
    for (name, batch_bytes) in [("below-the-limit", (32 << 10) - 1), ("small", 4000)] {
        let share = share_in_kernel(&server, name, batch_bytes);
        assert!(share.abs() < 1e-9, "{name}: {share} of it went inside the kernel");
    }
}
