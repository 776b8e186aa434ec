//! Datagrams by the batch: one system call takes many packets, and one sends their answers.
//!
//! `recvmmsg` and `sendmmsg` halve the cost of a query against one call a packet, and no
//! well-kept crate gives both together with the packets' destinations. This file's unsafe code
//! makes empty structures of the kernel's, calls these two, and reads what it wrote.

use std::io;
use std::mem::zeroed;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6, UdpSocket};
use std::os::fd::AsRawFd;
use std::ptr::null_mut;

use super::socket::as_itself;

/// Packets a call: beyond some dozens the cost of the call no longer counts.
pub(super) const BATCH: usize = 32;

/// The longest query that is read. One with every option there is has some 600 octets; what is
/// longer is cut, and then malformed.
pub(super) const LONGEST: usize = 2048;

/// Room for one message that tells an address (`CMSG_SPACE` of the larger, IPv6, is 40), behind one
/// that tells the time (32), as inherited sockets may; aligned as the kernel wants it.
#[derive(Clone, Copy)]
#[repr(C, align(8))]
struct Control([u8; 40 + 32]);

/// The room for an address.
#[expect(clippy::cast_possible_truncation, reason = "28")]
const PEER: libc::socklen_t = size_of::<libc::sockaddr_in6>() as libc::socklen_t;

/// Packets, and in their places their answers.
pub(super) struct Batch {
    packets: Vec<Packet>,
    /// Used for one call after the other, so that it stays in the nearest cache.
    headers: Box<Headers>,
}

/// No larger than it has to be: what lies between the batch's system calls is to stay in the
/// nearest cache, of which the kernel takes its part.
struct Packet {
    message: Vec<u8>,
    /// The larger of the two that there are; the other one begins with the same field.
    peer: libc::sockaddr_in6,
    control_length: libc::socklen_t,
    control: Control,
}

/// What the kernel is handed. Each call writes all that it uses: pointers are of no use after it.
struct Headers {
    messages: [libc::mmsghdr; BATCH],
    buffers: [libc::iovec; BATCH],
}

impl Batch {
    /// An empty one.
    pub(super) fn new() -> Self {
        let empty = || Packet {
            message: Vec::with_capacity(LONGEST),
            // SAFETY: all-zero is a valid address, of no family.
            peer: unsafe { zeroed() },
            control_length: 0,
            control: Control([0; 40 + 32]),
        };
        Self {
            packets: (0..BATCH).map(|_| empty()).collect(),
            // SAFETY: all-zero is valid: no buffers, no addresses.
            headers: Box::new(unsafe { zeroed() }),
        }
    }

    /// Waits for a packet, and takes those that are there: how many.
    ///
    /// # Errors
    /// The system's; `WouldBlock` when nothing came within the socket's time.
    pub(super) fn receive(&mut self, socket: &UdpSocket) -> io::Result<usize> {
        let Headers { messages, buffers } = &mut *self.headers;
        for ((packet, header), buffer) in
            self.packets.iter_mut().zip(&mut *messages).zip(&mut *buffers)
        {
            packet.message.clear();
            packet.message.reserve(LONGEST);
            buffer.iov_base = packet.message.as_mut_ptr().cast();
            buffer.iov_len = LONGEST;
            let message = &mut header.msg_hdr;
            message.msg_name = (&raw mut packet.peer).cast();
            message.msg_namelen = PEER;
            message.msg_iov = buffer;
            message.msg_iovlen = 1;
            message.msg_control = packet.control.0.as_mut_ptr().cast();
            message.msg_controllen = packet.control.0.len();
        }
        // SAFETY: each header points to buffers of the lengths it tells, all of which outlive the
        // call and are aliased by nothing.
        let count = unsafe {
            libc::recvmmsg(
                socket.as_raw_fd(),
                messages.as_mut_ptr(),
                libc::c_uint::try_from(BATCH).unwrap_or(1),
                libc::MSG_WAITFORONE,
                null_mut(),
            )
        };
        let count = usize::try_from(count).map_err(|_| io::Error::last_os_error())?;
        for (packet, header) in self.packets.iter_mut().zip(messages).take(count) {
            // SAFETY: so many octets were written, at most as many as there was room for.
            unsafe { packet.message.set_len((header.msg_len as usize).min(LONGEST)) };
            packet.control_length = socklen(header.msg_hdr.msg_controllen);
        }
        Ok(count)
    }

    /// The first `count` packets, each with its sender: an answer takes its place. What is left
    /// empty is not sent.
    pub(super) fn packets(
        &mut self,
        count: usize,
    ) -> impl Iterator<Item = (SocketAddr, &mut Vec<u8>)> {
        self.packets.iter_mut().take(count).filter_map(|Packet { peer, message, .. }| {
            let address = address(peer);
            if address.is_none() {
                message.clear();
            }
            Some((address?, message))
        })
    }

    /// Takes a packet in another one's place, its sender and what the kernel tells of it: was there
    /// room?
    pub(super) fn put(&mut self, row: usize, [payload, name, control]: [&[u8]; 3]) -> bool {
        let Some(packet) = self.packets.get_mut(row) else { return false };
        let Some(room) = packet.control.0.get_mut(..control.len()) else { return false };
        room.copy_from_slice(control);
        packet.control_length = socklen(control.len());
        packet.message.clear();
        packet.message.extend_from_slice(payload);
        let length = name.len().min(size_of::<libc::sockaddr_in6>());
        // SAFETY: so many octets are there, and an address may consist of any.
        unsafe {
            packet.peer = zeroed();
            let peer = (&raw mut packet.peer).cast::<u8>();
            peer.copy_from_nonoverlapping(name.as_ptr(), length);
        }
        true
    }

    /// The answers of the first `count` packets, each from the address that was asked.
    pub(super) fn answers(&mut self, count: usize) -> impl Iterator<Item = &libc::msghdr> {
        let filled = self.fill(count);
        self.headers.messages.iter().take(filled).map(|header| &header.msg_hdr)
    }

    /// Writes the headers of the answers of the first `count` packets: how many there are.
    fn fill(&mut self, count: usize) -> usize {
        let answered = self.packets.iter_mut().take(count);
        let answered = answered.filter(|packet| !packet.message.is_empty());
        let Headers { messages: headers, buffers } = &mut *self.headers;
        let mut filled = 0;
        for ((packet, header), buffer) in answered.zip(&mut *headers).zip(buffers) {
            buffer.iov_base = packet.message.as_mut_ptr().cast();
            buffer.iov_len = packet.message.len();
            let message = &mut header.msg_hdr;
            message.msg_name = (&raw mut packet.peer).cast();
            // Of the shorter address the kernel reads no more than that.
            message.msg_namelen = PEER;
            message.msg_iov = buffer;
            message.msg_iovlen = 1;
            message.msg_control = packet.control.0.as_mut_ptr().cast();
            message.msg_controllen = packet.control_length as usize;
            // SAFETY: these are the control messages of this packet, so many octets of them.
            unsafe { keep_address(message) };
            filled += 1;
        }
        filled
    }

    /// Sends the answers of the first `count` packets, each from the address that was asked: how
    /// many could not be sent.
    pub(super) fn send(&mut self, socket: &UdpSocket, count: usize) -> usize {
        let filled = self.fill(count);
        let headers = &mut self.headers.messages;
        let mut sent = 0;
        let mut failed = 0;
        while let Some(rest) =
            headers.get_mut(sent + failed..filled).filter(|rest| !rest.is_empty())
        {
            let length = libc::c_uint::try_from(rest.len()).unwrap_or(0);
            let (socket, flags) = (socket.as_raw_fd(), libc::MSG_DONTWAIT);
            // SAFETY: the headers point to replies, addresses and control messages that outlive
            // the call, with the lengths they tell.
            let done = unsafe { libc::sendmmsg(socket, rest.as_mut_ptr(), length, flags) };
            match usize::try_from(done) {
                Ok(done) if done > 0 => sent += done,
                // The first of them cannot be sent: its client asks again, the others get theirs.
                // Nobody waits for room: that is taken up by answers to clients that the kernel
                // looks for in vain, for seconds.
                _ => failed += 1,
            }
        }
        failed
    }
}

/// A header that says how much room there is for an address and for control messages.
pub(super) fn message_header() -> libc::msghdr {
    // SAFETY: all-zero is valid: no buffers, no addresses.
    let header: libc::msghdr = unsafe { zeroed() };
    libc::msghdr { msg_namelen: PEER, msg_controllen: size_of::<Control>(), ..header }
}

/// Of the control messages that came with a question, keeps the one for the answer: which address
/// was asked. The kernel refuses to send others, such as the time. Answers leave by the route to
/// the client, not by the interface that the question came in on, but for link-local addresses,
/// which mean nothing without one.
///
/// # Safety
/// The header describes control messages that the kernel wrote into aligned memory.
unsafe fn keep_address(message: &mut libc::msghdr) {
    // SAFETY: this gives null or a whole header within these messages.
    let mut control = unsafe { libc::CMSG_FIRSTHDR(message) };
    while !control.is_null() {
        // SAFETY: the data of a message stands behind its header, as long as that says: it is cut
        // where there was no room. What comes next is null or a whole header within these messages.
        unsafe {
            let data = libc::CMSG_DATA(control);
            let has = |size| (*control).cmsg_len >= libc::CMSG_LEN(socklen(size)) as usize;
            match ((*control).cmsg_level, (*control).cmsg_type) {
                (libc::IPPROTO_IP, libc::IP_PKTINFO) if has(size_of::<libc::in_pktinfo>()) => {
                    (*data.cast::<libc::in_pktinfo>()).ipi_ifindex = 0;
                    break;
                }
                (libc::IPPROTO_IPV6, libc::IPV6_PKTINFO) if has(size_of::<libc::in6_pktinfo>()) => {
                    let info = data.cast::<libc::in6_pktinfo>();
                    let ip = Ipv6Addr::from((*info).ipi6_addr.s6_addr);
                    if !ip.is_unicast_link_local() {
                        (*info).ipi6_ifindex = 0;
                    }
                    break;
                }
                _ => control = libc::CMSG_NXTHDR(message, control),
            }
        }
    }
    message.msg_control = control.cast();
    // SAFETY: it is null or a whole header.
    message.msg_controllen = unsafe { control.as_ref() }.map_or(0, |of| of.cmsg_len);
}

fn address(v6: &libc::sockaddr_in6) -> Option<SocketAddr> {
    match libc::c_int::from(v6.sin6_family) {
        libc::AF_INET => {
            // SAFETY: the family says that it is this address, which is the shorter one and aligned
            // alike.
            let v4 = unsafe { &*(&raw const *v6).cast::<libc::sockaddr_in>() };
            let ip = Ipv4Addr::from(u32::from_be(v4.sin_addr.s_addr));
            Some(SocketAddrV4::new(ip, u16::from_be(v4.sin_port)).into())
        }
        libc::AF_INET6 => {
            let ip = Ipv6Addr::from(v6.sin6_addr.s6_addr);
            let port = u16::from_be(v6.sin6_port);
            let (flow, scope) = (v6.sin6_flowinfo, v6.sin6_scope_id);
            Some(as_itself(SocketAddrV6::new(ip, port, flow, scope).into()))
        }
        _ => None,
    }
}

fn socklen(length: usize) -> libc::socklen_t {
    libc::socklen_t::try_from(length).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    /// Turns an option of a socket on.
    fn set(socket: &UdpSocket, level: libc::c_int, option: libc::c_int) {
        let on: libc::c_int = 1;
        let (file, value) = (socket.as_raw_fd(), (&raw const on).cast());
        // SAFETY: the pointer is to an int that lives through the call, and that is its size.
        let result =
            unsafe { libc::setsockopt(file, level, option, value, socklen(size_of_val(&on))) };
        assert_eq!(result, 0);
    }

    #[test]
    fn an_answer_leaves_from_the_address_that_was_asked_whatever_else_the_kernel_tells() {
        let v4 = ("0.0.0.0:0", "127.0.0.2", (libc::IPPROTO_IP, libc::IP_PKTINFO));
        let v6 = ("[::]:0", "::1", (libc::IPPROTO_IPV6, libc::IPV6_RECVPKTINFO));
        for (all, asked, (level, option)) in [v4, v6] {
            for (with_time, with_address) in [(false, true), (true, true), (true, false)] {
                let socket = UdpSocket::bind(all).unwrap();
                if with_time {
                    set(&socket, libc::SOL_SOCKET, libc::SO_TIMESTAMP);
                }
                if with_address {
                    set(&socket, level, option);
                }
                let client = UdpSocket::bind(all).unwrap();
                client.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
                let to =
                    SocketAddr::new(asked.parse().unwrap(), socket.local_addr().unwrap().port());
                client.send_to(b"question", to).unwrap();
                let mut batch = Batch::new();
                assert_eq!(batch.receive(&socket).unwrap(), 1);
                for (_, message) in batch.packets(1) {
                    assert_eq!(message, b"question");
                }
                assert_eq!(batch.send(&socket, 1), 0);
                let (_, from) = client.recv_from(&mut [0; 16]).unwrap();
                assert!(from == to || !with_address, "{from} {to}");
            }
        }
    }
}
