//! Hostile bytes from another node: as they are, and as the payload of a frame whose checksums are right. What decodes
//! is encoded to the bytes it came from.
#![no_main]

use bytes::BytesMut;
use lance_messages::batch::BATCH_HEADER_BYTES;
use lance_messages::id::{TopicId, TopicPartition};
use lance_messages::wire::header::{Flags, Header, HeaderCrc};
use lance_messages::wire::peer::replica::APPEND_HEAD_BYTES;
use lance_messages::wire::peer::{PeerStage, begins_with_peer_hello, next_peer_frame};
use libfuzzer_sys::fuzz_target;

const COMMANDS: [u8; 11] = [
    0x60, 0x61, 0x62, 0x63, 0x64, 0x65, 0xE0, 0xE1, 0xE2, 0xE4, 0xE5,
];

/// A frame around `data`: its command from the first byte, checksums right, those of a first batch too.
fn sealed(data: &[u8]) -> Option<Vec<u8>> {
    let (&first, payload) = data.split_first()?;
    let command = COMMANDS[usize::from(first) % COMMANDS.len()];
    let mut payload = payload.to_vec();
    if command == 0x62 && payload.len() >= APPEND_HEAD_BYTES + BATCH_HEADER_BYTES {
        let word = |at: usize| [payload[at], payload[at + 1], payload[at + 2], payload[at + 3]];
        let partition = TopicPartition::new(
            TopicId(u32::from_le_bytes(word(0))),
            u16::from_le_bytes([payload[4], payload[5]]),
        );
        seal_batch(&mut payload[APPEND_HEAD_BYTES..], partition);
    }
    let checked = match command {
        0x62 => &payload[..payload.len().min(APPEND_HEAD_BYTES)],
        _ => &payload[..],
    };
    let header = Header {
        flags: Flags::CONTROL,
        batch_id: u64::from(command),
        payload_len: u32::try_from(payload.len()).ok()?,
        payload_crc: if checked.is_empty() {
            0
        } else {
            crc32fast::hash(checked)
        },
        ..Header::default()
    };
    let mut frame = header.encode(HeaderCrc::Whole).to_vec();
    frame.extend_from_slice(&payload);
    Some(frame)
}

fn seal_batch(header: &mut [u8], partition: TopicPartition) {
    let mut seed = crc32fast::Hasher::new();
    seed.update(&partition.topic.0.to_le_bytes());
    seed.update(&partition.partition.to_le_bytes());
    let mut hasher = crc32fast::Hasher::new_with_initial(seed.finalize());
    hasher.update(&header[..8]);
    hasher.update(&header[12..BATCH_HEADER_BYTES]);
    let crc = hasher.finalize();
    header[8..12].copy_from_slice(&crc.to_le_bytes());
}

fuzz_target!(|data: &[u8]| {
    let _ = begins_with_peer_hello(data);
    for stage in [PeerStage::Opening, PeerStage::Open] {
        let mut stream = BytesMut::from(data);
        while let Ok(Some(_)) = next_peer_frame(&mut stream, stage) {}
    }
    if let Some(bytes) = sealed(data) {
        let mut stream = BytesMut::from(&bytes[..]);
        if let Ok(Some(frame)) = next_peer_frame(&mut stream, PeerStage::Open) {
            let mut pieces = Vec::new();
            frame
                .encode(&mut pieces)
                .expect("what arrived in a frame fits one");
            assert_eq!(pieces.concat(), bytes, "{frame:?}");
            let mut again = BytesMut::from(&bytes[..]);
            let decoded = next_peer_frame(&mut again, PeerStage::Open);
            assert!(matches!(decoded, Ok(Some(other)) if other == frame));
        }
    }
});
