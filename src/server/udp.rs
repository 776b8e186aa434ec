//! Queries over UDP: a thread a socket, a batch a turn.

use std::io;
use std::net::UdpSocket;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use metrics::{counter, histogram};

use super::mmsg::Batch;
use super::responder::{Answers, Responder, Rooms};
use crate::query::Transport;

/// How often counters are handed on.
const FLUSH: Duration = Duration::from_millis(250);

/// Answers what comes in on `socket`, until `stop`.
///
/// # Errors
/// The system has no thread for it.
pub(super) fn spawn(
    socket: UdpSocket,
    answers: Answers,
    stop: Arc<AtomicBool>,
) -> io::Result<JoinHandle<()>> {
    thread::Builder::new().name("udp".to_owned()).spawn(move || serve(&socket, answers, &stop))
}

fn serve(socket: &UdpSocket, answers: Answers, stop: &AtomicBool) {
    let clock = answers.clock;
    let mut responder = Responder::new(answers, Transport::Udp);
    let mut batch = Batch::new();
    let mut rooms = Rooms::default();
    let latency = histogram!("meridian_answer_seconds", "transport" => Transport::Udp.label());
    let unsent = counter!("meridian_unsent_total");
    let mut flushed = clock.now();
    while !stop.load(Ordering::Relaxed) {
        // An error is the time-out, or that of an earlier answer (an ICMP message that came
        // back); neither is about what comes next.
        let count = batch.receive(socket).unwrap_or(0);
        let began = clock.now();
        if count > 0 {
            responder.respond_all(began, &mut rooms, batch.packets(count));
            let failed = batch.send(socket, count);
            if failed > 0 {
                unsent.increment(failed as u64);
            }
            // What the last packet of the batch has waited for.
            latency.record(clock.now().since(began));
        }
        if began.since(flushed) >= FLUSH {
            responder.flush();
            flushed = began;
        }
    }
}
