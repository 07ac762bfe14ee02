//! The machine a table was made on.

use super::server::Server;
use std::fs;
use std::path::Path;
use std::thread;
use std::time::SystemTime;

/// What matters about the machine.
#[derive(Clone, Debug)]
pub struct Machine {
    /// Model of the CPU.
    pub cpu: String,
    /// Cores this process may use.
    pub cores: usize,
    /// Memory, GB.
    pub memory_gb: f64,
    /// Release of the kernel.
    pub kernel: String,
    /// Type and device of the file system with the data.
    pub file_system: String,
    /// Load of the last minute when the run began: what else was running.
    pub load: String,
    /// When.
    pub date: String,
    /// Disk implementation of the server.
    pub disk: Option<String>,
}

impl Machine {
    /// Looks at this machine; what it does not tell is "unknown".
    pub fn read(data: &Path) -> Self {
        let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
        let unknown = || "unknown".to_owned();
        let date = humantime::format_rfc3339_seconds(SystemTime::now()).to_string();
        Self {
            cpu: field(&read("/proc/cpuinfo"), "model name").unwrap_or_else(unknown),
            cores: thread::available_parallelism().map_or(1, usize::from),
            memory_gb: memory_kib(&read("/proc/meminfo")).unwrap_or(0) as f64 * 1024.0 / 1e9,
            kernel: Some(read("/proc/sys/kernel/osrelease").trim().to_owned())
                .filter(|release| !release.is_empty())
                .unwrap_or_else(unknown),
            file_system: file_system(&read("/proc/mounts"), data).unwrap_or_else(unknown),
            load: read("/proc/loadavg")
                .split(' ')
                .next()
                .filter(|load| !load.is_empty())
                .unwrap_or("unknown")
                .to_owned(),
            date,
            disk: None,
        }
    }

    /// Remembers what a server says about itself.
    pub fn served(&mut self, server: &Server<'_>) {
        self.disk = Some(server.disk.clone());
    }

    /// One line.
    pub fn line(&self) -> String {
        format!(
            "{}, {} cores, {:.0} GB, Linux {}, {}, disk through {}; {}, load average {} at the start",
            self.cpu,
            self.cores,
            self.memory_gb,
            self.kernel,
            self.file_system,
            self.disk.as_deref().unwrap_or("unknown"),
            self.date,
            self.load
        )
    }
}

fn field(text: &str, name: &str) -> Option<String> {
    let value = text.lines().find_map(|line| line.split_once(':').filter(|(key, _)| key.trim() == name))?.1;
    Some(value.split_whitespace().collect::<Vec<_>>().join(" "))
}

fn memory_kib(text: &str) -> Option<u64> {
    field(text, "MemTotal")?.split(' ').next()?.parse().ok()
}

/// The mount with the longest path that holds `path`; of equal ones the last, which hides those before it.
fn file_system(mounts: &str, path: &Path) -> Option<String> {
    let mounts = mounts.lines().filter_map(|line| {
        let mut words = line.split(' ');
        Some((words.next()?, words.next()?, words.next()?))
    });
    let holding = mounts.filter(|(_, folder, _)| path.starts_with(folder));
    let (device, _, kind) = holding.max_by_key(|(_, folder, _)| folder.len())?;
    Some(format!("{kind} on {device}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_found_by_their_whole_name() {
        let text = "model\t\t: 85\nmodel name\t: Some CPU  @ 2.0GHz\n";
        assert_eq!(field(text, "model name").as_deref(), Some("Some CPU @ 2.0GHz"));
        assert_eq!(field(text, "cpu MHz"), None);
        assert_eq!(memory_kib("MemTotal:       24601344 kB\nMemFree: 1 kB\n"), Some(24_601_344));
    }

    #[test]
    fn the_nearest_mount_holds_a_path() {
        let mounts = "/dev/vda / ext4 rw 0 0\ntmpfs /tmp tmpfs rw 0 0\n/dev/vdb /tmp/fast xfs rw 0 0\n";
        let of = |path: &str| file_system(mounts, Path::new(path)).unwrap();
        assert_eq!(of("/home/x"), "ext4 on /dev/vda");
        assert_eq!(of("/tmp/x"), "tmpfs on tmpfs");
        assert_eq!(of("/tmp/fast/x"), "xfs on /dev/vdb");
        assert_eq!(of("/tmp/faster"), "tmpfs on tmpfs");
    }
}
