//! Nodes by name, to be looked up in two steps.
//!
//! What a look-up costs is waiting for memory, first for a slot of the table and then for the
//! node. Whoever has many names seeks all of them, and then gets all of them: the processor waits
//! for several at the same time.

use std::hash::BuildHasher;

use foldhash::fast::RandomState;

use super::lookup::Node;

/// A name, in lower case and wire format, and what is there.
pub(super) type Row = (Box<[u8]>, Node);

/// Nodes, and a table of their rows by the hash of their names, of which at most half is full.
#[derive(Debug)]
pub(super) struct Nodes {
    /// 0: free; else the upper half of the hash, and in the lower half the row and one.
    slots: Box<[u64]>,
    rows: Vec<Row>,
    /// Strangers choose what is looked up.
    seed: RandomState,
}

/// A name's hash, and what is in the first slot for it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sought {
    hash: u64,
    slot: u64,
}

impl Nodes {
    /// A table of `rows`, whose names are all different.
    pub(super) fn new(rows: Vec<Row>) -> Self {
        let slots = vec![0; (rows.len() * 2).next_power_of_two()].into();
        let mut nodes = Self { slots, rows, seed: RandomState::default() };
        for row in 0..nodes.rows.len() {
            let Some((name, _)) = nodes.rows.get(row) else { break };
            let hash = nodes.seed.hash_one(&**name);
            let mut at = hash;
            while nodes.slot(at) != 0 {
                at = at.wrapping_add(1);
            }
            let place = nodes.place(at);
            if let Some(slot) = nodes.slots.get_mut(place) {
                *slot = hash & UPPER | (row as u64 + 1);
            }
        }
        nodes
    }

    /// The first step to the node of `name`.
    pub(super) fn seek(&self, name: &[u8]) -> Sought {
        let hash = self.seed.hash_one(name);
        Sought { hash, slot: self.slot(hash) }
    }

    /// The second step.
    pub(super) fn sought(&self, Sought { hash, mut slot }: Sought, name: &[u8]) -> Option<&Row> {
        let mut at = hash;
        while slot != 0 {
            if slot & UPPER == hash & UPPER
                && let Some(row) = self.row(slot).filter(|(known, _)| **known == *name)
            {
                return Some(row);
            }
            at = at.wrapping_add(1);
            slot = self.slot(at);
        }
        None
    }

    /// The row of `name`, in lower case and wire format.
    pub(super) fn get(&self, name: &[u8]) -> Option<&Row> {
        self.sought(self.seek(name), name)
    }

    /// All of them, in no order.
    pub(super) fn iter(&self) -> impl ExactSizeIterator<Item = &Node> {
        self.rows.iter().map(|(_, node)| node)
    }

    fn row(&self, slot: u64) -> Option<&Row> {
        self.rows.get(usize::try_from(slot & !UPPER).ok()?.checked_sub(1)?)
    }

    fn slot(&self, at: u64) -> u64 {
        self.slots.get(self.place(at)).copied().unwrap_or(0)
    }

    #[expect(clippy::cast_possible_truncation, reason = "lower bits are meant")]
    fn place(&self, at: u64) -> usize {
        at as usize & (self.slots.len() - 1)
    }
}

/// The half of a slot that is of the hash.
const UPPER: u64 = 0xffff_ffff_0000_0000;
