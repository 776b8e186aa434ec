//! Carries probes out.
//!
//! Each probe is a connection of its own, so that it sees what a new client would see. It is
//! closed by a reset, which leaves no port waiting behind (10,000 targets at two probes a second
//! would use up all ports within seconds); an HTTP answer is read before, but no verdict waits for
//! that. Whatever a target does ends at the probe's timeout.

use std::collections::HashSet;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use hyper::header::HeaderValue;
use rustls::CertificateError;
use rustls::pki_types::ServerName;
use socket2::SockRef;
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio::sync::mpsc::UnboundedSender;
use tokio::time::timeout_at;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::arrivals::{Arrivals, Signal};
use super::clock::Clock;
use super::tls::Tls;
use crate::health::{Check, Failure, Flaw, Order, Outcome, Report, Stage, TlsCheck};
use crate::ids::TargetId;
use crate::time::Instant;
use command::Programs;
use pushed::File;

pub(in crate::server) use complaints::{Complained, Complaints, told};
pub(in crate::server) use held::Held;
pub(in crate::server) use pushed::{Files, Pushed, faults};

mod command;
mod complaints;
mod dns;
mod grpc;
mod held;
mod http;
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
    /// The file that tells of it too, if it is `pushed` and there is one.
    pub file: Option<File>,
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
    /// For what needs a socket.
    room: Arc<Semaphore>,
    commands: Arc<Semaphore>,
    programs: Programs,
    complaints: Complaints,
    under_way: UnderWay,
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
            programs: Programs::default(),
            complaints: Complaints::default(),
            under_way: UnderWay::default(),
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

    /// What programs said before they failed.
    pub(super) fn complaints(&self) -> &Complaints {
        &self.complaints
    }

    /// Carries `order` out. What others told is reported at once; else the report follows, however
    /// it ends. While an earlier order of its target waits for its turn or is carried out, that
    /// one's report is for both: where turns are scarce, orders do not pile up.
    pub(super) fn launch(&self, order: Order, probe: Option<Arc<Probe>>) -> Option<Report> {
        let began = self.clock.now();
        if let Some(outcome) = probe.as_ref().and_then(|probe| self.at_once(began, probe)) {
            return Some(self.report(order, began, outcome));
        }
        let entry = self.under_way.enter(order.target)?;
        let prober = self.clone();
        // Its time begins when it has its turn: to wait for that is nothing a target does.
        let room = match probe.as_ref().map(|probe| &probe.check) {
            Some(Check::Command { .. }) => Some(self.commands.clone()),
            // It has no socket, and waits for what all targets of its file wait for.
            Some(Check::Pushed { .. }) => None,
            _ => Some(self.room.clone()),
        };
        tokio::spawn(async move {
            let permit = match room {
                Some(room) => room.acquire_owned().await.ok(),
                None => None,
            };
            let began = prober.clock.now();
            let (outcome, heard) = match &probe {
                // What waits for its turn needs no room for what it will need then.
                Some(probe) => Box::pin(prober.carry_out(probe, order.timeout)).await,
                None => (Outcome::Failure(Failure::Local), Heard::default()),
            };
            prober.complaints.tell(order.target, heard.complaint);
            if let Some((probe, signal)) = probe.zip(heard.signal) {
                prober.arrivals.tell(prober.clock.now(), order.target, signal, probe.valid);
            }
            // Whoever hears the report may order the next one.
            drop(entry);
            // The receiver is gone only when the server ends.
            let _ended = prober.reports.send((order.target, prober.report(order, began, outcome)));
            if let Some(rest) = heard.rest {
                rest.read().await;
            }
            drop(permit);
        });
        None
    }

    /// What was told of a target is known without a task of its own.
    fn at_once(&self, now: Instant, probe: &Probe) -> Option<Outcome> {
        match &probe.check {
            Check::Pushed { name, .. } => match self.pushed.told(now, (name, probe.address)) {
                // It may be in the file.
                None if probe.file.is_some() => None,
                told => Some(pushed::outcome(told)),
            },
            _ => None,
        }
    }

    /// What a probe saw that began then.
    fn report(&self, order: Order, began: Instant, outcome: Outcome) -> Report {
        metrics::histogram!("meridian_probe_lag_seconds").record(began.since(order.due));
        Report { outcome, latency: self.clock.now().since(began) }
    }
}

/// The targets of which an order waits for its turn or is carried out.
#[derive(Clone, Debug, Default)]
struct UnderWay(Arc<Mutex<HashSet<TargetId>>>);

impl UnderWay {
    /// An order of `target` is under way as long as what is returned lives; `None`: one is already.
    fn enter(&self, target: TargetId) -> Option<Entry> {
        let is_first = self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(target);
        is_first.then(|| Entry(self.clone(), target))
    }
}

/// An order that is under way, also when its task ends by a panic.
struct Entry(UnderWay, TargetId);

impl Drop for Entry {
    fn drop(&mut self) {
        let Self(UnderWay(targets), target) = self;
        targets.lock().unwrap_or_else(PoisonError::into_inner).remove(target);
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

/// What a probe hears beside what it sees.
#[derive(Default)]
struct Heard {
    /// What the target told of itself, whether it is well or not.
    signal: Option<Signal>,
    /// What the program said that failed.
    complaint: Option<String>,
    /// What of an answer is still to be read.
    rest: Option<http::Rest>,
}

/// How late a time-out may be noticed. Later than this the node itself was held up, so that it
/// cannot tell who was late.
const HELD_UP: Duration = Duration::from_millis(50);

impl Prober {
    /// What the probe saw, and what it heard beside it.
    async fn carry_out(&self, probe: &Probe, within: Duration) -> (Outcome, Heard) {
        let deadline = Deadline(tokio::time::Instant::now() + within);
        let mut heard = Heard::default();
        let outcome = match self.attempt(probe, deadline, &mut heard).await {
            Ok(outcome) => outcome,
            Err(Failure::TimedOut(_)) if tokio::time::Instant::now() > deadline.0 + HELD_UP => {
                Outcome::Failure(Failure::Local)
            }
            Err(failure) => Outcome::Failure(failure),
        };
        (outcome, heard)
    }

    /// Does what the check says.
    async fn attempt(
        &self,
        probe: &Probe,
        deadline: Deadline,
        heard: &mut Heard,
    ) -> Result<Outcome, Failure> {
        let address = SocketAddr::new(probe.address, probe.check.port());
        let who = (address, &probe.agent);
        match &probe.check {
            Check::Tcp { .. } => drop(connect(address, deadline).await?),
            Check::Http { request, .. } => {
                let stream = connect(address, deadline).await?;
                http::ask(stream, who, request, deadline, heard).await?;
            }
            Check::Https { request, tls, .. } => {
                let (stream, outcome) = secure(address, probe, tls, deadline).await?;
                http::ask(stream, who, request, deadline, heard).await?;
                return Ok(outcome);
            }
            Check::Grpc { service, tls, .. } => {
                return serving(address, probe, (service, tls.as_deref()), deadline).await;
            }
            Check::Dns { query, .. } => dns::ask(address, query, deadline).await?,
            Check::Ping => ping::echo(probe.address, deadline).await?,
            Check::Command { command } => {
                let (programs, complaint) = (&self.programs, &mut heard.complaint);
                command::run(probe.address, command, deadline, programs, complaint).await?;
            }
            Check::Pushed { .. } => {
                let Some(file) = &probe.file else { return Ok(pushed::outcome(None)) };
                let look = file.look(probe.address, self.clock.now());
                // A file that cannot be looked at in time says nothing of the target.
                let told = timeout_at(deadline.0, look).await.map_err(|_| Failure::Local)?;
                return Ok(pushed::outcome(told));
            }
        }
        Ok(Outcome::Success)
    }
}

/// A connection that leaves no port waiting behind.
async fn connect(address: SocketAddr, deadline: Deadline) -> Result<TcpStream, Failure> {
    let stream = deadline.hold(Stage::Connect, TcpStream::connect(address)).await?;
    let socket = SockRef::from(&stream);
    socket.set_linger(Some(Duration::ZERO)).map_err(|_| Failure::Local)?;
    socket.set_tcp_nodelay(true).map_err(|_| Failure::Local)?;
    Ok(stream)
}

/// The same with TLS over it; the outcome, if nothing else goes wrong.
async fn secure(
    address: SocketAddr,
    probe: &Probe,
    tls: &TlsCheck,
    deadline: Deadline,
) -> Result<(TlsStream<TcpStream>, Outcome), Failure> {
    let stream = connect(address, deadline).await?;
    let how = probe.tls.as_ref().ok_or(Failure::Local)?;
    let name = tls.server_name.clone().unwrap_or_else(|| probe.address.into());
    let handshake = TlsConnector::from(how.config.clone()).connect(name.clone(), stream);
    let stream = deadline.hold(Stage::Handshake, handshake).await?;
    let certificates = stream.get_ref().1.peer_certificates().unwrap_or_default();
    let ends_soon = how.ends_soon(certificates, &name);
    Ok((stream, if ends_soon { Outcome::Ending } else { Outcome::Success }))
}

/// Whether a service says over gRPC that it is serving.
async fn serving(
    address: SocketAddr,
    probe: &Probe,
    (service, tls): (&str, Option<&TlsCheck>),
    deadline: Deadline,
) -> Result<Outcome, Failure> {
    let authority = match tls.and_then(|tls| tls.server_name.as_ref()) {
        Some(ServerName::DnsName(name)) => name.as_ref().to_owned(),
        _ => address.to_string(),
    };
    let who = (authority, &probe.agent);
    let Some(tls) = tls else {
        grpc::ask(connect(address, deadline).await?, who, service, deadline).await?;
        return Ok(Outcome::Success);
    };
    let (stream, outcome) = secure(address, probe, tls, deadline).await?;
    grpc::ask(stream, who, service, deadline).await?;
    Ok(outcome)
}

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

/// Why a certificate is not valid.
fn not_valid(error: &CertificateError) -> Failure {
    use CertificateError as Error;
    Failure::Certificate(match error {
        Error::Expired | Error::ExpiredContext { .. } => return Failure::Expired,
        Error::NotValidForName | Error::NotValidForNameContext { .. } => Flaw::Name,
        Error::NotValidYet | Error::NotValidYetContext { .. } => Flaw::Early,
        // Somebody else may call itself as a trusted CA does.
        Error::UnknownIssuer | Error::BadSignature => Flaw::Issuer,
        _ => Flaw::Other,
    })
}

/// What an error of the system or of TLS says of the target.
fn failure(error: &io::Error, stage: Stage) -> Failure {
    let tls = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
    match tls {
        Some(rustls::Error::InvalidCertificate(error)) => return not_valid(error),
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

#[cfg(test)]
mod tests {
    use tokio::sync::mpsc::unbounded_channel;

    use super::*;

    #[tokio::test]
    async fn a_target_of_which_an_order_has_not_ended_is_not_probed_once_more() {
        let (sender, mut reports) = unbounded_channel();
        let prober = Prober::new(Clock::start(), 1, sender);
        let command = Check::Command { command: ["/usr/bin/true".to_owned()].into() };
        let probe = Arc::new(Probe {
            address: IpAddr::from([192, 0, 2, 1]),
            check: command,
            tls: None,
            file: None,
            agent: HeaderValue::from_static("test"),
            valid: Duration::ZERO,
        });
        let target = |index| TargetId::from_index(index).unwrap();
        let launch = |target| {
            let order = Order { target, timeout: Duration::from_secs(30), due: Instant::default() };
            prober.launch(order, Some(probe.clone()));
        };
        let turns = u32::try_from(COMMANDS).unwrap();
        let turns = prober.commands.clone().acquire_many_owned(turns).await.unwrap();
        for _ in 0..10 {
            launch(target(0));
            launch(target(1));
        }
        drop(turns);
        let mut ended = [(); 2].map(|()| target(7));
        for ended in &mut ended {
            *ended = reports.recv().await.unwrap().0;
        }
        ended.sort_unstable();
        assert_eq!(ended, [target(0), target(1)]);
        // One that has ended can be ordered again.
        launch(target(1));
        assert_eq!(reports.recv().await.unwrap().0, target(1));
        drop(prober);
        assert!(reports.recv().await.is_none(), "an order more was carried out");
    }
}
