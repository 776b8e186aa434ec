//! DNS over QUIC (RFC 9250): each stream has one query, and its answer.
//!
//! ```text
//! Initial → handshake → room? → stream → whole query → answer → its end
//!    └ many unproven ones under way: Retry, so that the address is known to be its own
//! ```

use std::io;
use std::net::UdpSocket;
use std::sync::Arc;

use domain::base::Message;
use domain::base::opt::UnknownOptData;
use metrics::counter;
use quinn::crypto::rustls::QuicServerConfig;
use quinn::{
    Connection, Endpoint, EndpointConfig, Incoming, RecvStream, SendStream, ServerConfig,
    TokioRuntime, TransportConfig, VarInt,
};
use tokio::io::AsyncReadExt as _;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout, timeout_at};
use tracing::error;

use super::certificate::Newest;
use super::encrypted::{Spoken, tls_config};
use super::responder::Answers;
use super::socket::as_itself;
use super::tcp::{LONGEST, Room, Taken};
use crate::query::{Peer, Transport};

/// How many handshakes may be under way with addresses that nobody has proven: more are asked to
/// prove theirs (RFC 9000 §8.1.2).
const UNPROVEN: usize = 32;

/// How many queries of one connection may be under way.
const STREAMS: u32 = 100;

/// What one connection may send before it is read, in octets. What is read of each stream and waits
/// for the rest is a message, which [`LONGEST`] bounds: half a mebibyte in all.
const WINDOW: u32 = 1 << 17;

/// Errors of RFC 9250 §4.3.
const NO_ERROR: VarInt = VarInt::from_u32(0);
const PROTOCOL_ERROR: VarInt = VarInt::from_u32(2);
const REQUEST_CANCELLED: VarInt = VarInt::from_u32(3);
const EXCESSIVE_LOAD: VarInt = VarInt::from_u32(4);

/// EDNS TCP keepalive (RFC 7828), which has no place here.
const OPTION_KEEPALIVE: u16 = 11;

/// What is listened on; closed when it is dropped, and whoever is connected is told.
struct Listener(Endpoint);

impl Drop for Listener {
    fn drop(&mut self) {
        self.0.close(NO_ERROR, b"");
    }
}

/// Accepts connections on `socket` and answers what comes over them, until what is returned is
/// dropped.
///
/// # Errors
/// QUIC cannot be set up.
pub(super) fn serve(
    socket: UdpSocket,
    certificate: &Arc<Newest>,
    answers: Answers,
    room: Arc<Room>,
) -> io::Result<impl Future<Output = ()> + Send + 'static> {
    let crypto = QuicServerConfig::try_from(tls_config(certificate, Spoken::Doq)?);
    let mut config = ServerConfig::with_crypto(Arc::new(crypto.map_err(io::Error::other)?));
    let mut transport = TransportConfig::default();
    transport.max_concurrent_bidi_streams(STREAMS.into()).max_concurrent_uni_streams(0_u32.into());
    transport.receive_window(WINDOW.into()).stream_receive_window(WINDOW.into());
    transport.max_idle_timeout(room.idle().try_into().ok()).datagram_receive_buffer_size(None);
    config.transport_config(Arc::new(transport));
    let runtime = Arc::new(TokioRuntime);
    let endpoint = Endpoint::new(EndpointConfig::default(), Some(config), socket, runtime)?;
    let listener = Listener(endpoint);
    Ok(async move {
        let unproven = Arc::new(Semaphore::new(UNPROVEN));
        while let Some(incoming) = listener.0.accept().await {
            welcome(incoming, &unproven, &answers, &room);
        }
        error!("a QUIC listener has ended");
    })
}

/// Lets a connection begin, if there is room for it.
fn welcome(incoming: Incoming, unproven: &Arc<Semaphore>, answers: &Answers, room: &Arc<Room>) {
    let address = as_itself(incoming.remote_address());
    // Nobody's place is taken by whoever only says that he is there.
    let entry = if incoming.remote_address_validated() {
        match room.take(address.ip()) {
            Ok(taken) => Entry::Room(taken),
            Err(_) => return incoming.refuse(),
        }
    } else if let Ok(permit) = unproven.clone().try_acquire_owned() {
        Entry::Unproven(permit)
    } else {
        // What cannot be asked to is proven, or has no room to be told.
        let _asked = incoming.retry();
        return;
    };
    let (answers, room) = (answers.clone(), room.clone());
    tokio::spawn(async move {
        // How a connection ends is its client's affair.
        let Ok(Ok(connection)) = timeout(room.idle(), incoming).await else { return };
        let taken = match entry {
            Entry::Room(taken) => Ok(taken),
            Entry::Unproven(permit) => {
                // It is proven by now, and others may begin.
                drop(permit);
                room.take(address.ip())
            }
        };
        match taken {
            Ok(taken) => converse(&connection, &answers, &taken).await,
            Err(reason) => connection.close(EXCESSIVE_LOAD, reason.as_bytes()),
        }
    });
}

/// By what a handshake goes on.
enum Entry {
    /// The address is its own, and has a place.
    Room(Taken),
    /// One of few whose addresses may be others'.
    Unproven(OwnedSemaphorePermit),
}

/// Answers one connection's queries until it ends, or is idle: no whole query came for so long.
async fn converse(connection: &Connection, answers: &Answers, taken: &Taken) {
    let (idle, (told, mut heard)) = (taken.idle(), watch::channel(()));
    let (told, mut streams) = (Arc::new(told), JoinSet::new());
    let mut deadline = Instant::now() + idle;
    loop {
        let (mut send, receive) = tokio::select! {
            stream = connection.accept_bi() => match stream {
                Ok(stream) => stream,
                Err(_) => break,
            },
            asked = timeout_at(deadline, heard.changed()) => {
                if asked.is_err() {
                    break;
                }
                deadline = Instant::now() + idle;
                continue;
            }
        };
        // It may have moved since the last one (RFC 9000 §9).
        let address = as_itself(connection.remote_address());
        let peer = Peer { address, transport: Transport::Quic };
        let (connection, answers, told) = (connection.clone(), answers.clone(), told.clone());
        streams.spawn(async move {
            let error = match timeout(idle, answer((&mut send, receive), peer, &answers)).await {
                // The stream lives until all of it has arrived, or will not.
                Ok(Ok(())) => {
                    told.send_replace(());
                    let _arrived = timeout(idle, send.stopped()).await;
                    return;
                }
                Ok(Err(error)) => error,
                Err(_) => REQUEST_CANCELLED,
            };
            // Nobody is to take the end of the stream for an answer; it may have ended meanwhile.
            let _ended = send.reset(error);
            if error == PROTOCOL_ERROR {
                connection.close(error, b"");
            }
        });
        while streams.try_join_next().is_some() {}
    }
    // What is under way is answered first: it has as long as any query has.
    streams.join_all().await;
    connection.close(NO_ERROR, b"");
}

/// Answers one stream's query.
///
/// # Errors
/// By what the stream is to be ended without an answer: what RFC 9250 §4.3.3 calls a protocol error
/// ends the connection too.
async fn answer(
    (send, mut receive): (&mut SendStream, RecvStream),
    peer: Peer,
    answers: &Answers,
) -> Result<(), VarInt> {
    // A message and its length (RFC 9250 §4.2). Copied as it comes: a part, however short, holds on
    // to all that was received with it.
    let (most, mut octets) = (2 + LONGEST, Vec::new());
    let all = (&mut receive).take(most as u64 + 1).read_to_end(&mut octets).await;
    // What is cut short is nobody's query any more (RFC 9250 §4.3.1).
    let length = all.map_err(|_| REQUEST_CANCELLED)?;
    if length > most {
        // It may have ended in the meantime.
        let _ended = receive.stop(EXCESSIVE_LOAD);
        return Err(EXCESSIVE_LOAD);
    }
    let message = query(&octets).ok_or(PROTOCOL_ERROR)?;
    let out = answers.answer(message, peer);
    // What gets no answer is no query.
    let length = u16::try_from(out.len()).ok().filter(|length| *length > 0);
    let whole = [&length.ok_or(PROTOCOL_ERROR)?.to_be_bytes(), &*out].concat();
    if send.write_all(&whole).await.is_err() || send.finish().is_err() {
        counter!("meridian_unsent_total").increment(1);
    }
    Ok(())
}

/// The query of a stream: behind its length, with the identifier 0 and without a keepalive option
/// (RFC 9250 §4.2, §4.2.1, §5.5.2).
fn query(octets: &[u8]) -> Option<&[u8]> {
    let (length, message) = octets.split_first_chunk::<2>()?;
    let is_whole = message.len() == usize::from(u16::from_be_bytes(*length));
    let is_zero = message.first_chunk::<2>().is_none_or(|id| *id == [0, 0]);
    let opt = Message::from_slice(message).ok().and_then(Message::opt);
    let keeps_alive = opt.is_some_and(|opt| {
        let mut options = opt.opt().iter::<UnknownOptData<_>>().flatten();
        options.any(|option| option.code().to_int() == OPTION_KEEPALIVE)
    });
    (is_whole && is_zero && !keeps_alive).then_some(message)
}
