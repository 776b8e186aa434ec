//! `meridian explain`.

use std::path::Path;

use super::server::Server;
use super::{Explain, Failed, print};
use crate::health::{HealthTable, State};
use crate::query::{Explanation, Question, explain};
use crate::server::{Loaded, Loader, Refused, Source, What};
use crate::snapshot::Snapshot;
use crate::steer::Facts;
use crate::zone::RecordType;

/// Explains by a configuration, or asks a server to.
pub(super) fn run(asked: Explain) -> Result<(), Failed> {
    let is_json = asked.json;
    let (explanation, broken) = match &asked.config {
        Some(config) => {
            let (loaded, broken) = load(config)?;
            (by_config(&loaded, &asked)?, broken)
        }
        None => (by_server(asked)?, None),
    };
    if is_json {
        print(&serde_json::to_string_pretty(&explanation)?);
    } else {
        print(&explanation.to_string());
    }
    broken.map_or(Ok(()), Err)
}

/// What is to be said where the files that tell who is where are broken.
const UNLOCATED: &str = "this is what a client gets whose place is not known; a running server \
                         goes by the files as they were, and none starts with these";

/// What `config` serves. Where the files that tell who is where are broken, so that nobody has a
/// place, that is said too.
fn load(config: &Path) -> Result<(Loaded, Option<Failed>), Failed> {
    let refused = |refused: Refused| Failed::refused(&refused.problems);
    let mut loader = Loader::new(Source::File(config.to_owned()));
    match loader.load() {
        Ok(loaded) => Ok((loaded, None)),
        Err(Refused { what: What::GeoIp, problems }) => {
            let loaded = loader.load_unlocated().map_err(refused)?;
            let Failed { told, .. } = Failed::refused(&problems);
            Ok((loaded, Some(Failed::new(format!("{told}\n{UNLOCATED}")))))
        }
        Err(other) => Err(refused(other)),
    }
}

/// A record type, as it is given.
pub(super) fn rtype(text: &str) -> Result<RecordType, String> {
    text.parse().map_err(|()| "expected a record type such as A or TYPE65280".to_owned())
}

/// Explains with every endpoint up but those in `--down`.
fn by_config(loaded: &Loaded, asked: &Explain) -> Result<Explanation, Failed> {
    let down = asked.down.iter().map(|name| {
        let known = loaded.config.regions.iter().map(|region| region.name.as_str());
        let known = known.collect::<Vec<_>>().join(", ");
        let region = loaded.config.region(name);
        region.ok_or_else(|| Failed::new(format!("error: no region `{name}`; there are: {known}")))
    });
    let down = down.collect::<Result<Vec<_>, _>>()?;
    let all_up = loaded
        .config
        .targets
        .iter()
        .fold(HealthTable::default(), |table, target| table.assuming(target.id, State::Up));
    let facts = Facts { down: &down, ..Facts::of(&all_up) };
    let snapshot = Snapshot::compile(loaded.plan.clone(), &facts, None, None, 1);
    let question = Question { name: asked.name.clone(), rtype: asked.rtype, client: asked.from };
    let atlas = loaded.survey.atlas().map_err(|problems| Failed::refused(&problems))?;
    Ok(explain(&snapshot, &atlas, &facts, &question))
}

fn by_server(asked: Explain) -> Result<Explanation, Failed> {
    let Explain { name, from, rtype, down, .. } = &asked;
    let (name, from, rtype) = (name.to_string(), from.to_string(), rtype.to_string());
    let down = down.join(",");
    let query = [("name", &*name), ("from", &from), ("type", &rtype), ("down", &down)];
    Server::of(asked.server)?.get("/api/v1/explain", &query)
}
