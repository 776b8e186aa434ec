//! A command as a check: it is good when it ends with 0, in time.
//!
//! The command sees the address as `MERIDIAN_ADDRESS`. It runs in a process group of its own, which
//! is killed as a whole when its time is over: what it started does not stay behind.

use std::net::IpAddr;
use std::process::Stdio;

use rustix::process::{Pid, Signal, kill_process_group};
use tokio::process::{Child, Command};

use super::Deadline;
use crate::health::{Failure, Stage};

pub(super) async fn run(
    address: IpAddr,
    command: &[String],
    deadline: Deadline,
) -> Result<(), Failure> {
    let (program, arguments) = command.split_first().ok_or(Failure::Local)?;
    let child = Command::new(program)
        .args(arguments)
        .env("MERIDIAN_ADDRESS", address.to_string())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .process_group(0)
        .spawn();
    // A program that is not there says nothing of the target.
    let mut child = Group(child.map_err(|_| Failure::Local)?);
    let status = deadline.hold(Stage::Reply, child.0.wait()).await?;
    match status.code() {
        Some(0) => Ok(()),
        Some(code) => Err(Failure::Exit(code)),
        None => Err(Failure::Closed(Stage::Head)),
    }
}

/// A process and all that it started.
struct Group(Child);

impl Drop for Group {
    fn drop(&mut self) {
        // Once it was waited for, its id may be somebody else's.
        let id = self.0.id().and_then(|id| i32::try_from(id).ok());
        if let Some(group) = id.and_then(Pid::from_raw) {
            // Else it has ended by itself.
            let _gone = kill_process_group(group, Signal::KILL);
        }
    }
}
