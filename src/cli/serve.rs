//! `meridian serve`.

use std::env;
use std::path::PathBuf;
use std::time::Duration;

use axum::Router;
use sd_notify::NotifyState;
use tokio::process::Command;
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::interval;
use tracing::{error, info};

use super::{Failed, log};
use crate::server::{self, Addresses, GRACE, Server, Source, Start, StartError};

/// The option that [`Start::Replacing`] is chosen with.
const REPLACE: &str = "--replace";

/// Serves until it is told to stop.
pub(super) fn run(config: PathBuf, start: Start) -> Result<(), Failed> {
    log::start();
    let is_first = start == Start::Alone;
    // One that takes another's place is not waited for: that one is ready.
    let waits = |within| {
        if is_first {
            tell(&[still_starting(within)]);
        }
    };
    let start = Server::start(Source::File(config), start, waits, |_| Router::new());
    server::run(until_stopped(start, |server| announce(server.addresses())))?
}

/// Why a server does not start, as people read it.
pub(super) fn told(failed: &StartError) -> Failed {
    match failed {
        StartError::Problems(problems) => Failed::refused(problems),
        other => Failed::new(format!("error: {other}")),
    }
}

fn announce(addresses: &Addresses) {
    let [dns, dot, doh, doq, http] = [
        &*addresses.dns,
        &*addresses.dot,
        &*addresses.doh,
        &*addresses.doq,
        addresses.http.as_slice(),
    ]
    .map(|of| of.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "))
    .map(|listed| Some(listed).filter(|listed| !listed.is_empty()));
    info!(dns, dot, doh, doq, http, "ready");
}

/// Starts a server, says that it is ready and runs it until SIGTERM or SIGINT, or until another
/// server takes its place; SIGHUP reloads, SIGUSR2 starts what is installed now in its place.
/// systemd is told, if it listens.
pub(super) async fn until_stopped(
    start: impl Future<Output = Result<Server, StartError>>,
    ready: impl FnOnce(&Server),
) -> Result<(), Failed> {
    // Nobody who asks for a reload early is to end the process instead, as the system would.
    let mut hangup = signal(SignalKind::hangup())?;
    let mut upgrade = signal(SignalKind::user_defined2())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let server = tokio::select! {
        started = start => started.map_err(|failed| told(&failed))?,
        _ = terminate.recv() => return Ok(()),
        _ = interrupt.recv() => return Ok(()),
    };
    ready(&server);
    // Of those that serve in turn, systemd watches over the last.
    tell(&[NotifyState::MainPid(std::process::id()), NotifyState::Ready]);
    // Twice as often as systemd wants it; without systemd, hardly ever.
    let watchdog = sd_notify::watchdog_enabled();
    let mut ticks = interval(watchdog.map_or(Duration::from_secs(3600), |every| every / 2));
    loop {
        tokio::select! {
            _ = terminate.recv() => break,
            _ = interrupt.recv() => break,
            _ = hangup.recv() => server.reload(),
            _ = upgrade.recv() => start_next(),
            () = server.replaced() => {
                info!("another server has taken this one's place");
                server.stop(GRACE).await;
                return Ok(());
            }
            () = server.undecided() => return Err(Failed::new(UNDECIDED.to_owned())),
            // A control task that does not answer is a reason to be restarted.
            _ = ticks.tick() => if watchdog.is_some() && server.control().view().await.is_some() {
                tell(&[NotifyState::Watchdog]);
            },
        }
    }
    tell(&[NotifyState::Stopping]);
    server.stop(Duration::ZERO).await;
    Ok(())
}

/// Why a server ends by itself.
const UNDECIDED: &str = "error: the task that decides what is answered has ended, which is a fault \
                         of this program; so that nobody is sent on to what is down, it ends too";

/// Tells systemd, if it listens.
fn tell(state: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(state) {
        info!(%error, "systemd was not told");
    }
}

/// More than a start takes besides the wait for the first verdicts.
const ROOM: Duration = Duration::from_secs(30);

/// The start may take so long, and some time more, whatever `TimeoutStartSec` is.
fn still_starting(within: Duration) -> NotifyState<'static> {
    let micros = (within + ROOM).as_micros();
    NotifyState::ExtendTimeoutUsec(u32::try_from(micros).unwrap_or(u32::MAX))
}

/// Starts what is installed under this program's name, to take this one's place. If it fails to,
/// it says why, and this one serves on.
fn start_next() {
    let mut words = env::args_os();
    let program = words.next().unwrap_or_default();
    let rest = words.filter(|word| word != REPLACE);
    let mut next = Command::new(&program);
    // systemd names there whom it started first; without it, each believes itself to be watched.
    next.args(rest).arg(REPLACE).env_remove("WATCHDOG_PID");
    match next.spawn() {
        Ok(next) => info!(?program, process = ?next.id(), "the next one starts"),
        Err(error) => error!(?program, %error, "the next one does not start; this one serves on"),
    }
}
