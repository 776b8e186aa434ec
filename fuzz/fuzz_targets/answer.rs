//! Any packet: the answer is no answer to an answer, fits, and is read by hickory-proto.
//!
//! The first two octets of the input choose the transport and the client; the rest is the packet.

#![no_main]

use std::net::{IpAddr, SocketAddr};
use std::sync::LazyLock;

use hickory_proto::op::{Message, MessageType};
use libfuzzer_sys::fuzz_target;
use meridian::config::{Config, Targets};
use meridian::geo::{Atlas, Catchment, Geofeed, Sources};
use meridian::health::{HealthTable, State};
use meridian::query::{Outcome, Peer, Transport, answer};
use meridian::snapshot::{Plan, Snapshot};
use meridian::steer::Facts;
use meridian::time::Instant;

static SNAPSHOT: LazyLock<Snapshot> = LazyLock::new(|| {
    let config = include_str!("../world.yaml");
    let config = Config::load("world.yaml", config, &mut Targets::default(), &mut |_| {
        Err("no files here".to_owned())
    });
    let config = config.unwrap();
    let feed = Geofeed::parse(include_str!("../world.csv")).unwrap();
    let atlas = Atlas::build(Sources { geofeed: Some(&feed), ..Sources::default() });
    let catchments = Catchment::build_all(&atlas, &config.catchments);
    let down = config.targets.iter().step_by(3);
    let health = down
        .fold(HealthTable::default(), |table, target| table.assuming(target.id, State::Down));
    let Config { zones, services, regions, identity, .. } = config;
    let plan = Plan::new(zones, services, regions, catchments, identity);
    Snapshot::compile(plan.into(), &Facts::of(&health), None, None, 1).drawn()
});

fuzz_target!(|input: &[u8]| {
    let [how, who, packet @ ..] = input else { return };
    let transport = match how % 3 {
        0 => Transport::Udp,
        1 => Transport::Tcp,
        _ => Transport::Https,
    };
    let address: IpAddr = match who % 2 {
        0 => [192, 0, 2, *who].into(),
        _ => [0x2001, 0xdb8, 0, u16::from(*who), 0, 0, 0, 1].into(),
    };
    let peer = Peer { address: SocketAddr::new(address, 5353), transport };
    let mut out = Vec::new();
    match answer(&SNAPSHOT, packet, peer, Instant::default(), &mut out) {
        Outcome::Silent(_) => assert!(out.is_empty()),
        Outcome::Answered(_) => {
            assert!(packet[2] & 0x80 == 0, "an answer to an answer");
            assert!(out.len() <= if transport == Transport::Udp { 1232 } else { 65535 });
            assert_eq!(out[..2], packet[..2], "the id");
            let message = match Message::from_vec(&out) {
                Ok(message) => message,
                // A client subnet of no family and no address (`dig +subnet=0`) is echoed as it
                // was sent; hickory-proto does not know it.
                Err(error) if error.to_string().contains("address family") => return,
                Err(error) => panic!("unreadable: {error}"),
            };
            assert_eq!(message.metadata.message_type, MessageType::Response);
        }
    }
});
