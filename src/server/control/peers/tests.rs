//! What a node makes of what the others tell of their answers.

use tokio::sync::mpsc::unbounded_channel;

use super::super::absent::{Absent, Absents, doubt, doubted_still};
use super::*;

/// Two nodes that hear each other, and what each of them answers for the service `web`.
fn two(ours: Option<Digest>, theirs: Option<Digest>) -> Peers {
    let other = NodeId::from_index(1).unwrap();
    let mut peers = Peers::new(unbounded_channel().0, Cluster::two());
    peers.fresh.insert(other);
    peers.conditions.insert(other, NodeWord::default());
    peers.own_digests.extend(ours.map(|of| ("web".to_owned(), of)));
    let told = theirs.map(|of| ("web".to_owned(), of)).into_iter().collect();
    peers.digests.insert(other, told);
    peers.compare(Instant::default(), other, "web");
    peers
}

fn digest(hash: u64) -> Digest {
    Digest { hash, shares: BTreeMap::new(), others: None, ttl: None }
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
        // Also with other regions only.
        (None, Some(Digest { others: Some(BTreeSet::new()), ..digest(1) }), None),
        (None, None, None),
    ];
    for (ours, theirs, doubt) in cases {
        let told = two(ours.clone(), theirs.clone()).doubt("web", "eu");
        assert_eq!(told.as_deref(), doubt, "{ours:?}, {theirs:?}");
    }
}

#[test]
fn a_node_that_has_told_nothing_yet_is_waited_for() {
    let mut peers = two(None, None);
    peers.conditions.clear();
    let told = peers.doubt("web", "eu");
    assert_eq!(told.as_deref(), Some("ns2 has not told yet how it answers"));
    peers.fresh.clear();
    let told = peers.doubt("web", "eu");
    assert_eq!(told.as_deref(), Some("ns2 is not heard: how it answers is not known"));
}

#[test]
fn a_node_that_answers_otherwise_is_waited_for_while_it_may_name_the_region() {
    let names = |first: &str, others: &[&str]| Digest {
        hash: 2,
        shares: BTreeMap::from([(first.to_owned(), 1.0)]),
        others: Some(others.iter().map(|&of| of.to_owned()).collect()),
        ttl: None,
    };
    let older = Digest { others: None, ..names("us", &[]) };
    let differs = Some("ns2 answers web differently");
    let cases = [
        (names("us", &["asia"]), "7", None),
        (names("eu", &["asia"]), "7", differs),
        (names("us", &["eu"]), "7", differs),
        (older, "7", differs),
        // There, other names may be those of the same addresses.
        (names("us", &["asia"]), "8", differs),
    ];
    for (theirs, config, doubt) in cases {
        let mut peers = two(Some(digest(1)), Some(theirs.clone()));
        let word = |config: &str| NodeWord { config: config.to_owned(), ..NodeWord::default() };
        peers.own_word = Some(word("7"));
        peers.conditions = peers.conditions.keys().map(|node| (*node, word(config))).collect();
        assert_eq!(peers.doubt("web", "eu").as_deref(), doubt, "{theirs:?}, {config}");
    }
}

/// These regions of services are absent from the beginning, with a TTL of 30 seconds.
fn absent(names: &[(&str, &str)]) -> Absents {
    let absent = Absent {
        since: Instant::default(),
        left: true,
        elsewhere: false,
        was: 1.0,
        ttl: Ttl::from_secs(30),
        doubted: Instant::default(),
        doubt: None,
        before: Vec::new(),
    };
    let names = names.iter().map(|(service, region)| ((*service).to_owned(), (*region).to_owned()));
    names.map(|name| (name, absent.clone())).collect()
}

#[test]
fn what_another_node_answers_may_be_remembered_for_as_long_as_it_tells() {
    let with = |ttl| Some(Digest { ttl, ..digest(1) });
    let mut absents = absent(&[("api", "eu"), ("web", "eu")]);
    let mut ttls = |peers: &mut Peers| -> Vec<u32> {
        doubt(&mut absents, peers, Instant::default());
        assert!(absents.values().all(|absent| absent.doubt.is_none()), "{absents:?}");
        absents.values().map(|absent| absent.ttl.as_secs()).collect()
    };
    assert_eq!(ttls(&mut two(with(Some(30)), with(None))), [30, 30]);
    let mut peers = two(with(Some(30)), with(Some(3600)));
    assert_eq!(ttls(&mut peers), [30, 3600]);
    // What was given with a TTL is remembered for that long, also if others are given now.
    assert_eq!(ttls(&mut two(with(Some(30)), with(Some(5)))), [30, 3600]);
}

#[test]
fn doubts_are_looked_at_where_they_may_be_others_and_stand_meanwhile() {
    let at = |seconds| Instant::default() + Duration::from_secs(seconds);
    let names = [("api", "eu"), ("web", "eu"), ("web", "us"), ("webs", "eu")];
    let mut absents = absent(&names);
    // Both nodes have the two, and answer each otherwise.
    let mut peers = two(Some(digest(1)), Some(digest(2)));
    let other = *peers.digests.keys().next().unwrap();
    for (service, hash) in [("api", 1), ("webs", 1)] {
        peers.own_digests.insert(service.to_owned(), digest(hash));
        peers.digests.get_mut(&other).unwrap().insert(service.to_owned(), digest(hash + 1));
    }
    let told = |absents: &Absents| -> Vec<(bool, Instant)> {
        absents.values().map(|absent| (absent.doubt.is_some(), absent.doubted)).collect()
    };
    doubt(&mut absents, &mut peers, at(1));
    assert_eq!(told(&absents), [(true, at(1)); 4]);
    doubt(&mut absents, &mut peers, at(2));
    assert_eq!(told(&absents), [(true, at(1)); 4], "nothing is another thing");
    let mut shown = absents.clone();
    doubted_still(&mut shown, at(2));
    assert_eq!(told(&shown), [(true, at(2)); 4]);
    // They agree on one of the services.
    peers.digests.get_mut(&other).unwrap().insert("web".to_owned(), digest(1));
    peers.compare(at(3), other, "web");
    doubt(&mut absents, &mut peers, at(3));
    let [still, over] = [(true, at(1)), (false, at(3))];
    assert_eq!(told(&absents), [still, over, over, still]);
    doubted_still(&mut absents, at(4));
    let [still, over] = [(true, at(4)), (false, at(3))];
    assert_eq!(told(&absents), [still, over, over, still]);
    // The node has another generation, and then another configuration.
    let word = NodeWord { generation: 7, ..NodeWord::default() };
    peers.learn(other, word.clone());
    doubt(&mut absents, &mut peers, at(5));
    assert_eq!(told(&absents), [still, over, over, still]);
    peers.learn(other, NodeWord { config: "another".to_owned(), ..word });
    doubt(&mut absents, &mut peers, at(6));
    assert_eq!(told(&absents), [(true, at(6)), over, over, (true, at(6))]);
}

#[test]
fn versions_that_tell_less_and_more_are_understood() {
    let older: Digest = serde_json::from_str(r#"{"hash":1,"shares":{"us":1.0}}"#).unwrap();
    assert!(!older.lacks("eu") && older.ttl.is_none());
    let newer = r#"{"hash":1,"shares":{"us":1.0},"others":[],"ttl":30,"more":1}"#;
    assert!(serde_json::from_str::<Digest>(newer).unwrap().lacks("eu"));
}
