//! The answer path allocates nothing, once its buffer has grown.

#![expect(clippy::unwrap_used, reason = "what a test says must be, must be")]

mod world;

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

use hickory_proto::rr::RecordType;
use meridian::query::{Outcome, Peer, Transport, answer};
use meridian::time::Instant;

use world::{query, world};

/// The system's allocator, which counts what each thread asks of it.
struct Counting;

thread_local! {
    static ASKED: Cell<u64> = const { Cell::new(0) };
}

// SAFETY: every call is the system allocator's own.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ASKED.set(ASKED.get() + 1);
        // SAFETY: the caller's promise is handed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, place: *mut u8, layout: Layout) {
        // SAFETY: as above.
        unsafe { System.dealloc(place, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

#[test]
fn no_answer_asks_for_memory() {
    let names = [
        ("www.example.com", RecordType::A),
        ("www.example.com", RecordType::AAAA),
        ("x.many.example.com", RecordType::A),
        ("weighted.example.com", RecordType::A),
        ("cdn.example.com", RecordType::A),
        ("alias.example.com", RecordType::A),
        ("loop.example.com", RecordType::A),
        ("a.b.wild.example.com", RecordType::A),
        ("host.sub.example.com", RecordType::A),
        ("big.example.com", RecordType::TXT),
        ("nope.example.com", RecordType::A),
        ("example.com", RecordType::ANY),
        ("example.com", RecordType::AXFR),
        ("example.net", RecordType::A),
    ];
    let queries = names.map(|(name, rtype)| query(name, rtype));
    let peer = Peer { address: "192.0.2.53:53".parse().unwrap(), transport: Transport::Udp };
    let mut out = Vec::with_capacity(8192);
    // What is made once and kept is made in the first round. Without maps nothing more is.
    let (undrawn, drawn) = (world(), world().drawn());
    for (snapshot, is_first) in [(&drawn, true), (&drawn, false), (&undrawn, false)] {
        for (query, (name, _)) in queries.iter().zip(names) {
            let before = ASKED.get();
            let outcome = answer(snapshot, query, peer, Instant::default(), &mut out);
            let asked = ASKED.get() - before;
            assert!(matches!(outcome, Outcome::Answered(_)), "{name}");
            assert!(is_first || asked == 0, "{name}: {asked} allocations");
        }
    }
}
