//! A command as a check: it is good when it ends with 0, in time.
//!
//! The command sees the address as `MERIDIAN_ADDRESS`. It runs in a process group of its own, which
//! is killed as a whole when it ends or its time is over: what it started does not stay behind. Of
//! what it writes to its standard error the last line is told, if it fails.

use std::collections::HashMap;
use std::io;
use std::net::IpAddr;
use std::os::unix::process::ExitStatusExt;
use std::pin::pin;
use std::process::{ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rustix::process::{
    Pid, Signal, WaitId, WaitIdOptions, WaitOptions, getpid, kill_process_group, waitid, waitpgid,
};
use tokio::process::{Child, Command};
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::{sleep, timeout};
use tracing::{info, warn};

use super::Deadline;
use super::complaints::Stderr;
use crate::health::{Failure, Stage};

/// How long what a program that has failed said is waited for: where what it started goes on,
/// nobody knows whether more comes.
const LAST_WORDS: Duration = Duration::from_millis(50);

/// Runs `command`; one that fails leaves its `complaint`.
pub(super) async fn run(
    address: IpAddr,
    command: &[String],
    deadline: Deadline,
    programs: &Programs,
    complaint: &mut Option<String>,
) -> Result<(), Failure> {
    let (program, arguments) = command.split_first().ok_or(Failure::Local)?;
    let mut child = Command::new(program);
    // What is between this process and systemd.
    for name in SYSTEMD {
        child.env_remove(name);
    }
    let child = child
        .args(arguments)
        .env("MERIDIAN_ADDRESS", address.to_string())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .process_group(0)
        .spawn();
    programs.tell(program, child.as_ref().err());
    // A program that is not there says nothing of the target.
    let mut child = Group(child.map_err(|_| Failure::Local)?);
    let mut stderr = Stderr::of(child.0.stderr.take());
    let status = {
        let mut wait = pin!(deadline.hold(Stage::Reply, child.wait()));
        tokio::select! {
            biased;
            status = &mut wait => status,
            () = stderr.listen() => wait.await,
        }
    };
    let failure = match status.map(code) {
        Ok(Some(0)) => return Ok(()),
        Ok(code) => {
            // All of it is there, unless something that goes on has more to say.
            let _all = timeout(LAST_WORDS, stderr.listen()).await;
            code.map_or(Failure::Local, Failure::Exit)
        }
        // Who is late is not waited for.
        Err(failure) => failure,
    };
    *complaint = stderr.last();
    Err(failure)
}

/// Variables that systemd talks to its service by.
const SYSTEMD: [&str; 7] = [
    "NOTIFY_SOCKET",
    "WATCHDOG_USEC",
    "WATCHDOG_PID",
    "CREDENTIALS_DIRECTORY",
    "LISTEN_FDS",
    "LISTEN_PID",
    "LISTEN_FDNAMES",
];

/// How it ended: one that died by a signal, as shells tell it.
fn code(status: ExitStatus) -> Option<i32> {
    status.code().or_else(|| Some(128 + status.signal()?))
}

/// The programs that cannot be run, and why: each is told once, not at each probe.
#[derive(Clone, Debug, Default)]
pub(super) struct Programs(Arc<Mutex<HashMap<String, String>>>);

impl Programs {
    /// A program was started, or could not be.
    fn tell(&self, program: &str, error: Option<&io::Error>) {
        if !error.is_some_and(is_want) && self.is_news(program, error) {
            match error {
                Some(error) => warn!("{program}: {error}; nothing is probed by it"),
                None => info!("{program}: it runs again"),
            }
        }
    }

    /// Is it something else than was told last?
    fn is_news(&self, program: &str, error: Option<&io::Error>) -> bool {
        let mut told = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match error.map(ToString::to_string) {
            Some(why) => told.insert(program.to_owned(), why.clone()) != Some(why),
            None => told.remove(program).is_some(),
        }
    }
}

/// Is it this node that has no room for one more process, whichever it is?
fn is_want(error: &io::Error) -> bool {
    let wants = [libc::EAGAIN, libc::ENOMEM, libc::EMFILE, libc::ENFILE];
    error.raw_os_error().is_some_and(|number| wants.contains(&number))
}

/// A process and all that it started.
struct Group(Child);

impl Group {
    /// Waits for the process that was started first, and ends all that it has left.
    async fn wait(&mut self) -> io::Result<ExitStatus> {
        if let Some(id) = self.id() {
            let mut ended = signal(SignalKind::child())?;
            // It is left to be asked how it ended: until then its id is its own.
            let look = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT | WaitIdOptions::NOHANG;
            while waitid(WaitId::Pid(id), look)?.is_none() {
                ended.recv().await;
            }
        }
        self.kill();
        self.0.wait().await
    }

    /// The id of all of them, before the first one was waited for: then it may be somebody else's.
    fn id(&self) -> Option<Pid> {
        Pid::from_raw(i32::try_from(self.0.id()?).ok()?)
    }

    fn kill(&self) {
        let Some(group) = self.id() else { return };
        // Else all have ended by themselves.
        let _gone = kill_process_group(group, Signal::KILL);
        // Whoever is first in a container inherits what they leave, and has to bury it.
        if getpid().is_init() {
            tokio::spawn(bury(group));
        }
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Waits for the processes of a group that have nobody else to do it.
async fn bury(group: Pid) {
    // What was killed has ended soon, but for what waits for a disk.
    for _ in 0..MOST_LOOKS {
        sleep(LOOKED_EVERY).await;
        while let Ok(Some(_)) = waitpgid(group, WaitOptions::NOHANG) {}
        if waitpgid(group, WaitOptions::NOHANG).is_err() {
            return;
        }
    }
}

/// How often is looked for processes that have ended, and how many times.
const LOOKED_EVERY: Duration = Duration::from_millis(100);
const MOST_LOOKS: usize = 100;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn that_a_program_cannot_be_run_is_news_once_and_so_is_that_it_runs_again() {
        let programs = Programs::default();
        let [missing, shut] = [libc::ENOENT, libc::EACCES].map(io::Error::from_raw_os_error);
        let news = |error: Option<&io::Error>| programs.is_news("/usr/local/bin/chek", error);
        assert!(!news(None));
        assert!(news(Some(&missing)) && !news(Some(&missing)));
        assert!(news(Some(&shut)) && !news(Some(&shut)));
        assert!(news(None) && !news(None));
        assert!(is_want(&io::Error::from_raw_os_error(libc::EMFILE)) && !is_want(&missing));
    }
}
