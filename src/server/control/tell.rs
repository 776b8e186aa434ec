//! What happened, told to the log, the history and whoever listens.

use std::time::Duration;

use metrics::histogram;
use tracing::debug;

use crate::cluster::FRESH;
use crate::health::{Change, State, Votes};
use crate::ids::TargetId;
use crate::server::history::{Kind, Level, Record};
use crate::server::load::Loaded;
use crate::server::prober::told;
use crate::server::store::Kept;
use crate::time::Instant;

use super::{ALIVE, Control, EVENTS};

impl Control {
    /// Tells of targets that came up or went down, and keeps what is believed now.
    pub(super) fn tell_of(&mut self, changes: &[Change]) {
        let published = self.clock.now();
        let mut kept = Vec::new();
        for change in changes.iter().filter(|change| change.from != change.to) {
            self.tell_of_target(*change, published);
            if let Some(target) = self.loaded.config.target(change.target) {
                kept.push(Kept { target: target.key(), state: change.to, since: change.at });
            }
        }
        if !kept.is_empty() {
            self.store.keep(kept);
        }
        if published >= self.alive_at {
            self.store.alive(published);
            self.alive_at = published + ALIVE;
            self.forget_absent();
            if self.ttls.drop_over(published) {
                self.tell_answers(None);
            }
        }
    }

    pub(super) fn tell_of_target(&mut self, change: Change, published: Instant) {
        let took = change.failing_since.map(|since| published.since(since));
        let level = match (change.from, change.to) {
            (from, State::Down) => {
                // What was never up had no clients to move.
                if from == State::Up {
                    let took = took.unwrap_or_default();
                    histogram!("meridian_failover_seconds").record(took);
                }
                Level::Warn
            }
            // The first verdict that is good is what everybody expects of everything.
            (State::Unknown, _) => {
                debug!(target = change.target.index(), "up");
                return;
            }
            _ => Level::Info,
        };
        let health = self.monitor.table().get(change.target);
        let said = self.prober.complaints().of(change.target);
        let last = health.last.map(|(_, report)| told(report.outcome, said.as_ref()));
        let why = match (&self.peers, last) {
            (None, last) => last.unwrap_or_default(),
            (Some(_), last) => {
                let Votes { up, down } = health.votes;
                let here = last.map(|last| format!("; here: {last}")).unwrap_or_default();
                format!("{down} see it down, {up} up{here}")
            }
        };
        let subject = named(&self.loaded, change.target);
        self.tell(level, Kind::State, (subject, change.to.to_string()), (why, String::new()), took);
    }

    /// Tells of a state that could not be read, or cannot be written.
    pub(super) fn tell_lost(&mut self) {
        if let Some(why) = self.lost.clone() {
            let what = (self.loaded.config.node.name.clone(), "state at fault".to_owned());
            self.tell(Level::Error, Kind::Node, what, (why, String::new()), None);
        }
    }

    /// Tells when this node begins or ends to doubt itself.
    pub(super) fn tell_of_myself(&mut self) {
        // Nobody is heard in the first moment.
        let listens = self.begins.speaks_since;
        let has_listened = listens.is_some_and(|since| self.clock.now().since(since) > FRESH);
        let now = Condition {
            abstains: self.monitor.abstains(),
            loses: self.monitor.loses(),
            isolated: self.monitor.is_isolated() && has_listened,
            is_unwatched: self.monitor.is_unwatched() && has_listened,
            is_stale: self.monitor.stale() > 0,
        };
        let then = self.told.send_replace(now);
        let node = self.loaded.config.node.name.clone();
        let parts: [(Part, _, _); 4] = [
            (|of| of.abstains, ("abstains", ABSTAINS), ("sees again", SEES)),
            (|of| of.isolated, ("isolated", ISOLATED), ("heard again", HEARD)),
            (|of| of.is_unwatched, ("unwatched", UNWATCHED), ("watched again", WATCHED)),
            (|of| of.is_stale, ("stale", STALE), ("fresh again", FRESH_AGAIN)),
        ];
        for (part, begins, ends) in parts {
            let is = part(&now);
            if part(&then) != is {
                let level = if is { Level::Error } else { Level::Info };
                let (what, why) = if is { begins } else { ends };
                let told = (node.clone(), what.to_owned());
                self.tell(level, Kind::Node, told, (why.to_owned(), String::new()), None);
            }
        }
    }

    /// Logs what happened, and remembers it.
    pub(super) fn tell(
        &mut self,
        level: Level,
        kind: Kind,
        (subject, what): (String, String),
        (why, who): (String, String),
        took: Option<Duration>,
    ) {
        let at = self.clock.now();
        let generation = self.published.load().generation();
        let record = Record { at, kind, subject, what, why, who, took, generation };
        record.log(level);
        self.webhooks.tell(&record);
        self.store.tell(record.clone());
        self.events.push_front(record);
        self.events.truncate(EVENTS);
    }
}

/// A part of what it thinks.
type Part = fn(&Condition) -> bool;

/// What this node thinks of itself.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Condition {
    /// It counts its own sight for nothing.
    pub abstains: bool,
    /// Many of its probes get lost: silence has to last longer to count.
    pub loses: bool,
    /// It hears too few other nodes to decide.
    pub isolated: bool,
    /// It hears too few of those who watch some targets.
    pub is_unwatched: bool,
    /// Something that it believes is older than it may be.
    pub is_stale: bool,
}

const ABSTAINS: &str = "most targets are silent at once, or all canaries fail: that is more likely \
                        to be this node's network; what was believed stands";
const ISOLATED: &str = "too few other nodes are heard for a quorum";
const UNWATCHED: &str = "of the nodes that watch some targets (`vantages`) no majority is heard; \
                         what was believed of these targets stands";
const STALE: &str = "of some targets nothing new is known: their probes do not come back or cannot \
                     be made, or nobody tells their state; what was believed of them stands";

const SEES: &str = "most targets, or a canary, are heard again";
const HEARD: &str = "enough other nodes are heard for a quorum";
const WATCHED: &str = "of the nodes that watch each target a majority is heard";
const FRESH_AGAIN: &str = "of each target something new is known";

/// What operators call a target: where it is, and what it is for.
fn named(loaded: &Loaded, target: TargetId) -> String {
    let Some(found) = loaded.config.target(target) else { return String::new() };
    let uses = loaded.plan.uses(target);
    let shown = uses.iter().take(SHOWN_USES).map(|(service, region)| format!("{service}/{region}"));
    let shown = shown.collect::<Vec<_>>().join(", ");
    let more = match uses.len().saturating_sub(SHOWN_USES) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    format!("{} {} ({shown}{more})", found.address, found.check.kind())
}

/// How many uses of a target are named in its name.
const SHOWN_USES: usize = 3;
