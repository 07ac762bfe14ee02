//! Everything that metadata, Raft and nodes that talk have decoders for.

use lance_cluster::codec::CodecError;
use lance_cluster::control::ControlMessage;
use lance_cluster::formation::{FormationReport, Genesis};
use lance_cluster::metadata::{HardStateRecord, MetadataCommand, MetadataState, RaftSnapshot};

/// What decodes comes back from the bytes it is encoded to.
fn comes_back<T>(
    data: &[u8],
    decode: impl Fn(&[u8]) -> Result<T, CodecError>,
    encode: impl Fn(&T) -> Result<Vec<u8>, CodecError>,
) {
    if let Ok(value) = decode(data) {
        let bytes = encode(&value).unwrap();
        assert_eq!(encode(&decode(&bytes).unwrap()).unwrap(), bytes);
    }
}

/// Each of them refuses the bytes, or understands them so that they come back.
pub fn decode_all(data: &[u8]) {
    comes_back(data, MetadataCommand::decode, MetadataCommand::encode);
    comes_back(data, MetadataState::decode_snapshot, MetadataState::encode_snapshot);
    comes_back(data, HardStateRecord::decode, HardStateRecord::encode);
    comes_back(data, RaftSnapshot::decode, RaftSnapshot::encode);
    comes_back(data, ControlMessage::decode, ControlMessage::encode);
    comes_back(data, Genesis::decode, Genesis::encode);
    comes_back(data, FormationReport::decode, FormationReport::encode);
}
