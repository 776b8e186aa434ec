//! The program that the kernel runs on each packet of an interface: queries go past its own stack
//! to the socket of their queue, and all else goes on as ever.
//!
//! ```text
//! Ethernet to this interface → IPv4 without options, whole │ IPv6 → from where one can be
//!     → UDP → one of these addresses and ports?
//!     yes: the socket of the queue, if there is one
//!     no, or anything else: XDP_PASS
//! ```
//!
//! Some dozens of instructions, put together here (RFC 9669) for the addresses there are, so that
//! no compiler for BPF is needed where Meridian is built. The kernel verifies them before it runs
//! them. All unsafe code is about bpf(2), which does that.

use std::io;
use std::net::IpAddr;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use super::own::Own;

#[cfg(test)]
mod tests;

/// An instruction: opcode, destination and source register, offset, immediate value.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
struct Instruction {
    opcode: u8,
    registers: u8,
    offset: i16,
    immediate: i32,
}

// Opcodes (RFC 9669 §3 to §5).
const LOAD_8: u8 = 0x71;
const LOAD_16: u8 = 0x69;
const LOAD_32: u8 = 0x61;
const LOAD_64: u8 = 0x79;
const LOAD_CONSTANT: u8 = 0x18;
const COPY: u8 = 0xbf;
const SET: u8 = 0xb7;
const ADD: u8 = 0x07;
const AND: u8 = 0x57;
const GREATER: u8 = 0x2d;
const EQUAL: u8 = 0x15;
const NOT_EQUAL: u8 = 0x55;
const AT_LEAST: u8 = 0x35;
const OTHER: u8 = 0x5d;
const JUMP: u8 = 0x05;
const CALL: u8 = 0x85;
const EXIT: u8 = 0x95;

/// The constant is a map, by the number of its file.
const OF_MAP: u8 = 1;
/// `bpf_redirect_map(map, key, what to do if nothing is there)`.
const REDIRECT_MAP: i32 = 51;
/// What the program tells the kernel to do with a packet: go on as ever.
const PASS: i32 = 2;

// Where a header, or a part of it, is in a frame.
const SENDER: i16 = 6;
const IP: i16 = 14;
const UDP_OF_V4: i16 = IP + 20;
const UDP_OF_V6: i16 = IP + 40;
const UDP: i32 = 17;
const FROM_V4: i16 = IP + 12;
const FROM_V6: i16 = IP + 8;

/// More addresses than this are not looked for: what they are sent comes by the sockets.
const MOST: usize = 64;

/// Instructions, and those that jump to where is not known yet.
#[derive(Default)]
struct Assembler {
    program: Vec<Instruction>,
    to_pass: Vec<usize>,
    to_take: Vec<usize>,
}

impl Assembler {
    fn add(&mut self, opcode: u8, (to, from): (u8, u8), offset: i16, immediate: i32) {
        let registers = from << 4 | to;
        self.program.push(Instruction { opcode, registers, offset, immediate });
    }

    /// `r5 = ` what stands at `offset` of the frame.
    fn load(&mut self, opcode: u8, offset: i16) {
        self.add(opcode, (5, 2), offset, 0);
    }

    /// Passes the frame on if register 5 compares so.
    fn pass_if(&mut self, comparison: u8, value: i32) {
        self.to_pass.push(self.program.len());
        self.add(comparison, (5, 0), 0, value);
    }

    fn pass_unless(&mut self, value: i32) {
        self.pass_if(NOT_EQUAL, value);
    }

    /// Passes on what is for all or for another host, which the answer would seem to come from,
    /// and what is from no single neighbour, which the answer would go to.
    fn pass_neighbours(&mut self, mac: [u8; 6]) {
        let (words, _) = mac.as_chunks::<2>();
        for (offset, word) in (0..).step_by(2).zip(words) {
            self.load(LOAD_16, offset);
            self.pass_unless(i32::from(u16::from_ne_bytes(*word)));
        }
        self.load(LOAD_8, SENDER);
        self.add(AND, (5, 0), 0, 1);
        self.pass_unless(0);
    }

    /// Passes on what is from no single host on a network: "this network" (RFC 1122 §3.2.1.3), the
    /// loopback, multicast and broadcast.
    fn pass_martians_v4(&mut self) {
        self.load(LOAD_8, FROM_V4);
        self.pass_if(EQUAL, 0);
        self.pass_if(EQUAL, 127);
        self.pass_if(AT_LEAST, 224);
    }

    /// The same: multicast, and `::/64`, which has `::`, `::1` and what stands for version 4
    /// (RFC 4291 §2.5). On the loopback, `::1` is right.
    fn pass_martians_v6(&mut self, is_loopback: bool) {
        self.load(LOAD_8, FROM_V6);
        self.pass_if(EQUAL, 0xff);
        if !is_loopback {
            self.load(LOAD_64, FROM_V6);
            self.pass_if(EQUAL, 0);
        }
    }

    /// Passes on frames that are shorter than `length`.
    fn pass_shorter(&mut self, length: i16) {
        self.add(COPY, (4, 2), 0, 0);
        self.add(ADD, (4, 0), 0, i32::from(length));
        self.to_pass.push(self.program.len());
        self.add(GREATER, (4, 3), 0, 0);
    }

    /// `to = value`, as it stands in memory.
    fn constant(&mut self, to: u8, value: u64) {
        let [a, b, c, d, e, f, g, h] = value.to_ne_bytes();
        self.add(LOAD_CONSTANT, (to, 0), 0, i32::from_ne_bytes([a, b, c, d]));
        self.add(0, (0, 0), 0, i32::from_ne_bytes([e, f, g, h]));
    }

    /// Lets the jump at `from` go to what is added next.
    fn land(&mut self, from: usize) {
        let distance = self.program.len() - from - 1;
        if let Some(jump) = self.program.get_mut(from) {
            jump.offset = i16::try_from(distance).unwrap_or(i16::MAX);
        }
    }

    /// Takes the frame if `words` of its destination, in registers 7 and 8, and its port, in
    /// register 5, are these.
    fn take_if(&mut self, words: &[u64], port: u16) {
        let mut to_next = Vec::new();
        for (register, word) in (7..).zip(words) {
            self.constant(0, *word);
            to_next.push(self.program.len());
            self.add(OTHER, (register, 0), 0, 0);
        }
        self.to_take.push(self.program.len());
        self.add(EQUAL, (5, 0), 0, i32::from(port.to_be()));
        to_next.into_iter().for_each(|jump| self.land(jump));
    }
}

/// The program that takes what is meant for an interface, for the sockets in `map`.
fn assemble(own: &Own, map: RawFd) -> Vec<Instruction> {
    let mut code = Assembler::default();
    // r6 = context, r2 = the frame, r3 = its end.
    code.add(COPY, (6, 1), 0, 0);
    code.add(LOAD_32, (2, 1), 0, 0);
    code.add(LOAD_32, (3, 1), 4, 0);
    code.pass_shorter(UDP_OF_V4 + 8);
    code.pass_neighbours(own.mac);
    code.load(LOAD_16, IP - 2);
    let to_v6 = code.program.len();
    code.add(EQUAL, (5, 0), 0, i32::from(0x86dd_u16.to_be()));
    code.pass_unless(i32::from(0x0800_u16.to_be()));
    // Version 4, five words of header.
    code.load(LOAD_8, IP);
    code.pass_unless(0x45);
    // No fragment: no more of them, no offset.
    code.load(LOAD_16, IP + 6);
    code.add(AND, (5, 0), 0, i32::from(0x3fff_u16.to_be()));
    code.pass_unless(0);
    code.load(LOAD_8, IP + 9);
    code.pass_unless(UDP);
    code.pass_martians_v4();
    code.add(LOAD_32, (7, 2), IP + 16, 0);
    code.load(LOAD_16, UDP_OF_V4 + 2);
    for address in own.addresses.iter().take(MOST) {
        if let IpAddr::V4(ip) = address.ip() {
            code.take_if(&[u64::from(u32::from_ne_bytes(ip.octets()))], address.port());
        }
    }
    code.to_pass.push(code.program.len());
    code.add(JUMP, (0, 0), 0, 0);
    code.land(to_v6);
    code.pass_shorter(UDP_OF_V6 + 8);
    code.load(LOAD_8, IP + 6);
    code.pass_unless(UDP);
    code.pass_martians_v6(own.is_loopback);
    code.add(LOAD_64, (7, 2), IP + 24, 0);
    code.add(LOAD_64, (8, 2), IP + 32, 0);
    code.load(LOAD_16, UDP_OF_V6 + 2);
    for address in own.addresses.iter().take(MOST) {
        if let IpAddr::V6(ip) = address.ip() {
            let [high, low] = [ip.to_bits() >> 64, ip.to_bits() & u128::from(u64::MAX)];
            let words = [high, low].map(|word| u64::try_from(word).unwrap_or(0).to_be());
            code.take_if(&words, address.port());
        }
    }
    std::mem::take(&mut code.to_pass).into_iter().for_each(|jump| code.land(jump));
    code.add(SET, (0, 0), 0, PASS);
    code.add(EXIT, (0, 0), 0, 0);
    std::mem::take(&mut code.to_take).into_iter().for_each(|jump| code.land(jump));
    code.add(LOAD_CONSTANT, (1, OF_MAP), 0, map);
    code.add(0, (0, 0), 0, 0);
    code.add(LOAD_32, (2, 6), RX_QUEUE_INDEX, 0);
    code.add(SET, (3, 0), 0, PASS);
    code.add(CALL, (0, 0), 0, REDIRECT_MAP);
    code.add(EXIT, (0, 0), 0, 0);
    code.program
}

/// Where `struct xdp_md` has the queue that the packet came by.
const RX_QUEUE_INDEX: i16 = 16;

// Commands and kinds of bpf(2).
const MAP_CREATE: libc::c_long = 0;
const MAP_UPDATE_ELEM: libc::c_long = 2;
const PROG_LOAD: libc::c_long = 5;
const OBJ_GET_INFO_BY_FD: libc::c_long = 15;
const LINK_CREATE: libc::c_long = 28;
const LINK_UPDATE: libc::c_long = 29;
const XSKMAP: u32 = 17;
const PROG_TYPE_XDP: u32 = 6;
const ATTACH_XDP: u32 = 37;
const LINK_TYPE_XDP: u32 = 6;
const FLAG_GENERIC: u32 = 1 << 1;
const FLAG_NATIVE: u32 = 1 << 2;

/// How a program is attached.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Mode {
    /// In the driver, before the kernel has made anything of the packet.
    Native,
    /// Behind it: any driver, but dearer.
    Generic,
    /// As by the server whose place this one took.
    Inherited,
}

/// The sockets that a program knows, by queue: a map of the kernel's.
pub(super) struct Sockets(OwnedFd);

impl Sockets {
    /// For so many queues, none of which has one yet.
    ///
    /// # Errors
    /// The kernel's.
    pub(super) fn new(queues: u32) -> io::Result<Self> {
        // Kind, sizes of key and value, entries.
        let map = [XSKMAP, 4, 4, queues];
        // SAFETY: as the command wants it, without a pointer; it opens a file.
        unsafe { open(MAP_CREATE, &map) }.map(Self)
    }

    /// What comes by this queue is this socket's from now on.
    ///
    /// # Errors
    /// The kernel's.
    pub(super) fn give(&self, queue: u32, socket: BorrowedFd<'_>) -> io::Result<()> {
        let socket = socket.as_raw_fd();
        let map = u64::try_from(self.0.as_raw_fd()).map_err(io::Error::other)?;
        // Map, key, value, flags.
        let element = [map, &raw const queue as u64, &raw const socket as u64, 0];
        // SAFETY: as the command wants it; key and value live through it, and are as large as those
        // of the map.
        unsafe { bpf(MAP_UPDATE_ELEM, &element) }.map(drop)
    }
}

/// Has the interface with this index give its sockets what is its own, instead of what is
/// attached by the link `had`, without a packet in between that neither sees. The program is
/// attached as long as any copy of the link is open, in any process.
///
/// # Errors
/// The kernel's.
pub(super) fn attach(
    interface: u32,
    own: &Own,
    sockets: &Sockets,
    had: Option<OwnedFd>,
) -> io::Result<(OwnedFd, Mode)> {
    #[repr(C)]
    struct Program {
        kind: u32,
        instructions: u32,
        code: u64,
        license: u64,
        /// Level, size and place of the verifier's log; kernel and flags: nothing of them.
        unused: [u64; 3],
        name: [u8; 16],
        interface: u32,
        attach_type: u32,
    }
    let code = assemble(own, sockets.0.as_raw_fd());
    let program = Program {
        kind: PROG_TYPE_XDP,
        instructions: u32::try_from(code.len()).map_err(io::Error::other)?,
        code: code.as_ptr() as u64,
        license: c"MIT".as_ptr() as u64,
        unused: [0; 3],
        name: *b"meridian\0\0\0\0\0\0\0\0",
        interface: 0,
        attach_type: ATTACH_XDP,
    };
    // SAFETY: as the command wants it; the code is as long as it tells, and lives through it, as
    // the licence does. It opens a file.
    let program = unsafe { open(PROG_LOAD, &program) }?;
    if let Some(link) = had {
        // The link, the new program, no flags, no condition.
        let update = [link.as_raw_fd(), program.as_raw_fd(), 0, 0];
        // SAFETY: as the command wants it, without a pointer.
        unsafe { bpf(LINK_UPDATE, &update) }?;
        return Ok((link, Mode::Inherited));
    }
    let program = u32::try_from(program.as_raw_fd()).map_err(io::Error::other)?;
    let attach = |mode, flags| {
        let link = [program, interface, ATTACH_XDP, flags];
        // SAFETY: as the command wants it, without a pointer; it opens a file.
        unsafe { open(LINK_CREATE, &link) }.map(|link| (link, mode))
    };
    attach(Mode::Native, FLAG_NATIVE).or_else(|_| attach(Mode::Generic, FLAG_GENERIC))
}

/// The index of the interface that a link attaches a program to.
pub(super) fn interface_of(link: &OwnedFd) -> Option<u32> {
    #[repr(C)]
    struct Asked {
        file: u32,
        length: u32,
        answer: u64,
    }
    // Kind, number, number of the program, padding, interface.
    let mut answer = [0_u32; 8];
    let asked = Asked {
        file: u32::try_from(link.as_raw_fd()).ok()?,
        length: u32::try_from(size_of_val(&answer)).ok()?,
        answer: &raw mut answer as u64,
    };
    // SAFETY: as the command wants it; there is room for as much of an answer as it tells.
    unsafe { bpf(OBJ_GET_INFO_BY_FD, &asked) }.ok()?;
    let [kind, _, _, _, interface, ..] = answer;
    (kind == LINK_TYPE_XDP).then_some(interface)
}

/// bpf(2), with a command that opens a file, and what it wants.
///
/// # Safety
/// As of [`bpf`]; the command opens a file.
unsafe fn open<T>(command: libc::c_long, attributes: &T) -> io::Result<OwnedFd> {
    // SAFETY: as the caller says; what has just been opened is this process's.
    unsafe { Ok(OwnedFd::from_raw_fd(bpf(command, attributes)?)) }
}

/// bpf(2), with a command and what it wants.
///
/// # Safety
/// `attributes` is the beginning of `union bpf_attr` for the command, without padding; what it
/// points to lives through the call and has the size that it tells.
unsafe fn bpf<T>(command: libc::c_long, attributes: &T) -> io::Result<RawFd> {
    // SAFETY: the pointer is to attributes of this size; else as the caller says.
    let result =
        unsafe { libc::syscall(libc::SYS_bpf, command, &raw const *attributes, size_of::<T>()) };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    RawFd::try_from(result).map_err(io::Error::other)
}
