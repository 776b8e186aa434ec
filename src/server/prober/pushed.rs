//! States that others tell, by the API or in a file, for as long as they say.
//!
//! A line of the file is `ADDRESS up` or `ADDRESS down`, with an end such as
//! `2030-01-31T12:00:00Z` after it if it has one, and a comment after `#`. What was told over the
//! API goes first, until it ends. Who was told nothing is what it was, and stale.
//!
//! A file is read once a change, for all its targets, by one thread at a time: what hangs there (a
//! server of files that is gone) holds up that one, and nobody who waits for it for longer than a
//! probe may take.

use std::collections::HashMap;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, Weak};
use std::time::Duration;

use jiff::Timestamp;
use tokio::sync::Mutex;
use tokio::task::spawn_blocking;
use tracing::{info, warn};

use crate::config::{Place, Problem};
use crate::health::{Failure, Outcome};
use crate::server::files::{Print, read};
use crate::server::store::Pushing;
use crate::time::Instant;

/// What was told over the API, by check and address.
#[derive(Clone, Debug, Default)]
pub(in crate::server) struct Pushed(Arc<std::sync::Mutex<HashMap<(String, IpAddr), Told>>>);

/// Up or not, and until when.
type Told = (bool, Instant);

impl Pushed {
    /// From `now` until then, an address is up or down, as far as this check goes.
    pub(in crate::server) fn tell(&self, now: Instant, (of, state): Pushing) {
        let mut told = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // What is over is dropped before the table grows.
        if told.len() == told.capacity() {
            told.retain(|_, (_, until)| *until > now);
        }
        told.insert(of, state);
    }

    /// What an earlier process was told counts for as long as it said.
    pub(in crate::server) fn recall(&self, now: Instant, told: &[Pushing]) {
        for pushing in told.iter().filter(|(_, (_, until))| *until > now) {
            self.tell(now, pushing.clone());
        }
    }

    /// Is an address told to be up at `now`? `None`: nobody tells.
    pub(in crate::server) fn told(
        &self,
        now: Instant,
        (check, address): (&str, IpAddr),
    ) -> Option<bool> {
        let told = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (is_up, until) = *told.get(&(check.to_owned(), address))?;
        (until > now).then_some(is_up)
    }
}

/// The files that tell states, each of them once.
#[derive(Debug, Default)]
pub(in crate::server) struct Files(HashMap<PathBuf, Weak<Mutex<Seen>>>);

impl Files {
    /// The file at this path: the same one as long as a probe has it, or somebody looks at it.
    pub(in crate::server) fn file(&mut self, path: PathBuf) -> File {
        if let Some(known) = self.0.get(&path).and_then(Weak::upgrade) {
            return File(known);
        }
        self.0.retain(|_, seen| seen.strong_count() > 0);
        let seen = Arc::new(Mutex::new(Seen { path: path.clone(), ..Seen::default() }));
        self.0.insert(path, Arc::downgrade(&seen));
        File(seen)
    }
}

/// A file that tells states. Whoever has what is in it looks at it.
#[derive(Clone, Debug)]
pub struct File(Arc<Mutex<Seen>>);

impl File {
    /// Does it tell that an address is up at `now`? Waits for as long as the file takes.
    pub(super) async fn look(&self, address: IpAddr, now: Instant) -> Option<bool> {
        let mut seen = self.0.clone().lock_owned().await;
        if !seen.is_fresh() {
            // Who stops waiting leaves the lock with the thread: it is the only one until it ends.
            let renewed = spawn_blocking(move || {
                seen.renew();
                seen
            });
            seen = renewed.await.ok()?;
        }
        seen.of(address, now)
    }
}

/// So long after a look at a file nobody looks again: far shorter than an interval.
const FRESH: Duration = Duration::from_millis(50);

/// A file that has looked the same for so long is not read again: within the time that a file
/// system counts as one moment, it could have been written twice.
const SETTLED: Duration = Duration::from_secs(3);

/// So many faults of a file are logged at once.
const MOST_TOLD: usize = 10;

/// What a file told when it was read.
#[derive(Debug, Default)]
pub(in crate::server) struct Seen {
    path: PathBuf,
    /// When the last look at it ended.
    looked: Option<tokio::time::Instant>,
    /// What it looked like then, and since when.
    print: Option<(Print, tokio::time::Instant)>,
    /// What was read then is all that it tells as long as it looks like that.
    is_settled: bool,
    /// The lines on each address, the last one last; none before one that has no end.
    told: Lines,
    /// What was wrong with it then.
    faults: Vec<Problem>,
}

/// Up or not, and until when, by address.
type Lines = HashMap<IpAddr, Vec<(bool, Option<Instant>)>>;

impl Seen {
    fn is_fresh(&self) -> bool {
        self.looked.is_some_and(|at| at.elapsed() < FRESH)
    }

    /// Looks at the file, and reads it if it may have changed. One that cannot be read tells
    /// nothing.
    fn renew(&mut self) {
        let now = tokio::time::Instant::now();
        let print = Print::of(&self.path);
        let since = match self.print {
            Some((same, since)) if same == print => since,
            _ => {
                self.is_settled = false;
                now
            }
        };
        self.print = Some((print, since));
        if !self.is_settled {
            let octets = read(&self.path);
            self.is_settled = octets.is_ok() && now.duration_since(since) > SETTLED;
            let faults;
            (self.told, faults) = look_through(&self.path, octets);
            self.complain(faults);
        }
        self.looked = Some(tokio::time::Instant::now());
    }

    /// Logs what is wrong with it, each fault once for as long as it is there.
    fn complain(&mut self, faults: Vec<Problem>) {
        let news: Vec<_> = faults.iter().filter(|of| !self.faults.contains(of)).collect();
        for fault in news.iter().take(MOST_TOLD) {
            warn!("{fault}");
        }
        if news.len() > MOST_TOLD {
            warn!("{}: and {} lines more", self.path.display(), news.len() - MOST_TOLD);
        }
        if faults.is_empty() && !self.faults.is_empty() {
            info!("{}: nothing is wrong with it any more", self.path.display());
        }
        self.faults = faults;
    }

    /// What it tells of `address` at `now`: the last line that is not over counts.
    fn of(&self, address: IpAddr, now: Instant) -> Option<bool> {
        let mut lines = self.told.get(&address)?.iter().rev();
        let (is_up, _) = lines.find(|(_, until)| until.is_none_or(|until| until > now))?;
        Some(*is_up)
    }
}

/// What is wrong with the file at `path`: lines that tell nothing, or that it cannot be read.
pub(in crate::server) fn faults(path: &Path) -> Vec<Problem> {
    look_through(path, read(path)).1
}

/// What the `octets` of a file tell, and what is wrong with it.
fn look_through(path: &Path, octets: Result<Vec<u8>, String>) -> (Lines, Vec<Problem>) {
    let fault = |at, what| {
        let problem = Problem::of_file(&path.display().to_string(), what);
        Problem { at, is_warning: true, ..problem }
    };
    match octets {
        Ok(octets) => {
            let (told, wrong) = told_by(&String::from_utf8_lossy(&octets));
            let place = |line| Some(Place { line, column: 1 });
            let wrong = wrong.into_iter().map(|line| fault(place(line), EXPECTED.to_owned()));
            (told, wrong.collect())
        }
        Err(reason) => (Lines::new(), vec![fault(None, format!("{reason}; it tells nothing"))]),
    }
}

/// What a line is to be.
const EXPECTED: &str = "expected ADDRESS up|down [END], with an END such as 2030-01-31T12:00:00Z; \
                        the line tells nothing";

/// What the lines of a text tell, by address; and the numbers of those that tell nothing.
fn told_by(text: &str) -> (Lines, Vec<usize>) {
    let (mut told, mut wrong) = (Lines::new(), Vec::new());
    for (row, line) in text.lines().enumerate() {
        let line = line.split('#').next().unwrap_or_default().trim();
        match read_line(line) {
            Some((address, is_up, until)) => {
                let lines = told.entry(address).or_default();
                if until.is_none() {
                    lines.clear();
                }
                lines.push((is_up, until));
            }
            None if line.is_empty() => {}
            None => wrong.push(row + 1),
        }
    }
    (told, wrong)
}

/// `ADDRESS up` or `ADDRESS down`, with an end or without.
fn read_line(line: &str) -> Option<(IpAddr, bool, Option<Instant>)> {
    let mut words = line.split_whitespace();
    let address = words.next()?.parse().ok()?;
    let is_up = match words.next()? {
        "up" => true,
        "down" => false,
        _ => return None,
    };
    let moment = |until: &str| {
        let until: Timestamp = until.parse().ok()?;
        u64::try_from(until.as_nanosecond()).ok().map(Instant::from_nanos)
    };
    match (words.next(), words.next()) {
        (None, _) => Some((address, is_up, None)),
        (Some(until), None) => moment(until).map(|until| (address, is_up, Some(until))),
        (Some(_), Some(_)) => None,
    }
}

/// What a probe saw of an address of which this is told.
pub(super) fn outcome(told: Option<bool>) -> Outcome {
    match told {
        Some(true) => Outcome::Success,
        Some(false) => Outcome::Failure(Failure::Told),
        None => Outcome::Failure(Failure::Untold),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_tells_what_its_last_line_on_an_address_says() {
        let text = "# states\n192.0.2.1 up\n192.0.2.2 down\n192.0.2.1 down 2030-01-01T00:00:00Z\n\
                    2001:db8::1 up\n192.0.2.3 perhaps\n192.0.2.4 up soon\n\n\
                    192.0.2.6 up # since Monday\n192.0.2.7 down 2030-01-01T00:00:00Z then up\n\
                    Down\n";
        let at = |year: u64| Instant::from_nanos((year - 1970) * 31_556_952 * 1_000_000_000);
        let (told, wrong) = told_by(text);
        assert_eq!(wrong, [6, 7, 10, 11]);
        let seen = Seen { told, ..Seen::default() };
        let told = |ip: &str, year| seen.of(ip.parse().unwrap(), at(year));
        assert_eq!(told("192.0.2.1", 2029), Some(false));
        assert_eq!(told("192.0.2.1", 2031), Some(true), "the last line is over");
        assert_eq!(told("192.0.2.2", 2031), Some(false));
        assert_eq!(told("2001:db8::1", 2031), Some(true));
        assert_eq!(told("192.0.2.6", 2029), Some(true), "what follows is a comment");
        for silent in ["192.0.2.3", "192.0.2.4", "192.0.2.5", "192.0.2.7"] {
            assert_eq!(told(silent, 2029), None, "{silent}");
        }
    }

    #[test]
    fn what_is_wrong_with_a_file_is_told_with_its_line() {
        let path = Path::new("/run/states.txt");
        let told = |text: &str| look_through(path, Ok(text.as_bytes().to_vec())).1;
        assert!(told("# none\n192.0.2.1 up\n").is_empty());
        let wrong: Vec<String> = told("192.0.2.1 upp\n").iter().map(ToString::to_string).collect();
        assert_eq!(wrong, [format!("/run/states.txt:1:1: warning: {EXPECTED}")]);
        let gone = &faults(Path::new("/nowhere/states.txt"))[0];
        assert!(gone.to_string().contains("there is no file /nowhere/states.txt"), "{gone}");
    }
}
