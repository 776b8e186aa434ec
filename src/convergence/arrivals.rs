//! What still arrives at a region that has left the answers, by what its endpoints tell.
//!
//! The model expects; this is measured. An endpoint that does not tell is in neither sum.

/// What arrives at an endpoint that tells.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Flow {
    /// Requests a second now.
    pub now: f64,
    /// For how many seconds it has been none at all.
    pub quiet: f64,
    /// Requests a second before; `None`: not known.
    pub before: Option<f64>,
}

/// The same of all endpoints of a region that tell.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Arrivals {
    /// Requests a second now.
    pub now: f64,
    /// For how many seconds no endpoint has had any.
    pub quiet: f64,
    /// Requests a second before; `None`: not known of any.
    pub before: Option<f64>,
}

/// Whether few enough arrive.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Judged {
    /// Few enough, as far as is told.
    Few,
    /// Too many, or it is not known of how many.
    Many,
    /// None, and for so many seconds more it must be none before that says enough.
    Quiet(f64),
}

/// With 95 % confidence, none in the time of three means that there is less than one (the rule of
/// three).
const THREE: f64 = 3.0;

/// Nobody waits for silence for longer, in seconds: a day.
const LONGEST: f64 = 86_400.0;

/// How long it must be silent if it is not known how many there were, in seconds.
const UNKNOWN: f64 = 60.0;

/// Of fewer than this, one request in twenty seconds, that time does not tell either: a mean that
/// only falls, and is never none, counts as not known.
const FEWEST: f64 = THREE / UNKNOWN;

/// By how many times more than is expected may arrive before that is told.
const ALARMING: f64 = 3.0;

impl Arrivals {
    /// The sum; `None`: no endpoint tells.
    pub fn of(flows: impl IntoIterator<Item = Flow>) -> Option<Self> {
        let one = |flow: Flow| Self { now: flow.now, quiet: flow.quiet, before: flow.before };
        // Of whom it is not known how many it had, it is taken to have had none.
        let before = |one: Option<f64>, other: Option<f64>| match (one, other) {
            (None, None) => None,
            _ => Some(one.unwrap_or(0.0) + other.unwrap_or(0.0)),
        };
        flows.into_iter().map(one).reduce(|sum, of| Self {
            now: sum.now + of.now,
            quiet: sum.quiet.min(of.quiet),
            before: before(sum.before, of.before),
        })
    }

    /// Which part of what was before is left; `None`: that is not known.
    pub fn share(&self) -> Option<f64> {
        let before = self.before.filter(|before| *before > 0.0)?;
        Some(self.now / before)
    }

    /// Is at most the share `residual` left?
    pub fn judge(&self, residual: f64) -> Judged {
        let allowed = self.before.map(|before| before * residual.max(0.0));
        if self.now > 0.0 {
            let is_few = allowed.is_some_and(|allowed| self.now <= allowed);
            return if is_few { Judged::Few } else { Judged::Many };
        }
        let wanted = match (self.before, allowed) {
            (Some(before), _) if before <= 0.0 => 0.0,
            (Some(before), _) if before < FEWEST => UNKNOWN,
            (_, Some(allowed)) => (THREE / allowed).min(LONGEST),
            _ => UNKNOWN,
        };
        if self.quiet >= wanted { Judged::Few } else { Judged::Quiet(wanted - self.quiet) }
    }

    /// Do so many more arrive than `expected`, a share, that the model has not heard of them; and
    /// too many?
    pub fn is_unexplained(&self, expected: f64, residual: f64) -> bool {
        self.share().is_some_and(|share| share > ALARMING * expected && share > residual)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn arrivals(now: f64, quiet: f64, before: Option<f64>) -> Arrivals {
        Arrivals::of([Flow { now, quiet, before }]).unwrap()
    }

    #[test]
    fn few_enough_is_a_share_of_what_was_before() {
        let judged = |now, quiet, before| arrivals(now, quiet, before).judge(0.01);
        assert_eq!(judged(42.0, 0.0, Some(1200.0)), Judged::Many);
        assert_eq!(judged(12.0, 0.0, Some(1200.0)), Judged::Few);
        assert_eq!(judged(0.5, 0.0, None), Judged::Many, "of how many is not known");
        assert_eq!(judged(0.5, 0.0, Some(0.0)), Judged::Many);
        // Nothing has come, for as long as three are awaited in: 3/(0.01⋅10).
        assert_eq!(judged(0.0, 20.0, Some(10.0)), Judged::Quiet(10.0));
        assert_eq!(judged(0.0, 30.0, Some(10.0)), Judged::Few);
        assert_eq!(judged(0.0, 0.0, Some(0.0)), Judged::Few);
        assert_eq!(judged(0.0, 10.0, None), Judged::Quiet(50.0));
        // What is left of a mean long after the last request.
        assert_eq!(judged(0.0, 600.0, Some(3.7e-4)), Judged::Few);
        assert_eq!(judged(0.0, 0.0, Some(1e-300)), Judged::Quiet(60.0));
        assert_eq!(arrivals(0.0, 0.0, Some(1.0)).judge(0.0), Judged::Quiet(86_400.0));
    }

    /// With none in n, the upper bound of 95 % is 1 − 0.05^(1/n), which is 3/n for large n.
    #[test]
    fn the_rule_of_three_is_the_exact_bound_rounded_up() {
        for (before, residual) in [(100.0, 0.01), (1000.0, 0.001), (1e5, 0.02)] {
            let Judged::Quiet(wait) = arrivals(0.0, 0.0, Some(before)).judge(residual) else {
                panic!("it is to wait")
            };
            let requests = before * wait;
            let exact = 1.0 - 0.05_f64.powf(1.0 / requests);
            assert!(exact <= residual && exact > residual * 0.98, "{exact} of {residual}");
        }
    }

    #[test]
    fn endpoints_that_tell_are_summed() {
        let flow = |now, quiet, before| Flow { now, quiet, before };
        assert_eq!(Arrivals::of([]), None);
        let two = Arrivals::of([flow(0.0, 9.0, Some(100.0)), flow(3.0, 0.0, None)]).unwrap();
        assert_eq!(two, Arrivals { now: 3.0, quiet: 0.0, before: Some(100.0) });
        assert_eq!(two.share(), Some(0.03));
        assert_eq!(Arrivals::of([flow(1.0, 0.0, None); 2]).unwrap().share(), None);
    }

    #[test]
    fn more_than_three_times_what_is_expected_is_told_if_it_is_too_much() {
        let is_told =
            |now, expected| arrivals(now, 0.0, Some(1000.0)).is_unexplained(expected, 0.01);
        assert!(is_told(61.0, 0.02));
        assert!(!is_told(60.0, 0.02));
        assert!(!is_told(9.0, 0.0001), "few enough all the same");
        assert!(!arrivals(1.0, 0.0, None).is_unexplained(0.0, 0.01));
    }

    proptest! {
        #[test]
        fn a_judgement_is_sound_whatever_is_told(
            now in 0.0..1e12f64,
            before in proptest::option::of(0.0..1e12f64),
            quiet in 0.0..1e6f64,
            residual in proptest::num::f64::ANY,
        ) {
            match arrivals(now, quiet, before).judge(residual) {
                // Never more than is allowed.
                Judged::Few if now > 0.0 => prop_assert!(now <= before.unwrap() * residual),
                Judged::Few | Judged::Many => {}
                Judged::Quiet(left) => prop_assert!(left > 0.0 && left <= 86_400.0 && now == 0.0),
            }
        }
    }
}
