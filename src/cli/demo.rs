//! `meridian demo`.

use axum::Router;
use clap::{Args, Subcommand};

use super::serve::{told, until_stopped};
use super::server::Server;
use super::{Failed, log, print};
use crate::server::demo::{Backends, Ports, configuration, guide, socket};
use crate::server::{self, Source, Start};

/// What to show.
#[derive(Args)]
pub(super) struct Demo {
    /// Change a region of a demo that runs.
    #[command(subcommand)]
    change: Option<Change>,
    /// The port for DNS.
    #[arg(long, default_value_t = 5300)]
    dns_port: u16,
    /// The port for the dashboard.
    #[arg(long, default_value_t = 8053, global = true)]
    http_port: u16,
    /// The port of the regions' servers, each on a loopback address of its own.
    #[arg(long, default_value_t = 8080)]
    backend_port: u16,
    /// Print the demo's configuration and end.
    #[arg(long)]
    print_config: bool,
}

/// What can happen to a region.
#[derive(Subcommand)]
enum Change {
    /// Its server dies: connections are refused.
    Kill {
        /// The region.
        region: String,
    },
    /// Its server stops answering, like a stopped process.
    Stall {
        /// The region.
        region: String,
    },
    /// Its server answers 500.
    Fail {
        /// The region.
        region: String,
    },
    /// Its server is well again.
    Revive {
        /// The region.
        region: String,
    },
}

/// Shows the demo, or changes one that runs.
pub(super) fn run(demo: Demo) -> Result<(), Failed> {
    let ports = Ports { dns: demo.dns_port, http: demo.http_port, backend: demo.backend_port };
    if let Some(change) = demo.change {
        return apply(&change, ports);
    }
    if demo.print_config {
        print(configuration(ports).trim_end());
        return Ok(());
    }
    log::start();
    server::run(async {
        let backends = Backends::start(ports).await.map_err(|error| told(&error))?;
        let source = Source::Text("demo".to_owned(), configuration(ports));
        let routes = |_: &_| -> Router { backends.routes() };
        let program = std::env::args().next();
        let guide = guide(ports, program.as_deref().unwrap_or("meridian"));
        let start = server::Server::start(source, Start::Alone, |_| (), routes);
        until_stopped(start, |_| print(&guide)).await?;
        // A server leaves its own to the one that comes after it; nobody comes after a demo.
        let _gone = std::fs::remove_file(socket(ports));
        Ok(())
    })?
}

fn apply(change: &Change, ports: Ports) -> Result<(), Failed> {
    let (region, action) = match change {
        Change::Kill { region } => (region, "kill"),
        Change::Stall { region } => (region, "stall"),
        Change::Fail { region } => (region, "fail"),
        Change::Revive { region } => (region, "revive"),
    };
    let server = Server::demo(&format!("http://127.0.0.1:{}", ports.http))?;
    server.send("POST", &format!("/api/v1/demo/{region}/{action}"), &())?;
    print(&format!("{region}: {action} done"));
    Ok(())
}
