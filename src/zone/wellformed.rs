//! What the data of some types has to be besides having their shape: what the reader takes, and
//! receivers refuse together with the whole message that it is in.

use std::collections::BTreeMap;

use domain::base::iana::{Rtype, SvcParamKey};

use super::name::offsets;

/// What was expected of `wire`, which has the shape of this type's data and is none.
pub(super) fn expected(rtype: Rtype, wire: &[u8]) -> Option<String> {
    match rtype {
        // RFC 4034 §5.1.4, RFC 7344 §3.1: SHA-1, SHA-256, GOST, SHA-384, GOST, SM3.
        Rtype::DS | Rtype::CDS => {
            digest(wire, (3, 4), &[(1, 20), (2, 32), (3, 32), (4, 48), (5, 32), (6, 32)])
        }
        // RFC 4255 §3.1.2, RFC 6594 §4: SHA-1, SHA-256.
        Rtype::SSHFP => digest(wire, (1, 2), &[(1, 20), (2, 32)]),
        // RFC 8976 §2.2.3: SHA-384, SHA-512.
        Rtype::ZONEMD => digest(wire, (5, 6), &[(1, 48), (2, 64)]),
        // RFC 6698 §2.1.4.
        Rtype::TLSA => digest(wire, (2, 3), &[]),
        // RFC 7929 §2.1.
        Rtype::OPENPGPKEY => digest(wire, (0, 0), &[]),
        // RFC 8659 §4.1.
        Rtype::CAA => {
            let (tag, _) = text(wire.get(1..)?)?;
            let is_tag = !tag.is_empty() && tag.iter().all(u8::is_ascii_alphanumeric);
            (!is_tag).then(|| "a tag of letters and digits, such as `issue`".to_owned())
        }
        // RFC 3403 §4.1: flags and services stand before it.
        Rtype::NAPTR => {
            let (_, behind) = text(wire.get(4..)?)?;
            let (_, behind) = text(behind)?;
            let (regexp, _) = text(behind)?;
            let what = "no expression, or one such as `!^.*$!sip:info@example.com!`";
            (!is_substitution(regexp)).then(|| what.to_owned())
        }
        Rtype::SVCB | Rtype::HTTPS => parameters(wire).map(str::to_owned),
        _ => None,
    }
}

/// Of what ends in a digest or a key: where it says how that was made, where it begins, and how
/// long it is if it was made so.
fn digest(wire: &[u8], (kind, start): (usize, usize), known: &[(u8, usize)]) -> Option<String> {
    let (kind, length) = (wire.get(kind).copied(), wire.get(start..)?.len());
    match known.iter().find(|(of, _)| Some(*of) == kind) {
        Some((of, right)) => {
            (length != *right).then(|| format!("a digest of {right} octets, as its type is {of}"))
        }
        None => (length == 0).then(|| "octets at its end".to_owned()),
    }
}

/// What begins with the octet that says how long it is, and what is behind it.
fn text(wire: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, behind) = wire.split_first()?;
    behind.split_at_checked(usize::from(*length))
}

/// Is it nothing, or `!what it matches!what comes instead!`, perhaps with an `i` (RFC 3402 §3.2)?
fn is_substitution(regexp: &[u8]) -> bool {
    let Some((mark, rest)) = regexp.split_first() else { return true };
    let mut is_escaped = false;
    let mut ends = rest.iter().enumerate().filter_map(|(at, octet)| {
        let is_end = !is_escaped && octet == mark;
        is_escaped = !is_escaped && *octet == b'\\';
        is_end.then_some(at)
    });
    let (Some(_), Some(last), None) = (ends.next(), ends.next(), ends.next()) else {
        return false;
    };
    let is_mark = !matches!(mark, 0 | b'0'..=b'9' | b'\\' | b'i');
    is_mark && matches!(rest.get(last + 1..), Some(b"" | b"i"))
}

/// By key.
type Parameters<'w> = BTreeMap<SvcParamKey, &'w [u8]>;

/// What was expected of the parameters of a service binding.
fn parameters(wire: &[u8]) -> Option<&'static str> {
    let all = all_parameters(wire)?;
    all.iter().find_map(|(key, value)| parameter(*key, value, &all))
}

/// The parameters of a service binding (RFC 9460 §2.2).
fn all_parameters(wire: &[u8]) -> Option<Parameters<'_>> {
    let target = wire.get(2..)?;
    let mut rest = target.get(offsets(target).last()? + 1..)?;
    let mut all = Parameters::new();
    while let Some(([k0, k1, l0, l1], behind)) = rest.split_first_chunk() {
        let length = usize::from(u16::from_be_bytes([*l0, *l1]));
        let (value, behind) = behind.split_at_checked(length)?;
        all.insert(SvcParamKey::from_int(u16::from_be_bytes([*k0, *k1])), value);
        rest = behind;
    }
    Some(all)
}

/// Are there addresses in this service binding, which clients may go to (RFC 9460 §7.3)?
pub fn has_hints(wire: &[u8]) -> bool {
    let hints = [SvcParamKey::IPV4HINT, SvcParamKey::IPV6HINT];
    all_parameters(wire).is_some_and(|all| hints.iter().any(|key| all.contains_key(key)))
}

/// The same of one of `all`.
fn parameter(key: SvcParamKey, value: &[u8], all: &Parameters<'_>) -> Option<&'static str> {
    let are_all = |length| !value.is_empty() && value.len().is_multiple_of(length);
    let (is_right, expected) = match key {
        // RFC 9460 §8.
        SvcParamKey::MANDATORY => {
            (are_mandatory(value, all), "`mandatory` with other keys that are there, in order")
        }
        // RFC 9460 §7.1.1.
        SvcParamKey::ALPN => (are_protocols(value), "`alpn` with protocols that are not empty"),
        SvcParamKey::NO_DEFAULT_ALPN => (
            value.is_empty() && all.contains_key(&SvcParamKey::ALPN),
            "`no-default-alpn` without a value, and beside `alpn`",
        ),
        // RFC 9460 §7.2.
        SvcParamKey::PORT => (value.len() == 2, "`port` with 2 octets"),
        // RFC 9460 §7.3.
        SvcParamKey::IPV4HINT => (are_all(4), "`ipv4hint` with addresses of 4 octets"),
        SvcParamKey::IPV6HINT => (are_all(16), "`ipv6hint` with addresses of 16 octets"),
        // RFC 9461 §5.
        SvcParamKey::DOHPATH => {
            (is_template(value), "`dohpath` with a path for `dns`, such as `/dns-query{?dns}`")
        }
        // RFC 9540 §4.
        SvcParamKey::OHTTP => (value.is_empty(), "`ohttp` without a value"),
        _ => return None,
    };
    (!is_right).then_some(expected)
}

fn are_mandatory(value: &[u8], all: &Parameters<'_>) -> bool {
    let (keys, rest) = value.as_chunks::<2>();
    let is_other = |key: &[u8; 2]| {
        let key = SvcParamKey::from_int(u16::from_be_bytes(*key));
        key != SvcParamKey::MANDATORY && all.contains_key(&key)
    };
    let are_sorted = keys.is_sorted_by(|key, next| key < next);
    rest.is_empty() && !keys.is_empty() && are_sorted && keys.iter().all(is_other)
}

fn are_protocols(value: &[u8]) -> bool {
    let mut rest = value;
    while let Some(([_, ..], behind)) = text(rest) {
        rest = behind;
    }
    rest.is_empty() && !value.is_empty()
}

/// Is it a path from the root, with a place for the variable `dns` (RFC 6570 §2.2)?
fn is_template(value: &[u8]) -> bool {
    let is_place = |behind: &str| {
        let variables = behind.split_once('}').map(|(inside, _)| inside);
        let variables = variables.map(|inside| inside.trim_start_matches(['?', '&', '/', '+']));
        variables.is_some_and(|variables| variables.split(',').any(|variable| variable == "dns"))
    };
    let Ok(path) = str::from_utf8(value) else { return false };
    path.starts_with('/') && path.split('{').skip(1).any(is_place)
}

#[cfg(test)]
mod tests {
    use super::super::file::parse;

    /// What is told of a record with these data.
    fn told(data: &str) -> Option<String> {
        let (line, origin) = (format!("a 60 {data}\n"), "example.com".parse().unwrap());
        let include = &mut |_: &str| Err(String::new());
        let told = parse("test.zone", line.as_bytes(), &origin, include, &mut |_| {});
        told.err().map(|problems| problems[0].to_string())
    }

    /// BIND takes no message with any of them.
    #[test]
    fn data_that_receivers_refuse_is_refused() {
        let sha256 = "00".repeat(32);
        for (data, expected) in [
            ("HTTPS 1 . alpn=h2,,h3", "of type HTTPS; expected `alpn` with protocols that are not"),
            ("HTTPS 1 . alpn=,h2", "`alpn`"),
            (r"HTTPS \# 8 0001000001000100", "`alpn`"),
            (r"HTTPS \# 7 00010000010000", "`alpn`"),
            (r"HTTPS \# 9 000100000100020568", "`alpn`"),
            ("HTTPS 1 . no-default-alpn", "`no-default-alpn` without a value, and beside `alpn`"),
            (r"HTTPS \# 7 00010000020000", "`no-default-alpn`"),
            (r"SVCB \# 15 0001000001000302683200020001ff", "`no-default-alpn`"),
            (r"HTTPS \# 11 0001000003000401bb01bb", "`port` with 2 octets"),
            (r"HTTPS \# 10 00010000040003c00002", "`ipv4hint` with addresses of 4 octets"),
            (r"HTTPS \# 7 00010000040000", "`ipv4hint`"),
            (r"HTTPS \# 11 0001000006000420010db8", "`ipv6hint` with addresses of 16 octets"),
            (r"HTTPS \# 9 000100000000020001", "`mandatory` with other keys that are there"),
            (r"HTTPS \# 7 00010000000000", "`mandatory`"),
            (r"HTTPS \# 8 0001000008000100", "`ohttp` without a value"),
            ("SVCB 1 . dohpath=x", "`dohpath` with a path for `dns`, such as `/dns-query{?dns}`"),
            ("SVCB 1 . dohpath=/dns", "`dohpath`"),
            ("SVCB 1 . dohpath=/dns-query{?dns", "`dohpath`"),
            ("SSHFP 4 2 aabb", "of type SSHFP; expected a digest of 32 octets, as its type is 2"),
            ("DS 1 13 2 aabb", "of type DS; expected a digest of 32 octets"),
            (r"DS \# 6 0001 0d 02 aabb", "expected a digest of 32 octets"),
            ("CDS 1 13 1 aabb", "of type CDS; expected a digest of 20 octets"),
            ("ZONEMD 1 1 1 aabb", "of type ZONEMD; expected a digest of 48 octets"),
            ("TLSA 3 1 1 \"\"", "of type TLSA; expected octets at its end"),
            ("OPENPGPKEY \"\"", "of type OPENPGPKEY; expected octets at its end"),
            (r#"CAA 0 "" "x""#, "of type CAA; expected a tag of letters and digits"),
            (r#"NAPTR 1 1 "u" "x" "!a" ."#, "of type NAPTR; expected no expression, or one such"),
            (r#"NAPTR 1 1 "u" "x" "!a!b!x" ."#, "of type NAPTR"),
            (r#"NAPTR 1 1 "u" "x" "!a!b\\!" ."#, "of type NAPTR"),
            (r#"NAPTR 1 1 "u" "x" "1a1b1" ."#, "of type NAPTR"),
        ] {
            let told = told(data).unwrap_or_else(|| panic!("{data}"));
            assert!(told.starts_with("test.zone:1:1: no data of type "), "{data}: {told}");
            assert!(told.contains(expected), "{data}: {told}");
        }
        for data in [
            "HTTPS 0 svc.example.net.",
            "HTTPS 1 . alpn=h2,h3 no-default-alpn port=443 ipv4hint=192.0.2.1,192.0.2.2",
            "HTTPS 1 . mandatory=alpn,port alpn=h2 port=443 ipv6hint=2001:db8::1 ohttp",
            "SVCB 1 . alpn=h2 dohpath=/dns-query{?dns}",
            "SVCB 1 . alpn=h2 dohpath=/q{?ct,dns}",
            "SVCB 1 . key667=x",
            r"SVCB \# 10 0001 00 029b 0003 414243",
            &format!("DS 1 13 2 {sha256}"),
            "DS 1 13 99 00",
            "CDS 0 0 0 00",
            &format!("SSHFP 4 2 {sha256}"),
            "TLSA 3 1 0 00",
            r#"CAA 128 issuewild ";""#,
            r#"NAPTR 1 1 "u" "E2U+sip" "!^(.*)$!sip:\\1@example.com!i" ."#,
            r#"NAPTR 1 1 "s" "" "" a"#,
        ] {
            assert_eq!(told(data), None, "{data}");
        }
    }
}
