//! What `lance --print-topology` shows.

use super::plan::{self, Wish};
use super::{BUILT, Device, Topology, cpu_list};
use lance_config::model::Config;
use std::path::Path;

const GIB: f64 = (1u64 << 30) as f64;

/// The machine, and where each thread would go, as text of several lines.
pub fn describe(config: &Config) -> String {
    let (topology, source) = super::read(config, Path::new("/sys"));
    render(config, &topology, source, BUILT)
}

/// As [`describe`], of any machine.
pub fn render(config: &Config, topology: &Topology, source: &str, built: bool) -> String {
    let mut out = String::new();
    let mut line = |text: String| {
        out.push_str(&text);
        out.push('\n');
    };
    line(format!("NUMA nodes, by {source}"));
    for node in &topology.nodes {
        let memory = node.memory_bytes.map_or("unknown".to_owned(), |bytes| format!("{:.1} GiB", bytes as f64 / GIB));
        let (cpus, cores) = (cpu_list::format(&node.cpus()), node.cores.len());
        line(format!("  node {}: CPUs {cpus} ({cores} cores), memory {memory}", node.id));
    }
    line(format!("This process may use CPUs {}", cpu_list::format(&topology.allowed)));
    let nic = match (&config.network.nic_pci_addr, &topology.nic.name) {
        (None, _) => "network.nic_pci_addr is not set".to_owned(),
        (Some(address), None) => format!("{address} is not on this machine"),
        (Some(address), Some(_)) => address.clone(),
    };
    line(format!("Network card: {}", device(&nic, &topology.nic, ("numa.nic_node", config.numa.nic_node))));
    let dir = config.node.data_dir.display();
    let disk = match &topology.disk.name {
        Some(name) => format!("{name} below {dir}"),
        None => format!("{dir} is on no disk of its own"),
    };
    line(format!("Disk: {}", device(&disk, &topology.disk, ("numa.nvme_node", config.numa.nvme_node))));
    line(match built {
        true => "Memory: this build binds write buffers to their node".to_owned(),
        false => {
            "Memory: this build has no `numa` feature: it binds no memory and places no threads by node".to_owned()
        }
    });
    let plan = plan::plan(topology, &Wish::of(config, built));
    line("Threads".to_owned());
    for thread in plan.shards.iter().chain(&plan.network) {
        let cpus = match cpu_list::format(&thread.cpus) {
            list if list.is_empty() => "any CPU".to_owned(),
            list => format!("CPU {list}"),
        };
        let memory = thread.memory_node.map_or(String::new(), |node| format!(", write buffers on node {node}"));
        line(format!("  {}: {cpus}{memory}; {}; runs {}", thread.name, thread.reason, runs(&thread.name, &plan)));
    }
    plan.warnings.iter().for_each(|warning| line(format!("Warning: {warning}")));
    out
}

fn device(what: &str, found: &Device, (key, configured): (&str, Option<u32>)) -> String {
    match (configured, found.node) {
        (Some(node), _) => format!("{what}; node {node} by {key}"),
        (None, Some(node)) => format!("{what}; node {node}"),
        (None, None) => format!("{what}; node unknown"),
    }
}

fn runs(thread: &str, plan: &plan::Plan) -> String {
    match thread.strip_prefix("shard-") {
        Some(shard) if plan.network.is_empty() => format!("ingestion-{shard}, poller-{shard}, connections"),
        Some(shard) => format!("ingestion-{shard}, poller-{shard}"),
        None => "connections".to_owned(),
    }
}
