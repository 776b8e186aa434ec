//! By which lists of nodes they go: told to whoever operates them.

use super::Peers;
use crate::cluster::Lists;
use crate::ids::NodeId;
use crate::server::control::Control;
use crate::server::history::{Kind, Level};

/// By which list of nodes a node goes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Listed {
    /// By the one that is agreed.
    Agreed,
    /// By the same as this one, on which one of the two has not agreed yet; or that is not known.
    Unagreed,
    /// By another than this one.
    Another,
}

impl Listed {
    /// A word for it.
    pub fn label(self) -> &'static str {
        match self {
            Self::Agreed => "agreed",
            Self::Unagreed => "not agreed",
            Self::Another => "another",
        }
    }
}

impl Peers {
    /// Is a node of this name in the list that this one goes by?
    pub(in crate::server::control) fn lists(&self, name: &str) -> bool {
        self.of.nodes.iter().any(|of| of.name == name)
    }

    /// By which list of nodes a node goes.
    pub(super) fn listed(&self, node: NodeId) -> Listed {
        let Lists { is_agreed, counting, differing } = &self.lists;
        if differing.contains(&node) {
            return Listed::Another;
        }
        let has_agreed = counting.contains(&node) || (node == self.of.own && *is_agreed);
        if has_agreed { Listed::Agreed } else { Listed::Unagreed }
    }
}

impl Control {
    /// Tells who goes by another list of nodes, and did not `before`.
    pub(super) fn tell_of_lists(&mut self, before: &Lists) {
        let Some(peers) = &self.peers else { return };
        let began = peers.lists.differing.difference(&before.differing);
        let began: Vec<String> = began.map(|node| peers.name(*node)).collect();
        for node in began {
            let told = (node, "goes by another list of nodes".to_owned());
            self.tell(Level::Warn, Kind::Node, told, (ANOTHER.to_owned(), String::new()), None);
        }
    }
}

const ANOTHER: &str = "its `cluster.nodes` are not those of this node; until they are, neither \
                       counts the other where operators name writers";
