//! DNS cookies (RFC 7873), which every server with the same secrets makes the same way (RFC 9018).
//!
//! Who sends a server's cookie back has got an answer of it before: its address is its own.

use std::hash::Hasher as _;
use std::net::IpAddr;
use std::sync::atomic::Ordering;

use siphasher::sip::SipHasher24;

use crate::snapshot::{Protection, Secret};
use crate::time::Instant;

/// The option of a query (RFC 7873 §4).
#[derive(Clone, Copy, Debug)]
pub(super) struct Cookie {
    client: [u8; CLIENT],
    /// One of the length that ours have.
    server: Option<[u8; SERVER]>,
}

/// What is sent back.
#[derive(Clone, Copy, Debug)]
pub(super) struct Baked {
    pub(super) octets: [u8; COOKIE],
    /// Whether the query had a cookie of ours, so that its address is not forged.
    pub(super) proven: bool,
}

/// The octets of a client's cookie.
const CLIENT: usize = 8;

/// Those of ours: version, three that are reserved, timestamp (4), hash (8) (RFC 9018 §4).
const SERVER: usize = 16;

/// Both.
pub(super) const COOKIE: usize = CLIENT + SERVER;

const VERSION: u8 = 1;

/// How old a cookie may be, and how far in the future its clock, in seconds (RFC 9018 §4.3).
const OLDEST: i32 = 3600;
const AHEAD: i32 = 300;

/// One that is older is replaced.
const FRESH: i32 = 1800;

impl Cookie {
    /// RFC 7873 §5.2.2: a client's cookie has 8 octets, and a server's, if any, 8 to 32.
    pub(super) fn read(wire: &[u8]) -> Option<Self> {
        let (client, server) = wire.split_first_chunk::<CLIENT>()?;
        let is_whole = matches!(server.len(), 0 | 8..=32);
        is_whole.then_some(Self { client: *client, server: server.try_into().ok() })
    }

    /// What `from` is sent back at `now`; `None`: there are no secrets.
    pub(super) fn bake(&self, by: &Protection, from: IpAddr, now: Instant) -> Option<Baked> {
        let secrets = &by.secrets;
        let first = secrets.first()?;
        let ahead = by.ahead.load(Ordering::Relaxed);
        // In serial numbers' arithmetic (RFC 9018 §4.3): it goes on when 32 bits are full.
        let now = low(now.as_secs().wrapping_add_signed(ahead));
        let by = secrets.iter().find(|secret| self.is_by(secret, from));
        let age = self.time().map(|time| now.wrapping_sub(time).cast_signed());
        let age = age.filter(|age| by.is_some() && (-AHEAD..=OLDEST).contains(age));
        let proven = age.is_some();
        let is_fresh = by == Some(first) && age.is_some_and(|age| age < FRESH);
        let server = self.server.filter(|_| is_fresh).unwrap_or_else(|| {
            let [a, b, c, d] = now.to_be_bytes();
            let head = [VERSION, 0, 0, 0, a, b, c, d];
            joined(&head, &self.hash(first, head, from))
        });
        Some(Baked { octets: joined(&self.client, &server), proven })
    }

    fn time(&self) -> Option<u32> {
        let [_, _, _, _, a, b, c, d, ..] = self.server?;
        Some(u32::from_be_bytes([a, b, c, d]))
    }

    fn is_by(&self, secret: &Secret, from: IpAddr) -> bool {
        let Some([v, r0, r1, r2, a, b, c, d, hash @ ..]) = self.server else { return false };
        // Compared as one number, in constant time.
        let expected = u64::from_be_bytes(self.hash(secret, [v, r0, r1, r2, a, b, c, d], from));
        v == VERSION && u64::from_be_bytes(hash) == expected
    }

    /// SipHash-2-4 of the client's cookie, the server's first half, and the client's address.
    fn hash(&self, secret: &Secret, head: [u8; 8], from: IpAddr) -> [u8; 8] {
        let mut input = [0; CLIENT + 8 + 16];
        let (v4, v6);
        let address: &[u8] = match from {
            IpAddr::V4(ip) => {
                v4 = ip.octets();
                &v4
            }
            IpAddr::V6(ip) => {
                v6 = ip.octets();
                &v6
            }
        };
        let parts = self.client.iter().chain(&head).chain(address);
        input.iter_mut().zip(parts).for_each(|(to, from)| *to = *from);
        let mut hasher = SipHasher24::new_with_key(&secret.0);
        hasher.write(input.get(..CLIENT + 8 + address.len()).unwrap_or(&input));
        hasher.finish().to_le_bytes()
    }
}

/// One behind the other.
fn joined<const N: usize>(first: &[u8], second: &[u8]) -> [u8; N] {
    let mut octets = [0; N];
    octets.iter_mut().zip(first.iter().chain(second)).for_each(|(to, from)| *to = *from);
    octets
}

#[expect(clippy::cast_possible_truncation, reason = "the lower 32 bits are meant")]
fn low(seconds: u64) -> u32 {
    seconds as u32
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use super::*;

    fn octets(hex: &str) -> Vec<u8> {
        (0..hex.len())
            .step_by(2)
            .map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap())
            .collect()
    }

    fn bake(sent: &str, secrets: &[&str], from: &str, now: u64) -> (String, bool) {
        let secret = |hex: &&str| Secret(octets(hex).try_into().unwrap());
        let secrets: Vec<Secret> = secrets.iter().map(secret).collect();
        // The clock on the wall was set since.
        let by = Protection { secrets, ahead: Arc::new((-5000).into()), ..Protection::default() };
        let now = Instant::default() + Duration::from_secs(now + 5000);
        let sent = octets(sent);
        let baked = Cookie::read(&sent).unwrap().bake(&by, from.parse().unwrap(), now);
        let Baked { octets, proven } = baked.unwrap();
        (octets.iter().map(|octet| format!("{octet:02x}")).collect(), proven)
    }

    const SECRET: &str = "e5e973e5a6b2a43f48e7dc849e37bfcf";
    const OLDER: &str = "dd3bdf9344b678b185a6f5cb60fca715";
    const NEWER: &str = "445536bcd2513298075a5d379663c962";

    /// RFC 9018 appendix A.
    #[test]
    fn cookies_are_those_of_the_rfc() {
        let first = ("2464c4abcf10c957010000005cf79f111f8130c3eee29480", false);
        let given = bake("2464c4abcf10c957", &[SECRET], "198.51.100.100", 1_559_731_985);
        assert_eq!((given.0.as_str(), given.1), first, "A.1");
        let given = bake(first.0, &[SECRET], "198.51.100.100", 1_559_734_385);
        let renewed = "2464c4abcf10c957010000005cf7a871d4a564a1442aca77";
        assert_eq!((given.0.as_str(), given.1), (renewed, true), "A.2");
        let old = "22681ab97d52c298010000005cf7c57926556bd0934c72f8";
        let given = bake(old, &[NEWER, OLDER], "2001:db8:220:1:59de:d0f4:8769:82b8", 1_559_741_961);
        let new = "22681ab97d52c298010000005cf7c609a6bb79d16625507a";
        assert_eq!((given.0.as_str(), given.1), (new, true), "A.4");
    }

    #[test]
    fn only_our_cookies_of_that_address_and_the_last_hour_prove_it() {
        let made = 1_559_731_985;
        let (cookie, _) = bake("2464c4abcf10c957", &[SECRET], "198.51.100.100", made);
        let proven = |cookie: &str, secrets: &[&str], from, now| bake(cookie, secrets, from, now).1;
        let home = "198.51.100.100";
        assert_eq!(bake(&cookie, &[SECRET], home, made + 1799), (cookie.clone(), true));
        for (seconds, expected) in [(0, true), (3600, true), (3601, false)] {
            assert_eq!(proven(&cookie, &[SECRET], home, made + seconds), expected, "{seconds}");
        }
        assert!(proven(&cookie, &[SECRET], home, made - 300));
        assert!(!proven(&cookie, &[SECRET], home, made - 301));
        assert!(!proven(&cookie, &[SECRET], "198.51.100.101", made));
        assert!(!proven(&cookie, &[OLDER], home, made));
        assert!(proven(&cookie, &[OLDER, SECRET], home, made));
        assert!(!proven(&cookie[..32], &[SECRET], home, made));
        let other = cookie.replace("2464c4", "2464c5");
        assert!(!proven(&other, &[SECRET], home, made));
    }

    #[test]
    fn a_cookie_of_another_length_is_malformed() {
        for (length, is_good) in
            [(7, false), (8, true), (15, false), (16, true), (40, true), (41, false)]
        {
            assert_eq!(Cookie::read(&vec![0; length]).is_some(), is_good, "{length}");
        }
    }
}
