//! Hostile records of `__groups`: whatever decodes comes back from its bytes, and a coordinator can be made of it.
#![no_main]

use lance_cluster::group::{Coordinator, GroupLimits, OffsetRecord};
use libfuzzer_sys::fuzz_target;
use std::time::Duration;

fuzz_target!(|data: &[u8]| {
    let mut coordinator = Coordinator::new(GroupLimits::default());
    // Records are length-prefixed with one byte.
    let mut rest = data;
    while let Some((length, more)) = rest.split_first() {
        let (record, more) = more.split_at(usize::from(*length).min(more.len()));
        rest = more;
        if let Ok(decoded) = OffsetRecord::decode(record) {
            let encoded = decoded.encode().expect("what was decoded has its bounds");
            assert_eq!(OffsetRecord::decode(&encoded), Ok(decoded));
        }
        let _ = coordinator.replay(record);
    }
    coordinator.on_loaded(Duration::ZERO);
    for record in coordinator.snapshot_records() {
        record.encode().expect("what was replayed can be written");
    }
});
