//! Every address that is configured, bound before anything else is done: one that cannot be had is
//! known at once, and queries wait while the first verdicts come in.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::thread;

use tokio::net::{TcpListener, UdpSocket};
use tracing::warn;

use super::inherited::Inherited;
use super::load::Loaded;
use super::{BindError, StartError, socket};
use crate::config::Encrypted;

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

/// Sockets, bound and silent.
pub(super) struct Sockets {
    pub(super) udp: Vec<std::net::UdpSocket>,
    pub(super) tcp: Vec<TcpListener>,
    pub(super) dot: Vec<TcpListener>,
    pub(super) doh: Vec<TcpListener>,
    pub(super) doq: Vec<UdpSocket>,
    /// Also whether it speaks TLS.
    pub(super) http: Option<(TcpListener, bool)>,
    /// For operators on this machine.
    pub(super) local: Option<tokio::net::UnixListener>,
    /// For the other nodes.
    pub(super) cluster: Option<UdpSocket>,
    /// For the server that takes this one's place.
    pub(super) takeover: Option<UnixListener>,
}

/// For the server's user alone.
const OWNER: u32 = 0o600;
/// For operators: its owner and group.
const GROUP: u32 = 0o660;

impl Sockets {
    /// Binds what is configured, as far as it is not inherited.
    ///
    /// # Errors
    /// An address cannot be had.
    pub(super) fn bind(
        loaded: &Loaded,
        mut inherited: Inherited,
    ) -> Result<(Self, Addresses), StartError> {
        let had = &mut inherited;
        let config = &loaded.config;
        let cores = thread::available_parallelism().map_or(1, usize::from);
        let workers = config.node.workers.unwrap_or(cores);
        let mut addresses = Addresses::default();
        let (mut udp, mut tcp) = (Vec::new(), Vec::new());
        for address in &config.node.listen {
            let both = both(*address, (workers, config.node.buffer), had);
            let (listeners, sockets) = both.map_err(of_key("node.listen"))?;
            tcp.extend(accepting(listeners, &mut addresses.dns)?);
            udp.extend(sockets);
        }
        let none = Vec::new();
        let of = |list: fn(&Encrypted) -> &Vec<SocketAddr>| {
            config.node.encrypted.as_ref().map_or(&none, list)
        };
        let dot = streams("tls.dot", of(|encrypted| &encrypted.dot), &mut addresses.dot, had)?;
        let doh = streams("tls.doh", of(|encrypted| &encrypted.doh), &mut addresses.doh, had)?;
        let mut doq = Vec::new();
        for address in of(|encrypted| &encrypted.doq) {
            let sockets = socket::tasks(*address, "QUIC", had).map_err(of_key("tls.doq"))?;
            addresses.doq.extend(sockets.first().map(|first| first.local_addr()).transpose()?);
            for socket in sockets {
                doq.push(UdpSocket::from_std(socket)?);
            }
        }
        let (mut bound, mut http) = (Vec::new(), None);
        if let Some(address) = config.http.listen {
            let key = "http.listen";
            let listeners = streams(key, &[address], &mut bound, had)?;
            let only = socket::only(address, "HTTP", listeners).map_err(of_key(key))?;
            http = Some((only, config.http.tls));
        }
        addresses.http = bound.pop();
        let mut cluster = None;
        if let Some(address) = config.cluster.as_ref().map(|of| of.listen) {
            let sockets = socket::tasks(address, "cluster", had);
            let only = sockets.and_then(|all| socket::only(address, "cluster", all));
            cluster = Some(UdpSocket::from_std(only.map_err(of_key("cluster.listen"))?)?);
        }
        let (local, takeover) = unix(loaded, had)?;
        for address in inherited.left() {
            warn!(address, "a socket was passed that the configuration does not name; closed");
        }
        Ok((Self { udp, tcp, dot, doh, doq, http, local, cluster, takeover }, addresses))
    }

    /// All of them once more, for a server that takes this one's place.
    pub(super) fn copies(&self) -> io::Result<Vec<OwnedFd>> {
        let Self { udp, tcp, dot, doh, doq, http, local, cluster, takeover } = self;
        let streams = tcp.iter().chain(dot).chain(doh).chain(http.iter().map(|(http, _)| http));
        let all = udp.iter().map(AsFd::as_fd).chain(streams.map(AsFd::as_fd));
        let all = all.chain(doq.iter().chain(cluster).map(AsFd::as_fd));
        let all = all.chain(local.iter().map(AsFd::as_fd)).chain(takeover.iter().map(AsFd::as_fd));
        all.map(|socket| socket.try_clone_to_owned()).collect()
    }
}

/// An address cannot be had that `key` names.
fn of_key(key: &'static str) -> impl Fn(BindError) -> StartError {
    move |error| StartError::Bind(key, error)
}

/// Sockets of one address for both transports.
type Both = (Vec<std::net::TcpListener>, Vec<std::net::UdpSocket>);

/// TCP first: its port is nobody else's, while UDP's can be shared. Port 0 takes one that both have
/// free: what TCP was given may be another one's over UDP.
fn both(
    address: SocketAddr,
    workers: (usize, usize),
    inherited: &mut Inherited,
) -> Result<Both, BindError> {
    // Held meanwhile, so that none is given twice.
    let mut in_vain = Vec::new();
    loop {
        let tcp = socket::tcp(address, inherited)?;
        let bound = tcp.first().and_then(|first| first.local_addr().ok());
        match socket::udp(bound.unwrap_or(address), workers, inherited) {
            Err(error) if error.is_used() && address.port() == 0 && in_vain.len() < PORTS => {
                in_vain.push(tcp);
            }
            udp => return udp.map(|udp| (tcp, udp)),
        }
    }
}

/// How many other ports are tried.
const PORTS: usize = 15;

fn streams(
    key: &'static str,
    list: &[SocketAddr],
    bound: &mut Vec<SocketAddr>,
    inherited: &mut Inherited,
) -> Result<Vec<TcpListener>, StartError> {
    let mut all = Vec::new();
    for address in list {
        let listeners = socket::tcp(*address, inherited).map_err(of_key(key))?;
        all.extend(accepting(listeners, bound)?);
    }
    Ok(all)
}

/// As tokio has them; adds their address to `bound`.
fn accepting(
    listeners: Vec<std::net::TcpListener>,
    bound: &mut Vec<SocketAddr>,
) -> io::Result<Vec<TcpListener>> {
    bound.extend(listeners.first().map(|first| first.local_addr()).transpose()?);
    listeners.into_iter().map(TcpListener::from_std).collect()
}

/// The socket of operators, and that of the server that takes this one's place.
type Local = (Option<tokio::net::UnixListener>, Option<UnixListener>);

fn unix(loaded: &Loaded, inherited: &mut Inherited) -> Result<Local, StartError> {
    let path = loaded.config.http.socket.as_ref().map(|path| loaded.folder.join(path));
    let local = path.map(|path| {
        let listener = socket::local(&path, GROUP, inherited);
        let listener = listener.and_then(|listener| {
            listener.set_nonblocking(true)?;
            tokio::net::UnixListener::from_std(listener)
        });
        listener.map_err(|error| StartError::Socket(path, error))
    });
    let takeover = loaded.state().map(|state| {
        match socket::local(&super::takeover::path(&state), OWNER, inherited) {
            // Whoever listens there writes to the same file, and follows other words.
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => Err(StartError::Used(state)),
            // It can still be stopped and started.
            Err(error) => {
                warn!(%error, "`serve --replace` will not work");
                Ok(None)
            }
            Ok(listener) => Ok(Some(listener)),
        }
    });
    Ok((local.transpose()?, takeover.transpose()?.flatten()))
}
