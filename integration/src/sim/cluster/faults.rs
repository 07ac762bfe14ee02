//! What goes wrong among several nodes: a seed picks some kinds of faults, and when each strikes.

use crate::sim::disk::FileKind;
use crate::sim::rng::Rng;

/// Kinds of faults.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ClusterTrouble {
    /// The power of one node fails after so many changes of its disk.
    PowerCut,
    /// The power of one node fails at a change of a given kind of file.
    CutAtFile(FileKind),
    /// The power of all nodes fails at once.
    Blackout,
    /// A process is killed.
    Kill,
    /// A process stands still for seconds, and goes on as if nothing had been.
    Pause,
    /// A node hears nobody and is heard by nobody.
    Isolate,
    /// Nothing comes through in one direction between two nodes.
    OneWay,
    /// Two nodes do not reach each other; both reach the others.
    Bridge,
    /// The nodes are in two parts that do not reach each other.
    Split,
    /// Messages between two nodes take long.
    SlowLink,
    /// The network works again.
    HealNetwork,
    /// The links between two nodes break.
    Reset,
    /// A disk stalls.
    SlowDisk,
    /// A sync fails.
    SyncError,
    /// A write fails, maybe in the middle.
    WriteError,
    /// A disk is full for a while.
    NoSpace,
    /// A wall clock jumps.
    ClockJump,
    /// An actor fails.
    ActorFailure,
    /// Connections of clients break.
    Disconnect,
    /// The disk of a node is replaced by an empty one; once in a run.
    Wipe,
    /// Bits flip in closed segments of one replica, unless another one of its partition still lacks what it lost.
    BitRot,
    /// A topic shall have one copy fewer, or as many as before.
    Recopy,
    /// A monotonic clock runs faster or slower than time, or as it should again.
    ClockDrift,
    /// A monotonic clock stands still for seconds.
    ClockStop,
    /// A disk is a hundred times slower for half a minute.
    LastingSlowDisk,
    /// A node is tens of times slower for seconds.
    SlowNode,
    /// A node shall lead nothing and get no copies, or may again.
    Drain,
    /// Other topics come, grow and go all the time.
    Topics,
}

impl ClusterTrouble {
    /// Every kind.
    pub fn all() -> Vec<Self> {
        let mut all = vec![
            Self::PowerCut,
            Self::Blackout,
            Self::Kill,
            Self::Pause,
            Self::Isolate,
            Self::OneWay,
            Self::Bridge,
            Self::Split,
            Self::SlowLink,
            Self::Reset,
            Self::SlowDisk,
            Self::SyncError,
            Self::WriteError,
            Self::NoSpace,
            Self::ClockJump,
            Self::ActorFailure,
            Self::Disconnect,
            Self::Wipe,
            Self::BitRot,
            Self::Recopy,
            Self::ClockDrift,
            Self::ClockStop,
            Self::LastingSlowDisk,
            Self::SlowNode,
            Self::Drain,
            Self::Topics,
        ];
        all.extend(FileKind::ALL.map(Self::CutAtFile));
        all
    }

    /// Whether it lasts until the network is healed.
    pub fn is_of_the_network(self) -> bool {
        matches!(self, Self::Isolate | Self::OneWay | Self::Bridge | Self::Split | Self::SlowLink)
    }
}

/// The faults of one run.
#[derive(Clone, Debug)]
pub struct ClusterPlan {
    kinds: Vec<ClusterTrouble>,
    shortest_ns: u64,
}

impl ClusterPlan {
    /// What the seed picks.
    pub fn new(rng: &mut Rng) -> Self {
        let mut kinds: Vec<ClusterTrouble> = ClusterTrouble::all().into_iter().filter(|_| rng.once_in(3)).collect();
        if kinds.is_empty() {
            kinds.push(ClusterTrouble::Kill);
        }
        Self::with(kinds, rng.range(100_000_000, 600_000_000))
    }

    /// A plan of these faults only; of none if there are none.
    pub fn of(kinds: &[ClusterTrouble]) -> Self {
        Self::with(kinds.to_vec(), 200_000_000)
    }

    fn with(mut kinds: Vec<ClusterTrouble>, shortest_ns: u64) -> Self {
        let lasting = kinds.iter().filter(|kind| kind.is_of_the_network()).count();
        kinds.extend(std::iter::repeat_n(ClusterTrouble::HealNetwork, lasting * 2));
        Self { kinds, shortest_ns }
    }

    /// Whether a fault may strike.
    pub fn has(&self, trouble: ClusterTrouble) -> bool {
        self.kinds.contains(&trouble)
    }

    /// What strikes now.
    pub fn pick(&self, rng: &mut Rng) -> Option<ClusterTrouble> {
        rng.pick(&self.kinds)
    }

    /// How long until the next.
    pub fn pause_ns(&self, rng: &mut Rng) -> u64 {
        rng.range(self.shortest_ns, self.shortest_ns * 4)
    }
}
