//! `zones`: from zone files, or written out.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use super::problem::{Place, Problem};
use super::read::{At, Problems};
use super::{Loader, defaults};
use crate::ids::ServiceId;
use crate::steer::Service;
use crate::zone::{
    FileProblem, FileRecord, Name, RecordType, Steered, ZoneBuilder, ZoneProblem, Zones, parse,
};

/// As many problems of a zone are told: with one wrong line on top, each name may have one.
const MOST: usize = 100;

/// The zones, while services put their names on top.
#[derive(Debug, Default)]
pub(super) struct Drafts {
    list: Vec<Draft>,
    /// The files that were read.
    pub(super) files: Vec<PathBuf>,
}

#[derive(Debug)]
struct Draft {
    origin: Name,
    builder: ZoneBuilder,
    at: Place,
    key: String,
    /// Where names were first mentioned, to tell where a conflict is.
    mentions: HashMap<Name, Place>,
    /// It could not be read, which has been told.
    is_broken: bool,
}

impl Drafts {
    /// Puts a service on a name; tells if no zone has it.
    pub(super) fn steer(
        &mut self,
        name: &Name,
        service: Option<ServiceId>,
        kind: Steered,
        (at, key): (Place, &str),
        problems: &mut Problems,
    ) {
        let around = self.list.iter_mut().filter(|draft| name.is_at_or_below(&draft.origin));
        match around.max_by_key(|draft| draft.origin.as_wire().len()) {
            Some(draft) => {
                draft.mentions.insert(name.clone(), at);
                if let Some(service) = service {
                    draft.builder.steer(name, service, kind);
                }
            }
            None => {
                let zones: Vec<String> =
                    self.list.iter().map(|draft| draft.origin.to_string()).collect();
                let what = match zones.as_slice() {
                    [] => format!("{name} is in no zone; none is defined"),
                    zones => format!("{name} is in no zone; the zones are: {}", zones.join(", ")),
                };
                problems.error(at, key, what);
            }
        }
    }

    /// The zones; tells what is wrong with them.
    pub(super) fn finish(self, problems: &mut Problems) -> Zones {
        let mut zones = Vec::new();
        for Draft { builder, at, key, mentions, is_broken, .. } in self.list {
            let place = |owner: &Name| (*mentions.get(owner).unwrap_or(&at), key.as_str());
            for doubt in builder.doubts().take(if is_broken { 0 } else { MOST }) {
                problems.of_zone(&doubt, place(&doubt.owner), true);
            }
            match builder.finish() {
                Ok(zone) => zones.push(zone),
                // What is missing from a zone that could not be read is no news.
                Err(_) if is_broken => {}
                Err(found) => {
                    for problem in found.iter().take(MOST) {
                        problems.of_zone(problem, place(&problem.owner), false);
                    }
                    if let Some(more) = found.len().checked_sub(MOST).filter(|more| *more > 0) {
                        problems.error(at, &key, format!("and {more} more like these"));
                    }
                }
            }
        }
        Zones::new(zones)
    }
}

impl Problems {
    /// What is wrong in a zone: told where its file has it, or, if a service has a part in it or
    /// no file has, at this place of the configuration.
    fn of_zone(&mut self, found: &ZoneProblem, (at, key): (Place, &str), is_warning: bool) {
        let what = found.to_string();
        match &found.at {
            Some((file, line)) if !found.fault.is_of_service() => {
                let problem = FileProblem { file: file.clone(), at: Some((*line, 1)), what };
                self.list.push(Problem { is_warning, ..told(problem) });
            }
            Some((file, line)) => {
                self.push(at, key, format!("{what} ({file}:{line})"), None, is_warning)
            }
            None => self.push(at, key, what, None, is_warning),
        }
    }
}

/// `zones`: by origin.
pub(super) fn read(at: Option<At<'_>>, load: Loader<'_>, problems: &mut Problems) -> Drafts {
    let mut drafts = Drafts::default();
    let Some(at) = at else { return drafts };
    for (text, place, zone) in at.named(problems) {
        let origin: Name = match text.parse() {
            Ok(origin) => origin,
            Err(error) => {
                problems.error(place, &at.key, format!("{error}"));
                continue;
            }
        };
        if drafts.list.iter().any(|draft| draft.origin == origin) {
            problems.error(place, &at.key, format!("the zone {origin} stands twice"));
            continue;
        }
        let mut draft = Draft {
            builder: ZoneBuilder::new(origin.clone()),
            origin,
            at: place,
            key: zone.key.clone(),
            mentions: HashMap::new(),
            is_broken: false,
        };
        let before = problems.list.iter().filter(|problem| !problem.is_warning).count();
        read_zone(&zone, &mut draft, &mut drafts.files, load, problems);
        let after = problems.list.iter().filter(|problem| !problem.is_warning).count();
        draft.is_broken = after > before;
        drafts.list.push(draft);
    }
    drafts
}

/// `retired`: names and zones that may go, and where each stands.
pub(super) fn retired(at: Option<At<'_>>, problems: &mut Problems) -> Vec<(Name, Place)> {
    let items = at.map(|at| at.list()).unwrap_or_default();
    let read = |item: &At<'_>| Some((item.parsed("a domain name", problems)?, item.place()));
    items.iter().filter_map(read).collect()
}

/// Warns of names that are `retired` and served: nobody would be told when they get lost.
pub(super) fn still_served(
    retired: &[(Name, Place)],
    zones: &Zones,
    services: &[Service],
    problems: &mut Problems,
) {
    for (name, at) in retired {
        let steered = services.iter().find(|service| service.names.contains(name));
        let whose = match steered {
            Some(service) => format!("a name of the service {}", service.name),
            None if zones.iter().any(|zone| zone.origin() == name) => "a zone".to_owned(),
            None => continue,
        };
        let what = format!(
            "{name} is still {whose}, and a change that loses it would be taken without a word; \
             name it here only together with the change that takes it out"
        );
        problems.warning(*at, "retired", what);
    }
}

fn read_zone(
    at: &At<'_>,
    draft: &mut Draft,
    files: &mut Vec<PathBuf>,
    load: Loader<'_>,
    problems: &mut Problems,
) {
    let Some(mut fields) = at.fields(problems) else { return };
    if let Some(file) = fields.get("file") {
        fields.done(problems);
        if let Some(path) = file.text("the path of a zone file", problems) {
            from_file(path, &file, draft, files, load, problems);
        }
        return;
    }
    let Some(servers) = fields.get("ns") else {
        let what = "expected `file`, or `ns` with the names of the zone's name servers";
        problems.error(at.place(), &at.key, what);
        return;
    };
    let servers: Vec<Name> = servers
        .list()
        .iter()
        .filter_map(|item| item.parsed("the name of a name server", problems))
        .collect();
    if servers.len() == 1 {
        let what = "one name server; with two, resolvers hardly notice when one is away";
        problems.warning(at.place(), &at.key, what);
    }
    let ttl = fields.get("ttl").and_then(|at| at.ttl(problems)).unwrap_or(defaults::ZONE_TTL);
    let negative = fields.get("negative_ttl").and_then(|at| at.ttl(problems));
    let records = fields.get("records");
    fields.done(problems);
    draft.builder.add_apex(&servers, ttl, negative.unwrap_or(defaults::NEGATIVE_TTL));
    for (owner, _, types) in records.map(|at| at.named(problems)).unwrap_or_default() {
        for (rtype, place, values) in types.named(problems) {
            for value in values.list() {
                let expected = "record data as in a zone file";
                let Some(data) = value.text(expected, problems) else { continue };
                let at = (place, types.key.as_str());
                inline(draft, (owner, ttl.as_secs(), rtype, data), at, problems);
            }
        }
    }
}

/// A record that is written in the configuration: a line of a zone file.
fn inline(
    draft: &mut Draft,
    (owner, ttl, rtype, data): (&str, u32, &str, &str),
    (at, key): (Place, &str),
    problems: &mut Problems,
) {
    let line = format!("{owner} {ttl} IN {rtype} {data}");
    let mut no_include = |_: &str| Err("not in a configuration".to_owned());
    let one_line = !line.contains(['\n', '\r']);
    let mut records = Vec::new();
    let take = &mut |of: FileRecord<'_>| {
        records.push((of.owner, of.ttl, of.rtype, of.data.to_vec()));
    };
    match parse("", line.as_bytes(), &draft.origin, &mut no_include, take) {
        Ok(()) if one_line && records.len() == 1 => {
            for (owner, ttl, rtype, wire) in records {
                let count = if rtype == RecordType::TXT { texts(&wire) } else { 1 };
                if count > 1 && !data.contains('"') && !data.starts_with(r"\#") {
                    let what = format!(
                        "`{data}` is {count} texts, which are joined without blanks where they are \
                         read; for one text write '\"{data}\"', with both kinds of quotes"
                    );
                    problems.warning(at, key, what);
                }
                draft.builder.add(&owner, ttl, rtype, &wire);
                draft.mentions.entry(owner).or_insert(at);
            }
        }
        Ok(()) => problems.error(at, key, format!("`{}` is no single record", data.escape_debug())),
        Err(faults) => {
            let reasons: Vec<&str> = faults.iter().map(|fault| fault.what.as_str()).collect();
            let what = format!("`{rtype} {data}` cannot be read: {}", reasons.join(", "));
            problems.error(at, key, what);
        }
    }
}

/// How many texts the data of a TXT record has (RFC 1035 §3.3.14).
fn texts(wire: &[u8]) -> usize {
    let (mut count, mut rest) = (0, wire);
    while let Some((length, behind)) = rest.split_first() {
        (count, rest) = (count + 1, behind.get(usize::from(*length)..).unwrap_or(&[]));
    }
    count
}

fn from_file(
    path: &str,
    at: &At<'_>,
    draft: &mut Draft,
    files: &mut Vec<PathBuf>,
    load: Loader<'_>,
    problems: &mut Problems,
) {
    let text = match load(Path::new(path)) {
        Ok(text) => text,
        Err(reason) => {
            problems.error(at.place(), &at.key, format!("cannot read `{path}`: {reason}"));
            return;
        }
    };
    files.push(path.into());
    // Included files are named relative to the zone file.
    let folder = Path::new(path).parent().unwrap_or(Path::new("")).to_owned();
    let mut include = |included: &str| {
        let included = folder.join(included);
        let text = load(&included)?;
        files.push(included);
        Ok(text)
    };
    let Draft { builder, origin, .. } = draft;
    let mut take = |record: FileRecord<'_>| builder.add_read(&record);
    if let Err(faults) = parse(path, &text, origin, &mut include, &mut take) {
        problems.list.extend(faults.into_iter().map(told));
    }
}

/// A problem of a zone file, in its own file.
fn told(problem: FileProblem) -> Problem {
    let at = problem.at.map(|(line, column)| Place { line, column });
    let FileProblem { file, what, .. } = problem;
    Problem { file, at, key: String::new(), what, suggestion: None, is_warning: false }
}

#[cfg(test)]
mod tests {
    use crate::config::{Config, Targets};

    #[test]
    fn of_very_many_problems_the_first_are_told_and_how_many_there_are() {
        let names: Vec<String> = (0..20_000).map(|row| format!("n{row} 60 A 192.0.2.1")).collect();
        let zone = format!("$ORIGIN other.test.\n{}\n", names.join("\n"));
        let text = "regions: { us: {} }\nzones: { example.com: { file: zone } }\nservices: {}\n";
        let mut load = |_: &std::path::Path| Ok(zone.clone().into_bytes());
        let told = Config::load("test", text, &mut Targets::default(), &mut load).unwrap_err();
        assert!(told.len() < 110, "{}", told.len());
        let last = told.iter().find(|problem| problem.what.contains("more like these"));
        // Neither a SOA record nor name servers are there either.
        assert_eq!(last.unwrap().what, "and 19902 more like these");
    }

    #[test]
    fn a_fault_of_a_zone_is_told_where_its_file_has_it() {
        let zone = "$TTL 60
@ SOA ns1.example.net. host.example.net. 1 2 3 4 5
@ NS ns1.example.net.
@ NS ns2
a A 192.0.2.1
a CNAME b
$INCLUDE more
www A 192.0.2.9
b MX 10 nothing
";
        let text = "regions: { us: {} }
checks: { web: { tcp: 443 } }
zones: { example.com: { file: zone } }
services:
  web:
    names: [www.example.com]
    check: web
    regions: { us: 192.0.2.10 }
";
        let mut load = |path: &std::path::Path| {
            let is_zone = path.to_str() == Some("zone");
            Ok(if is_zone { zone } else { "; included\nc CNAME b\nc TXT x\n" }.into())
        };
        let told = Config::load("test", text, &mut Targets::default(), &mut load).unwrap_err();
        let told: Vec<String> = told.iter().map(ToString::to_string).collect();
        for expected in [
            "zone:4:1: error: example.com.: its name server ns2.example.com. has no address",
            "zone:6:1: error: a.example.com.: a CNAME record beside other records",
            "more:2:1: error: c.example.com.: a CNAME record beside other records",
            "zone:9:1: warning: b.example.com.: mail goes to nothing.example.com.",
        ] {
            assert!(told.iter().any(|told| told.starts_with(expected)), "{expected}: {told:?}");
        }
        // Where the two do not go together, one of both places is told with the other.
        let both = told.iter().find(|told| told.contains("www.example.com.: A records")).unwrap();
        assert!(both.starts_with("test:6:13: error: zones.example.com: "), "{both}");
        assert!(both.ends_with("remove one of the two (zone:8)"), "{both}");
    }
}
