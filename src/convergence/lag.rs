//! A lag: for how long after a change a request still goes to the old region.

/// The width of a cell, in seconds: TTLs are whole seconds.
const STEP: f64 = 0.25;

/// As far as lags are told apart, in seconds: two hours.
pub const HORIZON: f64 = 7200.0;

/// How many cells that is.
const CELLS: usize = 28_800;

/// The distribution of a lag X in seconds: some requests have none, some never end, and between
/// the two is a density that is constant in each of the cells of a quarter of a second.
#[derive(Clone, PartialEq, Debug)]
pub struct Lag {
    /// P(X = 0).
    zero: f64,
    /// P(X = ∞).
    never: f64,
    /// The probability of each cell. What is missing of one lies beyond the horizon.
    cells: Vec<f64>,
    /// All that end have ended by then, in seconds: it may lie beyond the horizon.
    end: f64,
    /// E\[X\], in seconds.
    mean: f64,
}

impl Lag {
    /// No lag at all.
    pub fn none() -> Self {
        Self { zero: 1.0, never: 0.0, cells: Vec::new(), end: 0.0, mean: 0.0 }
    }

    /// A lag without end.
    pub fn endless() -> Self {
        Self { zero: 0.0, never: 1.0, cells: Vec::new(), end: 0.0, mean: f64::INFINITY }
    }

    /// A lag of so many seconds for each of these shares.
    pub fn steps(steps: impl IntoIterator<Item = (f64, f64)>) -> Self {
        let mut lag = Self { zero: 0.0, never: 0.0, cells: Vec::new(), end: 0.0, mean: 0.0 };
        for (share, seconds) in steps {
            lag.mean += share * seconds;
            let Some(cell) = (0..CELLS).find(|cell| (*cell as f64 + 0.5) * STEP > seconds) else {
                lag.end = lag.end.max(seconds);
                continue;
            };
            let Some(before) = cell.checked_sub(1) else {
                lag.zero += share;
                continue;
            };
            // Half a cell before it, and half a cell after.
            lag.cells.resize(lag.cells.len().max(cell + 1), 0.0);
            lag.cells[before] += share / 2.0;
            lag.cells[cell] += share / 2.0;
            lag.end = lag.end.max((cell + 1) as f64 * STEP);
        }
        lag
    }

    /// The lag with P(X > t) = `survival`(t), which is 0 from `end` on. That and the mean are given
    /// apart, as they count what lies beyond the horizon too.
    pub(super) fn of(mean: f64, end: f64, survival: impl Fn(f64) -> f64) -> Self {
        let mut above = survival(0.0);
        let zero = 1.0 - above;
        let mut cells = Vec::new();
        for cell in 1..=CELLS {
            let next = survival(cell as f64 * STEP);
            cells.push(above - next);
            above = next;
            if above <= 0.0 {
                break;
            }
        }
        Self { zero, never: 0.0, cells, end, mean }
    }

    /// The sum of two independent lags.
    pub fn plus(&self, other: &Self) -> Self {
        let (long, short) = if self.cells.len() < other.cells.len() {
            (&other.cells, &self.cells)
        } else {
            (&self.cells, &other.cells)
        };
        let length = (long.len() + short.len()).min(CELLS);
        let mut cells = vec![0.0; length];
        for (shift, mass) in short.iter().enumerate().filter(|(_, mass)| **mass > 0.0) {
            // The sum of two that are uniform over a cell each spreads over two cells, evenly.
            for (row, other) in long.iter().enumerate().take(length.saturating_sub(shift)) {
                let half = mass * other / 2.0;
                cells[row + shift] += half;
                if let Some(next) = cells.get_mut(row + shift + 1) {
                    *next += half;
                }
            }
        }
        for (sum, mass) in cells.iter_mut().zip(&self.cells) {
            *sum += mass * other.zero;
        }
        for (sum, mass) in cells.iter_mut().zip(&other.cells) {
            *sum += mass * self.zero;
        }
        Self {
            zero: self.zero * other.zero,
            never: 1.0 - (1.0 - self.never) * (1.0 - other.never),
            cells,
            end: self.end + other.end,
            mean: self.mean + other.mean,
        }
    }

    /// A mixture of lags: each with its share. Shares need not sum to one.
    pub fn mixed<'a>(parts: impl IntoIterator<Item = (f64, &'a Self)>) -> Self {
        let mut mixed = Self { zero: 0.0, never: 0.0, cells: Vec::new(), end: 0.0, mean: 0.0 };
        let mut whole = 0.0;
        for (share, part) in parts.into_iter().filter(|(share, _)| *share > 0.0) {
            whole += share;
            mixed.zero += share * part.zero;
            mixed.never += share * part.never;
            mixed.mean += share * part.mean;
            mixed.end = mixed.end.max(part.end);
            let length = mixed.cells.len().max(part.cells.len());
            mixed.cells.resize(length, 0.0);
            for (sum, mass) in mixed.cells.iter_mut().zip(&part.cells) {
                *sum += share * mass;
            }
        }
        if whole <= 0.0 {
            return Self::none();
        }
        for value in [&mut mixed.zero, &mut mixed.never, &mut mixed.mean] {
            *value /= whole;
        }
        mixed.cells.iter_mut().for_each(|mass| *mass /= whole);
        mixed
    }

    /// P(X > t): the share of requests that still go to the old region `seconds` after the change;
    /// all of them before it. Past the horizon what is left there is told, up to when none but
    /// those without end are left.
    pub fn after(&self, seconds: f64) -> f64 {
        if seconds < 0.0 {
            return 1.0;
        }
        if seconds >= self.end {
            return self.never;
        }
        let mut left = 1.0 - self.zero;
        for (row, mass) in self.cells.iter().enumerate() {
            let into = seconds / STEP - row as f64;
            if into < 1.0 {
                return (left - mass * into.max(0.0)).max(0.0);
            }
            left -= mass;
        }
        self.left_behind(left)
    }

    /// What is left where the cells end: nothing, but for those that never end and those beyond the
    /// horizon; not the rounding of many subtractions.
    fn left_behind(&self, left: f64) -> f64 {
        if left - self.never < 1e-9 { self.never } else { left }
    }

    /// The share that never moves by itself: pinned to an address.
    pub fn never(&self) -> f64 {
        self.never
    }

    /// E\[X\], in seconds: that many seconds' worth of requests go to the old region in all after
    /// one change.
    pub fn mean(&self) -> f64 {
        self.mean
    }

    /// How long after the change at most `share` of the requests still go to the old region, in
    /// seconds; beyond the horizon when the last have ended. `None`: that is not known, or never.
    pub fn until(&self, share: f64) -> Option<f64> {
        let mut left = 1.0 - self.zero;
        if left <= share {
            return Some(0.0);
        }
        for (row, mass) in self.cells.iter().enumerate() {
            // Rounding must not make a share of nothing be waited for in vain.
            let next = left - mass;
            if next <= share + 1e-9 {
                let into = if *mass > 0.0 { (left - share) / mass } else { 1.0 };
                return Some((row as f64 + into.clamp(0.0, 1.0)) * STEP);
            }
            left = next;
        }
        (self.never <= share && self.end.is_finite()).then_some(self.end)
    }

    /// ∫ S dt from the change to `seconds` after it: so many seconds' worth of requests go to the
    /// old region by then.
    pub fn area(&self, seconds: f64) -> f64 {
        let mut left = 1.0 - self.zero;
        let mut sum = 0.0;
        for (row, mass) in self.cells.iter().enumerate() {
            let part = ((seconds - row as f64 * STEP) / STEP).clamp(0.0, 1.0);
            sum += part * (left - mass * part / 2.0) * STEP;
            left -= mass;
        }
        let told = self.cells.len() as f64 * STEP;
        let bounded = (seconds.min(self.end) - told).max(0.0);
        let endless = (seconds - self.end.max(told)).max(0.0);
        sum + self.left_behind(left) * bounded + self.never * endless
    }
}
