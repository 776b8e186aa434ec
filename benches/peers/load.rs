//! Load: queries made ahead, sent over a few sockets; how many answers, how soon.

use std::ffi::OsStr;
use std::fmt::Write as _;
use std::mem::zeroed;
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::AsRawFd;
use std::process::Command;
use std::time::{Duration, Instant};

use hickory_proto::op::{Edns, Message, Query};
use hickory_proto::rr::rdata::opt::EdnsOption;
use hickory_proto::rr::{Name, RecordType};
use meridian::rng::{Seed, Stream};

/// The zone that is asked for.
pub(crate) const ZONE: &str = "gtm.test";

/// What is asked.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Workload {
    /// One steered name, 70 % A and 30 % AAAA, each for a random public /24.
    Subnets,
    /// The same without a client subnet.
    NoSubnets,
    /// The same as the first, of servers that take it past the kernel's stack (AF_XDP).
    Past,
    /// Random names of so many with fixed addresses; every fifth does not exist.
    Static(u32),
    /// The same, of which all exist.
    Hits(u32),
    /// The same, of which none does.
    Misses(u32),
    /// Names that are in no zone of the server.
    Elsewhere,
    /// By halves: random names of so many with fixed addresses, and random names of so many
    /// services, for a random public /24.
    Mixed(u32, u32),
}

impl Workload {
    /// What it is called.
    pub(crate) fn title(self) -> String {
        match self {
            Self::Subnets => "a steered name, random client subnets".to_owned(),
            Self::NoSubnets => "a steered name, no client subnets".to_owned(),
            Self::Past => "a steered name, random client subnets, AF_XDP".to_owned(),
            Self::Static(names) => format!("{names} fixed names, 20 % NXDOMAIN"),
            Self::Hits(names) => format!("{names} fixed names"),
            Self::Misses(_) => "names that do not exist".to_owned(),
            Self::Elsewhere => "names of others".to_owned(),
            Self::Mixed(names, services) => format!("{names} fixed names, {services} services"),
        }
    }
}

/// Queries, again and again.
pub(crate) struct Queries {
    octets: Vec<[u8; LONGEST_QUERY]>,
    lengths: Vec<usize>,
    next: usize,
}

/// So many different ones that no cache keeps all their answers.
const QUERIES: usize = 1 << 17;

const LONGEST_QUERY: usize = 128;

impl Queries {
    pub(crate) fn new(workload: Workload) -> Self {
        let mut stream = Seed::new(1).stream("load");
        let mut queries = Self { octets: Vec::new(), lengths: Vec::new(), next: 0 };
        for _ in 0..QUERIES {
            let query = query(workload, &mut stream);
            let mut room = [0; LONGEST_QUERY];
            room[..query.len()].copy_from_slice(&query);
            queries.octets.push(room);
            queries.lengths.push(query.len());
        }
        queries
    }

    /// The next one, with this number.
    pub(crate) fn take(&mut self, id: u16) -> &mut [u8] {
        self.next = (self.next + 1) % QUERIES;
        let query = &mut self.octets[self.next][..self.lengths[self.next]];
        query[..2].copy_from_slice(&id.to_be_bytes());
        query
    }
}

fn query(workload: Workload, stream: &mut Stream) -> Vec<u8> {
    let name = match workload {
        Workload::Subnets | Workload::NoSubnets | Workload::Past => format!("www.{ZONE}."),
        Workload::Static(names) => {
            let kind = if stream.below(5) == 0 { 'x' } else { 'h' };
            format!("{kind}{:06}.{ZONE}.", stream.below(names.into()))
        }
        Workload::Hits(names) => format!("h{:06}.{ZONE}.", stream.below(names.into())),
        Workload::Misses(names) => format!("x{:06}.{ZONE}.", stream.below(names.into())),
        Workload::Elsewhere => format!("h{:06}.elsewhere.test.", stream.below(1 << 16)),
        Workload::Mixed(names, _) if stream.below(2) == 0 => {
            format!("h{:06}.{ZONE}.", stream.below(names.into()))
        }
        Workload::Mixed(_, services) => format!("s{}.{ZONE}.", stream.below(services.into())),
    };
    let rtype = if stream.below(10) < 7 { RecordType::A } else { RecordType::AAAA };
    let mut message = Message::query();
    message.add_query(Query::query(Name::from_ascii(name).unwrap(), rtype));
    let mut edns = Edns::new();
    edns.set_max_payload(1232);
    if matches!(workload, Workload::Subnets | Workload::Past | Workload::Mixed(..)) {
        edns.options_mut().insert(EdnsOption::Subnet(subnet(stream).parse().unwrap()));
    }
    message.set_edns(edns);
    message.to_vec().unwrap()
}

/// A /24 that may be somebody's.
fn subnet(stream: &mut Stream) -> String {
    loop {
        let [a, b, c] = [(); 3].map(|()| stream.below(256));
        let is_special = matches!((a, b), (0 | 10 | 127 | 224.., _) | (192, 168) | (169, 254))
            || (a == 172 && (16..32).contains(&b))
            || (a == 100 && (64..128).contains(&b));
        if !is_special {
            return format!("{a}.{b}.{c}.0/24");
        }
    }
}

/// How to ask.
#[derive(Clone, Copy)]
pub(crate) enum Pace {
    /// So many queries are always on their way: the most that can be answered.
    Window(usize),
    /// So many queries a second, whatever becomes of them.
    Rate(f64),
}

/// What came of it.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    pub(crate) seconds: f64,
    pub(crate) sent: u64,
    pub(crate) lost: u64,
    /// By response code.
    pub(crate) rcodes: [u64; 16],
    /// From when each query was to be sent to its answer, in nanoseconds.
    pub(crate) latencies: Vec<u32>,
}

impl Seen {
    pub(crate) fn answers(&self) -> u64 {
        self.rcodes.iter().sum()
    }
}

/// Queries on their way at any time, at the most that can be answered: fewer than the smallest
/// receive buffer holds.
pub(crate) const WINDOW: usize = 128;

/// An unanswered query is lost after so long.
const PATIENCE: Duration = Duration::from_millis(300);

/// Datagrams a call.
const BATCH: usize = 64;

/// Sockets, among which the queries go round.
const SOCKETS: usize = 4;

/// As much of an answer as is read.
const LONGEST_ANSWER: usize = 512;

/// Asks `server` for so long.
pub(crate) fn ask(server: SocketAddr, queries: &mut Queries, pace: Pace, span: Duration) -> Seen {
    let mut lines: Vec<Line> = (0..SOCKETS).map(|_| Line::open(server)).collect();
    let mut seen = Seen { latencies: Vec::with_capacity(1 << 21), ..Seen::default() };
    let began = Instant::now();
    let mut forgotten = Duration::ZERO;
    loop {
        let now = began.elapsed();
        if now >= span {
            break;
        }
        for line in &mut lines {
            line.receive(began, &mut seen);
        }
        let (room, until) = match pace {
            Pace::Window(all) => (all / SOCKETS, u64::MAX),
            Pace::Rate(rate) => ((1 << 16) - 1, (now.as_secs_f64() * rate) as u64),
        };
        let asked_at = |row: u64| match pace {
            Pace::Window(_) => now,
            Pace::Rate(rate) => Duration::from_secs_f64(row as f64 / rate),
        };
        // What is due is shared among the sockets, and each has room for so many.
        let share = until.saturating_sub(seen.sent).div_ceil(SOCKETS as u64).min(BATCH as u64);
        for line in &mut lines {
            let due = until.saturating_sub(seen.sent).min(share) as usize;
            line.send(due.min(room.saturating_sub(line.open)), queries, &mut seen, asked_at);
        }
        if now - forgotten > PATIENCE / 6 {
            forgotten = now;
            lines.iter_mut().for_each(|line| line.give_up(now, &mut seen));
        }
    }
    seen.seconds = began.elapsed().as_secs_f64();
    seen.latencies.sort_unstable();
    seen
}

/// A socket and the queries that are on their way over it.
struct Line {
    socket: UdpSocket,
    /// When each was sent, by its number, in nanoseconds and one; 0: none is on its way.
    sent: Vec<u64>,
    next: u16,
    open: usize,
    answers: Box<[[u8; LONGEST_ANSWER]; BATCH]>,
}

impl Line {
    fn open(server: SocketAddr) -> Self {
        let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
        let kept = socket2::SockRef::from(&socket);
        kept.set_recv_buffer_size(4 << 20).unwrap();
        kept.set_send_buffer_size(4 << 20).unwrap();
        socket.set_nonblocking(true).unwrap();
        socket.connect(server).unwrap();
        let answers = Box::new([[0; LONGEST_ANSWER]; BATCH]);
        Self { socket, sent: vec![0; 1 << 16], next: 0, open: 0, answers }
    }

    fn receive(&mut self, began: Instant, seen: &mut Seen) {
        if self.open == 0 {
            return;
        }
        // SAFETY: all-zero headers and buffers are valid and empty.
        let (mut headers, mut buffers): ([libc::mmsghdr; BATCH], [libc::iovec; BATCH]) =
            unsafe { (zeroed(), zeroed()) };
        let rows = headers.iter_mut().zip(&mut buffers).zip(self.answers.iter_mut());
        for ((header, buffer), answer) in rows {
            *buffer = libc::iovec { iov_base: answer.as_mut_ptr().cast(), iov_len: answer.len() };
            header.msg_hdr.msg_iov = buffer;
            header.msg_hdr.msg_iovlen = 1;
        }
        let (socket, flags) = (self.socket.as_raw_fd(), libc::MSG_DONTWAIT);
        let headers = headers.as_mut_ptr();
        // SAFETY: each header points to its buffer, and these to room of the length they tell.
        let count =
            unsafe { libc::recvmmsg(socket, headers, BATCH as u32, flags, std::ptr::null_mut()) };
        let now = nanoseconds(began.elapsed());
        for answer in self.answers.iter().take(usize::try_from(count).unwrap_or(0)) {
            let id = u16::from_be_bytes([answer[0], answer[1]]);
            let sent = std::mem::take(&mut self.sent[usize::from(id)]);
            // What was given up, and what is no response, counts for nothing.
            if sent > 0 && answer[2] & 0x80 != 0 {
                self.open -= 1;
                seen.rcodes[usize::from(answer[3] & 15)] += 1;
                seen.latencies.push(u32::try_from(now + 1 - sent.min(now)).unwrap_or(u32::MAX));
            }
        }
    }

    fn send(
        &mut self,
        wanted: usize,
        queries: &mut Queries,
        seen: &mut Seen,
        asked_at: impl Fn(u64) -> Duration,
    ) {
        // SAFETY: all-zero headers and buffers are valid and empty.
        let (mut headers, mut buffers): ([libc::mmsghdr; BATCH], [libc::iovec; BATCH]) =
            unsafe { (zeroed(), zeroed()) };
        let mut count = 0;
        for (header, buffer) in headers.iter_mut().zip(&mut buffers).take(wanted) {
            let id = self.next.wrapping_add(u16::try_from(count).unwrap());
            if self.sent[usize::from(id)] != 0 {
                break;
            }
            let query = queries.take(id);
            *buffer = libc::iovec { iov_base: query.as_mut_ptr().cast(), iov_len: query.len() };
            header.msg_hdr.msg_iov = buffer;
            header.msg_hdr.msg_iovlen = 1;
            count += 1;
        }
        let (socket, headers) = (self.socket.as_raw_fd(), headers.as_mut_ptr());
        // SAFETY: the first `count` headers point to buffers, and these to queries that live on.
        let done = if count > 0 { unsafe { libc::sendmmsg(socket, headers, count, 0) } } else { 0 };
        for _ in 0..done {
            self.sent[usize::from(self.next)] = nanoseconds(asked_at(seen.sent)) + 1;
            self.next = self.next.wrapping_add(1);
            self.open += 1;
            seen.sent += 1;
        }
    }

    /// Counts what was not answered in time as lost.
    fn give_up(&mut self, now: Duration, seen: &mut Seen) {
        let last = nanoseconds(now.saturating_sub(PATIENCE));
        for sent in self.sent.iter_mut().filter(|sent| (1..last).contains(*sent)) {
            *sent = 0;
            self.open -= 1;
            seen.lost += 1;
        }
    }
}

fn nanoseconds(span: Duration) -> u64 {
    u64::try_from(span.as_nanos()).unwrap()
}

/// A zone file with so many fixed names.
pub(crate) fn zone(names: u32) -> String {
    let mut text = format!(
        "$ORIGIN {ZONE}.
$TTL 300
@ SOA ns1 hostmaster 1 7200 1800 1209600 300
@ NS ns1
@ NS ns2
ns1 A 192.0.2.53
ns2 A 192.0.2.54
"
    );
    for row in 0..names {
        let ([_, b, c, d], high, low) = (row.to_be_bytes(), row >> 16, row & 0xffff);
        let (v4, v6) = (format!("10.{b}.{c}.{d}"), format!("2001:db8:1::{high:x}:{low:x}"));
        writeln!(text, "h{row:06} A {v4}\nh{row:06} AAAA {v6}").unwrap();
    }
    text
}

/// The load has a core of its own.
pub(crate) fn run_on_core(core: usize) {
    // SAFETY: an all-zero set is valid and empty; the call reads as much of it as it is told.
    unsafe {
        let mut cores: libc::cpu_set_t = zeroed();
        libc::CPU_SET(core, &mut cores);
        // On a machine with one core there is no other.
        let _only_one = libc::sched_setaffinity(0, size_of_val(&cores), &raw const cores);
    }
}

/// Whoever else comes to this thread's core waits for it. That needs root, and is not worth failing
/// for.
pub(crate) fn go_first() {
    // SAFETY: it takes numbers.
    unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, -20) };
}

/// This program on the first core, which the load leaves to it.
pub(crate) fn on_first_core(program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new("taskset");
    command.args(["-c", "0"]).arg(program);
    command
}

/// The one in the middle; 0 of none.
pub(crate) fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(0.0)
}
