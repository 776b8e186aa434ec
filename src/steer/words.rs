//! What the types of steering are called where people read of them.

use std::fmt;

use super::{Address, Basis, Policy, TtlReason};

impl fmt::Display for Policy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Nearest => "nearest",
            Self::Geo => "geo",
            Self::Failover(_) => "failover",
            Self::SingleWriter(..) => "single-writer",
            Self::Weighted => "weighted",
        })
    }
}

impl fmt::Display for Basis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Up => "up",
            Self::Kept => "down; kept: `max_moves` regions have left",
            Self::Held => "up again and not let back yet, and nothing else is up",
            Self::Scarce => "up, though in no region enough is up",
            Self::Unknown => "no verdict yet, which is not down",
            Self::Drained => "drained, and nothing else is up",
            Self::AsIfUp => "all down: answered as if all were up",
            Self::LastGood => "all down: answered with the last that were up",
            Self::Fixed => "all down: answered with the fixed addresses",
            Self::NoData => "all down: answered without a record",
            Self::ServFail => "all down: answered with SERVFAIL",
            Self::NoWriter => "no region may write: answered without a record",
        })
    }
}

impl Basis {
    /// Is nothing up for those who get such an answer?
    pub fn is_down(self) -> bool {
        matches!(self, Self::AsIfUp | Self::LastGood | Self::Fixed | Self::NoData | Self::ServFail)
    }

    /// The same where one region at a time writes, the one of this `epoch`: how it `stands`, if it
    /// is not up.
    pub fn of_writer(self, epoch: u64, stands: &str) -> String {
        match self {
            Self::Up => format!("the writer, epoch {epoch}"),
            Self::AsIfUp => format!("the writer, epoch {epoch} ({stands})"),
            other => other.to_string(),
        }
    }
}

impl fmt::Display for TtlReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Configured => "as configured",
            Self::Suspected => "lowered: an endpoint of the answer failed its last probe",
            Self::NothingUp => "lowered: nothing in the answer is known to be up",
            Self::Makeshift => "lowered: the answer is a makeshift",
            Self::Isolated => "lowered: this node hears too few others to decide",
            Self::Ahead => "lowered: a drain of it begins soon",
        })
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ip(ip) => ip.fmt(f),
            Self::Alias(name) => name.fmt(f),
        }
    }
}
