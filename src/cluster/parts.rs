//! What is too long for one message is told in parts: of a packet that is sent in fragments some
//! networks lose all but the first, and whatever is told after it would wait for ever.
//!
//! Under the key itself is said how many parts there are, and a hash of the whole; the parts are
//! said before it, under keys of their own, so that all of them are there when it comes.

use std::collections::BTreeMap;

use super::wire;
use crate::rng::fnv1a;

/// Begins what stands for parts, and the number of one in its key. No key or value has it.
const MARK: char = '\n';

/// What is said under `key` for this `value`, and the parts before it, if it is too long.
pub(super) fn cut(key: &str, value: String) -> (String, Vec<String>) {
    let room = wire::room(key);
    if value.len() <= room {
        return (value, Vec::new());
    }
    let mut parts = vec![String::new()];
    for letter in value.chars() {
        match parts.last_mut() {
            Some(part) if part.len() + letter.len_utf8() <= room => part.push(letter),
            _ => parts.push(letter.into()),
        }
    }
    (format!("{MARK}{} {:x}", parts.len(), fnv1a(value.as_bytes())), parts)
}

/// The key of a part.
pub(super) fn key_of(key: &str, row: usize) -> String {
    format!("{key}{MARK}{row}")
}

/// The parts that were heard of one node.
#[derive(Debug, Default)]
pub(super) struct Parts(BTreeMap<String, String>);

impl Parts {
    /// What is said by an entry and the parts before it; `None`: it is one of these.
    pub(super) fn join(
        &mut self,
        key: String,
        value: Option<String>,
    ) -> Option<(String, Option<String>)> {
        if key.contains(MARK) {
            match value {
                Some(value) => self.0.insert(key, value),
                None => self.0.remove(&key),
            };
            return None;
        }
        let value = value.and_then(|value| match value.strip_prefix(MARK) {
            Some(told) => self.whole(&key, told),
            None => Some(value),
        });
        Some((key, value))
    }

    fn whole(&self, key: &str, told: &str) -> Option<String> {
        let (count, hash) = told.split_once(' ')?;
        let parts = (0..count.parse().ok()?).map(|row| self.0.get(&key_of(key, row)));
        // It ends at the first that is not there.
        let whole = parts.map(|part| part.map(String::as_str)).collect::<Option<String>>()?;
        (format!("{:x}", fnv1a(whole.as_bytes())) == hash).then_some(whole)
    }
}
