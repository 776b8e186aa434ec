//! Networks as steps: where a value begins. The next step is where it ends.
//!
//! IPv4 addresses are keys of 32 bits. Of IPv6 addresses the upper 64 bits are: a /64 is one link
//! (RFC 4291 §2.5.4), so whoever shares one is in one place.

use std::hash::Hash;
use std::iter;
use std::net::{IpAddr, Ipv6Addr};

use ipnet::IpNet;

/// The part of an address that networks are made of.
pub(super) trait Key: Copy + Ord + Hash {
    /// The lowest key.
    const FIRST: Self;

    /// The key after this one; `None` behind the last.
    fn next(self) -> Option<Self>;

    /// The key before this one; `None` before the first.
    fn previous(self) -> Option<Self>;

    /// How many leading bits two keys share.
    fn shared_bits(self, other: Self) -> u8;

    /// How far it is up to `behind`, which may be the first key again, behind the last.
    fn length_to(self, behind: Self) -> Self;

    /// The key this far up; behind the last the first again.
    fn ahead(self, length: Self) -> Self;
}

macro_rules! key {
    ($int:ty) => {
        impl Key for $int {
            const FIRST: Self = 0;

            fn next(self) -> Option<Self> {
                self.checked_add(1)
            }

            fn previous(self) -> Option<Self> {
                self.checked_sub(1)
            }

            #[expect(clippy::cast_possible_truncation, reason = "at most 64")]
            fn shared_bits(self, other: Self) -> u8 {
                (self ^ other).leading_zeros() as u8
            }

            fn length_to(self, behind: Self) -> Self {
                behind.wrapping_sub(self)
            }

            fn ahead(self, length: Self) -> Self {
                self.wrapping_add(length)
            }
        }
    };
}

key!(u32);
key!(u64);

/// The key of an IPv6 address.
pub(super) fn key_v6(ip: Ipv6Addr) -> u64 {
    u64::try_from(u128::from(ip) >> 64).unwrap_or(0)
}

/// Where a step begins and where the next one does; `None` for an open end.
pub(super) type Bounds<K> = (Option<K>, Option<K>);

/// A value for every key: each step holds from its key to the next step's. The first step is at
/// the first key, and neighbours differ.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Steps<K, V> {
    pub(super) starts: Vec<K>,
    pub(super) values: Vec<V>,
}

impl<K: Key, V: Copy + PartialEq> Steps<K, V> {
    /// The same value everywhere.
    pub(super) fn all(value: V) -> Self {
        Self { starts: vec![K::FIRST], values: vec![value] }
    }

    /// The networks of `spans`, the narrower over the wider, over `elsewhere`. Networks are nested
    /// or apart. Of equal ones the last counts.
    pub(super) fn of_networks(mut spans: Vec<(K, K, V)>, elsewhere: V) -> Self {
        spans.sort_by(|(a, a_last, _), (b, b_last, _)| a.cmp(b).then(b_last.cmp(a_last)));
        let mut steps = Self::all(elsewhere);
        // The networks around the place that has been reached, the widest first.
        let mut around: Vec<(K, V)> = Vec::new();
        for (first, last, value) in spans {
            steps.close(&mut around, elsewhere, Some(first));
            steps.push(first, value);
            around.push((last, value));
        }
        steps.close(&mut around, elsewhere, None);
        steps
    }

    /// Ends the networks that end before `until`.
    fn close(&mut self, around: &mut Vec<(K, V)>, elsewhere: V, until: Option<K>) {
        while let Some((last, _)) = around.last().copied() {
            if until.is_some_and(|until| until <= last) {
                return;
            }
            around.pop();
            let behind = around.last().map_or(elsewhere, |(_, value)| *value);
            if let Some(after) = last.next() {
                self.push(after, behind);
            }
        }
    }

    /// From `start` on, the value is `value`. Starts come in ascending order; of several at one
    /// key the last counts.
    pub(super) fn push(&mut self, start: K, value: V) {
        if self.starts.last() == Some(&start) {
            self.starts.pop();
            self.values.pop();
        }
        if self.values.last() != Some(&value) {
            self.starts.push(start);
            self.values.push(value);
        }
    }

    /// More steps, each with another value than the one before.
    fn extend(&mut self, steps: &[(K, V)]) {
        self.starts.extend(steps.iter().map(|(start, _)| *start));
        self.values.extend(steps.iter().map(|(_, value)| *value));
    }

    /// Each step's start and value, in ascending order.
    pub(super) fn iter(&self) -> impl Iterator<Item = (K, V)> {
        self.starts.iter().copied().zip(self.values.iter().copied())
    }

    /// The value of the step in `row`.
    pub(super) fn value(&self, row: usize) -> Option<V> {
        self.values.get(row).copied()
    }

    /// Where the step in `row` lies.
    pub(super) fn bounds(&self, row: usize) -> Bounds<K> {
        let first = self.starts.get(row).copied().filter(|first| *first > K::FIRST);
        let behind = self.starts.get(row + 1).copied();
        (first, behind)
    }
}

impl<K: Key, V: Copy + PartialEq> FromIterator<(K, V)> for Steps<K, V> {
    /// Starts come in ascending order, the first key first; neighbours with one value are one.
    fn from_iter<I: IntoIterator<Item = (K, V)>>(steps: I) -> Self {
        let mut all = Self { starts: Vec::new(), values: Vec::new() };
        let mut steps = steps.into_iter();
        let Some(first) = steps.next() else { return all };
        all.push(first.0, first.1);
        // Millions go by, and no processor foresees which of them stay: so each is written down,
        // and the next one over it if it does not stay.
        let (mut some, mut kept, mut last) = ([first; 256], 0, first.1);
        for (start, value) in steps {
            if let Some(next) = some.get_mut(kept) {
                *next = (start, value);
            }
            kept += usize::from(value != last);
            last = value;
            if kept == some.len() {
                all.extend(&some);
                kept = 0;
            }
        }
        all.extend(some.get(..kept).unwrap_or_default());
        all
    }
}

/// A value for some networks, in each family. An IPv6 network within one /64 is that /64.
pub(super) struct Spans<V> {
    pub(super) v4: Steps<u32, Option<V>>,
    pub(super) v6: Steps<u64, Option<V>>,
}

impl<V: Copy + PartialEq> Spans<V> {
    /// The narrower networks over the wider; of equal ones the last counts.
    pub(super) fn new(networks: impl Iterator<Item = (IpNet, V)>) -> Self {
        let (mut v4, mut v6) = (Vec::new(), Vec::new());
        for (network, value) in networks {
            match (network.network(), network.broadcast()) {
                (IpAddr::V4(first), IpAddr::V4(last)) => {
                    v4.push((first.into(), last.into(), Some(value)));
                }
                (IpAddr::V6(first), IpAddr::V6(last)) => {
                    v6.push((key_v6(first), key_v6(last), Some(value)));
                }
                // A network has both its ends in one family.
                _ => {}
            }
        }
        Self { v4: Steps::of_networks(v4, None), v6: Steps::of_networks(v6, None) }
    }
}

/// Where a step of `ours` or of `theirs` begins, and the values of both from there on. Both begin
/// at the first key, and go on in ascending order.
pub(super) fn both<K: Key, V: Copy, W: Copy>(
    ours: impl Iterator<Item = (K, V)>,
    theirs: impl Iterator<Item = (K, W)>,
) -> impl Iterator<Item = (K, V, W)> {
    let (mut ours, mut theirs) = (ours.peekable(), theirs.peekable());
    let (mut left, mut right) = (None, None);
    iter::from_fn(move || {
        let starts = [ours.peek().map(|(start, _)| *start), theirs.peek().map(|(start, _)| *start)];
        let start = starts.into_iter().flatten().min()?;
        left = ours.next_if(|(at, _)| *at == start).map(|(_, value)| value).or(left);
        right = theirs.next_if(|(at, _)| *at == start).map(|(_, value)| value).or(right);
        Some((start, left?, right?))
    })
}

/// The length of the widest network around `key` in which nothing from `first` on, nor up to
/// before `behind`, is left: 1 more than what `key` shares with either neighbour outside.
pub(super) fn widest<K: Key>(key: K, first: Option<K>, behind: Option<K>) -> u8 {
    let beside = |neighbour: Option<K>| neighbour.map_or(0, |of| key.shared_bits(of) + 1);
    beside(first.and_then(K::previous)).max(beside(behind))
}
