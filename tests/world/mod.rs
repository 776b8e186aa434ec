//! The world of the fuzzer and of the unit tests of answers, and questions for all that is in it.

use hickory_proto::op::{Edns, Message, Query};
use hickory_proto::rr::rdata::opt::EdnsOption;
use hickory_proto::rr::{Name, RecordType};
use meridian::config::{Config, Targets};
use meridian::geo::{Atlas, Catchment, Geofeed, Sources};
use meridian::health::HealthTable;
use meridian::snapshot::{Plan, Snapshot};
use meridian::steer::Facts;

/// All of it, compiled, without maps.
pub(crate) fn world() -> Snapshot {
    let text = include_str!("../../fuzz/world.yaml");
    let mut no_files = |_: &std::path::Path| Err("no files here".to_owned());
    let config = Config::load("world.yaml", text, &mut Targets::default(), &mut no_files).unwrap();
    let feed = Geofeed::parse(include_str!("../../fuzz/world.csv")).unwrap();
    let atlas = Atlas::build(Sources { geofeed: Some(&feed), ..Sources::default() });
    let catchments = Catchment::build_all(&atlas, &config.catchments);
    let Config { zones, services, regions, identity, .. } = config;
    let plan = Plan::new(zones, services, regions, catchments, identity);
    Snapshot::compile(plan.into(), &Facts::of(&HealthTable::default()), None, None, 1)
}

/// A query, as a resolver sends it that names its client's subnet.
pub(crate) fn query(name: &str, rtype: RecordType) -> Vec<u8> {
    let mut message = Message::query();
    message.add_query(Query::query(Name::from_ascii(name).unwrap(), rtype));
    let mut edns = Edns::new();
    edns.set_max_payload(1232);
    edns.options_mut().insert(EdnsOption::Subnet("192.0.2.0/24".parse().unwrap()));
    message.set_edns(edns);
    message.to_vec().unwrap()
}
