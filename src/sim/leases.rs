//! The writers' leases: how a node looks at the store that keeps them.

use super::scenario::LEASE;
use super::store::{Answer, Ask, Election};
use super::world::{Event, World};
use crate::steer::{ASK_EVERY, ASK_PATIENCE, Contest, Leased, Renewal, Turn, Vacancy, Written};
use crate::time::Instant;

/// What a node knows of the writer's lease.
#[derive(Default)]
pub(super) struct Looking {
    pub(super) leased: Leased,
    vacancy: Vacancy,
    /// A writer was found then, and it was asked how long its lease lasts, by its number; and
    /// whether it is for this node to renew it.
    held: Option<(Instant, Written, i64, Renewal)>,
}

impl Looking {
    /// The store has answered; tells what is to be asked next.
    pub(super) fn heard(&mut self, now: Instant, answer: Answer, contest: Contest) -> Option<Ask> {
        match answer {
            Answer::Found(found) => match self.vacancy.turn(now, &contest, &found) {
                Turn::Held { written, lease, renewal } => {
                    self.held = Some((now, written, lease, renewal));
                    Some(Ask::Left(lease, renewal == Renewal::Own))
                }
                Turn::Vacant { free_from, next } => {
                    let (free_from, wanted) = (Some(free_from), found.wanted);
                    self.leased = Leased { holder: None, free_from, wanted };
                    next.map(|next| Ask::Name(Box::new(contest), found.revision, next))
                }
            },
            Answer::Left(left) => {
                let (asked, written, lease, renewal) = self.held.take()?;
                if renewal.is_overdue(left, contest.lease) {
                    self.held = Some((asked, written, lease, Renewal::Own));
                    return Some(Ask::Left(lease, true));
                }
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

    /// A node asks the store of the leases; tells whether that reaches it in time.
    pub(super) fn ask(&mut self, row: usize, ask: Ask) -> bool {
        let Some(node) = self.nodes.get(row).and_then(Option::as_ref) else { return false };
        let trip = self.store.round_trip(node.region, &self.network);
        let trip = trip.filter(|trip| *trip <= ASK_PATIENCE);
        let incarnation = node.incarnation;
        let trip = trip.filter(|_| !self.network.drops(2, &mut self.dice.network));
        if let Some(trip) = trip {
            self.at(self.now + trip / 2, Event::Asked(row, incarnation, ask));
        }
        trip.is_some()
    }

    /// The store is asked, and answers, if the way back is open.
    pub(super) fn asked(&mut self, row: usize, incarnation: u64, ask: Ask) {
        let Some(answer) = self.store.answer(self.now, ask) else { return };
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

    /// The network, or a member of the store, has changed: another one may have to lead.
    pub(super) fn look_who_leads(&mut self) {
        if !self.is_leased() {
            return;
        }
        let led = self.store.leader();
        let planned = self.store.change(self.now, &self.network, &mut self.dice.elections);
        if led.is_some() && self.store.leader().is_none() {
            self.outcome.tell(self.since(), "etcd", "no member leads".to_owned());
        }
        self.plan_election(planned);
    }

    /// Members of the store elect this one, if it is to be.
    pub(super) fn elect(&mut self, member: usize) {
        let dice = &mut self.dice.elections;
        let planned = self.store.elect(self.now, member, &self.network, dice);
        if let Some(region) = self.store.leader() {
            let what = format!("the member in {} leads", self.outcome.name(region));
            self.outcome.tell(self.since(), "etcd", what);
        }
        self.plan_election(planned);
    }

    fn plan_election(&mut self, planned: Option<Election>) {
        if let Some(Election { after, member }) = planned {
            self.at(self.now + after, Event::Elect(member));
        }
    }

    /// Whether a lease decides who writes.
    pub(super) fn is_leased(&self) -> bool {
        self.input.one_writer().is_some_and(|(_, how)| how == LEASE)
    }
}
