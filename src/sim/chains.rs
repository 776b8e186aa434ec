//! Resolvers and their clients: for each layer of a class what it holds, and until when.
//!
//! A chain is one resolver with the clients behind it. Its first layer is the resolver's cache,
//! which asks a node when it must; each further one takes what the one before it holds. What the
//! last layer holds is where the chain's requests go; if none holds anything, a request looks up,
//! and goes where it is told.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::net::Ipv4Addr;
use std::time::Duration;

use crate::convergence::{Layer, Population};
use crate::geo::{Atlas, Coordinates, Country};
use crate::rng::Stream;
use crate::time::Instant;

/// Nothing is held.
pub(super) const NOWHERE: u8 = u8::MAX;

/// The last lookup failed, and nothing is held.
const FAILED: u8 = u8::MAX - 1;

/// A failure is remembered for so long, in seconds (RFC 9520 §3.2).
const RETRY: f64 = 1.0;

/// No chain has more layers than this.
const DEEPEST: usize = 4;

/// A resolver and its clients.
#[derive(Clone, Copy)]
pub(super) struct Chain {
    pub(super) client: Ipv4Addr,
    pub(super) class: u16,
    /// The nodes, by distance: a row of [`Chains::near`].
    pub(super) near: u16,
    /// The region that each layer holds.
    held: [u8; DEEPEST],
    /// Where a request goes while none of them holds anything: what it would be told.
    told: u8,
    /// What the first one was told last, which it may give when nobody answers.
    last: u8,
    /// A bit for each layer that has held something.
    begun: u8,
    /// When what the first one was told last ends, in seconds since the Unix epoch.
    ends: u32,
}

/// All of them.
pub(super) struct Chains {
    pub(super) list: Vec<Chain>,
    /// Where each is, for the map.
    pub(super) places: Vec<(f32, f32)>,
    /// The orders of nodes by distance.
    pub(super) near: Vec<Vec<u8>>,
    layers: Vec<Vec<Layer>>,
    /// When which layer of which chain has to look again.
    queue: BinaryHeap<Reverse<(u64, u32, u8)>>,
    /// Until when what is held for the first time is held for a part of its time only, so that
    /// the chains do not go on in step.
    settled: Instant,
    /// How many chains' requests go to each region; then those of which nothing is known yet; then
    /// nowhere, as the lookup failed.
    pub(super) counts: Vec<u32>,
    /// Where the regions are.
    regions: Vec<Option<Coordinates>>,
    /// The sum of the kilometres between all chains and where their requests go.
    pub(super) kilometres: u64,
}

impl Chains {
    /// So many chains, in these countries or where the Internet's users are; each begins within the
    /// first of its cycles.
    pub(super) fn new(
        (count, regions): (usize, Vec<Option<Coordinates>>),
        countries: &[(Country, f64)],
        population: &Population,
        atlas: &Atlas,
        nodes: &[Option<Coordinates>],
        dice: &mut Stream,
    ) -> Self {
        let known = addresses(atlas, dice);
        let countries = if countries.is_empty() { internet_users() } else { countries.to_vec() };
        // Who has no address cannot ask.
        let has_addresses = |(country, _): &(Country, f64)| known.contains_key(country);
        let countries: Vec<_> = countries.into_iter().filter(has_addresses).collect();
        let mut near: Vec<Vec<u8>> = Vec::new();
        let mut list = Vec::with_capacity(count);
        let mut places = Vec::with_capacity(count);
        for _ in 0..count {
            let country = countries.get(drawn(countries.iter().map(|(_, share)| *share), dice));
            let of_country = country.and_then(|(country, _)| known.get(country));
            let of_country = of_country.map_or(&[][..], Vec::as_slice);
            let row = usize::try_from(dice.below(of_country.len() as u64)).unwrap_or(0);
            let client = of_country.get(row).copied().unwrap_or(Ipv4Addr::UNSPECIFIED);
            let at = atlas.locate(client.into()).place.and_then(|place| place.at);
            let order = by_distance(at, nodes);
            let row = near.iter().position(|of| *of == order).unwrap_or_else(|| {
                near.push(order);
                near.len() - 1
            });
            let near = u16::try_from(row).unwrap_or(0);
            let class = drawn(population.classes.iter().map(|class| class.share), dice);
            let class = u16::try_from(class).unwrap_or(0);
            let held = [NOWHERE; DEEPEST];
            let [told, last] = [NOWHERE; 2];
            list.push(Chain { client, class, near, held, told, last, begun: 0, ends: 0 });
            #[expect(clippy::cast_possible_truncation, reason = "a pixel is wider")]
            places.push(
                at.map_or((f32::NAN, 0.0), |at| (at.longitude() as f32, at.latitude() as f32)),
            );
        }
        let layers = population
            .classes
            .iter()
            .map(|class| class.layers.iter().copied().take(DEEPEST).collect());
        let mut counts = vec![0; regions.len() + 2];
        if let Some(unheld) = counts.get_mut(regions.len()) {
            *unheld = u32::try_from(count).unwrap_or(u32::MAX);
        }
        Self {
            list,
            places,
            near,
            layers: layers.collect(),
            queue: BinaryHeap::new(),
            settled: Instant::default(),
            counts,
            regions,
            kilometres: 0,
        }
    }

    /// Every layer looks for the first time, the inner ones first.
    pub(super) fn begin(&mut self, now: Instant, settled: Instant, dice: &mut Stream) {
        self.settled = settled;
        for row in 0..self.list.len() {
            let depth = self.depth(row);
            for layer in 0..depth {
                // Spread, so that they do not go on in step.
                let at = now + Duration::from_millis(dice.below(1000) + 1000 * layer as u64);
                self.at(at, row, layer);
            }
        }
    }

    fn at(&mut self, at: Instant, row: usize, layer: usize) {
        let (row, layer) = (u32::try_from(row).unwrap_or(0), u8::try_from(layer).unwrap_or(0));
        self.queue.push(Reverse((at.as_nanos(), row, layer)));
    }

    fn depth(&self, row: usize) -> usize {
        let class = self.list.get(row).map_or(0, |chain| usize::from(chain.class));
        self.layers.get(class).map_or(0, Vec::len)
    }

    /// When one has to look next.
    pub(super) fn next(&self) -> Option<Instant> {
        self.queue.peek().map(|Reverse((at, ..))| Instant::from_nanos(*at))
    }

    /// The chain and the layer that has to look now; `None`, if one only forgets now.
    pub(super) fn pop(&mut self, dice: &mut Stream) -> Option<(usize, usize)> {
        let Reverse((at, row, layer)) = self.queue.pop()?;
        let row = row as usize;
        if layer & FORGETS == 0 {
            return Some((row, usize::from(layer)));
        }
        // From now on nobody is told what was held, until somebody asks again.
        let layer = usize::from(layer & !FORGETS);
        self.set(row, layer, NOWHERE);
        let class = usize::from(self.list.get(row)?.class);
        let idle = exponential(idle(self.layers.get(class)?.get(layer)?), dice);
        self.at(Instant::from_nanos(at) + Duration::from_secs_f64(idle), row, layer);
        None
    }

    /// What the layers inside of this one hold: the outermost that holds something.
    pub(super) fn inner(&self, row: usize, layer: usize) -> u8 {
        let held = self.list.get(row).and_then(|chain| chain.held.get(..layer));
        let mut held = held.unwrap_or_default().iter().rev().copied();
        held.find(|region| *region != NOWHERE).unwrap_or(NOWHERE)
    }

    /// Does it hold nothing, so that a request looks up?
    pub(super) fn is_empty(&self, row: usize) -> bool {
        self.inner(row, DEEPEST) == NOWHERE
    }

    /// Those that hold nothing at times.
    pub(super) fn forgetful(&self) -> Vec<usize> {
        let forgets = |class: &Vec<Layer>| class.first().is_some_and(|layer| idle(layer) > 0.0);
        let classes: Vec<bool> = self.layers.iter().map(forgets).collect();
        let is_one = |chain: &Chain| classes.get(usize::from(chain.class)) == Some(&true);
        let rows = self.list.iter().enumerate().filter(|(_, chain)| is_one(chain));
        rows.map(|(row, _)| row).collect()
    }

    /// Is it a resolver that follows TTLs, and nothing else?
    pub(super) fn follows_ttls(&self, row: usize) -> bool {
        let class = self.list.get(row).map_or(0, |chain| usize::from(chain.class));
        let layers = self.layers.get(class).map(Vec::as_slice);
        matches!(layers, Some([Layer::Cache { min, stale, .. }]) if *min + *stale == 0.0)
    }

    /// Where the chain's requests go: to what its outermost layer holds that holds something, or
    /// where they would be told.
    pub(super) fn current(&self, row: usize) -> u8 {
        let held = self.inner(row, DEEPEST);
        let told = self.list.get(row).map_or(NOWHERE, |chain| chain.told);
        if held == NOWHERE { told } else { held }
    }

    /// A layer holds a region from now on, or nothing.
    fn set(&mut self, row: usize, layer: usize, region: u8) {
        self.change(row, |chain| {
            if let Some(held) = chain.held.get_mut(layer) {
                *held = region;
            }
        });
    }

    /// A request of it that looked up now would be told this region.
    pub(super) fn would_be_told(&mut self, row: usize, region: u8) {
        self.change(row, |chain| chain.told = region);
    }

    fn change(&mut self, row: usize, change: impl FnMut(&mut Chain)) {
        let was = self.current(row);
        self.list.get_mut(row).into_iter().for_each(change);
        let is = self.current(row);
        if was != is {
            self.count(was, is);
            self.kilometres += self.distance(row, is);
            self.kilometres -= self.distance(row, was);
        }
    }

    /// The kilometres from a chain to a region; none, if either is nowhere.
    fn distance(&self, row: usize, region: u8) -> u64 {
        let region = self.regions.get(usize::from(region)).copied().flatten();
        let place = self.places.get(row).filter(|(longitude, _)| !longitude.is_nan());
        let place = place.and_then(|(longitude, latitude)| {
            Coordinates::new(f64::from(*latitude), f64::from(*longitude))
        });
        place.zip(region).map_or(0, |(from, to)| u64::from(from.distance_km(to)))
    }

    /// What a resolver gives whose lookup has failed: what it had, if it may give that yet.
    pub(super) fn on_failure(&self, now: Instant, row: usize) -> u8 {
        let Some(chain) = self.list.get(row) else { return FAILED };
        let layers = self.layers.get(usize::from(chain.class));
        let late = match layers.and_then(|layers| layers.first()) {
            Some(Layer::Cache { stale, .. }) => *stale,
            Some(Layer::StaleFirst { limit, .. }) => *limit,
            _ => 0.0,
        };
        let until = Instant::default() + Duration::from_secs(u64::from(chain.ends));
        let may = chain.last != NOWHERE && now <= until + Duration::from_secs_f64(late);
        if may { chain.last } else { FAILED }
    }

    /// A layer has looked, and holds `region` for as long as its kind does, with the answer's TTL;
    /// `None`: its lookup failed.
    pub(super) fn hold(
        &mut self,
        now: Instant,
        (row, layer): (usize, usize),
        region: u8,
        ttl: Option<f64>,
        dice: &mut Stream,
    ) {
        let Some(chain) = self.list.get(row) else { return };
        let layers = self.layers.get(usize::from(chain.class)).map_or(&[][..], Vec::as_slice);
        let Some(kind) = layers.get(layer).copied() else { return };
        let bit = 1 << layer;
        let is_first = chain.begun & bit == 0 && now < self.settled;
        if ttl.is_none() || region == FAILED {
            self.set(row, layer, region);
            return self.at(now + Duration::from_secs_f64(RETRY), row, layer);
        }
        let ttl = ttl.unwrap_or(0.0);
        let (seconds, end) =
            if is_first { begins(&kind, ttl, dice) } else { holds(&kind, ttl, dice) };
        if let Some(chain) = self.list.get_mut(row) {
            chain.begun |= bit;
            if layer == 0 {
                let fresh = seconds.unwrap_or(0.0).min(fresh(&kind, ttl));
                let ends = now.as_secs() + Duration::from_secs_f64(fresh).as_secs();
                (chain.last, chain.ends) = (region, u32::try_from(ends).unwrap_or(u32::MAX));
            }
        }
        self.set(row, layer, region);
        if let Some(seconds) = seconds {
            let flag = if end == End::Forgets { FORGETS } else { 0 };
            let at = now + Duration::from_secs_f64(seconds.max(SOONEST));
            self.at(at, row, layer | usize::from(flag));
        }
    }

    fn count(&mut self, was: u8, is: u8) {
        let unheld = self.regions.len();
        let row = |region: u8| match region {
            NOWHERE => unheld,
            FAILED => unheld + 1,
            region => usize::from(region),
        };
        if let Some(count) = self.counts.get_mut(row(was)) {
            *count -= 1;
        }
        if let Some(count) = self.counts.get_mut(row(is)) {
            *count += 1;
        }
    }
}

/// What holds nothing looks this often, in seconds: time must go on.
const SOONEST: f64 = 0.1;

/// The bit of a layer in the queue that says: it forgets, and asks again when somebody asks it.
const FORGETS: u8 = 0x80;

/// The mean time for which a layer, having forgotten, is not asked.
fn idle(layer: &Layer) -> f64 {
    match *layer {
        Layer::Cache { every, .. }
        | Layer::StaleFirst { every, .. }
        | Layer::Hold { every, .. }
        | Layer::Connection { every, .. } => every,
        Layer::Pinned => 0.0,
    }
}

/// A time with this mean, at random.
fn exponential(mean: f64, dice: &mut Stream) -> f64 {
    if mean > 0.0 { (-mean * (1.0 - dice.unit()).ln()).min(LONGEST) } else { 0.0 }
}

/// What a layer does when it holds something no longer.
#[derive(Clone, Copy, PartialEq)]
enum End {
    /// It asks at once.
    Asks,
    /// It forgets, and asks when it is asked.
    Forgets,
}

/// For how long a layer may give what it has just taken without asking again.
fn fresh(layer: &Layer, ttl: f64) -> f64 {
    match *layer {
        Layer::Cache { min, max, prefetch, .. } => (ttl * (1.0 - prefetch)).max(min).min(max),
        Layer::StaleFirst { .. } => ttl,
        Layer::Hold { seconds, .. } => seconds,
        Layer::Connection { .. } | Layer::Pinned => f64::INFINITY,
    }
}

/// For how long a layer holds what it has just taken, and what then; `None`: for ever.
fn holds(layer: &Layer, ttl: f64, dice: &mut Stream) -> (Option<f64>, End) {
    // Whom others ask all the time asks again at once.
    let end = if idle(layer) > 0.0 { End::Forgets } else { End::Asks };
    match *layer {
        Layer::Cache { .. } | Layer::Hold { .. } => (Some(fresh(layer, ttl)), end),
        Layer::StaleFirst { every, limit } => expires(ttl, exponential(every, dice), limit),
        Layer::Connection { every, idle } => (open(every, idle, dice), end),
        Layer::Pinned => (None, end),
    }
}

/// The same of a layer that is looked at for the first time, anywhere in a cycle of its.
fn begins(layer: &Layer, ttl: f64, dice: &mut Stream) -> (Option<f64>, End) {
    let (fresh, every) = (fresh(layer, ttl), idle(layer));
    let place = dice.unit() * (fresh + every);
    match *layer {
        Layer::Cache { .. } | Layer::Hold { .. } if place < fresh => {
            (Some(place), holds(layer, ttl, dice).1)
        }
        Layer::Cache { .. } | Layer::Hold { .. } => (Some(0.0), End::Forgets),
        Layer::StaleFirst { every, limit } => {
            let gap = exponential(every, dice);
            if place < fresh {
                return expires(place, gap, limit);
            }
            // It has expired a while ago, as nobody has asked since.
            let ago = exponential(every, dice);
            if ago < limit { expires(0.0, gap, limit - ago) } else { (Some(0.0), End::Forgets) }
        }
        // What ends by chance is as likely to end whenever it began.
        Layer::Connection { .. } | Layer::Pinned => holds(layer, ttl, dice),
    }
}

/// An answer that ends in `seconds`, is asked for `gap` later, and is given until `limit` later.
fn expires(seconds: f64, gap: f64, limit: f64) -> (Option<f64>, End) {
    let end = if gap < limit { End::Asks } else { End::Forgets };
    (Some(seconds + gap.min(limit)), end)
}

/// For how long a connection is open; `None`: for ever.
fn open(every: f64, idle: f64, dice: &mut Stream) -> Option<f64> {
    if every <= 0.0 {
        return None;
    }
    // Until a gap is long enough; then it is closed.
    let mut open = 0.0;
    if idle > RARE * every {
        // What happens rarely does so at any time alike, of which this is the mean.
        open = exponential(every * (idle / every).exp_m1(), dice);
        return (open < LONGEST).then_some(open + idle);
    }
    while open < LONGEST {
        let gap = exponential(every, dice);
        if gap >= idle {
            return Some(open + idle);
        }
        open += gap;
    }
    None
}

/// A gap of so many times the mean is rare: one in some twenty thousand.
const RARE: f64 = 10.0;

/// A week: no scenario is longer.
const LONGEST: f64 = 604_800.0;

/// Where the Internet's users are.
fn internet_users() -> Vec<(Country, f64)> {
    let lines = include_str!("internet_users.csv").lines();
    let read = |line: &str| {
        let (country, users) = line.split_once(',')?;
        Some((country.parse().ok()?, users.parse().ok()?))
    };
    lines.filter_map(read).collect()
}

/// Addresses that the database locates, by country, as they are spread.
fn addresses(atlas: &Atlas, dice: &mut Stream) -> HashMap<Country, Vec<Ipv4Addr>> {
    let mut found: HashMap<Country, Vec<Ipv4Addr>> = HashMap::new();
    for _ in 0..DRAWS {
        let drawn = u32::try_from(dice.below(1 << 32)).unwrap_or(0);
        let address = Ipv4Addr::from(drawn & 0xffff_ff00);
        if let Some(country) = atlas.locate(address.into()).place.and_then(|place| place.country) {
            found.entry(country).or_default().push(address);
        }
    }
    found
}

/// How many addresses are drawn: of a country with a thousandth of all there are some hundred.
const DRAWS: usize = 200_000;

/// The row that is drawn by these shares.
fn drawn(shares: impl Iterator<Item = f64> + Clone, dice: &mut Stream) -> usize {
    let mut left = dice.unit() * shares.clone().sum::<f64>();
    for (row, share) in shares.enumerate() {
        if left < share {
            return row;
        }
        left -= share;
    }
    0
}

fn by_distance(at: Option<Coordinates>, nodes: &[Option<Coordinates>]) -> Vec<u8> {
    let distance = |node: &Option<Coordinates>| match (at, node) {
        (Some(at), Some(node)) => at.distance_km(*node),
        _ => u32::MAX,
    };
    let mut order: Vec<(u32, u8)> = nodes.iter().map(distance).zip(0..).collect();
    order.sort_unstable();
    order.into_iter().map(|(_, row)| row).collect()
}
