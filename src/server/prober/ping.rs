//! An ICMP echo, over the sockets for it that need no privilege (`net.ipv4.ping_group_range`).

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;

use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::UdpSocket;

use super::Deadline;
use crate::health::{Failure, Stage};

/// Echo request and reply (RFC 792, RFC 4443 §4).
const V4: (u8, u8) = (8, 0);
const V6: (u8, u8) = (128, 129);

pub(super) async fn echo(address: IpAddr, deadline: Deadline) -> Result<(), Failure> {
    let (request, reply) = if address.is_ipv4() { V4 } else { V6 };
    // A user who may not ping: that says nothing of the target.
    let socket = open(address).map_err(|_| Failure::Local)?;
    deadline.hold(Stage::Connect, socket.connect(SocketAddr::new(address, 0))).await?;
    // The kernel fills in the checksum and the identifier, and gives back its own replies only.
    let packet = [request, 0, 0, 0, 0, 0, 0, 1];
    deadline.hold(Stage::Connect, socket.send(&packet)).await?;
    let mut buffer = [0; 64];
    loop {
        let length = deadline.hold(Stage::Reply, socket.recv(&mut buffer)).await?;
        if length >= packet.len() && buffer[0] == reply {
            return Ok(());
        }
    }
}

fn open(address: IpAddr) -> io::Result<UdpSocket> {
    let (domain, protocol) = match address {
        IpAddr::V4(_) => (Domain::IPV4, Protocol::ICMPV4),
        IpAddr::V6(_) => (Domain::IPV6, Protocol::ICMPV6),
    };
    let socket = Socket::new(domain, Type::DGRAM, Some(protocol))?;
    socket.set_nonblocking(true)?;
    // To tokio it is a socket for datagrams like any other.
    UdpSocket::from_std(std::net::UdpSocket::from(OwnedFd::from(socket)))
}
