//! The way in.

use std::process::ExitCode;

fn main() -> ExitCode {
    meridian::cli::run()
}
