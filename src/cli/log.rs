//! Logs: people's format on a terminal, JSON otherwise, always on standard error.

use std::env;
use std::io::{self, IsTerminal, Write, stderr};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;
use std::time::Duration;

use tracing::level_filters::LevelFilter;
use tracing::warn;
use tracing_subscriber::EnvFilter;

/// What is logged when `MERIDIAN_LOG` says nothing: what operators act on, and no client's affairs,
/// which any client could fill the log with.
const DEFAULT: &str = "info,h2=error,hyper=error,quinn=error,rustls=error";

/// The variable that says what is logged.
const VARIABLE: &str = "MERIDIAN_LOG";

/// Starts logging.
pub(super) fn start() {
    let given = env::var_os(VARIABLE).unwrap_or_default();
    let read = filter(&given.to_string_lossy());
    let wrong = read.as_ref().err().cloned();
    let filter = read.unwrap_or_else(|_| DEFAULT.into());
    let logs = tracing_subscriber::fmt().with_env_filter(filter).with_writer(|| Writer);
    // It would be told on standard error, with a panic where that cannot be written to.
    let logs = logs.log_internal_errors(false);
    // The first one stays, if there is one.
    let _second = if stderr().is_terminal() {
        logs.with_target(false).compact().try_init().is_ok()
    } else {
        logs.json().flatten_event(true).with_current_span(false).try_init().is_ok()
    };
    if let Some(wrong) = wrong {
        warn!("{VARIABLE}: {wrong}; `{DEFAULT}` is used");
    }
}

/// What is to be logged. A word alone is a level: what reads filters would take any other for a
/// part of the program, and log nothing else.
fn filter(given: &str) -> Result<EnvFilter, String> {
    if given.trim().is_empty() {
        return Ok(DEFAULT.into());
    }
    let is_alone = |word: &&str| !word.is_empty() && !word.contains(['=', '[', ':']);
    let mut words = given.split(',').map(str::trim).filter(is_alone);
    let expected = "expected off, error, warn, info, debug or trace, or PART=LEVEL";
    match words.find(|word| word.parse::<LevelFilter>().is_err()) {
        Some(word) => Err(format!("`{word}` is no level; {expected}")),
        None => EnvFilter::try_new(given).map_err(|error| format!("{error}; {expected}")),
    }
}

/// What is to be done with standard error.
enum Job {
    Line(Vec<u8>),
    /// All that came before is written, and this is told.
    Told(SyncSender<()>),
}

/// Who writes to standard error. A disk that is full, or a reader that has gone or does not read,
/// ends or holds up no task that has something to log.
static QUEUE: OnceLock<Option<SyncSender<Job>>> = OnceLock::new();

/// So many lines wait to be written; more are given up.
const MOST: usize = 1000;

/// How many were given up.
static LOST: AtomicU64 = AtomicU64::new(0);

/// How long the end waits for what is not written yet.
const PATIENCE: Duration = Duration::from_secs(1);

fn queue() -> Option<&'static SyncSender<Job>> {
    let begin = || {
        let (queue, jobs) = sync_channel(MOST);
        let thread = thread::Builder::new().name("log".to_owned());
        thread.spawn(move || write_all(&jobs)).ok().map(|_| queue)
    };
    QUEUE.get_or_init(begin).as_ref()
}

fn write_all(jobs: &Receiver<Job>) {
    for job in jobs {
        match job {
            Job::Line(line) => drop(stderr().write_all(&line)),
            Job::Told(told) => drop(told.send(())),
        }
        let lost = LOST.swap(0, Ordering::Relaxed);
        if lost > 0 {
            warn!(lost, "lines of the log were given up, as nobody took those before them");
        }
    }
}

/// All that was logged is written, if somebody takes it.
pub(super) fn end() {
    let Some(Some(queue)) = QUEUE.get() else { return };
    let (told, heard) = sync_channel(1);
    if queue.try_send(Job::Told(told)).is_ok() {
        let _late = heard.recv_timeout(PATIENCE);
    }
}

/// Has lines written.
struct Writer;

impl Write for Writer {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        match queue() {
            Some(queue) if queue.try_send(Job::Line(line.to_vec())).is_err() => {
                LOST.fetch_add(1, Ordering::Relaxed);
            }
            Some(_) => {}
            // Without a thread for it, by whoever has something to log.
            None => drop(stderr().write_all(line)),
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_that_is_no_level_is_refused_and_not_taken_for_a_part() {
        let read = |given| filter(given).map(|filter| filter.to_string());
        for usual in ["", " "] {
            assert_eq!(read(usual), Ok(EnvFilter::from(DEFAULT).to_string()), "{usual:?}");
        }
        assert_eq!(read("debug"), Ok("debug".to_owned()));
        for good in ["WARN", "info,meridian::server::control=debug", "info,h2=off", "off,"] {
            assert!(read(good).is_ok(), "{good}");
        }
        for wrong in ["debgu", "info,debgu", "meridian=loud", "info,[", "=="] {
            assert!(read(wrong).is_err(), "{wrong}");
        }
        assert!(read("debgu").unwrap_err().starts_with("`debgu` is no level; expected off,"));
    }
}
