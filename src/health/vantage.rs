//! Who of many nodes watches a target, so that the load on an endpoint does not grow with the
//! number of nodes.

use std::collections::{BTreeMap, BTreeSet};

use crate::ids::NodeId;
use crate::rng::fnv1a;

/// A node that may watch.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Vantage<'n> {
    /// Its name.
    pub name: &'n str,
    /// The region where it stands, if that is known.
    pub region: Option<&'n str>,
}

/// The `count` nodes that watch the target of this `key`: by rendezvous hash (Thaler and
/// Ravishankar, IEEE/ACM ToN 6(1), 1998), so that a node more or less changes the watchers of few
/// targets, and as evenly over the regions as their nodes allow.
pub fn vantages(key: &str, nodes: &[Vantage<'_>], count: usize) -> BTreeSet<NodeId> {
    let rank = |(row, node): (usize, &Vantage<'_>)| {
        let hash = fnv1a(format!("{}\n{key}", node.name).as_bytes());
        (mixed(hash), row)
    };
    let mut ranked: Vec<(u64, usize)> = nodes.iter().enumerate().map(rank).collect();
    ranked.sort_unstable();
    // The round in which a node's region gives it: its first node before any other's second.
    let mut given: BTreeMap<Option<&str>, usize> = BTreeMap::new();
    let mut rounds: Vec<(usize, u64, usize)> = Vec::with_capacity(nodes.len());
    for (rank, row) in ranked {
        let region = nodes.get(row).and_then(|node| node.region);
        let round = given.entry(region).or_default();
        rounds.push((*round, rank, row));
        *round += 1;
    }
    rounds.sort_unstable();
    rounds.into_iter().take(count).filter_map(|(.., row)| NodeId::from_index(row)).collect()
}

/// FNV's last octets hardly reach its upper bits; this is the end of `MurmurHash3`, which mixes
/// them all.
fn mixed(hash: u64) -> u64 {
    let hash = (hash ^ (hash >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
    let hash = (hash ^ (hash >> 33)).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    hash ^ (hash >> 33)
}

#[cfg(test)]
mod tests {
    use super::*;

    const REGIONS: [Option<&str>; 3] = [Some("us"), Some("eu"), Some("ap")];

    fn names(count: usize) -> Vec<String> {
        (0..count).map(|row| format!("ns{row}")).collect()
    }

    fn nodes(names: &[String]) -> Vec<Vantage<'_>> {
        let regions = REGIONS.iter().cycle();
        names.iter().zip(regions).map(|(name, region)| Vantage { name, region: *region }).collect()
    }

    #[test]
    fn targets_are_spread_evenly_and_seen_from_every_region() {
        let names = names(12);
        let nodes = nodes(&names);
        let mut load = [0usize; 12];
        for target in 0..1200 {
            let watching = vantages(&format!("192.0.2.1 http {target}"), &nodes, 5);
            assert_eq!(watching.len(), 5);
            for node in &watching {
                load[node.index()] += 1;
            }
            for region in 0..3 {
                let there = watching.iter().filter(|node| node.index() % 3 == region).count();
                assert!((1..=2).contains(&there), "five over three regions: 2, 2, 1");
            }
        }
        // 500 each; five deviations are about 85.
        assert!(load.iter().all(|of| (415..585).contains(of)), "{load:?}");
    }

    #[test]
    fn a_node_more_takes_over_a_little_from_each() {
        let names = names(13);
        let all = nodes(&names);
        let all: Vec<Vantage<'_>> = all.iter().map(|of| Vantage { region: None, ..*of }).collect();
        for target in 0..300 {
            let key = format!("target {target}");
            let before = vantages(&key, &all[..12], 5);
            let after = vantages(&key, &all, 5);
            assert!(before.intersection(&after).count() >= 4);
        }
    }

    #[test]
    fn few_nodes_watch_everything() {
        let names = names(4);
        assert_eq!(vantages("a target", &nodes(&names), 5).len(), 4);
        assert_eq!(vantages("a target", &[], 5).len(), 0);
    }
}
