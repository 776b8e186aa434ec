//! The real world: the only home of tokio, sockets, files, the clock and entropy.
//!
//! ```text
//! load → bind → probe → first verdicts → answer
//!  │              └─ control: probes out, verdicts in, snapshots published
//!  └─ reload: changed files, SIGHUP
//! udp, tcp, https, quic → responder → query::answer(newest snapshot)
//! http: the dashboard, the API, the metrics
//! ```
//!
//! [`Server::start`] walks that way. UDP has threads of its own; everything else runs on tokio, who
//! answers there apart from who decides.

use std::io;
use std::iter::repeat;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use thiserror::Error;
use tokio::net::{TcpListener, UdpSocket, UnixListener};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tracing::{info, warn};

use crate::config::Problem;
use crate::rng::Seed;

pub use bind::Addresses;
pub use handle::{Handle, Unheard, View};
pub use load::{Loaded, Loader, Refused, Source, What};
pub use overrides::Said;
pub use socket::BindError;
pub use takeover::GRACE;
pub use turns::run;
pub(crate) use webhooks::causes;

use bind::Sockets;
use certificate::Newest;
use clock::Clock;
use cluster::Speech;
use control::Control;
use encrypted::{Spoken, tls_config};
use inherited::Inherited;
use prober::Prober;
use responder::Answers;
use store::Store;
use takeover::{Place, Predecessor};
use tcp::Carrier;
use turns::Streams;

mod arrivals;
mod bind;
mod certificate;
mod clock;
mod cluster;
mod control;
mod counts;
pub mod demo;
mod drawing;
mod encrypted;
mod etcd;
mod exposure;
mod files;
mod geoip;
mod handle;
mod history;
pub mod http;
mod https;
mod inherited;
mod limiter;
mod limits;
mod load;
mod memory;
mod mmsg;
mod overrides;
mod prober;
mod quic;
mod reload;
mod responder;
mod ring;
mod sample;
mod seal;
mod socket;
mod store;
mod takeover;
mod tally;
mod tcp;
mod tls;
mod tokens;
mod turns;
mod udp;
mod webhooks;
mod xdp;

/// Why a server does not start.
#[derive(Debug, Error)]
pub enum StartError {
    /// The files are wrong.
    #[error("{} of the files to serve is wrong", .0.len())]
    Problems(Vec<Problem>),
    /// An address cannot be had that this key of the configuration names.
    #[error("{0}: {1}")]
    Bind(&'static str, BindError),
    /// The folder for the state cannot be used.
    #[error("node.state: {0}; it must be a folder that this user may write to")]
    State(String),
    /// Another server has this folder for its state.
    #[error(
        "node.state: {0}: another server uses it; stop that one, take its place with `--replace`, \
         or give this one a folder of its own"
    )]
    Used(PathBuf),
    /// The Unix socket of the API cannot be had.
    #[error("http.socket: {0}: {1}{advice}", advice = socket::advice_on_path(.1))]
    Socket(PathBuf, io::Error),
    /// There is no place to take.
    #[error(
        "`--replace` needs `node.state`, the folder where both servers meet; set it and start this \
         server once without `--replace`"
    )]
    Stateless,
    /// Nobody gives up their place.
    #[error(
        "{0}: {1}; no server is there that could be replaced: start without `--replace`, and if \
         one runs that is older than this option, stop it first"
    )]
    Nobody(PathBuf, io::Error),
    /// Somebody does not give theirs up.
    #[error("{0}: the server there is not replaced: {1}; when that is over, start it again")]
    Kept(PathBuf, io::Error),
    /// The system refuses something else.
    #[error("the system refuses: {0}")]
    System(#[from] io::Error),
}

/// A server that runs. It stops when it is dropped, or told to.
pub struct Server {
    addresses: Addresses,
    control: Handle,
    reload: mpsc::Sender<()>,
    stop: Arc<AtomicBool>,
    workers: Vec<JoinHandle<()>>,
    tasks: JoinSet<()>,
    /// What answers over anything but UDP run on.
    #[expect(dead_code, reason = "held")]
    streams: Streams,
    /// Who is connected over TCP.
    tcp: Arc<tcp::Room>,
    /// Whether another server has taken this one's place.
    taken: watch::Receiver<bool>,
}

/// How a server starts.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Start {
    /// On addresses that nobody has, or that the service manager passes.
    Alone,
    /// On those of the server that runs with the same configuration's state, in its place.
    Replacing,
}

impl Server {
    /// Starts a server: when this returns, it answers. Before it waits for the first verdicts,
    /// `waits` hears for how long at most. `routes` are more of the HTTP address.
    ///
    /// # Errors
    /// What is wrong with its files or addresses.
    pub async fn start(
        source: Source,
        start: Start,
        waits: impl FnOnce(Duration),
        routes: impl FnOnce(&Handle) -> axum::Router,
    ) -> Result<Self, StartError> {
        memory::keep_large_apart();
        let clock = Clock::start();
        let mut loader = Loader::new(source);
        let loaded = loader.load().map_err(|refused| StartError::Problems(refused.problems))?;
        for warning in &loaded.config.warnings {
            warn!(%warning, "configuration");
        }
        let (mut predecessor, mut inherited) = match start {
            Start::Alone => (None, Inherited::of_manager()?),
            Start::Replacing => meet(&loaded)?,
        };
        let links = inherited.take_links();
        let (mut bound, addresses) = Sockets::bind(&loaded, inherited)?;
        let copies = bound.copies()?;
        let certificate = Arc::new(Newest::default());
        let secure = TlsAcceptor::from(tls_config(&certificate, Spoken::Http)?);
        let sockets = limits::raise();
        let tcp = tcp::Room::new(loaded.config.node.tcp, sockets / 6);
        let node = &loaded.config.node;
        let (interfaces, way) = (node.xdp.clone(), udp::Way::of(node));
        let rules = loaded.config.http.clone();
        let rules = (rules.tokens.map(|file| loaded.folder.join(file)), rules.open);
        waits(loaded.config.node.ready_within);
        let recorder = http::metrics::install();

        let (is_quiet, quiet) = watch::channel(predecessor.is_some());
        let mut tasks = JoinSet::new();
        tasks.spawn(clock.follow(loader.ahead.clone()));
        let mind = (certificate.clone(), bound.cluster.take(), quiet);
        let handle = decide(clock, loaded, (sockets, mind), &mut tasks).await?;
        let router = http::router(handle.clone(), recorder, rules, routes(&handle));
        let pages = Pages {
            http: bound.http.take().map(|(http, is_tls)| (http, is_tls.then_some(secure))),
            local: bound.local.take(),
            router,
        };
        // Until it answers, this one's pages say so; but those of a server that is replaced are
        // the other's.
        let pages = match &predecessor {
            Some(_) => Some(pages),
            None => pages.serve(&mut tasks),
        };
        let (reload, asked) = mpsc::channel();
        let watching = handle.clone();
        let builder = thread::Builder::new().name("reload".to_owned());
        builder.spawn(move || reload::watch(clock, loader, &asked, &watching))?;

        if let Some(predecessor) = &mut predecessor {
            speak(predecessor, &handle, &is_quiet).await;
        }
        handle.ready().await;
        let answers = handle.answers(clock);
        let stop = Arc::new(AtomicBool::new(false));
        let sockets = std::mem::take(&mut bound.udp);
        let mut workers = udp::spawn_all(sockets, &answers, &stop, way)?;
        let (is_taken, taken) = watch::channel(false);
        let takeover = bound.takeover.take();
        let streams = serve_streams(bound, &mut tasks, &answers, (&tcp, &certificate))?;
        let (past, links) = xdp::spawn(interfaces, &addresses.dns, links, &answers, &stop)?;
        workers.extend(past);
        if let Some(predecessor) = predecessor {
            predecessor.release();
        }
        pages.and_then(|pages| pages.serve(&mut tasks));
        if let Some(listener) = takeover {
            let (desk, store) = (handle.desk.clone(), handle.store.clone());
            Place { sockets: copies, links, desk, store, is_quiet, is_taken }.offer(listener)?;
        }
        Ok(Self { addresses, control: handle, reload, stop, workers, tasks, streams, tcp, taken })
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

    /// Waits until another server has taken this one's place; if nobody can, for ever.
    pub async fn replaced(&self) {
        let mut taken = self.taken.clone();
        if taken.wait_for(|taken| *taken).await.is_err() {
            std::future::pending().await
        }
    }

    /// Waits until nothing is decided any more, which is never but for a fault of this program:
    /// what was decided last would be answered for ever.
    pub async fn undecided(&self) {
        self.control.undecided().await;
    }

    /// Stops answering; what is being answered is answered, also over TCP where it takes `grace`.
    pub async fn stop(mut self, grace: Duration) {
        self.stop.store(true, Ordering::Relaxed);
        self.tasks.shutdown().await;
        for worker in self.workers.drain(..) {
            // A worker catches its panics; one that ended has nothing left to do.
            let _ended = worker.join();
        }
        // Whoever is still there after that asks again.
        let _in_vain = timeout(grace, self.tcp.emptied()).await;
        if timeout(KEPT_WITHIN, self.control.store().settled()).await.is_err() {
            warn!("what happened last could not be kept: the disk hangs");
        }
        info!("stopped");
    }
}

/// How long the end waits for the disk.
const KEPT_WITHIN: Duration = Duration::from_secs(2);

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

/// The server that `loaded` is to take the place of, and its sockets.
fn meet(loaded: &Loaded) -> Result<(Option<Predecessor>, Inherited), StartError> {
    let path = takeover::path(&loaded.state().ok_or(StartError::Stateless)?);
    let (predecessor, inherited) = Predecessor::meet(&path)?;
    Ok((Some(predecessor), inherited))
}

/// Waits until this process sees by itself, and has it speak to other nodes instead of the other.
async fn speak(predecessor: &mut Predecessor, handle: &Handle, is_quiet: &watch::Sender<bool>) {
    handle.sees().await;
    predecessor.hush();
    is_quiet.send_replace(false);
    handle.speaks().await;
}

/// What deciding needs besides what is to be served: where the certificate goes, and the way to the
/// other nodes, with when to be quiet there.
type Mind = (Arc<Newest>, Option<UdpSocket>, watch::Receiver<bool>);

/// Begins to decide what is answered: the state, the probes, the other nodes, etcd.
async fn decide(
    clock: Clock,
    mut loaded: Loaded,
    (sockets, (certificate, cluster, quiet)): (usize, Mind),
    tasks: &mut JoinSet<()>,
) -> Result<Handle, StartError> {
    let (reports_in, reports) = tokio::sync::mpsc::unbounded_channel();
    let prober = Prober::new(clock, sockets / 2, reports_in);
    let (hints_in, hints) = tokio::sync::mpsc::unbounded_channel();
    let held = Prober::held(sockets / 4, hints_in);
    let folder = loaded.state();
    if let Some(folder) = &folder {
        // A disk that hangs holds up the start here.
        info!(folder = %folder.display(), "reads what is kept");
    }
    let store = Store::open(folder.as_deref()).map_err(StartError::State)?;
    let etcd = loaded.etcd.take();
    let cluster = match cluster {
        Some(socket) => {
            let incarnation = cluster::incarnation(&store.0, clock, store.1.incarnation).await;
            Some(Speech::new(&loaded, socket, incarnation, store.1.nodes.as_deref())?)
        }
        None => {
            store.0.list(None);
            None
        }
    };
    let (probing, holding) = ((prober, reports), (held, hints));
    let (mut control, handle) =
        Control::new(clock, seed(), loaded, probing, holding, certificate, store);
    if *quiet.borrow() {
        control.listen_later();
    }
    if let Some(gateway) = etcd {
        tasks.spawn(control.lease(gateway, &handle).run());
    }
    if let Some(speech) = cluster {
        let (electorate, peers, task) = speech.begin(clock, &handle, quiet);
        control.join(electorate, peers);
        tasks.spawn(task.run());
    }
    tasks.spawn(drawing::draw(handle.published.clone(), control.published_anew()));
    tasks.spawn(control.run());
    Ok(handle)
}

/// What is shown and taken over HTTP, and where.
struct Pages {
    http: Option<(TcpListener, Option<TlsAcceptor>)>,
    local: Option<UnixListener>,
    router: axum::Router,
}

impl Pages {
    fn serve(self, tasks: &mut JoinSet<()>) -> Option<Self> {
        if let Some((listener, tls)) = self.http {
            tasks.spawn(http::listen::tcp(listener, tls, self.router.clone()));
        }
        if let Some(listener) = self.local {
            tasks.spawn(http::listen::local(listener, self.router));
        }
        None
    }
}

/// Answers DNS over anything but UDP, as long as what is returned lives.
fn serve_streams(
    sockets: Sockets,
    tasks: &mut JoinSet<()>,
    answers: &Answers,
    (room, certificate): (&Arc<tcp::Room>, &Arc<Newest>),
) -> Result<Streams, StartError> {
    let streams = Streams::new()?;
    let there = streams.enter();
    let within = |spoken| io::Result::Ok(TlsAcceptor::from(tls_config(certificate, spoken)?));
    let (dot, doh) = (Carrier::Tls(within(Spoken::Dot)?), Carrier::Https(within(Spoken::Doh)?));
    let of = |listeners: Vec<TcpListener>, carrier| listeners.into_iter().zip(repeat(carrier));
    let all = of(sockets.tcp, Carrier::Tcp).chain(of(sockets.dot, dot)).chain(of(sockets.doh, doh));
    for (listener, carrier) in all {
        // Whoever waits for connections there is woken there.
        let listener = TcpListener::from_std(listener.into_std()?)?;
        let serving = tcp::serve(listener, carrier, answers.clone(), room.clone());
        tasks.spawn(async move {
            let error = serving.await;
            tracing::error!(%error, "a TCP listener has ended");
        });
    }
    for socket in sockets.doq {
        tasks.spawn(quic::serve(socket.into_std()?, certificate, answers.clone(), room.clone())?);
    }
    drop(there);
    Ok(streams)
}

/// What jitter is drawn from: the standard library's own entropy, new in each process.
fn seed() -> Seed {
    let state = std::hash::BuildHasher::hash_one(&std::hash::RandomState::new(), 0u8);
    Seed::new(state)
}
