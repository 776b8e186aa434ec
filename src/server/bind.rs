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
use super::{StartError, socket};
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
            // TCP first: its port is nobody else's, while UDP's can be shared.
            let listener = socket::tcp(*address, had)?;
            let bound = listener.local_addr()?;
            udp.extend(socket::udp(bound, (workers, config.node.buffer), had)?);
            tcp.push(TcpListener::from_std(listener)?);
            addresses.dns.push(bound);
        }
        let none = Vec::new();
        let of = |list: fn(&Encrypted) -> &Vec<SocketAddr>| {
            config.node.encrypted.as_ref().map_or(&none, list)
        };
        let dot = streams(of(|encrypted| &encrypted.dot), &mut addresses.dot, had)?;
        let doh = streams(of(|encrypted| &encrypted.doh), &mut addresses.doh, had)?;
        let mut doq = Vec::new();
        for address in of(|encrypted| &encrypted.doq) {
            let socket = UdpSocket::from_std(socket::one(*address, "QUIC", had)?)?;
            addresses.doq.push(socket.local_addr()?);
            doq.push(socket);
        }
        let mut bound = Vec::new();
        let http = streams(config.http.listen.as_slice(), &mut bound, had)?.pop();
        let http = http.map(|listener| (listener, config.http.tls));
        addresses.http = bound.pop();
        let cluster = config.cluster.as_ref().map(|of| socket::one(of.listen, "cluster", had));
        let cluster = cluster.transpose()?.map(UdpSocket::from_std).transpose()?;
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

fn streams(
    list: &[SocketAddr],
    bound: &mut Vec<SocketAddr>,
    inherited: &mut Inherited,
) -> Result<Vec<TcpListener>, StartError> {
    let listener = |address: &SocketAddr| {
        let listener = socket::tcp(*address, inherited)?;
        bound.push(listener.local_addr()?);
        Ok(TcpListener::from_std(listener)?)
    };
    list.iter().map(listener).collect()
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
    let takeover = loaded.state().and_then(|state| {
        let listener = socket::local(&super::takeover::path(&state), OWNER, inherited);
        // It can still be stopped and started.
        listener.inspect_err(|error| warn!(%error, "`serve --replace` will not work")).ok()
    });
    Ok((local.transpose()?, takeover))
}
