//! By which list of nodes a node counts a majority, and from when on.
//!
//! Where some nodes go by one list and some by another, two majorities could have nobody in common,
//! and each could name a writer. So a node tells by which list it goes, and counts only those that
//! go by the same one, once that is *agreed*:
//!
//! 1. It was agreed at an earlier start, and no other one since.
//! 2. Or a majority of the list that was agreed before it goes by it: those who still go by the old
//!    one are none any more.
//! 3. Or none was agreed before, as where nodes start for the first time, and all go by it, of whom
//!    none waits for a majority of another one.
//! 4. Or one for whom it is agreed says so.
//!
//! Who goes by it counts for this when all that it says of writers is known here. So whoever agrees
//! knows each word that a majority of the old list could have followed. Nodes that all start for
//! the first time, with a list that names none of a cluster's, are another cluster.

use std::collections::BTreeSet;

use crate::ids::NodeId;
use crate::rng::fnv1a;

/// The list by which a node goes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct List {
    /// A hash of the names.
    pub(super) hash: u64,
    pub(super) is_agreed: bool,
    before: Option<Before>,
}

/// The list that was agreed before, as far as its nodes are in the new one.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Before {
    others: BTreeSet<NodeId>,
    /// How many of them are a majority of it, with this node if it is one of them.
    needed: usize,
}

impl List {
    /// The list of these nodes, in any order, that this node, `own`, goes by from a start on;
    /// `agreed`: the list that was agreed last.
    pub fn new(names: &[String], own: NodeId, agreed: Option<&[String]>) -> Self {
        let sorted = |names: &[String]| {
            let mut names = names.to_vec();
            names.sort();
            names
        };
        let is_agreed = agreed.is_some_and(|agreed| sorted(agreed) == sorted(names));
        let before = agreed.map(|agreed| {
            let ids = names.iter().enumerate().filter(|(_, name)| agreed.contains(name));
            let ids = ids.filter_map(|(row, _)| NodeId::from_index(row));
            let (own, others): (BTreeSet<_>, _) = ids.partition(|id| *id == own);
            Before { others, needed: agreed.len() / 2 + 1 - own.len() }
        });
        Self { hash: fnv1a(sorted(names).join("\n").as_bytes()), is_agreed, before }
    }

    /// How far this node is with it.
    pub(super) fn assent(&self) -> Assent {
        match &self.before {
            _ if self.is_agreed => Assent::Agreed,
            Some(_) => Assent::Waits,
            None => Assent::New,
        }
    }

    /// Looks whether it is agreed, where of `all` others these go by it, by how far they are.
    pub(super) fn agree(&mut self, all: usize, [new, wait, agreed]: &[BTreeSet<NodeId>; 3]) {
        self.is_agreed |= !agreed.is_empty()
            || match &self.before {
                Some(before) => before.among(new) + before.among(wait) >= before.needed,
                None => new.len() >= all,
            };
    }
}

impl Before {
    fn among(&self, nodes: &BTreeSet<NodeId>) -> usize {
        self.others.intersection(nodes).count()
    }
}

/// How far a node is with the list that it goes by.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub enum Assent {
    /// It has agreed on none yet.
    #[default]
    New,
    /// It agreed on another one before, of which most have not left it yet.
    Waits,
    /// It knows that it is agreed.
    Agreed,
}

impl Assent {
    /// All, in their order.
    pub const ALL: [Self; 3] = [Self::New, Self::Waits, Self::Agreed];
}

/// One that nobody ever changes.
impl Default for List {
    fn default() -> Self {
        Self { hash: 0, is_agreed: true, before: None }
    }
}

/// What is known of the lists by which the nodes go.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Lists {
    /// This node's own is agreed.
    pub is_agreed: bool,
    /// The others that count in a majority.
    pub counting: BTreeSet<NodeId>,
    /// Those that go by another one.
    pub differing: BTreeSet<NodeId>,
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use crate::cluster::{FRESH, Gossip, HEARTBEAT};
    use crate::time::Instant;

    use super::*;

    /// A node that runs: by which list, and what it says and hears.
    struct Node {
        list: Vec<String>,
        gossip: Gossip,
        incarnation: u64,
    }

    /// Nodes by name, what each keeps, and between whom nothing passes.
    #[derive(Default)]
    struct World {
        now: Instant,
        nodes: BTreeMap<String, Node>,
        kept: BTreeMap<String, Vec<String>>,
        cut: BTreeSet<(String, String)>,
    }

    fn names(names: &[&str]) -> Vec<String> {
        names.iter().map(|&name| name.to_owned()).collect()
    }

    impl World {
        /// Nodes that have agreed on this list.
        fn of(list: &[String]) -> Self {
            let mut world = Self::default();
            list.iter().for_each(|name| world.start(name, list));
            world.run();
            world
        }

        /// A node starts, again or for the first time, by this list.
        fn start(&mut self, name: &str, list: &[String]) {
            self.now = self.now + HEARTBEAT;
            let own = list.iter().position(|of| of == name).and_then(NodeId::from_index).unwrap();
            let others = (0..list.len()).filter_map(NodeId::from_index).filter(|id| *id != own);
            let by = List::new(list, own, self.kept.get(name).map(Vec::as_slice));
            let incarnation = self.now.as_nanos();
            let gossip = Gossip::new(incarnation, others).by(by);
            self.nodes.insert(name.to_owned(), Node { list: list.to_vec(), gossip, incarnation });
        }

        /// What was before is forgotten meanwhile.
        fn run(&mut self) {
            let end = self.now + FRESH * 2;
            while self.now < end {
                self.now = self.now + HEARTBEAT / 4;
                let mut sent = Vec::new();
                for (name, node) in &mut self.nodes {
                    while let Some((to, messages)) = node.gossip.poll_transmit(self.now) {
                        let to = node.list[to.index()].clone();
                        sent.push((name.clone(), node.incarnation, to, messages));
                    }
                }
                for (from, incarnation, to, messages) in sent {
                    let Some(node) = self.nodes.get_mut(&to) else { continue };
                    let row = node.list.iter().position(|of| *of == from);
                    let Some(id) = row.and_then(NodeId::from_index) else { continue };
                    if !self.cut.contains(&(from, to)) {
                        for message in messages {
                            node.gossip.handle(self.now, id, incarnation, message);
                        }
                    }
                }
            }
            for (name, node) in &self.nodes {
                if node.gossip.lists(self.now).is_agreed {
                    self.kept.insert(name.clone(), node.list.clone());
                }
            }
        }

        /// Who is sure of a majority, with how many names in its list.
        fn sure(&self) -> Vec<(&str, usize)> {
            let is_sure = |node: &Node| {
                node.gossip.fresh_until(node.list.len() / 2).is_some_and(|until| self.now < until)
            };
            let sure = self.nodes.iter().filter(|(_, node)| is_sure(node));
            sure.map(|(name, node)| (name.as_str(), node.list.len())).collect()
        }
    }

    #[test]
    fn of_two_lists_one_has_a_majority_and_the_new_one_when_most_of_the_old_have_left_it() {
        let (old, new) = (names(&["1", "2", "3"]), names(&["1", "10", "11", "2", "3"]));
        let mut world = World::of(&old);
        assert_eq!(world.sure(), [("1", 3), ("2", 3), ("3", 3)]);
        ["3", "10", "11"].iter().for_each(|name| world.start(name, &new));
        world.run();
        assert_eq!(world.sure(), [("1", 3), ("2", 3)]);
        let lists = world.nodes["1"].gossip.lists(world.now);
        assert_eq!(lists.differing, [NodeId::from_index(2).unwrap()].into());
        world.start("2", &new);
        world.run();
        assert_eq!(world.sure(), [("10", 5), ("11", 5), ("2", 5), ("3", 5)]);
        world.start("1", &new);
        world.run();
        assert_eq!(world.sure().len(), 5);
    }

    #[test]
    fn who_starts_for_the_first_time_hears_all_once_and_later_starts_do_without_one_that_is_dead() {
        let list = names(&["1", "2", "3"]);
        let mut world = World::default();
        ["1", "2"].iter().for_each(|name| world.start(name, &list));
        world.run();
        assert_eq!(world.sure(), []);
        world.start("3", &list);
        world.run();
        world.nodes.remove("3");
        ["1", "2"].iter().for_each(|name| world.start(name, &list));
        world.run();
        assert_eq!(world.sure(), [("1", 3), ("2", 3)]);
        // One that knows nothing, in the place of the dead one, is told.
        world.kept.remove("3");
        world.start("3", &list);
        world.run();
        assert_eq!(world.sure().len(), 3);
        // It is taken off the list.
        let fewer = names(&["1", "2"]);
        world.nodes.remove("3");
        fewer.iter().for_each(|name| world.start(name, &fewer));
        world.run();
        assert_eq!(world.sure(), [("1", 2), ("2", 2)]);
    }

    #[test]
    fn nodes_that_are_new_do_not_outvote_those_whose_list_most_have_not_left() {
        let (old, new) = (names(&["1", "2", "3"]), names(&["3", "4", "5", "6", "7"]));
        let mut world = World::of(&old);
        new.iter().for_each(|name| world.start(name, &new));
        world.run();
        assert_eq!(world.sure(), [("1", 3), ("2", 3)]);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(60))]

        /// Whoever is started in whichever order by a list that begins and ends somewhere, with one
        /// of the old nodes in it at least, whatever is cut.
        #[test]
        fn no_two_lists_ever_have_a_majority_at_once(
            (first, end) in (0usize..3, 3usize..=8),
            are_all_new_started: bool,
            acts in prop::collection::vec((0usize..8, 0usize..8, any::<bool>()), 1..12),
        ) {
            let all = names(&["1", "2", "3", "4", "5", "6", "7", "8"]);
            let (old, new) = (all[..3].to_vec(), all[first..end].to_vec());
            let mut world = World::of(&old);
            if are_all_new_started {
                new.iter().filter(|name| !old.contains(name)).for_each(|of| world.start(of, &new));
            }
            for (row, other, is_start) in acts {
                if is_start && new.contains(&all[row]) {
                    world.start(&all[row], &new);
                } else if !is_start && !world.cut.remove(&(all[row].clone(), all[other].clone())) {
                    world.cut.insert((all[row].clone(), all[other].clone()));
                }
                world.run();
                let sure = world.sure();
                let lists = sure.iter().map(|(name, _)| &world.nodes[*name].list);
                prop_assert!(lists.collect::<BTreeSet<_>>().len() <= 1, "{sure:?}");
            }
        }
    }
}
