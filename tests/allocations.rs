//! The answer path allocates nothing, once its buffer has grown.

#![expect(clippy::unwrap_used, reason = "what a test says must be, must be")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

use hickory_proto::op::{Edns, Message, Query};
use hickory_proto::rr::rdata::opt::EdnsOption;
use hickory_proto::rr::{Name, RecordType};
use meridian::config::{Config, Targets};
use meridian::geo::{Atlas, Catchment, Geofeed, Sources};
use meridian::health::HealthTable;
use meridian::query::{Outcome, Peer, Transport, answer};
use meridian::snapshot::{Plan, Snapshot};
use meridian::steer::Facts;
use meridian::time::Instant;

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

fn world() -> Snapshot {
    let text = include_str!("../fuzz/world.yaml");
    let mut no_files = |_: &std::path::Path| Err("no files here".to_owned());
    let config = Config::load("world.yaml", text, &mut Targets::default(), &mut no_files).unwrap();
    let feed = Geofeed::parse(include_str!("../fuzz/world.csv")).unwrap();
    let atlas = Atlas::build(Sources { geofeed: Some(&feed), ..Sources::default() });
    let catchments = config.catchments.iter();
    let catchments = catchments.map(|spec| Catchment::build(&atlas, spec.clone()).into()).collect();
    let Config { zones, services, regions, identity, .. } = config;
    let plan = Plan::new(zones, services, regions, catchments, identity);
    Snapshot::compile(plan.into(), &Facts::of(&HealthTable::default()), None, None, 1)
}

#[test]
fn no_answer_asks_for_memory() {
    let snapshot = world();
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
    let queries = names.map(|(name, rtype)| {
        let mut message = Message::query();
        message.add_query(Query::query(Name::from_ascii(name).unwrap(), rtype));
        let mut edns = Edns::new();
        edns.set_max_payload(1232);
        edns.options_mut().insert(EdnsOption::Subnet("192.0.2.0/24".parse().unwrap()));
        message.set_edns(edns);
        message.to_vec().unwrap()
    });
    let peer = Peer { address: "192.0.2.53:53".parse().unwrap(), transport: Transport::Udp };
    let mut out = Vec::with_capacity(8192);
    // What is made once and kept is made in the first round.
    for is_first in [true, false] {
        for (query, (name, _)) in queries.iter().zip(names) {
            let before = ASKED.get();
            let outcome = answer(&snapshot, query, peer, Instant::default(), &mut out);
            let asked = ASKED.get() - before;
            assert!(matches!(outcome, Outcome::Answered(_)), "{name}");
            assert!(is_first || asked == 0, "{name}: {asked} allocations");
        }
    }
}
