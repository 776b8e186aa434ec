//! Arguments and printing; no decisions.
//!
//! Exit codes: 0 it went well; 1 it did not (what is wrong is on standard error); 2 the arguments
//! make no sense; `ctl drain --wait` also 3, time ran out, and 4, the drain was undone.

use std::net::IpAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use indicatif::{ProgressBar, ProgressStyle};

use crate::config::Problem;
use crate::server::Start;
use crate::zone::{Name, RecordType};
use server::Whom;

mod check;
mod convergence;
mod ctl;
mod demo;
mod explain;
mod log;
mod serve;
mod server;
mod simulate;

/// Authoritative DNS that sends every client to the nearest healthy region.
#[derive(Parser)]
#[command(name = "meridian", version, arg_required_else_help = true)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Answer DNS queries.
    Serve {
        /// The configuration (YAML).
        #[arg(long, value_name = "FILE")]
        config: PathBuf,
        /// Take the place of the server that runs with this configuration's `node.state`, without
        /// losing a query; if anything is wrong, that one goes on.
        #[arg(long)]
        replace: bool,
    },
    /// Show all of it on loopback, with regions to kill and revive.
    Demo(demo::Demo),
    /// Tell everything that is wrong with a configuration, or what it would serve.
    Check {
        /// The configuration (YAML).
        #[arg(required_unless_present = "config")]
        file: Option<PathBuf>,
        /// The same, named as `serve` takes it.
        #[arg(long, value_name = "FILE", conflicts_with = "file")]
        config: Option<PathBuf>,
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// Tell what a client gets, and why.
    Explain(Explain),
    /// Play through what happens to a configuration, on a virtual clock.
    Simulate(simulate::Simulate),
    /// Ask a running server, or tell it what to do.
    Ctl(ctl::Ctl),
}

/// What to explain.
#[derive(clap::Args)]
struct Explain {
    /// The name that is asked for.
    name: Name,
    /// The client's address.
    #[arg(long, value_name = "ADDRESS")]
    from: IpAddr,
    /// The record type that is asked for.
    #[arg(long = "type", value_name = "TYPE", default_value = "A", value_parser = explain::rtype)]
    rtype: RecordType,
    /// Assume that all in this region is down, and that operators' words stand; may be given again.
    #[arg(long, value_name = "REGION")]
    down: Vec<String>,
    /// Decide by this configuration, with every endpoint up but those in `--down`.
    #[arg(long, value_name = "FILE", conflicts_with = "server")]
    config: Option<PathBuf>,
    /// Or else ask this running server, which knows what is up.
    #[command(flatten)]
    server: Whom,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// Does what the arguments say.
pub fn run() -> ExitCode {
    let result = match Arguments::parse().command {
        Command::Serve { config, replace } => {
            serve::run(config, if replace { Start::Replacing } else { Start::Alone })
        }
        Command::Demo(demo) => demo::run(demo),
        Command::Check { file, config, json } => {
            check::run(file.or(config).unwrap_or_default(), json)
        }
        Command::Explain(asked) => explain::run(asked),
        Command::Simulate(asked) => simulate::run(&asked),
        Command::Ctl(ctl) => ctl::run(ctl),
    };
    log::end();
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(Failed { told, code, .. }) => {
            if !told.is_empty() {
                print_error(&told);
            }
            ExitCode::from(code)
        }
    }
}

/// Why a command failed, for people; empty if it has been told.
struct Failed {
    told: String,
    code: u8,
    /// Nobody answered: who asks once more may have an answer.
    is_unheard: bool,
}

impl Failed {
    fn new(told: String) -> Self {
        Self::with(1, told)
    }

    fn with(code: u8, told: String) -> Self {
        Self { told, code, is_unheard: false }
    }

    /// A file was refused for these.
    fn refused(problems: &[Problem]) -> Self {
        let lines: Vec<String> = problems.iter().map(ToString::to_string).collect();
        Self::new(lines.join("\n"))
    }
}

impl<E: std::error::Error> From<E> for Failed {
    fn from(error: E) -> Self {
        Self::new(format!("error: {error}"))
    }
}

/// A bar that is full at `length`, on a terminal.
fn bar(length: u64, template: &'static str) -> ProgressBar {
    let style = ProgressStyle::with_template(template);
    ProgressBar::new(length).with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
}

/// Prints to standard output. A closed pipe is its reader's wish.
fn print(text: &str) {
    use std::io::Write;
    let _closed = writeln!(std::io::stdout(), "{text}");
}

/// Prints to standard error.
fn print_error(text: &str) {
    use std::io::Write;
    let _closed = writeln!(std::io::stderr(), "{text}");
}
