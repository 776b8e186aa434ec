//! What a node says of two kinds, each with numbers of its own, so that the one never waits for the
//! other: who writes is known at once, however much else there is to tell.

use std::collections::{BTreeMap, BTreeSet};

use super::parts;
use super::wire::{Entry, Message};

/// Under which keys nodes say who writes.
pub const WRITER: &str = "e/";

/// What something is said of.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// Who writes.
    Writers = 0,
    /// Everything else. There can be so much of it, and so often, that somebody is always behind.
    Rest = 1,
}

impl Kind {
    /// The more urgent first.
    pub const ALL: [Self; 2] = [Self::Writers, Self::Rest];

    /// That of which something is said under `key`.
    pub(super) fn of(key: &str) -> Self {
        if key.starts_with(WRITER) { Self::Writers } else { Self::Rest }
    }
}

/// One for each kind.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Each<T> {
    /// That of the writers.
    pub writers: T,
    /// That of everything else.
    pub rest: T,
}

impl<T> Each<T> {
    pub(super) fn of(&self, kind: Kind) -> &T {
        match kind {
            Kind::Writers => &self.writers,
            Kind::Rest => &self.rest,
        }
    }

    pub(super) fn of_mut(&mut self, kind: Kind) -> &mut T {
        match kind {
            Kind::Writers => &mut self.writers,
            Kind::Rest => &mut self.rest,
        }
    }
}

/// What this node says of a kind.
#[derive(Debug, Default)]
pub(super) struct Said {
    /// The value, and the number of its last change.
    own: BTreeMap<String, (u64, Option<String>)>,
    /// The key that each change was of, as far as it is the key's last.
    changes: BTreeMap<u64, String>,
    /// Those of them by which nothing more is said under the key.
    withdrawn: BTreeSet<u64>,
    pub(super) newest: u64,
}

/// Messages to one node at a time, when it has much to catch up with.
const BURST: usize = 16;

impl Said {
    /// From now on this is said; `false`: it was before.
    pub(super) fn set(&mut self, key: String, value: Option<String>) -> bool {
        let cut = value.map(|value| parts::cut(&key, value));
        let (value, parts) = cut.map_or((None, Vec::new()), |(value, parts)| (Some(value), parts));
        let count = parts.len();
        for (row, part) in parts.into_iter().enumerate() {
            self.set_one(parts::key_of(&key, row), Some(part));
        }
        // It had more of them before.
        let is_said = |of: &String| self.own.get(of).is_some_and(|(_, told)| told.is_some());
        let beyond = (count..).map(|row| parts::key_of(&key, row)).take_while(is_said);
        for of in beyond.collect::<Vec<_>>() {
            self.set_one(of, None);
        }
        self.set_one(key, value)
    }

    fn set_one(&mut self, key: String, value: Option<String>) -> bool {
        if self.own.get(&key).map(|(_, told)| told) == Some(&value)
            || (value.is_none() && !self.own.contains_key(&key))
        {
            return false;
        }
        self.newest += 1;
        self.changes.insert(self.newest, key.clone());
        if value.is_none() {
            self.withdrawn.insert(self.newest);
        }
        if let Some((before, _)) = self.own.insert(key, (self.newest, value)) {
            self.changes.remove(&before);
            self.withdrawn.remove(&before);
        }
        true
    }

    /// Everybody knows the changes up to this one: what was withdrawn is forgotten. Who starts anew
    /// has never heard of it.
    pub(super) fn forget(&mut self, known: u64) {
        while let Some(change) = self.withdrawn.first().copied().filter(|of| *of <= known) {
            self.withdrawn.remove(&change);
            if let Some(key) = self.changes.remove(&change) {
                self.own.remove(&key);
            }
        }
    }

    /// Under how many keys something is said, or was.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        assert_eq!(self.own.len(), self.changes.len());
        self.own.len()
    }

    /// The next messages with such a head to one who knows the changes up to this one.
    pub(super) fn tell(&self, head: &Message, known: u64) -> Vec<Message> {
        let mut messages = Vec::new();
        let mut after = known;
        for _ in 0..BURST {
            let mut message = head.after(after);
            let mut rest = self.changes.range(after + 1..);
            let is_full = rest.any(|(change, key)| {
                let value = self.own.get(key).and_then(|(_, value)| value.clone());
                !message.add(Entry { change: *change, key: key.clone(), value })
            });
            if !is_full {
                // Changes that no longer count are told by the number alone.
                message.upto = self.newest.max(after);
            }
            after = message.upto;
            messages.push(message);
            if after >= self.newest {
                break;
            }
        }
        messages
    }
}
