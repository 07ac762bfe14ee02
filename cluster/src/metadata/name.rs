//! Topic names: `[A-Za-z0-9._-]{1,255}`, neither `.` nor `..`.

/// Longest topic name, in bytes.
pub const MAX_TOPIC_NAME_BYTES: usize = 255;
/// The name of the topic that LWP calls id 0.
pub const DEFAULT_TOPIC_NAME: &str = "default";
/// The internal topic that keeps consumer offsets.
pub const GROUPS_TOPIC_NAME: &str = "__groups";

/// Whether `name` may name a topic.
pub fn is_valid_topic_name(name: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
    (1..=MAX_TOPIC_NAME_BYTES).contains(&name.len()) && name != "." && name != ".." && name.bytes().all(allowed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_follow_the_rules_of_the_wire() {
        for good in ["a", "events", "A-Z_0.9", "__groups", "...", &"x".repeat(255)] {
            assert!(is_valid_topic_name(good), "{good}");
        }
        for bad in ["", ".", "..", "a b", "a/b", "tópico", "a\0", "a\n", &"x".repeat(256)] {
            assert!(!is_valid_topic_name(bad), "{bad}");
        }
    }
}
