//! Logs: people's format on a terminal, JSON otherwise, always on standard error.

use std::io::{self, IsTerminal, Write, stderr};

use tracing_subscriber::EnvFilter;

/// What is logged when `MERIDIAN_LOG` says nothing: what operators act on, and no client's affairs.
const DEFAULT: &str = "info,h2=warn,quinn=warn";

/// Starts logging.
pub(super) fn start() {
    let filter = EnvFilter::try_from_env("MERIDIAN_LOG").unwrap_or_else(|_| DEFAULT.into());
    let logs = tracing_subscriber::fmt().with_env_filter(filter).with_writer(|| Unread);
    // It would be told on standard error, with a panic where that cannot be written to.
    let logs = logs.log_internal_errors(false);
    // The first one stays, if there is one.
    let _second = if stderr().is_terminal() {
        logs.with_target(false).compact().try_init().is_ok()
    } else {
        logs.json().flatten_event(true).with_current_span(false).try_init().is_ok()
    };
}

/// Standard error, whether anybody takes what is written there or not: a disk that is full, or a
/// reader that has gone, ends no task that has something to log.
struct Unread;

impl Write for Unread {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let _lost = stderr().write_all(line);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
