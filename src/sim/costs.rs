//! What each way of settling writes costs, beside what was simulated.

use serde::Serialize;

use super::outcome::{Conflicts, End, Moved, Outcome};
use super::scenario::{CLOCKS, HOME, HYBRID, LEASE, MERGE, WORD, Writing};
use crate::convergence::{Handover, Lag, Policy};
use crate::time::TRAVEL;

/// What a way of settling writes costs: as it was simulated, if it was, and by the closed form.
#[derive(Clone, Debug, Serialize)]
pub struct Settling {
    /// The policy.
    pub policy: &'static str,
    /// Writes in conflict, lost, and refused or passed on, as simulated.
    pub simulated: Option<[f64; 3]>,
    /// The same by the closed form, for the moves that there were.
    pub model: [f64; 3],
}

impl Outcome {
    /// What each policy costs, beside what was simulated.
    pub(super) fn costs(
        &self,
        of: Conflicts,
        writing: &Writing,
        lag: &Lag,
        end: &End,
    ) -> Vec<Settling> {
        let writes = writing.writes;
        let steady = self.steady(&end.reloaded);
        let ahead = |region: usize| {
            let mut skewed = writing.skew.iter();
            let found = skewed.find(|(of, _)| of.index() == region);
            found.map_or(0.0, |(_, ahead)| ahead.as_secs_f64())
        };
        let ahead: Vec<f64> = (0..self.regions.len()).map(ahead).collect();
        let [mut met, mut lost, mut dropped] = [0.0; 3];
        for (seconds, shares) in &steady {
            let everyday = writes.everyday(shares);
            met += seconds * everyday.writes;
            lost += seconds * everyday.lost;
            dropped += seconds * writes.dropped(shares, &ahead);
        }
        let handover = |of: Option<&Moved>, parted: f64, stays: f64| Handover {
            lag: of.map_or_else(|| lag.clone(), |of| of.lag(lag)),
            writes,
            moving: of.map_or(0.0, |of| of.had),
            parted,
            stays,
            until: of.map_or(0.0, |of| of.watched),
            named: of.map_or(0.0, |of| of.at - of.from),
        };
        // Regions are parted once; each move takes its own clients along. Where one region at a
        // time writes, the first move is that of the cut.
        let is_parted = end.parted > 0.0;
        let is_one = end.one_writer.is_some() && is_parted;
        let parted = (is_parted && !is_one).then(|| handover(None, end.parted, end.stays));
        let moves = self.moved.iter().enumerate().map(|(row, of)| {
            let parted = if row == 0 && is_one { end.parted } else { 0.0 };
            handover(Some(of), parted, 0.5)
        });
        let all: Vec<Handover> = moves.chain(parted).collect();
        let settling = |(policy, how)| {
            let (policy, how) = match how {
                // The next one waits until the last one's answers are forgotten.
                Policy::Lease { length, drift, margin } => {
                    let margin = margin + end.ttl + TRAVEL.as_secs_f64();
                    let (length, name) = end.one_writer.unwrap_or((length, policy));
                    (name, Policy::Lease { length, drift, margin })
                }
                how => (policy, how),
            };
            // A lease changes hands only when its holder leaves.
            let leases = if end.one_writer.is_some() { self.moved.len() } else { 1 };
            let counted = match how {
                Policy::Lease { .. } => all.get(..leases.min(self.moved.len())).unwrap_or_default(),
                _ => all.as_slice(),
            };
            let costs = counted.iter().map(|of| of.cost(how));
            let mut model = costs.fold([0.0; 3], |sum: [f64; 3], cost| {
                let [a, b, c] = sum;
                [a + cost.conflicts, b + cost.lost, c + cost.refused]
            });
            let [conflicts, lost_by, _] = &mut model;
            match how {
                Policy::LastWriter => {
                    *conflicts += met;
                    *lost_by += lost + if policy == CLOCKS { dropped } else { 0.0 };
                }
                Policy::Merge => *conflicts += met,
                _ => {}
            }
            Settling { policy, simulated: simulated(of, policy, end.one_writer.is_some()), model }
        };
        writing.policies().into_iter().map(settling).collect()
    }

    /// For how many seconds shares are as they are at the end of each stretch between two changes,
    /// moves, returns and reloads, and which those are.
    fn steady(&self, reloaded: &[f64]) -> Vec<(f64, Vec<f64>)> {
        let seconds = self.seconds as f64;
        let moves = self.moved.iter().flat_map(|of| [Some(of.from), of.back]).flatten();
        let mut ends: Vec<f64> = moves.chain(reloaded.iter().copied()).chain([seconds]).collect();
        ends.sort_by(f64::total_cmp);
        let begins = [0.0].into_iter().chain(ends.iter().copied());
        let last = |end: f64| {
            let numbered = self.shares.iter().zip(0_u32..);
            let before = numbered.take_while(|(_, second)| f64::from(*second) < end);
            normal(before.last().map_or_else(Vec::new, |(shares, _)| shares.clone()))
        };
        begins.zip(&ends).map(|(begin, end)| (end - begin, last(*end))).collect()
    }
}

/// The same shares, that sum to one.
fn normal(mut shares: Vec<f64>) -> Vec<f64> {
    let all: f64 = shares.iter().sum();
    shares.iter_mut().for_each(|share| *share /= all.max(1e-9));
    shares
}

/// Writes in conflict, lost and refused as they were simulated, where a way of settling them is.
fn simulated(of: Conflicts, policy: &str, is_one_writer: bool) -> Option<[f64; 3]> {
    let counts = match policy {
        LEASE | WORD if is_one_writer => [0, of.unseen, of.failed],
        _ if is_one_writer => return None,
        CLOCKS => [of.met, of.lost + of.stale, of.failed],
        HYBRID => [of.met, of.lost, of.failed],
        MERGE => [of.met, 0, of.failed],
        HOME => [of.unfenced, of.unfenced, of.astray - of.unfenced + of.failed],
        _ => return None,
    };
    Some(counts.map(|count| count as f64))
}
