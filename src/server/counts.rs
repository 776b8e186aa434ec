//! How many answers a thread has given, by what metrics tell apart. Whoever reads that does not
//! hold it up.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::convergence::{Row, Rows, zeros};
use crate::ids::{RegionId, ServiceId};
use crate::prefetch::prefetch;
use crate::query::Rcode;

/// What one thread has counted, or several.
#[derive(Debug)]
pub(super) struct Counts {
    /// Of a service without error, by the rows of the ledger: those that name a region first.
    named: Counters,
    /// The same, by services: those that name none.
    unnamed: Counters,
    /// Of no service, by the response code.
    others: Counters,
}

/// What is counted together.
pub(super) type Kind = (Rcode, Option<(ServiceId, Option<RegionId>)>);

/// Counters of one sort.
#[derive(Debug)]
struct Counters {
    counted: Box<[AtomicU64]>,
    /// How many of them are told.
    told: Box<[AtomicU64]>,
}

/// More than any response code that is given.
const RCODES: usize = 32;

impl Counts {
    /// Nothing is counted yet.
    pub(super) fn new(rows: &Rows, services: usize) -> Self {
        let [named, unnamed, others] = [rows.count(), services, RCODES].map(Counters::new);
        Self { named, unnamed, others }
    }

    /// Where an answer of this kind is counted, if here.
    #[inline]
    fn place(&self, rows: &Rows, (rcode, of): Kind) -> Option<&AtomicU64> {
        let (counters, place) = match of {
            None => (&self.others, rcode as usize),
            Some(_) if rcode != Rcode::NoError => return None,
            Some((service, None)) => (&self.unnamed, service.index()),
            Some((service, Some(region))) => (&self.named, rows.find(service, region)?.index()),
        };
        counters.counted.get(place)
    }

    /// One more, if it is counted here. It costs less where nobody else counts.
    #[inline]
    pub(super) fn add(&self, rows: &Rows, kind: Kind, is_alone: bool) -> bool {
        let Some(place) = self.place(rows, kind) else { return false };
        if is_alone {
            place.store(place.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
        } else {
            place.fetch_add(1, Ordering::Relaxed);
        }
        true
    }

    /// Has the processor fetch where answers are counted that name this row first.
    #[inline]
    pub(super) fn approach(&self, row: Row) {
        prefetch(&self.named.counted, row.index());
    }

    /// How many were counted of each kind since this was last asked. One at a time may ask.
    pub(super) fn untold(&self, rows: &Rows) -> impl Iterator<Item = (Kind, u64)> {
        let named = rows.iter().map(|(service, region, row)| {
            let kind = (Rcode::NoError, Some((service, Some(region))));
            (kind, self.named.untold(row.index()))
        });
        let unnamed = (0..self.unnamed.counted.len()).filter_map(|row| {
            let service = ServiceId::from_index(row)?;
            Some(((Rcode::NoError, Some((service, None))), self.unnamed.untold(row)))
        });
        let others = Rcode::ALL.map(|rcode| ((rcode, None), self.others.untold(rcode as usize)));
        named.chain(unnamed).chain(others).filter(|(_, count)| *count > 0)
    }
}

impl Counters {
    fn new(count: usize) -> Self {
        Self { counted: zeros(count), told: zeros(count) }
    }

    fn untold(&self, place: usize) -> u64 {
        let both = self.counted.get(place).zip(self.told.get(place));
        both.map_or(0, |(counted, told)| {
            let counted = counted.load(Ordering::Relaxed);
            counted - told.swap(counted, Ordering::Relaxed)
        })
    }
}
