//! `meridian serve`.

use std::path::PathBuf;
use std::time::Duration;

use axum::Router;
use sd_notify::NotifyState;
use tokio::runtime::Runtime;
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::interval;
use tracing::{error, info};

use super::{Failed, log};
use crate::server::{Addresses, Server, Source, StartError};

/// Serves until it is told to stop.
pub(super) fn run(config: PathBuf) -> Result<(), Failed> {
    log::start();
    let runtime = Runtime::new()?;
    runtime.block_on(async {
        let server = Server::start(Source::File(config), |_| Router::new()).await;
        let server = server.map_err(|failed| told(&failed))?;
        announce(server.addresses());
        until_stopped(server).await
    })
}

/// Why a server does not start, as people read it.
pub(super) fn told(failed: &StartError) -> Failed {
    match failed {
        StartError::Problems(problems) => {
            for problem in problems {
                error!(%problem, "configuration");
            }
            Failed::refused(problems)
        }
        other => Failed::new(format!("error: {other}")),
    }
}

fn announce(addresses: &Addresses) {
    let Addresses { dns, dot, doh, doq, http } = addresses;
    info!(?dns, ?dot, ?doh, ?doq, ?http, "ready");
}

/// Runs until SIGTERM or SIGINT; SIGHUP reloads. systemd is told, if it listens.
pub(super) async fn until_stopped(server: Server) -> Result<(), Failed> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut hangup = signal(SignalKind::hangup())?;
    let notify = |state: &[NotifyState<'_>]| {
        if let Err(error) = sd_notify::notify(state) {
            info!(%error, "systemd was not told");
        }
    };
    notify(&[NotifyState::Ready]);
    // Twice as often as systemd wants it; without systemd, hardly ever.
    let watchdog = sd_notify::watchdog_enabled();
    let mut ticks = interval(watchdog.map_or(Duration::from_secs(3600), |every| every / 2));
    loop {
        tokio::select! {
            _ = terminate.recv() => break,
            _ = interrupt.recv() => break,
            _ = hangup.recv() => server.reload(),
            // A control task that does not answer is a reason to be restarted.
            _ = ticks.tick() => if watchdog.is_some() && server.control().view().await.is_some() {
                notify(&[NotifyState::Watchdog]);
            },
        }
    }
    notify(&[NotifyState::Stopping]);
    server.stop().await;
    Ok(())
}
