//! Queries that go past the kernel's stack (AF_XDP): what comes by one interface for the addresses
//! that the sockets have too.
//!
//! ```text
//! interface → program: a query to it? ─ no → the kernel, as ever
//!                  └ yes → the queue's frames → udp::serve → the same frames → interface
//! ```
//!
//! An answer goes back to the neighbour that the question came from, by the interface and the queue
//! that it came by. Wherever anything is missing for it, the sockets answer as they always do.

use std::ffi::CString;
use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Sender};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle, park_timeout};
use std::time::Duration;

use metrics::counter;
use thiserror::Error;
use tracing::{info, warn};

use super::responder::Answers;
use super::udp;
use own::{Own, above, queues};
use program::{Mode, Sockets, attach, interface_of};
use queue::Queue;

mod frame;
mod own;
mod program;
mod queue;
mod ring;

/// Why queries do not go this way.
#[derive(Debug, Error)]
enum Fault {
    /// The kernel refuses something.
    #[error("{what}: {source}{}", advice(.source))]
    Refused { what: &'static str, source: io::Error },
    /// The program is attached to one that is gone.
    #[error("it was made anew: `serve --replace` takes it up again")]
    Anew,
    /// Others are made of this interface, and what is theirs looks like its own: before the program
    /// sees a frame, most NICs take a VLAN's tag off it.
    #[error("it has {0} above it, and a frame does not tell which of them it is for")]
    Below(String),
}

fn advice(error: &io::Error) -> &'static str {
    match error.raw_os_error() {
        Some(libc::EPERM | libc::EACCES) => {
            "; it needs the capabilities CAP_BPF, CAP_NET_ADMIN and CAP_NET_RAW"
        }
        Some(libc::ENOBUFS) => {
            "; it locks 8 MiB of memory for each queue: raise the limit (LimitMEMLOCK)"
        }
        Some(libc::EBUSY | libc::EEXIST) => "; another program has the interface",
        Some(libc::ENODEV | libc::ENXIO) => "; there is no such interface",
        _ => "",
    }
}

/// How often, and for how long, it is tried again while another program has a queue: a server that
/// is replaced gives them up within this time.
const AGAIN: Duration = Duration::from_millis(100);
const TRIES: usize = 100;

/// How often is looked whether to stop, or what else there is.
const LOOK: Duration = Duration::from_millis(100);

/// What attaches programs to interfaces, to be handed to a server that takes this one's place.
#[derive(Clone, Default)]
pub(super) struct Links(Arc<Mutex<Vec<(u32, OwnedFd)>>>);

impl Links {
    fn lock(&self) -> MutexGuard<'_, Vec<(u32, OwnedFd)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// All of them once more.
    ///
    /// # Errors
    /// The system's.
    pub(super) fn copies(&self) -> io::Result<Vec<OwnedFd>> {
        self.lock().iter().map(|(_, link)| link.try_clone()).collect()
    }
}

/// Answers what comes by these interfaces for `addresses`, until `stop`; `had` are the links of the
/// server that was replaced. When this returns, no packet goes to that one any more.
///
/// # Errors
/// The system has no thread for it.
pub(super) fn spawn(
    interfaces: Vec<String>,
    addresses: &[SocketAddr],
    had: Vec<OwnedFd>,
    answers: &Answers,
    stop: &Arc<AtomicBool>,
) -> io::Result<(Vec<JoinHandle<()>>, Links)> {
    let links = Links::default();
    let mut had = had.into_iter().filter_map(|link| Some((interface_of(&link)?, link))).collect();
    let mut threads = Vec::new();
    for name in interfaces {
        let room = (links.clone(), answers.clone(), stop.clone());
        match Interface::attach(name.clone(), addresses, &mut had, room) {
            Ok(interface) => {
                let thread = thread::Builder::new().name("xdp".to_owned());
                threads.push(thread.spawn(move || interface.run())?);
            }
            Err(fault) => without(&name, &fault),
        }
    }
    Ok((threads, links))
}

fn without(interface: &str, fault: &Fault) {
    warn!(interface, %fault, "no AF_XDP; the sockets answer what comes by this interface");
}

/// An interface with its program, and what is answered that comes by it.
struct Interface {
    name: String,
    index: u32,
    mode: Mode,
    queues: u32,
    sockets: Sockets,
    links: Links,
    answers: Answers,
    stop: Arc<AtomicBool>,
}

impl Interface {
    /// Attaches a program that knows no socket yet, so that it passes everything on.
    fn attach(
        name: String,
        addresses: &[SocketAddr],
        had: &mut Vec<(u32, OwnedFd)>,
        (links, answers, stop): (Links, Answers, Arc<AtomicBool>),
    ) -> Result<Self, Fault> {
        let index = index(&name).map_err(fault("its number"))?;
        let queues = queues(&name).map_err(fault("its queues"))?;
        is_alone(above(&name).map_err(fault("what is above it"))?)?;
        let own = Own::of(&name, addresses).map_err(fault("its addresses"))?;
        let sockets = Sockets::new(queues).map_err(fault("its program"))?;
        let row = had.iter().position(|(of, _)| *of == index);
        let had = row.map(|row| had.swap_remove(row).1);
        let (link, mode) = attach(index, &own, &sockets, had).map_err(fault("its program"))?;
        links.lock().push((index, link));
        Ok(Self { name, index, mode, queues, sockets, links, answers, stop })
    }

    fn run(self) {
        let Self { name, mode, queues, .. } = &self;
        let is_over = AtomicBool::new(false);
        let ended = thread::scope(|scope| {
            let (tell, told) = mpsc::channel();
            for queue in 0..*queues {
                let (this, done, is_over) = (&self, tell.clone(), &is_over);
                // What the kernel and a thread share stays with that thread.
                let work = move || this.serve(queue, &done, is_over);
                let thread = thread::Builder::new().name("xdp".to_owned());
                if let Err(error) = thread.spawn_scoped(scope, work) {
                    let _heard = tell.send(Err(error));
                }
            }
            let begun = told.iter().take(*queues as usize).collect::<io::Result<()>>();
            let begun = begun.map_err(fault("a socket for each of its queues"));
            if begun.is_ok() {
                info!(interface = name, ?mode, queues, "AF_XDP");
            }
            let ended = begun.and_then(|()| self.wait());
            // What comes from now on is the sockets', or another server's; what has come is
            // answered.
            self.links.lock().retain(|(of, _)| *of != self.index);
            is_over.store(true, Ordering::Relaxed);
            ended
        });
        if let Err(fault) = ended {
            without(name, &fault);
        }
    }

    /// Waits for the end, or until the interface is gone or another one is made of it.
    fn wait(&self) -> Result<(), Fault> {
        while !self.stop.load(Ordering::Relaxed) {
            park_timeout(LOOK);
            // It may be taken away, and another one made that is called so.
            let found = index(&self.name).map_err(fault("the interface"))?;
            if found != self.index {
                return Err(Fault::Anew);
            }
            // Where nothing is told of it any more, nothing is known of others.
            is_alone(above(&self.name).unwrap_or_default())?;
        }
        Ok(())
    }

    /// Answers what comes by one queue, and tells whether it could begin.
    fn serve(&self, queue: u32, tell: &Sender<io::Result<()>>, is_over: &AtomicBool) {
        let opened = self.open(queue).and_then(|opened| {
            self.sockets.give(queue, opened.file())?;
            Ok(opened)
        });
        let (begun, opened) = match opened {
            Ok(opened) => (Ok(()), Some(opened)),
            Err(error) => (Err(error), None),
        };
        let _heard = tell.send(begun);
        if let Some(opened) = opened {
            udp::serve(opened, self.answers.clone(), is_over);
        }
    }

    /// The socket of a queue, once no server that is replaced has it any more.
    fn open(&self, queue: u32) -> io::Result<Queue> {
        let counted = counter!("meridian_xdp_total", "interface" => self.name.clone());
        let mut tries = 0..TRIES;
        loop {
            let opened = Queue::open(self.index, queue, counted.clone());
            let is_busy = |error: &io::Error| error.raw_os_error() == Some(libc::EBUSY);
            let is_over = tries.next().is_none() || self.stop.load(Ordering::Relaxed);
            if is_over || !opened.as_ref().is_err_and(is_busy) {
                return opened;
            }
            park_timeout(AGAIN);
        }
    }
}

fn fault(what: &'static str) -> impl Fn(io::Error) -> Fault {
    move |source| Fault::Refused { what, source }
}

fn is_alone(above: Vec<String>) -> Result<(), Fault> {
    if above.is_empty() { Ok(()) } else { Err(Fault::Below(above.join(", "))) }
}

/// The number of the interface that is called so.
fn index(name: &str) -> io::Result<u32> {
    let name = CString::new(name).map_err(io::Error::other)?;
    // SAFETY: the name is a string that ends, and lives through the call.
    match unsafe { libc::if_nametoindex(name.as_ptr()) } {
        0 => Err(io::Error::last_os_error()),
        index => Ok(index),
    }
}
