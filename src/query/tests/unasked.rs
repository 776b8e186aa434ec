//! Queries without a question, and other operations than queries.

use super::*;
use crate::snapshot::{Protection, Secret};

/// What bakes cookies.
fn baker() -> Snapshot {
    let (zones, health) = (WORLD.plan().zones.clone(), HealthTable::default());
    let mut plan = Plan::new(zones, Vec::new(), Vec::new(), Vec::new(), Default::default());
    plan.protection = Protection { secrets: vec![Secret([7; 16])], ..Protection::default() };
    Snapshot::compile(plan.into(), &Facts::of(&health), None, None, 1)
}

/// A query with so many questions and records, and an OPT record.
fn unasked(counts: [u8; 8], options: &[u8]) -> Vec<u8> {
    let length = u16::try_from(options.len()).unwrap().to_be_bytes();
    let opt = [&[0, 0, 41, 4, 0xd0, 0, 0, 0, 0][..], &length, options].concat();
    [&[0x12, 0x34, 0, 0][..], &counts, &opt].concat()
}

const OPT_ALONE: [u8; 8] = [0, 0, 0, 0, 0, 0, 0, 1];

/// RFC 7873 §5.4.
#[test]
fn a_query_for_a_cookie_alone_gets_one() {
    let (snapshot, client) = (baker(), [1, 2, 3, 4, 5, 6, 7, 8]);
    let ask = |packet: &[u8]| send(&snapshot, packet, Transport::Udp, "192.0.2.1");
    let (_, got) = ask(&unasked(OPT_ALONE, &option(10, &client)));
    assert_eq!(got[..12], [0x12, 0x34, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 1], "NOERROR");
    assert_eq!((got.len(), &got[27..35]), (12 + 11 + 4 + 24, &client[..]));
    let (outcome, again) = ask(&unasked(OPT_ALONE, &option(10, &got[27..])));
    assert!(matches!(outcome, Outcome::Answered(Summary { proven: true, .. })), "{outcome:?}");
    assert_eq!(again, got);
    let cookie = option(10, &client);
    // RFC 6891 §6.1.1: an OPT record for who sends one.
    for wrong in [unasked(OPT_ALONE, &[]), unasked(OPT_ALONE, &option(10, &client[..7]))] {
        let told = ask(&wrong).1;
        assert_eq!(told[..12], [0x12, 0x34, 0x80, 1, 0, 0, 0, 0, 0, 0, 0, 1], "{wrong:?}");
        assert_eq!(told[12..], [0, 0, 41, 4, 0xd0, 0, 0, 0, 0, 0, 0], "{wrong:?}");
    }
    for wrong in [
        unasked([0, 2, 0, 0, 0, 0, 0, 1], &cookie),
        unasked([0, 0, 0, 1, 0, 0, 0, 0], &cookie),
        unasked([0, 0, 0, 0, 0, 0, 0, 2], &cookie),
        [unasked(OPT_ALONE, &cookie), vec![0]].concat(),
        unasked(OPT_ALONE, &cookie)[..12].to_vec(),
    ] {
        assert_eq!(ask(&wrong).1, [0x12, 0x34, 0x80, 1, 0, 0, 0, 0, 0, 0, 0, 0], "{wrong:?}");
    }
}

#[test]
fn whoever_wants_a_cookie_alone_too_often_is_told_to_use_it() {
    let (snapshot, now) = (baker(), Instant::default());
    let peer = Peer { address: ([192, 0, 2, 1], 53).into(), transport: Transport::Udp };
    let mut message = unasked(OPT_ALONE, &option(10, &[0; 8]));
    let mut room = LowerName::of(b"\x03www\0").unwrap();
    let mut query = super::super::Query::new(peer, &mut room);
    query.prepare(&message, &snapshot);
    query.answer(&snapshot, now, &mut message);
    assert_eq!(query.subject(false), 0, "as names of no zone");
    query.ask_again(&snapshot, now, &mut message);
    assert_eq!(message[..12], [0x12, 0x34, 0x80, 7, 0, 0, 0, 0, 0, 0, 0, 1]);
    assert_eq!((message.len(), message[17]), (12 + 11 + 4 + 24, 1), "BADCOOKIE: 1 << 4 | 7");
}

/// RFC 6891 §6.1.1.
#[test]
fn other_operations_are_refused_with_an_opt_record_if_they_have_one() {
    let ask = |packet: &[u8]| send(&WORLD, packet, Transport::Udp, "192.0.2.1").1;
    let plain = query("Example.com", SOA);
    for (opcode, asked) in [2, 4, 5, 15]
        .into_iter()
        .flat_map(|opcode| [(opcode, plain.clone()), (opcode, plain.clone().edns(1232, &[]))])
    {
        let sent = Query { flags: opcode << 11, ..asked }.wire();
        let mut expected = sent.clone();
        expected[2] |= 0x80;
        expected[3] = 4;
        assert_eq!(ask(&sent), expected, "{opcode}");
        // RFC 1996 §3.7: a NOTIFY may have a SOA record in its answer section.
        let mut more = sent.clone();
        more[7] = 1;
        more.splice(29..29, *b"\xc0\x0c\0\x06\0\x01\0\0\0\0\0\0");
        assert_eq!(ask(&more), expected, "{opcode}");
        // RFC 6891 §6.1.3: whatever is asked in a version that is not known.
        let mut unknown = query("example.com", SOA).edns(1232, &[]);
        (unknown.flags, unknown.opt) = (opcode << 11, Some((1232, 1, Vec::new())));
        let told = ask(&unknown.wire());
        assert_eq!((told[3], told[11], told[29..].len(), told[34]), (0, 1, 11, 1), "BADVERS");
        // What cannot be read has nothing behind its header.
        let bare = [&expected[..4], &[0; 8]].concat();
        assert_eq!(ask(&sent[..sent.len() - 1]), bare, "{opcode}");
        assert_eq!(ask(&[&sent[..5], &[0], &sent[6..]].concat()), bare, "{opcode}");
    }
}
