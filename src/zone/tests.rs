//! Zone files record by record, and lookups against the algorithm of the RFCs done naively.

use std::collections::BTreeMap;

use hickory_proto::rr::RData;
use hickory_proto::serialize::binary::{BinDecoder, Restrict};
use proptest::prelude::*;

use super::nodes::Content;
use super::*;
use crate::time::Ttl;

pub(super) fn name(text: &str) -> Name {
    text.parse().unwrap()
}

pub(super) fn read(text: &str) -> Result<Vec<FileRecord<'static>>, Vec<String>> {
    let mut include = |path: &str| match path {
        "more.zone" => Ok(b"included A 192.0.2.7\n$ORIGIN deep\nhere A 192.0.2.8\n".to_vec()),
        "ttl.zone" => Ok(b"a 5 A 192.0.2.7\n$TTL 300\n".to_vec()),
        "five.zone" => Ok(b"$INCLUDE five.zone\n".repeat(5)),
        "many.zone" => Ok(b"$INCLUDE leaf.zone\n".repeat(300)),
        "leaf.zone" => Ok(b"leaf 60 A 192.0.2.7\n".to_vec()),
        "circle.zone" => Ok(b"$INCLUDE circle.zone\n".to_vec()),
        _ => Err("no such file".to_owned()),
    };
    let mut records = Vec::new();
    let mut take = |FileRecord { owner, ttl, rtype, data, .. }: FileRecord<'_>| {
        records.push(FileRecord { owner, ttl, rtype, data: data.to_vec().leak(), at: ("", 0) });
    };
    match parse("test.zone", text.as_bytes(), &name("example.com"), &mut include, &mut take) {
        Ok(()) => Ok(records),
        Err(problems) => Err(problems.iter().map(ToString::to_string).collect()),
    }
}

/// Owner, TTL, and the data as hickory-proto reads it.
fn told(record: &FileRecord<'_>) -> String {
    let wire = record.data;
    let mut decoder = BinDecoder::new(wire);
    let length = Restrict::new(u16::try_from(wire.len()).unwrap());
    let data = RData::read(&mut decoder, record.rtype.0.into(), length).unwrap();
    format!("{} {} {data}", record.owner, record.ttl.as_secs())
}

#[test]
fn the_common_types_are_what_another_implementation_reads() {
    let text = r#"
$TTL 1h
@       SOA ns1 host\.master ( 1 ; serial
            2h 1h 2w 60 )
        NS  ns1
a   60  IN A 192.0.2.1
        AAAA 2001:db8::1
Mixed   CNAME A.Example.COM.
mail    MX 10 mail
txt     TXT "one two" three "semi;colon" "quo\"te"
srv     SRV 1 2 443 www
caa     CAA 0 issue "letsencrypt.org"
ptr     PTR www.example.net.
naptr   NAPTR 100 50 "s" "http+E2U" "" _http._tcp
sshfp   SSHFP 1 1 123456789abcdef67890123456789abcdef67890
tlsa    TLSA 3 1 1 d2abde240d7cd3ee6b4b28c54df034b97983a1d16e8a410e4561cb106618e971
https   HTTPS 1 . alpn=h2,h3
hinfo   HINFO "cpu" "os"
"#;
    let records = read(text).unwrap();
    let expected = [
        "example.com. 3600 ns1.example.com. host\\.master.example.com. 1 7200 3600 1209600 60",
        "example.com. 3600 ns1.example.com.",
        "a.example.com. 60 192.0.2.1",
        "a.example.com. 3600 2001:db8::1",
        "Mixed.example.com. 3600 A.Example.COM.",
        "mail.example.com. 3600 10 mail.example.com.",
    ];
    let all: Vec<String> = records.iter().map(told).collect();
    for (told, expected) in all.iter().zip(expected) {
        assert_eq!(told, expected);
    }
    let of = |owner: &str| all.iter().find(|told| told.starts_with(owner)).unwrap();
    assert!(of("srv.").ends_with("1 2 443 www.example.com."), "{}", of("srv."));
    assert!(of("caa.").contains("letsencrypt.org"), "{}", of("caa."));
    assert!(of("https.").contains("h2,h3"), "{}", of("https."));
    let txt = records.iter().find(|of| of.rtype == RecordType::TXT).unwrap();
    assert_eq!(txt.data, b"\x07one two\x05three\x0asemi;colon\x06quo\"te");
    assert_eq!(all.len(), 15);
}

#[test]
fn directives_and_unknown_types_are_understood() {
    let text = "$TTL 300\n$ORIGIN sub.example.com.\na A 192.0.2.1\n$ORIGIN example.com.\n\
                b TYPE65280 \\# 3 010203\nc TYPE1 \\# 4 c0000201\n$INCLUDE more.zone\n\
                d A 192.0.2.9\n\
                $INCLUDE more.zone other.example.com.\n";
    assert_eq!(
        owners(text),
        [
            "a.sub.example.com. 300",
            "b.example.com. 300",
            "c.example.com. 300",
            "included.example.com. 300",
            "here.deep.example.com. 300",
            // RFC 1035 §5.1: an included file changes nothing of the origin here.
            "d.example.com. 300",
            "included.other.example.com. 300",
            "here.deep.other.example.com. 300",
        ]
    );
    let records = read(text).unwrap();
    assert_eq!(records[1].data, [1, 2, 3]);
    // RFC 3597 §5: a known type may be written as an unknown one.
    assert_eq!((records[2].rtype, records[2].data), (RecordType::A, &[192, 0, 2, 1][..]));
    for (text, data) in [
        ("a 60 MX \\# 7 000a 036e7331 00\n", &b"\0\x0a\x03ns1\0"[..]),
        ("a 60 TXT \\# 4 01 41 01 42\n", b"\x01A\x01B"),
        // LOC is not known to the reader.
        ("a 60 LOC \\# 1 00\n", b"\0"),
    ] {
        assert_eq!(read(text).unwrap()[0].data, data, "{text}");
    }
}

#[test]
fn a_lone_at_sign_is_the_origin_where_a_name_stands() {
    let text = "$TTL 60\n@ SOA @ host 1 2 3 4 5\n@ NS @\nwww CNAME @\nmx MX 10 @\n\
                srv SRV 1 2 443 @\nptr PTR @\nrp RP @ @\nnaptr NAPTR 1 2 \"s\" \"\" \"\" @\n\
                https HTTPS 1 @ alpn=h2\ntxt TXT @ \"@\"\nmr MR (@)\nlabel CNAME \\@\n\
                $ORIGIN sub\n$ORIGIN @\nhere NS @ ; @\n$INCLUDE more.zone @\n";
    let records = read(text).unwrap();
    let ends = |of: usize, expected: &[u8]| assert!(records[of].data.ends_with(expected), "{of}");
    let origin = b"\x07example\x03com\0";
    for of in [1, 2, 3, 4, 5, 6, 7, 10] {
        ends(of, origin);
        assert!(!records[of].data.windows(2).any(|label| label == b"\x01@"), "{of}");
    }
    assert!(records[0].data.starts_with(origin));
    ends(8, b"\x07example\x03com\0\0\x01\0\x03\x02h2");
    assert_eq!(records[9].data, b"\x01@\x01@");
    ends(11, b"\x01@\x07example\x03com\0");
    ends(12, b"\x03sub\x07example\x03com\0");
    assert_eq!(records[13].owner.to_string(), "included.sub.example.com.");
}

#[test]
fn service_parameters_may_be_quoted() {
    let data = |data: &str| read(&format!("a 60 HTTPS {data}\n")).unwrap()[0].data.to_vec();
    for (quoted, plain) in [
        (r#"1 . alpn="h2,h3""#, "1 . alpn=h2,h3"),
        (
            r#"16 foo.example.org. ( alpn="h2" port="53") ; "x"#,
            "16 foo.example.org. alpn=h2 port=53",
        ),
        (r#"1 . ipv6hint="2001:db8::1,2001:db8::53:1""#, "1 . ipv6hint=2001:db8::1,2001:db8::53:1"),
        (r#"1 . key667="hello\210 qoo""#, r"1 . key667=hello\210\032qoo"),
        (r#"1 . key667="a;(b\"""#, r#"1 . key667=a\;\(b\""#),
        (r#"1 . key667="""#, "1 . key667"),
    ] {
        assert_eq!(data(quoted), data(plain), "{quoted}");
    }
    // What the reader does not take, it says.
    for written in [r#"1 . alpn="f\\\\oo\\,bar,h2""#, "1 . key99"] {
        let told = read(&format!("a 60 HTTPS {written}\n")).unwrap_err();
        assert!(told[0].contains("write the record's data as `\\# …`"), "{told:?}");
    }
}

#[test]
fn quoted_texts_have_any_octet() {
    let text = "a 60 TXT \"caf\u{e9}\tx\" \"\\\u{e9}\\\"\" ; \u{e9}\n".as_bytes();
    let mut records = Vec::new();
    let take = &mut |record: FileRecord<'_>| records.push(record.data.to_vec());
    let include = &mut |_: &str| Err(String::new());
    parse("", text, &name("example.com"), include, take).unwrap();
    parse("", b"a 60 TXT \"\xe9\r\x7f\"\n", &name("example.com"), include, take).unwrap();
    let (utf8, latin) = ("\x07caf\u{e9}\tx\x03\u{e9}\"", b"\x03\xe9\r\x7f");
    assert_eq!(records, [utf8.as_bytes(), latin]);
}

#[test]
fn a_file_is_included_under_the_origin_that_counts_there() {
    // RFC 1035 §5.1.
    let text = "$TTL 60\n$ORIGIN sub\n$INCLUDE more.zone\n$INCLUDE \"more.zone\" other\n";
    assert_eq!(
        owners(text),
        [
            "included.sub.example.com. 60",
            "here.deep.sub.example.com. 60",
            "included.other.sub.example.com. 60",
            "here.deep.other.sub.example.com. 60",
        ]
    );
    let told = read("$INCLUDE \"a (b);c\"\n").unwrap_err();
    assert!(told[0].contains("cannot include `a (b);c`"), "{told:?}");
}

/// The owners, and the TTLs.
fn owners(text: &str) -> Vec<String> {
    let told = |record: &FileRecord<'_>| format!("{} {}", record.owner, record.ttl.as_secs());
    read(text).unwrap().iter().map(told).collect()
}

#[test]
fn a_record_without_a_ttl_gets_the_one_that_stands_before_it() {
    let (a, soa) = ("A 192.0.2.1", "SOA ns1 host 1 7200 3600 1209600 60");
    for (text, expected) in [
        // RFC 2308 §4: `$TTL` counts for all behind it, whatever records say themselves.
        (format!("$TTL 1h\na 60 {a}\nb {a}\n$TTL 90\nc {a}\n"), "a 60, b 3600, c 90"),
        // RFC 1035 §5.1: without it, what the record before has.
        (format!("a 60 {a}\nb {a}\nc 1d {a}\nd {a}\n"), "a 60, b 60, c 86400, d 86400"),
        // Without any, the SOA record's MINIMUM, for all.
        (format!("@ {soa}\nb {a}\nc 1d {a}\nd {a}\n"), "@ 60, b 60, c 86400, d 60"),
        (format!("@ 1d {soa}\nb {a}\n"), "@ 86400, b 86400"),
        // An included file is read as if it stood there.
        ("$TTL 60\n$INCLUDE more.zone\n".to_owned(), "included 60, here.deep 60"),
        ("a 60 A 192.0.2.1\n$INCLUDE more.zone\n".to_owned(), "a 60, included 60, here.deep 60"),
        (format!("$TTL 60\n$INCLUDE ttl.zone\nb {a}\n"), "a 5, b 300"),
        ("$INCLUDE ttl.zone\n$INCLUDE more.zone\n".to_owned(), "a 5, included 300, here.deep 300"),
    ] {
        let told =
            owners(&text).join(", ").replace(".example.com.", "").replace("example.com.", "@");
        assert_eq!(told, expected, "{text}");
    }
    let told = read(&format!("a {a}\nb {a}\n")).unwrap_err();
    assert_eq!(
        told,
        ["test.zone:1:1: no TTL here nor before; give the file one on top, such as \
                      `$TTL 1h`"]
    );
}

#[test]
fn what_cannot_be_read_is_told_with_its_place() {
    for (text, expected) in [
        ("a 60 A 192.0.2.256\n", "test.zone:1:19: expected IPv4 address, found `192.0.2.256`"),
        ("a 60 A 192.0.2.1\nb 60 NOPE x\n", "test.zone:2:10: expected a type, found `NOPE`"),
        ("a 60 (1x) A 192.0.2.1\n", "test.zone:1:9: expected a type, found `1x`"),
        ("$TTL 1y2\n", "test.zone:1:8: expected decimal number, found `1y2`"),
        ("a 60 LOC 52 N 4 E 0\n", "test.zone:1:10: of type LOC only octets are read; write `LOC "),
        ("a 60 X25 \"1\"\n", "test.zone:1:11: of type X25 only octets are read; write `X25 \\#"),
        ("a 60 CH TXT x\n", "test.zone:1:13: different class: CH != IN"),
        ("a 60 A 192.0.2.1 extra\n", "test.zone:1:18: trailing tokens"),
        ("$INCLUDE circle.zone\n", "files include each other more than 8 deep"),
        ("$INCLUDE gone.zone\n", "test.zone:1:1: cannot include `gone.zone`: no such file"),
        ("$NOPE x\n", "unknown control"),
        ("a 60 TXT \"open\n", "test.zone:1:10: what begins here never ends"),
        ("a 60 TXT ( open\n", "test.zone:1:10: what begins here never ends"),
        ("a 60 TXT \"one\"\"two\"\n", "test.zone:1:14: a quoted text touches"),
        ("a 60 TXT a=\"b\"\n", "test.zone:1:12: a quoted text touches"),
        ("\n a 60 HTTPS \\# 3 a=\"b\"\n", "test.zone:2:20: a quoted text touches"),
        ("a 60 TXT caf\u{e9}\n", "test.zone:1:10: no printable ASCII"),
        ("\u{feff}$TTL 1h\n", "test.zone:1:1: no printable ASCII"),
        ("a 4294967295 A 192.0.2.1\n", "test.zone:1:3: a TTL has 2147483647 seconds at most"),
        ("$TTL 2147483648\n", "test.zone:1:6: a TTL has 2147483647 seconds at most"),
        ("a 60 A \\# 3 010203\n", "test.zone:1:1: these octets are no data of type A"),
        ("a 60 A \\# 5 0102030405\n", "no data of type A"),
        ("a 60 CNAME \\# 1 41\n", "no data of type CNAME"),
        ("a 60 TYPE5 \\# 2 c00c\n", "no data of type CNAME"),
        ("a 60 NS \\# 5 036e7331c0\n", "no data of type NS"),
        ("a 60 MX \\# 1 00\n", "no data of type MX"),
        // A name with a pointer to itself, and one with a pointer to one before it.
        ("a 60 TYPE5 \\# 2 c000\n", "no data of type CNAME"),
        (
            "a 60 SOA \\# 27 036e733100 c000 0000000100000001000000010000000100000001\n",
            "no data of type SOA",
        ),
        ("a 60 TXT \\# 2 0541\n", "no data of type TXT"),
    ] {
        let told = read(text).unwrap_err();
        assert!(told[0].contains(expected), "{text}: {told:?}");
    }
}

#[test]
fn all_entries_that_cannot_be_read_are_told() {
    let text = "$TTL 1h
@ SOA ns1 host ( 1 2h
   1x 2w 60 )
  NS ns1
a A 192.0.2.256 ; its next ones have no owner of their own
  A 192.0.2.257
b A ( x
d A 192.0.2.259
)
$INCLUDE gone.zone
g A 192.0.2.1
$ORIGIN sub
h TYPE1 \\# 1 00
i NOPE
j A x";
    let told = read(text).unwrap_err();
    let expected = [
        "test.zone:3:6: ",
        "test.zone:5:16: expected IPv4 address, found `192.0.2.256`",
        "test.zone:7:",
        "test.zone:10:1: cannot include `gone.zone`: no such file",
        "test.zone:13:1: these octets are no data of type A",
        "test.zone:14:7: expected a type, found `NOPE`",
        "test.zone:15:6: expected IPv4 address, found `x`",
    ];
    assert_eq!(told.len(), expected.len(), "{told:#?}");
    for (told, expected) in told.iter().zip(expected) {
        assert!(told.starts_with(expected), "{told}, not {expected}");
    }
    let many = "a 60 A x\n".repeat(1000);
    assert_eq!(read(&many).unwrap_err().len(), 100);
}

#[test]
fn few_lines_do_not_include_very_much() {
    let told = read("$INCLUDE five.zone\n").unwrap_err();
    assert_eq!(told.len(), 100);
    assert!(told[99].contains("more than 8 deep"), "{}", told[99]);
    let told = read(&"$INCLUDE many.zone\n".repeat(4)).unwrap_err();
    assert_eq!(told.len(), 100);
    assert!(told[0].contains("many.zone:97:1: cannot include `leaf.zone`"), "{}", told[0]);
    assert!(told[0].contains("more than 1000 files are included"), "{}", told[0]);
    assert_eq!(read(&"$INCLUDE many.zone\n".repeat(3)).unwrap().len(), 900);
}

#[test]
fn a_record_that_is_there_twice_is_there_once() {
    let mut builder = ZoneBuilder::new(name("example.com"));
    builder.add_apex(&[name("ns1.example.net")], Ttl::from_secs(60), Ttl::from_secs(60));
    // RFC 2181 §5, §5.2.
    for (ttl, last) in [(60, 2), (60, 1), (30, 2), (60, 3)] {
        let (owner, ttl) = (name("a.example.com"), Ttl::from_secs(ttl));
        builder.add(&owner, ttl, RecordType::A, &[192, 0, 2, last]);
    }
    let zone = builder.finish().unwrap();
    let Found::Fixed(fixed) = zone.find(&name("a.example.com").to_lower()) else { panic!() };
    let made = fixed.of(RecordType::A).unwrap();
    let records: Vec<&[u8]> = made.records().map(|record| &record[6..]).collect();
    assert_eq!(records, [2, 1, 3].map(|last| [0, 0, 0, 30, 0, 4, 192, 0, 2, last]));
}

/// A zone of A records, cuts (NS) and steered names.
fn zone(records: &[(&str, RecordType)]) -> Result<Zone, Vec<ZoneProblem>> {
    let mut builder = ZoneBuilder::new(name("example.com"));
    builder.add_apex(&[name("ns1.example.net")], Ttl::from_secs(60), Ttl::from_secs(60));
    for (owner, rtype) in records {
        let data = match *rtype {
            RecordType::A => vec![192, 0, 2, 1],
            _ => name("ns1.example.net").as_wire().to_vec(),
        };
        builder.add(&name(owner), Ttl::from_secs(60), *rtype, &data);
    }
    builder.finish()
}

fn label() -> impl Strategy<Value = &'static str> {
    prop_oneof![Just("a"), Just("b"), Just("c"), Just("*")]
}

fn owner() -> impl Strategy<Value = String> {
    prop::collection::vec(label(), 1..4).prop_map(|labels| labels.join(".") + ".example.com")
}

/// What RFC 1034 §4.3.2 and RFC 4592 §3.3 say of a name, by searching all names for it.
fn naive(names: &BTreeMap<String, RecordType>, asked: &str) -> String {
    let labels: Vec<&str> = asked.split('.').collect();
    let suffix = |from: usize| labels[from..].join(".");
    let exists = |wanted: &str| {
        names.keys().any(|known| known == wanted || known.ends_with(&format!(".{wanted}")))
            || wanted == "example.com"
    };
    // The highest cut at or above the name.
    for from in (0..labels.len() - 2).rev() {
        if names.get(&suffix(from)) == Some(&RecordType::NS) {
            return format!("cut at {}", suffix(from));
        }
    }
    if exists(asked) {
        return format!("node {asked}");
    }
    let encloser = (1..labels.len()).map(suffix).find(|suffix| exists(suffix)).unwrap();
    let wildcard = format!("*.{encloser}");
    if exists(&wildcard) { format!("node {wildcard}") } else { "no name".to_owned() }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn names_are_found_as_the_rfcs_say(
        owners in prop::collection::vec((owner(), prop::bool::weighted(0.15)), 0..8),
        asked in prop::collection::vec(owner(), 12),
    ) {
        let mut names: BTreeMap<String, RecordType> = BTreeMap::new();
        for (owner, is_cut) in owners {
            // A wildcard has no NS records.
            let is_cut = is_cut && !owner.starts_with('*');
            names.insert(owner, if is_cut { RecordType::NS } else { RecordType::A });
        }
        let records: Vec<(&str, RecordType)> =
            names.iter().map(|(owner, rtype)| (owner.as_str(), *rtype)).collect();
        let zone = zone(&records).unwrap();
        for asked in asked {
            // Nodes are told apart by where they are.
            let of = |node| std::ptr::from_ref::<Node>(node).addr();
            let at = |wire: &[u8]| {
                zone.nodes.get(wire).map(|entry| match entry.content {
                    Content::Fixed(fixed) => fixed.place(),
                    Content::Node(node) | Content::Steered(node, _) => of(node),
                })
            };
            let check = |place: usize| {
                let expected = naive(&names, &asked);
                let wanted = expected.strip_prefix("node ").unwrap_or("example.com");
                let is_there = at(&name(wanted).to_lower()) == Some(place);
                if is_there { expected } else { format!("another node than {wanted}") }
            };
            let found = match zone.find(&name(&asked).to_lower()) {
                Found::NoName => "no name".to_owned(),
                Found::Delegation(cut) => {
                    let owner = Name::from_wire(cut.owner).unwrap().to_string();
                    format!("cut at {}", owner.trim_end_matches('.'))
                }
                Found::Fixed(fixed) => check(fixed.place()),
                Found::Node(node) | Found::Steered(node, _) => check(of(node)),
            };
            prop_assert_eq!(found, naive(&names, &asked), "{} in {:?}", asked, names);
        }
    }

    /// Reading a name and printing it come back to the same, whatever octets it has.
    #[test]
    fn names_print_as_they_are_read(
        labels in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..20), 0..8),
    ) {
        let mut wire: Vec<u8> = Vec::new();
        for label in &labels {
            wire.push(u8::try_from(label.len()).unwrap());
            wire.extend(label);
        }
        wire.push(0);
        let read = Name::from_wire(&wire).unwrap();
        let again: Name = read.to_string().parse().unwrap();
        prop_assert_eq!(again.as_wire(), wire.as_slice());
    }
}
