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
    /// Those of them of whose probes many get lost.
    pub(super) lossy: usize,
    /// Canaries of which something is known.
    pub(super) canaries: usize,
    /// Those of them that went silent.
    pub(super) mute: usize,
    /// Those of them that fail, and failed again when they were probed again.
    pub(super) blind: usize,
    /// Those of them of whose probes many get lost.
    pub(super) lossy_canaries: usize,
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

    /// Do probes get lost on their way, so that the silence of `of`, one of all, says little? They
    /// do if many are of most others, and of half of the canaries.
    pub(super) fn loses_beside(self, of: Self) -> bool {
        let (living, lossy) = (self.living - of.living, self.lossy - of.lossy);
        let are_most = lossy * 2 > living || living == 0 && self.canaries > 0;
        self.lossy_canaries * 2 >= self.canaries && are_most
    }

    pub(super) fn change(&mut self, from: Self, to: Self) {
        self.living = self.living + to.living - from.living;
        self.silent = self.silent + to.silent - from.silent;
        self.hushed = self.hushed + to.hushed - from.hushed;
        self.lossy = self.lossy + to.lossy - from.lossy;
        self.lossy_canaries = self.lossy_canaries + to.lossy_canaries - from.lossy_canaries;
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

/// Which share of a target's probes gets lost, in thousandths: an exponential mean over the last
/// sixteen or so. Only who is heard again shows that something was lost before, so one that is dead
/// has no part in it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Loss(u32);

impl Loss {
    /// A tenth: at 1 % loss, which four failures in a row are enough for, one target in a hundred
    /// seems to lose that much, and at 20 % nine in ten do.
    const MUCH: u32 = 100;

    /// Something came back, after so many probes of which nothing did. A longer silence is rather
    /// an outage than loss.
    pub(super) fn learn(&mut self, lost: u32) {
        for _ in 0..lost.min(4) {
            self.0 += (1000 - self.0) / 16;
        }
        self.0 -= self.0 / 16;
    }

    pub(super) fn is_much(self) -> bool {
        self.0 > Self::MUCH
    }
}

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
