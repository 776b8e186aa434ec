//! Nodes that talk over a network that loses, repeats, reorders and records.

use std::collections::HashMap;

use proptest::prelude::*;

use super::*;
use crate::rng::{Seed, Stream};

const MS: Duration = Duration::from_millis(1);

fn node(row: usize) -> NodeId {
    NodeId::from_index(row).unwrap()
}

/// A node, with all that it has heard.
struct Member {
    gossip: Gossip,
    incarnation: u64,
    knows: HashMap<(NodeId, String), String>,
}

struct World {
    now: Instant,
    members: Vec<Member>,
    /// When a packet arrives, at whom, from whom in which incarnation, and what it holds.
    wire: Vec<(Instant, usize, usize, u64, Vec<u8>)>,
    dice: Stream,
    loss_percent: u64,
    /// So many packets take up to four seconds.
    late_percent: u64,
    /// Nothing passes from the first to the second.
    cuts: Vec<(usize, usize)>,
}

impl World {
    fn new(nodes: usize, seed: u64, loss_percent: u64) -> Self {
        let mut world = Self {
            now: Instant::from_nanos(1 << 40),
            members: Vec::new(),
            wire: Vec::new(),
            dice: Seed::new(seed).stream("network"),
            loss_percent,
            late_percent: 0,
            cuts: Vec::new(),
        };
        world.members = (0..nodes).map(|row| world.member(row, nodes, 1)).collect();
        world
    }

    fn member(&self, row: usize, nodes: usize, incarnation: u64) -> Member {
        let others = (0..nodes).filter(|other| *other != row).map(node);
        let gossip = Gossip::new(incarnation, others);
        Member { gossip, incarnation, knows: HashMap::new() }
    }

    fn restart(&mut self, row: usize) {
        let incarnation = self.members[row].incarnation + 1;
        self.members[row] = self.member(row, self.members.len(), incarnation);
    }

    /// No two clocks agree.
    fn clock(&self, row: usize) -> Instant {
        self.now + Duration::from_secs(3600) * u32::try_from(row).unwrap()
    }

    /// Which nodes this one hears.
    fn fresh(&self, row: usize) -> BTreeSet<NodeId> {
        self.members[row].gossip.fresh(self.clock(row))
    }

    /// Does this node surely hear what so many others say of writers?
    fn is_sure(&self, row: usize, of: usize) -> bool {
        self.members[row].gossip.fresh_until(of).is_some_and(|until| self.clock(row) < until)
    }

    fn say(&mut self, row: usize, key: &str, value: Option<&str>) {
        self.members[row].gossip.set(key.to_owned(), value.map(str::to_owned));
    }

    fn run_for(&mut self, span: Duration) {
        let end = self.now + span;
        while self.now < end {
            self.now = self.now + MS;
            for row in 0..self.members.len() {
                let clock = self.clock(row);
                while let Some((to, messages)) = self.members[row].gossip.poll_transmit(clock) {
                    for message in messages {
                        let copies = if self.dice.below(100) < 5 { 2 } else { 1 };
                        for _ in 0..copies {
                            // Of a packet in fragments most are lost.
                            if message.encode().len() > 1100 {
                                continue;
                            }
                            let is_cut = self.cuts.contains(&(row, to.index()));
                            if is_cut || self.dice.below(100) < self.loss_percent {
                                continue;
                            }
                            let is_late = self.dice.below(100) < self.late_percent;
                            let longest = if is_late { 4000 } else { 60 };
                            let span = u32::try_from(self.dice.below(longest)).unwrap();
                            let at = self.now + MS * span;
                            let incarnation = self.members[row].incarnation;
                            self.wire.push((at, to.index(), row, incarnation, message.encode()));
                        }
                    }
                }
            }
            let now = self.now;
            let (arrived, rest) =
                std::mem::take(&mut self.wire).into_iter().partition(|(at, ..)| *at <= now);
            self.wire = rest;
            for (_, to, from, incarnation, octets) in arrived {
                self.deliver(to, from, incarnation, &octets);
            }
        }
    }

    fn deliver(&mut self, to: usize, from: usize, incarnation: u64, octets: &[u8]) {
        let message = Message::decode(octets).unwrap();
        let clock = self.clock(to);
        let member = &mut self.members[to];
        member.gossip.handle(clock, node(from), incarnation, message);
        while let Some(heard) = member.gossip.poll_heard() {
            match heard {
                Heard::Entry(of, key, Some(value)) => member.knows.insert((of, key), value),
                Heard::Entry(of, key, None) => member.knows.remove(&(of, key)),
                Heard::Anew(of) => {
                    member.knows.retain(|(from, _), _| *from != of);
                    None
                }
            };
        }
    }

    fn heard(&self, row: usize, from: usize, key: &str) -> Option<&str> {
        self.members[row].knows.get(&(node(from), key.to_owned())).map(String::as_str)
    }
}

#[test]
fn what_one_says_all_hear_within_a_moment() {
    let mut world = World::new(3, 1, 0);
    world.run_for(300 * MS);
    world.say(0, "o/1", Some("down"));
    world.run_for(70 * MS);
    assert_eq!(world.heard(1, 0, "o/1"), Some("down"));
    assert_eq!(world.heard(2, 0, "o/1"), Some("down"));
    world.say(0, "o/1", None);
    world.run_for(70 * MS);
    assert_eq!(world.heard(1, 0, "o/1"), None);
    assert_eq!(world.fresh(0).len(), 2);
}

#[test]
fn what_was_withdrawn_is_kept_until_all_know_it() {
    let mut world = World::new(3, 1, 20);
    let kept = |world: &World| world.members[0].gossip.said.rest.len();
    world.cuts = vec![(0, 2)];
    world.say(0, "n", Some("here"));
    (0..100).for_each(|key| world.say(0, &format!("o/{key}"), Some("down")));
    world.run_for(Duration::from_secs(1));
    (0..100).for_each(|key| world.say(0, &format!("o/{key}"), None));
    world.run_for(Duration::from_secs(1));
    assert_eq!(kept(&world), 101, "one has not heard it");
    world.cuts.clear();
    world.run_for(Duration::from_secs(1));
    assert_eq!(kept(&world), 1);
    // It can be said again, and who starts anew hears what is said.
    world.say(0, "o/1", Some("up"));
    world.restart(1);
    world.run_for(Duration::from_secs(1));
    for row in [1, 2] {
        assert_eq!(world.members[row].knows.len(), 2);
        assert_eq!(world.heard(row, 0, "o/1"), Some("up"));
    }
}

#[test]
fn what_is_longer_than_a_packet_is_heard_whole_and_holds_up_nothing() {
    let mut world = World::new(2, 1, 10);
    for (round, length) in [4000, 2200, 2300, 9000, 20, 1200].into_iter().enumerate() {
        let value = format!("{round}{}", "ü".repeat(length / 2));
        world.say(0, "s/web", Some(&value));
        world.say(0, "o/1", Some(&round.to_string()));
        world.run_for(Duration::from_secs(1));
        assert_eq!(world.heard(1, 0, "s/web"), Some(value.as_str()));
        assert_eq!(world.heard(1, 0, "o/1"), Some(round.to_string().as_str()));
    }
    world.say(0, "s/web", None);
    world.run_for(Duration::from_secs(1));
    assert_eq!(world.members[1].knows.len(), 1);
    world.restart(1);
    world.run_for(Duration::from_secs(1));
    assert_eq!(world.members[1].knows.len(), 1);
}

#[test]
fn silence_is_noticed_also_in_one_direction() {
    let mut world = World::new(3, 1, 0);
    world.run_for(Duration::from_secs(1));
    world.cuts = vec![(0, 1)];
    world.run_for(FRESH + 200 * MS);
    assert_eq!(world.fresh(1), [node(2)].into(), "nothing comes from node 0");
    assert_eq!(world.fresh(0).len(), 2);
    world.cuts.clear();
    world.run_for(300 * MS);
    assert_eq!(world.fresh(1).len(), 2);
}

#[test]
fn who_is_not_heard_is_sure_of_nothing() {
    let mut world = World::new(3, 1, 0);
    world.run_for(Duration::from_secs(1));
    assert!((0..3).all(|row| world.is_sure(row, 2)));
    world.cuts = vec![(0, 1), (0, 2)];
    world.run_for(FRESH + 200 * MS);
    assert_eq!(world.fresh(0).len(), 2, "it hears all");
    assert!(!world.is_sure(0, 1) && world.is_sure(1, 1) && world.is_sure(2, 1));
    world.cuts.clear();
    world.run_for(300 * MS);
    assert!((0..3).all(|row| world.is_sure(row, 2)));
}

#[test]
fn a_node_that_starts_is_sure_when_it_has_heard_who_writes_and_not_sooner() {
    let mut world = World::new(2, 1, 0);
    // So many writers that they take many messages, and one who is told last.
    let value = "x".repeat(300);
    (0..300).for_each(|key| world.say(0, &format!("e/{key}"), Some(&value)));
    world.say(0, "e/web", Some("eu"));
    world.run_for(Duration::from_secs(20));
    assert!(world.is_sure(1, 1));
    world.restart(1);
    let mut heard = 0;
    while !world.is_sure(1, 1) {
        world.run_for(MS);
        heard += usize::from(!world.fresh(1).is_empty());
    }
    assert_eq!(world.heard(1, 0, "e/web"), Some("eu"));
    assert!((200..20_000).contains(&heard), "it heard pieces for {heard} ms");
}

#[test]
fn who_writes_does_not_wait_for_what_else_there_is_to_tell() {
    let mut world = World::new(2, 1, 0);
    let say = |world: &mut World, round: usize| {
        let value = format!("{round} {}", "x".repeat(80));
        (0..2000).for_each(|key| world.say(0, &format!("s/{key}"), Some(&value)));
    };
    say(&mut world, 0);
    world.say(0, "e/web", Some("eu"));
    world.run_for(300 * MS);
    assert!(world.is_sure(1, 1) && world.heard(1, 0, "e/web") == Some("eu"));
    world.restart(1);
    world.run_for(500 * MS);
    assert!(world.is_sure(1, 1) && world.heard(1, 0, "e/web") == Some("eu"));
    say(&mut world, 1);
    world.say(0, "e/web", Some("us"));
    world.run_for(70 * MS);
    assert_eq!(world.heard(1, 0, "e/web"), Some("us"));
    assert_eq!(world.heard(1, 0, "s/1999"), None, "it is far behind");
}

#[test]
fn much_to_tell_of_other_things_makes_nobody_unsure() {
    let mut world = World::new(3, 1, 1);
    for row in 0..3 {
        world.say(row, "e/web", Some("eu"));
    }
    world.run_for(Duration::from_secs(1));
    for round in 0..3 {
        for key in 0..10_000 {
            let value = format!("{round} {}", "x".repeat(80));
            (0..3).for_each(|row| world.say(row, &format!("s/{key}"), Some(&value)));
        }
        for _ in 0..200 {
            world.run_for(10 * MS);
            // So that half a second may be between two answers.
            assert!((0..3).all(|row| {
                let until = world.members[row].gossip.fresh_until(2);
                until.is_some_and(|until| world.clock(row) + LONGER * 2 < until)
            }));
        }
    }
    assert!(world.heard(1, 0, "s/9999").is_none_or(|told| !told.starts_with('2')), "it is behind");
}

#[test]
fn a_node_that_starts_anew_says_only_what_it_says_now() {
    let mut world = World::new(2, 1, 0);
    world.say(0, "a", Some("1"));
    world.say(0, "b", Some("1"));
    world.run_for(300 * MS);
    assert_eq!(world.heard(1, 0, "b"), Some("1"));
    world.restart(0);
    world.say(0, "a", Some("2"));
    world.run_for(300 * MS);
    assert_eq!((world.heard(1, 0, "a"), world.heard(1, 0, "b")), (Some("2"), None));
}

#[test]
fn what_was_recorded_before_a_start_counts_no_more() {
    let mut world = World::new(2, 1, 0);
    world.say(0, "o/1", Some("down"));
    let mut recorded = Vec::new();
    for _ in 0..300 {
        world.run_for(MS);
        recorded.extend(world.wire.iter().filter(|(_, to, ..)| *to == 1).cloned());
    }
    assert_eq!(world.heard(1, 0, "o/1"), Some("down"));
    // Both start anew; then what was recorded comes again, to a node that knows nothing yet.
    world.restart(0);
    world.restart(1);
    for (_, to, from, incarnation, octets) in recorded {
        world.deliver(to, from, incarnation, &octets);
    }
    assert_eq!(world.heard(1, 0, "o/1"), None);
    assert!(world.fresh(1).is_empty(), "nor does it count as heard");
    world.run_for(500 * MS);
    assert_eq!(world.fresh(1).len(), 1);
    assert_eq!(world.heard(1, 0, "o/1"), None);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    /// Whatever is said, cleared and restarted while the network loses a third of all packets: when
    /// it is calm, everybody knows what everybody says.
    #[test]
    fn everybody_knows_what_everybody_says(
        seed: u64,
        acts in prop::collection::vec((0usize..3, 0usize..40, 0u8..8), 1..120),
    ) {
        let mut world = World::new(3, seed, 33);
        let mut said: HashMap<(NodeId, String), String> = HashMap::new();
        for (row, key, act) in acts {
            let key = format!("key-{key}-{}", "x".repeat(key * 8));
            match act {
                0 => {
                    world.restart(row);
                    said.retain(|(of, _), _| of.index() != row);
                }
                1 | 2 => {
                    world.say(row, &key, None);
                    said.remove(&(node(row), key));
                }
                value => {
                    let length = if value == 7 { 1500 } else { 40 };
                    let value = format!("{value}{}", "y".repeat(length));
                    world.say(row, &key, Some(&value));
                    said.insert((node(row), key), value);
                }
            }
            world.run_for(7 * MS);
        }
        world.loss_percent = 0;
        world.run_for(Duration::from_secs(4));
        for row in 0..3 {
            let expected: HashMap<_, _> =
                said.iter().filter(|((of, _), _)| of.index() != row).collect();
            let known: HashMap<_, _> = world.members[row].knows.iter().collect();
            prop_assert_eq!(known, expected);
        }
    }

    /// Whatever is cut, late, lost and restarted: who is sure of another node knows what that one
    /// said of a writer until two seconds ago.
    #[test]
    fn who_is_sure_goes_by_what_was_said_two_seconds_ago(
        seed: u64,
        acts in prop::collection::vec((0usize..3, 0usize..3, 0u8..10, 1u32..900), 1..60),
    ) {
        let mut world = World::new(3, seed, 10);
        world.late_percent = 5;
        // What each said of a writer, a number that grows, and when.
        let mut said: [Vec<(Instant, u32)>; 3] = Default::default();
        for (row, other, act, span) in acts {
            match act {
                0 => {
                    world.restart(row);
                    // It has much to say, and what it said of a writer is on its disk.
                    for key in 0..60 {
                        world.say(row, &format!("e/{key}"), Some(&"x".repeat(400)));
                    }
                    if let Some((_, number)) = said[row].last() {
                        world.say(row, "e/", Some(&number.to_string()));
                    }
                }
                1 | 2 if row != other => world.cuts.push((row, other)),
                3 => world.cuts.clear(),
                _ => {
                    let number = said[row].last().map_or(1, |(_, number)| number + 1);
                    world.say(row, "e/", Some(&number.to_string()));
                    said[row].push((world.now, number));
                }
            }
            for _ in 0..span.div_ceil(20) {
                world.run_for(20 * MS);
                for row in (0..3).filter(|row| world.is_sure(*row, 1)) {
                    let before = world.now - FRESH;
                    let is_known = |other: usize| {
                        let then = said[other].iter().rfind(|(at, _)| *at <= before);
                        let known = world.heard(row, other, "e/");
                        let known = known.map_or(0, |known| known.parse::<u32>().unwrap());
                        known >= then.map_or(0, |(_, number)| *number)
                    };
                    let others = (0..3).filter(|other| *other != row);
                    prop_assert!(others.into_iter().any(is_known), "{row} at {:?}", world.now);
                }
            }
        }
    }

    #[test]
    fn a_message_is_read_as_it_was_written(
        is_rest: bool,
        numbers in prop::array::uniform8(0u64..1 << 40),
        entries in prop::collection::vec((1u64..9, ".{0,30}", prop::option::of(".{0,60}")), 0..9),
    ) {
        let [to, writers, rest, after, newest, sent, heard, list] = numbers;
        let kind = if is_rest { Kind::Rest } else { Kind::Writers };
        let mut message = Message::new(kind, to, Each { writers, rest }).after(after);
        (message.writers, message.sent, message.heard) = (newest, sent, heard);
        (message.list, message.assent) = (list, Assent::ALL[(list % 3) as usize]);
        let mut change = after;
        for (step, key, value) in entries {
            change += step;
            message.add(Entry { change, key, value });
        }
        let read = Message::decode(&message.encode()).unwrap();
        prop_assert_eq!(&read.entries, &message.entries);
        prop_assert_eq!(read.after(0), message.after(0));
        prop_assert_eq!((read.after, read.upto), (after, message.upto));
        let whole = message.encode();
        for cut in 0..whole.len() {
            // A part of a message is a shorter one or none, and never something else.
            if let Some(part) = Message::decode(&whole[..cut]) {
                prop_assert!(message.entries.starts_with(&part.entries));
            }
        }
    }

    #[test]
    fn anything_can_arrive(octets in prop::collection::vec(any::<u8>(), 0..200)) {
        let _read = Message::decode(&octets);
    }

    /// Nodes say words on one subject, with clocks that are wrong, and hear each other or do not.
    /// A word stands until somebody who knew of it says another one, whatever came between; and
    /// once all have heard all, the same one counts everywhere.
    #[test]
    fn the_safest_word_that_nobody_replaced_counts_everywhere(
        steps in prop::collection::vec((0usize..4, 0usize..4, 0u8..3, 0u64..5), 0..40),
    ) {
        let mut nodes: [Vec<Word>; 4] = Default::default();
        let mut said: Vec<Word> = Vec::new();
        for (node, other, safety, clock) in steps {
            if node != other {
                let heard = [&nodes[node][..], &nodes[other][..]].concat();
                nodes[node] = standing(heard, Word::weight);
                continue;
            }
            let before = &nodes[node];
            // What its speaker knew of, by any way that there is.
            let known = before.iter().flat_map(|of| of.known.iter().copied().chain([of.id]));
            let known: BTreeSet<usize> = known.collect();
            let (by, now) = (format!("ns{node}"), Instant::from_nanos(clock * 1_000_000));
            let latest = before.iter().map(|of| of.stamp.at).max().unwrap_or(0);
            let stamp = Stamp::next(now, &by, before.iter().map(|of| &of.stamp), latest);
            prop_assert!(stamp.makes_sense());
            let word = Word { id: said.len(), known, stamp, safety };
            for of in &said {
                prop_assert_eq!(word.stamp.knows_of(&of.stamp), word.known.contains(&of.id));
            }
            let all = before.iter().chain([&word]).cloned().collect();
            nodes[node] = standing(all, Word::weight);
            prop_assert_eq!(&nodes[node], std::slice::from_ref(&word));
            said.push(word);
        }
        let is_replaced = |of: &Word| said.iter().any(|other| other.known.contains(&of.id));
        let mut left: Vec<Word> = said.iter().filter(|of| !is_replaced(of)).cloned().collect();
        left.sort_by_key(|of| std::cmp::Reverse((of.safety, of.stamp.clone())));
        // In one order and the other.
        for order in [[0, 1, 2, 3], [3, 1, 0, 2]] {
            let heard = order.map(|node| nodes[node].clone()).concat();
            prop_assert_eq!(&standing(heard, Word::weight), &left);
        }
    }

    /// Whatever is believed of other nodes, what an operator says next replaces it.
    #[test]
    fn any_words_that_make_sense_can_be_replaced(
        words in prop::collection::vec((any::<u64>(), 0u8..60, any::<u64>()), 0..9),
        now: u64,
    ) {
        let words = words.into_iter().map(|(at, by, saw)| {
            let of = |row: u8| saw.rotate_left(row.into()) % (at >> 1).max(1);
            let saw = (0..by).map(|row| (format!("ns{row}"), of(row)));
            let stamp = Stamp { at: at >> 1, by: format!("ns{by}"), saw: saw.collect() };
            Word { id: 0, known: BTreeSet::new(), stamp, safety: 2 }
        });
        let words: Vec<Word> = words.filter(|of| of.stamp.makes_sense()).collect();
        let latest = words.iter().map(|of| of.stamp.at).max().unwrap_or(0);
        let stamp = Stamp::next(
            Instant::from_nanos(now),
            "ns1",
            words.iter().map(|of| &of.stamp),
            latest,
        );
        prop_assert!(stamp.makes_sense() && stamp.saw.len() <= 32);
        let next = Word { id: 1, known: BTreeSet::new(), stamp, safety: 0 };
        let all = words.into_iter().chain([next.clone()]).collect();
        prop_assert_eq!(standing(all, Word::weight), [next]);
    }
}

/// A word on a subject.
#[derive(Clone, PartialEq, Debug)]
struct Word {
    id: usize,
    /// The words that its speaker knew of.
    known: BTreeSet<usize>,
    stamp: Stamp,
    safety: u8,
}

impl Word {
    fn weight(&self) -> (Stamp, u8) {
        (self.stamp.clone(), self.safety)
    }
}

#[test]
fn the_later_word_counts_and_of_two_that_did_not_know_of_each_other_the_safer() {
    let now = Instant::from_nanos(1_700_000_000_000_000_000);
    let hour = Duration::from_secs(3600);
    let counts = |words: &[(&Stamp, u8)]| {
        let words = words.iter().map(|(stamp, safety)| ((*stamp).clone(), *safety)).collect();
        standing(words, Clone::clone).into_iter().map(|(stamp, _)| stamp).collect::<Vec<_>>()
    };
    let first = Stamp::next(now, "ns1", [], 0);
    let second = Stamp::next(now + MS, "ns2", [&first], first.at);
    for both in [[(&first, 2), (&second, 0)], [(&second, 0), (&first, 2)]] {
        assert_eq!(counts(&both), std::slice::from_ref(&second), "it knew of the first");
    }
    // A clock that is an hour slow: what it knew of makes it later all the same.
    let slow = Stamp::next(now - hour, "ns1", [&second], second.at);
    assert_eq!(counts(&[(&second, 2), (&slow, 0)]), [slow]);
    // Neither knew of the other: the drain stands, whichever clock is ahead…
    let drain = Stamp::next(now, "ns1", [&first], first.at);
    let up = Stamp::next(now + hour, "ns2", [&first], first.at);
    assert_eq!(counts(&[(&up, 0), (&drain, 2)]), [drain.clone(), up.clone()]);
    // … and however much was said after it on the other side.
    let again = Stamp::next(now + hour, "ns2", [&up], up.at);
    assert_eq!(counts(&[(&again, 0), (&drain, 2)]), [drain.clone(), again.clone()]);
    // Who knew of both replaces both.
    let last = Stamp::next(now, "ns3", [&drain, &again], again.at);
    assert_eq!(counts(&[(&again, 0), (&last, 0), (&drain, 2)]), [last]);
}
