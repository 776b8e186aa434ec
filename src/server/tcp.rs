//! Queries over TCP (RFC 7766), also within TLS (RFC 7858), and within that by HTTP (RFC 8484).
//!
//! ```text
//! accept → room? → read → every whole message → answer → write → read …
//! ```
//!
//! A client may send many messages at once and any part of one. Nothing more is read from one
//! that does not take its answers, and of no message is more kept than a query has, so it can fill
//! no memory but its own. A connection lives as long as whole queries come; half a query, or none,
//! ends it after the idle time, and many messages that are no queries end it at once. Whoever sends
//! much lets others go first after each part that was read.

use std::collections::HashMap;
use std::io;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use ipnet::IpNet;
use metrics::{counter, gauge};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
use tokio::task::yield_now;
use tokio::time::{Instant, sleep, timeout, timeout_at};
use tokio_rustls::TlsAcceptor;
use tracing::warn;

use super::https;
use super::responder::{Answers, Responder};
use super::socket::as_itself;
use crate::config::TcpLimits;
use crate::query::{Peer, Transport};

/// How long accepting pauses when the system has no more sockets: those that are open end in the
/// meantime.
const EXHAUSTED: Duration = Duration::from_millis(100);

/// How long a client has to take the word that a connection ends.
const CLOSING: Duration = Duration::from_secs(1);

/// How queries come over a connection.
#[derive(Clone)]
pub(super) enum Carrier {
    /// One after the other.
    Tcp,
    /// The same within TLS.
    Tls(TlsAcceptor),
    /// As requests over HTTPS.
    Https(TlsAcceptor),
}

impl Carrier {
    fn transport(&self) -> Transport {
        match self {
            Self::Tcp => Transport::Tcp,
            Self::Tls(_) => Transport::Tls,
            Self::Https(_) => Transport::Https,
        }
    }
}

/// Accepts connections and answers what comes over them, for ever.
pub(super) async fn serve(
    listener: TcpListener,
    carrier: Carrier,
    answers: Answers,
    room: Arc<Room>,
) -> io::Error {
    loop {
        let (stream, peer) = match listener.accept().await {
            Ok((stream, peer)) => (stream, as_itself(peer)),
            Err(error) => {
                match error.raw_os_error() {
                    Some(libc::EBADF | libc::EINVAL | libc::ENOTSOCK) => return error,
                    Some(libc::EMFILE | libc::ENFILE | libc::ENOBUFS | libc::ENOMEM) => {
                        warn!(%error, "cannot accept TCP connections for the moment");
                        sleep(EXHAUSTED).await;
                    }
                    // The client has gone already (ECONNABORTED and the like).
                    _ => {}
                }
                continue;
            }
        };
        let Ok(place) = room.take(peer.ip()) else { continue };
        let transport = carrier.transport();
        let peer = Peer { address: peer, transport };
        let (carrier, answers, idle) = (carrier.clone(), answers.clone(), room.idle());
        tokio::spawn(async move {
            // How a connection ends is its client's affair.
            let _end = carry(stream, carrier, peer, answers, idle).await;
            drop(place);
        });
    }
}

async fn carry(
    stream: TcpStream,
    carrier: Carrier,
    peer: Peer,
    answers: Answers,
    idle: Duration,
) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let accepted = |tls: TlsAcceptor, stream| timeout_at(Instant::now() + idle, tls.accept(stream));
    match carrier {
        Carrier::Tcp => converse(stream, peer, answers, idle).await,
        Carrier::Tls(tls) => {
            let mut stream = accepted(tls, stream).await??;
            let end = converse(&mut stream, peer, answers, idle).await;
            // RFC 8446 §6.1: an end that is not told may be somebody else's doing.
            let _gone = timeout(CLOSING, stream.shutdown()).await;
            end
        }
        Carrier::Https(tls) => {
            https::converse(accepted(tls, stream).await??, peer, answers, idle).await
        }
    }
}

/// What is read at once: some hundred queries.
const READ: usize = 8 * 1024;

/// What is written at once, at least, if there is so much: what those hundred have as a rule. A
/// client that sends many and takes nothing has the server keep this and one answer.
const WRITE: usize = 16 * 1024;

/// As many messages of one connection may get no answer, as they have no header or are responses:
/// no client sends such, and whoever sends nothing else is no client.
const MOST_STRANGE: usize = 16;

/// The longest query that is read, by whatever carries streams, in octets: a message may have
/// 65,535, and of many that are only begun nobody could keep so much. One with every option there
/// is has some 600, and padding comes in blocks of 128 (RFC 8467 §4.1). What is longer is cut here,
/// and then malformed, as over UDP.
pub(super) const LONGEST: usize = 4096;

/// Answers one connection's queries until it ends or is idle.
async fn converse(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    peer: Peer,
    answers: Answers,
    idle: Duration,
) -> io::Result<()> {
    let (mut pending, mut chunk, mut written) = (Vec::new(), vec![0; READ], Vec::new());
    let mut deadline = Instant::now() + idle;
    // What is still to come of a message that was cut; and how many were no queries.
    let (mut rest, mut strange) = (0, 0);
    loop {
        let count = timeout_at(deadline, stream.read(&mut chunk)).await??;
        let Some(read) = chunk.get(..count).filter(|read| !read.is_empty()) else {
            return Ok(());
        };
        let passed = rest.min(count);
        rest -= passed;
        pending.extend_from_slice(read.get(passed..).unwrap_or(&[]));
        loop {
            let (taken, count) = answer(&answers, peer, &pending, &mut written);
            strange += count;
            if taken == 0 {
                break;
            }
            rest += taken.saturating_sub(pending.len());
            pending.drain(..taken.min(pending.len()));
            if !written.is_empty() {
                // A client may take its time.
                deadline = write(&mut stream, &mut written, idle).await?;
            }
            if strange > MOST_STRANGE {
                return Ok(());
            }
        }
        yield_now().await;
        for room in [&mut pending, &mut written] {
            room.shrink_to(WRITE);
        }
    }
}

/// Answers whole messages at the beginning of `pending`, until there is enough to write, and tells
/// how many octets they have there, and how many of them get no answer. Between them, nothing is
/// held that is answered from.
fn answer(answers: &Answers, peer: Peer, pending: &[u8], written: &mut Vec<u8>) -> (usize, usize) {
    let (mut taken, mut strange, mut answer, mut responder) = (0, 0, Vec::new(), None);
    while written.len() < WRITE
        && let Some((message, length)) = next_message(pending.get(taken..).unwrap_or(&[]))
    {
        taken += length;
        let responder =
            responder.get_or_insert_with(|| Responder::new(answers.clone(), peer.transport));
        responder.respond(responder.now(), message, peer, &mut answer);
        if let Some(length) = u16::try_from(answer.len()).ok().filter(|length| *length > 0) {
            written.extend_from_slice(&length.to_be_bytes());
            written.extend_from_slice(&answer);
        } else {
            strange += 1;
        }
    }
    (taken, strange)
}

/// Writes answers in the time that a client has to take them, and tells until when it may ask
/// again.
async fn write(
    stream: &mut (impl AsyncWrite + Unpin),
    answers: &mut Vec<u8>,
    idle: Duration,
) -> io::Result<Instant> {
    timeout_at(Instant::now() + idle, async {
        stream.write_all(answers).await?;
        stream.flush().await
    })
    .await??;
    answers.clear();
    Ok(Instant::now() + idle)
}

/// The message at the beginning of `bytes`, behind its length (RFC 1035 §4.2.2), if as much of it
/// is there as is read, and how many octets it takes there.
fn next_message(bytes: &[u8]) -> Option<(&[u8], usize)> {
    let (length, rest) = bytes.split_first_chunk::<2>()?;
    let length = usize::from(u16::from_be_bytes(*length));
    Some((rest.get(..length.min(LONGEST))?, 2 + length))
}

/// How many connections there may be, and are.
pub(super) struct Room {
    limits: TcpLimits,
    taken: Mutex<Places>,
    /// Told when the last one leaves.
    left: Notify,
}

/// Connections that there are: in all, and by client.
#[derive(Default)]
struct Places {
    total: usize,
    by_client: HashMap<IpNet, usize>,
}

/// A place for one connection, given back when dropped.
pub(super) struct Taken {
    room: Arc<Room>,
    client: IpNet,
}

impl Room {
    /// Room for as many as `limits` say, and no more than `most`: probes need sockets too.
    pub(super) fn new(mut limits: TcpLimits, most: usize) -> Arc<Self> {
        if most < limits.connections {
            warn!(most, wanted = limits.connections, "fewer connections: few files may be open");
            limits.connections = most;
        }
        Arc::new(Self { limits, taken: Mutex::default(), left: Notify::new() })
    }

    /// How long a connection may be without a whole query.
    pub(super) fn idle(&self) -> Duration {
        self.limits.idle
    }

    /// Waits until there is no connection.
    pub(super) async fn emptied(&self) {
        while self.taken.lock().unwrap_or_else(PoisonError::into_inner).total > 0 {
            self.left.notified().await;
        }
    }

    /// A place for `client`, or why there is none, which is counted.
    pub(super) fn take(self: &Arc<Self>, client: IpAddr) -> Result<Taken, &'static str> {
        let taken = self.place(client);
        if let Err(reason) = taken {
            counter!("meridian_tcp_refused_total", "reason" => reason).increment(1);
        }
        taken
    }

    fn place(self: &Arc<Self>, client: IpAddr) -> Result<Taken, &'static str> {
        let client = one_client(client);
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        if taken.total >= self.limits.connections {
            return Err("connections");
        }
        let of_client = taken.by_client.entry(client).or_default();
        if *of_client >= self.limits.per_client {
            return Err("per_client");
        }
        *of_client += 1;
        taken.total += 1;
        gauge!("meridian_tcp_connections").increment(1.0);
        Ok(Taken { room: self.clone(), client })
    }
}

impl Taken {
    /// How long its connection may be without a whole query.
    pub(super) fn idle(&self) -> Duration {
        self.room.idle()
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        let mut taken = self.room.taken.lock().unwrap_or_else(PoisonError::into_inner);
        taken.total -= 1;
        if taken.total == 0 {
            self.room.left.notify_one();
        }
        if let Some(of_client) = taken.by_client.get_mut(&self.client) {
            *of_client -= 1;
            if *of_client == 0 {
                taken.by_client.remove(&self.client);
            }
        }
        gauge!("meridian_tcp_connections").decrement(1.0);
    }
}

/// The network that counts as one client: an IPv6 site has a /56 (RFC 6177 §2).
fn one_client(address: IpAddr) -> IpNet {
    let network = match address {
        IpAddr::V4(_) => IpNet::from(address),
        IpAddr::V6(_) => IpNet::new(address, 56).unwrap_or(IpNet::from(address)),
    };
    network.trunc()
}
