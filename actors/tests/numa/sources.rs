//! The machine as sysfs and hwloc tell it.

use crate::machine::{four_nodes, two_nodes, write, write_nodes};
use lance_actors::numa::{Device, MemoryNode, sysfs};
use std::os::unix::fs::symlink;
use std::path::Path;

fn tree(nodes: &[MemoryNode]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    write_nodes(folder.path(), nodes);
    folder
}

#[test]
fn sysfs_tells_nodes_cores_and_memory() {
    for nodes in [two_nodes(), four_nodes()] {
        assert_eq!(sysfs::nodes(tree(&nodes).path()), nodes);
    }
}

#[test]
fn a_node_without_cpus_is_left_out() {
    let folder = tree(&two_nodes());
    write(&folder.path().join("devices/system/node/node2/cpulist"), "\n");
    assert_eq!(sysfs::nodes(folder.path()), two_nodes());
}

#[test]
fn a_kernel_without_nodes_has_one_with_all_cpus() {
    let folder = tempfile::tempdir().unwrap();
    write(&folder.path().join("devices/system/cpu/online"), "0-2\n");
    let node = MemoryNode { id: 0, cores: vec![vec![0], vec![1], vec![2]], memory_bytes: None };
    assert_eq!(sysfs::nodes(folder.path()), [node]);
}

#[test]
fn the_card_is_found_by_its_address() {
    let folder = tempfile::tempdir().unwrap();
    let devices = folder.path().join("bus/pci/devices");
    write(&devices.join("0000:3b:00.0/numa_node"), "1\n");
    write(&devices.join("0000:3c:00.0/numa_node"), "-1\n");
    let found = |name: Option<&str>, node| Device { name: name.map(str::to_owned), node };
    assert_eq!(sysfs::pci_device(folder.path(), "0000:3b:00.0"), found(Some("0000:3b:00.0"), Some(1)));
    assert_eq!(sysfs::pci_device(folder.path(), "0000:3c:00.0"), found(Some("0000:3c:00.0"), None));
    assert_eq!(sysfs::pci_device(folder.path(), "0000:3d:00.0"), found(None, None));
}

/// An NVMe disk with a partition, and its links by number.
fn write_disk(sysfs: &Path, name: &str, minor: u32, node: u32) {
    let device = sysfs.join(format!("devices/pci0000:00/0000:0{minor}:00.0"));
    let disk = device.join(format!("nvme/{name}/{name}n1"));
    std::fs::create_dir_all(disk.join(format!("{name}n1p1"))).unwrap();
    write(&device.join("numa_node"), &format!("{node}\n"));
    std::fs::create_dir_all(sysfs.join("dev/block")).unwrap();
    symlink(&disk, sysfs.join(format!("dev/block/259:{minor}"))).unwrap();
    symlink(disk.join(format!("{name}n1p1")), sysfs.join(format!("dev/block/259:{}", minor + 100))).unwrap();
}

/// A disk over others, as device mapper and RAID make it.
fn write_stacked(sysfs: &Path, minor: u32, below: &[u32]) {
    let disk = sysfs.join(format!("devices/virtual/block/dm-{minor}"));
    std::fs::create_dir_all(disk.join("slaves")).unwrap();
    for number in below {
        let target = sysfs.join(format!("dev/block/259:{number}"));
        symlink(target, disk.join(format!("slaves/disk{number}"))).unwrap();
    }
    symlink(&disk, sysfs.join(format!("dev/block/253:{minor}"))).unwrap();
}

#[test]
fn the_disk_is_found_through_partitions_and_disks_over_disks() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path();
    write_disk(root, "nvme0", 0, 1);
    write_disk(root, "nvme1", 1, 1);
    write_disk(root, "nvme2", 2, 0);
    write_stacked(root, 0, &[0, 101]);
    write_stacked(root, 1, &[0, 2]);
    let cases = [
        ((259, 0), Some("nvme0n1"), Some(1)),
        ((259, 102), Some("nvme2n1p1"), Some(0)),
        ((253, 0), Some("dm-0"), Some(1)),
        // Its disks are on two nodes: it has none.
        ((253, 1), Some("dm-1"), None),
        ((0, 42), None, None),
    ];
    for (number, name, node) in cases {
        let expected = Device { name: name.map(str::to_owned), node };
        assert_eq!(sysfs::block_device(root, Some(number)), expected, "{number:?}");
    }
}

#[test]
fn a_folder_that_does_not_exist_yet_is_on_the_disk_of_the_one_above() {
    let folder = tempfile::tempdir().unwrap();
    let number = sysfs::device_number(folder.path());
    assert!(number.is_some());
    assert_eq!(sysfs::device_number(&folder.path().join("not/there/yet")), number);
}

#[cfg(feature = "numa")]
mod by_hwloc {
    use super::*;
    use lance_actors::numa::hwloc;
    use std::process::Command;

    const ANSWER: &str = "LANCE_TEST_ANSWER_FILE";

    /// Also run by the test below, in a process that hwloc shows another machine: there it leaves its answer.
    #[test]
    fn hwloc_tells_nodes_with_cpus() {
        let nodes = hwloc::nodes().unwrap();
        assert!(!nodes.is_empty() && nodes.iter().all(|node| !node.cpus().is_empty()), "{nodes:?}");
        if let Some(answer) = std::env::var_os(ANSWER) {
            std::fs::write(answer, format!("{nodes:?}")).unwrap();
        }
    }

    /// The machine that hwloc tells of to a process with this environment.
    fn seen_with(variable: &str, value: &str) -> String {
        let answer = tempfile::NamedTempFile::new().unwrap();
        let output = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "sources::by_hwloc::hwloc_tells_nodes_with_cpus"])
            .env(variable, value)
            .env(ANSWER, answer.path())
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
        std::fs::read_to_string(answer.path()).unwrap()
    }

    #[test]
    fn hwloc_and_sysfs_tell_the_same_of_the_same_machine() {
        let xml = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/numa/four_nodes.xml");
        let machines = [
            ("HWLOC_SYNTHETIC", "package:2 [numa(memory=8589934592)] core:2 pu:2", two_nodes()),
            ("HWLOC_XMLFILE", xml, four_nodes()),
        ];
        for (variable, value, nodes) in machines {
            let by_sysfs = sysfs::nodes(tree(&nodes).path());
            assert_eq!(seen_with(variable, value), format!("{by_sysfs:?}"), "{value}");
        }
    }

    #[test]
    fn hwloc_and_sysfs_tell_the_same_of_this_machine() {
        assert_eq!(hwloc::nodes().unwrap(), sysfs::nodes(Path::new("/sys")));
    }
}
