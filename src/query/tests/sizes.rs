//! What fits into an answer.

use super::*;

/// A zone with these records besides its own.
fn zone(origin: &str, records: &str) -> Snapshot {
    let text = format!(
        "regions: {{ us: {{}} }}\nservices: {{}}
zones: {{ {origin}: {{ ns: [ns.example.net], records: {{ {records} }} }} }}
"
    );
    compiled(&text, &[])
}

/// So many, each as this tells.
fn list(count: usize, each: impl Fn(usize) -> String) -> String {
    (0..count).map(each).collect::<Vec<_>>().join(", ")
}

#[test]
fn names_are_compressed() {
    let asked = query("x.many.example.com", A);
    let got = asked.send();
    // Each record after the first two octets of a pointer: 14 octets.
    assert_eq!(got.len(), asked.wire().len() + 16 * 16);
}

/// A name has 34 labels where IPv6 addresses are turned into names (RFC 3596 §2.5).
#[test]
fn names_behind_one_of_many_labels_are_compressed() {
    let servers = list(10, |row| format!("s{row}.dns.hosting-company.example."));
    let snapshot = zone("8.b.d.0.1.0.0.2.ip6.arpa", &format!("1.0.0.0: {{ NS: [{servers}] }}"));
    let name = format!("{}1.0.0.0.8.b.d.0.1.0.0.2.ip6.arpa", "0.".repeat(20));
    let answer = query(&name, A).send_to(&snapshot);
    assert_eq!(told(&answer).matches(" NS ").count(), 10, "in {} octets", answer.len());
    assert!(answer.len() < 400, "{}", answer.len());
}

#[test]
fn what_a_chain_leads_to_fits_however_long_its_names_are() {
    let addresses = list(4000, |row| format!("10.0.{}.{}", row / 250, row % 250));
    let alias = |row: usize| format!("{}{row}", format!("{row}.").repeat(50));
    let links = list(7, |row| format!("{}: {{ CNAME: {} }}", alias(row), alias(row + 1)));
    let (last, first) = (alias(7), alias(0));
    let records = format!("{links}, {last}: {{ CNAME: big }}, big: {{ A: [{addresses}] }}");
    let snapshot = zone("example.com", &records);
    let query = query(&format!("{first}.example.com"), A).by(Transport::Tcp);
    let answer = Read::from_vec(&query.send_to(&snapshot)).unwrap();
    assert_eq!((answer.metadata.truncation, answer.answers.len()), (false, 4008));
}

/// RFC 9471 §3.
#[test]
fn addresses_below_a_cut_come_before_others_which_may_be_left_out() {
    let names = list(9, |row| format!("ns{row}.other"));
    let addresses =
        list(9, |row| format!("ns{row}.other: {{ A: 192.0.2.{row}, AAAA: '2001:db8::{row}' }}"));
    let records = format!(
        "sub: {{ NS: [{names}, ns.Sub] }}, ns.sub: {{ A: 192.0.2.54 }}, lone: {{ NS: [{names}] }}, \
         other: {{ NS: [{names}] }}, {addresses}"
    );
    let snapshot = zone("example.com", &records);
    let answer = query("www.sub.example.com", A).send_to(&snapshot);
    let (told, length) = (told(&answer), answer.len());
    assert!(told.starts_with("NoError rd |") && (400..=512).contains(&length), "{length} {told}");
    let first = told.split(" | additional ").nth(1).unwrap();
    assert_eq!(first.to_lowercase(), "ns.sub.example.com. 3600 a 192.0.2.54");
    // What is below it is needed, all of it.
    let told = super::told(&query("www.other.example.com", A).send_to(&snapshot));
    assert_eq!(told, "NoError tc rd");
    let whole = query("www.other.example.com", A).by(Transport::Tcp).send_to(&snapshot);
    assert_eq!(super::told(&whole).matches("additional").count(), 18);
    // So are some, where there are no others.
    let told = super::told(&query("www.lone.example.com", A).send_to(&snapshot));
    assert!(told.contains("additional ns0.other.example.com. 3600 A 192.0.2.0 "), "{told}");
}
