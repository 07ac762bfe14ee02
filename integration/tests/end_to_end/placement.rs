//! CPUs of a running server's threads, and `lance --print-topology`.

use lance_integration::harness::process::run;
use lance_integration::harness::{ServerSpec, not_run};
use std::collections::BTreeMap;
use std::path::Path;

/// CPUs that each thread of a process may run on, by the thread's name.
fn cpus_by_thread(pid: u32) -> BTreeMap<String, String> {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    let statuses = tasks.filter_map(|task| std::fs::read_to_string(task.unwrap().path().join("status")).ok());
    let field = |status: &str, name: &str| {
        status.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default().trim().to_owned()
    };
    statuses.map(|status| (field(&status, "Name:"), field(&status, "Cpus_allowed_list:"))).collect()
}

fn own_cpus() -> String {
    let own = std::fs::read_to_string("/proc/self/status").unwrap();
    own.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:")).unwrap().trim().to_owned()
}

fn node_count() -> usize {
    let entries = std::fs::read_dir("/sys/devices/system/node").into_iter().flatten().flatten();
    entries.filter(|entry| entry.file_name().to_str().is_some_and(|name| name.starts_with("node"))).count()
}

fn topology(arguments: &[&str]) -> String {
    let folder = tempfile::tempdir().unwrap();
    let data_dir = format!("node.data_dir={}", folder.path().join("data").display());
    let mut all = vec!["--print-topology", "--set", &data_dir];
    all.extend(arguments);
    let printed = run("lance", &all, b"").ok();
    // Nothing was started or written.
    assert!(!folder.path().join("data").exists());
    printed
}

#[test]
fn two_shards_run_on_the_cpus_they_were_given_and_nothing_else_is_pinned() {
    let own = own_cpus();
    let cpus = lance_actors::threads::allowed_cpus();
    let (first, last) = (cpus[0], cpus[cpus.len() - 1]);
    let list = if first == last { format!("[{first}]") } else { format!("[{last}, {first}]") };
    let count = if first == last { 1 } else { 2 };
    let settings = [
        format!("shards.count={count}"),
        format!("shards.cpus={list}"),
        "shards.placement=dedicated".to_owned(),
        "numa.enabled=true".to_owned(),
    ];
    let printed = topology(&settings.iter().flat_map(|setting| ["--set", setting]).collect::<Vec<_>>());
    assert!(printed.contains(&format!("shard-0: CPU {last}")), "{printed}");
    let server = settings.iter().fold(ServerSpec::new(), |spec, setting| spec.set(setting)).start();
    server.connect().ping();
    let placed = cpus_by_thread(server.pid());
    assert_eq!(placed.get("shard-0"), Some(&last.to_string()), "{placed:?}");
    if count == 2 {
        assert_eq!(placed.get("shard-1"), Some(&first.to_string()), "{placed:?}");
    }
    for free in ["lance", "control", "metadata"] {
        assert_eq!(placed.get(free), Some(&own), "{free}: {placed:?}");
    }
    server.await_log(&["placed", "shard-0", "named by shards.cpus"]);
}

#[test]
fn one_memory_node_serves_warns_and_pins_nothing() {
    if node_count() > 1 {
        return not_run(&format!("this machine has {} memory nodes", node_count()));
    }
    let server = ServerSpec::new().set("numa.enabled=true").set("network.nic_pci_addr=0000:ff:1f.7").start();
    server.connect().ping();
    server.await_log(&["warning", "numa.enabled", "one NUMA node"]);
    server.await_log(&["warning", "network.nic_pci_addr", "0000:ff:1f.7"]);
    assert_eq!(cpus_by_thread(server.pid()).get("shard-0"), Some(&own_cpus()));
}

#[test]
fn a_cpu_that_is_not_there_is_named_and_the_server_goes_on() {
    let server = ServerSpec::new().set("shards.cpus=[1000]").start();
    server.connect().ping();
    server.await_log(&["WARN", "shard-0 is not pinned", "CPU 1000"]);
}

#[test]
fn the_topology_names_nodes_devices_threads_and_what_this_build_can_do() {
    let printed = topology(&["--set", "shards.count=2"]);
    let parts = ["NUMA nodes, by ", "node 0: CPUs ", "This process may use CPUs ", "network.nic_pci_addr is not set"];
    for part in
        parts.iter().chain(&["Disk: ", "Memory: this build ", "shard-0: ", "shard-1: ", "poller-1, connections"])
    {
        assert!(printed.contains(part), "{part} is missing in:\n{printed}");
    }
    assert!(printed.contains(&format!("may use CPUs {}\n", own_cpus())), "{printed}");
}

#[test]
fn with_the_feature_a_machine_of_two_nodes_gets_shards_and_connections_apart() {
    let with_feature = topology(&[]).contains("binds write buffers");
    if !with_feature || !Path::new("/proc/self/numa_maps").exists() {
        return not_run("the programs are built without the feature `numa`");
    }
    let mut command = std::process::Command::new(lance_integration::harness::programs::program("lance"));
    command.env("HWLOC_SYNTHETIC", "package:2 [numa(memory=8589934592)] core:1 pu:1").arg("--print-topology");
    for setting in ["numa.enabled=true", "numa.nic_node=0", "numa.nvme_node=1", "shards.placement=dedicated"] {
        command.args(["--set", setting]);
    }
    let output = command.output().unwrap();
    let printed = String::from_utf8(output.stdout).unwrap();
    assert!(printed.contains("node 1: CPUs 1 (1 cores), memory 8.0 GiB"), "{printed}");
    if lance_actors::threads::allowed_cpus().starts_with(&[0, 1]) {
        assert!(printed.contains("shard-0: CPU 1, write buffers on node 1; near the disk"), "{printed}");
        assert!(printed.contains("network-0: CPU 0; near the network card"), "{printed}");
    }
}
