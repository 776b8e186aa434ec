//! Carries probes out.
//!
//! Each probe is a connection of its own, so that it sees what a new client would see. It is
//! closed by a reset, which leaves no port waiting behind (10,000 targets at two probes a second
//! would use up all ports within seconds). Whatever a target does ends at the probe's timeout.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use http_body_util::{BodyExt, Empty};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1;
use hyper::header::{CONNECTION, HOST, HeaderValue, USER_AGENT};
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use rustls::CertificateError;
use rustls::pki_types::ServerName;
use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio::sync::mpsc::UnboundedSender;
use tokio::time::timeout_at;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::arrivals::{Arrivals, Signal};
use super::clock::Clock;
use super::tls::Tls;
use crate::health::{Check, Expect, Failure, HttpCheck, Order, Outcome, Report, Stage, TlsCheck};
use crate::ids::TargetId;
use crate::time::Instant;

pub(in crate::server) use held::Held;
pub(in crate::server) use pushed::Pushed;

mod command;
mod dns;
mod grpc;
mod held;
mod orca;
mod ping;
mod pushed;

/// Commands that run at once: each is a process.
const COMMANDS: usize = 32;

/// Something that can be probed.
#[derive(Clone, Debug)]
pub struct Probe {
    /// The target's address.
    pub address: IpAddr,
    /// What is done there.
    pub check: Check,
    /// How TLS is done, if the check needs it.
    pub tls: Option<Arc<Tls>>,
    /// As whom it asks over HTTP: whoever reads the target's logs sees which node that was.
    pub agent: HeaderValue,
    /// For how long what it sees may be believed.
    pub valid: Duration,
}

/// Carries probes out, a bounded number at a time.
#[derive(Clone)]
pub(super) struct Prober {
    clock: Clock,
    reports: UnboundedSender<(TargetId, Report)>,
    /// For all but commands.
    room: Arc<Semaphore>,
    commands: Arc<Semaphore>,
    pushed: Pushed,
    arrivals: Arrivals,
}

impl Prober {
    /// A prober that tells `reports` what it saw. At most `sockets` probes run at once.
    pub(super) fn new(
        clock: Clock,
        sockets: usize,
        reports: UnboundedSender<(TargetId, Report)>,
    ) -> Self {
        Self {
            clock,
            reports,
            room: Arc::new(Semaphore::new(sockets)),
            commands: Arc::new(Semaphore::new(COMMANDS)),
            pushed: Pushed::default(),
            arrivals: Arrivals::default(),
        }
    }

    /// What holds connections open, at most as many; it tells `hints` of what ends.
    pub(super) fn held(sockets: usize, hints: UnboundedSender<TargetId>) -> Held {
        Held::new(sockets, hints)
    }

    /// What others tell of addresses.
    pub(super) fn pushed(&self) -> &Pushed {
        &self.pushed
    }

    /// What endpoints tell of themselves.
    pub(super) fn arrivals(&self) -> &Arrivals {
        &self.arrivals
    }

    /// Carries `order` out; its report follows, however it ends.
    pub(super) fn launch(&self, order: Order, probe: Option<Arc<Probe>>) {
        let began = self.clock.now();
        if let Some(outcome) = probe.as_ref().and_then(|probe| self.at_once(began, probe)) {
            return self.report(order, began, outcome);
        }
        let prober = self.clone();
        // Its time begins when it has its turn: to wait for that is nothing a target does.
        let room = match probe.as_ref().map(|probe| &probe.check) {
            Some(Check::Command { .. }) => self.commands.clone(),
            _ => self.room.clone(),
        };
        tokio::spawn(async move {
            let permit = room.acquire_owned().await;
            let began = prober.clock.now();
            let (outcome, signal) = match &probe {
                // What waits for its turn needs no room for what it will need then.
                Some(probe) => Box::pin(prober.carry_out(probe, order.timeout)).await,
                None => (Outcome::Failure(Failure::Local), None),
            };
            drop(permit);
            if let Some((probe, signal)) = probe.zip(signal) {
                prober.arrivals.tell(prober.clock.now(), order.target, signal, probe.valid);
            }
            prober.report(order, began, outcome);
        });
    }

    /// What was told of a target is known without a task of its own.
    fn at_once(&self, now: Instant, probe: &Probe) -> Option<Outcome> {
        match &probe.check {
            Check::Pushed { name, file } => match self.pushed.told(now, (name, probe.address)) {
                // It may be in the file.
                None if file.is_some() => None,
                told => Some(pushed::outcome(told)),
            },
            _ => None,
        }
    }

    /// What a probe saw that began then.
    fn report(&self, order: Order, began: Instant, outcome: Outcome) {
        metrics::histogram!("meridian_probe_lag_seconds").record(began.since(order.due));
        let latency = self.clock.now().since(began);
        // The receiver is gone only when the server ends.
        let _ended = self.reports.send((order.target, Report { outcome, latency }));
    }
}

/// The moment by which a probe must have ended.
#[derive(Clone, Copy)]
struct Deadline(tokio::time::Instant);

impl Deadline {
    /// What `work` gives, if it gives it in time; `stage` is where the probe is meanwhile.
    async fn hold<T, E: Into<Broken>>(
        self,
        stage: Stage,
        work: impl Future<Output = Result<T, E>>,
    ) -> Result<T, Failure> {
        match timeout_at(self.0, work).await {
            Ok(result) => result.map_err(|error| error.into().failure(stage)),
            Err(_) => Err(Failure::TimedOut(stage)),
        }
    }
}

/// How late a time-out may be noticed. Later than this the node itself was held up, so that it
/// cannot tell who was late.
const HELD_UP: Duration = Duration::from_millis(50);

impl Prober {
    /// What the probe saw, and what the target told of itself, whether it is well or not.
    async fn carry_out(&self, probe: &Probe, within: Duration) -> (Outcome, Option<Signal>) {
        let deadline = Deadline(tokio::time::Instant::now() + within);
        let mut signal = None;
        let outcome = match self.attempt(probe, deadline, &mut signal).await {
            Ok(outcome) => outcome,
            Err(Failure::TimedOut(_)) if tokio::time::Instant::now() > deadline.0 + HELD_UP => {
                Outcome::Failure(Failure::Local)
            }
            Err(failure) => Outcome::Failure(failure),
        };
        (outcome, signal)
    }

    /// Does what the check says.
    async fn attempt(
        &self,
        probe: &Probe,
        deadline: Deadline,
        signal: &mut Option<Signal>,
    ) -> Result<Outcome, Failure> {
        let address = SocketAddr::new(probe.address, probe.check.port());
        match &probe.check {
            Check::Dns { query, .. } => dns::ask(address, query, deadline).await?,
            Check::Ping => ping::echo(probe.address, deadline).await?,
            Check::Command { command } => command::run(probe.address, command, deadline).await?,
            Check::Pushed { file, .. } => {
                let told = match file {
                    Some(file) => pushed::look(file, probe.address, self.clock.now()).await,
                    None => None,
                };
                return Ok(pushed::outcome(told));
            }
            Check::Tcp { .. } | Check::Http { .. } | Check::Https { .. } | Check::Grpc { .. } => {
                return connect(probe, address, deadline, signal).await;
            }
        }
        Ok(Outcome::Success)
    }
}

/// A check over a TCP connection.
async fn connect(
    probe: &Probe,
    address: SocketAddr,
    deadline: Deadline,
    signal: &mut Option<Signal>,
) -> Result<Outcome, Failure> {
    let stream = deadline.hold(Stage::Connect, TcpStream::connect(address)).await?;
    let socket = SockRef::from(&stream);
    socket.set_linger(Some(Duration::ZERO)).map_err(|_| Failure::Local)?;
    socket.set_tcp_nodelay(true).map_err(|_| Failure::Local)?;
    match &probe.check {
        Check::Tcp { .. } => Ok(Outcome::Success),
        Check::Http { request, .. } => {
            ask(stream, (address, &probe.agent), request, deadline, signal).await?;
            Ok(Outcome::Success)
        }
        Check::Grpc { service, tls, .. } => {
            let name = tls.as_ref().and_then(|tls| tls.server_name.clone());
            let authority = name.unwrap_or_else(|| address.to_string());
            let who = (authority, &probe.agent);
            match tls {
                Some(tls) => {
                    let (stream, outcome) = secure(stream, probe, tls, deadline).await?;
                    grpc::ask(stream, who, service, deadline).await?;
                    Ok(outcome)
                }
                None => {
                    grpc::ask(stream, who, service, deadline).await?;
                    Ok(Outcome::Success)
                }
            }
        }
        Check::Dns { .. } | Check::Ping | Check::Command { .. } | Check::Pushed { .. } => {
            Err(Failure::Local)
        }
        Check::Https { request, tls, .. } => {
            let (stream, outcome) = secure(stream, probe, tls, deadline).await?;
            ask(stream, (address, &probe.agent), request, deadline, signal).await?;
            Ok(outcome)
        }
    }
}

/// TLS over a connection; the outcome, if nothing else goes wrong.
async fn secure(
    stream: TcpStream,
    probe: &Probe,
    tls: &TlsCheck,
    deadline: Deadline,
) -> Result<(TlsStream<TcpStream>, Outcome), Failure> {
    let how = probe.tls.as_ref().ok_or(Failure::Local)?;
    let name = match &tls.server_name {
        Some(name) => ServerName::try_from(name.clone()).map_err(|_| Failure::Tls)?,
        None => ServerName::from(probe.address),
    };
    let handshake = TlsConnector::from(how.config.clone()).connect(name.clone(), stream);
    let stream = deadline.hold(Stage::Handshake, handshake).await?;
    let certificates = stream.get_ref().1.peer_certificates().unwrap_or_default();
    let ends_soon = how.ends_soon(certificates, &name);
    Ok((stream, if ends_soon { Outcome::Ending } else { Outcome::Success }))
}

/// One HTTP request, and whether its answer is what is expected.
async fn ask(
    stream: impl AsyncRead + AsyncWrite + Unpin,
    (address, agent): (SocketAddr, &HeaderValue),
    check: &HttpCheck,
    deadline: Deadline,
    signal: &mut Option<Signal>,
) -> Result<(), Failure> {
    let handshake = http1::Builder::new()
        .max_buf_size(LARGEST_HEAD)
        .handshake::<_, Empty<Bytes>>(TokioIo::new(stream));
    let (mut sender, connection) = deadline.hold(Stage::Head, handshake).await?;
    let host = check.host.clone().unwrap_or_else(|| address.to_string());
    let request = Request::get(&check.path)
        .header(HOST, host)
        .header(USER_AGENT, agent)
        .header(CONNECTION, "close")
        .body(Empty::new())
        .map_err(|_| Failure::Local)?;
    let exchange = async {
        let response = deadline.hold(Stage::Head, sender.send_request(request)).await?;
        *signal = orca::heard(response.headers());
        judge(response, &check.expect, deadline).await
    };
    let mut exchange = std::pin::pin!(exchange);
    tokio::select! {
        biased;
        outcome = &mut exchange => return outcome,
        // The connection's end is told to the exchange too, behind all that came before it.
        _end = connection => {}
    }
    exchange.await
}

async fn judge(
    response: Response<Incoming>,
    expect: &Expect,
    deadline: Deadline,
) -> Result<(), Failure> {
    let status = response.status().as_u16();
    if !expect.accepts(status) {
        return Err(Failure::Status(status));
    }
    let Some(wanted) = expect.contains.as_deref().map(str::as_bytes) else { return Ok(()) };
    let mut body = response.into_body();
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

/// More than any health page's header has, and little enough for ten thousand at once.
const LARGEST_HEAD: usize = 16 * 1024;

/// What went wrong underneath a probe.
enum Broken {
    System(io::Error),
    Http(hyper::Error),
}

impl From<io::Error> for Broken {
    fn from(error: io::Error) -> Self {
        Self::System(error)
    }
}

impl From<hyper::Error> for Broken {
    fn from(error: hyper::Error) -> Self {
        Self::Http(error)
    }
}

impl Broken {
    /// What it says of the target.
    fn failure(&self, stage: Stage) -> Failure {
        match self {
            Self::System(error) => failure(error, stage),
            Self::Http(error) if error.is_parse() => Failure::Malformed,
            Self::Http(error) => {
                let cause = std::error::Error::source(error);
                match cause.and_then(|cause| cause.downcast_ref()) {
                    Some(error) => failure(error, stage),
                    None => Failure::Closed(stage),
                }
            }
        }
    }
}

/// What an error of the system or of TLS says of the target.
fn failure(error: &io::Error, stage: Stage) -> Failure {
    let tls = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
    match tls {
        Some(rustls::Error::InvalidCertificate(
            CertificateError::Expired | CertificateError::ExpiredContext { .. },
        )) => return Failure::Expired,
        Some(rustls::Error::InvalidCertificate(_)) => return Failure::Certificate,
        Some(_) => return Failure::Tls,
        None => {}
    }
    match error.raw_os_error() {
        Some(libc::ECONNREFUSED) => Failure::Refused,
        Some(libc::ENETUNREACH | libc::EHOSTUNREACH | libc::EACCES | libc::EPERM) => {
            Failure::Unreachable
        }
        Some(libc::ETIMEDOUT) => Failure::TimedOut(stage),
        Some(
            libc::EMFILE
            | libc::ENFILE
            | libc::ENOBUFS
            | libc::ENOMEM
            | libc::EADDRNOTAVAIL
            | libc::EAFNOSUPPORT,
        ) => Failure::Local,
        Some(libc::ECONNRESET) => Failure::Closed(stage),
        // A connection that the system here does not even begin, as by a route that says so, is no
        // word of the target.
        _ if stage == Stage::Connect => Failure::Unreachable,
        _ => Failure::Closed(stage),
    }
}
