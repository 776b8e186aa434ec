//! `checks`: how endpoints are probed.

use std::cell::Cell;
use std::net::Ipv6Addr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use hyper::Method;
use hyper::header::{
    CONNECTION, CONTENT_LENGTH, EXPECT, HOST, HeaderName, HeaderValue, TE, TRAILER,
    TRANSFER_ENCODING, UPGRADE,
};
use rustls::pki_types::ServerName;

use super::defaults;
use super::problem::{Mention, Place};
use super::read::{At, Fields, Problems};
use super::yaml::Value;
use crate::health::{Check, DnsCheck, Expect, HttpCheck, Schedule, StatusRange, Timeout, TlsCheck};
use crate::zone::{Name, RecordType};

/// The checks, while the rest is read.
#[derive(Debug, Default)]
pub(super) struct Checks {
    list: Vec<Named>,
}

#[derive(Debug)]
struct Named {
    name: String,
    at: Place,
    /// Where its command stands, if it has one.
    command: Option<Place>,
    /// Where the file stands that tells states, if there is one.
    pushed: Option<Place>,
    key: String,
    used: Cell<bool>,
    /// `None`: it was not understood, which has been told.
    check: Option<(Check, Schedule)>,
}

impl Checks {
    /// The checks of an endpoint, and how many of them must be good: a name, a list of names
    /// (all of them), or `{all: […]}`, `{any: […]}`, `{at_least: N, of: […]}`.
    pub(super) fn rule(&self, at: &At<'_>, problems: &mut Problems) -> Rule {
        let Value::Map(_) = &at.node.value else {
            let checks = self.find_all(at, problems);
            return Rule { need: checks.len(), checks };
        };
        let Some(mut fields) = at.fields(problems) else { return Rule::default() };
        let kinds = (fields.get("all"), fields.get("any"), fields.get("at_least"));
        let of = fields.get("of");
        fields.done(problems);
        match (kinds, of) {
            ((Some(all), None, None), None) => {
                let checks = self.find_all(&all, problems);
                Rule { need: checks.len(), checks }
            }
            ((None, Some(any), None), None) => {
                Rule { need: 1, checks: self.find_all(&any, problems) }
            }
            ((None, None, Some(least)), Some(of)) => {
                let checks = self.find_all(&of, problems);
                let most = u64::try_from(checks.len().max(1)).unwrap_or(u64::MAX);
                let need = least.number(1, most, problems).and_then(|need| need.try_into().ok());
                Rule { need: need.unwrap_or(1), checks }
            }
            _ => {
                let what = "expected the name of a check, or one of `all: […]`, `any: […]` and \
                            `at_least: N` with `of: […]`";
                problems.error(at.place(), &at.key, what);
                Rule::default()
            }
        }
    }

    fn find_all(&self, at: &At<'_>, problems: &mut Problems) -> Vec<(Check, Schedule)> {
        let items = at.list();
        if items.is_empty() {
            problems.error(at.place(), &at.key, "an empty list; expected names of checks");
        }
        items.iter().filter_map(|item| self.find(item, problems).cloned()).collect()
    }

    /// The check that a text names.
    pub(super) fn find(&self, at: &At<'_>, problems: &mut Problems) -> Option<&(Check, Schedule)> {
        let name = at.text("the name of a check", problems)?;
        let Some(found) = self.list.iter().find(|check| check.name == name) else {
            let known = self.list.iter().map(|check| check.name.as_str());
            problems.unknown((at.place(), &at.key), ("check", name), known);
            return None;
        };
        found.used.set(true);
        found.check.as_ref()
    }

    /// The programs that are run.
    pub(super) fn programs(&self) -> Vec<Mention> {
        let program = |of: &Named| {
            let Some((Check::Command { command }, _)) = &of.check else { return None };
            let (path, key) = (command.first()?.into(), format!("{}.command", of.key));
            Some(Mention { path, at: of.command?, key })
        };
        self.list.iter().filter(|of| of.used.get()).filter_map(program).collect()
    }

    /// The files that tell states.
    pub(super) fn states(&self) -> Vec<Mention> {
        let file = |of: &Named| {
            let Some((Check::Pushed { file: Some(path), .. }, _)) = &of.check else { return None };
            let (path, key) = (path.clone(), format!("{}.pushed", of.key));
            Some(Mention { path, at: of.pushed?, key })
        };
        self.list.iter().filter(|of| of.used.get()).filter_map(file).collect()
    }

    /// Warns of checks that no service uses.
    pub(super) fn unused(&self, problems: &mut Problems) {
        for check in self.list.iter().filter(|check| !check.used.get()) {
            problems.warning(check.at, &check.key, "no service uses this check");
        }
    }
}

/// Which checks an endpoint must pass; without any, it is up.
#[derive(Clone, Debug, Default)]
pub(super) struct Rule {
    pub(super) checks: Vec<(Check, Schedule)>,
    pub(super) need: usize,
}

/// `checks`: by name.
pub(super) fn read(at: Option<At<'_>>, problems: &mut Problems) -> Checks {
    let named = at.map(|at| at.named(problems)).unwrap_or_default();
    let find = |at: &At<'_>, key: &str| match &at.node.value {
        Value::Map(entries) => Some(entries.iter().find(|of| of.key == key)?.value.at),
        _ => None,
    };
    let list = named.into_iter().map(|(name, place, at)| Named {
        name: name.to_owned(),
        at: place,
        command: find(&at, "command"),
        pushed: find(&at, "pushed"),
        key: at.key.clone(),
        used: Cell::new(false),
        check: check(name, &at, problems),
    });
    Checks { list: list.collect() }
}

fn check(name: &str, at: &At<'_>, problems: &mut Problems) -> Option<(Check, Schedule)> {
    let mut fields = at.fields(problems)?;
    let mut kinds: Vec<At<'_>> = [
        fields.get("tcp"),
        fields.get("http"),
        fields.get("https"),
        fields.get("grpc"),
        fields.get("dns"),
        fields.get("ping"),
        fields.get("command"),
        fields.get("pushed"),
    ]
    .into_iter()
    .flatten()
    .collect();
    let mut base = Schedule::default();
    let check = match kinds.pop().filter(|_| kinds.is_empty()) {
        Some(kind) => match kind.key.rsplit('.').next() {
            Some("tcp") => port(&kind, problems).map(|port| Check::Tcp { port }),
            Some("http") => http(&kind, 80, &mut fields, problems)
                .map(|(port, request, _)| Check::Http { port, request: Arc::new(request) }),
            Some("https") => {
                let request = http(&kind, 443, &mut fields, problems);
                let host = request.as_ref().and_then(|(.., host)| host.as_ref());
                let tls = Arc::new(tls(&mut fields, host, problems));
                request.map(|(port, request, _)| Check::Https {
                    port,
                    request: Arc::new(request),
                    tls,
                })
            }
            Some("grpc") => grpc(&kind, &mut fields, problems),
            Some("dns") => dns(&kind, &mut fields, problems),
            Some("command") => command(&kind, problems),
            Some("pushed") => {
                // What is told counts at once.
                base = Schedule { reprobes: 0, rise: 1, hold_down: Duration::ZERO, ..base };
                pushed(&kind, name, problems)
            }
            _ => ping(&kind, problems),
        },
        None => {
            let what = "expected one of `tcp: PORT`, `http: PATH`, `https: PATH`, `grpc: SERVICE`, \
                        `dns: NAME`, `ping: true`, `command: […]` or `pushed: FILE`";
            problems.error(at.place(), &at.key, what);
            None
        }
    };
    let mut schedule = schedule(base, &mut fields, problems);
    fields.done(problems);
    let check = check?;
    schedule.hold &= check.is_connection();
    Some((check, schedule))
}

/// `ping`: `true`, as there is nothing to say of it.
fn ping(kind: &At<'_>, problems: &mut Problems) -> Option<Check> {
    if !kind.boolean(problems)? {
        kind.wrong("true, or another kind of check", problems);
        return None;
    }
    Some(Check::Ping)
}

/// `grpc`: a service of the gRPC health protocol; a text may be empty.
fn grpc(kind: &At<'_>, fields: &mut Fields<'_>, problems: &mut Problems) -> Option<Check> {
    const PORT: u16 = 50051;
    let service = kind.text("the name of a service, or \"\"", problems)?;
    let port = fields.get("port").and_then(|at| port(&at, problems)).unwrap_or(PORT);
    let is_secure = fields.get("tls").and_then(|at| at.boolean(problems)).unwrap_or(false);
    let tls = is_secure.then(|| Arc::new(tls(fields, None, problems)));
    Some(Check::Grpc { port, service: service.into(), tls })
}

/// Response codes by their names (RFC 1035 §4.1.1).
const RCODES: [(&str, u16); 6] = [
    ("NOERROR", 0),
    ("FORMERR", 1),
    ("SERVFAIL", 2),
    ("NXDOMAIN", 3),
    ("NOTIMP", 4),
    ("REFUSED", 5),
];

/// `dns`: a name to ask for, with `type` and what is expected: response codes, addresses.
fn dns(kind: &At<'_>, fields: &mut Fields<'_>, problems: &mut Problems) -> Option<Check> {
    let name = kind.parsed::<Name>("a domain name", problems)?.to_string();
    let port = fields.get("port").and_then(|at| port(&at, problems)).unwrap_or(53);
    let rtype = fields
        .get("type")
        .and_then(|at| at.parsed::<RecordType>("a record type, such as A or SOA", problems));
    let (mut rcodes, mut addresses) = (Vec::new(), Vec::new());
    let expected = "a response code such as NOERROR, or an address";
    for item in expectations(fields, expected, problems).unwrap_or_default() {
        let Some(text) = item.text(expected, problems) else { continue };
        let rcode = RCODES.iter().find(|(name, _)| *name == text);
        match (rcode, text.parse()) {
            (Some((_, rcode)), _) => rcodes.push(*rcode),
            (None, Ok(ip)) => addresses.push(ip),
            _ => {
                let what = format!("`{text}` given; expected {expected}");
                problems.error(item.place(), &item.key, what);
            }
        }
    }
    if rcodes.is_empty() {
        rcodes.push(0);
    }
    let rtype = rtype.unwrap_or(RecordType::A).0;
    Some(Check::Dns { port, query: Arc::new(DnsCheck { name, rtype, rcodes, addresses }) })
}

/// `expect`: what is good. If nothing were, all would be down for ever.
fn expectations<'n>(
    fields: &mut Fields<'n>,
    expected: &str,
    problems: &mut Problems,
) -> Option<Vec<At<'n>>> {
    let at = fields.get("expect")?;
    let items = at.list();
    if items.is_empty() {
        problems.error(at.place(), &at.key, format!("an empty list; expected {expected}"));
    }
    Some(items)
}

/// `command`: a program and its arguments.
fn command(kind: &At<'_>, problems: &mut Problems) -> Option<Check> {
    let words = kind.list();
    let words: Vec<String> =
        words.iter().filter_map(|at| at.text("a word", problems)).map(str::to_owned).collect();
    if !words.first().is_some_and(|program| program.starts_with('/')) {
        let what = "expected the path of a program from the root, and its arguments";
        problems.error(kind.place(), &kind.key, what);
        return None;
    }
    Some(Check::Command { command: words.into() })
}

/// `pushed`: a file that tells it, or `true`: the API only.
fn pushed(kind: &At<'_>, name: &str, problems: &mut Problems) -> Option<Check> {
    let expected = "the path of a file, or true";
    let text = kind.text(expected, problems)?;
    if text == "false" {
        kind.wrong(expected, problems);
        return None;
    }
    let file = (text != "true").then(|| PathBuf::from(text));
    Some(Check::Pushed { name: name.into(), file })
}

fn port(at: &At<'_>, problems: &mut Problems) -> Option<u16> {
    at.number(1, 65535, problems).and_then(|port| u16::try_from(port).ok())
}

/// The keys that `http` and `https` share; also the port, and where the host is said.
fn http<'n>(
    path: &At<'_>,
    default_port: u16,
    fields: &mut Fields<'n>,
    problems: &mut Problems,
) -> Option<(u16, HttpCheck, Option<At<'n>>)> {
    let text = path.text("a path, such as /healthz", problems)?;
    // What a request line may not hold (RFC 3986 §2); `%` and two digits stand for it.
    let strange = |c: char| !c.is_ascii_graphic() || "\"<>\\^`{|}#".contains(c);
    if !text.starts_with('/') || text.contains(strange) {
        let what = format!("`{text}` is no path; expected one such as /healthz, in ASCII");
        problems.error(path.place(), &path.key, what);
    }
    let port = fields.get("port").and_then(|at| port(&at, problems)).unwrap_or(default_port);
    let at = fields.get("host");
    let host = at.as_ref().and_then(|at| {
        let host = at.text("a host name", problems)?;
        if name_of(host).is_none() {
            let what = format!("`{host}` is no host name; expected one such as {HOSTS}");
            problems.error(at.place(), &at.key, what);
        }
        Some(host.to_owned())
    });
    let statuses = match expectations(fields, STATUSES, problems) {
        Some(items) => items.iter().filter_map(|item| statuses(item, problems)).collect(),
        None => vec![StatusRange { first: defaults::EXPECT.0, last: defaults::EXPECT.1 }],
    };
    let method = fields.get("method").and_then(|at| method(&at, problems)).unwrap_or_default();
    let headers = fields.get("headers").map(|at| headers(&at, problems)).unwrap_or_default();
    let contains = fields.get("contains");
    if let Some(at) = contains.as_ref().filter(|_| method == Method::HEAD) {
        problems.error(at.place(), &at.key, "an answer to HEAD has no body; ask by GET");
    }
    let contains = contains.and_then(|at| at.text("a text", problems));
    let expect = Expect { statuses, contains: contains.map(str::to_owned) };
    Some((port, HttpCheck { method, path: text.to_owned(), host, headers, expect }, at))
}

/// `method`: one that changes nothing at the target.
fn method(at: &At<'_>, problems: &mut Problems) -> Option<Method> {
    match at.text("GET or HEAD", problems)? {
        "GET" => Some(Method::GET),
        "HEAD" => Some(Method::HEAD),
        _ => {
            at.wrong("GET or HEAD", problems);
            None
        }
    }
}

/// Fields of the header that the probe has of its own, or that say how a body comes.
const OWN: [HeaderName; 8] =
    [HOST, CONNECTION, CONTENT_LENGTH, EXPECT, TE, TRAILER, TRANSFER_ENCODING, UPGRADE];

/// `headers`: fields of the request's header by their names.
fn headers(at: &At<'_>, problems: &mut Problems) -> Vec<(HeaderName, HeaderValue)> {
    let mut read = Vec::new();
    for (name, place, value) in at.named(problems) {
        let Some(text) = value.text("a text", problems) else { continue };
        let Ok(field) = name.parse() else {
            // What stands there may be all of a header, and secret.
            let what = "no name of a header; expected one such as Authorization, and its value";
            problems.error(place, &at.key, what);
            continue;
        };
        let what = match HeaderValue::from_str(text) {
            _ if field == HOST => "it has a key of its own: `host`, beside `headers`",
            _ if OWN.contains(&field) => "the probe itself says it",
            Ok(mut value) => {
                value.set_sensitive(true);
                read.push((field, value));
                continue;
            }
            Err(_) => "a header's value is one line of printable ASCII",
        };
        problems.error(place, &value.key, what);
    }
    read
}

const HOSTS: &str = "www.example.com, 192.0.2.1 or [2001:db8::1], with a port or without";

/// The name or address in a Host field, where an IPv6 address is in brackets and a port may follow
/// (RFC 3986 §3.2.2); `None`: it is none.
fn name_of(host: &str) -> Option<&str> {
    let (name, rest) = match host.strip_prefix('[') {
        Some(inner) => inner.split_once(']').filter(|(ip, _)| ip.parse::<Ipv6Addr>().is_ok())?,
        None => host.split_at(host.find(':').unwrap_or(host.len())),
    };
    let is_port = |port: &str| port.parse::<u16>().is_ok();
    let is_fine = rest.is_empty() || rest.strip_prefix(':').is_some_and(is_port);
    let bad = |c: char| !c.is_ascii_graphic() || "/[]".contains(c);
    (is_fine && !name.is_empty() && !name.contains(bad)).then_some(name)
}

const STATUSES: &str = "a status or a range of them from 100 to 599, such as 200 or 200-299";

/// `200` or `200-299`.
fn statuses(at: &At<'_>, problems: &mut Problems) -> Option<StatusRange> {
    let text = at.text(STATUSES, problems)?;
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let status = |text: &str| text.trim().parse().ok().filter(|code| (100..600).contains(code));
    match (status(first), status(last)) {
        (Some(first), Some(last)) if first <= last => Some(StatusRange { first, last }),
        _ => {
            problems.error(at.place(), &at.key, format!("`{text}` given; expected {STATUSES}"));
            None
        }
    }
}

fn tls(fields: &mut Fields<'_>, host: Option<&At<'_>>, problems: &mut Problems) -> TlsCheck {
    let server_name = server_name(fields.get("sni"), host, problems);
    let verify = fields.get("verify").and_then(|at| at.boolean(problems)).unwrap_or(true);
    let roots = fields.get("ca").and_then(|at| at.path("the path of a PEM file", problems));
    let mut within = |key| {
        let at = fields.get(key)?;
        at.duration(Duration::ZERO, YEAR, problems)
    };
    let (expires, warns) = (within("expires_within"), within("warns_within"));
    TlsCheck {
        server_name,
        verify,
        roots,
        expires_within: expires.unwrap_or_default(),
        warns_within: warns.unwrap_or_default(),
    }
}

/// What the certificate must be for: `sni`, or else the host that is asked for.
fn server_name(
    sni: Option<At<'_>>,
    host: Option<&At<'_>>,
    problems: &mut Problems,
) -> Option<ServerName<'static>> {
    let expected = "the name of one host, or an address";
    if let Some(at) = sni {
        let name = ServerName::try_from(at.text(expected, problems)?.trim());
        if name.is_err() {
            at.wrong(expected, problems);
        }
        return name.ok().map(|name| name.to_owned());
    }
    let at = host?;
    // What else is wrong with the host has been told.
    let Value::Text(host) = &at.node.value else { return None };
    let name = ServerName::try_from(name_of(host)?);
    if name.is_err() {
        let what = format!("no certificate is for `{host}`; expected `sni` with {expected}");
        problems.error(at.place(), &at.key, what);
    }
    name.ok().map(|name| name.to_owned())
}

/// No certificate is wanted to last longer.
const YEAR: Duration = Duration::from_secs(365 * 86_400);

fn schedule(mut schedule: Schedule, fields: &mut Fields<'_>, problems: &mut Problems) -> Schedule {
    const SHORTEST: Duration = Duration::from_millis(10);
    const LONGEST_TIMEOUT: Duration = Duration::from_secs(60);
    if let Some(at) = fields.get("interval") {
        let interval = at.duration(Duration::from_millis(100), super::LONGEST, problems);
        schedule.interval = interval.unwrap_or(schedule.interval);
    }
    if let Some(at) = fields.get("timeout") {
        let timeout = at.duration(SHORTEST, LONGEST_TIMEOUT, problems);
        schedule.timeout = timeout.map_or(schedule.timeout, Timeout::Fixed);
    }
    if let Some(at) = fields.get("reprobe_gap") {
        let gap = at.duration(Duration::from_millis(1), LONGEST_TIMEOUT, problems);
        schedule.reprobe_gap = gap.unwrap_or(schedule.reprobe_gap);
    }
    if let Some(at) = fields.get("slow_after") {
        schedule.slow_after = at.duration(SHORTEST, LONGEST_TIMEOUT, problems);
        let (Timeout::Auto { max, .. } | Timeout::Fixed(max)) = schedule.timeout;
        if schedule.slow_after.is_some_and(|after| after >= max) {
            let what = "never counts: whoever takes so long has failed by `timeout` before";
            problems.warning(at.place(), &at.key, what);
        }
    }
    if let Some(at) = fields.get("hold") {
        schedule.hold = at.boolean(problems).unwrap_or(false);
    }
    if let Some(at) = fields.get("hold_down") {
        let hold = at.duration(Duration::ZERO, super::LONGEST, problems);
        schedule.hold_down = hold.unwrap_or(schedule.hold_down);
    }
    let mut number = |key, least, most, value: &mut u32| {
        let number = fields.get(key).and_then(|at| at.number(least, most, problems));
        *value = number.and_then(|number| u32::try_from(number).ok()).unwrap_or(*value);
    };
    number("jitter", 0, 50, &mut schedule.jitter_percent);
    number("reprobes", 0, 20, &mut schedule.reprobes);
    number("rise", 1, 1000, &mut schedule.rise);
    schedule
}
