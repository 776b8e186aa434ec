//! Which of two words on the same subject counts, when nodes hear them in different orders.
//!
//! The last writer wins, by a hybrid logical clock (Kulkarni et al., "Logical Physical Clocks",
//! OPODIS 2014): milliseconds of the wall clock, but always later than everything that was seen.
//! Two words of which neither saw the other are in conflict, and then the safer one counts: what
//! was said last on a clock that is wrong must not put traffic where somebody took it away.

use std::cmp::Ordering;

use crate::time::Instant;

/// When a word was said, and what its speaker had seen.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Stamp {
    /// Milliseconds since the Unix epoch times 2¹⁶, plus a counter.
    pub at: u64,
    /// The `at` of the word on this subject that it replaced; 0: none.
    pub saw: u64,
}

impl Stamp {
    /// The stamp of a word that is said at `now` and replaces one with the stamp `before`; later
    /// than `latest`, which is the latest `at` that was ever seen.
    pub fn next(now: Instant, before: Option<Self>, latest: u64) -> Self {
        let wall = (now.as_nanos() / 1_000_000) << 16;
        let saw = before.map_or(0, |before| before.at);
        Self { at: wall.max(latest.max(saw) + 1), saw }
    }

    /// Can a node have given it? A word is later than what it saw, and no clock counts beyond 2⁶¹:
    /// what is far beyond would leave no number for the words after it.
    pub fn makes_sense(&self) -> bool {
        self.saw < self.at && self.at >> 63 == 0
    }
}

/// What becomes of two words on one subject.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Merged {
    /// The one that was here counts.
    Ours,
    /// The one that was heard counts.
    Theirs,
    /// Neither saw the other: ours counts, as it is safer.
    ConflictOurs,
    /// Neither saw the other: theirs counts, as it is safer.
    ConflictTheirs,
    /// They are the same.
    Same,
}

/// Which of two words counts; `safety` of each: the higher, the safer.
pub fn merge(ours: (Stamp, u8), theirs: (Stamp, u8)) -> Merged {
    let ((here, our_safety), (there, their_safety)) = (ours, theirs);
    if here == there && our_safety == their_safety {
        return Merged::Same;
    }
    if here.saw >= there.at {
        return Merged::Ours;
    }
    if there.saw >= here.at {
        return Merged::Theirs;
    }
    match (our_safety, here).cmp(&(their_safety, there)) {
        Ordering::Less => Merged::ConflictTheirs,
        _ => Merged::ConflictOurs,
    }
}
