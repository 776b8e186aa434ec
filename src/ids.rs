//! Small integer ids: what the decision code handles instead of names.
//!
//! Names live in the configuration and in what people read. An id is an index into a table that
//! belongs to one configuration generation, except [`TargetId`], which outlives reloads so that
//! what was learnt about a target does too.

use std::fmt;

macro_rules! id {
    ($(#[$doc:meta])* $name:ident($int:ty)) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
        pub struct $name($int);

        impl $name {
            /// The id of the `index`th row, or `None` when no such id can exist.
            pub fn from_index(index: usize) -> Option<Self> {
                <$int>::try_from(index).ok().map(Self)
            }

            /// The row of this id in its table.
            pub fn index(self) -> usize {
                self.0 as usize
            }
        }
    };
}

id!(
    /// A region: a place that takes traffic. At most [`RegionSet::CAPACITY`] of them.
    RegionId(u8)
);
id!(
    /// A service: names that are steered together.
    ServiceId(u32)
);
id!(
    /// A node of the cluster, by its place in the list of all.
    NodeId(u8)
);
id!(
    /// A probe target: one address probed in one way, shared by all endpoints that ask for it.
    TargetId(u32)
);

/// A set of regions.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct RegionSet(u64);

impl RegionSet {
    /// How many regions one configuration can have.
    pub const CAPACITY: usize = 64;
    /// No region.
    pub const EMPTY: Self = Self(0);

    /// Is `region` in the set?
    pub fn contains(self, region: RegionId) -> bool {
        self.0 & Self::bit(region) != 0
    }

    /// The set with `region` in it.
    #[must_use]
    pub fn with(self, region: RegionId) -> Self {
        Self(self.0 | Self::bit(region))
    }

    /// The set with `region` not in it.
    #[must_use]
    pub fn without(self, region: RegionId) -> Self {
        Self(self.0 & !Self::bit(region))
    }

    /// Is nothing in the set?
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// How many regions are in the set.
    pub fn len(self) -> usize {
        self.0.count_ones() as usize
    }

    /// How many regions of the set come before `region`.
    pub fn rank(self, region: RegionId) -> usize {
        let before = Self::bit(region).wrapping_sub(1);
        // As a rule all of them: and counting takes its time.
        if self.0 & before == before {
            before.trailing_ones() as usize
        } else {
            (self.0 & before).count_ones() as usize
        }
    }

    /// The regions, by ascending id.
    pub fn iter(self) -> impl Iterator<Item = RegionId> {
        let mut rest = self.0;
        std::iter::from_fn(move || {
            let next = (rest != 0).then_some(RegionId((rest.trailing_zeros() & 63) as u8));
            rest &= rest.wrapping_sub(1);
            next
        })
    }

    /// Ids are below `CAPACITY` (the configuration sees to it); one above it is in no set.
    fn bit(region: RegionId) -> u64 {
        1u64.checked_shl(u32::from(region.0)).unwrap_or(0)
    }
}

impl FromIterator<RegionId> for RegionSet {
    fn from_iter<I: IntoIterator<Item = RegionId>>(regions: I) -> Self {
        regions.into_iter().fold(Self::EMPTY, Self::with)
    }
}

impl fmt::Debug for RegionSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.iter().map(RegionId::index)).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_region_set_holds_what_was_put_in_and_nothing_else() {
        let ids: Vec<RegionId> = [0, 5, 63].into_iter().filter_map(RegionId::from_index).collect();
        let set: RegionSet = ids.iter().copied().collect();
        assert_eq!(set.iter().collect::<Vec<_>>(), ids);
        assert_eq!(set.without(ids[1]).len(), 2);
        let ranks = |set: RegionSet| ids.iter().map(|id| set.rank(*id)).collect::<Vec<_>>();
        assert_eq!(ranks(set), [0, 1, 2]);
        assert_eq!(ranks(RegionSet(u64::MAX)), [0, 5, 63]);
        let beyond = RegionId::from_index(64).map(|id| set.with(id));
        assert_eq!(beyond, Some(set));
    }
}
