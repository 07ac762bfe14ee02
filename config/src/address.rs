//! `host:port` as configuration writes it; nothing is resolved here.

use std::net::IpAddr;

/// Which ports an address may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PortRule {
    /// 0 too: the system picks one.
    AnyFree,
    /// 1..=65535.
    Fixed,
}

/// A host and a port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Address {
    /// Host name or IP address, without brackets.
    pub host: String,
    /// The port.
    pub port: u16,
}

impl Address {
    /// Reads `name:port`, `1.2.3.4:port` or `[::1]:port`; `None` for anything else.
    pub fn parse(text: &str, ports: PortRule) -> Option<Self> {
        let (host, port) = text.rsplit_once(':')?;
        let port_fits = !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit());
        let port: u16 = port_fits.then(|| port.parse().ok()).flatten()?;
        if port == 0 && ports == PortRule::Fixed {
            return None;
        }
        let host = match host.strip_prefix('[') {
            Some(rest) => rest.strip_suffix(']').filter(|inner| inner.parse::<std::net::Ipv6Addr>().is_ok())?,
            None if is_host_name(host) => host,
            None => return None,
        };
        Some(Self { host: host.to_owned(), port })
    }

    /// The host as an IP address, if it is written as one.
    pub fn ip(&self) -> Option<IpAddr> {
        self.host.parse().ok()
    }

    /// True for an address that only this machine reaches.
    pub fn is_loopback(&self) -> bool {
        self.host.eq_ignore_ascii_case("localhost") || self.ip().is_some_and(|ip| ip.is_loopback())
    }

    /// True for `0.0.0.0` and `[::]`, which can be listened on and not connected to.
    pub fn is_unspecified(&self) -> bool {
        self.ip().is_some_and(|ip| ip.is_unspecified())
    }
}

/// RFC 1123 names, and underscores, which container networks use.
fn is_host_name(host: &str) -> bool {
    if host.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.') {
        return host.parse::<std::net::Ipv4Addr>().is_ok();
    }
    let label_fits = |label: &str| {
        (1..=63).contains(&label.len())
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_')
    };
    host.len() <= 253 && host.strip_suffix('.').unwrap_or(host).split('.').all(label_fits)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_addresses_are_read() {
        for (text, host, port) in [
            ("lance-2:9000", "lance-2", 9000),
            ("127.0.0.1:1", "127.0.0.1", 1),
            ("[::1]:65535", "::1", 65535),
            ("a_b.svc.cluster.local:1992", "a_b.svc.cluster.local", 1992),
        ] {
            let address = Address::parse(text, PortRule::Fixed).unwrap();
            assert_eq!((address.host.as_str(), address.port), (host, port));
        }
    }

    #[test]
    fn anything_else_is_refused() {
        for text in [
            "",
            "lance-2",
            ":9000",
            "lance-2:",
            "lance-2:65536",
            "lance-2:+1",
            "a b:1",
            "-a:1",
            "a..b:1",
            "::1:9000",
            "[::1:9000",
            "[lance]:1",
            "300.1.1.1:1",
            "1.2.3:4",
            "http://a:1",
            "é:1",
        ] {
            assert_eq!(Address::parse(text, PortRule::AnyFree), None, "{text:?}");
        }
        assert_eq!(Address::parse("a:0", PortRule::Fixed), None);
        assert!(Address::parse("a:0", PortRule::AnyFree).is_some());
    }
}
