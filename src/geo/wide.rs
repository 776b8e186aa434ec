//! The steps of IPv6 as they are looked up: some five octets each.
//!
//! Steps that begin near each other are a block: up to 32 of them, each at most 65,535 units after
//! the block's first, in the widest unit that all of them are a multiple of.

use super::networks::{Bounds, Steps};

/// A value for every IPv6 address.
#[derive(Debug)]
pub(super) struct Wide {
    /// Where each block begins.
    starts: Box<[u64]>,
    /// Of each block the row of its first run, and its unit: 2 to the power of this.
    blocks: Box<[(u32, u8)]>,
    /// How many units after its block a step begins (16 bits), and its value (16).
    runs: Box<[u32]>,
}

/// So many steps are a block at most: what a search in it reads is two lines of the cache.
const MOST: usize = 32;

/// The widest unit: half of all there is.
const WIDEST: u8 = 63;

impl Wide {
    pub(super) fn new(steps: &Steps<u64, u16>) -> Self {
        let (mut starts, mut blocks) = (Vec::new(), Vec::new());
        let mut runs: Vec<u32> = Vec::with_capacity(steps.starts.len());
        let mut rest = steps.starts.as_slice();
        let mut values = steps.values.iter();
        while let Some(first) = rest.first() {
            let (length, unit) = block(rest);
            let (steps, behind) = rest.split_at(length);
            starts.push(*first);
            // Networks are counted in 32 bits.
            blocks.push((u32::try_from(runs.len()).unwrap_or(u32::MAX), unit));
            let run = |(start, value): (&u64, &u16)| {
                units(*first, *start, unit) << 16 | u32::from(*value)
            };
            runs.extend(steps.iter().zip(&mut values).map(run));
            rest = behind;
        }
        Self { starts: starts.into(), blocks: blocks.into(), runs: runs.into() }
    }

    /// The value at `key`, and where its step lies.
    pub(super) fn find(&self, key: u64) -> (u16, Bounds<u64>) {
        let block = self.starts.partition_point(|start| *start <= key).saturating_sub(1);
        let start = self.starts.get(block).copied().unwrap_or(0);
        let (from, unit) = self.blocks.get(block).copied().unwrap_or((0, 0));
        let to = self.blocks.get(block + 1).map_or(self.runs.len(), |(row, _)| *row as usize);
        let runs = self.runs.get(from as usize..to).unwrap_or_default();
        let reached = units(start, key, unit);
        let row = runs.partition_point(|run| run >> 16 <= reached).saturating_sub(1);
        let begins = |run: &u32| start + (u64::from(run >> 16) << unit);
        let first = runs.get(row).map(begins).filter(|first| *first > 0);
        let behind = runs.get(row + 1).map(begins).or(self.starts.get(block + 1).copied());
        let value = runs.get(row).map_or(0, |run| run & 0xffff);
        (u16::try_from(value).unwrap_or(0), (first, behind))
    }
}

/// How many units `key` is behind `start`, as far as a run counts them.
fn units(start: u64, key: u64, unit: u8) -> u32 {
    u32::from(u16::try_from(key.saturating_sub(start) >> unit).unwrap_or(u16::MAX))
}

/// How many of the steps that begin at `starts` are the first block, and its unit.
fn block(starts: &[u64]) -> (usize, u8) {
    let Some((first, others)) = starts.split_first() else { return (0, 0) };
    let mut unit = WIDEST;
    for (row, start) in (1..MOST).zip(others) {
        let finer = unit.min((start - first).trailing_zeros().to_le_bytes()[0]);
        if (start - first) >> finer > u64::from(u16::MAX) {
            return (row, unit);
        }
        unit = finer;
    }
    (starts.len().min(MOST), unit)
}
