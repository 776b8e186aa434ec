//! Frames that come past the kernel's stack: the query within, and the way back to its client.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::ops::Range;

const ETHERNET: usize = 14;
const V4: usize = 20;
const V6: usize = 40;
const UDP: usize = 8;

/// The protocol's number, and how many routers an answer may pass.
const PROTOCOL: u8 = 17;
const HOPS: u8 = 64;

/// A datagram in its frame.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Datagram {
    /// Who sent it.
    pub(super) peer: SocketAddr,
    /// Where in the frame its content is.
    pub(super) content: Range<usize>,
}

/// The datagram in a frame; `None`: there is none that the program should have let through.
pub(super) fn read(frame: &[u8]) -> Option<Datagram> {
    let (head, rest) = frame.split_first_chunk::<ETHERNET>()?;
    let (ip, udp): (IpAddr, _) = match head {
        [.., 0x08, 0x00] => {
            let (ip, udp) = rest.split_first_chunk::<V4>()?;
            let [0x45, .., a, b, c, d, _, _, _, _] = *ip else { return None };
            if folded(sum(0, ip)) != 0 {
                return None;
            }
            (Ipv4Addr::new(a, b, c, d).into(), udp)
        }
        [.., 0x86, 0xdd] => {
            let (ip, udp) = rest.split_first_chunk::<V6>()?;
            let source: [u8; 16] = ip.get(8..24)?.try_into().ok()?;
            (Ipv6Addr::from(source).into(), udp)
        }
        _ => return None,
    };
    let [p0, p1, _, _, l0, l1, c0, c1] = *udp.first_chunk::<UDP>()?;
    // RFC 8200 §8.1. It is not verified: virtual interfaces hand on what has none yet.
    if ip.is_ipv6() && [c0, c1] == [0, 0] {
        return None;
    }
    let length = usize::from(u16::from_be_bytes([l0, l1]));
    // What is behind it only fills the frame up.
    udp.get(..length).filter(|_| length >= UDP)?;
    let begin = frame.len() - udp.len();
    let peer = SocketAddr::new(ip, u16::from_be_bytes([p0, p1]));
    Some(Datagram { peer, content: begin + UDP..begin + length })
}

/// Turns a frame that [`read`] has read into one with `answer` for whoever sent it. The frame has
/// the length for it already: its headers and `answer`, and no more.
pub(super) fn turn(frame: &mut [u8], answer: &[u8]) -> Option<()> {
    let (head, rest) = frame.split_first_chunk_mut::<ETHERNET>()?;
    let (to, from) = head.split_at_mut(6);
    to.swap_with_slice(from.get_mut(..6)?);
    let [.., k0, _] = *head;
    let udp_length = u16::try_from(UDP + answer.len()).ok()?;
    let (pseudo, udp) = if k0 == 0x08 {
        let (ip, udp) = rest.split_first_chunk_mut::<V4>()?;
        let length = u16::try_from(V4).ok()? + udp_length;
        // Neither identified nor to be fragmented (RFC 6864 §4.1).
        let [l0, l1] = length.to_be_bytes();
        let [_, _, _, _, _, _, _, _, _, _, _, _, s0, s1, s2, s3, d0, d1, d2, d3] = *ip;
        *ip =
            [0x45, 0, l0, l1, 0, 0, 0x40, 0, HOPS, PROTOCOL, 0, 0, d0, d1, d2, d3, s0, s1, s2, s3];
        let checksum = folded(sum(0, ip));
        ip.get_mut(10..12)?.copy_from_slice(&checksum.to_ne_bytes());
        (sum(0, ip.get(12..20)?), udp)
    } else {
        let (ip, udp) = rest.split_first_chunk_mut::<V6>()?;
        let (fixed, addresses) = ip.split_first_chunk_mut::<8>()?;
        let [l0, l1] = udp_length.to_be_bytes();
        *fixed = [0x60, 0, 0, 0, l0, l1, PROTOCOL, HOPS];
        let (source, destination) = addresses.split_at_mut(16);
        source.swap_with_slice(destination);
        (sum(0, addresses), udp)
    };
    let (udp, content) = udp.split_first_chunk_mut::<UDP>()?;
    let [s0, s1, d0, d1, ..] = *udp;
    let [l0, l1] = udp_length.to_be_bytes();
    *udp = [d0, d1, s0, s1, l0, l1, 0, 0];
    content.copy_from_slice(answer);
    let all = sum(sum(sum(pseudo, &[0, PROTOCOL, l0, l1]), udp), content);
    // Zero means that there is none (RFC 768).
    let checksum = match folded(all) {
        0 => u16::MAX,
        checksum => checksum,
    };
    udp.get_mut(6..8)?.copy_from_slice(&checksum.to_ne_bytes());
    Some(())
}

/// Adds `octets` to the sum of those before, of which there are an even number (RFC 1071 §2: in
/// the machine's own byte order, and by large words).
fn sum(before: u64, octets: &[u8]) -> u64 {
    let (words, rest) = octets.as_chunks::<4>();
    let mut last = [0; 4];
    last.iter_mut().zip(rest).for_each(|(to, from)| *to = *from);
    let words = words.iter().chain([&last]).map(|word| u64::from(u32::from_ne_bytes(*word)));
    words.fold(before, |sum, word| sum + word)
}

/// The checksum that a sum comes to, as it stands in memory.
fn folded(mut sum: u64) -> u16 {
    while sum > u64::from(u16::MAX) {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !u16::try_from(sum).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A frame of this type from nobody, turned so that it is whole.
    fn turned<const N: usize>(kind: [u8; 2]) -> [u8; N] {
        let mut frame = [0; N];
        frame[12..14].copy_from_slice(&kind);
        turn(&mut frame, b"answer").unwrap();
        frame
    }

    #[test]
    fn what_arrives_damaged_is_not_read() {
        let v4: [u8; ETHERNET + V4 + UDP + 6] = turned([0x08, 0x00]);
        assert_eq!(read(&v4).map(|of| of.content), Some(42..48));
        for at in ETHERNET..ETHERNET + V4 {
            let mut damaged = v4;
            damaged[at] ^= 1;
            assert_eq!(read(&damaged), None, "octet {at}");
        }
        let mut v6: [u8; ETHERNET + V6 + UDP + 6] = turned([0x86, 0xdd]);
        assert_eq!(read(&v6).map(|of| of.content), Some(62..68));
        v6[60..62].fill(0);
        assert_eq!(read(&v6), None, "without a checksum");
    }
}
