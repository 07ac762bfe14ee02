//! What is measured: the loads, their figures, floors and targets.

use super::super::floors::Shape;
use super::SuiteArgs;
use clap::ValueEnum;

/// When an ack may leave.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Sync {
    /// After its records are synced.
    Always,
    /// Before: a sync follows within a second or 256 MiB.
    Interval,
}

impl Sync {
    /// As the table names it.
    pub fn text(self) -> &'static str {
        match self {
            Self::Always => "synced before ack",
            Self::Interval => "not synced before ack (1 s, 256 MiB)",
        }
    }

    fn setting(self) -> &'static str {
        match self {
            Self::Always => "storage.sync=always",
            Self::Interval => "storage.sync={ interval_ms = 1000, bytes = \"256MiB\" }",
        }
    }
}

/// What the server is made to do.
#[derive(Clone, Copy, Debug)]
pub enum Load {
    /// Records in: flat out, or so many a second over all connections.
    Produce(Shape, Option<f64>),
    /// A partition read once from the device, then again and again from the page cache.
    CatchUp,
    /// From the intended send time to a consumer, so many records a second.
    EndToEnd(f64),
    /// Nothing.
    Idle,
    /// Two starts over this many closed segments: after a stop, and after a kill.
    Start(usize),
    /// Panics of the actors that hold this many partitions, under load.
    Panic(u16),
}

/// When a figure is good enough.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Target {
    /// At most so many times its floor.
    RatioAtMost(f64),
    /// At least so many times its floor.
    RatioAtLeast(f64),
    /// At least.
    AtLeast(f64),
    /// Less than.
    Below(f64),
    /// It is only shown.
    Shown,
}

/// A line of the table.
#[derive(Clone, Copy, Debug)]
pub struct Line {
    /// What it is.
    pub what: &'static str,
    /// Its name among the figures of the load.
    pub figure: &'static str,
    /// Its unit.
    pub unit: &'static str,
    /// What the floor is, for people.
    pub floor: &'static str,
    /// The floors that are added up; empty: none.
    pub floors: &'static [&'static str],
    /// When it is good enough.
    pub target: Target,
}

/// A load with its lines.
#[derive(Clone, Copy, Debug)]
pub struct Scenario {
    /// As `--only` names it.
    pub name: &'static str,
    /// Durability of acks.
    pub sync: Sync,
    /// The load.
    pub load: Load,
    /// The lines.
    pub lines: &'static [Line],
}

impl Scenario {
    /// For progress.
    pub fn title(&self) -> String {
        format!("{}, {}", self.name, self.sync.text())
    }

    /// Bytes of a segment; small where many closed ones are wanted.
    pub fn segment_bytes(&self, args: &SuiteArgs) -> Option<u64> {
        match self.load {
            Load::CatchUp => Some((self.log_bytes(args) / 16).max(1 << 20)),
            Load::Start(_) => Some(1 << 20),
            Load::Panic(_) => Some(256 << 20),
            _ => None,
        }
    }

    /// Bytes of records to read back.
    pub fn log_bytes(&self, args: &SuiteArgs) -> u64 {
        ((args.seconds * 256.0) as u64).clamp(64, 1024) << 20
    }

    /// What the server is told with `--set`.
    pub fn settings(&self, args: &SuiteArgs) -> Vec<String> {
        let mut settings = vec![self.sync.setting().to_owned()];
        if let Load::Panic(_) = self.load {
            settings.push("admin.fault_injection=true".to_owned());
        }
        settings.extend(self.segment_bytes(args).map(|bytes| format!("storage.segment_bytes={bytes}")));
        settings
    }

    /// The load that measures the generator by itself, where a figure is compared with that.
    pub fn generator_shape(&self) -> Option<&Shape> {
        let compared = self.lines.iter().any(|line| line.floors.iter().any(|floor| floor.starts_with("generator_")));
        match &self.load {
            Load::Produce(shape, _) if compared => Some(shape),
            _ => None,
        }
    }
}

/// A name given to `--only`.
pub fn parse_name(given: &str) -> Result<&'static str, String> {
    let mut names: Vec<&str> = SCENARIOS.iter().map(|scenario| scenario.name).collect();
    names.dedup();
    names.iter().find(|name| **name == given).copied().ok_or_else(|| format!("expected one of {}", names.join(", ")))
}

const fn singles(connections: usize, in_flight: usize) -> Shape {
    Shape { connections, in_flight, records: 1, record_bytes: 1024 }
}

/// 64 KB in 1 KB records: 63 of them with their TLV headers.
const BATCHES: Shape = Shape { connections: 8, in_flight: 16, records: 63, record_bytes: 1024 };

/// The set, in the order of a round.
pub const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "ack",
        sync: Sync::Always,
        load: Load::Produce(singles(1, 1), None),
        lines: &[
            Line {
                what: "ack p50, 1 connection × 1 in flight, 1 KB",
                figure: "ack_p50",
                unit: "µs",
                floor: "echo on two cores p50 + 4 KB write and sync p50",
                floors: &["tcp_echo_two_cores_p50", "direct_dsync_4k_p50"],
                target: Target::RatioAtMost(1.3),
            },
            Line {
                what: "same",
                figure: "ack_p50",
                unit: "µs",
                floor: "echo where the scheduler puts it p50 + 4 KB write and sync p50",
                floors: &["tcp_echo_p50", "direct_dsync_4k_p50"],
                target: Target::RatioAtMost(1.3),
            },
            Line {
                what: "ack p99 of the same run",
                figure: "ack_p99",
                unit: "µs",
                floor: "echo on two cores p99 + 4 KB write and sync p99",
                floors: &["tcp_echo_two_cores_p99", "direct_dsync_4k_p99"],
                target: Target::Shown,
            },
        ],
    },
    Scenario {
        name: "ack",
        sync: Sync::Interval,
        load: Load::Produce(singles(1, 1), None),
        lines: &[
            Line {
                what: "ack p50, 1 connection × 1 in flight, 1 KB",
                figure: "ack_p50",
                unit: "µs",
                floor: "echo on two cores p50",
                floors: &["tcp_echo_two_cores_p50"],
                target: Target::RatioAtMost(1.3),
            },
            Line {
                what: "same",
                figure: "ack_p50",
                unit: "µs",
                floor: "echo where the scheduler puts it p50",
                floors: &["tcp_echo_p50"],
                target: Target::RatioAtMost(1.3),
            },
        ],
    },
    Scenario {
        name: "open-256",
        sync: Sync::Always,
        load: Load::Produce(singles(256, 64), Some(1000.0)),
        lines: &[
            Line {
                what: "ack p99, 256 connections, 1,000 records/s in all, open loop",
                figure: "ack_p99",
                unit: "µs",
                floor: "echo on two cores p99 + 4 KB write and sync p99",
                floors: &["tcp_echo_two_cores_p99", "direct_dsync_4k_p99"],
                target: Target::RatioAtMost(2.0),
            },
            Line {
                what: "same",
                figure: "ack_p99",
                unit: "µs",
                floor: "echo where the scheduler puts it p99 + 4 KB write and sync p99",
                floors: &["tcp_echo_p99", "direct_dsync_4k_p99"],
                target: Target::RatioAtMost(2.0),
            },
        ],
    },
    Scenario {
        name: "small-8x64",
        sync: Sync::Always,
        load: Load::Produce(singles(8, 64), None),
        lines: &[Line {
            what: "records, 8 connections × 64 in flight, one 1 KB record a frame",
            figure: "records",
            unit: "/s",
            floor: "the generator against a thread that only acks",
            floors: &["generator_alone_frames"],
            target: Target::AtLeast(280_000.0),
        }],
    },
    Scenario {
        name: "small-8x1",
        sync: Sync::Always,
        load: Load::Produce(singles(8, 1), None),
        lines: &[Line {
            what: "records, 8 connections × 1 in flight, one 1 KB record a frame",
            figure: "records",
            unit: "/s",
            floor: "the generator against a thread that only acks",
            floors: &["generator_alone_frames"],
            target: Target::AtLeast(33_000.0),
        }],
    },
    Scenario { name: "batches", sync: Sync::Always, load: Load::Produce(BATCHES, None), lines: BATCH_LINES },
    Scenario { name: "batches", sync: Sync::Interval, load: Load::Produce(BATCHES, None), lines: BATCH_LINES },
    Scenario {
        name: "consume",
        sync: Sync::Always,
        load: Load::CatchUp,
        lines: &[
            Line {
                what: "first pass over closed segments, not in the page cache, 1 connection, 4 MiB fetches",
                figure: "first_pass",
                unit: "MB/s",
                floor: "1 MB O_DIRECT reads",
                floors: &["read_1m_direct"],
                target: Target::RatioAtLeast(0.8),
            },
            Line {
                what: "same",
                figure: "first_pass",
                unit: "MB/s",
                floor: "one sendfile stream from the page cache",
                floors: &["sendfile_stream"],
                target: Target::Shown,
            },
            Line {
                what: "later passes, from the page cache",
                figure: "later_passes",
                unit: "MB/s",
                floor: "one sendfile stream from the page cache",
                floors: &["sendfile_stream"],
                target: Target::RatioAtLeast(0.8),
            },
        ],
    },
    Scenario {
        name: "end-to-end",
        sync: Sync::Always,
        load: Load::EndToEnd(1000.0),
        lines: &[
            Line {
                what: "producer to consumer p50, 1,000 records/s, open loop",
                figure: "end_to_end_p50",
                unit: "µs",
                floor: "echo on two cores p50 + 4 KB write and sync p50",
                floors: &["tcp_echo_two_cores_p50", "direct_dsync_4k_p50"],
                target: Target::Shown,
            },
            Line {
                what: "producer to consumer p99",
                figure: "end_to_end_p99",
                unit: "µs",
                floor: "echo on two cores p99 + 4 KB write and sync p99",
                floors: &["tcp_echo_two_cores_p99", "direct_dsync_4k_p99"],
                target: Target::Shown,
            },
        ],
    },
    Scenario {
        name: "idle",
        sync: Sync::Always,
        load: Load::Idle,
        lines: &[
            plain("memory at rest after the start", "rss", "MB", Target::Below(64.0)),
            plain("CPU without clients", "idle_cpu", "% of a core", Target::Below(0.5)),
        ],
    },
    Scenario {
        name: "start",
        sync: Sync::Always,
        load: Load::Start(1000),
        lines: &[
            plain(
                "start over 1,000 closed segments to the first answered fetch, after SIGTERM",
                "start",
                "ms",
                Target::Below(1000.0),
            ),
            plain("same, after kill -9", "start_killed", "ms", Target::Below(1000.0)),
        ],
    },
    Scenario {
        name: "panic",
        sync: Sync::Always,
        load: Load::Panic(100),
        lines: &[
            plain(
                "longest wait for an ack over a panic of the ingestion actor: 100 partitions, segments of 256 MiB, 3,000 records/s",
                "outage_ingestion",
                "ms",
                Target::Below(200.0),
            ),
            plain("same, of the poller", "outage_poller", "ms", Target::Below(200.0)),
        ],
    },
];

const BATCH_LINES: &[Line] = &[Line {
    what: "8 connections × 16 batches of 64 KB in flight, 1 KB records",
    figure: "throughput",
    unit: "MB/s",
    floor: "1 MB O_DIRECT appends, a sync each",
    floors: &["append_1m_direct"],
    target: Target::RatioAtLeast(0.8),
}];

const fn plain(what: &'static str, figure: &'static str, unit: &'static str, target: Target) -> Line {
    Line { what, figure, unit, floor: "", floors: &[], target }
}
