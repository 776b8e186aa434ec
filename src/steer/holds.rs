//! What slows down automatic moves: regions come back when their service's `failback` lets them,
//! and no more of them leave in a time than `max_moves` lets.
//!
//! ```text
//! in ── not well ──→ out        or, past the limit: in, and kept, until the limit lets it go
//! out ─ well ──────→ back       held, until the failback lets it in
//! ```
//!
//! Answers of each family are steered for themselves, and so are held. Only who is in can leave:
//! what was never well, and what an operator has taken out, is out without a move that counts.
//! Otherwise health alone counts here: an operator's word goes over all of it.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque};
use std::time::Duration;

use super::weighted::SLOTS;
use super::{Family, InForce, Pool, Service, Word, state_of};
use crate::health::{HealthTable, State};
use crate::ids::{RegionId, ServiceId};
use crate::time::Instant;

/// When a region that was out may come back.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Failback {
    /// When it has been well for so long.
    After(Duration),
    /// When an operator says so.
    Manual,
}

/// How many regions may leave in what time, by health alone.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct MaxMoves {
    /// So many; `None`: any number.
    pub regions: Option<usize>,
    /// With so much of the traffic, in percent; `None`: with any. One region may always leave.
    pub percent: Option<u32>,
    /// Within so long.
    pub within: Duration,
}

/// Why a service's region is not treated by its health.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Hold {
    /// It is well again, and may not come back before this; `None`: before an operator says so.
    Back(Option<Instant>),
    /// It is not well, and is kept, as too many regions have left.
    Kept,
}

/// The course of a family of a service's region, once it was well.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Course {
    In,
    /// It is out, and well since then, if it is.
    Out(Option<Instant>),
    Kept,
}

/// What has a course: a family of a service's region.
type Key = (ServiceId, RegionId, Family);

/// A region that left.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Left {
    /// When.
    pub at: Instant,
    /// Which.
    pub region: RegionId,
    /// With how much of the traffic, of 1.
    pub with: f64,
}

/// What one process leaves of it to the next one.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Moves {
    /// What is out, well or not: families of services' regions.
    pub out: BTreeSet<(ServiceId, RegionId, Family)>,
    /// What is kept.
    pub kept: BTreeSet<(ServiceId, RegionId, Family)>,
    /// The regions that left lately, the first one first.
    pub left: Vec<Left>,
}

/// Who is held, and why.
#[derive(Clone, Debug, Default)]
pub struct Holds {
    limit: Option<MaxMoves>,
    courses: HashMap<Key, Course>,
    held: HashMap<Key, Hold>,
    /// How much of the traffic each region has; `None`: that is not known yet.
    traffic: Option<BTreeMap<RegionId, f64>>,
    /// The regions that left lately, the first one first.
    left: VecDeque<Left>,
    /// Whether [`Self::moves`] may tell something else than before.
    is_other: bool,
}

impl Holds {
    /// No hold.
    pub fn none() -> &'static Self {
        static NONE: std::sync::LazyLock<Holds> = std::sync::LazyLock::new(Holds::default);
        &NONE
    }

    /// So many regions may leave from now on.
    pub fn limit(&mut self, limit: Option<MaxMoves>) {
        self.limit = limit;
    }

    /// Does it count how much of the traffic leaves?
    pub fn counts_traffic(&self) -> bool {
        self.limit.is_some_and(|limit| limit.percent.is_some())
    }

    /// So much of the traffic each region has, of 1.
    pub fn measure(&mut self, traffic: BTreeMap<RegionId, f64>) {
        self.traffic = Some(traffic);
    }

    /// Why a family of a service's region is not treated by its health, if it is not.
    pub fn of(&self, service: ServiceId, region: RegionId, family: Family) -> Option<Hold> {
        self.held.get(&(service, region, family)).copied()
    }

    /// Everything that is held: a service's region once for each of the two reasons.
    pub fn all(&self) -> impl Iterator<Item = (ServiceId, RegionId, Hold)> {
        let mut told = HashSet::new();
        let held = self.held.iter().map(|((service, region, _), hold)| (*service, *region, *hold));
        held.filter(move |(service, region, hold)| {
            told.insert((*service, *region, *hold == Hold::Kept))
        })
    }

    /// Is there something else for the next process to know than when this was last asked?
    pub fn take_other(&mut self) -> bool {
        std::mem::take(&mut self.is_other)
    }

    /// What the next process has to know.
    pub fn moves(&self) -> Moves {
        let mut moves = Moves { left: self.left.iter().copied().collect(), ..Moves::default() };
        for (key, course) in &self.courses {
            match course {
                Course::In => continue,
                Course::Out(_) => moves.out.insert(*key),
                Course::Kept => moves.kept.insert(*key),
            };
        }
        moves
    }

    /// Begins with what an earlier process knew. What left by a clock that was ahead left now: it
    /// is not to count for longer than it may.
    pub fn recall(&mut self, now: Instant, moves: Moves) {
        let Moves { out, kept, left } = moves;
        self.courses.extend(out.into_iter().map(|key| (key, Course::Out(None))));
        self.held.extend(kept.iter().map(|key| (*key, Hold::Kept)));
        self.courses.extend(kept.into_iter().map(|key| (key, Course::Kept)));
        self.left = left.into_iter().map(|of| Left { at: of.at.min(now), ..of }).collect();
        self.left.make_contiguous().sort_by_key(|of| of.at);
    }

    /// The same holds under the ids of `services`; those of whom none is there any more end.
    pub fn rekey(
        &mut self,
        services: &[Service],
        region: impl Fn(RegionId) -> Option<RegionId>,
        service: impl Fn(ServiceId) -> Option<ServiceId>,
    ) {
        let key = |(of, at, family): Key| {
            let (of, at) = (service(of)?, region(at)?);
            let mut pools = services.get(of.index())?.pools.iter();
            pools.any(|pool| pool.region == at && pool.has(family)).then_some((of, at, family))
        };
        let courses = std::mem::take(&mut self.courses).into_iter();
        self.courses = courses.filter_map(|(from, course)| Some((key(from)?, course))).collect();
        let held = std::mem::take(&mut self.held).into_iter();
        self.held = held.filter_map(|(from, hold)| Some((key(from)?, hold))).collect();
        let left = std::mem::take(&mut self.left).into_iter();
        self.left = left.filter_map(|of| Some(Left { region: region(of.region)?, ..of })).collect();
        let traffic = self.traffic.take();
        let of_region = |(of, with)| Some((region(of)?, with));
        self.traffic = traffic.map(|all| all.into_iter().filter_map(of_region).collect());
        self.is_other = true;
    }

    /// An operator lets a service's region back. Was it held?
    pub fn release(&mut self, service: ServiceId, region: RegionId) -> bool {
        let is_back =
            |family: &Family| matches!(self.of(service, region, *family), Some(Hold::Back(_)));
        let back: Vec<Family> = Family::ALL.into_iter().filter(is_back).collect();
        for family in &back {
            self.courses.insert((service, region, *family), Course::In);
            self.held.remove(&(service, region, *family));
        }
        self.is_other |= !back.is_empty();
        !back.is_empty()
    }

    /// Follows health at `now`, for all services or these, where `words` are in force; returns
    /// those for which something is held otherwise than before.
    pub fn follow(
        &mut self,
        now: Instant,
        services: &[Service],
        which: impl IntoIterator<Item = ServiceId>,
        (health, words): (&HealthTable, &InForce),
    ) -> Vec<ServiceId> {
        let mut changed = Vec::new();
        for id in which {
            let Some(service) = services.get(id.index()) else { continue };
            let mut is_other = false;
            let parts = service.pools.iter().flat_map(|pool| Family::ALL.map(|of| (pool, of)));
            for (pool, family) in parts {
                let Some(wellness) = wellness(service, pool, family, health) else { continue };
                let key = (id, pool.region, family);
                let is_taken = || is_taken(id, pool, family, words);
                let course = self.next(now, key, wellness, service.failback, is_taken);
                let hold = match course {
                    Some(Course::Kept) => Some(Hold::Kept),
                    Some(Course::Out(Some(since))) => Some(Hold::Back(match service.failback {
                        Failback::After(span) => Some(since + span),
                        Failback::Manual => None,
                    })),
                    Some(Course::In | Course::Out(None)) | None => None,
                };
                let before = course.and_then(|course| self.courses.insert(key, course));
                let is_kept = |of: Option<Course>| {
                    of.filter(|of| *of != Course::In).map(|of| of == Course::Kept)
                };
                self.is_other |= is_kept(before) != is_kept(course);
                is_other |= hold != self.held.get(&key).copied();
                match hold {
                    Some(hold) => self.held.insert(key, hold),
                    None => self.held.remove(&key),
                };
            }
            if is_other {
                changed.push(id);
            }
        }
        changed
    }

    /// Where a family of a service's region is next; `None`: it was never in.
    fn next(
        &mut self,
        now: Instant,
        key: Key,
        wellness: State,
        failback: Failback,
        is_taken: impl Fn() -> bool,
    ) -> Option<Course> {
        let Some(course) = self.courses.get(&key) else {
            // What is down from the beginning waits for its failback as what went down does.
            return match wellness {
                State::Up => Some(Course::In),
                State::Down => Some(Course::Out(None)),
                State::Unknown => None,
            };
        };
        Some(match (*course, wellness) {
            (Course::In | Course::Kept, State::Down) => {
                if is_taken() || self.may_leave(now, key.1) {
                    Course::Out(None)
                } else {
                    Course::Kept
                }
            }
            (Course::In | Course::Kept, _) => Course::In,
            (Course::Out(since), State::Up) => {
                let since = since.unwrap_or(now);
                let is_over = match failback {
                    Failback::After(span) => now >= since + span,
                    Failback::Manual => false,
                };
                if is_over { Course::In } else { Course::Out(Some(since)) }
            }
            (Course::Out(_), _) => Course::Out(None),
        })
    }

    /// May a region leave now? If so, it counts, once for all services and families. One of which
    /// is not known how much of the traffic it has may leave as the first one only.
    fn may_leave(&mut self, now: Instant, region: RegionId) -> bool {
        let Some(limit) = self.limit else { return true };
        self.left.retain(|of| now.since(of.at) < limit.within);
        if self.left.iter().any(|of| of.region == region) {
            return true;
        }
        let traffic = self.traffic.as_ref();
        let with = traffic.map(|all| all.get(&region).copied().unwrap_or_default());
        let gone: f64 = self.left.iter().map(|of| of.with).sum();
        let are_many = limit.regions.is_some_and(|most| self.left.len() >= most);
        let is_much = limit
            .percent
            .is_some_and(|most| with.is_none_or(|with| (gone + with) * 100.0 > f64::from(most)));
        if are_many || (is_much && !self.left.is_empty()) {
            return false;
        }
        self.left.push_back(Left { at: now, region, with: with.unwrap_or_default() });
        true
    }

    /// When something may be held otherwise by time alone.
    pub fn next_change(&self) -> Option<Instant> {
        let back = self.held.values().filter_map(|hold| match hold {
            Hold::Back(until) => *until,
            Hold::Kept => Some(self.left.front()?.at + self.limit?.within),
        });
        back.min()
    }
}

/// Has an operator taken a family of a service's region out, for all clients?
fn is_taken(service: ServiceId, pool: &Pool, family: Family, words: &InForce) -> bool {
    let mut endpoints = pool.endpoints.iter().filter(|of| of.address.family() == family);
    endpoints.all(|of| {
        let word = words.word(service, pool.region, of.address.ip(), SLOTS - 1);
        word.is_some_and(|word| word != Word::Up)
    })
}

/// Is a family of a service's region well: are enough of its endpoints up? `None`: it has none.
fn wellness(service: &Service, pool: &Pool, family: Family, health: &HealthTable) -> Option<State> {
    let endpoints = pool.endpoints.iter().filter(|of| of.address.family() == family);
    let states: Vec<State> = endpoints.map(|of| state_of(of, health)).collect();
    let count = |state| states.iter().filter(|of| **of == state).count();
    let need = service.min_up.of(states.len());
    match (count(State::Up) >= need, states.len() - count(State::Down) < need) {
        _ if states.is_empty() => None,
        (true, _) => Some(State::Up),
        (_, true) => Some(State::Down),
        _ => Some(State::Unknown),
    }
}
