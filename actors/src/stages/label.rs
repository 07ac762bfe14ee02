//! Names that travel with stages.

/// Bytes of a name that are kept.
const KEPT_BYTES: usize = 63;

/// The name of a group, as much of it as stages carry along without memory of its own.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct GroupLabel {
    bytes: [u8; KEPT_BYTES],
    len: u8,
}

impl GroupLabel {
    /// The first 63 bytes of a name, in whole characters.
    pub fn new(name: &str) -> Self {
        let len = name.floor_char_boundary(KEPT_BYTES);
        let mut bytes = [0; KEPT_BYTES];
        bytes[..len].copy_from_slice(&name.as_bytes()[..len]);
        Self { bytes, len: len as u8 }
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.bytes[..usize::from(self.len)]).unwrap_or_default()
    }
}

impl std::fmt::Debug for GroupLabel {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.as_str().fmt(out)
    }
}

#[cfg(test)]
mod tests {
    use super::GroupLabel;

    #[test]
    fn long_names_end_behind_a_whole_character() {
        assert_eq!(GroupLabel::new("orders").as_str(), "orders");
        assert_eq!(GroupLabel::new("").as_str(), "");
        let long = "ä".repeat(40);
        assert_eq!(GroupLabel::new(&long).as_str(), &long[..62]);
    }
}
