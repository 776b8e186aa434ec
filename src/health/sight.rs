//! How much this node sees of what it watches, and whether it can trust that.

use crate::time::Instant;

/// How much this node sees of what it watches.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Sight {
    /// Targets that are heard, even if what they say is wrong, or were up when they were last;
    /// canaries apart, and what only others tell of.
    pub(super) living: usize,
    /// Those of them that were up and went silent.
    pub(super) silent: usize,
    /// Those of them that were down, were heard, and went silent lately.
    pub(super) hushed: usize,
    /// Canaries of which something is known.
    pub(super) canaries: usize,
    /// Those of them that went silent.
    pub(super) mute: usize,
    /// Those of them that fail, and failed again when they were probed again.
    pub(super) blind: usize,
    /// Targets of which nothing has been seen for too long, canaries among them.
    pub(super) stale: usize,
}

impl Sight {
    /// Can this node trust what it sees?
    pub(super) fn is_lost(self) -> bool {
        let is_blinded = self.silent > 0 && would_blind(self.silent + self.hushed, self.living);
        if self.canaries == 0 {
            return is_blinded;
        }
        // A silence of theirs may be a lost packet, but not where most targets are silent as well.
        self.blind == self.canaries || self.mute == self.canaries && is_blinded
    }

    /// Is there anybody but `of`, one of all, who could tell a target's silence from this node's
    /// own trouble?
    pub(super) fn has_others(self, of: Self) -> bool {
        self.canaries > 0 || self.living > of.living
    }

    pub(super) fn change(&mut self, from: Self, to: Self) {
        self.living = self.living + to.living - from.living;
        self.silent = self.silent + to.silent - from.silent;
        self.hushed = self.hushed + to.hushed - from.hushed;
        self.canaries = self.canaries + to.canaries - from.canaries;
        self.mute = self.mute + to.mute - from.mute;
        self.blind = self.blind + to.blind - from.blind;
        self.stale = self.stale + to.stale - from.stale;
    }
}

/// Does a node without canaries doubt itself, rather than them, when so many targets of those that
/// live go silent at once?
pub fn would_blind(silent: usize, living: usize) -> bool {
    silent >= FEWEST_SILENT && silent * 2 > living
}

/// Fewer silent targets than this are no sign of anything but themselves.
const FEWEST_SILENT: usize = 2;

/// The last sign that this node's own network works.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Sign {
    /// When the newest of the probes began whose answers give one.
    given: Option<Instant>,
    /// When somebody was last looked for to be asked for one, out of turn.
    pub(super) asked: Option<Instant>,
    /// Since when one is wanted, if nobody was free to be asked.
    pub(super) wanted: Option<Instant>,
}

impl Sign {
    /// A probe that began then was answered.
    pub(super) fn give(&mut self, began: Instant) {
        self.given = self.given.max(Some(began));
    }

    /// Is one wanted of who has answered a probe that began then, too early to give it?
    pub(super) fn is_wanted_after(self, began: Instant) -> bool {
        self.wanted.is_some_and(|wanted| began < wanted && !self.since(wanted))
    }

    /// Was there one since?
    pub(super) fn since(self, moment: Instant) -> bool {
        self.given >= Some(moment)
    }
}
