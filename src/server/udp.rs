//! Queries over UDP: a thread a socket, a batch a turn; whichever way the datagrams come.

use std::io;
use std::iter::repeat;
use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use metrics::{Counter, Histogram, counter, histogram};
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use tracing::warn;

use super::mmsg::Batch;
use super::responder::{Answers, Responder, Rooms};
use super::ring::Ring;
use super::turns::answer_first;
use crate::config::Node;
use crate::query::Transport;

/// How long what has come is answered after the end.
const LEFT: Duration = Duration::from_millis(500);

/// Where datagrams come from by the batch, and go back to.
pub(super) trait Datagrams {
    /// Whether nothing more comes once it is to stop, so that all that has come can be answered.
    const ENDS: bool;

    /// Waits for datagrams for a moment, and takes those that are there: how many.
    ///
    /// # Errors
    /// The system's, also when none came.
    fn receive(&mut self) -> io::Result<usize>;

    /// The first `count`, each with its sender: an answer takes its place. What is left empty is
    /// not sent.
    fn packets(&mut self, count: usize) -> impl Iterator<Item = (SocketAddr, &mut Vec<u8>)>;

    /// Sends their answers: how many could not be sent, now or before.
    fn send(&mut self, count: usize) -> usize;

    /// Takes no more from where they come; what was taken is still to be received.
    fn end(&mut self) {}
}

/// A socket, and the batch that it is read by.
struct Socket {
    socket: UdpSocket,
    batch: Batch,
}

impl Datagrams for Socket {
    /// Others may have the same socket, or one of the same address.
    const ENDS: bool = false;

    fn receive(&mut self) -> io::Result<usize> {
        self.batch.receive(&self.socket)
    }

    fn packets(&mut self, count: usize) -> impl Iterator<Item = (SocketAddr, &mut Vec<u8>)> {
        self.batch.packets(count)
    }

    fn send(&mut self, count: usize) -> usize {
        self.batch.send(&self.socket, count)
    }
}

/// How workers take what comes.
#[derive(Clone, Copy)]
pub(super) struct Way {
    /// Each stays on a core.
    is_pinned: bool,
    /// They share a ring with the kernel, where that has one.
    has_ring: bool,
}

impl Way {
    /// As it is configured.
    pub(super) fn of(node: &Node) -> Self {
        Self { is_pinned: node.pin, has_ring: node.io_uring }
    }
}

/// Answers what comes in on these sockets, until `stop`.
///
/// # Errors
/// The system has no threads for it.
pub(super) fn spawn_all(
    sockets: Vec<UdpSocket>,
    answers: &Answers,
    stop: &Arc<AtomicBool>,
    Way { is_pinned, has_ring }: Way,
) -> io::Result<Vec<JoinHandle<()>>> {
    // Those of one address come one after the other, so that each core gets one of them.
    let cores = if is_pinned { cores() } else { Vec::new() };
    let cores = cores.into_iter().cycle().map(Some).chain(repeat(None));
    let spawn = |(socket, core)| {
        let (answers, stop) = (answers.clone(), stop.clone());
        thread::Builder::new().name("udp".to_owned()).spawn(move || {
            if let Some(core) = core {
                stay_on(core);
            }
            work(socket, answers, &stop, has_ring);
        })
    };
    sockets.into_iter().zip(cores).map(spawn).collect()
}

/// Answers what comes in on `socket`, until `stop`.
fn work(socket: UdpSocket, answers: Answers, stop: &AtomicBool, has_ring: bool) {
    let by_calls = |socket| Socket { socket, batch: Batch::new() };
    if !has_ring {
        return serve(by_calls(socket), answers, stop);
    }
    // A ring is its thread's.
    match Ring::new(socket) {
        Ok(ring) => serve(ring, answers, stop),
        Err((socket, error)) => {
            warn!(%error, "no io_uring; UDP by recvmmsg and sendmmsg instead");
            serve(by_calls(socket), answers, stop);
        }
    }
}

/// The cores that this process may use.
fn cores() -> Vec<usize> {
    let allowed = sched_getaffinity(None).unwrap_or_default();
    (0..CpuSet::MAX_CPU).filter(|core| allowed.is_set(*core)).collect()
}

/// Keeps this thread on a core.
fn stay_on(core: usize) {
    let mut cores = CpuSet::new();
    cores.set(core);
    if let Err(error) = sched_setaffinity(None, &cores) {
        warn!(core, %error, "a UDP worker goes from core to core");
    }
}

/// Answers datagrams, until `stop`.
pub(super) fn serve<D: Datagrams>(mut datagrams: D, answers: Answers, stop: &AtomicBool) {
    answer_first();
    let mut worker = Worker {
        responder: Responder::new(answers, Transport::Udp),
        rooms: Rooms::default(),
        latency: histogram!("meridian_answer_seconds", "transport" => Transport::Udp.label()),
        unsent: counter!("meridian_unsent_total"),
    };
    while !stop.load(Ordering::Relaxed) {
        worker.turn(&mut datagrams);
    }
    datagrams.end();
    let ended = worker.responder.now();
    while D::ENDS && worker.turn(&mut datagrams) > 0 {
        // Another server may have what sends them here, and have no use for them yet.
        if worker.responder.now().since(ended) > LEFT {
            break;
        }
    }
}

struct Worker {
    responder: Responder,
    rooms: Rooms,
    latency: Histogram,
    unsent: Counter,
}

impl Worker {
    /// Answers one batch, and tells how many came.
    fn turn(&mut self, datagrams: &mut impl Datagrams) -> usize {
        // An error is the time-out, or that of an earlier answer (an ICMP message that came
        // back); neither is about what comes next.
        let count = datagrams.receive().unwrap_or(0);
        let began = self.responder.now();
        if count > 0 {
            self.responder.respond_all(began, &mut self.rooms, datagrams.packets(count));
            let failed = datagrams.send(count);
            if failed > 0 {
                self.unsent.increment(failed as u64);
            }
            // What the last packet of the batch has waited for.
            self.latency.record(self.responder.now().since(began));
        }
        self.responder.tell(began);
        count
    }
}
