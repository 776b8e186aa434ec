//! The store that keeps the writers' leases, as etcd does: members, of which one leads.
//!
//! Whatever is asked goes to the leader, and from there to a majority. When the leader hears no
//! majority, or dies, nothing is granted, renewed or told until another one is elected; and nothing
//! ends, as it is the leader who counts. The next one gives every lease its whole time again, and
//! an election timeout more (etcd's `Lessor.Promote`).

use std::time::Duration;

use super::network::Network;
use crate::ids::RegionId;
use crate::rng::Stream;
use crate::steer::{Contest, Found, Written};
use crate::time::Instant;

/// How often the leader is heard, as etcd has it by default.
const HEARTBEAT: Duration = Duration::from_millis(100);

/// Who has not heard the leader for so long, or for up to twice as long, wants to be elected; as
/// etcd has it by default.
const ELECTION: Duration = Duration::from_secs(1);

/// A store of several members, of which a majority has to hear each other.
pub(super) struct Store {
    members: Vec<Member>,
    leader: Option<usize>,
    /// There will be an election.
    is_planned: bool,
    found: Found,
    /// When the writer's lease runs out, and how long it was granted for.
    lease: (Instant, Duration),
}

struct Member {
    region: RegionId,
    lives: bool,
}

/// After how long which member is elected, if it still hears a majority then.
pub(super) struct Election {
    pub(super) after: Duration,
    pub(super) member: usize,
}

/// What a node asks of the store.
pub(super) enum Ask {
    Find,
    /// How long a lease lasts; renewed first, if so.
    Left(i64, bool),
    /// To name the next writer, unless somebody has since this revision.
    Name(Box<Contest>, i64, String),
    /// An operator wants this region next.
    Want(String),
    /// An operator knows that the writer writes no more: this one does now.
    Replace(Box<Contest>, String),
}

/// What it is told.
pub(super) enum Answer {
    Found(Found),
    Left(Duration),
    Done,
}

impl Store {
    /// Members in these regions; the first one leads.
    pub(super) fn new(regions: &[RegionId]) -> Self {
        let member = |region: &RegionId| Member { region: *region, lives: true };
        Self {
            members: regions.iter().map(member).collect(),
            leader: (!regions.is_empty()).then_some(0),
            is_planned: false,
            found: Found::default(),
            lease: (Instant::default(), Duration::ZERO),
        }
    }

    /// The members in a region die, or start again with what they have on disk.
    pub(super) fn set(&mut self, region: RegionId, lives: bool) {
        let there = self.members.iter_mut().filter(|member| member.region == region);
        there.for_each(|member| member.lives = lives);
    }

    /// The region of the member that leads.
    pub(super) fn leader(&self) -> Option<RegionId> {
        self.leader.and_then(|row| self.members.get(row)).map(|member| member.region)
    }

    /// How long a node in `from` waits for an answer; `None`: nobody leads, or no member that it
    /// reaches hears who does.
    pub(super) fn round_trip(&self, from: RegionId, network: &Network) -> Option<Duration> {
        let leader = self.leader()?;
        let agreed = self.agreement(self.leader?, network)?;
        let reached = self.members.iter().filter(|member| {
            let region = member.region;
            member.lives && hear(from, region, network) && hear(region, leader, network)
        });
        let times = reached.map(|member| {
            let on = network.round_trip(member.region, leader);
            let on = if member.region == leader { Duration::ZERO } else { on };
            network.round_trip(from, member.region) + on + agreed
        });
        times.min()
    }

    /// How long it takes until a majority has what a member tells; `None`: it hears none.
    fn agreement(&self, row: usize, network: &Network) -> Option<Duration> {
        let own = self.members.get(row).filter(|member| member.lives)?.region;
        let living = self.members.iter().filter(|member| member.lives);
        let heard = living.filter(|other| hear(own, other.region, network));
        let mut times: Vec<Duration> =
            heard.map(|other| network.round_trip(own, other.region)).collect();
        times.sort();
        // It counts when the last of a majority has it.
        times.get(self.members.len() / 2).copied()
    }

    /// The network or a member has changed at `now`. Who still hears a majority leads on; else
    /// another one will.
    pub(super) fn change(
        &mut self,
        now: Instant,
        network: &Network,
        dice: &mut Stream,
    ) -> Option<Election> {
        if self.leader.is_some_and(|row| self.agreement(row, network).is_some()) {
            return None;
        }
        if self.leader.is_some() {
            self.end(now);
            self.leader = None;
        }
        if self.is_planned { None } else { self.plan(network, dice) }
    }

    /// The first member to miss the leader is elected. Two that want to be before they hear of each
    /// other split the votes, and it begins anew.
    fn plan(&mut self, network: &Network, dice: &mut Stream) -> Option<Election> {
        let rows = 0..self.members.len();
        let able: Vec<(usize, Duration)> =
            rows.filter_map(|row| Some((row, self.agreement(row, network)?))).collect();
        self.is_planned = !able.is_empty();
        let mut waited = Duration::ZERO;
        loop {
            let mut patience = || {
                // The last heartbeat was a while ago.
                (ELECTION + ELECTION.mul_f64(dice.unit())) - HEARTBEAT.mul_f64(dice.unit())
            };
            let drawn = able.iter().map(|(row, agreed)| (patience(), *row, *agreed));
            let mut drawn: Vec<(Duration, usize, Duration)> = drawn.collect();
            drawn.sort();
            let (first, member, agreed) = *drawn.first()?;
            match drawn.get(1).filter(|(second, ..)| *second < first + agreed / 2) {
                Some((second, ..)) => waited += *second,
                // It asks whether it would be elected, then it is.
                None => return Some(Election { after: waited + first + agreed * 2, member }),
            }
        }
    }

    /// A member is elected, if it still hears a majority; else there will be another election.
    pub(super) fn elect(
        &mut self,
        now: Instant,
        member: usize,
        network: &Network,
        dice: &mut Stream,
    ) -> Option<Election> {
        self.is_planned = false;
        if self.agreement(member, network).is_none() {
            return self.plan(network, dice);
        }
        self.leader = Some(member);
        self.lease.0 = now + self.lease.1 + ELECTION;
        None
    }

    /// What ran out is over.
    fn end(&mut self, now: Instant) {
        if now >= self.lease.0 {
            self.found.writer = None;
        }
    }

    /// What the leader answers; `None`: there is none.
    pub(super) fn answer(&mut self, now: Instant, ask: Ask) -> Option<Answer> {
        self.leader?;
        self.end(now);
        let granted = self.lease.1;
        Some(match ask {
            Ask::Find => Answer::Found(self.found.clone()),
            Ask::Left(number, is_renewed) => {
                let is_held = self.found.writer.as_ref().is_some_and(|(_, of)| *of == number);
                if is_held && is_renewed {
                    self.lease.0 = now + granted;
                }
                // etcd tells whole seconds.
                let left = if is_held { self.lease.0.since(now) } else { Duration::ZERO };
                Answer::Left(Duration::from_secs(left.as_secs()))
            }
            Ask::Name(contest, revision, region) => {
                if self.found.writer.is_none() && self.found.revision == revision {
                    self.name(now, &contest, region);
                }
                Answer::Done
            }
            Ask::Replace(contest, region) => {
                self.name(now, &contest, region);
                Answer::Done
            }
            Ask::Want(region) => {
                self.found.wanted = Some(region);
                Answer::Done
            }
        })
    }

    fn name(&mut self, now: Instant, contest: &Contest, region: String) {
        let epoch = contest.next_epoch(&self.found);
        let written = Written { region: region.clone(), epoch, ttl: contest.ttl.as_secs() };
        let revision = self.found.revision + 1;
        self.lease = (now + contest.lease, contest.lease);
        self.found = Found {
            writer: Some((written.clone(), revision)),
            last: Some(written),
            revision,
            wanted: Some(region),
            wanted_revision: revision,
        };
    }
}

/// Do two regions hear each other?
fn hear(a: RegionId, b: RegionId, network: &Network) -> bool {
    network.passes(a, b) && network.passes(b, a)
}
