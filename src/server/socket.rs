//! Sockets as a name server needs them, bound before anything else is done.

use std::io;
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::os::fd::AsRawFd;
use std::time::Duration;

use socket2::{Domain, Protocol, Socket, Type};
use thiserror::Error;

/// An address that cannot be listened on.
#[derive(Debug, Error)]
#[error("cannot listen on {address} ({transport}): {source}{}", advice(source))]
pub struct BindError {
    address: SocketAddr,
    transport: &'static str,
    source: io::Error,
}

/// What to do about it.
fn advice(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::AddrInUse => {
            "; another server (systemd-resolved?) has it: stop that one, or change `listen`"
        }
        io::ErrorKind::PermissionDenied => {
            "; ports below 1024 need the capability CAP_NET_BIND_SERVICE"
        }
        io::ErrorKind::AddrNotAvailable => "; no interface has this address",
        _ => "",
    }
}

/// How long a worker waits for a packet before it looks whether it is to stop.
const WAIT: Duration = Duration::from_millis(250);

/// Room for a burst while a worker is busy: 4 MiB hold some 10,000 queries. The kernel gives what
/// `net.core.rmem_max` allows.
const BUFFER: usize = 4 << 20;

/// `workers` sockets on one address, among which the kernel spreads the clients (SO_REUSEPORT).
///
/// # Errors
/// The address cannot be had.
pub(super) fn udp(address: SocketAddr, workers: usize) -> Result<Vec<UdpSocket>, BindError> {
    let fault = |source| BindError { address, transport: "UDP", source };
    // Port 0 takes a free one; the others join the first.
    let first = one_udp(address).map_err(fault)?;
    let bound = first.local_addr().map_err(fault)?;
    let mut sockets = vec![first];
    for _ in 1..workers.max(1) {
        sockets.push(one_udp(bound).map_err(fault)?);
    }
    Ok(sockets)
}

fn one_udp(address: SocketAddr) -> io::Result<UdpSocket> {
    let socket = Socket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP))?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.set_reuse_port(true)?;
    // More room is better, and less is no reason not to serve.
    let _smaller = socket.set_recv_buffer_size(BUFFER);
    let _smaller = socket.set_send_buffer_size(BUFFER);
    socket.set_read_timeout(Some(WAIT))?;
    if address.ip().is_unspecified() {
        tell_destination(&socket, address)?;
    }
    socket.bind(&address.into())?;
    Ok(socket.into())
}

/// Lets each packet tell the address it was sent to, from which the answer must leave: a resolver
/// drops one from another address (RFC 2181 §4).
fn tell_destination(socket: &Socket, address: SocketAddr) -> io::Result<()> {
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

/// A TCP listener, not yet in tokio's hands.
///
/// # Errors
/// The address cannot be had.
pub(super) fn tcp(address: SocketAddr) -> Result<TcpListener, BindError> {
    let listen = || {
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
        if address.is_ipv6() {
            socket.set_only_v6(true)?;
        }
        // A restarted server may listen while connections of the last one still end.
        socket.set_reuse_address(true)?;
        socket.set_nonblocking(true)?;
        socket.bind(&address.into())?;
        socket.listen(BACKLOG)?;
        Ok(TcpListener::from(socket))
    };
    listen().map_err(|source| BindError { address, transport: "TCP", source })
}

/// A UDP socket for a listener that runs on tokio.
///
/// # Errors
/// The address cannot be had.
pub(super) fn quic(address: SocketAddr) -> Result<UdpSocket, BindError> {
    let bind = || {
        let socket = UdpSocket::bind(address)?;
        socket.set_nonblocking(true)?;
        Ok(socket)
    };
    bind().map_err(|source| BindError { address, transport: "QUIC", source })
}

/// Connections that the kernel holds while they wait to be accepted; it gives what
/// `net.core.somaxconn` allows.
const BACKLOG: i32 = 4096;
