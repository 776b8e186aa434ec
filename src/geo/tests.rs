//! Databases of every schema and every brokenness, and maps against the naive way.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use meridian_geoip_make::{Value, Writer};
use proptest::prelude::*;

use super::networks::{Bounds, Key, Steps, both};
use super::packed::Packed;
use super::wide::Wide;
use super::*;
use crate::ids::RegionId;

fn net(text: &str) -> IpNet {
    text.parse().unwrap()
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn database(kind: &str, rows: &[(&str, Value)]) -> Vec<u8> {
    // Without a description, as many flat files are.
    let mut writer = Writer::new(kind, "", 1_700_000_000);
    rows.iter().for_each(|(network, value)| writer.insert(net(network), value));
    writer.finish()
}

fn code(text: &str) -> Value {
    Value::map([("iso_code", Value::text(text))])
}

fn point(latitude: f64, longitude: f64) -> Value {
    Value::map([("latitude", Value::Double(latitude)), ("longitude", Value::Double(longitude))])
}

/// What an atlas of this one database says of an address.
fn told(bytes: Vec<u8>, client: &str) -> String {
    let database = Database::read(bytes).unwrap();
    let atlas = Atlas::build(Sources { places: &[database], ..Sources::default() });
    let location = atlas.locate(ip(client));
    let Some(place) = location.place else { return format!("{}", location.source) };
    let or_none = |part: Option<String>| part.unwrap_or_else(|| "-".to_owned());
    let parts = [
        or_none(place.continent.map(|of| of.to_string())),
        or_none(place.country.map(|of| of.to_string())),
        or_none(place.subdivision.map(|of| of.to_string())),
        or_none(place.city.as_deref().map(str::to_owned)),
        or_none(place.at.map(|at| format!("{:.1} {:.1}", at.latitude(), at.longitude()))),
    ];
    format!("{} in {}", parts.join(" "), location.network)
}

#[test]
fn every_schema_that_people_have_is_found_out_from_the_file() {
    let text = Value::text;
    let city = Value::map([
        ("city", Value::map([("names", Value::map([("en", text("Dublin"))]))])),
        ("continent", Value::map([("code", text("EU"))])),
        ("country", code("IE")),
        ("location", point(53.3, -6.3)),
        ("subdivisions", Value::Array(vec![code("L")])),
    ]);
    let country = Value::map([
        ("continent", Value::map([("code", text("EU"))])),
        ("country", code("IE")),
        ("registered_country", code("US")),
    ]);
    let registered = Value::map([("registered_country", code("IE"))]);
    let flat = Value::map([
        ("country_code", text("IE")),
        ("state1", text("Leinster")),
        ("city", text("Dublin")),
        ("latitude", Value::Double(53.3)),
        ("longitude", Value::Double(-6.3)),
    ]);
    let texts =
        Value::map([("country_code", text("IE")), ("lat", text("53.3")), ("lng", text("-6.3"))]);
    let ipinfo = Value::map([
        ("country", text("IE")),
        ("region", text("Leinster")),
        ("city", text("Dublin")),
        ("loc", text("53.3,-6.3")),
        ("asn", text("AS1213")),
    ]);
    let names = Value::map([("country", text("Ireland")), ("country_code", text("IE"))]);
    let endless = Value::map([("country_code", text("IE")), ("city", text(&"x".repeat(256)))]);
    for (kind, value, expected) in [
        ("GeoLite2-City", city, "EU IE IE-L Dublin 53.3 -6.3"),
        ("DBIP-Country-Lite", country, "EU IE - - -"),
        ("GeoIP2-Country", registered, "- IE - - -"),
        ("ip-location-db", flat, "- IE - Dublin 53.3 -6.3"),
        ("IP2Location", texts, "- IE - - 53.3 -6.3"),
        ("ipinfo standard_location.mmdb", ipinfo, "- IE - Dublin 53.3 -6.3"),
        ("ipinfo country.mmdb", names, "- IE - - -"),
        ("none", endless, "- IE - - -"),
    ] {
        let bytes = database(kind, &[("8.8.0.0/16", value.clone()), ("2a00::/12", value)]);
        assert_eq!(told(bytes.clone(), "8.8.8.8"), format!("{expected} in 8.8.0.0/16"), "{kind}");
        assert_eq!(told(bytes.clone(), "2a00::1"), format!("{expected} in 2a00::/12"), "{kind}");
        assert_eq!(told(bytes, "9.9.9.9"), "not located", "{kind}");
    }
}

#[test]
fn autonomous_systems_come_from_their_own_database() {
    let row = |number| Value::map([("autonomous_system_number", Value::Uint32(number))]);
    let bytes = database("GeoLite2-ASN", &[("8.8.0.0/16", row(15169)), ("2a00::/12", row(1213))]);
    let asns = Database::read_asns(bytes.clone()).unwrap();
    let atlas = Atlas::build(Sources { asns: &[asns], ..Sources::default() });
    assert_eq!(atlas.locate(ip("8.8.8.8")).asn, Some(15169));
    assert_eq!(atlas.locate(ip("2a00::1")).asn, Some(1213));
    assert_eq!(atlas.locate(ip("9.9.9.9")).asn, None);
    // Each where the other is wanted is a mistake that is told.
    let told = Database::read(bytes).unwrap_err().to_string();
    assert!(told.contains("tells autonomous systems; expected one that tells places"), "{told}");
    let places =
        database("GeoLite2-City", &[("8.8.0.0/16", Value::map([("country", code("US"))]))]);
    let told = Database::read_asns(places).unwrap_err().to_string();
    assert!(told.contains("tells places; expected one that tells autonomous systems"), "{told}");
}

#[test]
fn databases_that_come_one_a_family_are_one() {
    let flat = |country| Value::map([("country_code", Value::text(country))]);
    let v4 =
        database("ip-location-db v4", &[("8.8.0.0/16", flat("US")), ("9.0.0.0/8", flat("DE"))]);
    let v6 = database("ip-location-db v6", &[("2a00::/12", flat("IE"))]);
    let newer = database("corrections", &[("9.9.0.0/16", flat("SG"))]);
    let databases = [v4, v6, newer].map(|bytes| Database::read(bytes).unwrap());
    let atlas = Atlas::build(Sources { places: &databases, ..Sources::default() });
    for (client, country) in
        [("8.8.8.8", "US"), ("2a00::1", "IE"), ("9.1.1.1", "DE"), ("9.9.9.9", "SG")]
    {
        let place = atlas.locate(ip(client)).place.unwrap();
        assert_eq!(place.country, country.parse().ok(), "{client}");
    }
}

#[test]
fn a_tree_without_an_end_is_refused() {
    let row = Value::map([("country", code("US"))]);
    let mut bytes = database("GeoLite2-City", &[("8.8.0.0/16", row)]);
    // Both sides of each of the first nodes lead back to the root: three octets a side.
    bytes[..6 * 100].fill(0);
    let told = Database::read(bytes).unwrap_err().to_string();
    assert!(told.contains("not an intact GeoIP database"), "{told}");
}

#[test]
fn what_is_no_database_is_refused_with_its_reason() {
    let good = database("GeoLite2-City", &[("8.8.0.0/16", Value::map([("country", code("US"))]))]);
    let strange = database(
        "GeoIP2-Domain",
        &[("8.0.0.0/8", Value::map([("domain", Value::text("example"))]))],
    );
    let scalar = database("odd", &[("8.0.0.0/8", Value::text("nothing"))]);
    let wrong_type = database(
        "GeoLite2-City",
        &[("8.0.0.0/8", Value::map([("country", code("US")), ("location", Value::text("here"))]))],
    );
    for (bytes, expected) in [
        (Vec::new(), "the file is empty"),
        (b"<html>404</html>".to_vec(), "not an intact GeoIP database"),
        (good[..good.len() / 2].to_vec(), "not an intact GeoIP database"),
        (good[..good.len() - 3].to_vec(), "not an intact GeoIP database"),
        (database("GeoLite2-City", &[]), "no records"),
        (strange, "have none of the fields that tell a place or an autonomous system"),
        (scalar, "their fields: none"),
        (wrong_type, "a record of this database (type GeoLite2-City) cannot be read"),
    ] {
        let told = Database::read(bytes).unwrap_err().to_string();
        assert!(told.contains(expected), "{told}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    /// Bits that are wrong anywhere: refused, or read as something, and never more than that.
    #[test]
    fn flipped_bits_do_no_harm(at in 0usize..400, bit in 0u8..8, cut in 0usize..400) {
        let value = Value::map([("country", code("US")), ("location", point(40.0, -75.0))]);
        let other = Value::map([("country", code("IE"))]);
        let mut bytes = database("GeoLite2-City", &[("8.8.0.0/16", value), ("2a00::/12", other)]);
        let at = at % bytes.len();
        bytes[at] ^= 1 << bit;
        bytes.truncate(bytes.len().max(cut));
        if let Ok(database) = Database::read(bytes) {
            let atlas = Atlas::build(Sources { places: &[database], ..Sources::default() });
            for client in ["8.8.8.8", "2a00::1", "::1"] {
                let _read = atlas.locate(ip(client));
            }
        }
    }
}

/// Networks within a few small blocks, so that they overlap and touch.
fn any_network() -> impl Strategy<Value = IpNet> {
    let v4 = (0u32..1 << 12, 20u8..=32).prop_map(|(low, length)| {
        IpNet::new(Ipv4Addr::from(0x0808_0000 + low).into(), length).unwrap().trunc()
    });
    let v6 = (0u128..1 << 12, 52u8..=64).prop_map(|(low, length)| {
        let address = Ipv6Addr::from(0x2a00_u128 << 112 | low << 64);
        IpNet::new(address.into(), length).unwrap().trunc()
    });
    prop_oneof![v4, v6]
}

fn any_client() -> impl Strategy<Value = IpAddr> {
    prop_oneof![
        (0u32..1 << 12).prop_map(|low| Ipv4Addr::from(0x0808_0000 + low).into()),
        (0u128..1 << 12, any::<u64>()).prop_map(|(low, rest)| {
            Ipv6Addr::from(0x2a00_u128 << 112 | low << 64 | u128::from(rest)).into()
        }),
        any::<u32>().prop_map(|ip| Ipv4Addr::from(ip).into()),
        any::<u128>().prop_map(|ip| Ipv6Addr::from(ip).into()),
    ]
}

const COUNTRIES: [&str; 4] = ["US", "IE", "DE", "SG"];

fn feed(networks: &[(IpNet, usize)]) -> Geofeed {
    let mut lines: Vec<String> = Vec::new();
    for (row, (network, country)) in networks.iter().enumerate() {
        if networks[..row].iter().all(|(known, _)| known != network) {
            lines.push(format!("{network},{},,,", COUNTRIES[*country]));
        }
    }
    Geofeed::parse(&lines.join("\n")).unwrap()
}

fn region(row: usize) -> RegionId {
    RegionId::from_index(row).unwrap()
}

proptest! {
    /// Against the naive way: the longest network that contains the client; and everybody in the
    /// network that is told is in the same place.
    #[test]
    fn an_atlas_is_a_longest_prefix_match(
        networks in prop::collection::vec((any_network(), 0usize..4), 0..30),
        clients in prop::collection::vec(any_client(), 20),
    ) {
        let feed = feed(&networks);
        let atlas = Atlas::build(Sources { geofeed: Some(&feed), ..Sources::default() });
        for client in clients {
            let location = atlas.locate(client);
            let is_special = special::located(client) != naive_located(client);
            if location.source == Source::Private || is_special {
                continue;
            }
            let around = feed.entries().filter(|(network, _)| network.contains(&client));
            let expected = around.max_by_key(|(network, _)| network.prefix_len());
            let country = |place: &Place| place.country;
            let expected = expected.and_then(|(_, place)| country(place));
            prop_assert_eq!(location.place.and_then(country), expected, "{}", client);
            prop_assert!(location.network.contains(&client));
            for end in [location.network.network(), location.network.broadcast()] {
                prop_assert_eq!(atlas.locate(end).place.map(country), location.place.map(country));
            }
        }
    }

    /// Catchments, drawn together, say the same as ranking the regions for each client.
    #[test]
    fn a_catchment_ranks_like_its_rules(
        networks in prop::collection::vec((any_network(), 0usize..4), 0..20),
        rules in prop::collection::vec((0usize..2, any_network(), 0usize..3), 0..5),
        countries in prop::collection::vec((0usize..2, 0usize..4, 0usize..3), 0..4),
        clients in prop::collection::vec(any_client(), 20),
        nearest: bool,
    ) {
        let feed = feed(&networks);
        let atlas = Atlas::build(Sources { geofeed: Some(&feed), ..Sources::default() });
        let at = [(39.0, -77.0), (53.0, -6.0), (1.3, 103.8)];
        let sites = at.iter().enumerate().map(|(row, (latitude, longitude))| Site {
            region: region(row),
            at: Coordinates::new(*latitude, *longitude),
        });
        let sites: Vec<Site> = sites.collect();
        let default = vec![region(2), region(0), region(1)];
        let preferences = Preferences { nearest, default, ..Preferences::default() };
        let spec = CatchmentSpec { sites, preferences };
        let mut specs = [spec.clone(), spec];
        for (of, network, row) in rules {
            let prefixes = &mut specs[of].preferences.prefixes;
            if prefixes.iter().all(|(known, _)| *known != network) {
                prefixes.push((network, vec![region(row)]));
            }
        }
        for (of, country, row) in countries {
            let countries = &mut specs[of].preferences.countries;
            countries.insert(COUNTRIES[country].parse().unwrap(), vec![region(row)]);
        }
        for catchment in Catchment::build_all(&atlas, &specs) {
            let map = catchment.map(|class| u16::try_from(class).unwrap());
            let lookup = |client| {
                let mut near = map.seek(&client);
                map.near(&mut near);
                map.find(near)
            };
            for client in &clients {
                let one = catchment.rank(&atlas.locate(*client), *client);
                let one: Vec<RegionId> = one.regions.iter().map(|ranked| ranked.region).collect();
                let (class, scope) = lookup(*client);
                let ranking = &*catchment.rankings()[usize::from(class)];
                prop_assert_eq!(ranking, one.as_slice(), "{}", client);
                let around = IpNet::new(*client, scope).unwrap();
                for end in [around.network(), around.broadcast()] {
                    prop_assert_eq!(lookup(end).0, class, "{} in {}", end, around);
                }
                // Without a map it is the same, and not true for more.
                let (found, narrower) = catchment.find(*client);
                prop_assert_eq!((found, true), (u32::from(class), narrower >= scope), "{}", client);
            }
            prop_assert_eq!(catchment.addresses_v4().iter().sum::<u64>(), 1 << 32);
        }
    }
}

/// An address that holds no other address.
fn naive_located(client: IpAddr) -> special::Located {
    match client {
        IpAddr::V4(ip) => special::Located::V4(ip, 0),
        IpAddr::V6(ip) => special::Located::V6(ip),
    }
}

#[test]
fn ipv4_within_ipv6_is_located_as_ipv4() {
    let atlas = Atlas::build(Sources {
        geofeed: Some(&feed(&[(net("8.8.8.0/24"), 1)])),
        ..Sources::default()
    });
    for client in
        ["8.8.8.8", "::ffff:8.8.8.8", "64:ff9b::808:808", "2002:808:808::1", "2001:0:1::f7f7:f7f7"]
    {
        let country = atlas.locate(ip(client)).place.and_then(|place| place.country);
        assert_eq!(country, "IE".parse().ok(), "{client}");
    }
}

#[test]
fn the_addresses_of_each_class_are_counted() {
    let feed = feed(&[(net("8.8.8.0/24"), 1), (net("255.255.255.0/25"), 1)]);
    let atlas = Atlas::build(Sources { geofeed: Some(&feed), ..Sources::default() });
    let sites: Vec<Site> = (0..2).map(|row| Site { region: region(row), at: None }).collect();
    let mut preferences = Preferences { default: vec![region(0), region(1)], ..Default::default() };
    preferences.countries.insert("IE".parse().unwrap(), vec![region(1)]);
    let catchments = Catchment::build_all(&atlas, &[CatchmentSpec { sites, preferences }]);
    let [catchment] = catchments.as_slice() else { panic!("one is asked for") };
    let of_first = |first| {
        let classes = catchment.rankings().iter().zip(catchment.addresses_v4());
        classes.filter(|(ranking, _)| ranking[0] == first).map(|(_, count)| count).sum::<u64>()
    };
    assert_eq!([of_first(region(0)), of_first(region(1))], [(1 << 32) - 384, 384]);
}

#[test]
fn no_scope_holds_both_ipv4_within_ipv6_and_something_else() {
    let atlas = Atlas::build(Sources::default());
    let spec = CatchmentSpec { sites: Vec::new(), preferences: Preferences::default() };
    let catchments = Catchment::build_all(&atlas, &[spec]);
    let map = catchments[0].map(|class| u16::try_from(class).unwrap());
    let around = |client| {
        let mut near = map.seek(&ip(client));
        map.near(&mut near);
        IpNet::new(ip(client), map.find(near).1).unwrap()
    };
    for client in ["::1", "::8000:0:1", "::1:0:0:1", "64:ff9b::1:0:0", "64:ff9b:0:1::", "2001:1::"]
    {
        for within in ["::ffff:8.8.8.8", "64:ff9b::808:808", "2002:808:808::1", "2001:0:1::1"] {
            let (around, within) = (around(client), around(within));
            assert!(!around.contains(&within) && !within.contains(&around), "{around} {within}");
        }
    }
}

/// Where a step begins or ends is where errors are; and anywhere.
fn keys<K: Key>(steps: &Steps<K, u32>, others: Vec<K>) -> Vec<K> {
    let starts = steps.iter().map(|(start, _)| start);
    starts.flat_map(|start| [start.previous(), Some(start)]).flatten().chain(others).collect()
}

/// What plain steps have at `key`.
fn plain<K: Key, V: Copy + PartialEq>(steps: &Steps<K, V>, key: K) -> Option<(V, Bounds<K>)> {
    let row = steps.starts.partition_point(|start| *start <= key).saturating_sub(1);
    Some((steps.value(row)?, steps.bounds(row)))
}

/// Steps of lengths such as networks have, close to each other and far apart, from the first key.
fn any_steps<K: Key + std::fmt::Debug>(
    length: impl Fn(u32, u64) -> K + Copy,
) -> impl Strategy<Value = Steps<K, u32>> {
    let step = (0u32..64, prop_oneof![Just(1u64), 1u64..9, any::<u64>()], 0u32..4);
    (0u32..4, prop::collection::vec(step, 0..200)).prop_map(move |(value, others)| {
        let (mut steps, mut at) = (Steps::all(value), K::FIRST);
        for (shift, units, value) in others {
            let behind = at.ahead(length(shift, units));
            if behind > at {
                at = behind;
                steps.push(at, value);
            }
        }
        steps
    })
}

#[expect(clippy::cast_possible_truncation, reason = "any length will do")]
fn any_steps_v4() -> impl Strategy<Value = Steps<u32, u32>> {
    any_steps(|shift, units| (units as u32) << (shift % 24))
}

fn any_steps_v6() -> impl Strategy<Value = Steps<u64, u32>> {
    any_steps(|shift, units| units << shift.min(50))
}

fn packed_is_plain<K: Key + std::fmt::Debug>(steps: &Steps<K, u32>, others: Vec<K>) {
    let packed: Packed<K> = steps.iter().collect();
    assert_eq!(packed.iter().collect::<Steps<K, u32>>(), *steps);
    for key in keys(steps, others) {
        assert_eq!(packed.find(key), plain(steps, key), "{key:?}");
    }
}

proptest! {
    /// What is packed is what was, at every key.
    #[test]
    fn packed_steps_are_the_steps_v4(
        steps in any_steps_v4(),
        keys in prop::collection::vec(any::<u32>(), 20),
    ) {
        packed_is_plain(&steps, keys);
    }

    #[test]
    fn packed_steps_are_the_steps_v6(
        steps in any_steps_v6(),
        keys in prop::collection::vec(any::<u64>(), 20),
    ) {
        packed_is_plain(&steps, keys);
    }

    /// So is what is looked up.
    #[test]
    fn wide_steps_are_the_steps(
        steps in any_steps_v6(),
        others in prop::collection::vec(any::<u64>(), 20),
    ) {
        let small = steps.iter().map(|(start, value)| (start, u16::try_from(value).unwrap()));
        let wide = Wide::new(&small.collect());
        for key in keys(&steps, others) {
            let (value, bounds) = wide.find(key);
            prop_assert_eq!(Some((u32::from(value), bounds)), plain(&steps, key), "{}", key);
        }
    }

    /// Of two maps each key has the values of both.
    #[test]
    fn both_are_both(
        ours in any_steps_v6(),
        theirs in any_steps_v6(),
        others in prop::collection::vec(any::<u64>(), 20),
    ) {
        let pairs: Steps<u64, (u32, u32)> =
            both(ours.iter(), theirs.iter()).map(|(at, a, b)| (at, (a, b))).collect();
        for key in keys(&ours, keys(&theirs, others)) {
            let value = |of| plain(of, key).map(|(value, _)| value);
            let expected = value(&ours).zip(value(&theirs));
            prop_assert_eq!(plain(&pairs, key).map(|(value, _)| value), expected, "{}", key);
        }
    }
}

/// More pairs of length and value than one unit counts, up to the last key.
#[test]
fn steps_that_are_all_different_are_packed() {
    let mut steps: Steps<u32, u32> = (0..200_000).map(|row| (row << 8, row * 7)).collect();
    steps.push(u32::MAX, 1);
    packed_is_plain(&steps, vec![1 << 26, 1 << 31, u32::MAX]);
}
