//! `cluster`: the nodes that decide together.

use std::net::SocketAddr;
use std::path::PathBuf;

use super::read::{At, Problems};
use crate::health::{Electorate, Rule, WhenIsolated};
use crate::ids::NodeId;

/// The nodes that decide together, this one among them.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Cluster {
    /// The file with the secret that all nodes share.
    pub key: PathBuf,
    /// Where this node hears the others.
    pub listen: SocketAddr,
    /// All nodes, by id: names and addresses.
    pub nodes: Vec<(String, SocketAddr)>,
    /// Which of them this one is.
    pub own: NodeId,
    /// How they decide.
    pub electorate: Electorate,
}

/// More nodes than this need another protocol: each speaks with each.
const MOST_NODES: usize = 32;

/// `cluster`, for the node called `name`.
pub(super) fn read(at: Option<At<'_>>, name: &str, problems: &mut Problems) -> Option<Cluster> {
    let at = at?;
    let mut fields = at.fields(problems)?;
    let key = fields.need("key", problems);
    let key = key.and_then(|at| at.text("the path of a file", problems)).map(PathBuf::from);
    let named = fields.need("nodes", problems);
    let listen = fields.get("listen").map(|at| at.parsed(ADDRESS, problems));
    let rule = fields.get("quorum").map(|at| rule(&at, problems));
    let when_isolated = fields.get("when_isolated").map(|at| when_isolated(&at, problems));
    fields.done(problems);
    let mut nodes: Vec<(String, SocketAddr)> = Vec::new();
    let listed = named.as_ref().map(|at| at.named(problems)).unwrap_or_default();
    for (node, _, at) in listed {
        let Some(address) = at.parsed::<SocketAddr>(ADDRESS, problems) else { continue };
        if nodes.iter().any(|(_, known)| *known == address) {
            problems.error(at.place(), &at.key, format!("{address} is another node's too"));
        }
        nodes.push((node.to_owned(), address));
    }
    // By name, so that the order in a file makes no difference between nodes.
    nodes.sort();
    let named = named?;
    if nodes.len() > MOST_NODES {
        let what = format!("{} nodes; at most {MOST_NODES} decide together", nodes.len());
        problems.error(named.place(), &named.key, what);
    }
    let Some(row) = nodes.iter().position(|(node, _)| node == name) else {
        let what = format!("this node, {name} (`node.name`), is not among them");
        problems.error(named.place(), &named.key, what);
        return None;
    };
    let (_, address) = *nodes.get(row)?;
    let rule = rule.unwrap_or(Rule::Majority);
    if let Rule::Number(number) = rule
        && number > nodes.len()
    {
        let what = format!("a quorum of {number}, and there are {} nodes", nodes.len());
        problems.error(at.place(), &at.key, what);
    }
    let when_isolated = when_isolated.unwrap_or(WhenIsolated::Freeze);
    Some(Cluster {
        key: key?,
        listen: listen.flatten().unwrap_or(address),
        own: NodeId::from_index(row)?,
        electorate: Electorate { nodes: nodes.len(), rule, when_isolated },
        nodes,
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
