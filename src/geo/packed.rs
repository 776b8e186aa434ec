//! Steps as they are kept for long: two octets each, to be walked through from the first on.
//!
//! Networks have few lengths, and most of a place's are alike: a million steps have some ten
//! thousand distinct pairs of length and value. So a step is the row of its pair, and begins where
//! the one before it ends. Every 256 steps it is noted where that is, for who looks up one key.

use std::collections::HashMap;
use std::iter;
use std::mem;

use foldhash::fast::RandomState;

use super::networks::{Bounds, Key};

/// A value for every key.
#[derive(Debug)]
pub(super) struct Packed<K> {
    /// The distinct lengths and values of steps, as they were first met.
    pairs: Box<[(K, u32)]>,
    /// Of each step the row of its pair: below 2¹⁵ in one unit, else in two, the upper one first
    /// and marked with [`LONG`].
    units: Box<[u16]>,
    /// Of every so many steps the start, and its place in `units`.
    marks: Box<[(K, u32)]>,
}

/// One more unit follows.
const LONG: u16 = 1 << 15;

/// How many steps are between two marks.
const MARKED: usize = 256;

impl<K: Key> Packed<K> {
    /// Each step's start and value, in ascending order.
    pub(super) fn iter(&self) -> impl Iterator<Item = (K, u32)> {
        self.iter_from((K::FIRST, 0))
    }

    /// Each step's start and what `of` makes of its value, in ascending order. It is asked once for
    /// each distinct pair, as these are few.
    pub(super) fn map<V: Copy>(&self, of: impl Fn(u32) -> V) -> impl Iterator<Item = (K, V)> {
        let pairs = self.pairs.iter().map(|(length, value)| (*length, of(*value)));
        let pairs: Vec<(K, V)> = pairs.collect();
        walk(K::FIRST, &self.units, move |row| pairs.get(row).copied())
    }

    /// The value at `key`, if there is any step.
    pub(super) fn get(&self, key: K) -> Option<u32> {
        self.find(key).map(|(value, _)| value)
    }

    /// The value at `key`, and where its step lies.
    pub(super) fn find(&self, key: K) -> Option<(u32, Bounds<K>)> {
        let mark = self.marks.partition_point(|(start, _)| *start <= key).saturating_sub(1);
        let mut steps = self.iter_from(*self.marks.get(mark)?).peekable();
        let (mut first, mut value) = steps.next()?;
        while let Some(step) = steps.next_if(|(start, _)| *start <= key) {
            (first, value) = step;
        }
        let behind = steps.peek().map(|(start, _)| *start);
        Some((value, (Some(first).filter(|first| *first > K::FIRST), behind)))
    }

    /// From a mark on.
    fn iter_from(&self, (start, unit): (K, u32)) -> impl Iterator<Item = (K, u32)> {
        let units = self.units.get(unit as usize..).unwrap_or_default();
        walk(start, units, |row| self.pairs.get(row).copied())
    }
}

/// Steps from `start` on: `pair` has the length and the value for each row that `units` name.
fn walk<K: Key, V>(
    mut start: K,
    units: &[u16],
    pair: impl Fn(usize) -> Option<(K, V)>,
) -> impl Iterator<Item = (K, V)> {
    let mut units = units.iter().copied();
    iter::from_fn(move || {
        let unit = units.next()?;
        let row = match unit & LONG {
            0 => usize::from(unit),
            _ => usize::from(unit ^ LONG) << 16 | usize::from(units.next()?),
        };
        let (length, value) = pair(row)?;
        let behind = start.ahead(length);
        Some((mem::replace(&mut start, behind), value))
    })
}

impl<K: Key> FromIterator<(K, u32)> for Packed<K> {
    /// Starts come in ascending order; neighbours with one value are one. Before the first start
    /// the value is 0.
    fn from_iter<I: IntoIterator<Item = (K, u32)>>(steps: I) -> Self {
        let mut packing = Packing::all(0);
        steps.into_iter().for_each(|(start, value)| packing.push(start, value));
        packing.finish()
    }
}

/// Steps that are being packed.
pub(super) struct Packing<K> {
    pairs: Vec<(K, u32)>,
    rows: HashMap<(K, u32), u32, RandomState>,
    units: Vec<u16>,
    marks: Vec<(K, u32)>,
    steps: usize,
    /// The last step that stays, once there is one.
    open: Option<(K, u32)>,
    /// What was pushed last, which may not stay.
    latest: (K, u32),
}

impl<K: Key> Packing<K> {
    /// The same value everywhere.
    pub(super) fn all(value: u32) -> Self {
        Self {
            pairs: Vec::new(),
            rows: HashMap::default(),
            units: Vec::new(),
            marks: Vec::new(),
            steps: 0,
            open: None,
            latest: (K::FIRST, value),
        }
    }

    /// From `start` on, the value is `value`. Starts come in ascending order; of several at one
    /// key the last counts.
    pub(super) fn push(&mut self, start: K, value: u32) {
        let latest = mem::replace(&mut self.latest, (start, value));
        if latest.0 != start {
            self.settle(latest);
        }
    }

    pub(super) fn finish(mut self) -> Packed<K> {
        self.settle(self.latest);
        // The last step goes on to the first key again, as integers do that overflow.
        self.close(K::FIRST);
        Packed { pairs: self.pairs.into(), units: self.units.into(), marks: self.marks.into() }
    }

    /// This step stays, unless it goes on with the value before it.
    fn settle(&mut self, (start, value): (K, u32)) {
        if self.open.is_none_or(|(_, before)| before != value) {
            self.close(start);
            self.open = Some((start, value));
        }
    }

    /// The open step ends before `behind`.
    fn close(&mut self, behind: K) {
        let Some((start, value)) = self.open else { return };
        // There are no more pairs than steps, nor many more units: networks are counted in 32 bits.
        let count = |length: usize| u32::try_from(length).unwrap_or(u32::MAX);
        if self.steps.is_multiple_of(MARKED) {
            self.marks.push((start, count(self.units.len())));
        }
        self.steps += 1;
        let pair = (start.length_to(behind), value);
        let pairs = &mut self.pairs;
        let row = *self.rows.entry(pair).or_insert_with(|| {
            pairs.push(pair);
            count(pairs.len() - 1)
        });
        let [upper, lower] = [row >> 16, row & 0xffff].map(|half| u16::try_from(half).unwrap_or(0));
        if row >= u32::from(LONG) {
            self.units.push(LONG | upper);
        }
        self.units.push(lower);
    }
}
