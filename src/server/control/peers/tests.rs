//! What a node makes of what the others tell of their answers.

use tokio::sync::mpsc::unbounded_channel;

use super::*;
use crate::health::Electorate;

/// Two nodes that hear each other, and what each of them answers for the service `web`.
fn two(ours: Option<Digest>, theirs: Option<Digest>) -> Peers {
    let [own, other] = [0, 1].map(|row| NodeId::from_index(row).unwrap());
    let address = "192.0.2.1:1".parse().unwrap();
    let member = |name: &str| Member { name: name.to_owned(), address, region: None };
    let of = Cluster {
        key: "key".into(),
        listen: address,
        nodes: vec![member("ns1"), member("ns2")],
        own,
        electorate: Electorate::default(),
        vantages: 2,
    };
    let mut peers = Peers::new(unbounded_channel().0, of);
    peers.fresh.insert(other);
    peers.conditions.insert(other, NodeWord::default());
    peers.own_digests.extend(ours.map(|of| ("web".to_owned(), of)));
    let told = theirs.map(|of| ("web".to_owned(), of)).into_iter().collect();
    peers.digests.insert(other, told);
    peers.compare(Instant::default(), other, "web");
    peers
}

fn digest(hash: u64) -> Digest {
    Digest { hash, shares: BTreeMap::new() }
}

#[test]
fn nodes_agree_on_a_service_that_neither_has() {
    let (one, same, other) = (Some(digest(1)), Some(digest(1)), Some(digest(2)));
    let differs = "ns2 answers web differently";
    let cases = [
        (one.clone(), same, None),
        (one.clone(), other, Some(differs)),
        (one.clone(), None, Some(differs)),
        (None, one, Some("ns2 still answers web")),
        (None, None, None),
    ];
    for (ours, theirs, doubt) in cases {
        let told = two(ours.clone(), theirs.clone()).doubt("web");
        assert_eq!(told.as_deref(), doubt, "{ours:?}, {theirs:?}");
    }
}

#[test]
fn a_node_that_has_told_nothing_yet_is_waited_for() {
    let mut peers = two(None, None);
    peers.conditions.clear();
    let told = peers.doubt("web");
    assert_eq!(told.as_deref(), Some("ns2 has not told yet how it answers"));
    peers.fresh.clear();
    let told = peers.doubt("web");
    assert_eq!(told.as_deref(), Some("ns2 is not heard: how it answers is not known"));
}
