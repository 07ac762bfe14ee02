//! Which of the listed peers is this node, how many nodes there are, and the node id of a host named by ordinal.

use crate::address::{Address, PortRule};
use crate::model::Config;

/// The peers other than this node itself.
pub fn other_peers<'a>(config: &'a Config, host_name: Option<&str>) -> Vec<&'a str> {
    let own: Vec<Address> = [config.network.advertise.as_deref(), Some(config.network.bind.as_str())]
        .into_iter()
        .flatten()
        .filter_map(|text| Address::parse(text, PortRule::AnyFree))
        .collect();
    let is_own = |peer: &str| {
        let Some(peer) = Address::parse(peer, PortRule::Fixed) else {
            return false;
        };
        own.iter().any(|own| {
            let loopback = own.is_loopback() && peer.is_loopback();
            let named = host_name.is_some_and(|name| names_host(&peer.host, name)) && !own.is_loopback();
            own.port == peer.port && (own.host.eq_ignore_ascii_case(&peer.host) || loopback || named)
        })
    };
    config.replication.peers.iter().map(String::as_str).filter(|peer| !is_own(peer)).collect()
}

/// True for `lance-0` and `lance-0.lance.default.svc`, given the host name `lance-0`.
fn names_host(peer: &str, host_name: &str) -> bool {
    let short = |name: &str| name.split('.').next().unwrap_or(name).to_ascii_lowercase();
    peer.parse::<std::net::IpAddr>().is_err() && short(peer) == short(host_name)
}

/// `lance-0` → 1: the ordinal at the end of the host name's first label, plus one.
pub fn node_id_of_host(host_name: &str) -> Option<u16> {
    let label = host_name.split('.').next()?;
    let (_, ordinal) = label.rsplit_once('-')?;
    let digits = !ordinal.is_empty() && ordinal.bytes().all(|byte| byte.is_ascii_digit());
    digits.then(|| ordinal.parse::<u16>().ok()?.checked_add(1)).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(bind: &str, peers: &[&str]) -> Config {
        let mut config = Config::default();
        config.network.bind = bind.to_owned();
        config.replication.peers = peers.iter().map(|&peer| peer.to_owned()).collect();
        config
    }

    #[test]
    fn a_node_finds_itself_among_the_peers() {
        let all = ["lance-0.lance:9000", "lance-1.lance:9000", "lance-2.lance:9000"];
        let on_kubernetes = config("0.0.0.0:9000", &all);
        assert_eq!(other_peers(&on_kubernetes, Some("lance-1")), [all[0], all[2]]);
        assert_eq!(other_peers(&on_kubernetes, Some("elsewhere")), all);
        assert_eq!(other_peers(&on_kubernetes, None), all);
        let mut advertised = on_kubernetes.clone();
        advertised.network.advertise = Some(all[2].to_owned());
        assert_eq!(other_peers(&advertised, None), [all[0], all[1]]);
    }

    #[test]
    fn nodes_on_one_machine_differ_by_port() {
        let all = ["127.0.0.1:1991", "127.0.0.1:1992", "127.0.0.1:1993"];
        assert_eq!(other_peers(&config("127.0.0.1:1992", &all), Some("host")), [all[0], all[2]]);
        assert_eq!(other_peers(&config("localhost:1993", &all), None), [all[0], all[1]]);
    }

    #[test]
    fn the_ordinal_of_the_host_name_gives_the_id() {
        assert_eq!(node_id_of_host("lance-0"), Some(1));
        assert_eq!(node_id_of_host("my-lance-12.svc.local"), Some(13));
        for name in ["lance", "lance-", "lance-x", "lance-65535", "lance-+1", ""] {
            assert_eq!(node_id_of_host(name), None, "{name:?}");
        }
    }
}
