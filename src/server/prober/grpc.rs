//! A gRPC check: `grpc.health.v1.Health/Check`, whose two messages have one field each.
//!
//! <https://github.com/grpc/grpc/blob/master/doc/health-checking.md>; the frames are those of
//! PROTOCOL-HTTP2.md beside it, the fields protocol buffers' own encoding.

use http_body_util::{BodyExt, Full, Limited};
use hyper::Request;
use hyper::body::Bytes;
use hyper::client::conn::http2;
use hyper::header::{CONTENT_TYPE, HeaderValue, TE, USER_AGENT};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncRead, AsyncWrite};

use super::Deadline;
use crate::health::{Failure, Stage};

/// More than the longest true answer has.
const LARGEST: usize = 1024;

/// How a call ended, and what that is if it went well.
const STATUS: &str = "grpc-status";
const OK: &str = "0";

/// The status SERVING.
const SERVING: u8 = 1;

pub(super) async fn ask(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    (authority, agent): (String, &HeaderValue),
    service: &str,
    deadline: Deadline,
) -> Result<(), Failure> {
    let handshake =
        http2::handshake::<_, _, Full<Bytes>>(TokioExecutor::new(), TokioIo::new(stream));
    let (mut sender, connection) = deadline.hold(Stage::Head, handshake).await?;
    let connection = tokio::spawn(connection);
    let outcome = exchange(&mut sender, (authority, agent), service, deadline).await;
    connection.abort();
    outcome
}

async fn exchange(
    sender: &mut http2::SendRequest<Full<Bytes>>,
    (authority, agent): (String, &HeaderValue),
    service: &str,
    deadline: Deadline,
) -> Result<(), Failure> {
    let request = Request::post(format!("http://{authority}/grpc.health.v1.Health/Check"))
        .header(CONTENT_TYPE, "application/grpc")
        .header(TE, "trailers")
        .header(USER_AGENT, agent)
        .body(Full::new(framed(service)))
        .map_err(|_| Failure::Local)?;
    let response = deadline.hold(Stage::Head, sender.send_request(request)).await?;
    if response.status() != 200 {
        return Err(Failure::Status(response.status().as_u16()));
    }
    // An error comes without a body, its status in the head.
    let early = response.headers().get(STATUS).cloned();
    if early.as_ref().is_some_and(|status| status != OK) {
        return Err(Failure::NotServing);
    }
    let body = Limited::new(response.into_body(), LARGEST).collect();
    let body = tokio::time::timeout_at(deadline.0, body).await;
    let body = body.map_err(|_| Failure::TimedOut(Stage::Body))?;
    let body = body.map_err(|_| Failure::Malformed)?;
    let late = body.trailers().and_then(|trailers| trailers.get(STATUS));
    ended(late.or(early.as_ref()))?;
    match status(&body.to_bytes()) {
        Some(SERVING) => Ok(()),
        Some(_) => Err(Failure::NotServing),
        None => Err(Failure::Malformed),
    }
}

/// How the call ended: "trailers must include grpc-status" (PROTOCOL-HTTP2.md), or it was cut off.
fn ended(status: Option<&HeaderValue>) -> Result<(), Failure> {
    match status {
        Some(status) if status == OK => Ok(()),
        Some(_) => Err(Failure::NotServing),
        None => Err(Failure::Malformed),
    }
}

/// The request: not compressed, its length, and field 1, a text. A text that is empty is left out.
fn framed(service: &str) -> Bytes {
    let mut message = Vec::new();
    if !service.is_empty() {
        message.push(1 << 3 | 2);
        let mut length = service.len();
        while length >= 0x80 {
            message.push(u8::try_from(length & 0x7f).unwrap_or(0) | 0x80);
            length >>= 7;
        }
        message.push(u8::try_from(length).unwrap_or(0));
        message.extend(service.as_bytes());
    }
    let length = u32::try_from(message.len()).unwrap_or(u32::MAX);
    [&[0], &length.to_be_bytes()[..], &message].concat().into()
}

/// The status that a response tells: field 1, a small number; 0, which is UNKNOWN, if it is left
/// out. `None`: it is no such response.
fn status(frame: &[u8]) -> Option<u8> {
    let (head, message) = frame.split_at_checked(5)?;
    let length = head.get(1..5)?.try_into().ok().map(u32::from_be_bytes)?;
    if head.first() != Some(&0) || usize::try_from(length).ok()? != message.len() {
        return None;
    }
    match message {
        [] => Some(0),
        [0x08, status @ 0..0x80] => Some(*status),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_written_as_protocol_buffers_want_them() {
        assert_eq!(framed("").as_ref(), [0, 0, 0, 0, 0]);
        assert_eq!(framed("web").as_ref(), b"\0\0\0\0\x05\x0a\x03web");
        let long = framed(&"x".repeat(300));
        assert_eq!(long.get(..8), Some(&[0, 0, 0, 1, 47, 0x0a, 0xac, 0x02][..]));
    }

    #[test]
    fn a_call_went_well_if_it_says_so() {
        let ended = |status| ended(Some(&HeaderValue::from_static(status)));
        assert_eq!((ended("0"), ended("5")), (Ok(()), Err(Failure::NotServing)));
        assert_eq!(super::ended(None), Err(Failure::Malformed));
    }

    #[test]
    fn responses_tell_their_status_or_are_none() {
        assert_eq!(status(b"\0\0\0\0\x02\x08\x01"), Some(SERVING));
        assert_eq!(status(b"\0\0\0\0\x02\x08\x02"), Some(2));
        assert_eq!(status(b"\0\0\0\0\0"), Some(0));
        for wrong in [&b""[..], b"\0\0\0\0", b"\0\0\0\0\x03\x08\x01", b"\x01\0\0\0\x02\x08\x01"] {
            assert_eq!(status(wrong), None, "{wrong:?}");
        }
    }
}
