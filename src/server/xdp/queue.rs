//! One queue of an interface: frames shared with the kernel, and the four rings that tell whose
//! each of them is.
//!
//! ```text
//! fill → (the kernel receives) → received → answered in place → sent → completed → fill
//! ```
//!
//! A [`Frame`] is one that is this side's at the moment; there is only one value for each. All of
//! this file's unsafe code turns frames into octets, and gives their memory to the socket.

use std::io;
use std::net::SocketAddr;
use std::os::fd::BorrowedFd;
use std::ptr::NonNull;
use std::time::Duration;

use rustix::event::{self, PollFd, PollFlags, Timespec};

use super::frame::{self, Datagram};
use super::ring::{Descriptor, Socket};
use crate::prefetch::{LINE, prefetch};
use crate::server::memory::move_to_large_pages;
use crate::server::mmsg::BATCH;
use crate::server::udp::Datagrams;

/// The size of a frame: the least there is, and more than a query has.
const SIZE: usize = 2048;
/// As many as a ring holds, and as many again on their way out.
const FRAMES: usize = 2 * RING as usize;
const RING: u32 = 2048;

/// How long is waited for a packet before somebody looks whether to stop.
const WAIT: Duration = Duration::from_millis(250);

/// How soon the kernel is asked again to send what it did not take, and how often meanwhile: a link
/// that is down takes nothing.
const SOON: Duration = Duration::from_millis(1);
const TIMES: usize = 250;

/// A frame's place in the memory, and the length of what is in it.
struct Frame {
    begin: usize,
    length: usize,
}

/// A page of the memory, so aligned.
#[repr(C, align(4096))]
struct Page([u8; 4096]);

/// Frames that the kernel writes to and sends from.
struct Memory(NonNull<[Page]>);

impl Memory {
    fn new() -> Self {
        let pages = (0..FRAMES * SIZE / size_of::<Page>()).map(|_| Page([0; 4096]));
        let pages: Box<[Page]> = pages.collect();
        let octets = pages.as_ptr_range();
        move_to_large_pages(octets.start.addr()..octets.end.addr());
        Self(NonNull::from(Box::leak(pages)))
    }

    fn octets(&self) -> NonNull<[u8]> {
        NonNull::slice_from_raw_parts(self.0.cast(), FRAMES * SIZE)
    }

    /// `length` octets from `begin` on, which are in one frame; empty, if they are not.
    fn part(&self, begin: usize, length: usize) -> NonNull<[u8]> {
        let is_within = begin < FRAMES * SIZE && begin % SIZE + length <= SIZE;
        let (begin, length) = if is_within { (begin, length) } else { (0, 0) };
        // SAFETY: the sum is within the memory.
        let first = unsafe { self.octets().cast::<u8>().add(begin) };
        NonNull::slice_from_raw_parts(first, length)
    }

    fn read(&self, frame: &Frame) -> &[u8] {
        // SAFETY: a frame is this side's, so the kernel does not write to it; what writes here
        // borrows the memory for itself alone.
        unsafe { self.part(frame.begin, frame.length).as_ref() }
    }

    /// A frame, made this long; `None`: there is no room for it.
    fn write(&mut self, frame: &mut Frame, length: usize) -> Option<&mut [u8]> {
        frame.length = length;
        // SAFETY: as above, and nobody else borrows the memory.
        let octets = unsafe { self.part(frame.begin, length).as_mut() };
        (octets.len() == length).then_some(octets)
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        // SAFETY: it was leaked from a box, and nobody has it any more: sockets are dropped before.
        drop(unsafe { Box::from_raw(self.0.as_ptr()) });
    }
}

/// The socket of a queue.
pub(super) struct Queue {
    received: Vec<(Frame, Option<Datagram>)>,
    messages: Vec<Vec<u8>>,
    outgoing: Vec<Descriptor>,
    /// Frames that are nobody's at the moment, by their addresses.
    free: Vec<u64>,
    /// How many packets came by its interface (`meridian_xdp_total`).
    counted: metrics::Counter,
    socket: Socket,
    /// The last to go.
    memory: Memory,
}

impl Queue {
    /// The socket of this interface's queue. It counts what it receives.
    ///
    /// # Errors
    /// The kernel's.
    pub(super) fn open(interface: u32, queue: u32, counted: metrics::Counter) -> io::Result<Self> {
        let memory = Memory::new();
        let frame = u32::try_from(SIZE).map_err(io::Error::other)?;
        // SAFETY: the memory is aligned to pages, outlives the socket, and is touched frame by
        // frame only, by who has it at the moment.
        let socket = unsafe { Socket::open((interface, queue), memory.octets(), frame, RING) }?;
        let mut queue = Self {
            received: Vec::with_capacity(BATCH),
            messages: (0..BATCH).map(|_| Vec::with_capacity(SIZE)).collect(),
            outgoing: Vec::with_capacity(BATCH),
            free: (0..FRAMES).map(|row| (row * SIZE) as u64).collect(),
            counted,
            socket,
            memory,
        };
        queue.refill();
        Ok(queue)
    }

    /// The socket's file.
    pub(super) fn file(&self) -> BorrowedFd<'_> {
        self.socket.file()
    }

    /// Gives free frames to the kernel, as many as it takes.
    fn refill(&mut self) {
        let left = self.free.len().saturating_sub(self.socket.fill.room());
        self.socket.fill.add(self.free.drain(left..));
    }

    /// Gives what is outgoing to the kernel, and tells how many frames it has no room for.
    fn transmit(&mut self) -> usize {
        let Self { outgoing, socket, free, .. } = self;
        let room = outgoing.len().min(socket.outgoing.room());
        socket.outgoing.add(outgoing.drain(..room));
        let failed = outgoing.len();
        free.extend(outgoing.drain(..).map(|of| beginning(of.addr)));
        failed
    }

    /// Has the kernel send what it was given, and waits for a packet.
    fn wait(&self) -> io::Result<()> {
        let (mut is_there, mut before) = (self.poll(Duration::ZERO)?, usize::MAX);
        let unsent = || self.socket.outgoing.waiting();
        // It sends a batch a call.
        while (1..before).contains(&unsent()) {
            before = unsent();
            is_there = self.poll(Duration::ZERO)?;
        }
        for _ in 0..TIMES {
            if is_there {
                break;
            }
            let is_sent = unsent() == 0;
            is_there = self.poll(if is_sent { WAIT } else { SOON })? || is_sent;
        }
        Ok(())
    }

    /// Has the kernel send a batch, and waits so long for a packet: is there one?
    fn poll(&self, wait: Duration) -> io::Result<bool> {
        let wait = Timespec::try_from(wait).map_err(io::Error::other)?;
        let mut file = [PollFd::from_borrowed_fd(self.file(), PollFlags::IN)];
        Ok(event::poll(&mut file, Some(&wait))? > 0)
    }

    /// Takes back what has been sent.
    fn reclaim(&mut self) {
        let Self { socket, free, .. } = self;
        socket.sent.take(FRAMES, |address| free.push(beginning(address)));
    }
}

/// Where the frame begins that something at `address` is in.
fn beginning(address: u64) -> u64 {
    address & !(SIZE as u64 - 1)
}

impl Datagrams for Queue {
    const ENDS: bool = true;

    fn receive(&mut self) -> io::Result<usize> {
        self.wait()?;
        let Self { socket, received, memory, .. } = self;
        socket.received.take(BATCH, |Descriptor { addr, len, .. }| {
            let begin = usize::try_from(addr).unwrap_or(usize::MAX);
            let frame = Frame { begin, length: len as usize };
            // Another core may have it in its cache yet.
            (0..frame.length).step_by(LINE).for_each(|at| prefetch(memory.read(&frame), at));
            received.push((frame, None));
        });
        for (frame, datagram) in received {
            *datagram = frame::read(memory.read(frame));
        }
        self.counted.increment(self.received.len() as u64);
        Ok(self.received.len())
    }

    fn packets(&mut self, _count: usize) -> impl Iterator<Item = (SocketAddr, &mut Vec<u8>)> {
        let Self { received, messages, memory, .. } = self;
        received.iter().zip(messages).filter_map(|((frame, datagram), message)| {
            message.clear();
            let Datagram { peer, content } = datagram.as_ref()?;
            message.extend_from_slice(memory.read(frame).get(content.clone())?);
            Some((*peer, message))
        })
    }

    fn send(&mut self, _count: usize) -> usize {
        let Self { received, messages, memory, free, outgoing, .. } = self;
        let mut failed = 0;
        for ((mut frame, datagram), message) in received.drain(..).zip(messages) {
            let begin = datagram.map(|datagram| datagram.content.start);
            let begin = begin.filter(|_| !message.is_empty());
            let Some(begin) = begin else {
                free.push(beginning(frame.begin as u64));
                continue;
            };
            let octets = memory.write(&mut frame, begin + message.len());
            let turned = octets.and_then(|octets| frame::turn(octets, message));
            let (addr, len) = (frame.begin as u64, u32::try_from(frame.length).unwrap_or(0));
            if turned.is_some() {
                outgoing.push(Descriptor { addr, len, options: 0 });
            } else {
                free.push(beginning(addr));
                failed += 1;
            }
        }
        failed += self.transmit();
        self.reclaim();
        self.refill();
        failed
    }
}
