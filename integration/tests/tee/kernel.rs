//! Batches that go from closed segments to the target inside the kernel.

use super::{add, list, produce, server};
use lance_integration::harness::raw::Raw;
use lance_integration::harness::records::record;
use lance_integration::harness::segments::{BATCH_HEADER_BYTES, batches, flip_bit};
use lance_integration::harness::{Server, ServerSpec, TopicView, eventually, http};

/// Records of a batch each, large enough to be left in their files.
const LARGE_BYTES: usize = 100_000;
const COUNT: usize = 60;

fn source() -> ServerSpec {
    ServerSpec::new().set("storage.segment_bytes=1MiB").set("storage.tail_ring_bytes=1MiB")
}

/// Fills a topic with large batches and gives its id.
fn fill(server: &Server) -> u32 {
    let mut connection: Raw = server.connect();
    let topic = connection.create_topic("events");
    for number in 0..COUNT {
        let value: Vec<u8> = (0..LARGE_BYTES).map(|at| (at * 31 + number * 7) as u8).collect();
        connection.store(topic, number as u64 + 1, &record(&value));
    }
    topic
}

fn kernel_bytes(source: &Server) -> f64 {
    http::metric(&source.admin(), "lance_tee_kernel_bytes_total", &[]).unwrap_or(0.0)
}

fn expect_same(source: &Server, target: &Server) {
    TopicView::new(&source.address(), "events").expect_same(&TopicView::new(&target.address(), "copy"), 1);
}

#[test]
fn large_batches_of_closed_segments_stay_out_of_memory_and_arrive_as_they_are() {
    for in_kernel in [true, false] {
        let (source, target) = (source().set(format!("tee.in_kernel={in_kernel}")).start(), server());
        fill(&source);
        // Small ones between large ones, and compressed ones.
        produce(&source.address(), "events", &"small\n".repeat(1000));
        let lines: String = (0..40_000).map(|number| format!("{number:0>100}\n")).collect();
        let compressed = ["produce", "--topic", "events", "--compression", "lz4"];
        lance_integration::harness::process::lnc(&source.address(), &compressed, lines.as_bytes()).ok();
        produce(&source.address(), "events", &lines);
        add(&source.address(), "events", &format!("{}/copy", target.address()), &[]);
        expect_same(&source, &target);
        let large = (COUNT * LARGE_BYTES) as f64;
        let handed_on = kernel_bytes(&source);
        match in_kernel {
            // The last segment is not closed.
            true => assert!(handed_on > 0.7 * large, "{handed_on} of {large} bytes"),
            false => assert!(handed_on.abs() < 0.5, "{handed_on}"),
        }
    }
}

#[test]
fn damage_in_a_batch_that_is_handed_on_unread_is_named_and_never_stored_by_the_target() {
    let (mut source, target) = (source().start(), server());
    let topic = fill(&source);
    source.kill();
    let segment = source.files(&source.log_dir(topic, 0), "lnc")[2].clone();
    let harmed = batches(&segment)[3];
    let byte = harmed.file_offset + BATCH_HEADER_BYTES + 5_000;
    flip_bit(&segment, byte);
    source.start_again();
    add(&source.address(), "events", &format!("{}/copy", target.address()), &[]);
    eventually("the rule is stuck and names the segment", || {
        let partition = list(&source.address()).pop()?["partitions"][0].clone();
        let error = partition["error"].as_str()?.to_owned();
        (partition["state"] == "stuck" && error.contains(&segment.display().to_string())).then_some(())
    });
    assert!(kernel_bytes(&source) > 0.0, "what lies before went on inside the kernel");
    assert_eq!(
        TopicView::new(&target.address(), "copy").end(0),
        Some(harmed.base_offset),
        "all before it, and no more"
    );
    flip_bit(&segment, byte);
    expect_same(&source, &target);
}
