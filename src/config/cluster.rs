//! `cluster`: the nodes that decide together.

use std::net::SocketAddr;
use std::path::PathBuf;

use super::Target;
use super::node::Node;
use super::places::Regions;
use super::read::{At, Problems};
use super::yaml::Value;
use crate::health::{Electorate, Panel, Rule, Vantage, WhenIsolated, vantages};
use crate::ids::{NodeId, RegionId};
use crate::steer::{Lease, Policy, Service};

/// The nodes that decide together, this one among them.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Cluster {
    /// The file with the secret that all nodes share.
    pub key: PathBuf,
    /// Where this node hears the others.
    pub listen: SocketAddr,
    /// All nodes, by id.
    pub nodes: Vec<Member>,
    /// Which of them this one is.
    pub own: NodeId,
    /// How they decide.
    pub electorate: Electorate,
    /// How many of them watch each target.
    pub vantages: usize,
}

/// One of the nodes.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Member {
    /// Its name.
    pub name: String,
    /// Where the others reach it.
    pub address: SocketAddr,
    /// The region where it stands, if that is known.
    pub region: Option<String>,
}

impl Member {
    fn vantage(&self) -> Vantage<'_> {
        Vantage { name: &self.name, region: self.region.as_deref() }
    }
}

impl Cluster {
    /// The nodes' names, by id.
    pub fn names(&self) -> Vec<String> {
        self.nodes.iter().map(|node| node.name.clone()).collect()
    }

    /// What of it is the same on every node. Where the key's file is, and where each is reached, as
    /// behind a translation of addresses, may be each node's own.
    pub(super) fn shared(&self) -> String {
        let Electorate { rule, when_isolated, nodes: _ } = self.electorate;
        let nodes: Vec<_> = self.nodes.iter().map(|node| (&node.name, &node.region)).collect();
        format!("{rule:?} {when_isolated:?} {} {nodes:?}", self.vantages)
    }

    /// The region where this node stands, as it is listed.
    pub(super) fn region(&self, regions: &Regions) -> Option<RegionId> {
        regions.id(self.nodes.get(self.own.index())?.region.as_ref()?)
    }

    /// Two nodes, of which this is the first.
    #[cfg(test)]
    pub(crate) fn two() -> Self {
        let address = "192.0.2.1:1".parse().expect("an address");
        let member = |name: &str| Member { name: name.to_owned(), address, region: None };
        Self {
            key: "key".into(),
            listen: address,
            nodes: vec![member("ns1"), member("ns2")],
            own: NodeId::from_index(0).expect("the first"),
            electorate: Electorate::default(),
            vantages: 2,
        }
    }

    /// Who watches a target.
    pub fn panel(&self, target: &Target) -> Panel {
        let nodes: Vec<Vantage<'_>> = self.nodes.iter().map(Member::vantage).collect();
        let mut others = vantages(&target.key(), &nodes, self.vantages);
        Panel { own: others.remove(&self.own), others }
    }
}

/// How many nodes watch each target, if nothing else is said: two may be wrong, or away.
const VANTAGES: usize = 5;

/// More nodes than this need another protocol: each speaks with each.
pub(crate) const MOST_NODES: usize = 32;

/// `cluster`, for this node, with these services.
pub(super) fn read(
    at: Option<At<'_>>,
    node: &Node,
    (regions, services): (&Regions, &[Service]),
    problems: &mut Problems,
) -> Option<Cluster> {
    let (at, name) = (at?, &node.name);
    let mut fields = at.fields(problems)?;
    let key = fields.need("key", problems);
    let key = key.and_then(|at| at.path("the path of a file", problems));
    let named = fields.need("nodes", problems);
    let listen = fields.get("listen").map(|at| at.parsed(ADDRESS, problems));
    let rule = fields.get("quorum").map(|at| rule(&at, problems));
    let when_isolated = fields.get("when_isolated").map(|at| when_isolated(&at, problems));
    let vantages = fields.get("vantages").and_then(|at| at.number(1, MOST_NODES as u64, problems));
    fields.done(problems);
    let mut nodes: Vec<Member> = Vec::new();
    let listed = named.as_ref().map(|at| at.named(problems)).unwrap_or_default();
    for (node, _, at) in listed {
        let Some(member) = member(node, &at, regions, problems) else { continue };
        let address = member.address;
        if nodes.iter().any(|known| known.address == address) {
            problems.error(at.place(), &at.key, format!("{address} is another node's too"));
        }
        nodes.push(member);
    }
    // By name, so that the order in a file makes no difference between nodes.
    nodes.sort();
    let named = named?;
    if nodes.len() > MOST_NODES {
        let what = format!("{} nodes; at most {MOST_NODES} decide together", nodes.len());
        problems.error(named.place(), &named.key, what);
    }
    if node.state.is_none() && nodes.len() > 1 {
        stateless(&at, services, problems);
    }
    let Some(row) = nodes.iter().position(|node| node.name == *name) else {
        let what = format!("this node, {name} (`node.name`), is not among them");
        problems.error(named.place(), &named.key, what);
        return None;
    };
    let (address, region) = nodes.get(row).map(|own| (own.address, &own.region))?;
    let said = node.region.and_then(|id| regions.list.get(id.index())).map(|of| &of.name);
    if let (Some(one), Some(other)) = (said, region)
        && one != other
    {
        let what = format!("{name} stands in {other} here, and in {one} by `node.region`");
        problems.error(named.place(), &named.key, what);
    }
    let rule = rule.unwrap_or(Rule::Majority);
    if let Rule::Number(number) = rule
        && number > nodes.len()
    {
        let what = format!("a quorum of {number}, and there are {} nodes", nodes.len());
        problems.error(at.place(), &at.key, what);
    }
    let when_isolated = when_isolated.unwrap_or(WhenIsolated::Freeze);
    if nodes.len() == 2 && when_isolated == WhenIsolated::Freeze {
        let what = "two nodes can only agree or stand still: without one of them the other moves \
                    nothing; take three, or `when_isolated: alone`";
        problems.warning(named.place(), &named.key, what);
    }
    Some(Cluster {
        key: key?,
        listen: listen.flatten().unwrap_or(address),
        own: NodeId::from_index(row)?,
        electorate: Electorate { nodes: nodes.len(), rule, when_isolated },
        nodes,
        vantages: vantages.and_then(|count| usize::try_from(count).ok()).unwrap_or(VANTAGES),
    })
}

/// A node without a disk: with its end it forgets in which start it spoke, and whom it followed, so
/// that it can be no part of a majority where operators name writers.
fn stateless(at: &At<'_>, services: &[Service], problems: &mut Problems) {
    let is_manual = |of: &&Service| matches!(of.policy, Policy::SingleWriter(_, Lease::Manual));
    if let Some(service) = services.iter().find(is_manual) {
        let what = format!(
            "the service {} has `lease: manual`, where nodes count each other's word of who writes \
             only once it is on disk; set `node.state`",
            service.name
        );
        problems.error(at.place(), &at.key, what);
    } else {
        let what = "without `node.state` a node tells its starts apart by the time of day, and may \
                    not be heard after its clock was set back";
        problems.warning(at.place(), &at.key, what);
    }
}

/// A node: its address, or a map with it.
fn member(name: &str, at: &At<'_>, regions: &Regions, problems: &mut Problems) -> Option<Member> {
    if let Value::Text(_) = &at.node.value {
        let address = at.parsed(ADDRESS, problems)?;
        return Some(Member { name: name.to_owned(), address, region: None });
    }
    let mut fields = at.fields(problems)?;
    let address = fields.need("address", problems);
    let address = address.and_then(|at| at.parsed(ADDRESS, problems));
    let region = fields.get("region").and_then(|at| regions.find(&at, problems));
    fields.done(problems);
    let region = region.and_then(|id| regions.list.get(id.index()));
    Some(Member {
        name: name.to_owned(),
        address: address?,
        region: region.map(|of| of.name.clone()),
    })
}

const ADDRESS: &str = "an address and a port, such as 192.0.2.1:8054";

fn rule(at: &At<'_>, problems: &mut Problems) -> Rule {
    let expected = "majority, any, all, or a number of nodes";
    match at.text(expected, problems) {
        Some("any") => Rule::Any,
        Some("all") => Rule::All,
        Some("majority") | None => Rule::Majority,
        Some(text) => match text.parse() {
            Ok(number) if number > 0 => Rule::Number(number),
            _ => {
                problems.error(at.place(), &at.key, format!("`{text}` given; expected {expected}"));
                Rule::Majority
            }
        },
    }
}

fn when_isolated(at: &At<'_>, problems: &mut Problems) -> WhenIsolated {
    match at.text("freeze or alone", problems) {
        Some("alone") => WhenIsolated::Alone,
        Some("freeze") | None => WhenIsolated::Freeze,
        Some(given) => {
            let place = (at.place(), at.key.as_str());
            problems.unknown(place, ("choice", given), ["freeze", "alone"]);
            WhenIsolated::Freeze
        }
    }
}
