//! Nodes by name, to be looked up step by step.
//!
//! What a look-up costs is waiting for memory, first for a slot of the table and then for what it
//! points to. Whoever has many names takes all of them through one step after the other: the
//! processor waits for several at the same time. What most names have is in one place with the
//! name itself, as it stands in an answer.

use std::hash::{BuildHasher, Hasher as _};
use std::ops::Range;
use std::sync::LazyLock;

use foldhash::fast::RandomState;

use super::lookup::Node;
use super::record::{Made, RecordType, RrSet};
use crate::ids::ServiceId;
use crate::prefetch::{LINE, prefetch};

/// Nodes, their names with what is [`Fixed`] there, and a table of these by hash, of which at most
/// half is full.
#[derive(Debug)]
pub(super) struct Nodes {
    /// 0: free; else the upper half of the hash, and in the lower half the entry's place in words
    /// and one: places for 32 GiB.
    slots: Box<[u64]>,
    /// One after the other, each from a word's boundary on: how many record sets are fixed
    /// ([`LOOSE`], [`STEERED`]: not all are), the length of the name, the name in lower case and
    /// wire format; the heads of the sets and their records, or the row in `nodes` and the service
    /// (four octets each).
    entries: Box<[u8]>,
    /// Those at which not all is fixed.
    nodes: Box<[Node]>,
    seed: RandomState,
}

/// Strangers choose what is looked up: no other process hashes as this one does.
static SEED: LazyLock<RandomState> = LazyLock::new(RandomState::default);

/// A name's hash, and what is in the first slot for it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sought {
    pub(super) hash: u64,
    slot: u64,
}

/// All the record sets of a name at which nothing else is: no service, no alias, no cut.
#[derive(Clone, Copy, Debug)]
pub struct Fixed<'n> {
    /// Of each its type, how many records it has, and their length.
    heads: &'n [u8],
    records: &'n [u8],
}

impl<'n> Fixed<'n> {
    /// The records of a type, if there are any.
    pub fn of(&self, rtype: RecordType) -> Option<Made<&'n [u8]>> {
        let mut records = self.records;
        for head in self.heads.chunks_exact(HEAD) {
            let [known, count, length] = [0, 2, 4].map(|at| {
                let field = head.get(at..).and_then(|field| field.first_chunk::<2>());
                field.map_or(0, |field| u16::from_be_bytes(*field))
            });
            let (set, behind) = records.split_at_checked(usize::from(length))?;
            if known == rtype.0 {
                return Some(Made::known(set, count));
            }
            records = behind;
        }
        None
    }

    /// Which types there are.
    pub fn types(&self) -> impl Iterator<Item = RecordType> + use<'n> {
        let heads = self.heads.chunks_exact(HEAD);
        heads.filter_map(|head| Some(RecordType(u16::from_be_bytes(*head.first_chunk::<2>()?))))
    }

    /// Is there no record at all?
    pub fn is_empty(&self) -> bool {
        self.heads.is_empty()
    }

    /// What no other name's has: where it is in memory.
    pub fn place(&self) -> usize {
        self.heads.as_ptr().addr()
    }
}

/// A name, and what is there.
#[derive(Clone, Copy, Debug)]
pub(super) struct Entry<'n> {
    pub(super) name: &'n [u8],
    pub(super) content: Content<'n>,
}

/// What is at a name.
#[derive(Clone, Copy, Debug)]
pub(super) enum Content<'n> {
    Fixed(Fixed<'n>),
    Node(&'n Node),
    /// One that is this service's, and no other zone's.
    Steered(&'n Node, ServiceId),
}

impl Nodes {
    /// A table of so many nodes by their names, which are all different, in lower case and wire
    /// format.
    pub(super) fn new<'n>(count: usize, rows: impl Iterator<Item = (&'n [u8], Node)>) -> Self {
        let mut slots: Box<[u64]> = vec![0; (count * 2).next_power_of_two().max(FEWEST)].into();
        let (mut entries, mut nodes, seed) = (Vec::new(), Vec::new(), SEED.clone());
        for (name, node) in rows.take(count) {
            let hash = hash(&seed, name);
            let mut at = hash;
            while slots.get(place(at, &slots)).is_some_and(|slot| *slot != 0) {
                at = at.wrapping_add(1);
            }
            if let Some(slot) = slots.get_mut(place(at, &slots)) {
                *slot = hash & UPPER | ((entries.len() / WORD) as u64 + 1) & !UPPER;
            }
            if !enter_fixed(&mut entries, name, &node) {
                let service = node.service().filter(|_| !node.is_cut && !node.is_below_cut);
                begin(&mut entries, if service.is_some() { STEERED } else { LOOSE }, name);
                for index in [nodes.len(), service.map_or(0, ServiceId::index)] {
                    let index = u32::try_from(index).unwrap_or(u32::MAX);
                    entries.extend_from_slice(&index.to_le_bytes());
                }
                nodes.push(node);
            }
            entries.resize(entries.len().next_multiple_of(WORD), 0);
        }
        Self { slots, entries: entries.into(), nodes: nodes.into(), seed }
    }

    /// Where in memory its tables are.
    pub(super) fn places(&self) -> [Range<usize>; 2] {
        let (slots, entries) = (self.slots.as_ptr_range(), self.entries.as_ptr_range());
        [slots.start.addr()..slots.end.addr(), entries.start.addr()..entries.end.addr()]
    }

    /// The first step to the node of `name`.
    pub(super) fn seek(&self, name: &[u8]) -> Sought {
        let hash = hash(&self.seed, name);
        prefetch(&self.slots, place(hash, &self.slots));
        Sought { hash, slot: 0 }
    }

    /// The second step, to be taken once.
    pub(super) fn approach(&self, sought: &mut Sought) {
        sought.slot = self.slot(sought.hash);
        if let Some(at) = offset(sought.slot) {
            // An entry with an address of each family goes on in the next line, as a rule.
            prefetch(&self.entries, at);
            prefetch(&self.entries, at + LINE);
        }
    }

    /// The last step.
    #[inline]
    pub(super) fn sought(&self, Sought { hash, slot }: Sought, name: &[u8]) -> Option<Entry<'_>> {
        if slot == 0 {
            return None;
        }
        // One way to the entry, wherever its slot is: what two ways find is brought together first.
        let is_it = self.is_of(slot, hash, name);
        self.entry(if is_it { slot } else { self.farther(hash, name)? })
    }

    /// The slot of a name whose place was another's.
    #[inline(never)]
    fn farther(&self, hash: u64, name: &[u8]) -> Option<u64> {
        let mut at = hash;
        loop {
            at = at.wrapping_add(1);
            let slot = self.slot(at);
            if slot == 0 {
                return None;
            }
            if self.is_of(slot, hash, name) {
                return Some(slot);
            }
        }
    }

    /// All steps at once.
    pub(super) fn get(&self, name: &[u8]) -> Option<Entry<'_>> {
        let mut sought = self.seek(name);
        self.approach(&mut sought);
        self.sought(sought, name)
    }

    /// Is a slot that of a name with this hash?
    #[inline]
    fn is_of(&self, slot: u64, hash: u64, name: &[u8]) -> bool {
        slot & UPPER == hash & UPPER && self.parts(slot).is_some_and(|(_, known, _)| known == name)
    }

    /// Of the entry of a slot how many sets it has, its name, and what is behind it.
    #[inline]
    fn parts(&self, slot: u64) -> Option<(u8, &[u8], &[u8])> {
        let ([sets, length], rest) = self.entries.get(offset(slot)?..)?.split_first_chunk::<2>()?;
        let (name, rest) = rest.split_at_checked(usize::from(*length))?;
        Some((*sets, name, rest))
    }

    #[inline]
    fn entry(&self, slot: u64) -> Option<Entry<'_>> {
        let (sets, name, rest) = self.parts(slot)?;
        let content = match sets {
            LOOSE => Content::Node(self.node(rest)?),
            STEERED => {
                let [_, _, _, _, service @ ..] = rest.first_chunk::<8>()?;
                let service = ServiceId::from_index(u32::from_le_bytes(*service) as usize)?;
                Content::Steered(self.node(rest)?, service)
            }
            sets => {
                let (heads, records) = rest.split_at_checked(usize::from(sets) * HEAD)?;
                Content::Fixed(Fixed { heads, records })
            }
        };
        Some(Entry { name, content })
    }

    /// The node whose row these octets begin with.
    #[inline]
    fn node(&self, row: &[u8]) -> Option<&Node> {
        self.nodes.get(u32::from_le_bytes(*row.first_chunk()?) as usize)
    }

    fn slot(&self, at: u64) -> u64 {
        self.slots.get(place(at, &self.slots)).copied().unwrap_or(0)
    }
}

fn hash(seed: &RandomState, name: &[u8]) -> u64 {
    let mut hasher = seed.build_hasher();
    hasher.write(name);
    hasher.finish()
}

/// Writes an entry behind the others, if all that is there is fixed.
fn enter_fixed(entries: &mut Vec<u8>, name: &[u8], node: &Node) -> bool {
    let before = entries.len();
    let is_fixed = node.has_only_records() && enter_sets(entries, name, node.sets()).is_some();
    if !is_fixed {
        entries.truncate(before);
    }
    is_fixed
}

/// Writes an entry, up to a set that cannot be fixed.
fn enter_sets(entries: &mut Vec<u8>, name: &[u8], sets: &[RrSet]) -> Option<()> {
    let count = u8::try_from(sets.len()).ok().filter(|count| *count < STEERED)?;
    begin(entries, count, name);
    let mut head = entries.len();
    entries.resize(head + sets.len() * HEAD, 0);
    for set in sets {
        let start = entries.len();
        let count = set.make(entries)?;
        let length = u16::try_from(entries.len() - start).ok()?;
        let fields = [set.rtype.0, count, length].map(u16::to_be_bytes);
        entries.get_mut(head..head + HEAD)?.copy_from_slice(fields.as_flattened());
        head += HEAD;
    }
    Some(())
}

/// Writes the beginning of an entry.
fn begin(entries: &mut Vec<u8>, sets: u8, name: &[u8]) {
    // A name has 255 octets at most.
    entries.extend([sets, u8::try_from(name.len()).unwrap_or(u8::MAX)]);
    entries.extend_from_slice(name);
}

/// Where the entry of a slot begins, if it has one.
#[inline]
fn offset(slot: u64) -> Option<usize> {
    Some(usize::try_from(slot & !UPPER).ok()?.checked_sub(1)? * WORD)
}

#[expect(clippy::cast_possible_truncation, reason = "lower bits are meant")]
fn place(at: u64, slots: &[u64]) -> usize {
    at as usize & (slots.len() - 1)
}

/// The fewest slots: with few names nearly every one is in its own place.
const FEWEST: usize = 64;

/// The half of a slot that is of the hash.
const UPPER: u64 = 0xffff_ffff_0000_0000;

/// Entries begin at a multiple of so many octets.
const WORD: usize = 8;

/// The octets of a set's head.
const HEAD: usize = 6;

/// In the place of a number of sets: there is a node.
const LOOSE: u8 = u8::MAX;

/// The same, and it is a service's.
const STEERED: u8 = LOOSE - 1;
