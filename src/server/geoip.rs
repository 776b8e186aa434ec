//! GeoIP files: read whole, verified, and kept for as long as they do not change.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::files::{Print, read};
use crate::config::{Config, GeoIp, Place, Problem};
use crate::geo::{
    Atlas, Catchment, CatchmentSpec, Database, DatabaseError, Description, Geofeed, GeofeedError,
    Sources,
};

/// The database in the box.
pub(super) static SHIPPED: &[u8] = include_bytes!("../../geoip/meridian-city.mmdb");

/// Who is where, from which files, and who is nearest to whom.
#[derive(Debug)]
pub(super) struct Geography {
    /// Who is where.
    pub atlas: Arc<Atlas>,
    /// What the databases say of themselves.
    pub databases: Vec<(Kind, Option<PathBuf>, Description)>,
    prints: Prints,
    catchments: HashMap<CatchmentSpec, Arc<Catchment>>,
}

/// What a database tells.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// Places.
    Places,
    /// Autonomous systems.
    Asns,
}

impl Kind {
    /// A word for it: the label of a gauge.
    pub fn label(self) -> &'static str {
        match self {
            Self::Places => "places",
            Self::Asns => "asn",
        }
    }
}

impl Geography {
    /// Reads the files that `geoip` names, relative to `folder`.
    ///
    /// # Errors
    /// What is wrong with each of them.
    pub(super) fn read(geoip: &GeoIp, folder: &Path) -> Result<Self, Vec<Problem>> {
        let mut problems = Vec::new();
        // What is read was as it is afterwards, or the next look finds a change.
        let prints = prints(geoip, folder);
        let mut all = |files: &[PathBuf], parse: fn(Vec<u8>) -> Result<Database, DatabaseError>| {
            let read =
                files.iter().filter_map(|file| load(&folder.join(file), parse, &mut problems));
            read.collect::<Vec<Database>>()
        };
        let mut places = all(&geoip.databases, Database::read);
        let asns = all(&geoip.asns, Database::read_asns);
        if geoip.databases.is_empty() {
            match Database::read(SHIPPED.to_vec()) {
                Ok(database) => places.push(database),
                Err(error) => problems.push(problem(Path::new("the database in the box"), &error)),
            }
        }
        let geofeed = geoip.geofeed.as_ref();
        let geofeed = geofeed.and_then(|file| load_feed(&folder.join(file), &mut problems));
        if !problems.is_empty() {
            return Err(problems);
        }
        let sources = Sources { places: &places, asns: &asns, geofeed: geofeed.as_ref() };
        let atlas = Arc::new(Atlas::build(sources));
        let described = |kind, files: &[PathBuf], databases: &[Database]| {
            let files = files.iter().cloned().map(Some).chain([None]);
            let pairs = databases.iter().zip(files);
            let rows = pairs.map(|(database, file)| (kind, file, database.description().clone()));
            rows.collect::<Vec<_>>()
        };
        let mut databases = described(Kind::Places, &geoip.databases, &places);
        databases.extend(described(Kind::Asns, &geoip.asns, &asns));
        Ok(Self { atlas, databases, prints, catchments: HashMap::new() })
    }

    /// Is this what reading the files of `geoip` again would give?
    pub(super) fn is_of(&self, geoip: &GeoIp, folder: &Path) -> bool {
        self.prints == prints(geoip, folder)
    }

    /// The catchments of `config`; those that are known already are not built again, those that
    /// are no longer asked for are let go.
    pub(super) fn catchments(&mut self, config: &Config) -> Vec<Arc<Catchment>> {
        let specs = config.catchments.iter();
        let known = specs.clone().map(|spec| self.catchments.get(spec).cloned());
        let known: Option<Vec<Arc<Catchment>>> = known.collect();
        let catchments =
            known.unwrap_or_else(|| Catchment::build_all(&self.atlas, &config.catchments));
        self.catchments = specs.cloned().zip(catchments.iter().cloned()).collect();
        catchments
    }
}

/// Files, as they were.
#[derive(PartialEq, Eq, Debug)]
struct Prints {
    places: Vec<(PathBuf, Print)>,
    asns: Vec<(PathBuf, Print)>,
    geofeed: Option<(PathBuf, Print)>,
}

/// The files that `geoip` names, as they are now.
fn prints(geoip: &GeoIp, folder: &Path) -> Prints {
    let GeoIp { databases, asns, geofeed } = geoip;
    let print = |file: &PathBuf| (file.clone(), Print::of(&folder.join(file)));
    let of = |files: &[PathBuf]| files.iter().map(print).collect();
    Prints { places: of(databases), asns: of(asns), geofeed: geofeed.as_ref().map(print) }
}

fn load<E: std::fmt::Display>(
    file: &Path,
    parse: impl Fn(Vec<u8>) -> Result<Database, E>,
    problems: &mut Vec<Problem>,
) -> Option<Database> {
    let result = read(file).map_err(|reason| problem(file, &reason));
    match result.and_then(|bytes| parse(bytes).map_err(|error| problem(file, &error))) {
        Ok(database) => Some(database),
        Err(problem) => {
            problems.push(problem);
            None
        }
    }
}

fn load_feed(file: &Path, problems: &mut Vec<Problem>) -> Option<Geofeed> {
    let text = match read(file).map(String::from_utf8) {
        Ok(Ok(text)) => text,
        Ok(Err(_)) => {
            problems.push(problem(file, &"not a text in UTF-8"));
            return None;
        }
        Err(reason) => {
            problems.push(problem(file, &reason));
            return None;
        }
    };
    match Geofeed::parse(&text) {
        Ok(feed) => Some(feed),
        Err(faults) => {
            problems.extend(faults.iter().map(|GeofeedError { line, fault }| {
                let at = Some(Place { line: *line, column: 1 });
                Problem { at, ..problem(file, fault) }
            }));
            None
        }
    }
}

fn problem(file: &Path, what: &dyn std::fmt::Display) -> Problem {
    Problem::of_file(&file.display().to_string(), what.to_string())
}
