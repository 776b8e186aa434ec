//! Sockets as a name server needs them, bound before anything else is done.

use std::fs::Permissions;
use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener, UdpSocket};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::time::Duration;

use rustix::net::sockopt::{
    Ipv4PathMtuDiscovery, Ipv6PathMtuDiscovery, set_ip_mtu_discover, set_ipv6_mtu_discover,
};
use socket2::{Domain, Protocol, SockRef, Socket, Type};
use thiserror::Error;
use tracing::warn;

use super::inherited::Inherited;

/// An address that cannot be listened on.
#[derive(Debug, Error)]
#[error("cannot listen on {address} ({transport}): {source}{}", advice(source, *address))]
pub struct BindError {
    address: SocketAddr,
    transport: &'static str,
    source: io::Error,
}

impl BindError {
    /// Whether somebody else has the address.
    pub(super) fn is_used(&self) -> bool {
        self.source.kind() == io::ErrorKind::AddrInUse
    }
}

/// What to do about it.
fn advice(error: &io::Error, address: SocketAddr) -> &'static str {
    match error.kind() {
        io::ErrorKind::AddrInUse if address.port() == DNS => {
            "; another server (systemd-resolved?) has it: stop that one, or name another address"
        }
        io::ErrorKind::AddrInUse => {
            "; another server has it, or another key of this configuration: stop that one, or name \
             another address"
        }
        io::ErrorKind::PermissionDenied => {
            "; ports below 1024 need the capability CAP_NET_BIND_SERVICE"
        }
        io::ErrorKind::AddrNotAvailable => "; no interface has this address",
        _ => "",
    }
}

/// The same of a Unix socket.
pub(super) fn advice_on_path(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::AddrInUse => {
            "; another server has it: stop that one, take its place with `--replace`, or name \
             another path"
        }
        io::ErrorKind::PermissionDenied => "; this user may not write to its folder",
        io::ErrorKind::NotFound => "; its folder is not there",
        _ => "",
    }
}

/// The port where hosts have a resolver of their own.
const DNS: u16 = 53;

/// How long a worker waits for a packet before it looks whether it is to stop.
pub(super) const WAIT: Duration = Duration::from_millis(250);

/// `workers` sockets on one address, with buffers of so many octets; the kernel spreads the clients
/// among them (SO_REUSEPORT). Those that were inherited are all read, however many: what waits in
/// one would be lost with it.
///
/// # Errors
/// The address cannot be had.
pub(super) fn udp(
    address: SocketAddr,
    (workers, buffer): (usize, usize),
    inherited: &mut Inherited,
) -> Result<Vec<UdpSocket>, BindError> {
    let fault = |source| BindError { address, transport: "UDP", source };
    let had = inherited.take(Type::DGRAM, address);
    if !had.is_empty() {
        // No new one joins them, which nobody reads until the first verdicts are in: rather are
        // some read by two workers.
        let shared = had.iter().cycle().take(workers.saturating_sub(had.len()));
        let shared = shared.map(Socket::try_clone).collect::<io::Result<Vec<_>>>();
        let all = had.iter().try_for_each(|socket| prepare(socket, address, buffer)).and(shared);
        had.first().iter().for_each(|first| warn_of_small(first, address, buffer));
        return Ok(had.into_iter().chain(all.map_err(fault)?).map(UdpSocket::from).collect());
    }
    // Port 0 takes a free one; the others join the first.
    let with_others = workers > 1;
    let first = one_udp(address, buffer, with_others).map_err(fault)?;
    let bound = first.local_addr().map_err(fault)?;
    warn_of_small(&SockRef::from(&first), bound, buffer);
    let mut sockets = vec![first];
    for _ in 1..workers {
        sockets.push(one_udp(bound, buffer, with_others).map_err(fault)?);
    }
    Ok(sockets)
}

/// One that is alone on its address leaves the kernel nothing to choose among for each packet.
fn one_udp(address: SocketAddr, buffer: usize, with_others: bool) -> io::Result<UdpSocket> {
    let socket = Socket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP))?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.set_reuse_port(with_others)?;
    prepare(&socket, address, buffer)?;
    socket.bind(&address.into())?;
    Ok(socket.into())
}

/// Lets a worker wait on a socket, and has the kernel keep what a worker has no time for.
fn prepare(socket: &Socket, address: SocketAddr, buffer: usize) -> io::Result<()> {
    socket.set_nonblocking(false)?;
    // More room is better, and less is no reason not to serve. What was inherited may have more.
    if socket.recv_buffer_size()? < buffer {
        let _smaller = socket.set_recv_buffer_size(buffer);
        let _smaller = socket.set_send_buffer_size(buffer);
    }
    // Answers are short enough to cross the Internet whole, and go in one piece or not at all:
    // pieces can be forged (RFC 9715 §3.1). What a router, or whoever says that it is one, tells of
    // the way is not heeded. Where the system does not know this, it is as it was before.
    let _as_before = match address {
        SocketAddr::V4(_) => set_ip_mtu_discover(socket, Ipv4PathMtuDiscovery::PROBE),
        SocketAddr::V6(_) => set_ipv6_mtu_discover(socket, Ipv6PathMtuDiscovery::PROBE),
    };
    socket.set_read_timeout(Some(WAIT))?;
    if address.ip().is_unspecified() {
        tell_destination(socket, address)?;
    }
    Ok(())
}

/// Says so, if the kernel has granted less than was asked for.
fn warn_of_small(socket: &Socket, address: SocketAddr, asked: usize) {
    let granted = [socket.recv_buffer_size(), socket.send_buffer_size()];
    let least = granted.into_iter().flatten().min().unwrap_or(asked);
    if least < asked {
        warn!(
            %address, least, asked,
            "smaller buffers than `node.buffer`; raise net.core.rmem_max and net.core.wmem_max"
        );
    }
}

/// Lets each packet tell the address it was sent to, from which the answer must leave: a resolver
/// drops one from another address (RFC 2181 §4).
pub(super) fn tell_destination(socket: &Socket, address: SocketAddr) -> io::Result<()> {
    let (level, option) = match address {
        SocketAddr::V4(_) => (libc::IPPROTO_IP, libc::IP_PKTINFO),
        SocketAddr::V6(_) => (libc::IPPROTO_IPV6, libc::IPV6_RECVPKTINFO),
    };
    let on: libc::c_int = 1;
    let size = libc::socklen_t::try_from(size_of_val(&on)).unwrap_or(4);
    // SAFETY: the pointer is to an int that lives through the call, and `size` is its size.
    let result = unsafe {
        libc::setsockopt(socket.as_raw_fd(), level, option, (&raw const on).cast(), size)
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// TCP listeners of one address, not yet in tokio's hands: all that were inherited, as the kernel
/// gives each of them some of the clients; otherwise a new one.
///
/// # Errors
/// The address cannot be had.
pub(super) fn tcp(
    address: SocketAddr,
    inherited: &mut Inherited,
) -> Result<Vec<TcpListener>, BindError> {
    let had = inherited.take(Type::STREAM, address);
    let listeners = if had.is_empty() { listen(address).map(|new| vec![new]) } else { Ok(had) };
    let listeners = listeners.and_then(without_waiting);
    listeners.map_err(|source| BindError { address, transport: "TCP", source })
}

fn listen(address: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    // A restarted server may listen while connections of the last one still end.
    socket.set_reuse_address(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket)
}

/// UDP sockets of one address for tasks that run on tokio: all that were inherited, or a new one.
///
/// # Errors
/// The address cannot be had.
pub(super) fn tasks(
    address: SocketAddr,
    transport: &'static str,
    inherited: &mut Inherited,
) -> Result<Vec<UdpSocket>, BindError> {
    let had = inherited.take(Type::DGRAM, address);
    let sockets = if had.is_empty() { bind(address).map(|new| vec![new]) } else { Ok(had) };
    let sockets = sockets.and_then(without_waiting);
    sockets.map_err(|source| BindError { address, transport, source })
}

fn bind(address: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP))?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.bind(&address.into())?;
    Ok(socket)
}

/// As tokio wants them.
fn without_waiting<T: From<Socket>>(sockets: Vec<Socket>) -> io::Result<Vec<T>> {
    sockets.iter().try_for_each(|socket| socket.set_nonblocking(true))?;
    Ok(sockets.into_iter().map(T::from).collect())
}

/// The only one of these sockets.
///
/// # Errors
/// There are several: what comes to the others would wait for ever.
pub(super) fn only<T>(
    address: SocketAddr,
    transport: &'static str,
    sockets: Vec<T>,
) -> Result<T, BindError> {
    <[T; 1]>::try_from(sockets).map(|[only]| only).map_err(|several| {
        let count = several.len();
        let what =
            format!("{count} sockets of this address were passed, and one is read; pass one");
        BindError { address, transport, source: io::Error::other(what) }
    })
}

/// A Unix socket that listens at `path`, for those whom `mode` lets.
///
/// # Errors
/// The system's reason.
pub(super) fn local(path: &Path, mode: u32, inherited: &mut Inherited) -> io::Result<UnixListener> {
    if let Some(socket) = inherited.take_local(path) {
        return Ok(UnixListener::from(OwnedFd::from(socket)));
    }
    match std::fs::symlink_metadata(path) {
        Ok(found) if !found.file_type().is_socket() => {
            let what = "what is there is no socket; remove it, or name another path";
            return Err(io::Error::new(io::ErrorKind::AlreadyExists, what));
        }
        // One that is left over from before answers nobody.
        Ok(_) if UnixStream::connect(path).is_err() => std::fs::remove_file(path)?,
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder)?;
    }
    let listener = UnixListener::bind(path)?;
    std::fs::set_permissions(path, Permissions::from_mode(mode))?;
    Ok(listener)
}

/// Connections that the kernel holds while they wait to be accepted; it gives what
/// `net.core.somaxconn` allows.
const BACKLOG: i32 = 4096;

/// A client as itself: who comes with IPv4 by a socket of both families, which only others open for
/// us, has an IPv6 address there (RFC 4291 §2.5.5.2), and yet is the client that it is elsewhere.
#[inline]
pub(super) fn as_itself(client: SocketAddr) -> SocketAddr {
    match client.ip().to_canonical() {
        IpAddr::V4(ip) => (ip, client.port()).into(),
        IpAddr::V6(_) => client,
    }
}
