//! What a scenario's text says of regions, nodes and what happens to them.

use std::time::Duration;

use super::scenario::{Act, LONGEST, Wish, Writing, share};
use crate::config::read::{At, Fields, Problems};
use crate::config::{Config, MOST_NODES};
use crate::ids::{RegionId, ServiceId};
use crate::steer::{Lease, Policy, Word};

/// The regions that a scenario may name.
pub(super) struct Regions<'c> {
    pub(super) config: &'c Config,
    pub(super) reloads: &'c [&'c str],
}

impl Regions<'_> {
    pub(super) fn region(&self, at: &At<'_>, problems: &mut Problems) -> Option<RegionId> {
        let name = at.text("a region", problems)?;
        let found = self.config.region(name);
        if found.is_none() {
            let names = self.config.regions.iter().map(|of| of.name.as_str());
            problems.unknown((at.place(), &at.key), ("region", name), names);
        }
        found
    }

    /// Who writes when it begins: only where operators say so.
    pub(super) fn first_writer(
        &self,
        at: &At<'_>,
        service: ServiceId,
        problems: &mut Problems,
    ) -> Option<RegionId> {
        let policy = self.config.services.get(service.index()).map(|of| &of.policy);
        if !matches!(policy, Some(Policy::SingleWriter(_, Lease::Manual))) {
            let what = "expected only where the service has `lease: manual`";
            problems.error(at.place(), &at.key, what);
        }
        self.region(at, problems)
    }

    /// The nodes that are named; else those of `cluster`; else one in each of up to three regions.
    pub(super) fn nodes(
        &self,
        at: Option<At<'_>>,
        problems: &mut Problems,
    ) -> Vec<(String, RegionId)> {
        if let Some(at) = at {
            let named = at.named(problems);
            if named.len() > MOST_NODES {
                let what = format!("{} nodes; expected at most {MOST_NODES}", named.len());
                problems.error(at.place(), &at.key, what);
            }
            let node = |(name, _, at): (&str, _, At<'_>)| {
                Some((name.to_owned(), self.region(&at, problems)?))
            };
            return named.into_iter().filter_map(node).collect();
        }
        let members = self.config.cluster.iter().flat_map(|cluster| &cluster.nodes);
        let placed: Vec<_> = members
            .filter_map(|of| Some((of.name.clone(), self.config.region(of.region.as_ref()?)?)))
            .collect();
        if !placed.is_empty() {
            return placed;
        }
        let ids = (0..self.config.regions.len().min(3)).filter_map(RegionId::from_index);
        ids.enumerate().map(|(row, region)| (format!("ns{}", row + 1), region)).collect()
    }

    pub(super) fn writing(&self, at: &At<'_>, problems: &mut Problems) -> Option<Writing> {
        let mut fields = at.fields(problems)?;
        let writes = crate::config::writes(&mut fields, problems);
        let mut span = |key: &'static str| {
            let span = fields.get(key);
            span.and_then(|at| at.duration(Duration::ZERO, LONGEST, problems))
        };
        let (fence, lease) = (span("fence"), span("lease"));
        let catch_up = fields.get("catch_up").and_then(|at| at.number(1, 1000, problems));
        let skew = fields.get("skew");
        fields.done(problems);
        let named = skew.map(|at| at.named(problems)).unwrap_or_default();
        let skew = named.into_iter().filter_map(|(name, place, at)| {
            let ahead = at.duration(Duration::ZERO, LONGEST, problems);
            let region = self.config.region(name);
            if region.is_none() {
                let names = self.config.regions.iter().map(|of| of.name.as_str());
                problems.unknown((place, &at.key), ("region", name), names);
            }
            Some((region?, ahead?))
        });
        let skew = skew.collect();
        let plain = Writing::plain(writes?);
        Some(Writing {
            skew,
            catch_up: catch_up.map_or(plain.catch_up, |times| times as f64),
            fence: fence.unwrap_or(plain.fence),
            lease: lease.unwrap_or(plain.lease),
            ..plain
        })
    }

    /// What `events` says, in order of time, in a scenario that takes so long.
    pub(super) fn timeline(
        &self,
        events: Option<At<'_>>,
        length: Option<Duration>,
        who: (&[(String, RegionId)], &[RegionId]),
        problems: &mut Problems,
    ) -> Vec<(Duration, Act)> {
        let mut all = Vec::new();
        for at in events.map(|at| at.list()).unwrap_or_default() {
            let events = self.events(&at, who, problems);
            let last = events.iter().map(|(at, _)| *at).max();
            if let Some((last, length)) = last.zip(length).filter(|(last, length)| last > length) {
                let what = format!(
                    "at {} s, after the end: `for` is {} s",
                    last.as_secs_f64(),
                    length.as_secs_f64()
                );
                problems.error(at.place(), &at.key, what);
            }
            all.extend(events);
        }
        all.sort_by_key(|(at, _)| *at);
        all
    }

    /// What one entry of `events` says; some say it again and again.
    fn events(
        &self,
        at: &At<'_>,
        (nodes, members): (&[(String, RegionId)], &[RegionId]),
        problems: &mut Problems,
    ) -> Vec<(Duration, Act)> {
        let Some(mut fields) = at.fields(problems) else { return Vec::new() };
        let before = problems.list.len();
        let when = fields.need("at", problems);
        let when = when.and_then(|at| at.duration(Duration::ZERO, LONGEST, problems));
        let every = fields.get("every");
        let every = every.and_then(|at| at.duration(Duration::from_secs(1), LONGEST, problems));
        let times = fields.get("times").and_then(|at| at.number(1, 10_000, problems));
        let mut region = |key: &'static str, problems: &mut Problems| {
            fields.get(key).and_then(|at| self.region(&at, problems))
        };
        let mut acts = Vec::new();
        acts.extend(region("crash", problems).map(Act::Crash));
        acts.extend(region("stall", problems).map(Act::Stall));
        acts.extend(region("revive", problems).map(Act::Revive));
        acts.extend(region("clear", problems).map(Act::Clear));
        let said = [("drain", Word::Drain), ("up", Word::Up)];
        let said = said.map(|(key, word)| (region(key, problems), word));
        let failing = region("fail", problems);
        let ramp = fields.get("ramp").and_then(|at| crate::config::ramp(&at, problems));
        let say = |(region, word): (Option<RegionId>, Word)| Some(Act::Say(region?, word, ramp));
        acts.extend(said.into_iter().filter_map(say));
        if let Some(at) = fields.get("reload")
            && let Some(file) = at.text("a configuration", problems)
        {
            acts.extend(self.reloads.iter().position(|of| *of == file).map(Act::Reload));
        }
        let part = share(&mut fields, "share", problems).unwrap_or(0.5);
        acts.extend(failing.map(|region| Act::Fail(region, part)));
        let kill = fields.get("kill").and_then(|at| node(&at, nodes, problems));
        let start = fields.get("start").and_then(|at| node(&at, nodes, problems));
        acts.extend(kill.map(Act::Kill).into_iter().chain(start.map(Act::Start)));
        acts.extend(self.naming(at, &mut fields, nodes, problems));
        acts.extend(self.of_etcd(&mut fields, members, problems));
        acts.extend(self.parting(&mut fields, problems));
        let heals = fields.get("heal").and_then(|at| at.boolean(problems)).unwrap_or(false);
        acts.extend(heals.then_some(Act::Heal));
        acts.extend(share(&mut fields, "lose", problems).map(Act::Lose));
        fields.done(problems);
        if acts.is_empty() && problems.list.len() == before {
            problems.error(
                at.place(),
                &at.key,
                "nothing happens; expected such as `crash: REGION`",
            );
        }
        let Some(when) = when else { return Vec::new() };
        let times = u32::try_from(times.unwrap_or(1)).unwrap_or(1);
        let at = move |row: u32| when + every.unwrap_or_default() * row;
        (0..times).flat_map(|row| acts.iter().map(move |act| (at(row), act.clone()))).collect()
    }

    /// An operator names the next writer.
    fn naming(
        &self,
        event: &At<'_>,
        fields: &mut Fields<'_>,
        nodes: &[(String, RegionId)],
        problems: &mut Problems,
    ) -> Option<Act> {
        let writer = fields.get("writer").map(|at| self.region(&at, problems));
        let told = fields.get("node").map(|at| node(&at, nodes, problems));
        let fenced = fields.get("fenced").map(|at| at.boolean(problems));
        if writer.is_none() && (told.is_some() || fenced.is_some()) {
            let what = "`node` and `fenced` say how a `writer` is named; expected one";
            problems.error(event.place(), &event.key, what);
        }
        let fenced = fenced.flatten().unwrap_or(false);
        Some(Act::Name(Wish { region: writer.flatten()?, fenced, node: told.flatten() }))
    }

    /// Members of etcd die, or start again.
    fn of_etcd(
        &self,
        fields: &mut Fields<'_>,
        members: &[RegionId],
        problems: &mut Problems,
    ) -> Vec<Act> {
        let mut member = |key| {
            let at = fields.get(key)?;
            let region = self.region(&at, problems)?;
            if !members.contains(&region) {
                problems.error(at.place(), &at.key, "expected a region where etcd has a member");
            }
            Some(region)
        };
        let kill = member("kill_etcd").map(Act::KillEtcd);
        kill.into_iter().chain(member("start_etcd").map(Act::StartEtcd)).collect()
    }

    /// Nothing passes between regions.
    fn parting(&self, fields: &mut Fields<'_>, problems: &mut Problems) -> Vec<Act> {
        let mut acts = Vec::new();
        for (key, one_way) in [("part", false), ("cut", true)] {
            let Some(at) = fields.get(key) else { continue };
            let groups: Vec<Vec<RegionId>> = at
                .list()
                .iter()
                .map(|at| at.list().iter().filter_map(|at| self.region(at, problems)).collect())
                .collect();
            if groups.len() < 2 {
                problems.error(at.place(), &at.key, "expected two groups of regions or more");
            }
            acts.push(Act::Part(groups, one_way));
        }
        acts
    }
}

/// The node that is named.
fn node(at: &At<'_>, nodes: &[(String, RegionId)], problems: &mut Problems) -> Option<usize> {
    let name = at.text("a node", problems)?;
    let found = nodes.iter().position(|(of, _)| of == name);
    if found.is_none() {
        let names = nodes.iter().map(|(name, _)| name.as_str());
        problems.unknown((at.place(), &at.key), ("node", name), names);
    }
    found
}
