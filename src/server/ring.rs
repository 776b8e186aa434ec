//! Datagrams by a ring that is shared with the kernel (`io_uring`): packets lie in rooms that it
//! was given before, and a queue tells what came. So the headers are not copied that `recvmmsg` and
//! `sendmmsg` have for each packet, both ways.
//!
//! This file's unsafe code gives the kernel memory to write to, and addresses of answers to read.

use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::AsRawFd;
use std::ptr::{NonNull, null_mut};
use std::sync::atomic::{AtomicU16, Ordering};

use io_uring::types::{BufRingEntry, Fd, RecvMsgOut, SubmitArgs, Timespec};
use io_uring::{IoUring, cqueue, opcode, squeue};
use rustix::mm::{MapFlags, ProtFlags, mmap_anonymous, munmap};

use super::mmsg::{BATCH, Batch, LONGEST, message_header};
use super::socket::WAIT;
use super::udp::Datagrams;

/// How many packets the kernel may have taken that are not looked at yet.
const ROOMS: u16 = 128;

/// The octets of a room: a packet, its sender, and what the kernel tells of both.
const ROOM: usize = LONGEST + 256;

/// The group of all rooms.
const GROUP: u16 = 0;

/// What entries of the queue are about.
const RECEIVE: u64 = 0;
const SEND: u64 = 1;
const CANCEL: u64 = 2;

/// A socket, and the ring that it is read and written by. What is first is let go of first: behind
/// the ring the kernel writes no more.
pub(super) struct Ring {
    ring: IoUring,
    rooms: Rooms,
    socket: UdpSocket,
    batch: Batch,
    /// Which parts of a packet are wanted.
    wanted: Box<libc::msghdr>,
    /// The kernel takes packets.
    is_receiving: bool,
    /// It is to take none any more.
    is_over: bool,
    unsent: usize,
}

impl Ring {
    /// A ring for `socket` and the thread that calls this.
    ///
    /// # Errors
    /// The system has none to give, or none that does what is wanted (Linux 6.1), and gives the
    /// socket back.
    pub(super) fn new(socket: UdpSocket) -> Result<Self, (UdpSocket, io::Error)> {
        match Self::parts() {
            Ok((ring, rooms)) => Ok(Self {
                ring,
                rooms,
                socket,
                batch: Batch::new(),
                wanted: Box::new(message_header()),
                is_receiving: false,
                is_over: false,
                unsent: 0,
            }),
            Err(error) => Err((socket, error)),
        }
    }

    fn parts() -> io::Result<(IoUring, Rooms)> {
        let mut builder = IoUring::builder();
        // Packets are taken when this thread asks, and by nobody else.
        builder.setup_single_issuer().setup_defer_taskrun().setup_submit_all();
        builder.setup_cqsize(u32::from(ROOMS) * 4);
        let ring = builder.build(u32::from(ROOMS))?;
        let rooms = Rooms::new()?;
        let entries = rooms.entries.as_ptr() as u64;
        // SAFETY: the entries are a whole page, and are let go of after the ring.
        unsafe { ring.submitter().register_buf_ring_with_flags(entries, ROOMS, GROUP, 0)? };
        Ok((ring, rooms))
    }

    /// Hands the kernel what is to be done, and waits for a packet, if it is to: not in vain?
    fn submit(&mut self, waits: bool) -> io::Result<bool> {
        let span = Timespec::from(WAIT);
        let arguments = SubmitArgs::new().timespec(&span);
        let done = self.ring.submitter().submit_with_args(usize::from(waits), &arguments);
        match done {
            Err(error) if error.raw_os_error() == Some(libc::ETIME) => Ok(false),
            Err(error) if error.kind() != io::ErrorKind::Interrupted => Err(error),
            _ => Ok(true),
        }
    }

    fn push(&mut self, entry: &squeue::Entry) -> io::Result<()> {
        // SAFETY: what it points to is there until it is handed over, and what the kernel is to
        // write to is there as long as the ring.
        let pushed = unsafe { self.ring.submission().push(entry) };
        pushed.map_err(|_| io::ErrorKind::WouldBlock.into())
    }

    /// Takes packets that have come: how many.
    fn take(&mut self) -> usize {
        let mut count = 0;
        let mut queue = self.ring.completion();
        while count < BATCH
            && let Some(told) = queue.next()
        {
            if told.user_data() != RECEIVE {
                self.unsent += usize::from(told.user_data() == SEND && told.result() < 0);
                continue;
            }
            // The last that is told of it has no more behind it: an error, or that no room is left.
            self.is_receiving = cqueue::more(told.flags());
            let Some(room) = cqueue::buffer_select(told.flags()) else { continue };
            let length = usize::try_from(told.result()).unwrap_or(0);
            if let Ok(packet) = RecvMsgOut::parse(self.rooms.read(room, length), &self.wanted) {
                let parts = [packet.payload_data(), packet.name_data(), packet.control_data()];
                count += usize::from(self.batch.put(count, parts));
            }
            self.rooms.give(room);
        }
        count
    }
}

impl Datagrams for Ring {
    /// What was taken for this ring, nobody else has.
    const ENDS: bool = true;

    fn receive(&mut self) -> io::Result<usize> {
        loop {
            if !self.is_receiving && !self.is_over {
                let socket = Fd(self.socket.as_raw_fd());
                let entry = opcode::RecvMsgMulti::new(socket, &raw const *self.wanted, GROUP);
                self.push(&entry.build().user_data(RECEIVE))?;
                self.is_receiving = true;
            }
            let is_empty = self.ring.completion().is_empty();
            let told = self.submit(is_empty && self.is_receiving);
            if !self.ring.submission().is_empty() {
                // Answers lie yet where packets would be put.
                return told.map(|_| 0);
            }
            let count = self.take();
            // At the end what was taken is waited for, until the kernel says that this is all.
            if count > 0 || !told? || !(self.is_over && self.is_receiving) {
                return Ok(count);
            }
        }
    }

    fn packets(&mut self, count: usize) -> impl Iterator<Item = (SocketAddr, &mut Vec<u8>)> {
        self.batch.packets(count)
    }

    fn send(&mut self, count: usize) -> usize {
        let socket = Fd(self.socket.as_raw_fd());
        let mut queue = self.ring.submission();
        for header in self.batch.answers(count) {
            let entry = if header.msg_controllen > 0 {
                opcode::SendMsg::new(socket, header).flags(NOW).build()
            } else {
                let (octets, length) = (header.msg_iov, header.msg_namelen);
                // SAFETY: it points to the answer.
                let answer = unsafe { &*octets };
                let length_of_answer = u32::try_from(answer.iov_len).unwrap_or(0);
                opcode::Send::new(socket, answer.iov_base.cast(), length_of_answer)
                    .dest_addr(header.msg_name.cast())
                    .dest_addr_len(length)
                    .flags(NOW.cast_signed())
                    .build()
            };
            let entry = entry.flags(squeue::Flags::SKIP_SUCCESS).user_data(SEND);
            // SAFETY: it points into the batch, which stays as it is until all is handed over.
            let is_full = unsafe { queue.push(&entry) }.is_err();
            self.unsent += usize::from(is_full);
        }
        drop(queue);
        // What is not taken now is before the next packets are looked at.
        let _later = self.submit(false);
        std::mem::take(&mut self.unsent)
    }

    fn end(&mut self) {
        self.is_over = true;
        let entry = opcode::AsyncCancel::new(RECEIVE).build();
        // Where it cannot be had, what is taken yet is lost as if it had been on its way.
        let _lost = self.push(&entry.flags(squeue::Flags::SKIP_SUCCESS).user_data(CANCEL));
    }
}

/// Nobody waits for room.
const NOW: u32 = libc::MSG_DONTWAIT.cast_unsigned();

/// Where the kernel puts packets: a ring of entries that say which room is free, and the rooms.
struct Rooms {
    entries: NonNull<BufRingEntry>,
    rooms: Box<[u8]>,
    /// How many were ever given.
    given: u16,
}

impl Rooms {
    const LENGTH: usize = ROOMS as usize * size_of::<BufRingEntry>();

    fn new() -> io::Result<Self> {
        let (access, flags) = (ProtFlags::READ | ProtFlags::WRITE, MapFlags::PRIVATE);
        // SAFETY: it is new memory, which nobody has.
        let entries = unsafe { mmap_anonymous(null_mut(), Self::LENGTH, access, flags)? };
        let entries = NonNull::new(entries.cast()).ok_or(io::ErrorKind::OutOfMemory)?;
        let rooms = vec![0; usize::from(ROOMS) * ROOM].into();
        let mut made = Self { entries, rooms, given: 0 };
        (0..ROOMS).for_each(|room| made.give(room));
        Ok(made)
    }

    /// What the kernel has put in a room.
    fn read(&self, room: u16, length: usize) -> &[u8] {
        let begin = usize::from(room) * ROOM;
        self.rooms.get(begin..begin + length.min(ROOM)).unwrap_or(&[])
    }

    /// Lets the kernel have a room (again).
    fn give(&mut self, room: u16) {
        let row = usize::from(self.given % ROOMS);
        let begin = usize::from(room) * ROOM;
        let Some(octets) = self.rooms.get_mut(begin..begin + ROOM) else { return };
        self.given = self.given.wrapping_add(1);
        // SAFETY: the row is within the entries; the kernel reads it once the tail says so, which
        // is where the first entry has room for it, aligned as it must be.
        unsafe {
            let entry = &mut *self.entries.as_ptr().add(row);
            entry.set_addr(octets.as_mut_ptr() as u64);
            entry.set_len(u32::try_from(ROOM).unwrap_or(0));
            entry.set_bid(room);
            let tail = BufRingEntry::tail(self.entries.as_ptr()).cast::<AtomicU16>();
            (*tail).store(self.given, Ordering::Release);
        }
    }
}

impl Drop for Rooms {
    fn drop(&mut self) {
        // SAFETY: it was mapped with this length, and the ring that knew it is gone.
        let _gone = unsafe { munmap(self.entries.as_ptr().cast(), Self::LENGTH) };
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use socket2::SockRef;

    use super::*;
    use crate::server::socket::tell_destination;

    /// A ring for a socket there, and its socket; none where the system forbids it.
    fn ring(bound: &str) -> Option<(Ring, UdpSocket)> {
        let socket = UdpSocket::bind(bound).unwrap();
        let (address, other) = (socket.local_addr().unwrap(), socket.try_clone().unwrap());
        if address.ip().is_unspecified() {
            tell_destination(&SockRef::from(&socket), address).unwrap();
        }
        match Ring::new(socket) {
            Ok(ring) => Some((ring, other)),
            Err((_, error)) => {
                let forbidden = [libc::EPERM, libc::ENOSYS].map(Some);
                assert!(forbidden.contains(&error.raw_os_error()), "{error}");
                None
            }
        }
    }

    fn client(bound: &str) -> UdpSocket {
        let client = UdpSocket::bind(bound).unwrap();
        client.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        client
    }

    #[test]
    fn an_answer_leaves_from_the_address_that_was_asked_however_many_there_are() {
        for (bound, asked) in
            [("127.0.0.2:0", "127.0.0.2"), ("0.0.0.0:0", "127.0.0.2"), ("[::]:0", "::1")]
        {
            let Some((mut ring, socket)) = ring(bound) else { return };
            let client = client(bound);
            let port = socket.local_addr().unwrap().port();
            let to = SocketAddr::new(asked.parse().unwrap(), port);
            // More than there are rooms.
            for round in 0..ROOMS.to_be_bytes()[1] {
                let question = |row| [b'q', round, row];
                for row in 0..3 {
                    client.send_to(&question(row), to).unwrap();
                }
                let mut rows = 0..3;
                while !rows.is_empty() {
                    let count = ring.receive().unwrap();
                    for ((_, message), row) in ring.packets(count).zip(&mut rows) {
                        assert_eq!(*message, question(row));
                        message.push(b'a');
                    }
                    assert_eq!(ring.send(count), 0);
                }
                for row in 0..3 {
                    let mut answer = [0; 8];
                    let (length, from) = client.recv_from(&mut answer).unwrap();
                    assert_eq!((from, &answer[..length]), (to, &[b'q', round, row, b'a'][..]));
                }
            }
        }
    }

    #[test]
    fn what_was_taken_is_answered_at_the_end_and_nothing_is_taken_after_it() {
        let Some((mut ring, socket)) = ring("127.0.0.1:0") else { return };
        let (client, to) = (client("127.0.0.1:0"), socket.local_addr().unwrap());
        for row in 0..100 {
            client.send_to(&[row], to).unwrap();
        }
        let mut taken = ring.receive().unwrap();
        assert!(taken > 0 && ring.send(taken) == 0);
        ring.end();
        loop {
            let count = ring.receive().unwrap();
            if count == 0 {
                break;
            }
            assert_eq!(ring.send(count), 0);
            taken += count;
        }
        client.send_to(b"later", to).unwrap();
        assert_eq!(ring.receive().unwrap(), 0);
        // What it has not taken is there for others.
        socket.set_nonblocking(true).unwrap();
        let left = std::iter::from_fn(|| socket.recv(&mut [0; 8]).ok()).count();
        assert_eq!(taken + left, 101);
        for _ in 0..taken {
            client.recv(&mut [0; 8]).unwrap();
        }
    }
}
