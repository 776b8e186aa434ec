//! From files to all that is to be served, compiled aside: nothing of it is live yet.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicI64;

use hyper::header::HeaderValue;
use ring::rand::{SecureRandom as _, SystemRandom};
use rustls::sign::CertifiedKey;

use super::certificate;
use super::clock::Clock;
use super::cluster::key;
use super::etcd::Gateway;
use super::files::{Print, read};
use super::geoip::{Databases, Geography, Survey};
use super::memory;
use super::overrides::{Meanings, meanings};
use super::prober::{Files, Probe, faults};
use super::seal::cookie_secret;
use super::tls::Clients;
use super::tokens::{NO_TOKEN, short, tokens};
use crate::config::{Config, Mention, Place, Problem, Targets, defaults, sort};
use crate::health::Check;
use crate::ids::TargetId;
use crate::snapshot::{Plan, Protection, Secret};
use crate::time::Instant;

/// The variable of the environment with the name of a node whose configuration says none, so that
/// many nodes can have the same file.
const NODE_NAME: &str = "MERIDIAN_NODE_NAME";

/// Where the configuration comes from.
#[derive(Clone, Debug)]
pub enum Source {
    /// A file, which is read again when it changes.
    File(PathBuf),
    /// A text, under this name.
    Text(String, String),
}

impl Source {
    /// What its paths are relative to.
    fn folder(&self) -> PathBuf {
        match self {
            Self::File(file) => file.parent().unwrap_or(Path::new("")).to_owned(),
            Self::Text(..) => PathBuf::new(),
        }
    }
}

/// All that is to be served.
#[derive(Debug)]
pub struct Loaded {
    /// The name of the configuration's file.
    pub file: String,
    /// The folder that its paths are relative to.
    pub folder: PathBuf,
    /// What it says.
    pub config: Config,
    /// What snapshots are compiled from.
    pub plan: Arc<Plan>,
    /// What operators can speak of.
    pub(super) meanings: Meanings,
    /// Where clients are.
    pub survey: Arc<Survey>,
    /// What the databases that tell it say of themselves.
    pub databases: Databases,
    /// How targets are probed.
    pub probes: HashMap<TargetId, Arc<Probe>>,
    /// The certificate of the encrypted listeners.
    pub certificate: Option<Arc<CertifiedKey>>,
    /// The way to etcd, if it says who writes.
    pub(super) etcd: Option<Gateway>,
}

impl Loaded {
    /// The folder for what outlives the process.
    pub fn state(&self) -> Option<PathBuf> {
        self.config.node.state.as_ref().map(|state| self.folder.join(state))
    }

    /// What is wrong with files that tell states. A server reads them when it probes, so that one
    /// that hangs does not hold up the start, and its log tells the same.
    pub fn wrong_states(&self) -> Vec<Problem> {
        let faults = self.config.states.iter().flat_map(|of| {
            faults(&self.folder.join(&of.path)).into_iter().map(|fault| match fault.at {
                Some(_) => fault,
                None => Problem { is_warning: true, ..of.problem(&self.file, fault.what) },
            })
        });
        faults.collect()
    }

    /// When the certificate of the encrypted listeners ends.
    pub(super) fn certificate_ends(&self) -> Option<Instant> {
        self.certificate.as_deref().and_then(certificate::end)
    }
}

/// Why nothing was loaded.
#[derive(Debug)]
pub struct Refused {
    /// What kind of file is at fault.
    pub what: What,
    /// What is wrong.
    pub problems: Vec<Problem>,
}

/// What can be refused.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum What {
    /// The configuration and its zone files.
    Configuration,
    /// GeoIP databases and the geofeed.
    GeoIp,
    /// Certificates and keys.
    Certificate,
}

impl What {
    /// A word for it: the label of a counter.
    pub fn label(self) -> &'static str {
        match self {
            Self::Configuration => "configuration",
            Self::GeoIp => "geoip",
            Self::Certificate => "certificate",
        }
    }

    /// All of them.
    pub const ALL: [Self; 3] = [Self::Configuration, Self::GeoIp, Self::Certificate];
}

/// Loads again and again, and keeps what has not changed.
pub struct Loader {
    source: Source,
    folder: PathBuf,
    targets: Targets,
    geography: Option<Geography>,
    watched: Watched,
    /// What tells of targets.
    states: Files,
    /// Whether nobody is to have a place, and the files that tell of places are not read.
    is_unlocated: bool,
    /// The secret of cookies, if there is no other.
    drawn: Option<Secret>,
    /// By how many seconds the clock on the wall is ahead of ours.
    pub(super) ahead: Arc<AtomicI64>,
}

impl Loader {
    /// Loads from `source`.
    pub fn new(source: Source) -> Self {
        Self {
            folder: source.folder(),
            source,
            targets: Targets::default(),
            geography: None,
            watched: Watched::default(),
            states: Files::default(),
            is_unlocated: false,
            drawn: drawn(),
            ahead: Arc::default(),
        }
    }

    /// Loads from `source` from now on; targets that are the same there keep their ids.
    pub fn turn_to(&mut self, source: Source) {
        self.folder = source.folder();
        self.source = source;
    }

    /// Targets other than these are served no more.
    pub(super) fn forget_others(&mut self, than: &HashSet<TargetId>) {
        self.targets.retain(|target| than.contains(&target));
    }

    /// Reads everything that there is to read.
    ///
    /// # Errors
    /// All that is wrong with one kind of file; what was loaded before is untouched. A reader that
    /// fails in a way that nobody thought of is a reason to refuse, and none to stop.
    pub fn load(&mut self) -> Result<Loaded, Refused> {
        catch_unwind(AssertUnwindSafe(|| self.read_all())).unwrap_or_else(|_| {
            let what = "reading it failed by a bug; please report it, with the files";
            let problems = vec![Problem::of_file(&self.name(), what.to_owned())];
            Err(Refused { what: What::Configuration, problems })
        })
    }

    /// The same without the files that tell who is where, which may be broken: no client has a
    /// place. To look into it, not to serve it.
    ///
    /// # Errors
    /// As [`Loader::load`].
    pub fn load_unlocated(&mut self) -> Result<Loaded, Refused> {
        self.is_unlocated = true;
        self.load()
    }

    fn read_all(&mut self) -> Result<Loaded, Refused> {
        let mut watched = Watched::default();
        let config = self.config(&mut watched);
        if let Ok(config) = &config {
            self.watch_others(config, &mut watched);
        } else {
            // What the last good configuration named is still what serves.
            watched.keep(std::mem::take(&mut self.watched));
        }
        self.watched = watched;
        let config = config.map_err(|problems| Refused { what: What::Configuration, problems })?;
        let files = config.named.clone();
        let loaded = self.read_others(config);
        let named = |of: Vec<Problem>| {
            let mut all: Vec<Problem> = of.into_iter().map(|of| self.named(of, &files)).collect();
            sort(&mut all, &self.name());
            all
        };
        match loaded {
            Ok(mut loaded) => {
                loaded.config.warnings = named(loaded.config.warnings);
                Ok(loaded)
            }
            Err(Refused { what, problems }) => Err(Refused { what, problems: named(problems) }),
        }
    }

    /// Reads what `config` names.
    fn read_others(&mut self, mut config: Config) -> Result<Loaded, Refused> {
        let means = self.means(&config);
        let (key, etcd) =
            means.map_err(|problems| Refused { what: What::Configuration, problems })?;
        config.warnings.extend(self.wrong_tokens(&config));
        let name = self.name();
        let unfit = config.programs.iter().filter_map(|program| unfit(&name, program));
        config.warnings.extend(unfit.collect::<Vec<_>>());
        let now = Clock::start().now();
        let over = config.maintenance.iter().filter_map(|of| of.over(now));
        config.warnings.extend(over.cloned().collect::<Vec<Problem>>());
        let certificate = self.certificate(now, &mut config);
        let certificate = certificate
            .map_err(|problem| Refused { what: What::Certificate, problems: vec![problem] })?;
        let probes = probes(&config, &self.folder, &mut self.states)
            .map_err(|problems| Refused { what: What::Certificate, problems })?;
        let geography = match self.geography.take() {
            _ if self.is_unlocated => Ok(Geography::nowhere(&self.folder)),
            Some(known) if known.is_of(&config.geoip, &self.folder) => Ok(known),
            known => Geography::read(&config.geoip, &self.folder).map_err(|problems| {
                self.geography = known;
                Refused { what: What::GeoIp, problems }
            }),
        };
        let geography = self.geography.insert(geography?);
        let catchments = geography.catchments(&config);
        let catchments = catchments.map_err(|problems| Refused { what: What::GeoIp, problems })?;
        let (survey, databases) = (geography.survey.clone(), geography.databases.clone());
        config.warnings.extend(geography.warnings.iter().cloned());
        let plan = Plan::new(
            config.zones.clone(),
            config.services.clone(),
            config.regions.clone(),
            catchments,
            config.identity.clone(),
        );
        let plan = plan.protected(self.protection(&config, key.as_deref()));
        plan.zones.iter().flat_map(|zone| zone.places()).for_each(memory::move_to_large_pages);
        let loaded = Loaded {
            file: self.name(),
            folder: self.folder.clone(),
            plan: Arc::new(plan),
            meanings: meanings(&config),
            survey,
            databases,
            config,
            probes,
            certificate,
            etcd,
        };
        Ok(loaded)
    }

    /// By what a node speaks with others: the cluster's key, and the way to etcd.
    fn means(&self, config: &Config) -> Result<Means, Vec<Problem>> {
        let key = config.cluster.as_ref().map(|of| key(&self.folder.join(&of.key)));
        let etcd = config.etcd.as_ref().map(|etcd| Gateway::new(etcd, &self.folder));
        match (key.transpose(), etcd.transpose()) {
            (Ok(key), Ok(etcd)) => Ok((key, etcd)),
            (key, etcd) => Err(key.err().into_iter().chain(etcd.err()).collect()),
        }
    }

    /// The certificate of the encrypted listeners. That it ends soon is a warning.
    fn certificate(
        &self,
        now: Instant,
        config: &mut Config,
    ) -> Result<Option<Arc<CertifiedKey>>, Problem> {
        let Some(encrypted) = &config.node.encrypted else { return Ok(None) };
        let certified = certificate::load(encrypted, &self.folder)?;
        let end = certificate::end(&certified);
        let told = end.and_then(|end| certificate::told(end, now));
        let file = self.folder.join(&encrypted.certificate).display().to_string();
        let warning = |what| Problem { is_warning: true, ..Problem::of_file(&file, what) };
        config.warnings.extend(told.map(warning));
        Ok(Some(certified))
    }

    /// Tokens are read when they are needed. A file of them that is not there or wrong, which stops
    /// nothing else, is told now.
    fn wrong_tokens(&self, config: &Config) -> Vec<Problem> {
        let problem = |file: &Path, line: Option<usize>, what: String| {
            let at = line.map(|line| Place { line, column: 1 });
            let problem = Problem::of_file(&file.display().to_string(), what);
            Problem { at, is_warning: true, ..problem }
        };
        let of_hooks = config.webhooks.iter().filter_map(|hook| hook.token.as_ref());
        let missing = of_hooks.map(|file| self.folder.join(file)).filter_map(|file| {
            let reason = read(&file).err()?;
            Some(problem(&file, None, reason))
        });
        let ours = config.http.tokens.iter().map(|file| self.folder.join(file));
        let wrong = ours.flat_map(|file| match read(&file) {
            Ok(text) => {
                let text = String::from_utf8_lossy(&text);
                let wrong = tokens(&text).err().map(|line| (line, NO_TOKEN.to_owned()));
                let all = wrong.into_iter().chain(short(&text));
                all.map(|(line, what)| problem(&file, Some(line), what)).collect()
            }
            Err(reason) => vec![problem(&file, None, reason)],
        });
        wrong.chain(missing).collect()
    }

    /// With secrets in any case: the configured ones, or one that the cluster's nodes share, or one
    /// that was drawn.
    fn protection(&self, config: &Config, key: Option<&[u8]>) -> Protection {
        let ahead = self.ahead.clone();
        let mut protection = Protection { ahead, ..config.protection.clone() };
        if protection.secrets.is_empty() {
            let shared = key.and_then(cookie_secret);
            protection.secrets = shared.or(self.drawn).into_iter().collect();
        }
        protection
    }

    /// Lets go of what nobody has asked for in a while: was there anything?
    pub(super) fn rest(&self) -> bool {
        self.geography.as_ref().is_some_and(|geography| geography.survey.rest())
    }

    /// The files that count, as they are now, if one of them is not as it was when it was read.
    pub fn changes(&self) -> Option<Vec<Print>> {
        let then = self.watched.0.iter().map(|(_, print)| *print);
        let now: Vec<Print> = self.watched.0.iter().map(|(file, _)| Print::of(file)).collect();
        then.ne(now.iter().copied()).then_some(now)
    }

    /// What is wrong with a whole file that cannot be opened is told where that is named.
    fn named(&self, problem: Problem, files: &[Mention]) -> Problem {
        let is_it = |of: &&Mention| self.folder.join(&of.path) == Path::new(&problem.file);
        let found = files.iter().find(is_it).filter(|_| problem.at.is_none());
        match found.filter(|of| fs::File::open(self.folder.join(&of.path)).is_err()) {
            Some(found) => {
                let is_warning = problem.is_warning;
                Problem { is_warning, ..found.problem(&self.name(), problem.what) }
            }
            None => problem,
        }
    }

    /// What the configuration is called.
    fn name(&self) -> String {
        match &self.source {
            Source::File(file) => file.display().to_string(),
            Source::Text(name, _) => name.clone(),
        }
    }

    fn config(&mut self, watched: &mut Watched) -> Result<Config, Vec<Problem>> {
        let name = self.name();
        let text = match &self.source {
            Source::Text(_, text) => text.clone(),
            Source::File(file) => {
                watched.add(file.clone());
                let bytes = read(file).map_err(|reason| vec![Problem::of_file(&name, reason)])?;
                String::from_utf8(bytes)
                    .map_err(|_| vec![Problem::of_file(&name, "not a text in UTF-8".to_owned())])?
            }
        };
        let folder = &self.folder;
        let own = std::env::var(NODE_NAME).ok().filter(|own| !own.is_empty());
        let own = own.as_deref().unwrap_or(defaults::NAME);
        Config::load_for(own, &name, &text, &mut self.targets, &mut |file| {
            watched.add(folder.join(file));
            read(&folder.join(file))
        })
    }

    /// The files that are read because of `config`, but for its zone files.
    fn watch_others(&self, config: &Config, watched: &mut Watched) {
        let geoip = &config.geoip;
        let encrypted = config.node.encrypted.iter();
        let certificates = encrypted.flat_map(|of| [&of.certificate, &of.key]);
        let targets = config.targets.iter();
        let roots = targets.filter_map(|target| target.check.tls()?.roots.as_ref());
        let files = geoip.databases.iter().chain(&geoip.asns).chain(&geoip.geofeed);
        let programs = config.programs.iter().map(|of| &of.path);
        for file in files.chain(certificates).chain(roots).chain(programs) {
            watched.add(self.folder.join(file));
        }
    }
}

/// A warning of a program that cannot be run by the configuration in `file`: it may come later.
fn unfit(file: &str, program: &Mention) -> Option<Problem> {
    let shown = program.path.display();
    let why = match fs::metadata(&program.path) {
        Ok(found) if found.is_file() && found.mode() & 0o111 != 0 => return None,
        Ok(_) => "it is not executable".to_owned(),
        Err(error) => error.to_string(),
    };
    let what = format!("{shown}: {why}; until it can be run, nothing is probed by it");
    Some(Problem { is_warning: true, ..program.problem(file, what) })
}

/// By what a node speaks with others.
type Means = (Option<Vec<u8>>, Option<Gateway>);

/// A secret that nobody else has.
fn drawn() -> Option<Secret> {
    let mut octets = [0; 16];
    // Without randomness there are no cookies, and all else goes on.
    SystemRandom::new().fill(&mut octets).ok()?;
    Some(Secret(octets))
}

/// Files that count, each as it was before it was read.
#[derive(Default)]
struct Watched(Vec<(PathBuf, Print)>);

impl Watched {
    fn add(&mut self, file: PathBuf) {
        if !self.0.iter().any(|(known, _)| *known == file) {
            let print = Print::of(&file);
            self.0.push((file, print));
        }
    }

    /// The files of `earlier` count too; one that was read again since is as it was then.
    fn keep(&mut self, earlier: Self) {
        for (file, print) in earlier.0 {
            if !self.0.iter().any(|(known, _)| *known == file) {
                self.0.push((file, print));
            }
        }
    }
}

fn probes(
    config: &Config,
    folder: &Path,
    states: &mut Files,
) -> Result<HashMap<TargetId, Arc<Probe>>, Vec<Problem>> {
    const PRODUCT: &str = concat!("Meridian/", env!("CARGO_PKG_VERSION"));
    let agent = HeaderValue::from_str(&format!("{PRODUCT} ({})", config.node.name));
    let agent = agent.unwrap_or(HeaderValue::from_static(PRODUCT));
    let mut clients = Clients::default();
    let mut problems: Vec<Problem> = Vec::new();
    let mut probes = HashMap::new();
    for target in &config.targets {
        let is_h2 = matches!(target.check, Check::Grpc { .. });
        let tls = match target.check.tls() {
            Some(tls) => match clients.client(tls, is_h2, folder) {
                Ok(client) => Some(client),
                Err(reason) => {
                    let roots = tls.roots.as_ref();
                    let file = roots.map(|file| folder.join(file)).unwrap_or_default();
                    let problem = Problem::of_file(&file.display().to_string(), reason);
                    if !problems.contains(&problem) {
                        problems.push(problem);
                    }
                    continue;
                }
            },
            None => None,
        };
        let file = match &target.check {
            Check::Pushed { file: Some(file), .. } => Some(states.file(folder.join(file))),
            _ => None,
        };
        let (address, check) = (target.address, target.check.clone());
        let (agent, valid) = (agent.clone(), target.schedule.validity());
        let probe = Probe { address, check, tls, file, agent, valid };
        probes.insert(target.id, Arc::new(probe));
    }
    if problems.is_empty() { Ok(probes) } else { Err(problems) }
}
