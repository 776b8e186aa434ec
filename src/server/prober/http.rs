//! An HTTP check: one request, and what is expected of its answer.

use std::net::SocketAddr;

use http_body_util::{BodyExt, Empty};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1;
use hyper::header::{CONNECTION, HOST, HeaderValue, USER_AGENT};
use hyper::{Request, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::task::JoinSet;
use tokio::time::timeout_at;

use super::{Deadline, Heard, orca};
use crate::health::{Expect, Failure, HttpCheck, Stage};

/// More than any health page's header has, and little enough for ten thousand at once.
const LARGEST_HEAD: usize = 16 * 1024;

/// One HTTP request, and whether its answer is what is expected.
pub(super) async fn ask(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    (address, agent): (SocketAddr, &HeaderValue),
    check: &HttpCheck,
    deadline: Deadline,
    heard: &mut Heard,
) -> Result<(), Failure> {
    let handshake = http1::Builder::new()
        .max_buf_size(LARGEST_HEAD)
        .handshake::<_, Empty<Bytes>>(TokioIo::new(stream));
    let (mut sender, driven) = deadline.hold(Stage::Head, handshake).await?;
    let mut connection = JoinSet::new();
    connection.spawn(driven);
    let host = check.host.clone().unwrap_or_else(|| address.to_string());
    let request = Request::builder()
        .method(&check.method)
        .uri(&check.path)
        .header(HOST, host)
        .header(USER_AGENT, agent)
        .header(CONNECTION, "close");
    let mut request = request.body(Empty::new()).map_err(|_| Failure::Local)?;
    for (name, value) in &check.headers {
        request.headers_mut().insert(name, value.clone());
    }
    let response = deadline.hold(Stage::Head, sender.send_request(request)).await?;
    let (head, body) = response.into_parts();
    heard.signal = orca::heard(&head.headers);
    let rest = heard.rest.insert(Rest { body, connection, deadline });
    judge(head.status, &mut rest.body, &check.expect, deadline).await
}

async fn judge(
    status: StatusCode,
    body: &mut Incoming,
    expect: &Expect,
    deadline: Deadline,
) -> Result<(), Failure> {
    if !expect.accepts(status.as_u16()) {
        return Err(Failure::Status(status.as_u16()));
    }
    let Some(wanted) = expect.contains.as_deref().map(str::as_bytes) else { return Ok(()) };
    let mut seen: Vec<u8> = Vec::new();
    let mut next = async || match body.frame().await {
        Some(frame) => frame.map(Some),
        None => Ok(None),
    };
    while let Some(frame) = deadline.hold(Stage::Body, next()).await? {
        let Ok(data) = frame.into_data() else { continue };
        // What was looked through is not looked through again, but for what may straddle.
        let from = seen.len().saturating_sub(wanted.len());
        seen.extend_from_slice(&data);
        seen.truncate(Expect::BODY_LIMIT);
        let fresh = seen.get(from..).unwrap_or(&[]);
        if wanted.is_empty() || fresh.windows(wanted.len()).any(|window| window == wanted) {
            return Ok(());
        }
        if seen.len() == Expect::BODY_LIMIT {
            break;
        }
    }
    Err(Failure::TextMissing)
}

/// An answer of which the verdict has no need any more.
pub(super) struct Rest {
    body: Incoming,
    /// Over which it comes; it ends with this.
    connection: JoinSet<hyper::Result<()>>,
    deadline: Deadline,
}

impl Rest {
    /// Reads it, as far as it comes in time and is not too long: a target that writes an answer
    /// part by part would else write into a reset, and complain at every probe.
    pub(super) async fn read(mut self) {
        let mut left = Expect::BODY_LIMIT;
        let read = async {
            while let Some(Ok(frame)) = self.body.frame().await {
                match left.checked_sub(frame.data_ref().map_or(0, Bytes::len)) {
                    Some(less) => left = less,
                    None => return,
                }
            }
            self.connection.join_next().await;
        };
        let _late = timeout_at(self.deadline.0, read).await;
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;
    use std::sync::Arc;
    use std::time::Duration;

    use hyper::Method;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{TcpListener, TcpStream};
    use tokio::sync::mpsc::unbounded_channel;

    use super::super::{Clock, Probe, Prober};
    use super::*;
    use crate::health::{Check, Order, Outcome, StatusRange};
    use crate::ids::TargetId;
    use crate::time::Instant;

    /// A target that has told a prober this much of its answer, at the verdict.
    async fn told(head: &[u8]) -> (Outcome, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (sender, mut reports) = unbounded_channel();
        let prober = Prober::new(Clock::start(), 1, sender);
        let statuses = vec![StatusRange { first: 200, last: 299 }];
        let expect = Expect { statuses, contains: None };
        let (path, headers) = ("/".to_owned(), Vec::new());
        let request = HttpCheck { method: Method::GET, path, host: None, headers, expect };
        let request = Arc::new(request);
        let probe = Probe {
            address: IpAddr::from([127, 0, 0, 1]),
            check: Check::Http { port: listener.local_addr().unwrap().port(), request },
            tls: None,
            file: None,
            agent: HeaderValue::from_static("test"),
            valid: Duration::ZERO,
        };
        let target = TargetId::from_index(0).unwrap();
        let order = Order { target, timeout: Duration::from_secs(60), due: Instant::default() };
        prober.launch(order, Some(Arc::new(probe)));
        let (mut stream, _) = listener.accept().await.unwrap();
        assert!(stream.read(&mut [0; 2048]).await.unwrap() > 0);
        stream.write_all(head).await.unwrap();
        (reports.recv().await.unwrap().1.outcome, stream)
    }

    #[tokio::test]
    async fn a_body_that_comes_after_the_verdict_is_taken() {
        for (status, seen) in
            [("200 OK", Outcome::Success), ("503 No", Outcome::Failure(Failure::Status(503)))]
        {
            let head = format!("HTTP/1.1 {status}\r\ncontent-length: 8\r\n\r\n");
            let (outcome, mut stream) = told(head.as_bytes()).await;
            assert_eq!(outcome, seen);
            for part in [b"some", b"more"] {
                stream.write_all(part).await.expect("a reader");
            }
        }
    }

    #[tokio::test]
    async fn a_body_without_end_is_not_read_to_its_end() {
        let (outcome, mut stream) = told(b"HTTP/1.1 200 OK\r\n\r\n").await;
        assert_eq!(outcome, Outcome::Success);
        let mut written = 0;
        while stream.write_all(&[b'x'; 4096]).await.is_ok() {
            written += 4096;
            // What the system holds for both is a few megabytes.
            assert!(written < 64 << 20, "still read");
        }
        assert!(written >= Expect::BODY_LIMIT);
    }
}
