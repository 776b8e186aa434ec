//! What happened: one shape for the log, the history, the dashboard and the webhooks.

use std::time::Duration;

use tracing::{error, info, warn};

use crate::time::Instant;

/// Something that changed what is answered, or should have.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Record {
    /// When.
    pub at: Instant,
    /// What kind of thing.
    pub kind: Kind,
    /// What it happened to.
    pub subject: String,
    /// What it is now, in a word: `down`, `drain`, `applied`.
    pub what: String,
    /// Why.
    pub why: String,
    /// Who did it; empty: Meridian by itself.
    pub who: String,
    /// From the first sign of it to the answers that knew of it.
    pub took: Option<Duration>,
    /// The generation that knew of it.
    pub generation: u64,
}

/// Kinds of things that happen.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Kind {
    /// An endpoint came up or went down.
    State,
    /// An operator said something, or took it back.
    Override,
    /// Changed files were served, or refused.
    Reload,
    /// The node itself: started, in trouble, out of it.
    Node,
}

impl Kind {
    /// A word for it.
    pub fn label(self) -> &'static str {
        match self {
            Self::State => "state",
            Self::Override => "override",
            Self::Reload => "reload",
            Self::Node => "node",
        }
    }

    /// All of them.
    pub const ALL: [Self; 4] = [Self::State, Self::Override, Self::Reload, Self::Node];
}

/// How loudly a record is logged.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Level {
    Info,
    Warn,
    Error,
}

impl Record {
    /// Writes it to the log.
    pub(super) fn log(&self, level: Level) {
        let Self { subject, why, who, generation, .. } = self;
        let (kind, what) = (self.kind.label(), &self.what);
        let took_ms = self.took.map(|took| u64::try_from(took.as_millis()).unwrap_or(u64::MAX));
        macro_rules! log {
            ($level:ident) => {
                $level!(kind, subject, why, who, took_ms, generation, "{what}")
            };
        }
        match level {
            Level::Info => log!(info),
            Level::Warn => log!(warn),
            Level::Error => log!(error),
        }
    }
}
