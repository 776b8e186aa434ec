//! What is explained of a name is what is answered.

use super::*;
use crate::zone::RecordType;

fn explained(snapshot: &Snapshot, name: &str, rtype: RecordType) -> Explained {
    let (atlas, health) = (Atlas::build(Sources::default()), HealthTable::default());
    let client = IpAddr::from([192, 0, 2, 1]);
    let question = Question { name: name.parse().unwrap(), rtype, client };
    explain(snapshot, &atlas, &Facts::of(&health), &question).outcome
}

fn of_zone(zone: &str, types: &[&str]) -> Explained {
    let types = types.iter().map(|&of| of.to_owned()).collect();
    Explained::Zone { zone: zone.to_owned(), types, alias: None }
}

/// RFC 4035 §3.1.4.1.
#[test]
fn the_ds_records_of_a_delegation_are_explained_as_its_parents() {
    let text = "regions: { us: {} }\nservices: {}\nzones:
  example.com: { ns: [ns.example.net], records: {
    signed: { NS: ns.example.net., DS: '1 8 9 00' }, plain: { NS: ns.example.net. },
    served: { NS: ns.example.net., DS: '1 8 9 00' }, bare: { NS: ns.example.net. } } }
  served.example.com: { ns: [ns.example.net] }
  bare.example.com: { ns: [ns.example.net] }
  hidden.example.com: { ns: [ns.example.net] }
";
    let snapshot = compiled(text, &[]);
    let (parent, none) = ("example.com.", &[][..]);
    for (name, expected) in [
        ("signed.example.com", of_zone(parent, &["DS"])),
        ("plain.example.com", of_zone(parent, none)),
        ("www.signed.example.com", Explained::Delegated { zone: parent.to_owned() }),
        // Zones that are served here beside their parent.
        ("served.example.com", of_zone(parent, &["DS"])),
        ("bare.example.com", of_zone(parent, none)),
        ("hidden.example.com", of_zone(parent, none)),
    ] {
        assert_eq!(explained(&snapshot, name, RecordType::DS), expected, "{name}");
    }
    let referral = Explained::Delegated { zone: parent.to_owned() };
    assert_eq!(explained(&snapshot, "signed.example.com", RecordType::NS), referral);
}
