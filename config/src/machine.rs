//! What the configuration says of the machine, held against the machine: warnings, never a refusal.

use std::path::Path;

use crate::model::Config;
use crate::problem::{ConfigWarning, Origin};

/// The name of this host; on Kubernetes the pod's.
pub fn host_name() -> Option<String> {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").ok()?;
    let name = name.trim();
    (!name.is_empty()).then(|| name.to_owned())
}

/// Compares `[numa]` and `network.nic_pci_addr` with `sysfs` (`/sys`); `numa_built` tells whether this build can pin.
pub fn warnings(config: &Config, sysfs: &Path, numa_built: bool) -> Vec<ConfigWarning> {
    let mut warnings = Vec::new();
    let mut warn = |key, message| warnings.push(ConfigWarning { origin: Origin::Default, key, message });
    if config.numa.enabled && !numa_built {
        let message = "this build has no `numa` feature: threads and memory stay unpinned";
        warn("numa.enabled", message.to_owned());
    }
    if config.numa.enabled {
        let nodes = numa_nodes(sysfs);
        if nodes.len() <= 1 {
            warn("numa.enabled", "this machine has one NUMA node: there is nothing to place".to_owned());
        }
        let wanted = [("numa.nic_node", config.numa.nic_node), ("numa.nvme_node", config.numa.nvme_node)];
        for (key, node) in wanted {
            if let Some(node) = node.filter(|node| !nodes.is_empty() && !nodes.contains(node)) {
                warn(key, format!("NUMA node {node} is not on this machine, which has {nodes:?}"));
            }
        }
    }
    if let Some(address) = &config.network.nic_pci_addr {
        let device = sysfs.join("bus/pci/devices").join(address);
        if !device.exists() {
            warn("network.nic_pci_addr", format!("there is no PCI device {address} on this machine"));
        }
    }
    warnings
}

fn numa_nodes(sysfs: &Path) -> Vec<u32> {
    let Ok(entries) = std::fs::read_dir(sysfs.join("devices/system/node")) else {
        return Vec::new();
    };
    let mut nodes: Vec<u32> =
        entries.flatten().filter_map(|entry| entry.file_name().to_str()?.strip_prefix("node")?.parse().ok()).collect();
    nodes.sort_unstable();
    nodes
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sysfs(nodes: u32) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for node in 0..nodes {
            std::fs::create_dir_all(dir.path().join(format!("devices/system/node/node{node}"))).unwrap();
        }
        std::fs::create_dir_all(dir.path().join("bus/pci/devices/0000:3b:00.0")).unwrap();
        dir
    }

    fn keys(config: &Config, nodes: u32, numa_built: bool) -> Vec<&'static str> {
        warnings(config, sysfs(nodes).path(), numa_built).iter().map(|warning| warning.key).collect()
    }

    #[test]
    fn a_machine_that_fits_gives_no_warning() {
        let mut config = Config::default();
        assert!(keys(&config, 1, false).is_empty());
        config.numa.enabled = true;
        config.numa.nvme_node = Some(1);
        config.network.nic_pci_addr = Some("0000:3b:00.0".to_owned());
        assert!(keys(&config, 2, true).is_empty());
    }

    #[test]
    fn what_is_missing_is_named() {
        let mut config = Config::default();
        config.numa.enabled = true;
        config.numa.nic_node = Some(7);
        config.network.nic_pci_addr = Some("0000:00:00.7".to_owned());
        let expected = ["numa.enabled", "numa.enabled", "numa.nic_node", "network.nic_pci_addr"];
        assert_eq!(keys(&config, 1, false), expected);
    }
}
