//! Carries what nodes tell each other: one UDP socket, sealed packets.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use metrics::counter;
use tokio::net::UdpSocket;
use tokio::sync::mpsc::{Sender, UnboundedReceiver, unbounded_channel};
use tokio::sync::watch;
use tokio::time::{sleep_until, timeout};
use tracing::{debug, info, warn};

use super::StartError;
use super::clock::Clock;
use super::control::Peers;
use super::files::read;
use super::handle::{Handle, Request};
use super::load::Loaded;
use super::seal::Seal;
use super::socket::as_itself;
use super::store::Store;
use crate::cluster::{FRESH, Gossip, HEARTBEAT, Heard, LONGER, List, Lists, Message};
use crate::config::Problem;
use crate::health::Electorate;
use crate::ids::NodeId;
use crate::time::Instant;

/// Who is heard, and what may be made of it.
#[derive(Debug)]
pub(super) struct Hearing {
    /// The other nodes that are heard.
    pub(super) fresh: BTreeSet<NodeId>,
    /// Until when this node surely hears enough of them for a majority.
    pub(super) until: Option<Instant>,
    /// By which lists of nodes they go.
    pub(super) lists: Lists,
}

/// Where other nodes are from whom packets came that the key does not open, and when the last did.
#[derive(Clone, Debug, Default)]
pub(super) struct Unopened(Arc<Mutex<BTreeMap<SocketAddr, Instant>>>);

impl Unopened {
    fn note(&self, now: Instant, from: SocketAddr) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(from, now);
    }

    /// From where one came just now.
    pub(super) fn at(&self, now: Instant) -> BTreeSet<SocketAddr> {
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        known.iter().filter(|(_, at)| now.since(**at) < LATELY).map(|(from, _)| *from).collect()
    }
}

/// For so long it is told of a packet: nodes send some each second.
const LATELY: Duration = Duration::from_secs(10);

/// How often it is logged: whoever sends such packets is not to fill the log.
const LOG_EVERY: Duration = Duration::from_secs(60);

/// Something that this node says from now on: under this key this, or nothing.
pub(super) type Saying = (String, Option<String>);

/// The largest packet that is read: earlier versions send what is long in one.
const LARGEST: usize = 16 * 1024;

/// The task that speaks and listens.
pub(super) struct Cluster {
    clock: Clock,
    socket: UdpSocket,
    seal: Seal,
    incarnation: u64,
    gossip: Gossip,
    /// What each node is called, by id.
    names: Vec<String>,
    /// Where each node is, by id.
    addresses: Vec<SocketAddr>,
    /// How many others must be heard for a quorum.
    needed: usize,
    /// What this node says.
    says: UnboundedReceiver<Saying>,
    /// Who decides by what is heard.
    control: Sender<Request>,
    store: Store,
    /// Whether another process speaks for this node.
    quiet: watch::Receiver<bool>,
    unopened: Unopened,
    /// When that was logged last.
    logged: Option<Instant>,
}

/// The least that a secret must have: 256 bits, however they are written.
const SHORTEST_KEY: usize = 32;

/// The secret in `file`: its first line.
///
/// # Errors
/// It cannot be read, or is too short.
pub(super) fn key(file: &Path) -> Result<Vec<u8>, Problem> {
    let problem = |what| Problem::of_file(&file.display().to_string(), what);
    let octets = read(file).map_err(problem)?;
    let line = octets.split(|octet| *octet == b'\n').next().unwrap_or_default().trim_ascii();
    if line.len() < SHORTEST_KEY {
        return Err(problem(format!(
            "a key of {} octets; expected at least {SHORTEST_KEY}, such as `openssl rand -hex 32` \
             writes",
            line.len()
        )));
    }
    Ok(line.to_vec())
}

/// A task that is woken every heartbeat and was not for so long stood still.
const PAUSED: Duration = Duration::from_secs(1);

/// How long a start waits for the disk, to know in which incarnation it speaks.
const KEPT_WITHIN: Duration = Duration::from_secs(3);

/// In which incarnation to speak to other nodes from now on, after `before`.
pub(super) async fn incarnation(store: &Store, clock: Clock, before: u64) -> u64 {
    let least = clock.now().as_nanos().max(before + 1);
    match timeout(KEPT_WITHIN, store.incarnation(least)).await {
        Ok(Ok(given)) => return given,
        Ok(Err(error)) => warn!(error, "in which start this node speaks could not be kept"),
        Err(_) => warn!("in which start this node speaks could not be kept: the disk hangs"),
    }
    counter!("meridian_state_lost_total").increment(1);
    least
}

/// All that a node needs to speak with others, and silent yet.
pub(super) struct Speech {
    of: crate::config::Cluster,
    socket: UdpSocket,
    seal: Seal,
    incarnation: u64,
    list: List,
}

impl Speech {
    /// What the configuration says of other nodes, in this incarnation; the list of nodes that was
    /// `agreed` last.
    ///
    /// # Errors
    /// The key cannot be had.
    pub(super) fn new(
        loaded: &Loaded,
        socket: UdpSocket,
        incarnation: u64,
        agreed: Option<&[String]>,
    ) -> Result<Self, StartError> {
        let of = loaded.config.cluster.clone();
        let of = of.ok_or_else(|| io::Error::other("there are no other nodes"))?;
        let key = key(&loaded.folder.join(&of.key));
        let key = key.map_err(|problem| StartError::Problems(vec![problem]))?;
        let names = of.names();
        let list = List::new(&names, of.own, agreed);
        let seal = Seal::new(&key, names, of.own, incarnation);
        let seal = seal.ok_or_else(|| io::Error::other("the cluster's key cannot be used"))?;
        Ok(Self { of, socket, seal, incarnation, list })
    }

    /// Who decides, what the control task needs for it, and the task that speaks and listens,
    /// unless it is to be `quiet`.
    pub(super) fn begin(
        self,
        clock: Clock,
        handle: &Handle,
        quiet: watch::Receiver<bool>,
    ) -> (Electorate, Peers, Cluster) {
        let Self { of, socket, seal, incarnation, list } = self;
        let others = (0..of.nodes.len()).filter_map(NodeId::from_index).filter(|id| *id != of.own);
        let (sayer, says) = unbounded_channel();
        let task = Cluster {
            clock,
            socket,
            seal,
            incarnation,
            gossip: Gossip::new(incarnation, others).by(list),
            names: of.names(),
            addresses: of.nodes.iter().map(|of| of.address).collect(),
            // With this node they are more than half.
            needed: of.nodes.len() / 2,
            says,
            control: handle.requests.clone(),
            store: handle.store.clone(),
            quiet,
            unopened: handle.unopened.clone(),
            logged: None,
        };
        (of.electorate, Peers::new(sayer, of), task)
    }
}

impl Cluster {
    /// Runs until nobody listens.
    pub(super) async fn run(mut self) {
        let mut buffer = vec![0; LARGEST];
        let (mut fresh, mut listed) = (BTreeSet::new(), Lists::default());
        let (mut told, mut last) = (None, self.clock.now());
        loop {
            if *self.quiet.borrow() {
                if self.quiet.wait_for(|quiet| !quiet).await.is_err() {
                    return;
                }
                self.speak_again().await;
            }
            let now = self.clock.now();
            if now.since(last) > PAUSED {
                // This process stood still. What came meanwhile tells what was.
                while self.socket.try_recv_from(&mut buffer).is_ok() {}
            }
            last = now;
            self.transmit(now).await;
            let heard: Vec<Heard> = std::iter::from_fn(|| self.gossip.poll_heard()).collect();
            let peers = self.gossip.fresh(now);
            if !heard.is_empty() && self.control.send(Request::Heard(heard)).await.is_err() {
                return;
            }
            let until = self.gossip.fresh_until(self.needed);
            let is_longer = until > told.map(|told: Instant| told + LONGER);
            let lists = self.gossip.lists(now);
            if peers != fresh || is_longer || lists != listed {
                if lists.is_agreed && !listed.is_agreed {
                    info!(nodes = ?self.names, "the list of nodes is agreed");
                    self.store.list(Some(self.names.clone()));
                }
                fresh.clone_from(&peers);
                listed.clone_from(&lists);
                told = until;
                let hearing = Hearing { fresh: peers, until, lists };
                if self.control.send(Request::Peers(hearing)).await.is_err() {
                    return;
                }
            }
            // Also often enough to see when somebody falls silent.
            let wake = self.gossip.poll_timeout().unwrap_or(now + FRESH).min(now + HEARTBEAT);
            tokio::select! {
                said = self.says.recv() => match said {
                    Some((key, value)) => self.say(key, value),
                    None => return,
                },
                received = self.socket.recv_from(&mut buffer) => match received {
                    Ok((length, from)) => {
                        self.receive(from, buffer.get_mut(..length).unwrap_or_default());
                    }
                    Err(error) => debug!(%error, "cluster"),
                },
                // An error: nobody will ever take this one's place.
                _ = self.quiet.changed(), if self.quiet.has_changed().is_ok() => {}
                () = sleep_until(self.clock.on_tokio(wake)) => {}
            }
        }
    }

    /// Speaks after another process spoke for this node: its word was the newer one, and what it
    /// heard and kept counts here too. Others count on that.
    async fn speak_again(&mut self) {
        let why = match timeout(KEPT_WITHIN, self.store.again()).await {
            Ok(Ok(known)) => {
                // Nobody is left to be told when the server ends.
                let _ended = self.control.send(Request::Recalled(Box::new(known))).await;
                None
            }
            Ok(Err(error)) => Some(error),
            Err(_) => Some("the disk hangs".to_owned()),
        };
        if let Some(why) = why {
            warn!(why, "what the process before has heard cannot be read");
        }
        self.incarnation = incarnation(&self.store, self.clock, self.incarnation).await;
        if self.seal.renew(self.incarnation) {
            self.gossip.renew(self.incarnation);
        }
    }

    /// Says something, and what else there is to say.
    fn say(&mut self, key: String, value: Option<String>) {
        self.gossip.set(key, value);
        while let Ok((key, value)) = self.says.try_recv() {
            self.gossip.set(key, value);
        }
    }

    fn receive(&mut self, sender: SocketAddr, packet: &mut [u8]) {
        let opened = self.seal.open(packet);
        let read = opened.and_then(|(from, incarnation, octets)| {
            Some((from, incarnation, Message::decode(octets)?))
        });
        match read {
            Some((from, incarnation, message)) => {
                self.gossip.handle(self.clock.now(), from, incarnation, message);
            }
            None => self.refuse(as_itself(sender)),
        }
    }

    /// Counts a packet that the key does not open, and tells of it, unless its sender is heard:
    /// then it was only here before.
    fn refuse(&mut self, sender: SocketAddr) {
        counter!("meridian_cluster_refused_total").increment(1);
        let now = self.clock.now();
        let of = self.addresses.iter().position(|address| *address == sender);
        let is_heard = of.and_then(NodeId::from_index).is_some_and(|id| self.hears(now, id));
        if of.is_some() && !is_heard {
            self.unopened.note(now, sender);
        }
        if !is_heard && self.logged.is_none_or(|at| now.since(at) >= LOG_EVERY) {
            self.logged = Some(now);
            warn!(%sender, "a packet came that `cluster.key` does not open: is it the same there?");
        }
    }

    fn hears(&self, now: Instant, node: NodeId) -> bool {
        self.gossip.fresh(now).contains(&node)
    }

    async fn transmit(&mut self, now: Instant) {
        while let Some((to, messages)) = self.gossip.poll_transmit(now) {
            for message in messages {
                self.send(to, &message).await;
            }
        }
    }

    /// Sends one message; what is lost is told again.
    async fn send(&mut self, to: NodeId, message: &Message) {
        let Some(address) = self.addresses.get(to.index()) else { return };
        let Some(packet) = self.seal.close(to, &message.encode()) else { return };
        if let Err(error) = self.socket.send_to(&packet, address).await {
            debug!(%error, %address, "cluster");
        }
    }
}
