//! The shapes of `/api/v1/status`, made from one view.

use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::super::control::NodeView;
use super::super::handle::View;
use super::super::prober::told;
use super::alarms::alarms;
use super::changes::{Happened, Standing};
use super::convergence::{Leaving, Model};
use super::writers::Writing;
use crate::convergence::Parting;
use crate::health::State;
use crate::ids::ServiceId;
use crate::snapshot::Selector;
use crate::steer::{Basis, Endpoint, Family, Hold, Pool, Service, is_down, state_of};
use crate::time::Instant;

/// Everything on the dashboard. Times are in RFC 3339, durations in milliseconds.
#[derive(Debug, Serialize)]
pub struct Status {
    /// What operators call this node.
    pub node: String,
    /// The region that it stands in.
    pub node_region: Option<String>,
    /// Its version.
    pub version: &'static str,
    /// Now.
    pub now: String,
    /// When it started.
    pub started: String,
    /// Whether the first verdicts are in.
    pub ready: bool,
    /// Which change of the world is answered.
    pub generation: u64,
    /// What somebody should look at now.
    pub alarms: Vec<String>,
    /// What is served.
    pub config: Configured,
    /// Which databases tell who is where.
    pub geoip: Vec<GeoIp>,
    /// The regions.
    pub regions: Vec<Region>,
    /// The services.
    pub services: Vec<ServiceStatus>,
    /// The nodes that decide together; none, if this one is alone.
    pub nodes: Vec<NodeStatus>,
    /// The services of which one region at a time writes.
    pub writers: Vec<Writing>,
    /// What operators have said.
    pub overrides: Vec<Standing>,
    /// What has left the answers, and who may still be sent there.
    pub leaving: Vec<Leaving>,
    /// What happened lately, the newest first.
    pub events: Vec<Happened>,
}

/// A node of the cluster, as this one knows it.
#[derive(Debug, Serialize, Deserialize)]
pub struct NodeStatus {
    /// Its name.
    pub name: String,
    /// It is the one that says this.
    pub own: bool,
    /// It is heard.
    pub heard: bool,
    /// Packets come from where it is, and this node's `cluster.key` does not open them.
    #[serde(default)]
    pub unopened: bool,
    /// By which list of nodes it goes: the one that is `agreed`, the same as this node but `not
    /// agreed` (or that is not known), or `another`.
    pub list: String,
    /// Its version; none, if it has said nothing yet.
    pub version: Option<String>,
    /// Its generation: a count of its own.
    pub generation: Option<u64>,
    /// A hash of the part of its configuration that nodes should have in common.
    pub config: Option<String>,
    /// It counts its own sight for nothing.
    pub abstains: bool,
    /// It hears too few others.
    pub isolated: bool,
    /// What it answers otherwise than this one.
    pub differs: Vec<Differing>,
}

/// A service that two nodes answer differently.
#[derive(Debug, Serialize, Deserialize)]
pub struct Differing {
    /// The service.
    pub service: String,
    /// Its names.
    pub names: Vec<String>,
    /// Since when.
    pub since: String,
    /// The share of all IPv4 addresses whose clients are sent to another region, at least.
    pub share: f64,
    /// The share of all lookups that are answered otherwise, if resolvers ask all nodes alike.
    pub lookups: f64,
    /// Whether one region at a time can be written to, whoever is sent where.
    #[serde(default)]
    pub single_writer: bool,
    /// Else for how many seconds two regions can be written to, if it ends now: until all but
    /// `residual` of those clients have moved; none: for more than two hours.
    pub two_writers: Option<f64>,
    /// The share of clients that are not waited for: `convergence.residual`.
    #[serde(default)]
    pub residual: f64,
    /// How many writes have met another so far, at the rate that the service declares.
    pub conflicts: Option<f64>,
    /// How many of them a later one has won over.
    pub lost: Option<f64>,
}

/// Which configuration is served.
#[derive(Debug, Serialize)]
pub struct Configured {
    /// Its file.
    pub file: String,
    /// A hash of its text.
    pub hash: String,
    /// Since when.
    pub since: String,
    /// What is wrong with the newest files, which are therefore not served.
    pub refused: Vec<String>,
    /// Since when.
    pub refused_since: Option<String>,
    /// What looks wrong, but is served.
    pub warnings: Vec<String>,
}

/// A GeoIP database.
#[derive(Debug, Serialize)]
pub struct GeoIp {
    /// What it tells.
    pub tells: &'static str,
    /// Its file; none: the one in the box.
    pub file: Option<String>,
    /// What it says it is.
    #[serde(rename = "type")]
    pub database_type: String,
    /// When it was built.
    pub built: String,
}

/// A region.
#[derive(Debug, Serialize)]
pub struct Region {
    /// Its name.
    pub name: String,
    /// Latitude and longitude.
    pub at: Option<(f64, f64)>,
    /// How many of its endpoints are up.
    pub up: usize,
    /// How many are down.
    pub down: usize,
    /// How many have no verdict yet.
    pub unknown: usize,
}

/// A service.
#[derive(Debug, Serialize)]
pub struct ServiceStatus {
    /// Its name.
    pub name: String,
    /// The names that it answers.
    pub names: Vec<String>,
    /// How it picks a region.
    pub policy: String,
    /// Its endpoints.
    pub endpoints: Vec<EndpointStatus>,
    /// Who is served where.
    pub served: Vec<Served>,
}

/// An endpoint.
#[derive(Debug, Serialize)]
pub struct EndpointStatus {
    /// Its region.
    pub region: String,
    /// What the answer says.
    pub address: String,
    /// Whether it is probed; if not, it counts as up.
    pub probed: bool,
    /// What is believed: `up`, `down` or `unknown`.
    pub state: String,
    /// It is up, and its last probe failed.
    pub suspected: bool,
    /// Since when.
    pub since: Option<String>,
    /// What the last probe saw.
    pub last: Option<String>,
    /// When it ended.
    pub last_at: Option<String>,
    /// How long it took.
    pub latency_ms: Option<f64>,
    /// It has come and gone, and stays down at least until then.
    pub held_until: Option<String>,
    /// What an operator says of it, which counts: `up`, `down` or `drain`.
    #[serde(rename = "override")]
    pub word: Option<String>,
    /// Who says it: `an operator` or `maintenance NAME`.
    pub override_by: Option<String>,
    /// Why its region is not treated by its health.
    pub hold: Option<String>,
    /// Nothing has been seen of it for too long.
    pub stale: bool,
    /// Who sees what, while the nodes are not of one mind: `ns1: up`.
    pub seen: Vec<String>,
}

/// The clients of one family, by the answer that they get.
#[derive(Debug, Serialize)]
pub struct Served {
    /// `A`, `AAAA` or `CNAME`.
    #[serde(rename = "type")]
    pub rtype: String,
    /// The region that their answer names first; none, if it names none.
    pub region: Option<String>,
    /// What it names.
    pub answer: Vec<String>,
    /// How long it may be cached, in seconds.
    pub ttl: u32,
    /// What it rests on.
    pub basis: String,
    /// Nothing is up for them.
    pub down: bool,
    /// The share of all IPv4 addresses whose clients get it.
    pub share: f64,
}

impl Status {
    /// What `view` shows, and of it what has left the answers.
    pub fn of(view: &View, leaving: Vec<Leaving>) -> Self {
        let plan = view.snapshot.plan();
        let config = &view.loaded.config;
        let refused = view.refused.iter();
        let errors = refused.flat_map(|(_, _, problems)| problems).filter(|of| !of.is_warning);
        let errors = errors.map(ToString::to_string);
        let pending = view.pending.iter().map(|key| {
            format!("`{key}` has changed, which counts from the next start on; restart the node")
        });
        let warnings = config.warnings.iter().map(ToString::to_string).chain(pending).collect();
        Self {
            node: config.node.name.clone(),
            node_region: config.node.region.map(|region| plan.region_name(region).to_owned()),
            version: env!("CARGO_PKG_VERSION"),
            now: timestamp(view.now),
            started: timestamp(view.started),
            ready: view.ready,
            generation: view.snapshot.generation(),
            alarms: alarms(view, &leaving),
            config: Configured {
                file: view.loaded.file.clone(),
                hash: format!("{:016x}", config.hash),
                since: timestamp(view.applied),
                refused: errors.collect(),
                refused_since: view.refused.first().map(|(_, at, _)| timestamp(*at)),
                warnings,
            },
            geoip: view
                .loaded
                .databases
                .iter()
                .map(|(kind, file, description)| GeoIp {
                    tells: kind.label(),
                    file: file.as_ref().map(|file| file.display().to_string()),
                    database_type: description.database_type.clone(),
                    built: of_epoch(Duration::from_secs(description.build_epoch)),
                })
                .collect(),
            regions: regions(view),
            services: services(view),
            nodes: nodes(view),
            writers: view.writers.iter().map(Writing::of).collect(),
            overrides: view.said.iter().map(|said| Standing::of(said, view.now)).collect(),
            leaving,
            events: view.events.iter().map(|of| Happened::of(of, None)).collect(),
        }
    }
}

/// The nodes that decide together.
pub(super) fn nodes(view: &View) -> Vec<NodeStatus> {
    let services = &view.loaded.config.services;
    let names = |service: &str| {
        let found = services.iter().filter(|of| of.name == service).flat_map(|of| &of.names);
        found.map(ToString::to_string).collect()
    };
    let convergence = &view.loaded.config.convergence;
    let mut model = Model::new(&convergence.population);
    let mut differing = |(service, since, share): &(String, Instant, f64)| {
        let found = services.iter().find(|of| of.name == *service);
        let lookups = share / view.nodes.len().max(1) as f64;
        let seconds = view.now.since(*since).as_secs_f64();
        let parting = Parting { share: lookups, seconds };
        let lag = model.lag(found.map(|of| of.ttl).unwrap_or_default());
        let single_writer = found.is_some_and(Service::has_one_writer);
        let writes = view.loaded.config.writes.get(service).filter(|_| !single_writer);
        let met = writes.map(|writes| parting.writes(writes, None));
        Differing {
            service: service.clone(),
            names: names(service),
            since: timestamp(*since),
            share: *share,
            lookups,
            single_writer,
            two_writers: parting.until(lag, convergence.residual).filter(|_| !single_writer),
            residual: convergence.residual,
            conflicts: met.map(|of| of.writes),
            lost: met.map(|of| of.lost),
        }
    };
    let status = |node: &NodeView| NodeStatus {
        name: node.name.clone(),
        own: node.is_own,
        heard: node.fresh,
        unopened: !node.fresh && is_unopened(view, node),
        list: node.list.label().to_owned(),
        version: node.word.as_ref().map(|word| word.version.clone()),
        generation: node.word.as_ref().map(|word| word.generation),
        config: node.word.as_ref().map(|word| word.config.clone()),
        abstains: node.word.as_ref().is_some_and(|word| word.abstains),
        isolated: node.word.as_ref().is_some_and(|word| word.isolated),
        differs: node.differs.iter().map(&mut differing).collect(),
    };
    view.nodes.iter().map(status).collect()
}

/// Do packets come from where a node is, that the key does not open?
pub(super) fn is_unopened(view: &View, node: &NodeView) -> bool {
    let mut members = view.loaded.config.cluster.iter().flat_map(|of| &of.nodes);
    members.any(|of| of.name == node.name && view.unopened.contains(&of.address))
}

fn regions(view: &View) -> Vec<Region> {
    let plan = view.snapshot.plan();
    let of_region = |id: usize, region: &crate::snapshot::Region| {
        let pools = plan.services.iter().flat_map(|service| &service.pools);
        let endpoints: Vec<&Endpoint> = pools
            .filter(|pool| pool.region.index() == id)
            .flat_map(|pool| &pool.endpoints)
            .collect();
        let count = |state: State| {
            endpoints.iter().filter(|of| state_of(of, &view.health) == state).count()
        };
        Region {
            name: region.name.clone(),
            at: region.at.map(|at| (at.latitude(), at.longitude())),
            up: count(State::Up),
            down: count(State::Down),
            unknown: count(State::Unknown),
        }
    };
    plan.regions.iter().enumerate().map(|(id, region)| of_region(id, region)).collect()
}

fn services(view: &View) -> Vec<ServiceStatus> {
    let plan = view.snapshot.plan();
    let id = |row| ServiceId::from_index(row);
    let status = |(row, service): (usize, &Service)| ServiceStatus {
        name: service.name.clone(),
        names: service.names.iter().map(ToString::to_string).collect(),
        policy: service.policy.to_string(),
        endpoints: service
            .pools
            .iter()
            .flat_map(|pool| pool.endpoints.iter().map(move |endpoint| (pool, endpoint)))
            .map(|(pool, endpoint)| endpoint_status(view, id(row), pool, endpoint))
            .collect(),
        served: served(view, row),
    };
    plan.services.iter().enumerate().map(status).collect()
}

fn endpoint_status(
    view: &View,
    service: Option<ServiceId>,
    pool: &Pool,
    endpoint: &Endpoint,
) -> EndpointStatus {
    // A word on a ramp reaches the clients in slot 0 first.
    let said =
        service.and_then(|id| view.overrides.told(id, pool.region, endpoint.address.ip(), 0));
    let probed = endpoint.probed.iter().flat_map(|probed| &probed.targets);
    let disputes = view.disputes.iter().filter(|(of, _)| probed.clone().any(|target| target == of));
    let seen = disputes.flat_map(|(_, sights)| sights);
    let seen = seen.map(|(node, state)| format!("{node}: {state}")).collect();
    // Of several checks the one that has most to tell.
    let health = probed.map(|target| (*target, view.health.get(*target)));
    let (target, health) = health
        .min_by_key(|(_, health)| {
            let rank = match health.state {
                State::Down => 0,
                State::Up if health.suspected => 1,
                State::Unknown => 2,
                State::Up => 3,
            };
            (rank, std::cmp::Reverse(health.since))
        })
        .unzip();
    let complaint = target.and_then(|target| view.complaints.get(&target));
    let last = health.and_then(|health| health.last);
    EndpointStatus {
        region: view.snapshot.plan().region_name(pool.region).to_owned(),
        address: endpoint.address.to_string(),
        probed: endpoint.probed.is_some(),
        state: state_of(endpoint, &view.health).to_string(),
        suspected: health.is_some_and(|health| health.suspected),
        since: health.map(|health| timestamp(health.since)),
        last: last.map(|(_, report)| told(report.outcome, complaint)),
        last_at: last.map(|(at, _)| timestamp(at)),
        latency_ms: last.map(|(_, report)| millis(report.latency)),
        held_until: health.and_then(|health| health.held_until).map(timestamp),
        word: said.map(|(word, _)| word.to_string()),
        override_by: said.map(|(_, who)| who.to_owned()),
        hold: service
            .and_then(|id| view.holds.of(id, pool.region, endpoint.address.family()))
            .map(told_hold),
        stale: health.is_some_and(|health| health.stale),
        seen,
    }
}

fn told_hold(hold: Hold) -> String {
    match hold {
        Hold::Back(Some(until)) => format!("well again, back at {}", timestamp(until)),
        Hold::Back(None) => "well again, back when an operator says so".to_owned(),
        Hold::Kept => "kept, as too many regions have left".to_owned(),
    }
}

/// Who is served where, by the service in this row.
fn served(view: &View, row: usize) -> Vec<Served> {
    let id = ServiceId::from_index(row);
    let Some((id, service)) = id.and_then(|id| Some((id, view.snapshot.service(id)?))) else {
        return Vec::new();
    };
    let found =
        Family::ALL.into_iter().filter_map(|family| Some((family, service.selector(family)?)));
    found.flat_map(|(family, selector)| by_answer(view, id, family, selector)).collect()
}

fn by_answer(view: &View, id: ServiceId, family: Family, selector: &Selector) -> Vec<Served> {
    let snapshot = &view.snapshot;
    let service = snapshot.plan().services.get(id.index());
    let basis = |basis: Basis| {
        let writer = view.writing.of(id).and_then(|writer| Some((writer, service?)));
        let Some((writer, service)) = writer else { return basis.to_string() };
        let is_down = is_down((id, service), writer.region, &view.facts());
        basis.of_writer(writer.epoch, if is_down { "down" } else { "not known to be up" })
    };
    let is_single = service.is_some_and(Service::has_one_writer);
    let served = selector.answers().map(|(ready, share)| Served {
        rtype: family.to_string(),
        region: ready.first.map(|region| snapshot.plan().region_name(region).to_owned()),
        answer: ready.choice.addresses.iter().map(ToString::to_string).collect(),
        ttl: ready.choice.ttl.as_secs(),
        basis: basis(ready.choice.basis),
        down: ready.choice.basis.is_down() && !is_single,
        share,
    });
    served.filter(|served| served.share > 0.0).collect()
}

pub(super) fn millis(span: Duration) -> f64 {
    (span.as_secs_f64() * 1e6).round() / 1e3
}

pub(in crate::server) fn timestamp(moment: Instant) -> String {
    of_epoch(Duration::from_nanos(moment.as_nanos()))
}

/// A moment in RFC 3339, to the millisecond.
fn of_epoch(since: Duration) -> String {
    let millis = i64::try_from(since.as_millis()).unwrap_or(i64::MAX);
    match Timestamp::from_millisecond(millis) {
        Ok(timestamp) => format!("{timestamp:.3}"),
        Err(_) => String::new(),
    }
}
