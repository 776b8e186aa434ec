//! Logs: people's format on a terminal, JSON otherwise, always on standard error.

use std::io::{IsTerminal, stderr};

use tracing_subscriber::EnvFilter;

/// What is logged when `MERIDIAN_LOG` says nothing: what operators act on, and no client's affairs.
const DEFAULT: &str = "info,h2=warn,quinn=warn";

/// Starts logging.
pub(super) fn start() {
    let filter = EnvFilter::try_from_env("MERIDIAN_LOG").unwrap_or_else(|_| DEFAULT.into());
    let logs = tracing_subscriber::fmt().with_env_filter(filter).with_writer(stderr);
    // The first one stays, if there is one.
    let _second = if stderr().is_terminal() {
        logs.with_target(false).compact().try_init().is_ok()
    } else {
        logs.json().flatten_event(true).with_current_span(false).try_init().is_ok()
    };
}
