//! DNS over HTTPS (RFC 8484): one connection's requests, each a message, by HTTP/2 or HTTP/1.1.

use std::convert::Infallible;
use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use bytes::Bytes;
use domain::base::Message;
use http_body_util::{BodyExt as _, Limited};
use hyper::body::{Body, Frame, Incoming, SizeHint};
use hyper::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, HeaderValue};
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::net::TcpStream;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::time::timeout;
use tokio_rustls::server::TlsStream;

use super::encrypted::HTTP_2;
use super::responder::Answers;
use super::tcp::LONGEST;
use crate::query::Peer;

/// Where queries go (RFC 8484 §4.1).
const PATH: &str = "/dns-query";

/// What they and their answers are (RFC 8484 §6).
const MESSAGE: &str = "application/dns-message";

/// What is said of a longer one.
const TOO_LONG: &str = "a query has 4,096 octets at most here, and all of them are to come";
const _: () = assert!(LONGEST == 4096, "it is told");

/// How many requests of one connection may be under way.
const STREAMS: u32 = 100;

/// What one connection's requests may take up before they are read, in octets. What is read of each
/// and waits for the rest is a message, which [`LONGEST`] bounds: half a mebibyte in all.
const WINDOW: u32 = 1 << 17;

/// What the fields of a request may, until they are read. A message in them has a third more octets
/// than by itself.
const FIELDS: u32 = 16 << 10;

/// What one connection's answers may take up until its client takes them, in octets: two of the
/// largest. More are not given.
const UNTAKEN: usize = 1 << 17;

/// So much of each answer is on its way at a time.
const PIECE: usize = 1 << 10;

/// Answers one connection's requests until it ends, or is idle: no whole query came for so long.
pub(super) async fn converse(
    stream: TlsStream<TcpStream>,
    peer: Peer,
    answers: Answers,
    idle: Duration,
) -> io::Result<()> {
    let is_2 = stream.get_ref().1.alpn_protocol() == Some(HTTP_2);
    let (told, heard) = watch::channel(());
    let (told, untaken) = (Arc::new(told), Arc::new(Semaphore::new(UNTAKEN)));
    let service = service_fn(|request: Request<Incoming>| {
        let (answers, told, untaken) = (answers.clone(), told.clone(), untaken.clone());
        let is_head = request.method() == Method::HEAD;
        async move {
            let message = timeout(idle, message(request)).await;
            let message = message.unwrap_or(Err((StatusCode::REQUEST_TIMEOUT, "too slow")));
            let response = match message {
                Ok(message) => {
                    told.send_replace(());
                    respond(&answers, &message, peer, &untaken)
                }
                Err((status, why)) => refused(status, why),
            };
            // RFC 9110 §9.3.2. Over HTTP/2, a body would be an error of the connection.
            Ok::<_, Infallible>(if is_head {
                response.map(|_| Answer::default())
            } else {
                response
            })
        }
    });
    let stream = TokioIo::new(stream);
    if is_2 {
        let mut http = http2::Builder::new(TokioExecutor::new());
        http.timer(TokioTimer::new()).max_concurrent_streams(STREAMS).max_header_list_size(FIELDS);
        http.initial_stream_window_size(WINDOW).initial_connection_window_size(WINDOW);
        let mut connection = pin!(http.serve_connection(stream, service));
        while_in_use(connection.as_mut(), heard, idle).await?;
        connection.as_mut().graceful_shutdown();
        timeout(idle, connection).await?.map_err(io::Error::other)
    } else {
        let mut http = http1::Builder::new();
        http.timer(TokioTimer::new()).header_read_timeout(idle).max_buf_size(FIELDS as usize);
        // Who has asked all that it wants may end its side.
        http.half_close(true);
        let mut connection = pin!(http.serve_connection(stream, service));
        while_in_use(connection.as_mut(), heard, idle).await?;
        connection.as_mut().graceful_shutdown();
        timeout(idle, connection).await?.map_err(io::Error::other)
    }
}

/// Serves a connection until it is idle.
///
/// # Errors
/// It has ended.
async fn while_in_use(
    mut connection: Pin<&mut impl Future<Output = hyper::Result<()>>>,
    mut heard: watch::Receiver<()>,
    idle: Duration,
) -> io::Result<()> {
    loop {
        tokio::select! {
            end = connection.as_mut() => {
                end.map_err(io::Error::other)?;
                return Err(io::ErrorKind::NotConnected.into());
            }
            asked = timeout(idle, heard.changed()) => if asked.is_err() {
                return Ok(());
            }
        }
    }
}

/// Why a request has no answer.
type Refused = (StatusCode, &'static str);

/// The message of a request, or the status that says why there is none.
async fn message(request: Request<Incoming>) -> Result<Vec<u8>, Refused> {
    let given = given(&request);
    // First all of it, also of what is refused: some clients take it for an error of the connection
    // if the answer comes before they have sent their request. Nothing but messages is kept.
    let mut body = Limited::new(request.into_body(), LONGEST);
    let mut posted = Vec::new();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|_| (StatusCode::PAYLOAD_TOO_LARGE, TOO_LONG))?;
        // Copied: a frame, however short, holds on to all that was received with it.
        if let (Ok(None), Some(data)) = (&given, frame.data_ref()) {
            posted.extend_from_slice(data);
        }
    }
    Ok(given?.unwrap_or(posted))
}

/// The message that the head of a request has; `None`: it is the body.
fn given(request: &Request<Incoming>) -> Result<Option<Vec<u8>>, Refused> {
    if request.uri().path() != PATH {
        return Err((StatusCode::NOT_FOUND, "queries go to /dns-query"));
    }
    match *request.method() {
        Method::GET => {
            let mut fields = request.uri().query().unwrap_or_default().split('&');
            let given = fields.find_map(|field| field.strip_prefix("dns="));
            let what = "expected `?dns=` and a DNS message in base64url without padding";
            let given = given.and_then(|given| BASE64_URL_SAFE_NO_PAD.decode(given).ok());
            let given = given.ok_or((StatusCode::BAD_REQUEST, what))?;
            let is_read = given.len() <= LONGEST;
            is_read.then_some(Some(given)).ok_or((StatusCode::URI_TOO_LONG, TOO_LONG))
        }
        Method::POST => {
            let kind = request.headers().get(CONTENT_TYPE).map(HeaderValue::as_bytes);
            if kind.is_none_or(|kind| !kind.eq_ignore_ascii_case(MESSAGE.as_bytes())) {
                let what = "expected a body of the type application/dns-message";
                return Err((StatusCode::UNSUPPORTED_MEDIA_TYPE, what));
            }
            Ok(None)
        }
        _ => Err((StatusCode::METHOD_NOT_ALLOWED, "queries are asked by GET or POST")),
    }
}

/// A body that is handed out piece by piece, as its client takes it.
#[derive(Default)]
struct Answer {
    rest: Bytes,
    /// What it takes up of what one connection's may.
    _room: Option<OwnedSemaphorePermit>,
}

impl Body for Answer {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let piece = self.rest.len().min(PIECE);
        // Copied: a part of it, however short, would hold on to all of it.
        let piece = Bytes::copy_from_slice(&self.rest.split_to(piece));
        Poll::Ready((!piece.is_empty()).then(|| Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.rest.len() as u64)
    }
}

/// The answer to a message.
fn respond(
    answers: &Answers,
    message: &[u8],
    peer: Peer,
    untaken: &Arc<Semaphore>,
) -> Response<Answer> {
    let out = answers.answer(message, peer);
    if out.is_empty() {
        return refused(StatusCode::BAD_REQUEST, "this is no DNS query");
    }
    let length = u32::try_from(out.len()).unwrap_or(u32::MAX);
    let Ok(room) = untaken.clone().try_acquire_many_owned(length) else {
        let why = "first take the answers that there are";
        return refused(StatusCode::SERVICE_UNAVAILABLE, why);
    };
    let fresh = format!("private, max-age={}", freshness(&out));
    let mut response = Response::new(Answer { rest: out.into(), _room: Some(room) });
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(MESSAGE));
    if let Ok(fresh) = HeaderValue::try_from(fresh) {
        response.headers_mut().insert(CACHE_CONTROL, fresh);
    }
    response
}

/// For how many seconds an answer may be kept (RFC 8484 §5.1): for the least TTL in it, that of a
/// denial included; without any record not at all. By its client alone, as it is of its place.
fn freshness(answer: &[u8]) -> u32 {
    let Ok(answer) = Message::from_slice(answer) else { return 0 };
    let sections = [answer.answer(), answer.authority()].into_iter().flatten();
    let ttls = sections.flatten().flatten().map(|record| record.ttl().as_secs());
    ttls.min().unwrap_or(0)
}

fn refused(status: StatusCode, why: &'static str) -> Response<Answer> {
    let rest = Bytes::from_static(why.as_bytes());
    let mut response = Response::new(Answer { rest, _room: None });
    *response.status_mut() = status;
    let text = HeaderValue::from_static("text/plain; charset=utf-8");
    response.headers_mut().insert(CONTENT_TYPE, text);
    if status == StatusCode::METHOD_NOT_ALLOWED {
        response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, POST"));
    }
    response
}
