//! Typed readers over the tree. A reader that finds something wrong notes it and goes on, so that
//! all problems are told at once.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use super::problem::{Mention, Place, Problem, nearest};
use super::yaml::{Entry, Node, Value};
use crate::time::Ttl;

/// What has been found wrong so far.
#[derive(Debug)]
pub(crate) struct Problems {
    pub(crate) file: String,
    pub(crate) list: Vec<Problem>,
    /// The files that were named: what is wrong with one that is not there is found later.
    pub(super) named: Vec<Mention>,
}

impl Problems {
    /// None yet, in this file.
    pub(crate) fn of(file: &str) -> Self {
        Self { file: file.to_owned(), list: Vec::new(), named: Vec::new() }
    }

    pub(crate) fn error(&mut self, at: Place, key: &str, what: impl Into<String>) {
        self.push(at, key, what.into(), None, false);
    }

    pub(crate) fn warning(&mut self, at: Place, key: &str, what: impl Into<String>) {
        self.push(at, key, what.into(), None, true);
    }

    /// A word that is not one of the known ones.
    pub(crate) fn unknown<'k>(
        &mut self,
        (at, key): (Place, &str),
        (kind, given): (&str, &str),
        known: impl IntoIterator<Item = &'k str> + Clone,
    ) {
        let list: Vec<&str> = known.clone().into_iter().collect();
        let suggestion = nearest(given, known).map(str::to_owned);
        let what = match list.as_slice() {
            [] => format!("no {kind} `{given}`; none is defined"),
            list => format!("no {kind} `{given}`; expected one of: {}", list.join(", ")),
        };
        self.push(at, key, what, suggestion, false);
    }

    /// A warning that is not told yet.
    pub(super) fn would_warn(&self, at: Place, key: &str, what: &str) -> Problem {
        let (file, key, what) = (self.file.clone(), key.to_owned(), what.to_owned());
        Problem { file, at: Some(at), key, what, suggestion: None, is_warning: true }
    }

    pub(super) fn push(
        &mut self,
        at: Place,
        key: &str,
        what: String,
        suggestion: Option<String>,
        is_warning: bool,
    ) {
        let told = self.would_warn(at, key, &what);
        self.list.push(Problem { suggestion, is_warning, ..told });
    }
}

/// A value with the key that leads to it.
#[derive(Clone, Debug)]
pub(crate) struct At<'n> {
    pub(crate) node: &'n Node,
    pub(crate) key: String,
}

/// A map whose keys are known. What is asked for is what is allowed.
#[derive(Debug)]
pub(crate) struct Fields<'n> {
    entries: &'n [Entry],
    at: Place,
    key: String,
    asked: Vec<&'static str>,
}

impl<'n> At<'n> {
    pub(crate) fn place(&self) -> Place {
        self.node.at
    }

    pub(super) fn wrong(&self, expected: &str, problems: &mut Problems) {
        let given = match &self.node.value {
            Value::Text(_) if self.may_be_secret() => "a text".to_owned(),
            _ => self.node.kind(),
        };
        problems.error(self.node.at, &self.key, format!("{given} given; expected {expected}"));
    }

    /// May a secret stand here, or have been written here instead of the name of its file? What is
    /// refused is logged, and shown to whoever may read.
    fn may_be_secret(&self) -> bool {
        const PARTS: [&str; 7] =
            ["webhooks", "etcd", "headers", "cookies", "key", "tokens", "identity"];
        self.key.split('.').any(|part| PARTS.contains(&part))
    }

    /// A map with known keys; nothing is an empty one.
    pub(crate) fn fields(&self, problems: &mut Problems) -> Option<Fields<'n>> {
        let entries = self.map("a map of keys", problems)?;
        Some(Fields { entries, at: self.node.at, key: self.key.clone(), asked: Vec::new() })
    }

    /// The entries of a map whose keys are names.
    pub(crate) fn named(&self, problems: &mut Problems) -> Vec<(&'n str, Place, At<'n>)> {
        let entries = self.map("a map of names", problems).unwrap_or(&[]);
        let named = |entry: &'n Entry| {
            let key = join(&self.key, &entry.key);
            (entry.key.as_str(), entry.key_at, At { node: &entry.value, key })
        };
        entries.iter().map(named).collect()
    }

    fn map(&self, expected: &str, problems: &mut Problems) -> Option<&'n [Entry]> {
        match &self.node.value {
            Value::Map(entries) => Some(entries),
            Value::Nothing => Some(&[]),
            _ => {
                self.wrong(expected, problems);
                None
            }
        }
    }

    /// The items of a list; a value alone is a list of one.
    pub(crate) fn list(&self) -> Vec<At<'n>> {
        let items = match &self.node.value {
            Value::List(items) => items.as_slice(),
            Value::Nothing => &[],
            _ => std::slice::from_ref(self.node),
        };
        items.iter().map(|node| At { node, key: self.key.clone() }).collect()
    }

    /// What stands at the end of these keys, if it is there.
    pub(crate) fn find(&self, keys: &[&str]) -> Option<At<'n>> {
        keys.iter().try_fold(self.clone(), |at, key| {
            let Value::Map(entries) = &at.node.value else { return None };
            let entry = entries.iter().find(|entry| entry.key == *key)?;
            Some(At { node: &entry.value, key: join(&at.key, key) })
        })
    }

    /// Is it a text that begins so?
    pub(crate) fn is_text_with(&self, prefix: &str) -> bool {
        matches!(&self.node.value, Value::Text(text) if text.starts_with(prefix))
    }

    pub(crate) fn text(&self, expected: &str, problems: &mut Problems) -> Option<&'n str> {
        match &self.node.value {
            Value::Text(text) => Some(text),
            _ => {
                self.wrong(expected, problems);
                None
            }
        }
    }

    /// The path of a file that is read later.
    pub(super) fn path(&self, expected: &str, problems: &mut Problems) -> Option<PathBuf> {
        let path = PathBuf::from(self.text(expected, problems)?);
        let (at, key) = (self.place(), self.key.clone());
        problems.named.push(Mention { path: path.clone(), at, key });
        Some(path)
    }

    /// A URL of http or https, such as `example`.
    pub(super) fn url(&self, example: &str, problems: &mut Problems) -> Option<&'n str> {
        let expected = format!("a URL such as {example}");
        let text = self.text(&expected, problems)?;
        let parsed = reqwest::Url::parse(text);
        let is_good = parsed.is_ok_and(|url| matches!(url.scheme(), "http" | "https"));
        if !is_good {
            self.wrong(&expected, problems);
        }
        is_good.then_some(text)
    }

    /// A text that `T` can be read from.
    pub(crate) fn parsed<T: FromStr>(&self, what: &str, problems: &mut Problems) -> Option<T> {
        let parsed = self.text(what, problems)?.trim().parse().ok();
        if parsed.is_none() {
            self.wrong(what, problems);
        }
        parsed
    }

    /// A number from `least` to `most`.
    pub(crate) fn number(&self, least: u64, most: u64, problems: &mut Problems) -> Option<u64> {
        let expected = format!("a whole number from {least} to {most}");
        let number = self.parsed(&expected, problems)?;
        if !(least..=most).contains(&number) {
            self.wrong(&expected, problems);
            return None;
        }
        Some(number)
    }

    pub(crate) fn boolean(&self, problems: &mut Problems) -> Option<bool> {
        self.parsed("true or false", problems)
    }

    /// A share, such as `2.5%`, as a part of one.
    pub(crate) fn share(&self, problems: &mut Problems) -> Option<f64> {
        let expected = "a share from 0% to 100%, such as 2.5%";
        let read = share(self.text(expected, problems)?);
        if read.is_none() {
            self.wrong(expected, problems);
        }
        read
    }

    /// A span of time from `least` to `most`, such as `500ms`.
    pub(crate) fn duration(
        &self,
        least: Duration,
        most: Duration,
        problems: &mut Problems,
    ) -> Option<Duration> {
        let (from, to) = (written(least), written(most));
        let short = if least < Duration::from_secs(1) { "500ms, " } else { "" };
        let expected = format!("a time from {from} to {to}, such as {short}30s or 5m");
        let span = self.text(&expected, problems).and_then(duration);
        let span = span.filter(|span| (least..=most).contains(span));
        if span.is_none() && matches!(self.node.value, Value::Text(_)) {
            self.wrong(&expected, problems);
        }
        span
    }

    /// A TTL of at least a second and at most a week.
    pub(crate) fn ttl(&self, problems: &mut Problems) -> Option<Ttl> {
        const WEEK: Duration = Duration::from_secs(7 * 86_400);
        let span = self.duration(Duration::from_secs(1), WEEK, problems)?;
        if span.subsec_nanos() != 0 {
            self.wrong("whole seconds: a TTL has no parts of one", problems);
            return None;
        }
        u32::try_from(span.as_secs()).ok().map(Ttl::from_secs)
    }

    /// An address that a client can be sent to.
    pub(crate) fn unicast(&self, problems: &mut Problems) -> Option<IpAddr> {
        let ip: IpAddr = self.parsed("an IPv4 or IPv6 address", problems)?;
        if ip.is_unspecified() || ip.is_multicast() {
            self.wrong("the address of one host", problems);
            return None;
        }
        if let IpAddr::V6(v6) = ip {
            if let Some(v4) = v6.to_ipv4_mapped() {
                self.wrong(&format!("{v4}, as IPv4 addresses are written"), problems);
                return None;
            }
            // RFC 4007 §6: it is another host's on each link.
            if v6.is_unicast_link_local() {
                self.wrong("an address that is the same everywhere", problems);
                return None;
            }
        }
        Some(ip)
    }

    /// Addresses with ports, all different.
    pub(crate) fn listen(&self, problems: &mut Problems) -> Vec<SocketAddr> {
        addresses(&self.list(), problems)
    }
}

/// Addresses with ports, all different.
pub(super) fn addresses(items: &[At<'_>], problems: &mut Problems) -> Vec<SocketAddr> {
    let mut addresses = Vec::new();
    for item in items {
        let expected = "an address and a port, such as 0.0.0.0:53 or [::]:53";
        let Some(address) = item.parsed::<SocketAddr>(expected, problems) else { continue };
        if address.port() != 0 && addresses.contains(&address) {
            item.wrong("each address once", problems);
        } else {
            addresses.push(address);
        }
    }
    addresses
}

impl<'n> Fields<'n> {
    /// The value of `key`, if it is there and is something.
    pub(crate) fn get(&mut self, key: &'static str) -> Option<At<'n>> {
        self.asked.push(key);
        let entry = self.entries.iter().find(|entry| entry.key == key)?;
        if matches!(entry.value.value, Value::Nothing) {
            return None;
        }
        Some(At { node: &entry.value, key: join(&self.key, key) })
    }

    /// The same; that it is not there is a problem.
    pub(crate) fn need(&mut self, key: &'static str, problems: &mut Problems) -> Option<At<'n>> {
        let found = self.get(key);
        if found.is_none() {
            problems.error(self.at, &self.key, format!("the key `{key}` is missing"));
        }
        found
    }

    /// Whatever was not asked for is not known.
    pub(crate) fn done(self, problems: &mut Problems) {
        for entry in self.entries {
            if !self.asked.contains(&entry.key.as_str()) {
                let at = (entry.key_at, self.key.as_str());
                problems.unknown(at, ("key", &entry.key), self.asked.iter().copied());
            }
        }
    }
}

fn join(path: &str, key: &str) -> String {
    if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") }
}

/// A share such as `2.5%`, as a part of one.
pub fn share(text: &str) -> Option<f64> {
    let percent: f64 = text.trim().strip_suffix('%')?.trim().parse().ok()?;
    (0.0..=100.0).contains(&percent).then_some(percent / 100.0)
}

/// `500ms`, `30s`, `5m`, `2h`, `1d`; a number alone is seconds.
pub fn duration(text: &str) -> Option<Duration> {
    let text = text.trim();
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let number: u64 = number.parse().ok()?;
    let seconds = |factor: u64| number.checked_mul(factor).map(Duration::from_secs);
    match unit.trim() {
        "ms" => Some(Duration::from_millis(number)),
        "" | "s" => seconds(1),
        "m" => seconds(60),
        "h" => seconds(3600),
        "d" => seconds(86_400),
        _ => None,
    }
}

/// A time as it is written in a configuration.
fn written(span: Duration) -> String {
    let seconds = span.as_secs();
    let units = [(86_400, "d"), (3600, "h"), (60, "m")];
    match units.iter().find(|(unit, _)| seconds >= *unit && seconds.is_multiple_of(*unit)) {
        _ if span.subsec_millis() > 0 => format!("{}ms", span.as_millis()),
        Some((unit, name)) => format!("{}{name}", seconds / unit),
        None => format!("{seconds}s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_written_as_they_are_read() {
        for text in ["500ms", "0s", "30s", "90s", "5m", "1h", "7d", "1500ms"] {
            assert_eq!(duration(text).map(written).as_deref(), Some(text));
        }
    }

    #[test]
    fn durations_are_read_with_their_units() {
        assert_eq!(duration("500ms"), Some(Duration::from_millis(500)));
        assert_eq!(duration("30"), Some(Duration::from_secs(30)));
        assert_eq!(duration("2 h"), Some(Duration::from_secs(7200)));
        for wrong in ["", "s", "-1s", "1.5s", "1w", "99999999999999999999h"] {
            assert_eq!(duration(wrong), None, "{wrong}");
        }
    }
}
