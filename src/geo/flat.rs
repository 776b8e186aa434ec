//! The steps of IPv4 as they are looked up: two places in memory to a look-up, mostly one.
//!
//! Each 1/65536 of the addresses, the addresses that share their upper 16 bits, is a block. Where
//! all of a block has one value, the index has it, with the length of the widest prefix around;
//! else the index says where the block's runs begin.

use super::networks::{Steps, widest};
use crate::prefetch::prefetch;

/// A value for every IPv4 address.
#[derive(Debug)]
pub(super) struct Flat {
    /// By block: [`WHOLE`], prefix (5 bits) and value (16), or a row of `runs`.
    index: Box<[u32]>,
    /// Of each block that is divided: how many runs it has, then these: the lower 16 bits of the
    /// first address of each, and its value.
    runs: Box<[u32]>,
}

/// The block has one value.
const WHOLE: u32 = 1 << 31;

/// How many blocks there are.
const BLOCKS: u32 = 1 << 16;

impl Flat {
    pub(super) fn new(steps: &Steps<u32, u16>) -> Self {
        let (mut runs, mut first) = (Vec::with_capacity(steps.starts.len() + BLOCKS as usize), 0);
        let index = (0..BLOCKS).map(|block| {
            let start = block << 16;
            let begins = |row: usize| steps.starts.get(row).copied();
            // The step that the block before ended with goes on, or another one begins here.
            first += usize::from(begins(first + 1) == Some(start));
            let others = steps.starts.get(first + 1..).unwrap_or_default();
            let count = others.iter().take_while(|next| **next <= start | 0xffff).count();
            let value = steps.value(first).unwrap_or(0);
            if count == 0 {
                let (before, behind) = steps.bounds(first);
                let prefix = u32::from(widest(start, before, behind));
                return WHOLE | prefix << 16 | u32::from(value);
            }
            let row = u32::try_from(runs.len()).unwrap_or(0);
            runs.extend([u32::try_from(count + 1).unwrap_or(0), u32::from(value)]);
            let values = steps.values.get(first + 1..).unwrap_or_default();
            let others = others.iter().zip(values).take(count);
            runs.extend(others.map(|(begins, value)| begins << 16 | u32::from(*value)));
            first += count;
            row
        });
        let index = index.collect();
        Self { index, runs: runs.into() }
    }

    /// The first step to the value at `key`.
    #[inline]
    pub(super) fn seek(&self, key: u32) {
        prefetch(&self.index, (key >> 16) as usize);
    }

    /// The second: what the index has for it.
    #[inline]
    pub(super) fn near(&self, key: u32) -> u32 {
        let at = self.index.get((key >> 16) as usize).copied().unwrap_or(WHOLE);
        if at & WHOLE == 0 {
            prefetch(&self.runs, at as usize);
        }
        at
    }

    /// The last: the value at `key`, of whose block this was found, and the length of the widest
    /// prefix around it that has no other.
    pub(super) fn find(&self, key: u32, at: u32) -> (u16, u8) {
        if at & WHOLE != 0 {
            return (low(at), low(at >> 16 & 0x1f).to_le_bytes()[0]);
        }
        let runs = self.block(at);
        let row = row(runs, key & 0xffff);
        let address = |run: &u32| key & 0xffff_0000 | run >> 16;
        // What is outside the block shares less with the key than what is within.
        let first = runs.get(row).filter(|_| row > 0).map(address);
        let behind = runs.get(row + 1).map(address);
        (low(runs.get(row).copied().unwrap_or(0)), widest(key, first, behind))
    }

    /// The runs of the block for which the index has `at`.
    fn block(&self, at: u32) -> &[u32] {
        let counted = self.runs.get(at as usize..).and_then(<[u32]>::split_first);
        counted.and_then(|(count, runs)| runs.get(..*count as usize)).unwrap_or_default()
    }
}

/// The row of the run that holds the lower 16 bits of a key. A few that are together in memory are
/// sooner counted than searched, where each step waits for the one before.
fn row(runs: &[u32], key: u32) -> usize {
    let (mut passed, mut rest) = (0, runs);
    while rest.len() > FEW {
        let (before, behind) = rest.split_at(rest.len() / 2);
        if behind.first().is_some_and(|run| run >> 16 <= key) {
            (passed, rest) = (passed + before.len(), behind);
        } else {
            rest = before;
        }
    }
    let begun = rest.iter().filter(|run| **run >> 16 <= key).count();
    (passed + begun).saturating_sub(1)
}

/// As many runs as a cache line has.
const FEW: usize = 16;

/// The lower 16 bits.
#[expect(clippy::cast_possible_truncation, reason = "the lower 16 bits are meant")]
fn low(bits: u32) -> u16 {
    bits as u16
}
