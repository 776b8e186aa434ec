//! From a text to what is to be served: YAML, read once, every problem told at once.
//!
//! ```text
//! text → yaml (a tree with places) → read (typed, notes what is wrong) → Config
//!                                       zone files by `Loader` ↗
//! ```
//!
//! A [`Config`] is made of the lower rooms' own types, ready to run: nothing is looked up by name
//! after this. It is had only when nothing is wrong.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use crate::convergence::Writes;
use crate::geo::CatchmentSpec;
use crate::health::{Check, Schedule};
use crate::ids::{RegionId, ServiceId, TargetId};
use crate::rng::fnv1a;
use crate::snapshot::{Identity, Protection, Region};
use crate::steer::{MaxMoves, Service};
use crate::zone::{Name, Zones};

pub mod defaults;

mod checks;
mod cluster;
mod convergence;
mod doubts;
mod etcd;
mod listeners;
mod maintenance;
mod node;
mod places;
mod problem;
mod protection;
pub(crate) mod read;
mod services;
mod subject;
#[cfg(test)]
mod tests;
mod webhooks;
pub(crate) mod yaml;
mod zones;

pub(crate) use cluster::MOST_NODES;
pub use cluster::{Cluster, Member};
pub use convergence::Convergence;
pub(crate) use convergence::{population, writes};
pub use etcd::Etcd;
pub use maintenance::Maintenance;
pub(crate) use maintenance::{RAMP, ramp, steps};
pub use node::{Encrypted, Http, Node, TcpLimits};
pub use places::GeoIp;
pub use problem::{Mention, Place, Problem, sort};
pub use read::{duration, share};
pub use subject::Subject;
pub use webhooks::Webhook;

use read::{At, Problems};

/// Reads the file at a path, relative to the configuration's folder.
pub type Loader<'l> = &'l mut dyn FnMut(&Path) -> Result<Vec<u8>, String>;

/// Keys that are read at the start only, each with all that was under it.
pub type AtStart = [(&'static str, String); 11];

/// All that is to be served, and how.
#[derive(Debug)]
pub struct Config {
    /// This node.
    pub node: Node,
    /// Where the dashboard, the API and the metrics are, and who may use them.
    pub http: Http,
    /// Where places come from.
    pub geoip: GeoIp,
    /// The regions, by id.
    pub regions: Vec<Region>,
    /// The services, by id.
    pub services: Vec<Service>,
    /// The zones, with the services' names on top.
    pub zones: Arc<Zones>,
    /// What ranks the regions for clients: [`Service::catchment`] is a row of it.
    pub catchments: Vec<CatchmentSpec>,
    /// What is probed.
    pub targets: Vec<Target>,
    /// The programs that checks run.
    pub programs: Vec<Mention>,
    /// The files that tell states.
    pub states: Vec<Mention>,
    /// The row of each among them.
    target_rows: HashMap<TargetId, usize>,
    /// Those of the targets that serve nobody, and tell whether this node sees anything.
    pub canaries: Vec<TargetId>,
    /// How many regions may leave in what time, by health alone.
    pub max_moves: Option<MaxMoves>,
    /// When what is drained.
    pub maintenance: Vec<Maintenance>,
    /// How those who ask lag behind the answers.
    pub convergence: Convergence,
    /// What clients write to services of which that is declared, by name.
    pub writes: HashMap<String, Writes>,
    /// Who is told what happens.
    pub webhooks: Vec<Webhook>,
    /// Where the leases of single writers are.
    pub etcd: Option<Etcd>,
    /// The nodes that decide together; `None`: this one alone.
    pub cluster: Option<Cluster>,
    /// What the server says of itself.
    pub identity: Identity,
    /// What it does against questions with forged addresses; its secrets may come from elsewhere.
    pub protection: Protection,
    /// Steered names that may go away: any other that is live must keep a record.
    pub retired: Vec<Name>,
    /// The files that are read later, and where they are named.
    pub named: Vec<Mention>,
    /// The zone files that were read.
    pub files: Vec<PathBuf>,
    /// What looks wrong, but can be served.
    pub warnings: Vec<Problem>,
    /// A hash of the configuration's text: which one is live.
    pub hash: u64,
    /// The same of what nodes that decide together should have in common.
    pub shared_hash: u64,
}

/// Something that is probed.
#[derive(Clone, Debug)]
pub struct Target {
    /// Its id.
    pub id: TargetId,
    /// Its address.
    pub address: IpAddr,
    /// How it is probed.
    pub check: Check,
    /// When.
    pub schedule: Schedule,
    /// Which of the schedules this is by which that check is made of that address: 0 is the first.
    pub turn: usize,
}

impl Target {
    /// What identifies it in every process: its address and all of its check; not its schedule, so
    /// that what is known of it outlives a change of that.
    pub fn key(&self) -> String {
        let Self { address, check, turn, .. } = self;
        match turn {
            0 => format!("{address} {check}"),
            _ => format!("{address} {check} #{}", turn + 1),
        }
    }
}

/// The ids of targets: equal ones have the same id over all reloads, so that what is known of a
/// target outlives them. No two targets ever have the same, as a probe of one that is gone may
/// still be on the way.
#[derive(Debug, Default)]
pub struct Targets {
    ids: HashMap<(IpAddr, Check, usize), TargetId>,
    next: usize,
}

impl Targets {
    /// The id of a target, always the same one; `None` when there are no more ids.
    fn id(&mut self, address: IpAddr, check: &Check, turn: usize) -> Option<TargetId> {
        let next = TargetId::from_index(self.next)?;
        let id = *self.ids.entry((address, check.clone(), turn)).or_insert(next);
        self.next += usize::from(id == next);
        Some(id)
    }

    /// Forgets all but these.
    pub fn retain(&mut self, which: impl Fn(TargetId) -> bool) {
        self.ids.retain(|_, id| which(*id));
    }
}

impl Config {
    /// The targets to which a connection is held open, and where.
    pub fn held(&self) -> impl Iterator<Item = (TargetId, SocketAddr)> {
        let held = self.targets.iter().filter(|target| target.schedule.hold);
        held.map(|target| (target.id, SocketAddr::new(target.address, target.check.port())))
    }

    /// The targets whose state others tell.
    pub fn told(&self) -> impl Iterator<Item = TargetId> {
        self.targets.iter().filter(|target| target.check.is_told()).map(|target| target.id)
    }

    /// Reads the configuration `text` of `file`.
    ///
    /// # Errors
    /// Everything that is wrong with it, and with the zone files that it names.
    pub fn load(
        file: &str,
        text: &str,
        targets: &mut Targets,
        load: Loader<'_>,
    ) -> Result<Self, Vec<Problem>> {
        Self::load_for(defaults::NAME, file, text, targets, load)
    }

    /// The same for the node `name`, unless the text says another one.
    ///
    /// # Errors
    /// As [`Config::load`].
    pub fn load_for(
        name: &str,
        file: &str,
        text: &str,
        targets: &mut Targets,
        load: Loader<'_>,
    ) -> Result<Self, Vec<Problem>> {
        let mut problems = Problems::of(file);
        let root = match yaml::parse(text) {
            Ok(root) => root,
            Err(fault) => {
                problems.error(fault.at, "", fault.what);
                return Err(problems.list);
            }
        };
        let root = At { node: &root, key: String::new() };
        let config = compile(&root, (name, text), targets, load, &mut problems);
        let (warnings, errors): (Vec<_>, Vec<_>) =
            problems.list.into_iter().partition(|problem| problem.is_warning);
        match config {
            Some(config) if errors.is_empty() => Ok(Self { warnings, ..config }),
            _ => {
                let mut all = errors;
                all.extend(warnings);
                sort(&mut all, file);
                Err(all)
            }
        }
    }

    /// What is read at the start only: each key, and all that is under it.
    pub fn read_at_start(&self) -> AtStart {
        let Self { node, http, cluster, etcd, .. } = self;
        let encrypted = node.encrypted.as_ref().map(|of| (&of.dot, &of.doh, &of.doq));
        [
            ("node.listen", format!("{:?} {:?}", node.listen, node.xdp)),
            ("node.workers", format!("{:?}", node.workers)),
            ("node.pin", format!("{:?}", node.pin)),
            ("node.io_uring", format!("{:?}", node.io_uring)),
            ("node.buffer", format!("{:?}", node.buffer)),
            ("node.state", format!("{:?}", node.state)),
            ("tcp", format!("{:?}", node.tcp)),
            ("tls", format!("{encrypted:?}")),
            ("http", format!("{http:?}")),
            ("cluster", format!("{cluster:?}")),
            ("etcd", format!("{etcd:?}")),
        ]
    }

    /// Who has this id.
    pub fn target(&self, id: TargetId) -> Option<&Target> {
        self.targets.get(*self.target_rows.get(&id)?)
    }

    /// The service called `name`.
    pub fn service(&self, name: &str) -> Option<ServiceId> {
        ServiceId::from_index(self.services.iter().position(|service| service.name == name)?)
    }

    /// The region called `name`.
    pub fn region(&self, name: &str) -> Option<RegionId> {
        RegionId::from_index(self.regions.iter().position(|region| region.name == name)?)
    }
}

fn compile(
    root: &At<'_>,
    (name, text): (&str, &str),
    targets: &mut Targets,
    load: Loader<'_>,
    problems: &mut Problems,
) -> Option<Config> {
    let mut fields = root.fields(problems)?;
    let regions = places::regions(fields.need("regions", problems), problems);
    let node = node::read(fields.get("node"), name, &regions, problems);
    let http = node::http(fields.get("http"), problems);
    let encrypted = node::encrypted(fields.get("tls"), &http, problems);
    let tcp = node::tcp(fields.get("tcp"), problems);
    let geoip = places::geoip(fields.get("geoip"), problems);
    let preferences = places::steering(fields.get("steering"), (&regions, &geoip), problems);
    let checks = checks::read(fields.get("checks"), problems);
    let (zones, services) = (fields.need("zones", problems), fields.need("services", problems));
    let (canaries, cluster) = (fields.get("canaries"), fields.get("cluster"));
    let (windows, leases) = (fields.get("maintenance"), fields.get("etcd"));
    let convergence = convergence::read(fields.get("convergence"), problems);
    let webhooks = webhooks::read(fields.get("webhooks"), problems);
    let max_moves = services::max_moves(fields.get("max_moves"), problems);
    let (cookies, rate_limit) = (fields.get("cookies"), fields.get("rate_limit"));
    let protection = protection::read(cookies, rate_limit, load, problems);
    let retired = zones::retired(fields.get("retired"), problems);
    fields.done(problems);

    let mut zones = zones::read(zones, load, problems);
    let world = services::World { regions: &regions, checks: &checks, preferences: &preferences };
    let home = services.clone();
    let mut services = services::read(services, &world, &mut zones, targets, problems);
    let canaries = services::canaries(canaries, &checks, targets, &mut services, problems);
    if let Some(at) = home.as_ref().filter(|_| canaries.is_empty()) {
        services.lopsided(at, &regions.list, problems);
    }
    let etcd = etcd::read(leases, root, &services.list, problems);
    let maintenance = maintenance::read(windows, &regions.list, &services.list, problems);
    checks.unused(problems);
    regions.unused(&services.list, problems);
    let files = zones.files.clone();
    let zones = Arc::new(zones.finish(problems));
    zones::still_served(&retired, &zones, &services.list, problems);
    doubts::of_zones(home.as_ref(), &services.list, &zones, problems);
    let (node, identity) = node?;
    let has_cluster = cluster.is_some();
    let cluster = cluster::read(cluster, &node, (&regions, &services.list), problems);
    (cluster.is_some() || !has_cluster).then_some(())?;
    listeners::clashes(root, (&node, &http), encrypted.as_ref(), cluster.as_ref(), problems);
    let region = node.region.or_else(|| cluster.as_ref()?.region(&regions));
    Some(Config {
        node: Node { tcp, encrypted, region, ..node },
        http,
        geoip,
        regions: regions.list,
        services: services.list,
        zones,
        catchments: services.catchments,
        writes: services.writes,
        targets: services.targets,
        programs: checks.programs(),
        states: checks.states(),
        target_rows: services.target_rows,
        canaries,
        max_moves,
        maintenance,
        convergence,
        webhooks,
        etcd,
        shared_hash: shared_hash(root, text, cluster.as_ref()),
        cluster,
        identity,
        protection,
        retired: retired.into_iter().map(|(name, _)| name).collect(),
        named: std::mem::take(&mut problems.named),
        files,
        warnings: Vec::new(),
        hash: fnv1a(text.as_bytes()),
    })
}

/// A hash of what nodes that decide together should have in common: everything but `node`, `http`,
/// `tls` and `tcp`, and of `cluster` how they decide.
fn shared_hash(root: &At<'_>, text: &str, cluster: Option<&Cluster>) -> u64 {
    let yaml::Value::Map(entries) = &root.node.value else { return fnv1a(text.as_bytes()) };
    let own = ["node", "http", "tls", "tcp", "cluster"];
    let shared = entries.iter().filter(|entry| !own.contains(&entry.key.as_str()));
    let mut shared: Vec<String> =
        shared.map(|entry| format!("{}: {}", entry.key, entry.value)).collect();
    shared.sort();
    shared.extend(cluster.map(Cluster::shared));
    fnv1a(shared.concat().as_bytes())
}

/// A time that nothing configured can be longer than: an hour.
const LONGEST: Duration = Duration::from_secs(3600);
