//! What is written is read back by the crate that everybody reads these files with.

use std::net::IpAddr;

use maxminddb::Reader;
use serde_json::Value as Json;

use super::*;

fn read(writer: Writer) -> Reader<Vec<u8>> {
    let reader = Reader::from_source(writer.finish()).unwrap();
    reader.verify().unwrap();
    reader
}

fn look_up(reader: &Reader<Vec<u8>>, address: &str) -> Option<(Json, String)> {
    let address: IpAddr = address.parse().unwrap();
    let found = reader.lookup(address).unwrap();
    let network = found.network().unwrap().to_string();
    found.decode().unwrap().map(|value| (value, network))
}

#[test]
fn what_is_inserted_is_found_and_nothing_else() {
    let mut writer = Writer::new("Test", "a test", 1);
    let country = |code| Value::map([("country", Value::text(code))]);
    writer.insert("10.0.0.0/8".parse().unwrap(), &country("DE"));
    writer.insert("10.1.0.0/16".parse().unwrap(), &country("FR"));
    writer.insert("2001:db8::/32".parse().unwrap(), &country("IE"));
    let reader = read(writer);
    assert_eq!(look_up(&reader, "10.1.2.3").unwrap().0["country"], "FR");
    assert_eq!(look_up(&reader, "10.1.2.3").unwrap().1, "10.1.0.0/16");
    assert_eq!(look_up(&reader, "10.2.2.3").unwrap().0["country"], "DE");
    assert_eq!(look_up(&reader, "2001:db8::1").unwrap().0["country"], "IE");
    assert_eq!(look_up(&reader, "11.0.0.1"), None);
}

#[test]
fn halves_that_are_alike_are_one_network() {
    let mut writer = Writer::new("Test", "a test", 1);
    let value = Value::Array(vec![Value::Uint32(7), Value::Bool(true), Value::Double(0.5)]);
    writer.insert("192.0.2.0/25".parse().unwrap(), &value);
    writer.insert("192.0.2.128/25".parse().unwrap(), &value);
    let reader = read(writer);
    let (found, network) = look_up(&reader, "192.0.2.200").unwrap();
    assert_eq!(found, serde_json::json!([7, true, 0.5]));
    assert_eq!(network, "192.0.2.0/24");
}

#[test]
fn long_texts_and_large_numbers_survive() {
    let mut writer = Writer::new("Test", "a test", 1);
    for (row, length) in (0u8..).zip([0, 28, 29, 284, 285, 60_000]) {
        let value = Value::map([
            ("text", Value::Text("x".repeat(length))),
            ("number", Value::Uint64(u64::MAX - u64::from(row))),
        ]);
        writer.insert(format!("192.0.2.{row}/32").parse().unwrap(), &value);
    }
    let reader = read(writer);
    for (row, length) in (0u8..).zip([0, 28, 29, 284, 285, 60_000]) {
        let (found, _) = look_up(&reader, &format!("192.0.2.{row}")).unwrap();
        assert_eq!(found["text"].as_str().unwrap().len(), length);
        assert_eq!(found["number"], u64::MAX - u64::from(row));
    }
}
