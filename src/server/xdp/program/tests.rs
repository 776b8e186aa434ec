//! The program, run by a machine that knows no more than its instructions.

use super::*;

const MAC: [u8; 6] = [0x02, 0xfc, 0, 0x81, 0xa2, 0xff];
const NEIGHBOUR: [u8; 6] = [0x02, 1, 2, 3, 4, 5];

/// Where the machine's context is: beyond every frame.
const CONTEXT: u64 = 1 << 32;

/// Whether the program takes a frame. What it reads beyond the end is an error of the test.
#[expect(clippy::cast_possible_truncation, reason = "the frame is short")]
fn takes(code: &[Instruction], frame: &[u8]) -> bool {
    let (mut registers, mut next) = ([0_u64; 11], 0);
    registers[1] = CONTEXT;
    loop {
        let Instruction { opcode, registers: named, offset, immediate } = code[next];
        let (to, from) = (usize::from(named & 15), registers[usize::from(named >> 4)]);
        let (had, value) = (registers[to], i64::from(immediate) as u64);
        next += 1;
        let load = |octets: usize| {
            let at = from.wrapping_add_signed(offset.into());
            if at >= CONTEXT {
                // The frame begins at 0.
                return [0, frame.len() as u64, 0, 0, 3][(at - CONTEXT) as usize / 4];
            }
            let mut word = [0; 8];
            word[..octets].copy_from_slice(&frame[at as usize..][..octets]);
            u64::from_le_bytes(word)
        };
        let mut jump = |is_so: bool| next += if is_so { offset as usize } else { 0 };
        match opcode {
            LOAD_8 => registers[to] = load(1),
            LOAD_16 => registers[to] = load(2),
            LOAD_32 => registers[to] = load(4),
            LOAD_64 => registers[to] = load(8),
            LOAD_CONSTANT => {
                let [low, high] = [immediate, code[next].immediate].map(|half| half as u32);
                registers[to] = u64::from(high) << 32 | u64::from(low);
                next += 1;
            }
            COPY => registers[to] = from,
            SET => registers[to] = value,
            ADD => registers[to] = had.wrapping_add(value),
            AND => registers[to] = had & value,
            GREATER => jump(had > from),
            EQUAL => jump(had == value),
            NOT_EQUAL => jump(had != value),
            AT_LEAST => jump(had >= value),
            OTHER => jump(had != from),
            JUMP => jump(true),
            CALL => {
                assert_eq!((immediate, registers[2], registers[3]), (REDIRECT_MAP, 3, PASS as u64));
                return true;
            }
            EXIT => {
                assert_eq!(registers[0], PASS as u64);
                return false;
            }
            _ => panic!("{opcode:#x}"),
        }
    }
}

fn program(is_loopback: bool) -> Vec<Instruction> {
    let addresses = ["192.0.2.1:53", "[2001:db8::1]:53", "192.0.2.2:53", "[2001:db8::2]:53"];
    let addresses = addresses.map(|address| address.parse().unwrap()).to_vec();
    assemble(&Own { mac: MAC, is_loopback, addresses }, 9)
}

/// A frame to this host from a neighbour, with a datagram of four octets.
fn frame(from: &str, to: &str, port: u16) -> Vec<u8> {
    let [from, to] = [from, to].map(|ip| ip.parse().unwrap());
    let (kind, ip) = match (from, to) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            let fixed = [0x45, 0, 0, 32, 0, 0, 0x40, 0, 64, 17, 0, 0];
            ([0x08, 0x00], [&fixed, &from.octets()[..], &to.octets()].concat())
        }
        (IpAddr::V6(from), IpAddr::V6(to)) => {
            let fixed = [0x60, 0, 0, 0, 0, 12, 17, 64];
            ([0x86, 0xdd], [&fixed, &from.octets()[..], &to.octets()].concat())
        }
        _ => panic!("{from} and {to} are not of one family"),
    };
    let udp = [&[0xff, 0xff][..], &port.to_be_bytes(), &[0, 12, 0, 0, 1, 2, 3, 4]].concat();
    [&MAC[..], &NEIGHBOUR, &kind, &ip, &udp].concat()
}

const V4: (&str, &str) = ("198.51.100.1", "192.0.2.2");
const V6: (&str, &str) = ("2001:db8:1::1", "2001:db8::2");

#[test]
fn queries_are_taken_and_nothing_else() {
    let code = program(false);
    for (from, to) in [V4, V6] {
        let whole = frame(from, to, 53);
        assert!(takes(&code, &whole), "{from}");
        assert!(!takes(&code, &frame(from, to, 54)), "{from}");
        // Too short to have a header of UDP: nothing is read that is not there.
        (0..whole.len() - 4).for_each(|length| assert!(!takes(&code, &whole[..length])));
    }
    for (from, to) in [(V4.0, "192.0.2.3"), (V6.0, "2001:db8::3"), (V6.0, "2001:db9::2")] {
        assert!(!takes(&code, &frame(from, to, 53)), "{to}");
    }
    // Another protocol, options, a fragment, TCP.
    for (at, octet) in [(12, 0x81), (14, 0x46), (20, 0x20), (21, 1), (23, 6)] {
        let mut other = frame(V4.0, V4.1, 53);
        other[at] = octet;
        assert!(!takes(&code, &other), "{at}");
    }
}

#[test]
fn frames_of_and_for_other_macs_are_passed_on() {
    let code = program(false);
    for (from, to) in [V4, V6] {
        for at in 0..6 {
            let mut other = frame(from, to, 53);
            other[at] ^= 0x80;
            assert!(!takes(&code, &other), "{from} {at}");
        }
        let mut for_all = frame(from, to, 53);
        for_all[..6].fill(0xff);
        assert!(!takes(&code, &for_all), "{from}");
        let mut from_all = frame(from, to, 53);
        from_all[6..12].fill(0xff);
        assert!(!takes(&code, &from_all), "{from}");
    }
}

#[test]
fn senders_that_cannot_be_are_passed_on() {
    let (code, loopback) = (program(false), program(true));
    let rows = [
        // From where, and whether it is taken, from a neighbour and on the loopback.
        ("0.1.2.3", false, false),
        ("1.0.0.0", true, true),
        ("126.255.255.255", true, true),
        ("127.0.0.1", false, false),
        ("128.0.0.0", true, true),
        ("223.255.255.255", true, true),
        ("224.0.0.1", false, false),
        ("255.255.255.255", false, false),
        ("::", false, true),
        ("::1", false, true),
        ("::ffff:192.0.2.9", false, true),
        ("0:0:0:1::", true, true),
        ("64:ff9b::192.0.2.9", true, true),
        ("fe80::1", true, true),
        ("ff02::1", false, false),
    ];
    for (from, is_taken, is_taken_there) in rows {
        let to = if from.contains(':') { V6.1 } else { V4.1 };
        let frame = frame(from, to, 53);
        let taken = (takes(&code, &frame), takes(&loopback, &frame));
        assert_eq!(taken, (is_taken, is_taken_there), "{from}");
    }
}
