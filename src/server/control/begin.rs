//! How a process begins: what it waits for before it answers.
//!
//! ```text
//! first verdicts of its own probes, what etcd tells → it speaks → others' verdicts → it answers
//! ```
//!
//! All of it at most for `ready_within`. One that takes another's place speaks when that falls
//! silent, and has at least as long from then on as that one still names writers.

use tokio::sync::oneshot;

use crate::cluster::FRESH;
use crate::server::takeover::GRACE;
use crate::time::Instant;

use super::{Control, Peers};

/// How far the beginning has come.
#[derive(Debug)]
pub(super) struct Begins {
    pub(super) at: Instant,
    /// The first verdicts are in that come by this node's own probes.
    sees: bool,
    /// Who waits for that.
    waits: Vec<oneshot::Sender<()>>,
    /// Since when this process speaks to other nodes and hears them; `None`: the one does that it
    /// replaces.
    pub(super) speaks_since: Option<Instant>,
}

impl Begins {
    /// One that speaks at once.
    pub(super) fn at(now: Instant) -> Self {
        Self { at: now, sees: false, waits: Vec::new(), speaks_since: Some(now) }
    }

    /// Tells when the first verdicts are in.
    pub(super) fn tell(&mut self, waits: oneshot::Sender<()>) {
        self.waits.push(waits);
    }

    /// This process speaks from `now` on.
    pub(super) fn speak(&mut self, now: Instant) {
        self.speaks_since = Some(now);
    }

    /// Does it take nobody's place?
    fn is_first(&self) -> bool {
        self.speaks_since == Some(self.at)
    }
}

impl Control {
    /// Another process speaks for this node, until this one is asked to.
    pub(in crate::server) fn listen_later(&mut self) {
        self.begins.speaks_since = None;
    }

    /// Finds out how far the beginning has come.
    pub(super) fn begin(&mut self) {
        if *self.ready.borrow() {
            return;
        }
        let now = self.clock.now();
        let is_late = |by: Option<Instant>| by.is_some_and(|by| now >= by);
        // Once the one that is replaced falls silent, it names no writers for long.
        let knows_leased = self.begins.is_first() || self.knows_leased();
        self.begins.sees |= self.monitor.sees() && knows_leased || is_late(self.ready_by());
        if !self.begins.sees {
            return;
        }
        for waits in self.begins.waits.drain(..) {
            // Who asked may have stopped waiting.
            let _gone = waits.send(());
        }
        if self.knows() || is_late(self.ready_by()) {
            self.ready.send_replace(true);
            self.answering = if self.begins.is_first() { now } else { now + GRACE };
            self.note_ttls();
        }
    }

    /// From when on nobody answers but this process, as far as that is known and still to come.
    pub(super) fn alone_from(&self) -> Option<Instant> {
        Some(self.answering).filter(|at| *self.ready.borrow() && *at > self.clock.now())
    }

    /// Tells the others what this process answers from the moment on when no other does so for the
    /// node: else they would take what that one answers for forgotten.
    pub(super) fn tell_alone(&mut self) {
        if *self.ready.borrow() && self.alone_from().is_none() {
            self.peers.iter_mut().for_each(Peers::begin_to_tell);
        }
    }

    /// Until when the next step is waited for; `None`: until this process speaks.
    pub(super) fn ready_by(&self) -> Option<Instant> {
        let by = self.begins.at + self.loaded.config.node.ready_within;
        if !self.begins.sees || self.begins.is_first() {
            return Some(by);
        }
        self.begins.speaks_since.map(|since| by.max(since + FRESH))
    }

    /// Is all known that others tell?
    fn knows(&self) -> bool {
        let Begins { speaks_since, .. } = self.begins;
        // What the one before hears is in its answers.
        let hears = speaks_since.is_some() && !self.monitor.is_isolated();
        (hears || self.begins.is_first()) && self.monitor.is_told() && self.knows_writers()
    }
}
