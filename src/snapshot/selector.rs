//! Finds a client's answer among those of a service in one family.

use std::net::IpAddr;
use std::sync::Arc;

use super::{Division, Ready, Seek};
use crate::steer::ramp_slot;
use crate::steer::weighted::SLOTS;

/// Finds a client's answer.
#[derive(Debug)]
pub struct Selector {
    /// The clients that a ramp tells apart from the others.
    pub(super) ramp: Box<[Band]>,
    /// The others, or everybody.
    pub(super) rest: Band,
}

/// The clients up to some slot of a ramp, and their answers.
#[derive(Debug)]
pub(super) struct Band {
    /// The first slot that is not in it.
    pub(super) end: usize,
    /// `None`: everybody gets the first answer.
    pub(super) division: Option<Arc<Division>>,
    pub(super) answers: Box<[Ready]>,
}

/// The way to a client's answer.
#[derive(Clone, Copy, Debug)]
pub struct Selection<'s> {
    answers: &'s [Ready],
    seek: Seek<'s>,
    /// How much of the client's address decided that it is this band.
    prefix: u8,
}

impl Selector {
    /// The answer of `client`, and the length of the widest prefix around it in which every
    /// client gets the same: the SCOPE PREFIX-LENGTH of RFC 7871.
    pub fn select(&self, client: IpAddr) -> Option<(&Ready, u8)> {
        let mut selection = self.seek(&client);
        selection.near();
        selection.find()
    }

    /// Draws the maps by which it divides its clients, unless they are.
    pub fn draw(&self) {
        let divisions = self.ramp.iter().chain([&self.rest]).filter_map(|of| of.division.as_ref());
        divisions.for_each(|division| division.draw());
    }

    /// The first step to it. Whoever has many takes all of them through one step after the other.
    /// Always in its caller's code, so that it is made where it stays.
    #[inline(always)]
    pub fn seek(&self, client: &IpAddr) -> Selection<'_> {
        let (band, prefix) =
            if self.ramp.is_empty() { (&self.rest, 0) } else { self.on_ramp(client) };
        let division = band.division.as_deref().filter(|_| band.answers.len() > 1);
        let seek = match division {
            Some(division) => division.seek(client),
            None => Seek::EVERYBODY,
        };
        Selection { answers: &band.answers, seek, prefix }
    }

    /// The client's band, and how much of its address decided that.
    #[inline(never)]
    fn on_ramp(&self, client: &IpAddr) -> (&Band, u8) {
        let (slot, prefix) = ramp_slot(*client);
        (self.ramp.iter().find(|band| slot < band.end).unwrap_or(&self.rest), prefix)
    }

    /// All answers, each with the share of all IPv4 addresses whose clients get it.
    pub fn answers(&self) -> impl Iterator<Item = (&Ready, f64)> {
        let mut start = 0;
        self.ramp.iter().chain([&self.rest]).flat_map(move |band| {
            let share = (band.end - start) as f64 / SLOTS as f64;
            start = band.end;
            let shares = band.division.as_ref().map(|division| division.shares());
            band.answers.iter().enumerate().map(move |(row, ready)| {
                let within = shares.map_or(1.0, |shares| shares.get(row).copied().unwrap_or(0.0));
                (ready, share * within)
            })
        })
    }
}

impl<'s> Selection<'s> {
    /// The second step to the answer.
    #[inline]
    pub fn near(&mut self) {
        self.seek.near();
    }

    /// The last. Whoever has many does not look at the answer before all are found.
    #[inline]
    pub fn find(&self) -> Option<(&'s Ready, u8)> {
        let (row, scope) = self.seek.find();
        let ready = self.answers.get(row)?;
        ready.approach();
        Some((ready, scope.max(self.prefix)))
    }
}
