//! What happened, so that runs that prove nothing are noticed.

/// How often each thing happened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    pub heartbeats: u64,
    pub commits: u64,
    pub refused_commits: u64,
    pub crashes: u64,
    pub failed_appends: u64,
    pub lost_records: u64,
    pub snapshots: u64,
    pub lapses: u64,
    pub fences: u64,
    pub restarts: u64,
    pub gained: u64,
    pub topics: u64,
    pub expelled: u64,
    pub reconnections: u64,
}

impl Stats {
    pub fn each(&self) -> [(&'static str, u64); 14] {
        [
            ("heartbeats", self.heartbeats),
            ("commits", self.commits),
            ("refused commits", self.refused_commits),
            ("crashes", self.crashes),
            ("failed appends", self.failed_appends),
            ("lost records", self.lost_records),
            ("snapshots", self.snapshots),
            ("lapses", self.lapses),
            ("fences", self.fences),
            ("restarts", self.restarts),
            ("gained", self.gained),
            ("topics", self.topics),
            ("expelled", self.expelled),
            ("reconnections", self.reconnections),
        ]
    }

    pub fn add(&mut self, other: &Stats) {
        self.heartbeats += other.heartbeats;
        self.commits += other.commits;
        self.refused_commits += other.refused_commits;
        self.crashes += other.crashes;
        self.failed_appends += other.failed_appends;
        self.lost_records += other.lost_records;
        self.snapshots += other.snapshots;
        self.lapses += other.lapses;
        self.fences += other.fences;
        self.restarts += other.restarts;
        self.gained += other.gained;
        self.topics += other.topics;
        self.expelled += other.expelled;
        self.reconnections += other.reconnections;
    }
}
