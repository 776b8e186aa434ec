//! What a zone must not have, and what of it is doubted.

use super::tests::{name, read};
use super::*;
use crate::ids::ServiceId;
use crate::time::Ttl;

/// What is wrong with the zone of these lines.
fn told_of(text: &str) -> Vec<String> {
    let mut builder = ZoneBuilder::new(name("example.com"));
    builder.add_apex(&[name("ns1.example.net")], Ttl::from_secs(60), Ttl::from_secs(60));
    for FileRecord { owner, ttl, rtype, data, .. } in read(text).unwrap() {
        builder.add(&owner, ttl, rtype, data);
    }
    let problems = builder.finish().map(|_| Vec::new()).unwrap_or_else(|problems| problems);
    problems.iter().map(ToString::to_string).collect()
}

#[test]
fn types_that_are_not_served_are_refused() {
    for (line, expected) in [
        ("a 60 TYPE255 \\# 0", "ANY is a type of questions"),
        ("a 60 TYPE41 \\# 0", "OPT is a type of questions"),
        ("a 60 TYPE250 \\# 0", "TSIG is a type of questions"),
        ("a 60 RRSIG A 13 3 60 20300101000000 20200101000000 1 @ AA==", "RRSIG records, and this"),
        ("a 60 NSEC b A", "NSEC records, and this server neither signs"),
        ("@ 60 DNSKEY 257 3 13 AA==", "DNSKEY records, and this"),
        ("@ 60 NSEC3PARAM 1 0 0 -", "NSEC3PARAM records, and this"),
        ("a 60 NSEC3 1 0 0 - 00 A", "NSEC3 records, and this"),
    ] {
        let told = told_of(&format!("{line}\n"));
        assert!(told.len() == 1 && told[0].contains(expected), "{line}: {told:?}");
    }
    assert_eq!(told_of("a 60 NS ns.example.net.\na 60 DS 1 13 9 00\n"), [""; 0]);
}

#[test]
fn what_no_answer_can_hold_is_refused() {
    let many = |count: u32| -> String {
        let address = |row: u32| std::net::Ipv4Addr::from(0x0a00_0000 + row);
        (0..count).map(|row| format!("a 60 A {}\n", address(row))).collect()
    };
    assert_eq!(told_of(&many(4000)), [""; 0]);
    assert_eq!(told_of(&many(4000).repeat(2)), [""; 0], "each is there once");
    let told = told_of(&many(5000));
    assert_eq!(told.len(), 1, "{told:?}");
    assert!(told[0].starts_with("a.example.com.: 80000 octets of A records"), "{told:?}");
}

#[test]
fn a_server_below_its_delegation_needs_an_address() {
    let told = told_of("sub 60 NS ns.sub\nsub 60 NS ns1.example.net.\n");
    assert_eq!(told.len(), 1, "{told:?}");
    assert!(told[0].contains("delegated to ns.sub.example.com., which is below it"), "{told:?}");
    for glue in ["ns.sub 60 A 192.0.2.1", "NS.Sub 60 AAAA 2001:db8::1"] {
        assert_eq!(told_of(&format!("sub 60 NS ns.sub\n{glue}\n")), [""; 0], "{glue}");
    }
    // One elsewhere is looked up.
    assert_eq!(told_of("sub 60 NS ns.other\nsub 60 NS ns1.example.net.\n"), [""; 0]);
    assert_eq!(told_of("sub 60 NS sub\n").len(), 1);
}

/// The same, where the zone's name servers are these.
fn told_of_servers(servers: &[&str], text: &str, steered: Steered) -> Vec<String> {
    let mut builder = ZoneBuilder::new(name("example.com"));
    let servers: Vec<Name> = servers.iter().map(|of| name(of)).collect();
    builder.add_apex(&servers, Ttl::from_secs(60), Ttl::from_secs(60));
    for FileRecord { owner, ttl, rtype, data, .. } in read(text).unwrap() {
        builder.add(&owner, ttl, rtype, data);
    }
    builder.steer(&name("www.example.com"), ServiceId::from_index(0).unwrap(), steered);
    let doubts: Vec<String> = builder.doubts().map(|of| of.to_string()).collect();
    let problems = builder.finish().map(|_| Vec::new()).unwrap_or_else(|problems| problems);
    problems.iter().map(ToString::to_string).chain(doubts).collect()
}

#[test]
fn a_name_server_in_its_zone_has_an_address() {
    let (ns, www, addresses) = ("ns.example.com", "www.example.com", Steered::Addresses);
    for (server, text, steered) in [
        (ns, "NS 60 AAAA 2001:db8::1\n", addresses),
        (www, "", addresses),
        (ns, "* 60 A 192.0.2.1\n", addresses),
        ("example.com", "@ 60 A 192.0.2.1\n", addresses),
        ("ns.example.net", "", addresses),
        // Another zone's.
        ("ns.sub.example.com", "sub 60 NS ns.example.net.\n", addresses),
    ] {
        assert_eq!(told_of_servers(&[server], text, steered), [""; 0], "{server} {text}");
    }
    for (server, text, steered, expected) in [
        (ns, "", addresses, "example.com.: its name server ns.example.com. has no address"),
        (ns, "ns 60 TXT x\n* 60 A 192.0.2.1\n", addresses, "has no address"),
        ("example.com", "", addresses, "has no address"),
        (ns, "ns 60 CNAME www\n", addresses, "ns.example.com. is an alias"),
        (www, "", Steered::Alias, "www.example.com. is an alias"),
        (www, "", Steered::Epoch, "has no address"),
    ] {
        let told = told_of_servers(&[server, "ns.example.net"], text, steered);
        assert!(told.len() == 1 && told[0].contains(expected), "{server} {text}: {told:?}");
    }
}

#[test]
fn mail_to_a_host_without_an_address_is_doubted() {
    let told = |text| told_of_servers(&["ns.example.net"], text, Steered::Alias);
    let expected = "example.com.: mail goes to mail.example.com., which has no address here; add \
                    its A or AAAA records, or end a name of another zone with a dot";
    assert_eq!(told("@ 60 MX 10 mail\n"), [expected]);
    for fine in ["@ 60 MX 0 .\n", "@ 60 MX 1 mail.example.net.\n", "@ 60 MX 1 www\n"] {
        assert_eq!(told(fine), [""; 0], "{fine}");
    }
    assert_eq!(told("@ 60 MX 10 mail\nmail 60 A 192.0.2.1\n"), [""; 0]);
}

#[test]
fn what_leads_to_nothing_is_doubted() {
    let told = |text| told_of_servers(&["ns.example.net"], text, Steered::Addresses);
    let expected = "a.example.com.: a CNAME record leads to cdn.example.net.example.com., and \
                    nothing is there; add it, or end a name of another zone with a dot";
    assert_eq!(told("a 60 CNAME cdn.example.net\n"), [expected]);
    let service = told("_sip._tcp 60 SRV 0 0 5060 sip\n");
    assert!(service.len() == 1 && service[0].contains("a SRV record leads to sip."), "{service:?}");
    for fine in [
        "a 60 CNAME cdn.example.net.\n",
        "a 60 CNAME www\n",
        "a 60 CNAME b.c\n*.c 60 A 192.0.2.1\n",
        "a 60 CNAME b.sub\nsub 60 NS ns.example.net.\n",
        "_sip._tcp 60 SRV 0 0 0 .\n",
    ] {
        assert_eq!(told(fine), [""; 0], "{fine}");
    }
}

#[test]
fn a_wildcard_is_not_delegated() {
    let told = told_of("*.a 60 NS ns.example.net.\n");
    assert!(told.len() == 1 && told[0].contains("NS records at a wildcard"), "{told:?}");
}

#[test]
fn a_zone_without_a_file_has_room_for_its_mailbox() {
    let finish = |last: usize| {
        let labels = ["a".repeat(63), "b".repeat(63), "c".repeat(63), "d".repeat(last)];
        let mut builder = ZoneBuilder::new(name(&labels.join(".")));
        let servers = [name("ns.example.net")];
        builder.add_apex(&servers, Ttl::from_secs(60), Ttl::from_secs(60));
        builder.finish().map_err(|problems| problems[0].to_string())
    };
    assert!(finish(50).is_ok());
    assert!(finish(51).unwrap_err().contains("more than 244 octets"));
}

#[test]
fn conflicts_are_all_told() {
    let service = ServiceId::from_index(0).unwrap();
    let faults = |records: &[(&str, RecordType)], steered: &[(&str, Steered)]| -> Vec<String> {
        let mut builder = ZoneBuilder::new(name("example.com"));
        builder.add_apex(&[name("ns1.example.net")], Ttl::from_secs(60), Ttl::from_secs(60));
        for (owner, rtype) in records {
            let data = name("target.example.net");
            builder.add(&name(owner), Ttl::from_secs(60), *rtype, data.as_wire());
        }
        steered.iter().for_each(|(owner, kind)| builder.steer(&name(owner), service, *kind));
        let problems = builder.finish().map(|_| Vec::new()).unwrap_or_else(|found| found);
        problems.iter().map(ToString::to_string).collect()
    };
    let (cname, ns, txt) = (RecordType::CNAME, RecordType::NS, RecordType::TXT);
    assert_eq!(faults(&[("a.example.com", cname)], &[("b.example.com", Steered::Alias)]), [""; 0]);
    let rows = [
        (vec![("a.example.com", cname), ("a.example.com", txt)], vec![], "a CNAME record beside"),
        (vec![("a.example.net", txt)], vec![], "not in the zone example.com."),
        (
            vec![("a.example.com", RecordType::A)],
            vec![("a.example.com", Steered::Addresses)],
            "A records in the zone",
        ),
        (
            vec![("a.example.com", cname)],
            vec![("a.example.com", Steered::Addresses)],
            "CNAME records in the zone",
        ),
        (
            vec![("a.example.com", txt)],
            vec![("a.example.com", Steered::Alias)],
            "a service gives a CNAME record here",
        ),
        (vec![], vec![("example.com", Steered::Alias)], "a service gives a CNAME record here"),
        (
            vec![("sub.example.com", ns)],
            vec![("sub.example.com", Steered::Addresses)],
            "steered, and delegated",
        ),
        (
            vec![("sub.example.com", ns)],
            vec![("a.sub.example.com", Steered::Addresses)],
            "below the delegation at sub.example.com.",
        ),
        (
            vec![],
            vec![("a.example.com", Steered::Alias), ("A.example.com", Steered::Alias)],
            "steered by two services",
        ),
    ];
    for (records, steered, expected) in rows {
        let told = faults(&records, &steered);
        assert!(told.len() == 1 && told[0].contains(expected), "{expected}: {told:?}");
    }
    let many = faults(
        &[("a.example.com", cname), ("a.example.com", txt), ("b.example.net", txt)],
        &[("c.example.net", Steered::Alias)],
    );
    assert_eq!(many.len(), 3, "{many:?}");
    assert_eq!(
        ZoneBuilder::new(name("example.com")).finish().unwrap_err().len(),
        2,
        "no SOA, no NS"
    );
}
