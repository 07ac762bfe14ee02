//! Hostile bytes from a socket: as they are, and as the payload of a frame whose checksums are right.
#![no_main]

use bytes::BytesMut;
use lance_messages::wire::codec::{Frame, FrameLimits, next_frame};
use lance_messages::wire::features::Features;
use lance_messages::wire::request::RequestFrame;
use lance_messages::wire::response::ResponseFrame;
use libfuzzer_sys::fuzz_target;

fn decode_every_way(frame: &Frame) {
    for features in [None, Some(Features::NONE), Some(Features(u64::MAX))] {
        let _ = RequestFrame::decode(frame.clone(), features);
        let _ = ResponseFrame::decode(frame.clone(), features);
    }
}

/// A frame around `data`: flags, command and reserved field from its first bytes, checksums right.
fn sealed(data: &[u8]) -> Option<Vec<u8>> {
    let (head, payload) = data.split_at_checked(8)?;
    let mut frame = b"LANC\x01".to_vec();
    frame.push(head[0]);
    frame.extend_from_slice(&head[1..3]);
    frame.extend_from_slice(&crc32fast::hash(&frame[..8]).to_le_bytes());
    frame.extend_from_slice(&u64::from(head[3]).to_le_bytes());
    frame.extend_from_slice(&[0; 8]);
    frame.extend_from_slice(&u32::from(head[4]).to_le_bytes());
    frame.extend_from_slice(&u32::try_from(payload.len()).ok()?.to_le_bytes());
    let crc = if payload.is_empty() {
        0
    } else {
        crc32fast::hash(payload)
    };
    frame.extend_from_slice(&crc.to_le_bytes());
    frame.extend_from_slice(&u32::from(head[5]).to_le_bytes());
    frame.extend_from_slice(payload);
    Some(frame)
}

fuzz_target!(|data: &[u8]| {
    let limits = FrameLimits::default();
    let mut stream = BytesMut::from(data);
    while let Ok(Some(frame)) = next_frame(&mut stream, &limits) {
        decode_every_way(&frame);
    }
    if let Some(bytes) = sealed(data) {
        let mut stream = BytesMut::from(&bytes[..]);
        match next_frame(&mut stream, &limits) {
            Ok(Some(frame)) => decode_every_way(&frame),
            other => panic!("a whole frame with right checksums was not taken: {other:?}"),
        }
    }
});
