//! The real world: the only home of tokio, sockets, files, the clock and entropy.
//!
//! ```text
//! load → bind → probe → first verdicts → answer
//!  │              └─ control: probes out, verdicts in, snapshots published
//!  └─ reload: changed files, SIGHUP
//! udp, tcp, encrypted → responder → query::answer(newest snapshot)
//! http: the dashboard, the API, the metrics
//! ```
//!
//! [`Server::start`] walks that way. UDP has threads of its own; everything else runs on tokio.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::thread::{self, JoinHandle};

use thiserror::Error;
use tokio::net::{TcpListener, UdpSocket, UnixListener};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;
use tracing::{info, warn};

use crate::config::{Encrypted, Problem, TcpLimits};
use crate::rng::Seed;

pub use handle::{Handle, Unheard, View};
pub use load::{Loaded, Loader, Source, What};
pub use overrides::Said;
pub use socket::BindError;

use certificate::Newest;
use clock::Clock;
use control::Control;
use etcd::Gateway;
use prober::Prober;
use responder::Answers;
use store::Store;

mod certificate;
mod clock;
mod cluster;
mod control;
pub mod demo;
mod encrypted;
mod etcd;
mod exposure;
mod files;
mod geoip;
mod handle;
mod history;
pub mod http;
mod limiter;
mod limits;
mod load;
mod mmsg;
mod overrides;
mod prober;
mod reload;
mod responder;
mod sample;
mod seal;
mod socket;
mod store;
mod tcp;
mod tls;
mod udp;
mod webhooks;

/// Why a server does not start.
#[derive(Debug, Error)]
pub enum StartError {
    /// The files are wrong.
    #[error("{} of the files to serve is wrong", .0.len())]
    Problems(Vec<Problem>),
    /// An address cannot be had.
    #[error(transparent)]
    Bind(#[from] BindError),
    /// The folder for the state cannot be used.
    #[error("node.state: {0}; it must be a folder that this user may write to")]
    State(String),
    /// The Unix socket of the API cannot be had.
    #[error("http.socket: {0}: {1}")]
    Socket(PathBuf, io::Error),
    /// etcd cannot be spoken with.
    #[error("etcd: {0}")]
    Etcd(String),
    /// The address for the other nodes cannot be had.
    #[error("cluster.listen: {0}: {1}")]
    Cluster(SocketAddr, io::Error),
    /// The system refuses something else.
    #[error("the system refuses: {0}")]
    System(#[from] io::Error),
}

/// Where a server answers.
#[derive(Clone, Debug, Default)]
pub struct Addresses {
    /// Over UDP and TCP.
    pub dns: Vec<SocketAddr>,
    /// DNS over TLS.
    pub dot: Vec<SocketAddr>,
    /// DNS over HTTPS.
    pub doh: Vec<SocketAddr>,
    /// DNS over QUIC.
    pub doq: Vec<SocketAddr>,
    /// The dashboard, the API and the metrics.
    pub http: Option<SocketAddr>,
}

/// A server that runs. It stops when it is dropped, or told to.
pub struct Server {
    addresses: Addresses,
    control: Handle,
    reload: mpsc::Sender<()>,
    stop: Arc<AtomicBool>,
    workers: Vec<JoinHandle<()>>,
    tasks: JoinSet<()>,
}

/// Sockets, bound and silent.
struct Sockets {
    udp: Vec<std::net::UdpSocket>,
    tcp: Vec<TcpListener>,
    dot: Vec<TcpListener>,
    doh: Vec<TcpListener>,
    doq: Vec<UdpSocket>,
    /// Also whether it speaks TLS.
    http: Option<(TcpListener, bool)>,
    socket: Option<UnixListener>,
}

impl Server {
    /// Starts a server: when this returns, it answers. `routes` are more of the HTTP address.
    ///
    /// # Errors
    /// What is wrong with its files or addresses.
    pub async fn start(
        source: Source,
        routes: impl FnOnce(&Handle) -> axum::Router,
    ) -> Result<Self, StartError> {
        let clock = Clock::start();
        let mut loader = Loader::new(source);
        let loaded = loader.load().map_err(|refused| StartError::Problems(refused.problems))?;
        for warning in &loaded.config.warnings {
            warn!(%warning, "configuration");
        }
        let sockets = limits::raise();
        let (bound, addresses) = bind(&loaded)?;
        let tcp_limits = loaded.config.node.tcp;
        let recorder = http::metrics::install();

        let (reports_in, reports) = tokio::sync::mpsc::unbounded_channel();
        let prober = Prober::new(clock, sockets / 2, reports_in);
        let (hints_in, hints) = tokio::sync::mpsc::unbounded_channel();
        let held = Prober::held(sockets / 4, hints_in);
        let certificate = Arc::new(Newest::default());
        let rules = loaded.config.http.clone();
        let tokens = rules.tokens.map(|file| loaded.folder.join(file));
        let state = loaded.config.node.state.as_ref().map(|state| loaded.folder.join(state));
        let store = Store::open(state.as_deref()).map_err(StartError::State)?;
        let etcd = loaded.config.etcd.as_ref();
        let etcd = etcd.map(|etcd| Gateway::new(etcd, &loaded.folder)).transpose();
        let etcd = etcd.map_err(StartError::Etcd)?;
        let cluster = cluster::Speech::of(&loaded, clock, store.1.incarnation)?;
        let (mut control, handle) = Control::new(
            clock,
            seed(),
            loaded,
            (prober, reports),
            (held, hints),
            certificate.clone(),
            store,
        );
        let leases = etcd.map(|gateway| control.lease(gateway, &handle));
        let acceptor = encrypted::acceptor(certificate.clone())?;
        let mut tasks = JoinSet::new();
        if let Some(speech) = cluster {
            handle.store().incarnation(speech.incarnation());
            let (electorate, peers, task) = speech.begin(clock, &handle)?;
            control.join(electorate, peers);
            tasks.spawn(task.run());
        }
        if let Some(leases) = leases {
            tasks.spawn(leases.run());
        }
        tasks.spawn(control.run());
        let rules = (tokens, rules.open);
        let router = http::router(handle.clone(), recorder, rules, routes(&handle));
        if let Some((listener, is_tls)) = bound.http {
            let tls = is_tls.then(|| acceptor.clone());
            tasks.spawn(http::listen::tcp(listener, tls, router.clone()));
        }
        if let Some(listener) = bound.socket {
            tasks.spawn(http::listen::local(listener, router));
        }
        let (reload, asked) = mpsc::channel();
        let watching = handle.clone();
        let builder = thread::Builder::new().name("reload".to_owned());
        builder.spawn(move || reload::watch(loader, &asked, &watching))?;

        handle.ready().await;
        let answers = handle.answers(clock);
        let stop = Arc::new(AtomicBool::new(false));
        let workers = bound.udp.into_iter();
        let workers = workers.map(|socket| udp::spawn(socket, answers.clone(), stop.clone()));
        let workers = workers.collect::<io::Result<Vec<_>>>()?;
        let streams = Streams { tcp: bound.tcp, dot: bound.dot, doh: bound.doh, doq: bound.doq };
        streams.serve(&mut tasks, &answers, tcp_limits, (&acceptor, &certificate))?;
        Ok(Self { addresses, control: handle, reload, stop, workers, tasks })
    }

    /// Where it answers.
    pub fn addresses(&self) -> &Addresses {
        &self.addresses
    }

    /// The way to its control task.
    pub fn control(&self) -> &Handle {
        &self.control
    }

    /// Reads its files again, whether they look changed or not.
    pub fn reload(&self) {
        // The reloading thread ends with the server only.
        let _ended = self.reload.send(());
    }

    /// Stops answering; what is being answered is answered.
    pub async fn stop(mut self) {
        self.stop.store(true, Ordering::Relaxed);
        self.tasks.shutdown().await;
        for worker in self.workers.drain(..) {
            // A worker catches its panics; one that ended has nothing left to do.
            let _ended = worker.join();
        }
        info!("stopped");
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

/// The listeners that answer DNS over anything but UDP.
struct Streams {
    tcp: Vec<TcpListener>,
    dot: Vec<TcpListener>,
    doh: Vec<TcpListener>,
    doq: Vec<UdpSocket>,
}

impl Streams {
    fn serve(
        self,
        tasks: &mut JoinSet<()>,
        answers: &Answers,
        limits: TcpLimits,
        (acceptor, certificate): (&TlsAcceptor, &Arc<Newest>),
    ) -> Result<(), StartError> {
        let room = tcp::Room::new(limits);
        let plain = self.tcp.into_iter().map(|listener| (listener, None));
        let dot = self.dot.into_iter().map(|listener| (listener, Some(acceptor.clone())));
        for (listener, tls) in plain.chain(dot) {
            let serving = tcp::serve(listener, tls, answers.clone(), room.clone());
            tasks.spawn(async move {
                let error = serving.await;
                tracing::error!(%error, "a TCP listener has ended");
            });
        }
        if !self.doh.is_empty() || !self.doq.is_empty() {
            let answers = answers.clone();
            let mut server = encrypted::serve(self.doh, self.doq, certificate, answers)?;
            tasks.spawn(async move {
                if let Err(error) = server.block_until_done().await {
                    tracing::error!(%error, "an encrypted listener has ended");
                }
            });
        }
        Ok(())
    }
}

/// Binds every address that `config` names, before anything else is done: an address that cannot
/// be had is known at once, and queries wait while the first verdicts come in.
fn bind(loaded: &Loaded) -> Result<(Sockets, Addresses), StartError> {
    let config = &loaded.config;
    let cores = thread::available_parallelism().map_or(1, usize::from);
    let workers = config.node.workers.unwrap_or(cores);
    let mut addresses = Addresses::default();
    let (mut udp, mut tcp) = (Vec::new(), Vec::new());
    for address in &config.node.listen {
        // TCP first: its port is nobody else's, while UDP's can be shared.
        let listener = socket::tcp(*address)?;
        let bound = listener.local_addr()?;
        udp.extend(socket::udp(bound, workers)?);
        tcp.push(TcpListener::from_std(listener)?);
        addresses.dns.push(bound);
    }
    let none = Vec::new();
    let of = |list: fn(&Encrypted) -> &Vec<SocketAddr>| {
        config.node.encrypted.as_ref().map_or(&none, list).clone()
    };
    let streams = |list: Vec<SocketAddr>, bound: &mut Vec<SocketAddr>| {
        let listener = |address: SocketAddr| {
            let listener = socket::tcp(address)?;
            bound.push(listener.local_addr()?);
            Ok(TcpListener::from_std(listener)?)
        };
        list.into_iter().map(listener).collect::<Result<Vec<_>, StartError>>()
    };
    let dot = streams(of(|encrypted| &encrypted.dot), &mut addresses.dot)?;
    let doh = streams(of(|encrypted| &encrypted.doh), &mut addresses.doh)?;
    let mut doq = Vec::new();
    for address in of(|encrypted| &encrypted.doq) {
        let socket = UdpSocket::from_std(socket::quic(address)?)?;
        addresses.doq.push(socket.local_addr()?);
        doq.push(socket);
    }
    let mut bound = Vec::new();
    let http = streams(config.http.listen.into_iter().collect(), &mut bound)?.pop();
    let http = http.map(|listener| (listener, config.http.tls));
    addresses.http = bound.pop();
    let path = config.http.socket.as_ref().map(|path| loaded.folder.join(path));
    let socket = path.map(|path| {
        http::listen::unix(&path).map_err(|error| StartError::Socket(path.clone(), error))
    });
    Ok((Sockets { udp, tcp, dot, doh, doq, http, socket: socket.transpose()? }, addresses))
}

/// What jitter is drawn from: the standard library's own entropy, new in each process.
fn seed() -> Seed {
    let state = std::hash::BuildHasher::hash_one(&std::hash::RandomState::new(), 0u8);
    Seed::new(state)
}
