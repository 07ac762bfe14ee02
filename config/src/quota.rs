//! Quotas of named clients and of principals, as `NAME=PRODUCE/FETCH`.

use crate::units::parse_size;

/// Most bytes a second that can be set.
pub const MAX_QUOTA: u64 = 1 << 40;

/// How many bytes a second clients of one name, or of one principal, may move.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientQuota {
    /// The name of the client or of the principal; with a `*` at the end every name that begins so.
    pub name: String,
    /// Bytes a second it may produce; 0 = unlimited.
    pub produce_bytes_per_second: u64,
    /// Bytes a second it may fetch; 0 = unlimited.
    pub fetch_bytes_per_second: u64,
}

impl ClientQuota {
    /// Reads `NAME=PRODUCE/FETCH`, for example `reports=1MiB/0`; `None` when it is none.
    pub fn parse(text: &str) -> Option<Self> {
        let (name, sizes) = text.rsplit_once('=')?;
        let (produce, fetch) = sizes.split_once('/')?;
        let size = |text: &str| {
            let bytes = text.trim().parse().ok().or_else(|| parse_size(text.trim()));
            bytes.filter(|bytes| *bytes <= MAX_QUOTA)
        };
        let name = name.trim().to_owned();
        (!name.is_empty() && name.len() <= 255).then_some(())?;
        Some(Self { name, produce_bytes_per_second: size(produce)?, fetch_bytes_per_second: size(fetch)? })
    }

    /// Whether this name is meant.
    pub fn matches(&self, name: &str) -> bool {
        match self.name.strip_suffix('*') {
            Some(beginning) => name.starts_with(beginning),
            None => name == self.name,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quota_names_its_clients_and_both_rates() {
        let quota = ClientQuota::parse("etl-*=10MiB/0").unwrap();
        assert_eq!((quota.produce_bytes_per_second, quota.fetch_bytes_per_second), (10 << 20, 0));
        assert!(quota.matches("etl-7") && !quota.matches("web"));
        assert!(!ClientQuota::parse("etl=1/1").unwrap().matches("etl-7"));
        for bad in ["", "x", "x=1", "=1/2", "x=1/y", "x=1/2/3", "x=-1/2"] {
            assert_eq!(ClientQuota::parse(bad), None, "{bad}");
        }
    }
}
