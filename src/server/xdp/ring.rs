//! An AF_XDP socket and its rings, as Linux has them (`Documentation/networking/af_xdp.rst`,
//! `include/uapi/linux/if_xdp.h`).
//!
//! A ring is an array shared with the kernel, and two counters that go round it: one side adds
//! entries and its counter tells how many so far, the other takes them and tells the same of
//! itself. Each side writes one counter and reads the other. All unsafe code is about that memory
//! and the calls that make it.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::ptr::{NonNull, null_mut};
use std::sync::atomic::{AtomicU32, Ordering};

pub(super) use libc::xdp_desc as Descriptor;

/// A socket of one queue of an interface.
pub(super) struct Socket {
    file: OwnedFd,
    /// Frames for the kernel to receive into, by where they begin.
    pub(super) fill: Ring<u64>,
    /// Those that it has sent.
    pub(super) sent: Ring<u64>,
    pub(super) received: Ring<Descriptor>,
    pub(super) outgoing: Ring<Descriptor>,
}

impl Socket {
    /// The socket of an interface's queue, with rings of so many entries, a power of two. Frames of
    /// `frame` octets are in `memory`.
    ///
    /// # Errors
    /// The kernel's.
    ///
    /// # Safety
    /// `memory` begins at a page, and lives as long as the socket; what the kernel has of it by way
    /// of the rings, nobody touches.
    pub(super) unsafe fn open(
        (interface, queue): (u32, u32),
        memory: NonNull<[u8]>,
        frame: u32,
        size: u32,
    ) -> io::Result<Self> {
        // SAFETY: the call takes no pointer.
        let file = unsafe { libc::socket(libc::AF_XDP, libc::SOCK_RAW | libc::SOCK_CLOEXEC, 0) };
        if file < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: it has just been opened, for this process.
        let file = unsafe { OwnedFd::from_raw_fd(file) };
        let area = libc::xdp_umem_reg_v1 {
            addr: memory.cast::<u8>().as_ptr().addr() as u64,
            len: memory.len() as u64,
            chunk_size: frame,
            headroom: 0,
        };
        // SAFETY: that is what the option takes.
        unsafe { set(&file, libc::XDP_UMEM_REG, &area) }?;
        for ring in [
            libc::XDP_UMEM_FILL_RING,
            libc::XDP_UMEM_COMPLETION_RING,
            libc::XDP_RX_RING,
            libc::XDP_TX_RING,
        ] {
            // SAFETY: as above.
            unsafe { set(&file, ring, &size) }?;
        }
        let at = offsets(&file)?;
        let page = |offset: u64| libc::off_t::try_from(offset).map_err(io::Error::other);
        let (fill_page, sent_page) =
            (page(libc::XDP_UMEM_PGOFF_FILL_RING)?, page(libc::XDP_UMEM_PGOFF_COMPLETION_RING)?);
        let fill = Ring::map(&file, fill_page, &at.fr, size)?;
        let sent = Ring::map(&file, sent_page, &at.cr, size)?;
        let received = Ring::map(&file, libc::XDP_PGOFF_RX_RING, &at.rx, size)?;
        let outgoing = Ring::map(&file, libc::XDP_PGOFF_TX_RING, &at.tx, size)?;
        bind(&file, interface, queue)?;
        Ok(Self { file, fill, sent, received, outgoing })
    }

    pub(super) fn file(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

/// Sets an option of the socket.
///
/// # Safety
/// The option takes a value of this type; where that tells of memory, as [`Socket::open`] wants it.
unsafe fn set<T>(file: &OwnedFd, option: libc::c_int, value: &T) -> io::Result<()> {
    let size = libc::socklen_t::try_from(size_of::<T>()).map_err(io::Error::other)?;
    let value = (&raw const *value).cast();
    // SAFETY: the pointer is to a value of this size, of the type that the caller vouches for.
    let result = unsafe { libc::setsockopt(file.as_raw_fd(), libc::SOL_XDP, option, value, size) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Where counters and entries are in the rings' memory.
fn offsets(file: &OwnedFd) -> io::Result<libc::xdp_mmap_offsets> {
    let mut size = libc::socklen_t::try_from(size_of::<libc::xdp_mmap_offsets>()).unwrap_or(0);
    // SAFETY: all-zero is a valid value: numbers.
    let mut at: libc::xdp_mmap_offsets = unsafe { std::mem::zeroed() };
    let (file, option) = (file.as_raw_fd(), libc::XDP_MMAP_OFFSETS);
    let value = (&raw mut at).cast();
    // SAFETY: the pointers are to room of the size that is told, and to that size.
    let result = unsafe { libc::getsockopt(file, libc::SOL_XDP, option, value, &raw mut size) };
    if result == 0 { Ok(at) } else { Err(io::Error::last_os_error()) }
}

fn bind(file: &OwnedFd, interface: u32, queue: u32) -> io::Result<()> {
    let address = libc::sockaddr_xdp {
        sxdp_family: u16::try_from(libc::AF_XDP).map_err(io::Error::other)?,
        // It tells when it wants to be woken, rather than be woken each time.
        sxdp_flags: libc::XDP_USE_NEED_WAKEUP,
        sxdp_ifindex: interface,
        sxdp_queue_id: queue,
        sxdp_shared_umem_fd: 0,
    };
    let size = libc::socklen_t::try_from(size_of_val(&address)).map_err(io::Error::other)?;
    // SAFETY: the pointer is to an address of this size.
    let result = unsafe { libc::bind(file.as_raw_fd(), (&raw const address).cast(), size) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// One ring, as this process sees it: it either adds to it or takes from it.
pub(super) struct Ring<T> {
    memory: NonNull<libc::c_void>,
    length: usize,
    producer: NonNull<AtomicU32>,
    consumer: NonNull<AtomicU32>,
    entries: NonNull<T>,
    size: u32,
    /// This side's counter.
    own: u32,
}

impl<T: Copy> Ring<T> {
    fn map(
        file: &OwnedFd,
        page: libc::off_t,
        at: &libc::xdp_ring_offset,
        size: u32,
    ) -> io::Result<Self> {
        let place = |offset: u64| usize::try_from(offset).map_err(io::Error::other);
        let [producer, consumer, entries] =
            [place(at.producer)?, place(at.consumer)?, place(at.desc)?];
        let length = entries + size as usize * size_of::<T>();
        let (access, flags) =
            (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED | libc::MAP_POPULATE);
        // SAFETY: new memory, wherever the kernel puts it.
        let memory =
            unsafe { libc::mmap(null_mut(), length, access, flags, file.as_raw_fd(), page) };
        if memory == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let Some(memory) = NonNull::new(memory) else {
            return Err(io::Error::other("no memory for a ring"));
        };
        // SAFETY: the kernel told that these are within the memory, and aligned.
        let (producer, consumer, entries) = unsafe {
            (memory.byte_add(producer), memory.byte_add(consumer), memory.byte_add(entries))
        };
        let (producer, consumer) = (producer.cast(), consumer.cast());
        let entries = entries.cast();
        Ok(Self { memory, length, producer, consumer, entries, size, own: 0 })
    }

    /// How much was added that the other side has not taken yet.
    pub(super) fn waiting(&self) -> usize {
        // SAFETY: the counter lives as long as the ring.
        let taken = unsafe { self.consumer.as_ref() }.load(Ordering::Acquire);
        self.own.wrapping_sub(taken) as usize
    }

    /// How much can be added.
    pub(super) fn room(&self) -> usize {
        (self.size as usize).saturating_sub(self.waiting())
    }

    /// Adds so much of this as there is room for; no more is taken out of it.
    pub(super) fn add(&mut self, new: impl Iterator<Item = T>) {
        for entry in new.take(self.room()) {
            // SAFETY: the place is within the array, and the other side does not read it before
            // the counter tells it to.
            unsafe { self.place(self.own).write(entry) };
            self.own = self.own.wrapping_add(1);
        }
        // SAFETY: the counter lives as long as the ring.
        unsafe { self.producer.as_ref() }.store(self.own, Ordering::Release);
    }

    /// Takes what was added, `most` at most.
    pub(super) fn take(&mut self, most: usize, mut take: impl FnMut(T)) {
        // SAFETY: the counter lives as long as the ring.
        let added = unsafe { self.producer.as_ref() }.load(Ordering::Acquire);
        let count = (added.wrapping_sub(self.own).min(self.size) as usize).min(most);
        for _ in 0..count {
            // SAFETY: the place is within the array; the other side has written it, and does not
            // write it again before the counter tells it to.
            take(unsafe { self.place(self.own).read() });
            self.own = self.own.wrapping_add(1);
        }
        // SAFETY: the counter lives as long as the ring.
        unsafe { self.consumer.as_ref() }.store(self.own, Ordering::Release);
    }

    fn place(&self, counter: u32) -> NonNull<T> {
        // SAFETY: the remainder is less than the number of entries.
        unsafe { self.entries.add((counter & (self.size - 1)) as usize) }
    }
}

impl<T> Drop for Ring<T> {
    fn drop(&mut self) {
        // SAFETY: it was mapped with this length, and nobody else has it.
        unsafe { libc::munmap(self.memory.as_ptr(), self.length) };
    }
}
