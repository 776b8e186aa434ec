//! Which of several words on the same subject counts, when nodes hear them in different orders.
//!
//! A word replaces those that its speaker knew of. Of words of which none knew of the other the
//! safest counts: what was said last on a clock that is wrong must not put traffic where somebody
//! took it away. The others stand beside it until a word replaces them all, so that what counts
//! does not depend on who heard what first: a multi-value register (Shapiro et al., "A
//! comprehensive study of Convergent and Commutative Replicated Data Types", INRIA RR-7506, §3.2.2)
//! whose words tell by version vectors what they knew of (Parker et al., IEEE TSE 1983).

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use crate::time::Instant;

/// When and where a word was said, and what was known there of its subject.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Stamp {
    /// Milliseconds since the Unix epoch times 2¹⁶, plus a counter, and later than everything that
    /// was seen: a hybrid logical clock (Kulkarni et al., "Logical Physical Clocks", OPODIS 2014).
    pub at: u64,
    /// The node where it was said.
    pub by: String,
    /// Of each node the `at` of its last word on this subject that was known. Each word of a node
    /// knows of those before it, so that this stands for all of them.
    pub saw: BTreeMap<String, u64>,
}

/// Of so many nodes it is remembered which word was known, as many as there may be: of those that
/// spoke last, should nodes have changed their names.
const MOST_SEEN: usize = 32;

/// So many words may stand beside the one that counts.
const MOST_BESIDE: usize = MOST_SEEN - 1;

impl Stamp {
    /// The stamp of a word that is said by `by` at `now` and replaces those with the stamps
    /// `before`; later than `latest`, which is the latest `at` that was ever seen.
    pub fn next<'s>(
        now: Instant,
        by: &str,
        before: impl IntoIterator<Item = &'s Self>,
        latest: u64,
    ) -> Self {
        let (mut saw, mut replaced) = (BTreeMap::new(), BTreeSet::new());
        for before in before {
            let known = before.saw.iter().chain([(&before.by, &before.at)]);
            for (by, at) in known {
                let known = saw.entry(by.clone()).or_default();
                *known = *at.max(known);
            }
            replaced.insert(&before.by);
        }
        let latest = saw.values().copied().fold(latest, u64::max);
        while saw.len() > MOST_SEEN {
            let least = saw.iter().min_by_key(|(by, at)| (replaced.contains(by), **at));
            let Some(least) = least.map(|(by, _)| by.clone()) else { break };
            saw.remove(&least);
        }
        let wall = (now.as_nanos() / 1_000_000) << 16;
        Self { at: wall.max(latest + 1), by: by.to_owned(), saw }
    }

    /// Can a node have given it? A word is later than what it saw, and no clock counts beyond 2⁶³:
    /// what is far beyond would leave no number for the words after it.
    pub fn makes_sense(&self) -> bool {
        self.at > 0 && self.at >> 63 == 0 && self.saw.values().all(|saw| *saw < self.at)
    }

    /// Was that word known to the speaker of this one?
    pub fn knows_of(&self, other: &Self) -> bool {
        self.saw.get(&other.by).is_some_and(|at| *at >= other.at)
    }
}

/// Of these words on one subject those that no other one of them replaces: first the one that
/// counts, then those beside it. `of` tells of a word its stamp and how safe it is: the higher, the
/// safer. Of one that comes twice the first is taken.
pub fn standing<W>(mut words: Vec<W>, of: impl Fn(&W) -> (Stamp, u8)) -> Vec<W> {
    let stamps: Vec<Stamp> = words.iter().map(|word| of(word).0).collect();
    let mut met = BTreeSet::new();
    words.retain(|word| {
        let (stamp, _) = of(word);
        !stamps.iter().any(|other| other.knows_of(&stamp)) && met.insert((stamp.at, stamp.by))
    });
    words.sort_by_cached_key(|word| {
        let (stamp, safety) = of(word);
        Reverse((safety, stamp))
    });
    words.truncate(1 + MOST_BESIDE);
    words
}
