//! Command codes of control frames.

/// A command code: the low 8 bits of a control frame's batch id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Command(pub u8);

#[allow(missing_docs, reason = "the names are those of the specification")]
impl Command {
    pub const CREATE_TOPIC: Command = Command(0x01);
    pub const DELETE_TOPIC: Command = Command(0x02);
    pub const LIST_TOPICS: Command = Command(0x03);
    pub const GET_TOPIC: Command = Command(0x04);
    pub const SET_RETENTION: Command = Command(0x05);
    pub const CREATE_TOPIC_WITH_RETENTION: Command = Command(0x06);
    pub const GET_CLUSTER_STATUS: Command = Command(0x07);
    pub const AUTHENTICATE: Command = Command(0x08);
    pub const AUTHENTICATE_RESPONSE: Command = Command(0x09);
    pub const FETCH: Command = Command(0x10);
    pub const FETCH_RESPONSE: Command = Command(0x11);
    pub const CATCHING_UP: Command = Command(0x12);
    pub const SUBSCRIBE: Command = Command(0x20);
    pub const UNSUBSCRIBE: Command = Command(0x21);
    pub const COMMIT_OFFSET: Command = Command(0x22);
    pub const SUBSCRIBE_ACK: Command = Command(0x23);
    pub const COMMIT_ACK: Command = Command(0x24);
    pub const HELLO: Command = Command(0x40);
    pub const INIT_PRODUCER: Command = Command(0x41);
    pub const FETCH_PARTITIONS: Command = Command(0x42);
    pub const LOOKUP_OFFSET: Command = Command(0x43);
    pub const METADATA: Command = Command(0x44);
    pub const CREATE_TOPIC_WITH_CONFIG: Command = Command(0x45);
    pub const ALTER_TOPIC: Command = Command(0x46);
    pub const DESCRIBE_CLUSTER: Command = Command(0x47);
    pub const CLUSTER_COMMAND: Command = Command(0x48);
    pub const GROUP_HEARTBEAT: Command = Command(0x49);
    pub const GROUP_COMMIT: Command = Command(0x4A);
    pub const GROUP_OFFSETS: Command = Command(0x4B);
    pub const DESCRIBE_GROUPS: Command = Command(0x4C);
    pub const DELETE_GROUP: Command = Command(0x4D);
    pub const TOPIC_TEE: Command = Command(0x58);
    pub const SECURITY: Command = Command(0x59);
    pub const SCRAM_STEP: Command = Command(0x5A);
    pub const TOPIC_RESPONSE: Command = Command(0x80);
    pub const CLUSTER_STATUS_RESPONSE: Command = Command(0x81);
    pub const HELLO_RESPONSE: Command = Command(0xC0);
    pub const INIT_PRODUCER_RESPONSE: Command = Command(0xC1);
    pub const FETCH_PARTITIONS_RESPONSE: Command = Command(0xC2);
    pub const LOOKUP_OFFSET_RESPONSE: Command = Command(0xC3);
    pub const METADATA_RESPONSE: Command = Command(0xC4);
    pub const CREATE_TOPIC_WITH_CONFIG_RESPONSE: Command = Command(0xC5);
    pub const ALTER_TOPIC_RESPONSE: Command = Command(0xC6);
    pub const DESCRIBE_CLUSTER_RESPONSE: Command = Command(0xC7);
    pub const CLUSTER_COMMAND_RESPONSE: Command = Command(0xC8);
    pub const GROUP_HEARTBEAT_RESPONSE: Command = Command(0xC9);
    pub const GROUP_COMMIT_RESPONSE: Command = Command(0xCA);
    pub const GROUP_OFFSETS_RESPONSE: Command = Command(0xCB);
    pub const DESCRIBE_GROUPS_RESPONSE: Command = Command(0xCC);
    pub const DELETE_GROUP_RESPONSE: Command = Command(0xCD);
    pub const TOPIC_TEE_RESPONSE: Command = Command(0xD8);
    pub const SECURITY_RESPONSE: Command = Command(0xD9);
    pub const SCRAM_STEP_RESPONSE: Command = Command(0xDA);
    pub const ERROR_RESPONSE: Command = Command(0xFF);
}

impl Command {
    /// Whether the code lies in the range of requests added after 1.0, 0x40..=0x7F.
    pub const fn is_extension_request(self) -> bool {
        self.0 >= 0x40 && self.0 <= 0x7F
    }
}
