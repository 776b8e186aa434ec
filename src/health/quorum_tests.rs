//! Several monitors that hear each other: what they believe together.

use std::time::Duration;

use super::tests::{MS, REFUSED, UP, start, target};
use super::*;
use crate::ids::NodeId;
use crate::rng::Seed;
use crate::time::Instant;

fn node_id(row: usize) -> NodeId {
    NodeId::from_index(row).unwrap()
}

/// Nodes that watch the same targets and hear each other at once.
fn cluster(
    size: usize,
    panel: impl Fn(usize, usize) -> Option<Panel>,
    mut sees: impl FnMut(usize, Instant, usize) -> Outcome,
    span: Duration,
) -> Vec<Monitor> {
    let mut nodes: Vec<Monitor> =
        (0..size).map(|seed| Monitor::new(Seed::new(seed as u64))).collect();
    for (row, node) in nodes.iter_mut().enumerate() {
        node.elect(start(), Electorate { nodes: size, ..Electorate::default() });
        let others = (0..size).filter(|other| *other != row).map(node_id);
        node.handle_peers(start(), others.collect());
        (0..4).for_each(|of| node.watch(start(), target(of), Schedule::default()));
        let panels = (0..4).filter_map(|of| Some((target(of), panel(row, of)?)));
        node.share(start(), panels.collect());
    }
    let mut now = start();
    while now < start() + span {
        now = now + 10 * MS;
        for row in 0..size {
            nodes[row].handle_timeout(now);
            while let Some(order) = nodes[row].poll_probe(now) {
                let outcome = sees(row, now, order.target.index());
                let report = Report { outcome, latency: 5 * MS };
                nodes[row].handle_probe(now, order.target, report);
            }
            while let Some((target, opinion)) = nodes[row].poll_opinion() {
                for other in (0..size).filter(|other| *other != row) {
                    nodes[other].handle_opinion(now, node_id(row), target, opinion);
                }
            }
        }
    }
    nodes
}

#[test]
fn what_one_of_three_sees_moves_nothing_and_what_two_see_moves_all() {
    for seeing in 0..=3 {
        let sees = move |node: usize, now: Instant, of: usize| {
            let is_dead = now > start() + Duration::from_secs(5) && node < seeing && of == 0;
            if is_dead { REFUSED } else { UP }
        };
        let expected = if seeing >= 2 { State::Down } else { State::Up };
        for (row, node) in cluster(3, |_, _| None, sees, Duration::from_secs(15)).iter().enumerate()
        {
            let health = node.table().get(target(0));
            assert_eq!(health.state, expected, "{seeing} see it, says node {row}");
            assert_eq!(health.votes, Votes { up: 3 - seeing, down: seeing });
            assert_eq!(health.suspected, seeing == 1, "but everybody is warned");
            assert_eq!(node.table().get(target(1)).state, State::Up);
        }
    }
}

#[test]
fn what_was_recalled_is_told_to_others_once_it_is_seen_again() {
    for (recalled, outcome) in [(State::Up, UP), (State::Down, REFUSED)] {
        let mut node = Monitor::new(Seed::new(1));
        node.elect(start(), Electorate { nodes: 3, ..Electorate::default() });
        node.watch(start(), target(0), Schedule::default());
        node.recall(target(0), recalled, start());
        assert_eq!(node.poll_opinion(), None, "it is hearsay");
        let mut now = start();
        for _ in 0..100 {
            now = now + 100 * MS;
            node.handle_timeout(now);
            while let Some(order) = node.poll_probe(now) {
                node.handle_probe(now, order.target, Report { outcome, latency: 5 * MS });
            }
        }
        assert_eq!(node.poll_opinion(), Some((target(0), Some(recalled))));
        assert_eq!(node.poll_opinion(), None);
    }
}

#[test]
fn who_does_not_watch_a_target_follows_those_who_do() {
    // Seven nodes; three of them watch each target, one after the other.
    let watches = |node: usize, of: usize| (node + 7 - of) % 7 < 3;
    let panel = move |node: usize, of: usize| {
        let others = (0..7).filter(|other| *other != node && watches(*other, of));
        Some(Panel { own: watches(node, of), others: others.map(node_id).collect() })
    };
    // Of the watchers of the first target two see it down, of the second one.
    let mut probed = std::collections::BTreeSet::new();
    let sees = |node: usize, now: Instant, of: usize| {
        probed.insert((node, of));
        let is_dead = now > start() + Duration::from_secs(5);
        let is_hit = matches!((of, node), (0, 0 | 1) | (1, 1));
        if is_dead && is_hit { REFUSED } else { UP }
    };
    for node in cluster(7, panel, sees, Duration::from_secs(15)) {
        assert!(node.settled());
        let states = [0, 1, 2, 3].map(|of| node.table().get(target(of)).state);
        assert_eq!(states, [State::Down, State::Up, State::Up, State::Up]);
        assert_eq!(node.table().get(target(0)).votes, Votes { up: 1, down: 2 });
        assert!(node.table().get(target(1)).suspected, "everybody is warned");
    }
    assert_eq!(probed.len(), 4 * 3, "each is probed by its own");
}

#[test]
fn what_one_node_watches_alone_it_decides_until_the_nodes_have_agreed() {
    let mut node = Monitor::new(Seed::new(1));
    node.elect(start(), Electorate { nodes: 3, ..Electorate::default() });
    node.handle_peers(start(), [1, 2].map(node_id).into());
    let schedule = Schedule { hold_down: Duration::ZERO, ..Schedule::default() };
    node.watch(start(), target(0), schedule);
    let mut now = start();
    for (outcome, state) in [(REFUSED, State::Down), (UP, State::Up), (REFUSED, State::Down)] {
        for _ in 0..200 {
            now = now + 100 * MS;
            node.handle_timeout(now);
            while let Some(order) = node.poll_probe(now) {
                node.handle_probe(now, order.target, Report { outcome, latency: 5 * MS });
            }
        }
        assert_eq!(node.table().get(target(0)).state, state);
    }
    for (opinion, state) in [(Some(State::Up), State::Up), (None, State::Up)] {
        for other in [1, 2] {
            node.handle_opinion(now, node_id(other), target(0), opinion);
        }
        assert_eq!(node.table().get(target(0)).state, state, "it alone moves nothing any more");
    }
}

#[test]
fn of_a_target_most_of_whose_watchers_are_not_heard_what_was_believed_stands() {
    let mut node = Monitor::new(Seed::new(1));
    node.elect(start(), Electorate { nodes: 5, ..Electorate::default() });
    node.watch(start(), target(0), Schedule::default());
    let others = [0, 1, 2].map(node_id).into();
    node.share(start(), [(target(0), Panel { own: false, others })].into());
    let hear = |node: &mut Monitor, peers: &[usize]| {
        node.handle_peers(start(), peers.iter().copied().map(node_id).collect());
    };
    hear(&mut node, &[0, 1, 2, 3]);
    for (watcher, state) in [(0, State::Down), (1, State::Down), (2, State::Up)] {
        node.handle_opinion(start(), node_id(watcher), target(0), Some(state));
    }
    // The two who see it down die, one comes back and sees it up.
    for (heard, state) in [
        (&[0, 1, 2, 3][..], State::Down),
        (&[2, 3], State::Down),
        (&[1, 2, 3], State::Up),
        (&[1, 3], State::Up),
    ] {
        hear(&mut node, heard);
        if heard == [1, 2, 3] {
            node.handle_opinion(start(), node_id(1), target(0), Some(State::Up));
        }
        assert_eq!(node.table().get(target(0)).state, state, "{heard:?}");
        assert!(!node.is_isolated());
        assert_eq!(node.is_unwatched(), heard.len() == 2, "{heard:?}");
    }
}
