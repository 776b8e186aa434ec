//! What endpoints tell of themselves: how many requests arrive at them, and which fencing epoch
//! they have acknowledged. The latest of each target, as long as it may be believed.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crate::ids::TargetId;
use crate::steer::Endpoint;
use crate::time::Instant;

/// What a target says at once, in an answer to a probe or by a push.
#[derive(Clone, Copy, PartialEq, Debug, Default)]
pub struct Signal {
    /// Requests a second.
    pub requests: Option<f64>,
    /// The epoch of the writer that it knows of.
    pub epoch: Option<u64>,
}

/// Nobody has more requests a second.
const MOST: f64 = 1e12;

/// Whole numbers beyond this are no longer told apart by what carries them (IEEE 754).
const LARGEST: f64 = 9_007_199_254_740_992.0;

/// For how long a rate that is no longer told is remembered, should the region leave then: what
/// goes down tells nothing more before that is noticed.
const REMEMBERED: Duration = Duration::from_secs(300);

/// An endpoint that was told requests, and tells nothing more, is not believed to have none before
/// this is over: a few probes that were lost do not switch a region off.
const LOST: Duration = Duration::from_secs(30);

/// Over how many seconds a rate is averaged, to be what it was before.
const MEAN: f64 = 60.0;

impl Signal {
    /// A rate, if it can be one.
    pub(super) fn rate(value: f64) -> Option<f64> {
        (0.0..=MOST).contains(&value).then_some(value)
    }

    /// An epoch, if it can be one.
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "it is whole")]
    pub(super) fn whole(value: f64) -> Option<u64> {
        let is_whole = (0.0..LARGEST).contains(&value) && value.fract() == 0.0;
        is_whole.then_some(value as u64)
    }
}

/// What a target has told.
#[derive(Clone, Copy, PartialEq, Debug)]
struct Told {
    latest: Signal,
    at: Instant,
    /// Until when it may be believed.
    until: Instant,
    /// The mean of the rates, and of how many.
    mean: f64,
    count: u32,
    /// Since when each rate was 0.
    quiet: Option<Instant>,
}

/// The table of all of them. Who looks at it shares it; it is copied if it changes meanwhile.
#[derive(Clone, Debug, Default)]
pub(super) struct Arrivals(Arc<Mutex<Arc<HashMap<TargetId, Told>>>>);

/// The same at one moment.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Signals {
    now: Instant,
    told: Arc<HashMap<TargetId, Told>>,
}

/// What an endpoint tells, by all of its checks.
#[derive(Clone, Copy, PartialEq, Debug, Default)]
pub(super) struct Sight {
    /// Requests a second now.
    pub(super) requests: Option<f64>,
    /// Since when there were none.
    pub(super) quiet: Option<Instant>,
    /// The epoch that it has acknowledged.
    pub(super) epoch: Option<u64>,
    /// When it told that.
    pub(super) at: Option<Instant>,
    /// It told of so many requests a second, tells nothing now, and is not yet taken to have none:
    /// until then.
    pub(super) lost: Option<(f64, Instant)>,
}

impl Arrivals {
    /// A target tells something, to be believed for so long.
    pub(super) fn tell(&self, now: Instant, target: TargetId, latest: Signal, valid: Duration) {
        if latest == Signal::default() {
            return;
        }
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let all = Arc::make_mut(&mut all);
        let before = all.get(&target);
        let (mut mean, mut count) = before.map_or((0.0, 0), |told| (told.mean, told.count));
        if let Some(rate) = latest.requests {
            let passed = before.map_or(Duration::ZERO, |told| now.since(told.at)).as_secs_f64();
            count = count.saturating_add(1);
            mean += (rate - mean) * (1.0 - (-passed / MEAN).exp()).max(1.0 / f64::from(count));
        }
        let was_quiet = before.filter(|told| told.until >= now).and_then(|told| told.quiet);
        let is_quiet = latest.requests.is_some_and(|rate| rate <= 0.0);
        let quiet = is_quiet.then(|| was_quiet.unwrap_or(now));
        all.insert(target, Told { latest, at: now, until: now + valid, mean, count, quiet });
    }

    /// Nothing is known any more of other targets than these.
    pub(super) fn keep(&self, is_kept: impl Fn(TargetId) -> bool) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if !all.keys().all(|target| is_kept(*target)) {
            Arc::make_mut(&mut all).retain(|target, _| is_kept(*target));
        }
    }

    /// What is told at `now`.
    pub(super) fn at(&self, now: Instant) -> Signals {
        let told = self.0.lock().unwrap_or_else(PoisonError::into_inner).clone();
        Signals { now, told }
    }
}

impl Signals {
    /// Whether nobody has told anything.
    pub(super) fn is_empty(&self) -> bool {
        self.told.is_empty()
    }

    fn of<'s>(&'s self, endpoint: &'s Endpoint) -> impl Iterator<Item = &'s Told> + Clone {
        let targets = endpoint.probed.iter().flat_map(|probed| &probed.targets);
        targets.filter_map(|target| self.told.get(target))
    }

    /// What an endpoint tells. Of checks that do not tell the same, the worse counts.
    pub(super) fn sight(&self, endpoint: &Endpoint) -> Sight {
        let fresh = self.of(endpoint).filter(|told| told.until > self.now);
        let requests = fresh.clone().filter_map(|told| told.latest.requests).reduce(f64::max);
        let lost = self.of(endpoint).filter_map(|told| {
            let until = told.until + LOST;
            let rate = told.latest.requests.filter(|rate| *rate > 0.0)?;
            (until > self.now).then_some((rate, until))
        });
        Sight {
            requests,
            quiet: fresh.clone().filter_map(|told| told.quiet).max(),
            epoch: fresh.clone().filter_map(|told| told.latest.epoch).min(),
            at: fresh.map(|told| told.at).max(),
            lost: lost.max_by_key(|(_, until)| *until).filter(|_| requests.is_none()),
        }
    }

    /// How many requests a second an endpoint had lately.
    pub(super) fn before(&self, endpoint: &Endpoint) -> Option<f64> {
        let is_recent = |told: &&Told| told.count > 0 && told.until + REMEMBERED > self.now;
        self.of(endpoint).filter(is_recent).map(|told| told.mean).reduce(f64::max)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::steer::{Address, Probed};

    const VALID: Duration = Duration::from_secs(2);

    fn at(seconds: u64) -> Instant {
        Instant::default() + Duration::from_secs(seconds)
    }

    fn target(row: usize) -> TargetId {
        TargetId::from_index(row).unwrap()
    }

    fn endpoint(targets: &[usize]) -> Endpoint {
        let targets = targets.iter().map(|row| target(*row)).collect();
        let probed = Some(Probed { targets, need: 1 });
        Endpoint { address: Address::Ip([192, 0, 2, 1].into()), probed }
    }

    fn requests(rate: f64) -> Signal {
        Signal { requests: Some(rate), epoch: None }
    }

    #[test]
    fn what_is_old_is_not_known_and_was_not_zero() {
        let (all, of) = (Arrivals::default(), endpoint(&[0]));
        let sight = |seconds| all.at(at(seconds)).sight(&of);
        assert_eq!(sight(0), Sight::default());
        all.tell(at(10), target(0), requests(42.0), VALID);
        assert_eq!(sight(11).requests, Some(42.0));
        let lost = sight(12);
        assert_eq!((lost.requests, lost.at), (None, None));
        assert_eq!(lost.lost, Some((42.0, at(42))));
        assert_eq!(sight(42), Sight::default());
        // What it had before is remembered for longer.
        assert_eq!(all.at(at(311)).before(&of), Some(42.0));
        assert_eq!(all.at(at(312)).before(&of), None);
        // Who had none is not missed.
        all.tell(at(400), target(0), requests(0.0), VALID);
        assert_eq!(sight(402), Sight::default());
        all.keep(|of| of != target(0));
        assert!(all.at(at(400)).is_empty());
    }

    #[test]
    fn silence_lasts_as_long_as_it_is_told_without_a_gap() {
        let (all, of) = (Arrivals::default(), endpoint(&[0]));
        for seconds in [10, 11, 12] {
            all.tell(at(seconds), target(0), requests(0.0), VALID);
        }
        assert_eq!(all.at(at(12)).sight(&of).quiet, Some(at(10)));
        all.tell(at(20), target(0), requests(0.0), VALID);
        assert_eq!(all.at(at(20)).sight(&of).quiet, Some(at(20)));
        all.tell(at(21), target(0), requests(0.5), VALID);
        assert_eq!(all.at(at(21)).sight(&of).quiet, None);
    }

    #[test]
    fn of_several_checks_the_worse_counts() {
        let (all, of) = (Arrivals::default(), endpoint(&[0, 1, 2]));
        let signal = |rate, epoch| Signal { requests: Some(rate), epoch: Some(epoch) };
        all.tell(at(10), target(0), signal(3.0, 8), VALID);
        all.tell(at(10), target(1), signal(0.0, 7), VALID);
        let sight = all.at(at(11)).sight(&of);
        assert_eq!((sight.requests, sight.epoch), (Some(3.0), Some(7)));
    }

    #[test]
    fn what_was_before_is_a_mean_that_one_odd_report_does_not_move_far() {
        let (all, of) = (Arrivals::default(), endpoint(&[0]));
        for seconds in 0..600 {
            all.tell(at(seconds), target(0), requests(1000.0), VALID);
        }
        all.tell(at(600), target(0), requests(0.0), VALID);
        let before = all.at(at(600)).before(&of).unwrap();
        assert!((980.0..990.0).contains(&before), "{before}");
    }

    #[test]
    fn rates_and_epochs_are_what_they_can_be() {
        assert_eq!(Signal::rate(0.5), Some(0.5));
        assert_eq!(Signal::whole(7.0), Some(7));
        for wrong in [-1.0, f64::NAN, f64::INFINITY, 1e300] {
            assert_eq!((Signal::rate(wrong), Signal::whole(wrong)), (None, None), "{wrong}");
        }
        assert_eq!(Signal::whole(0.5), None);
    }
}
