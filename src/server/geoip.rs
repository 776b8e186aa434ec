//! GeoIP files: read whole and verified. What answers need of them is kept, the rest is read again
//! for whoever asks.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use super::files::{Print, read};
use crate::config::{Config, GeoIp, Place, Problem};
use crate::geo::{
    Atlas, Catchment, CatchmentSpec, Database, DatabaseError, Description, Geofeed, GeofeedError,
    Sources,
};

/// The database in the box.
pub(super) static SHIPPED: &[u8] = include_bytes!("../../geoip/meridian-city.mmdb");

/// Who is nearest to whom, from which files.
#[derive(Debug)]
pub(super) struct Geography {
    /// Where clients are.
    pub survey: Arc<Survey>,
    /// What the databases say of themselves.
    pub databases: Databases,
    /// What looks wrong in the geofeed.
    pub warnings: Vec<Problem>,
    catchments: HashMap<CatchmentSpec, Arc<Catchment>>,
}

/// Databases, by what they tell and where they are (`None`: in the box).
pub(super) type Databases = Vec<(Kind, Option<PathBuf>, Description)>;

/// The files that tell who is where, as they were read. Answers need no more of them than what
/// catchments know. The atlas that they make is many times as large, so it is there only while
/// somebody wants it.
#[derive(Debug)]
pub struct Survey {
    geoip: GeoIp,
    folder: PathBuf,
    prints: Prints,
    /// The atlas, and how often [`Survey::rest`] passes it over yet.
    drawn: Mutex<Option<(Arc<Atlas>, u32)>>,
}

/// How often, while nobody asks for it: for a minute of looks at the files.
const PASSED_OVER: u32 = 120;

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
        // What is read was as it is afterwards, or the next look finds a change.
        let prints = prints(geoip, folder);
        let (atlas, databases, warnings) = draw(geoip, folder)?;
        let drawn = Mutex::new(Some((atlas, 0)));
        let survey = Survey { geoip: geoip.clone(), folder: folder.to_owned(), prints, drawn };
        Ok(Self { survey: survey.into(), databases, warnings, catchments: HashMap::new() })
    }

    /// Nobody has a place, but for private addresses.
    pub(super) fn nowhere(folder: &Path) -> Self {
        let atlas = Atlas::build(Sources { places: &[], asns: &[], geofeed: None });
        let drawn = Mutex::new(Some((atlas.into(), 0)));
        let (geoip, folder) = (GeoIp::default(), folder.to_owned());
        let survey = Survey { geoip, folder, prints: Prints::new(), drawn };
        let (databases, warnings, catchments) = (Vec::new(), Vec::new(), HashMap::new());
        Self { survey: survey.into(), databases, warnings, catchments }
    }

    /// Is this what reading the files of `geoip` again would give?
    pub(super) fn is_of(&self, geoip: &GeoIp, folder: &Path) -> bool {
        self.survey.geoip == *geoip && self.survey.prints == prints(geoip, folder)
    }

    /// The catchments of `config`. Where one is not known yet, all are drawn anew.
    ///
    /// # Errors
    /// As [`Survey::atlas`].
    pub(super) fn catchments(
        &mut self,
        config: &Config,
    ) -> Result<Vec<Arc<Catchment>>, Vec<Problem>> {
        let specs = config.catchments.iter();
        let known = specs.clone().map(|spec| self.catchments.get(spec).cloned());
        let known: Option<Vec<Arc<Catchment>>> = known.collect();
        let catchments = match known {
            Some(catchments) => catchments,
            None => Catchment::build_all(&*self.survey.kept_for(0)?, &config.catchments),
        };
        self.catchments = specs.cloned().zip(catchments.iter().cloned()).collect();
        Ok(catchments)
    }
}

impl Survey {
    /// Who is where. To draw it anew takes a moment: a quarter of a second, or some seconds
    /// with a database of all cities.
    ///
    /// # Errors
    /// The files are not what they were any more.
    pub fn atlas(&self) -> Result<Arc<Atlas>, Vec<Problem>> {
        self.kept_for(PASSED_OVER)
    }

    fn kept_for(&self, rests: u32) -> Result<Arc<Atlas>, Vec<Problem>> {
        // Whoever else wants it then waits for this one.
        let mut drawn = self.drawn.lock().unwrap_or_else(PoisonError::into_inner);
        let atlas = match drawn.take() {
            Some((atlas, _)) => atlas,
            None => {
                let (atlas, ..) = draw(&self.geoip, &self.folder)?;
                self.unchanged()?;
                atlas
            }
        };
        *drawn = Some((atlas.clone(), rests));
        Ok(atlas)
    }

    /// Lets go of an atlas that nobody has asked for in a while: was there one?
    pub(super) fn rest(&self) -> bool {
        let mut drawn = self.drawn.lock().unwrap_or_else(PoisonError::into_inner);
        match &mut *drawn {
            Some((_, 0)) => drawn.take().is_some(),
            Some((_, left)) => {
                *left -= 1;
                false
            }
            None => false,
        }
    }

    /// Are the files as they were?
    fn unchanged(&self) -> Result<(), Vec<Problem>> {
        let now = prints(&self.geoip, &self.folder);
        let then = self.prints.iter();
        let changed = then.filter(|print| !now.contains(print)).map(|(file, _)| {
            let what = "it has changed since it was read, and what it says now is not served (yet)";
            problem(file, &what)
        });
        let changed: Vec<Problem> = changed.collect();
        if changed.is_empty() { Ok(()) } else { Err(changed) }
    }
}

/// An atlas, what its databases say of themselves, and what looks wrong in its geofeed.
type Drawn = (Arc<Atlas>, Databases, Vec<Problem>);

/// The atlas that the files of `geoip` make.
fn draw(geoip: &GeoIp, folder: &Path) -> Result<Drawn, Vec<Problem>> {
    let mut problems = Vec::new();
    let mut all = |files: &[PathBuf], parse: fn(Vec<u8>) -> Result<Database, DatabaseError>| {
        let read = files.iter().filter_map(|file| load(&folder.join(file), parse, &mut problems));
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
    let mut warnings = Vec::new();
    let geofeed = geoip.geofeed.as_ref().and_then(|file| {
        let file = folder.join(file);
        let feed = load_feed(&file, &mut problems)?;
        warnings.extend(feed.doubts.iter().map(|(line, doubt)| Problem {
            at: Some(Place { line: *line, column: 1 }),
            is_warning: true,
            ..problem(&file, doubt)
        }));
        if feed.entries().next().is_none() {
            let what = "there is no network in it, so it tells nothing of anybody";
            warnings.push(Problem { is_warning: true, ..problem(&file, &what) });
        }
        Some(feed)
    });
    if !problems.is_empty() {
        return Err(problems);
    }
    let sources = Sources { places: &places, asns: &asns, geofeed: geofeed.as_ref() };
    let atlas = Arc::new(Atlas::build(sources));
    let described = |kind, files: &[PathBuf], databases: &[Database]| {
        let files = files.iter().cloned().map(Some).chain([None]);
        let pairs = databases.iter().zip(files);
        let rows = pairs.map(|(database, file)| (kind, file, database.description().clone()));
        rows.collect::<Databases>()
    };
    let mut databases = described(Kind::Places, &geoip.databases, &places);
    databases.extend(described(Kind::Asns, &geoip.asns, &asns));
    Ok((atlas, databases, warnings))
}

/// Files, as they were.
type Prints = Vec<(PathBuf, Print)>;

/// The files that `geoip` names, as they are now.
fn prints(geoip: &GeoIp, folder: &Path) -> Prints {
    let GeoIp { databases, asns, geofeed } = geoip;
    let files = databases.iter().chain(asns).chain(geofeed);
    files.map(|file| (file.clone(), Print::of(&folder.join(file)))).collect()
}

fn load(
    file: &Path,
    parse: fn(Vec<u8>) -> Result<Database, DatabaseError>,
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_atlas_is_there_while_it_is_wanted_and_always_the_one_that_is_served() {
        let folder = tempfile::tempdir().unwrap();
        let feed = folder.path().join("feed.csv");
        std::fs::write(&feed, "192.0.2.0/24,IE,,,\n").unwrap();
        let geoip = GeoIp { geofeed: Some("feed.csv".into()), ..GeoIp::default() };
        let survey = Geography::read(&geoip, folder.path()).unwrap().survey;
        let rest = || (0..=PASSED_OVER).position(|_| survey.rest());
        assert_eq!(rest(), Some(0), "nobody has asked for it");
        let country = || {
            let atlas = survey.atlas().unwrap();
            let place = atlas.locate("192.0.2.1".parse().unwrap()).place;
            place.and_then(|place| place.country).map(|country| country.to_string())
        };
        assert_eq!((country().as_deref(), rest()), (Some("IE"), Some(PASSED_OVER as usize)));
        assert_eq!(rest(), None, "it is gone");
        std::fs::write(&feed, "192.0.2.0/24,DE,,,\n192.0.3.0/24,DE,,,\n").unwrap();
        let told = survey.atlas().unwrap_err()[0].to_string();
        assert!(told.starts_with("feed.csv: error: it has changed since"), "{told}");
    }
}
