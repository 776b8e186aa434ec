//! What outlives a reload.

use super::*;

/// Two services of one address, with checks that differ in what stands behind each.
fn probed(targets: &mut Targets, [first, second]: [&str; 2]) -> Vec<(String, TargetId)> {
    let text = format!(
        "regions: {{ us: {{}} }}
checks: {{ one: {{ tcp: 443{first} }}, two: {{ tcp: 443{second} }} }}
zones: {{ example.com: {{ ns: ns1.example.net }} }}
services:
  a: {{ names: a.example.com, check: one, regions: {{ us: 192.0.2.1 }} }}
  b: {{ names: b.example.com, check: two, regions: {{ us: 192.0.2.1 }} }}
"
    );
    let mut no_files = |_: &Path| Err("no file".to_owned());
    let config = Config::load("test", &text, targets, &mut no_files).unwrap();
    config.targets.iter().map(|target| (target.key(), target.id)).collect()
}

#[test]
fn what_is_known_of_a_target_outlives_a_change_of_its_schedule() {
    let mut targets = Targets::default();
    let one = probed(&mut targets, ["", ""]);
    assert_eq!(one, [("192.0.2.1 tcp 443".to_owned(), one[0].1)]);
    assert_eq!(probed(&mut targets, [", interval: 1s", ", interval: 1s"]), one);
    // Where two services go by two schedules, the second one is another target.
    let two = probed(&mut targets, [", rise: 3", ", slow_after: 1s"]);
    assert_eq!((two.len(), &two[0], &*two[1].0), (2, &one[0], "192.0.2.1 tcp 443 #2"));
    assert_ne!(two[1].1, one[0].1);
    assert_eq!(probed(&mut targets, ["", ", rise: 3"]), two);
    assert_eq!(probed(&mut targets, ["", ""]), one);
}

#[test]
fn a_node_stands_where_its_cluster_has_it() {
    let region = |own: &str, listed: &str| {
        let text = format!(
            "node: {{ name: ns1{own} }}
cluster: {{ key: key, nodes: {{ ns1: {{ address: \"192.0.2.1:8054\"{listed} }} }} }}
regions: {{ us: {{}}, eu: {{}} }}
zones: {{ example.com: {{ ns: ns1.example.net }} }}
services: {{ a: {{ names: a.example.com, regions: {{ us: 192.0.2.1, eu: 192.0.2.2 }} }} }}
"
        );
        let mut no_files = |_: &Path| Err("no file".to_owned());
        let config = Config::load("test", &text, &mut Targets::default(), &mut no_files).unwrap();
        config.node.region.map(RegionId::index)
    };
    assert_eq!(region("", ", region: eu"), Some(1));
    assert_eq!(region(", region: eu", ""), Some(1));
    assert_eq!(region(", region: eu", ", region: eu"), Some(1));
    assert_eq!(region("", ""), None);
}

#[test]
fn nodes_are_told_apart_by_how_they_decide_together() {
    let hash = |cluster: &str| {
        let text = format!(
            "node: {{ name: ns1 }}
cluster: {{ {cluster} }}
regions: {{ us: {{}}, eu: {{}} }}
zones: {{ example.com: {{ ns: ns1.example.net }} }}
services: {{ a: {{ names: a.example.com, regions: {{ us: 192.0.2.1, eu: 192.0.2.2 }} }} }}
"
        );
        let mut no_files = |_: &Path| Err("no file".to_owned());
        let loaded = Config::load("test", &text, &mut Targets::default(), &mut no_files);
        loaded.unwrap().shared_hash
    };
    let nodes = "key: key, nodes: { ns1: \"192.0.2.1:8054\", ns2: \"192.0.2.2:8054\",
  ns3: { address: \"192.0.2.3:8054\", region: eu } }";
    let same = hash(nodes);
    for own in [
        format!("{nodes}, listen: \"0.0.0.0:8054\""),
        nodes.replace("key: key", "key: /etc/meridian/key"),
        // From behind a translation of addresses the others are elsewhere.
        nodes.replace("192.0.2.2:8054", "10.0.0.2:8054"),
        // What is the default may be said.
        format!("{nodes}, quorum: majority, vantages: 5, when_isolated: freeze"),
    ] {
        assert_eq!(hash(&own), same, "{own}");
    }
    for other in [
        format!("{nodes}, quorum: any"),
        format!("{nodes}, quorum: 2"),
        format!("{nodes}, vantages: 2"),
        format!("{nodes}, when_isolated: alone"),
        nodes.replace("region: eu", "region: us"),
        nodes.replace("ns2", "ns4"),
    ] {
        assert_ne!(hash(&other), same, "{other}");
    }
}
