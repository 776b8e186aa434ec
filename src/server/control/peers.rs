//! What the other nodes say, and what this one tells them.
//!
//! | key | value |
//! |---|---|
//! | `o/TARGET` | what a node sees of a target: `up`, `down` |
//! | `w/SUBJECT` | what operators have said of it, in its newest version |
//! | `s/SERVICE` | a digest of a service's answers, and which share of the clients goes where |
//! | `e/SERVICE` | who is to write, as operators said, in its newest version |
//! | `n` | the node itself: version, generation, configuration, doubts |

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::sync::mpsc::UnboundedSender;
use tracing::warn;

use crate::cluster::{FRESH, Heard, Lists};
use crate::config::{Cluster, Member};
use crate::health::State;
use crate::ids::{NodeId, ServiceId, TargetId};
use crate::rng::fnv1a;
use crate::server::cluster::{Hearing, Saying};
use crate::server::handle::Request;
use crate::server::history::{Kind, Level};
use crate::server::overrides::Said;
use crate::snapshot::Snapshot;
use crate::steer::Family;
use crate::time::{Instant, Ttl};

use super::Control;
use super::absent::Unsure;

pub(in crate::server) use lists::Listed;
use over::Over;

mod lists;
mod over;
#[cfg(test)]
mod tests;

/// The other nodes, as far as this one knows them.
pub(in crate::server) struct Peers {
    says: UnboundedSender<Saying>,
    of: Cluster,
    targets: HashMap<String, TargetId>,
    /// What each node says of targets.
    opinions: HashMap<NodeId, BTreeMap<String, State>>,
    digests: HashMap<NodeId, BTreeMap<String, Digest>>,
    conditions: HashMap<NodeId, NodeWord>,
    fresh: BTreeSet<NodeId>,
    /// Until when this node surely hears a majority of a new writer, should nothing more be heard.
    pub(super) fresh_until: Option<Instant>,
    /// By which lists of nodes they go.
    pub(super) lists: Lists,
    own_digests: BTreeMap<String, Digest>,
    own_word: Option<NodeWord>,
    /// They are told how this node answers.
    tells: bool,
    /// Since when which node answers otherwise for which service, and for what share of the
    /// clients at most.
    differing: BTreeMap<(NodeId, String), (Instant, f64)>,
    /// Those that did so and do so no longer: for how long.
    agreed: Vec<(NodeId, String, Duration, f64)>,
    /// Where [`Self::doubt`] may tell something else than before.
    pub(super) unsure: Unsure,
}

/// What a node answers for a service.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
struct Digest {
    hash: u64,
    /// The share of all IPv4 addresses whose clients are sent to each region first.
    shares: BTreeMap<String, f64>,
    /// The other regions that an answer names. An older version does not tell.
    #[serde(default)]
    others: Option<BTreeSet<String>>,
    /// The longest TTL that its answers may be remembered with. An older version does not tell.
    #[serde(default)]
    ttl: Option<u32>,
}

/// What a node says of itself.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct NodeWord {
    /// Its version.
    pub version: String,
    /// Its generation: a count of its own, which differs between nodes.
    pub generation: u64,
    /// A hash of what nodes should have in common in their configurations.
    pub config: String,
    /// It counts its own sight for nothing.
    pub abstains: bool,
    /// It hears too few others.
    pub isolated: bool,
}

/// A node, as this one knows it.
#[derive(Clone, PartialEq, Debug)]
pub struct NodeView {
    /// Its name.
    pub name: String,
    /// It is this one.
    pub is_own: bool,
    /// It is heard.
    pub fresh: bool,
    /// By which list of nodes it goes.
    pub list: Listed,
    /// What it says of itself.
    pub word: Option<NodeWord>,
    /// The services that it answers otherwise than this one: since when, and for what share of
    /// the clients at least.
    pub differs: Vec<(String, Instant, f64)>,
}

impl Peers {
    /// Nothing is heard yet.
    pub(in crate::server) fn new(says: UnboundedSender<Saying>, of: Cluster) -> Self {
        Self {
            says,
            of,
            targets: HashMap::new(),
            opinions: HashMap::new(),
            digests: HashMap::new(),
            conditions: HashMap::new(),
            fresh: BTreeSet::new(),
            fresh_until: None,
            lists: Lists::default(),
            own_digests: BTreeMap::new(),
            own_word: None,
            tells: false,
            differing: BTreeMap::new(),
            agreed: Vec::new(),
            unsure: Unsure::All,
        }
    }

    pub(super) fn say(&self, key: String, value: Option<String>) {
        // The task ends with the server.
        let _ended = self.says.send((key, value));
    }

    /// Tells from now on how this node answers: what it answers before what it is.
    pub(super) fn begin_to_tell(&mut self) {
        if !std::mem::replace(&mut self.tells, true) {
            for (name, digest) in &self.own_digests {
                self.tell(format!("s/{name}"), digest);
            }
            self.own_word.iter().for_each(|word| self.tell("n".to_owned(), word));
        }
    }

    /// Tells something of how this node answers, if it does.
    fn tell(&self, key: String, what: &impl Serialize) {
        if self.tells {
            self.say(key, serde_json::to_string(what).ok());
        }
    }

    /// Is there any other node?
    pub(super) fn are_many(&self) -> bool {
        self.of.nodes.len() > 1
    }

    /// How many others are a majority with this one.
    pub(super) fn needed(&self) -> usize {
        self.of.nodes.len() / 2
    }

    fn name(&self, node: NodeId) -> String {
        self.of.nodes.get(node.index()).map(|of| of.name.clone()).unwrap_or_default()
    }

    /// Which other node may answer with this region of `service`, in none of whose answers it is
    /// here, and why.
    pub(super) fn doubt(&self, service: &str, region: &str) -> Option<String> {
        let others = (0..self.of.nodes.len()).filter_map(NodeId::from_index);
        others.filter(|node| *node != self.of.own).find_map(|node| {
            let name = self.name(node);
            if !self.fresh.contains(&node) {
                return Some(format!("{name} is not heard: how it answers is not known"));
            }
            let theirs = self.digests.get(&node).and_then(|of| of.get(service));
            match (self.own_digests.get(service), theirs) {
                // What it answers is told before what it is.
                (_, None) if !self.conditions.contains_key(&node) => {
                    Some(format!("{name} has not told yet how it answers"))
                }
                (None, None) => None,
                (None, Some(theirs)) if theirs.lacks(region) => None,
                (None, Some(_)) => Some(format!("{name} still answers {service}")),
                (Some(ours), Some(theirs)) if ours.hash == theirs.hash => None,
                (Some(_), Some(theirs)) if self.means_the_same(node) && theirs.lacks(region) => {
                    None
                }
                (Some(_), _) => Some(format!("{name} answers {service} differently")),
            }
        })
    }

    /// The regions, each with its service, that others name who answer otherwise than this node, as
    /// far as that may be news.
    pub(super) fn named_elsewhere(&self) -> impl Iterator<Item = (&str, &str)> {
        let all = self.digests.values();
        let told: Vec<(&String, &Digest)> = match &self.unsure {
            Unsure::All => all.flatten().collect(),
            Unsure::Of(services) => {
                let of = |name| all.clone().filter_map(move |of| of.get_key_value(name));
                services.iter().flat_map(of).collect()
            }
        };
        let differs = move |(service, theirs): &(&String, &Digest)| {
            self.own_digests.get(*service).is_none_or(|ours| ours.hash != theirs.hash)
        };
        let others = told.into_iter().filter(differs);
        others.flat_map(|(service, of)| of.named().map(move |region| (service.as_str(), region)))
    }

    /// The longest TTL that the answers of any node for a service may be remembered with, as far
    /// as they tell.
    pub(super) fn longest_ttl(&self, service: &str) -> Ttl {
        let all = self.digests.values().filter_map(|of| of.get(service)?.ttl);
        Ttl::from_secs(all.max().unwrap_or_default())
    }

    /// Is a region's name for a node the name of what it is here? By another configuration the
    /// same addresses may have another one.
    fn means_the_same(&self, node: NodeId) -> bool {
        let ours = self.own_word.as_ref().map(|word| &word.config);
        ours.is_some() && ours == self.conditions.get(&node).map(|word| &word.config)
    }

    /// Learns what a node says of itself.
    fn learn(&mut self, node: NodeId, word: NodeWord) {
        let config = word.config.clone();
        let before = self.conditions.insert(node, word);
        if before.is_none_or(|before| before.config != config) {
            self.unsure = Unsure::All;
        }
    }

    /// Notes whether a node answers for a service as this one does.
    fn compare(&mut self, now: Instant, node: NodeId, service: &str) {
        let theirs = self.digests.get(&node).and_then(|of| of.get(service));
        let ours = self.own_digests.get(service);
        let key = (node, service.to_owned());
        self.unsure.add(service);
        match (ours, theirs) {
            (Some(ours), Some(theirs)) if ours.hash != theirs.hash => {
                let share = ours.distance(theirs);
                let (_, most) = self.differing.entry(key).or_insert((now, share));
                *most = most.max(share);
            }
            _ => {
                if let Some((since, share)) = self.differing.remove(&key) {
                    self.agreed.push((node, service.to_owned(), now.since(since), share));
                }
            }
        }
    }

    /// All nodes, as this one knows them.
    fn view(&self) -> Vec<NodeView> {
        let view = |(row, member): (usize, &Member)| {
            let node = NodeId::from_index(row)?;
            let is_own = node == self.of.own;
            let differs = self.differing.iter().filter(|((of, _), _)| *of == node);
            let differs = differs.map(|((_, service), (since, _))| {
                let theirs = self.digests.get(&node).and_then(|of| of.get(service));
                let ours = self.own_digests.get(service);
                let share = ours.zip(theirs).map_or(0.0, |(ours, theirs)| ours.distance(theirs));
                (service.clone(), *since, share)
            });
            let word = if is_own { self.own_word.as_ref() } else { self.conditions.get(&node) };
            Some(NodeView {
                name: member.name.clone(),
                is_own,
                fresh: is_own || self.fresh.contains(&node),
                list: self.listed(node),
                word: word.cloned(),
                differs: differs.collect(),
            })
        };
        self.of.nodes.iter().enumerate().filter_map(view).collect()
    }
}

impl Digest {
    /// What `snapshot` answers for a service, whose answers may be remembered for this long. Its
    /// TTLs are not in the hash: they follow suspicions, which are each node's own.
    fn of(snapshot: &Snapshot, id: ServiceId, ttl: Ttl) -> Option<Self> {
        let service = snapshot.service(id)?;
        let mut text = String::new();
        let (mut shares, mut others) = (BTreeMap::new(), BTreeSet::new());
        let name = |id| snapshot.plan().region_name(id).to_owned();
        for family in Family::ALL {
            for (ready, share) in service.selector(family).iter().flat_map(|of| of.answers()) {
                let addresses = ready.choice.addresses.iter().map(ToString::to_string);
                text.extend(addresses.chain([format!(" {share:.6};")]));
                if family == Family::V4 {
                    let first = ready.first.map(name).unwrap_or_default();
                    *shares.entry(first).or_insert(0.0) += share;
                }
                others.extend(ready.regions.iter().map(name));
            }
        }
        others.retain(|name| !shares.contains_key(name));
        let hash = fnv1a(text.as_bytes());
        Some(Self { hash, shares, others: Some(others), ttl: Some(ttl.as_secs()) })
    }

    /// The regions that answers name, as far as it tells.
    fn named(&self) -> impl Iterator<Item = &str> {
        let names = self.shares.keys().chain(self.others.iter().flatten());
        names.map(String::as_str).filter(|name| !name.is_empty())
    }

    /// Is a region surely in no answer?
    fn lacks(&self, region: &str) -> bool {
        let is_other = self.others.as_ref().is_none_or(|of| of.contains(region));
        !is_other && !self.shares.contains_key(region)
    }

    /// The share of clients that are sent to another region, at least.
    fn distance(&self, other: &Self) -> f64 {
        let regions: BTreeSet<&String> = self.shares.keys().chain(other.shares.keys()).collect();
        let of = |digest: &Self, region: &String| digest.shares.get(region).copied().unwrap_or(0.0);
        let moved = regions.iter().map(|region| (of(self, region) - of(other, region)).abs());
        moved.sum::<f64>() / 2.0
    }
}

/// The key under which nodes speak of a target.
fn key_of(target: &crate::config::Target) -> String {
    format!("o/{:016x}", fnv1a(target.key().as_bytes()))
}

impl Control {
    /// Learns the targets of a new configuration, and what others have said of them.
    pub(super) fn meet(&mut self) {
        self.note_unmet();
        let now = self.clock.now();
        let Some(peers) = &mut self.peers else { return };
        peers.unsure = Unsure::All;
        let targets = &self.loaded.config.targets;
        let shared = targets.iter().filter(|target| {
            // What is told to this node, or tells of it, is this node's own.
            let is_own = target.check.is_told() || self.loaded.config.canaries.contains(&target.id);
            peers.of.nodes.len() > peers.of.vantages && !is_own
        });
        let panels = shared.map(|target| (target.id, peers.of.panel(target))).collect();
        self.monitor.share(now, panels);
        peers.targets = targets.iter().map(|target| (key_of(target), target.id)).collect();
        let opinions = peers.opinions.iter();
        let known =
            opinions.flat_map(|(node, of)| of.iter().map(move |(key, of)| (*node, key, of)));
        for (node, key, state) in known {
            if let Some(target) = peers.targets.get(key) {
                self.monitor.handle_opinion(now, node, *target, Some(*state));
            }
        }
        let services: BTreeSet<&String> =
            self.loaded.config.services.iter().map(|service| &service.name).collect();
        let gone = peers.own_digests.keys().filter(|name| !services.contains(name));
        for name in gone.cloned().collect::<Vec<_>>() {
            peers.own_digests.remove(&name);
            peers.differing.retain(|(_, service), _| *service != name);
            peers.say(format!("s/{name}"), None);
        }
        for said in &self.said {
            peers.say(format!("w/{}", said.subject), Some(said.spoken()));
        }
        self.tell_named();
    }

    /// Tells the others what this node sees, as far as they do not know.
    pub(super) fn tell_others(&mut self) {
        let Some(peers) = &self.peers else {
            while self.monitor.poll_opinion().is_some() {}
            return;
        };
        while let Some((target, opinion)) = self.monitor.poll_opinion() {
            if let Some(target) = self.loaded.config.target(target) {
                peers.say(key_of(target), opinion.map(|state| state.to_string()));
            }
        }
    }

    /// Takes back what this node said of targets that it will have no more: the others would count
    /// it for as long as they hear this node.
    pub(super) fn withdraw(&self, gone: &[TargetId]) {
        let Some(peers) = &self.peers else { return };
        let gone = gone.iter().filter_map(|target| self.loaded.config.target(*target));
        gone.for_each(|target| peers.say(key_of(target), None));
    }

    /// Tells the others what is answered for these services now, or for all.
    pub(super) fn tell_answers(&mut self, changed: Option<&[ServiceId]>) {
        let now = self.clock.now();
        let Some(peers) = &mut self.peers else { return };
        let snapshot = self.published.load();
        let all: Vec<ServiceId> = match changed {
            Some(changed) => changed.to_vec(),
            None => snapshot.plan().ids().collect(),
        };
        let others: Vec<NodeId> = peers.digests.keys().copied().collect();
        for id in all {
            let Some(service) = snapshot.plan().services.get(id.index()) else { continue };
            let ttl = service.ttl.max(self.ttls.longest(&service.name, now));
            let Some(digest) = Digest::of(&snapshot, id, ttl) else { continue };
            let name = service.name.clone();
            if peers.own_digests.get(&name) != Some(&digest) {
                peers.tell(format!("s/{name}"), &digest);
                peers.own_digests.insert(name.clone(), digest);
                peers.unsure.add(&name);
                others.iter().for_each(|node| peers.compare(now, *node, &name));
            }
        }
    }

    /// Tells of disagreements that are over, as far as they were more than news on its way.
    pub(super) fn tell_agreements(&mut self) {
        let Some(peers) = &mut self.peers else { return };
        let over = std::mem::take(&mut peers.agreed);
        let over: Vec<_> = over.into_iter().filter(|(.., span, _)| *span > FRESH).collect();
        for (node, service, span, share) in over {
            let name = self.peers.as_ref().map(|peers| peers.name(node)).unwrap_or_default();
            let services = self.loaded.config.services.iter();
            let ttl = services.filter(|of| of.name == service).map(|of| of.ttl).max();
            let over = Over { node: name, service, span, share, ttl: ttl.unwrap_or_default() };
            let (loaded, requests) = (self.loaded.clone(), self.requests_to_self.clone());
            // The model takes up to a second where there are many keys.
            tokio::task::spawn_blocking(move || {
                let why = over.report(&loaded.config);
                let requests = requests.upgrade();
                // Nobody is left to be told when the server ends.
                let _gone = requests.map(|of| of.blocking_send(Request::Agreed(over.node, why)));
            });
        }
    }

    /// A node agrees again; `why` tells what it cost that it did not.
    pub(super) fn tell_agreed(&mut self, node: String, why: String) {
        let told = (node, "agrees again".to_owned());
        self.tell(Level::Warn, Kind::Node, told, (why, String::new()), None);
    }

    /// Tells the others how this node is.
    pub(super) fn tell_condition(&mut self) {
        let word = NodeWord {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            generation: self.published.load().generation(),
            config: format!("{:016x}", self.loaded.config.shared_hash),
            abstains: self.monitor.abstains(),
            isolated: self.monitor.is_isolated(),
        };
        let Some(peers) = &mut self.peers else { return };
        if peers.own_word.as_ref() != Some(&word) {
            peers.tell("n".to_owned(), &word);
            if peers.own_word.as_ref().is_none_or(|before| before.config != word.config) {
                peers.unsure = Unsure::All;
            }
            peers.own_word = Some(word);
        }
    }

    /// Others say something.
    pub(super) fn hear(&mut self, heard: Vec<Heard>) {
        let now = self.clock.now();
        let mut words = Vec::new();
        for heard in heard {
            let Some(peers) = &mut self.peers else { return };
            match heard {
                Heard::Anew(node) => {
                    self.monitor.handle_anew(now, node);
                    peers.opinions.remove(&node);
                    peers.digests.remove(&node);
                    peers.conditions.remove(&node);
                    peers.unsure = Unsure::All;
                    peers.differing.retain(|(of, _), _| *of != node);
                    self.forget_follower(node);
                }
                Heard::Entry(node, key, value) => match (key.split_once('/'), value) {
                    (Some(("o", _)), value) => self.hear_opinion(node, key, value.as_deref()),
                    (Some(("s", service)), value) => {
                        let digest = value.and_then(|value| serde_json::from_str(&value).ok());
                        let of_node = peers.digests.entry(node).or_default();
                        match digest {
                            Some(digest) => of_node.insert(service.to_owned(), digest),
                            None => of_node.remove(service),
                        };
                        peers.compare(now, node, service);
                    }
                    (Some(("w", subject)), Some(value)) => match Said::told(subject, &value) {
                        Some(said) => {
                            let name = peers.name(node);
                            words.extend(self.hear_word(&name, said));
                        }
                        None => warn!(subject, "a word of another node makes no sense"),
                    },
                    (Some(("e", service)), Some(value)) => match serde_json::from_str(&value) {
                        Ok(named) => self.hear_writer(node, service, &named),
                        Err(_) => warn!(service, "a word of another node makes no sense"),
                    },
                    (Some(("e", service)), None) => self.lose_follower(node, service),
                    (None, Some(value)) if key == "n" => {
                        if let Ok(word) = serde_json::from_str(&value) {
                            peers.learn(node, word);
                        }
                    }
                    // A newer version may say more.
                    _ => {}
                },
            }
        }
        self.follow_words(words);
    }

    fn hear_opinion(&mut self, node: NodeId, key: String, value: Option<&str>) {
        let now = self.clock.now();
        let Some(peers) = &mut self.peers else { return };
        let opinion = match value {
            Some("up") => Some(State::Up),
            Some("down") => Some(State::Down),
            _ => None,
        };
        if let Some(target) = peers.targets.get(&key) {
            self.monitor.handle_opinion(now, node, *target, opinion);
        }
        let of_node = peers.opinions.entry(node).or_default();
        match opinion {
            Some(state) => of_node.insert(key, state),
            None => of_node.remove(&key),
        };
    }

    /// These other nodes are heard.
    pub(super) fn see_peers(&mut self, hearing: Hearing) {
        let now = self.clock.now();
        let Hearing { fresh, until, lists } = hearing;
        if let Some(peers) = &mut self.peers {
            if peers.fresh != fresh {
                peers.fresh.clone_from(&fresh);
                peers.unsure = Unsure::All;
            }
            peers.fresh_until = until;
            let before = std::mem::replace(&mut peers.lists, lists);
            self.tell_of_lists(&before);
        }
        self.monitor.handle_peers(now, fresh);
        self.see_standing();
    }

    /// All nodes; none, if this one is alone.
    pub(super) fn nodes(&self) -> Vec<NodeView> {
        self.peers.as_ref().map(Peers::view).unwrap_or_default()
    }

    /// Who sees what of the targets on which the nodes are not of one mind.
    pub(super) fn disputes(&self) -> Vec<(TargetId, Vec<(String, State)>)> {
        let Some(peers) = &self.peers else { return Vec::new() };
        let disputed = self.monitor.targets().filter(|target| {
            let votes = self.monitor.table().get(*target).votes;
            votes.up > 0 && votes.down > 0
        });
        let told = disputed.map(|target| {
            let sights = self.monitor.sights(target).into_iter();
            let named =
                sights.map(|(node, state)| (peers.name(node.unwrap_or(peers.of.own)), state));
            (target, named.collect())
        });
        told.collect()
    }
}
