//! What the nodes tell each other. Sans-IO: datagrams in, datagrams out.
//!
//! ```text
//! set(key, value) → poll_transmit → (sealed, sent) ~~~ (received, opened) → handle → poll_heard
//! ```
//!
//! Every node tells every other what it says itself, and nothing at second hand: a cluster of name
//! servers has few nodes, all of them named in the configuration. What a node says is a map whose
//! every change has a number: those of writers one of their own, so that they never wait for all
//! else that there is to tell. A message carries the changes after the one that its receiver last
//! confirmed, so that whatever is lost is told again, and what arrives twice changes nothing.
//!
//! A node has an *incarnation*, new and higher with every start. A message counts only if it names
//! the incarnation of its receiver: one that was recorded before the receiver started is refused
//! without anybody's clock.
//!
//! That a node hears what others say is one thing ([`Gossip::fresh`]), that it would have heard of
//! another writer is more ([`Gossip::fresh_until`]): each message tells when it was sent, and when
//! the last one was that came the other way.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use crate::ids::NodeId;
use crate::time::Instant;

use kinds::Said;
pub use kinds::{Each, Kind, WRITER};
pub use list::{Assent, List, Lists};
use parts::Parts;
pub use stamp::{Stamp, standing};
pub use wire::{Entry, LONGEST_PART, Message};

mod kinds;
mod list;
mod parts;
mod stamp;
#[cfg(test)]
mod tests;
mod wire;

/// How often each node tells each other that it is there.
pub const HEARTBEAT: Duration = Duration::from_millis(100);

/// What a node said counts for so long after it was last heard: twenty heartbeats, which no burst
/// of loss on a working path takes away.
pub const FRESH: Duration = Duration::from_secs(2);

/// How much longer enough nodes must be heard to tell of it: each time is another answer.
pub const LONGER: Duration = Duration::from_millis(500);

/// News is told at once, but not more often than this.
const AT_ONCE: Duration = Duration::from_millis(5);

/// Something that was heard.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Heard {
    /// A node says something else than before; nothing: it says no more of this.
    Entry(NodeId, String, Option<String>),
    /// A node has started anew: what it said before counts no more.
    Anew(NodeId),
}

/// What this node tells, and what it hears.
#[derive(Debug)]
pub struct Gossip {
    incarnation: u64,
    /// The list of nodes that it goes by.
    list: List,
    /// What this node says.
    said: Each<Said>,
    peers: BTreeMap<NodeId, Peer>,
    heard: VecDeque<Heard>,
}

/// Another node, as far as it is known.
#[derive(Debug, Default)]
struct Peer {
    incarnation: u64,
    /// By which list of nodes it goes, and how far it is with that.
    list: u64,
    assent: Assent,
    /// The number of its last change of each kind that is known here.
    applied: Each<u64>,
    entries: BTreeSet<String>,
    parts: Parts,
    /// The number of this node's last change of each kind that it has confirmed.
    confirmed: Each<u64>,
    /// When it last said something that counted.
    last_heard: Option<Instant>,
    /// When its last message that was heard here was sent, by its clock.
    sent: u64,
    /// What it said of writers until then, by this node's clock, is known here.
    known: Option<Instant>,
    last_told: Option<Instant>,
    /// It is owed an answer, or there is news for it.
    is_due: bool,
}

impl Peer {
    fn has_agreed(&self) -> bool {
        self.assent == Assent::Agreed
    }
}

impl Gossip {
    /// A node that has just started, among these others. `incarnation` is higher than that of any
    /// start before.
    pub fn new(incarnation: u64, others: impl IntoIterator<Item = NodeId>) -> Self {
        Self {
            incarnation,
            list: List::default(),
            said: Each::default(),
            peers: others.into_iter().map(|node| (node, Peer::default())).collect(),
            heard: VecDeque::new(),
        }
    }

    /// The same, going by this list of nodes.
    #[must_use]
    pub fn by(self, list: List) -> Self {
        Self { list, ..self }
    }

    /// Speaks as one that has started again in this incarnation, and says what it said before.
    pub fn renew(&mut self, incarnation: u64) {
        self.incarnation = incarnation;
        for peer in self.peers.values_mut() {
            peer.confirmed = Each::default();
            peer.is_due = true;
        }
    }

    /// From now on this node says `value` under `key`, or nothing.
    pub fn set(&mut self, key: String, value: Option<String>) {
        if self.said.of_mut(Kind::of(&key)).set(key, value) {
            self.peers.values_mut().for_each(|peer| peer.is_due = true);
        }
    }

    /// A message of `from` has arrived, which the seal says it has written in this incarnation.
    pub fn handle(&mut self, now: Instant, from: NodeId, incarnation: u64, message: Message) {
        let Some(peer) = self.peers.get_mut(&from) else { return };
        if incarnation < peer.incarnation {
            return;
        }
        if incarnation > peer.incarnation {
            // Even if this was recorded: the node has started since what is known of it.
            if !peer.entries.is_empty() {
                self.heard.push_back(Heard::Anew(from));
            }
            *peer = Peer { incarnation, is_due: true, ..Peer::default() };
        }
        if message.to != self.incarnation {
            // It does not know yet with whom it speaks; the answer tells it.
            peer.is_due = true;
            return;
        }
        peer.last_heard = Some(now);
        peer.sent = peer.sent.max(message.sent);
        peer.list = message.list;
        // In one incarnation it goes further and never back.
        peer.assent = peer.assent.max(message.assent);
        for kind in Kind::ALL {
            let confirmed = (*message.confirms.of(kind)).min(self.said.of(kind).newest);
            let known = peer.confirmed.of_mut(kind);
            *known = confirmed.max(*known);
        }
        let (writers, heard) = (message.writers, Instant::from_nanos(message.heard).min(now));
        // Or else something before this was lost: it will be told again.
        if message.after <= *peer.applied.of(message.kind) {
            peer.apply(from, message, &mut self.heard);
        }
        if peer.applied.writers >= writers && heard > Instant::default() {
            peer.known = peer.known.max(Some(heard));
        }
        self.forget();
        self.agree();
    }

    /// Forgets what was withdrawn and everybody knows to be.
    fn forget(&mut self) {
        for kind in Kind::ALL {
            let known = self.peers.values().map(|peer| *peer.confirmed.of(kind)).min();
            self.said.of_mut(kind).forget(known.unwrap_or_default());
        }
    }

    /// Looks whether the list of nodes is agreed by now.
    fn agree(&mut self) {
        if !self.list.is_agreed {
            let same = Assent::ALL.map(|assent| self.same(|peer| peer.assent == assent));
            self.list.agree(self.peers.len(), &same);
        }
    }

    /// Those of the nodes that go by the same list, and of which all is known that they say of
    /// writers.
    fn same(&self, counts: impl Fn(&Peer) -> bool) -> BTreeSet<NodeId> {
        let is_same = |peer: &Peer| peer.list == self.list.hash && peer.known.is_some();
        let same = self.peers.iter().filter(|(_, peer)| is_same(peer) && counts(peer));
        same.map(|(node, _)| *node).collect()
    }

    /// What is known of the nodes' lists at `now`.
    pub fn lists(&self, now: Instant) -> Lists {
        let is_agreed = self.list.is_agreed;
        let counting = if is_agreed { self.same(Peer::has_agreed) } else { BTreeSet::new() };
        let differs =
            |node: &NodeId| self.peers.get(node).is_some_and(|of| of.list != self.list.hash);
        let differing = self.fresh(now).into_iter().filter(differs).collect();
        Lists { is_agreed, counting, differing }
    }

    /// The next message to send, and to whom.
    pub fn poll_transmit(&mut self, now: Instant) -> Option<(NodeId, Vec<Message>)> {
        let due = |peer: &Peer| now >= peer.next();
        let (node, peer) = self.peers.iter_mut().find(|(_, peer)| due(peer))?;
        peer.last_told = Some(now);
        peer.is_due = false;
        let mut messages = Vec::new();
        for kind in Kind::ALL {
            let mut head = Message::new(kind, peer.incarnation, peer.applied);
            (head.sent, head.heard) = (now.as_nanos(), peer.sent);
            head.writers = self.said.writers.newest;
            (head.list, head.assent) = (self.list.hash, self.list.assent());
            let (said, known) = (self.said.of(kind), *peer.confirmed.of(kind));
            let is_alone = kind == Kind::Rest && messages.is_empty();
            if known < said.newest || is_alone {
                messages.extend(said.tell(&head, known));
            }
        }
        Some((*node, messages))
    }

    /// The next thing that was heard.
    pub fn poll_heard(&mut self) -> Option<Heard> {
        self.heard.pop_front()
    }

    /// When to ask for a message next.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.peers.values().map(Peer::next).min()
    }

    /// The nodes whose words count at `now`.
    pub fn fresh(&self, now: Instant) -> BTreeSet<NodeId> {
        let is_fresh = |peer: &Peer| peer.last_heard.is_some_and(|at| now.since(at) < FRESH);
        self.peers.iter().filter(|(_, peer)| is_fresh(peer)).map(|(node, _)| *node).collect()
    }

    /// Until when this node surely goes by what at least so many others say of writers, should
    /// nothing more be heard: [`FRESH`] from the moment until which it knows that.
    ///
    /// A node counts from when it heard this one, by the message that told it so. Whatever it said
    /// before it sent that one is known, or it does not count. So, however long messages take:
    ///
    /// - What it says at a moment of a writer is followed here, or it counts no more [`FRESH`]
    ///   later: what it sent before cannot tell of anything that was sent later from here.
    /// - Who hears others and is not heard counts none of them. It may not name a writer.
    /// - After a start, or a cut, a node counts when all that it said of writers is here, and not
    ///   with the first piece of it.
    ///
    /// Each message tells it anew. On a working path the moment is two heartbeats and the way there
    /// and back ago, however much there is to say of other things. Those count that have agreed on
    /// this node's list ([`List`]); none, as long as this one has not.
    pub fn fresh_until(&self, nodes: usize) -> Option<Instant> {
        if !self.list.is_agreed {
            return None;
        }
        let counts = |of: &&Peer| of.has_agreed() && of.list == self.list.hash;
        let known = self.peers.values().filter(counts).filter_map(|of| of.known);
        let mut known: Vec<Instant> = known.collect();
        known.sort_unstable();
        let row = known.len().checked_sub(nodes)?;
        known.get(row).map(|at| *at + FRESH)
    }
}

impl Peer {
    /// Learns what it, which is `from`, says.
    fn apply(&mut self, from: NodeId, message: Message, heard: &mut VecDeque<Heard>) {
        let applied = self.applied.of_mut(message.kind);
        for entry in message.entries {
            if entry.change > *applied {
                match &entry.value {
                    Some(_) => self.entries.insert(entry.key.clone()),
                    None => self.entries.remove(&entry.key),
                };
                let told = self.parts.join(entry.key, entry.value);
                heard.extend(told.map(|(key, value)| Heard::Entry(from, key, value)));
            }
        }
        if message.upto > *applied {
            *applied = message.upto;
            self.is_due = true;
        }
    }

    /// When it is to be told something next.
    fn next(&self) -> Instant {
        let pause = if self.is_due { AT_ONCE } else { HEARTBEAT };
        self.last_told.map_or(Instant::default(), |at| at + pause)
    }
}
