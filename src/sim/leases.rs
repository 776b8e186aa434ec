//! The writers' leases: the store that keeps them, as etcd would, and how a node looks at it.

use std::time::Duration;

use super::network::Network;
use super::world::{Event, World};
use crate::ids::RegionId;
use crate::steer::{ASK_EVERY, ASK_PATIENCE, Contest, Found, Leased, Turn, Vacancy, Written};
use crate::time::Instant;

/// A store of several members, of which a majority has to hear each other.
pub(super) struct Store {
    members: Vec<RegionId>,
    found: Found,
    /// When the writer's lease runs out, and how long it was granted for.
    lease: (Instant, Duration),
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
    pub(super) fn new(members: Vec<RegionId>) -> Self {
        Self { members, found: Found::default(), lease: (Instant::default(), Duration::ZERO) }
    }

    /// How long a node in `from` waits for an answer; `None`: no member that it reaches has a
    /// majority.
    pub(super) fn round_trip(&self, from: RegionId, network: &Network) -> Option<Duration> {
        let hears = |a: RegionId, b: RegionId| network.passes(a, b) && network.passes(b, a);
        let needed = self.members.len() / 2 + 1;
        let reached = self.members.iter().filter(|member| hears(from, **member));
        let times = reached.filter_map(|member| {
            let heard = self.members.iter().filter(|other| hears(*member, **other));
            let mut times: Vec<Duration> =
                heard.map(|other| network.round_trip(*member, *other)).collect();
            times.sort();
            // The write counts when the last of a majority has it.
            let agreed = times.get(needed.checked_sub(1)?)?;
            Some(network.round_trip(from, *member) + *agreed)
        });
        times.min()
    }

    pub(super) fn answer(&mut self, now: Instant, ask: Ask) -> Answer {
        let (ends, granted) = self.lease;
        if now >= ends {
            self.found.writer = None;
        }
        match ask {
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
        }
    }

    fn name(&mut self, now: Instant, contest: &Contest, region: String) {
        let epoch = self.found.last.as_ref().map_or(0, |last| last.epoch) + 1;
        let written = Written { region: region.clone(), epoch, ttl: contest.ttl.as_secs() };
        let revision = self.found.revision + 1;
        self.lease = (now + contest.lease, contest.lease);
        self.found = Found {
            writer: Some((written.clone(), revision)),
            last: Some(written),
            revision,
            wanted: Some(region),
        };
    }
}

/// What a node knows of the writer's lease.
#[derive(Default)]
pub(super) struct Looking {
    pub(super) leased: Leased,
    vacancy: Vacancy,
    /// A writer was found then, and it was asked how long its lease lasts.
    held: Option<(Instant, Written)>,
}

impl Looking {
    /// The store has answered; tells what is to be asked next.
    pub(super) fn heard(&mut self, now: Instant, answer: Answer, contest: Contest) -> Option<Ask> {
        match answer {
            Answer::Found(found) => match self.vacancy.turn(now, &contest, &found) {
                Turn::Held { written, lease, is_renewed } => {
                    self.held = Some((now, written));
                    Some(Ask::Left(lease, is_renewed))
                }
                Turn::Vacant { free_from, next } => {
                    let (free_from, wanted) = (Some(free_from), found.wanted);
                    self.leased = Leased { holder: None, free_from, wanted };
                    next.map(|next| Ask::Name(Box::new(contest), found.revision, next))
                }
            },
            Answer::Left(left) => {
                let (asked, written) = self.held.take()?;
                let mut leased = Leased::held(written, asked, left, None);
                leased.settle(Some(&self.leased));
                self.leased = leased;
                None
            }
            Answer::Done => None,
        }
    }
}

impl World<'_> {
    /// A node looks who writes, and does so again after a while.
    pub(super) fn look_who_writes(&mut self, row: usize, incarnation: u64) {
        let Some(node) = self.life(row, incarnation) else { return };
        let is_leased = node.is_leased();
        self.at(self.now + ASK_EVERY, Event::Look(row, incarnation));
        if is_leased {
            self.ask(row, Ask::Find);
        }
    }

    /// A node asks the store of the leases, if it reaches it in time.
    pub(super) fn ask(&mut self, row: usize, ask: Ask) {
        let Some(node) = self.nodes.get(row).and_then(Option::as_ref) else { return };
        let trip = self.store.round_trip(node.region, &self.network);
        let trip = trip.filter(|trip| *trip <= ASK_PATIENCE);
        let incarnation = node.incarnation;
        if let Some(trip) = trip.filter(|_| !self.network.drops(2, &mut self.dice.network)) {
            self.at(self.now + trip / 2, Event::Asked(row, incarnation, ask));
        }
    }

    /// The store is asked, and answers, if the way back is open.
    pub(super) fn asked(&mut self, row: usize, incarnation: u64, ask: Ask) {
        let answer = self.store.answer(self.now, ask);
        let Some(from) = self.life(row, incarnation).map(|node| node.region) else { return };
        if let Some(trip) = self.store.round_trip(from, &self.network) {
            self.at(self.now + trip / 2, Event::Told(row, incarnation, answer));
        }
    }

    /// A node hears from the store.
    pub(super) fn told(&mut self, row: usize, incarnation: u64, answer: Answer) {
        let now = self.now;
        let next = self.life(row, incarnation).and_then(|node| node.leased(now, answer));
        self.turn(row);
        if let Some(ask) = next {
            self.ask(row, ask);
        }
    }
}
