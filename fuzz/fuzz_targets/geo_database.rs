//! Any GeoIP database: read and drawn, or refused.

#![no_main]

use libfuzzer_sys::fuzz_target;
use meridian::geo::{Atlas, Database, Sources};

fuzz_target!(|bytes: &[u8]| {
    let places = Database::read(bytes.to_vec()).ok();
    let asns = Database::read_asns(bytes.to_vec()).ok();
    let atlas =
        Atlas::build(Sources { places: places.as_slice(), asns: asns.as_slice(), geofeed: None });
    for client in ["192.0.2.1", "2001:db8::1", "::1", "::ffff:192.0.2.1"] {
        let client = client.parse().unwrap();
        assert!(atlas.locate(client).network.contains(&client) || client.is_ipv6());
    }
});
