//! The yardstick: a server that sends back what it gets, a batch at a time, and does nothing else.

use std::mem::zeroed;
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::AsRawFd;
use std::ptr::null_mut;

/// Datagrams a call: as many as Meridian takes.
const BATCH: usize = 32;

const LONGEST: usize = 2048;

/// Sends back what comes to `address`, until it is ended.
pub(crate) fn serve(address: SocketAddr) -> ! {
    let socket = UdpSocket::bind(address).unwrap();
    socket2::SockRef::from(&socket).set_recv_buffer_size(4 << 20).unwrap();
    let mut packets = vec![[0_u8; LONGEST]; BATCH];
    // SAFETY: all-zero addresses, headers and buffers are valid and empty.
    let (mut peers, mut headers, mut buffers): (
        [libc::sockaddr_storage; BATCH],
        [libc::mmsghdr; BATCH],
        [libc::iovec; BATCH],
    ) = unsafe { (zeroed(), zeroed(), zeroed()) };
    let rows = headers.iter_mut().zip(&mut buffers).zip(&mut peers).zip(&mut packets);
    for (((header, buffer), peer), packet) in rows {
        *buffer = libc::iovec { iov_base: packet.as_mut_ptr().cast(), iov_len: LONGEST };
        header.msg_hdr.msg_iov = buffer;
        header.msg_hdr.msg_iovlen = 1;
        header.msg_hdr.msg_name = (&raw mut *peer).cast();
    }
    loop {
        for (header, buffer) in headers.iter_mut().zip(&mut buffers) {
            header.msg_hdr.msg_namelen = size_of::<libc::sockaddr_storage>() as libc::socklen_t;
            buffer.iov_len = LONGEST;
        }
        let (socket, first) = (socket.as_raw_fd(), headers.as_mut_ptr());
        let all = BATCH as libc::c_uint;
        // SAFETY: the headers point to buffers and addresses of the lengths they tell, which live
        // as long as this loop.
        let count = unsafe { libc::recvmmsg(socket, first, all, libc::MSG_WAITFORONE, null_mut()) };
        let Ok(count) = libc::c_uint::try_from(count) else { continue };
        for row in 0..count as usize {
            packets[row][2] |= 0x80;
            buffers[row].iov_len = headers[row].msg_len as usize;
        }
        // SAFETY: as above. What cannot be sent is lost, as with any server.
        let _sent = unsafe { libc::sendmmsg(socket, first, count, 0) };
    }
}
