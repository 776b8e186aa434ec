//! `maintenance`: when what is drained, once or again and again.

use std::time::Duration;

use cronexpr::{Crontab, MakeTimestamp, parse_crontab};
use jiff::Timestamp;

use super::doubts;
use super::problem::Problem;
use super::read::{At, Problems, duration};
use super::subject::Subject;
use crate::snapshot::Region;
use crate::steer::{Ramp, Service};
use crate::time::Instant;

/// A time in which something is drained.
#[derive(Debug)]
pub struct Maintenance {
    /// What operators call it.
    pub name: String,
    /// What is drained.
    pub subject: Subject,
    times: Times,
    lasts: Duration,
    /// How fast the clients leave.
    pub ramp: Option<Ramp>,
    /// What is wrong with it once no time is left for it.
    over: Problem,
}

#[derive(Debug)]
enum Times {
    Once(Instant),
    Again(Box<Crontab>),
}

const LONGEST: Duration = Duration::from_secs(7 * 86_400);

const TIMES: &str = "a time such as 2030-01-31T02:00:00Z, or a crontab with a time zone such as \
     \"0 2 * * SUN Europe/Dublin\"";

impl Maintenance {
    /// From when to when it is drained: now if it is, or else the next time, if there is any.
    pub fn window(&self, now: Instant) -> Option<(Instant, Instant)> {
        let begins = match &self.times {
            Times::Once(begins) => *begins,
            Times::Again(times) => {
                // The first that is not over.
                let after = Timestamp::from_nanosecond((now - self.lasts).as_nanos().into());
                let next = times.find_next(MakeTimestamp(after.ok()?)).ok()?;
                instant(next.timestamp())?
            }
        };
        let ends = begins + self.lasts;
        (now < ends).then_some((begins, ends))
    }

    /// What to tell of it if nothing is drained at `now` or later.
    pub fn over(&self, now: Instant) -> Option<&Problem> {
        self.window(now).is_none().then_some(&self.over)
    }
}

/// `maintenance`, which names some of these.
pub(super) fn read(
    at: Option<At<'_>>,
    regions: &[Region],
    services: &[Service],
    problems: &mut Problems,
) -> Vec<Maintenance> {
    let named = at.map(|at| at.named(problems)).unwrap_or_default();
    let window = |(name, _, at): (&str, _, At<'_>)| {
        let mut fields = at.fields(problems)?;
        let subject = fields.need("of", problems);
        let subject = subject.and_then(|at| {
            let text = at.text("REGION, SERVICE/REGION or an address", problems)?;
            let subject: Result<Subject, String> = text.parse();
            match subject.and_then(|of| Ok((of.among(regions, services)?, of))) {
                Ok((scope, subject)) => {
                    doubts::of_maintenance(scope, &at, services, problems);
                    Some(subject)
                }
                Err(what) => {
                    problems.error(at.place(), &at.key, what);
                    None
                }
            }
        });
        let at = fields.need("at", problems)?;
        let times = times(&at, problems);
        let lasts = fields.need("for", problems);
        let lasts = lasts.and_then(|at| at.duration(Duration::from_secs(1), LONGEST, problems));
        let ramp = fields.get("ramp").map(|at| ramp(&at, problems));
        fields.done(problems);
        let (subject, times, lasts) = (subject?, times?, lasts?);
        let what = match &times {
            Times::Once(_) => "it is over, and nothing is drained; take it out",
            Times::Again(_) => "such a time never comes in the next four years: nothing is drained",
        };
        let over = problems.would_warn(at.place(), &at.key, what);
        let ramp = ramp.unwrap_or_default();
        Some(Maintenance { name: name.to_owned(), subject, times, lasts, ramp, over })
    };
    named.into_iter().filter_map(window).collect()
}

fn times(at: &At<'_>, problems: &mut Problems) -> Option<Times> {
    let text = at.text(TIMES, problems)?;
    let once = text.parse().ok().and_then(instant).map(Times::Once);
    let read = once.map_or_else(|| parse_crontab(text).map(|of| Times::Again(Box::new(of))), Ok);
    read.map_err(|error| {
        let what = format!("`{text}` is not {TIMES}: {error}");
        problems.error(at.place(), &at.key, what);
    })
    .ok()
}

pub(crate) fn ramp(at: &At<'_>, problems: &mut Problems) -> Option<Ramp> {
    let text = at.text(RAMP, problems)?;
    let ramp = steps(text);
    if ramp.is_none() {
        problems.error(at.place(), &at.key, format!("`{text}` given; expected {RAMP}"));
    }
    ramp
}

/// What a ramp is written as.
pub(crate) const RAMP: &str = "a share of the clients and a time of whole seconds, such as 10%/30s";

/// A ramp as it is written: [`RAMP`].
pub(crate) fn steps(text: &str) -> Option<Ramp> {
    let (percent, every) = text.split_once('/')?;
    let percent = percent.trim().strip_suffix('%')?.parse().ok()?;
    let every = duration(every).filter(|every| !every.is_zero() && every.subsec_nanos() == 0)?;
    (1..=100).contains(&percent).then_some(Ramp { percent, every })
}

fn instant(at: Timestamp) -> Option<Instant> {
    u64::try_from(at.as_nanosecond()).ok().map(Instant::from_nanos)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> Instant {
        instant(text.parse().unwrap()).unwrap()
    }

    #[test]
    fn a_window_is_the_one_that_is_open_or_the_next() {
        let again = Box::new(parse_crontab("30 1 * * SUN Europe/Dublin").unwrap());
        let hours = |hours: u64| Duration::from_secs(hours * 3600);
        let of = |times, lasts| Maintenance {
            name: "weekly".to_owned(),
            subject: Subject::Region("eu".to_owned()),
            times,
            lasts,
            ramp: None,
            over: Problem::of_file("test", "over".to_owned()),
        };
        let weekly = of(Times::Again(again), hours(2));
        let begins = |now| weekly.window(at(now)).unwrap().0;
        // In summer Dublin is an hour ahead of UTC.
        assert_eq!(begins("2026-07-01T00:00:00Z"), at("2026-07-05T00:30:00Z"));
        assert_eq!(begins("2026-07-05T00:30:00Z"), at("2026-07-05T00:30:00Z"));
        assert_eq!(begins("2026-07-05T02:29:59Z"), at("2026-07-05T00:30:00Z"));
        assert_eq!(begins("2026-07-05T02:30:00Z"), at("2026-07-12T00:30:00Z"));
        assert_eq!(begins("2026-12-01T00:00:00Z"), at("2026-12-06T01:30:00Z"));
        // On the day on which the clocks go forward there is no 1:30.
        assert_eq!(begins("2026-03-28T00:00:00Z"), at("2026-04-05T00:30:00Z"));

        let once = of(Times::Once(at("2026-07-05T00:30:00Z")), hours(2));
        let (from, to) = (at("2026-07-05T00:30:00Z"), at("2026-07-05T02:30:00Z"));
        assert_eq!(once.window(at("2026-01-01T00:00:00Z")), Some((from, to)));
        assert_eq!(once.window(at("2026-07-05T02:29:59Z")), Some((from, to)));
        assert_eq!((once.window(to), once.over(to).is_some()), (None, true));
        assert_eq!(once.over(from), None);
        let never = Box::new(parse_crontab("0 2 31 2 * UTC").unwrap());
        assert!(of(Times::Again(never), hours(2)).over(from).is_some());
    }
}
