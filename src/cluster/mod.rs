//! What the nodes tell each other. Sans-IO: datagrams in, datagrams out.
//!
//! ```text
//! set(key, value) → poll_transmit → (sealed, sent) ~~~ (received, opened) → handle → poll_heard
//! ```
//!
//! Every node tells every other what it says itself, and nothing at second hand: a cluster of name
//! servers has few nodes, all of them named in the configuration. What a node says is a map whose
//! every change has a number. A message carries the changes after the one that its receiver last
//! confirmed, so that whatever is lost is told again, and what arrives twice changes nothing.
//!
//! A node has an *incarnation*, new and higher with every start. A message counts only if it names
//! the incarnation of its receiver: one that was recorded before the receiver started is refused
//! without anybody's clock.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use crate::ids::NodeId;
use crate::time::Instant;

pub use stamp::{Merged, Stamp, merge};
pub use wire::{Entry, Message};

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

/// Messages to one node at a time, when it has much to catch up with.
const BURST: usize = 16;

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
    /// What this node says: the value, and the number of its last change.
    own: BTreeMap<String, (u64, Option<String>)>,
    /// The key that each change was of, as far as it is the key's last.
    changes: BTreeMap<u64, String>,
    newest: u64,
    peers: BTreeMap<NodeId, Peer>,
    heard: VecDeque<Heard>,
}

/// Another node, as far as it is known.
#[derive(Debug, Default)]
struct Peer {
    incarnation: u64,
    /// The number of its last change that is known here.
    applied: u64,
    entries: BTreeSet<String>,
    /// The number of this node's last change that it has confirmed.
    confirmed: u64,
    /// When it last said something that counted.
    last_heard: Option<Instant>,
    last_told: Option<Instant>,
    /// It is owed an answer, or there is news for it.
    is_due: bool,
}

impl Gossip {
    /// A node that has just started, among these others. `incarnation` is higher than that of any
    /// start before.
    pub fn new(incarnation: u64, others: impl IntoIterator<Item = NodeId>) -> Self {
        Self {
            incarnation,
            own: BTreeMap::new(),
            changes: BTreeMap::new(),
            newest: 0,
            peers: others.into_iter().map(|node| (node, Peer::default())).collect(),
            heard: VecDeque::new(),
        }
    }

    /// Speaks as one that has started again in this incarnation, and says what it said before.
    pub fn renew(&mut self, incarnation: u64) {
        self.incarnation = incarnation;
        for peer in self.peers.values_mut() {
            peer.confirmed = 0;
            peer.is_due = true;
        }
    }

    /// From now on this node says `value` under `key`, or nothing.
    pub fn set(&mut self, key: String, value: Option<String>) {
        if self.own.get(&key).map(|(_, told)| told) == Some(&value)
            || (value.is_none() && !self.own.contains_key(&key))
        {
            return;
        }
        self.newest += 1;
        self.changes.insert(self.newest, key.clone());
        if let Some((before, _)) = self.own.insert(key, (self.newest, value)) {
            self.changes.remove(&before);
        }
        self.peers.values_mut().for_each(|peer| peer.is_due = true);
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
        peer.confirmed = peer.confirmed.max(message.confirms.min(self.newest));
        if message.after > peer.applied {
            // Something before this was lost: it will be told again.
            return;
        }
        for entry in message.entries {
            if entry.change > peer.applied {
                match &entry.value {
                    Some(_) => peer.entries.insert(entry.key.clone()),
                    None => peer.entries.remove(&entry.key),
                };
                self.heard.push_back(Heard::Entry(from, entry.key, entry.value));
            }
        }
        if message.upto > peer.applied {
            peer.applied = message.upto;
            peer.is_due = true;
        }
    }

    /// The next message to send, and to whom.
    pub fn poll_transmit(&mut self, now: Instant) -> Option<(NodeId, Vec<Message>)> {
        let due = |peer: &Peer| now >= peer.next();
        let (node, peer) = self.peers.iter_mut().find(|(_, peer)| due(peer))?;
        peer.last_told = Some(now);
        peer.is_due = false;
        let mut messages = Vec::new();
        let mut after = peer.confirmed;
        for _ in 0..BURST {
            let mut message = Message::new(peer.incarnation, peer.applied, after);
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

    /// Until when the words of at least so many nodes count, should nothing more be heard.
    pub fn fresh_until(&self, nodes: usize) -> Option<Instant> {
        let mut heard: Vec<Instant> = self.peers.values().filter_map(|of| of.last_heard).collect();
        heard.sort_unstable();
        let row = heard.len().checked_sub(nodes)?;
        heard.get(row).map(|at| *at + FRESH)
    }

    /// When each node was last heard.
    pub fn last_heard(&self) -> impl Iterator<Item = (NodeId, Option<Instant>)> {
        self.peers.iter().map(|(node, peer)| (*node, peer.last_heard))
    }
}

impl Peer {
    /// When it is to be told something next.
    fn next(&self) -> Instant {
        let pause = if self.is_due { AT_ONCE } else { HEARTBEAT };
        self.last_told.map_or(Instant::default(), |at| at + pause)
    }
}
