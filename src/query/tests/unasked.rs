//! Other operations than queries.

use super::*;

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
        // What cannot be read has nothing behind its header.
        let bare = [&expected[..4], &[0; 8]].concat();
        assert_eq!(ask(&sent[..sent.len() - 1]), bare, "{opcode}");
        assert_eq!(ask(&[&sent[..5], &[0], &sent[6..]].concat()), bare, "{opcode}");
    }
}
