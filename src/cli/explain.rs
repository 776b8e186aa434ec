//! `meridian explain`.

use std::path::Path;

use reqwest::blocking::{Client, ClientBuilder};

use super::{Explain, Failed, print};
use crate::health::{HealthTable, State};
use crate::query::{Explanation, Question, explain};
use crate::server::{Loader, Source};
use crate::snapshot::Snapshot;
use crate::steer::{Facts, InForce};

/// Explains by a configuration, or asks a server to.
pub(super) fn run(asked: Explain) -> Result<(), Failed> {
    let explanation = match &asked.config {
        Some(config) => by_config(config, &asked)?,
        None => by_server(&asked)?,
    };
    if asked.json {
        print(&serde_json::to_string_pretty(&explanation)?);
    } else {
        print(&explanation.to_string());
    }
    Ok(())
}

fn by_config(config: &Path, asked: &Explain) -> Result<Explanation, Failed> {
    let loaded = Loader::new(Source::File(config.to_owned())).load();
    let loaded = loaded.map_err(|refused| Failed::refused(&refused.problems))?;
    let name = asked.name.parse()?;
    let rtype = asked.rtype.parse().map_err(|()| {
        let given = &asked.rtype;
        Failed::new(format!(
            "error: `{given}` is no record type; expected one such as A or TYPE65280"
        ))
    })?;
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
    let overrides = InForce::NONE.assuming_down(&down);
    let facts = Facts { overrides: &overrides, ..Facts::of(&all_up) };
    let snapshot = Snapshot::compile(loaded.plan.clone(), &facts, None, None, 1);
    let question = Question { name, rtype, client: asked.from };
    let atlas = loaded.survey.atlas().map_err(|problems| Failed::refused(&problems))?;
    Ok(explain(&snapshot, &atlas, &facts, &question))
}

fn by_server(asked: &Explain) -> Result<Explanation, Failed> {
    let from = asked.from.to_string();
    let down = asked.down.join(",");
    let query = [("name", &asked.name), ("from", &from), ("type", &asked.rtype), ("down", &down)];
    let url = format!("{}/api/v1/explain", asked.server.trim_end_matches('/'));
    let response =
        client()?.get(&url).query(&query).send().map_err(|error| unreachable(&url, &error))?;
    if response.status().is_success() {
        return Ok(response.json()?);
    }
    Err(refused(response))
}

/// A client for a running server's API.
pub(super) fn client() -> Result<Client, Failed> {
    Ok(client_builder().build()?)
}

/// What such a client is made of.
pub(super) fn client_builder() -> ClientBuilder {
    // A library's TLS needs its provider, also where no TLS is spoken.
    let _installed_already = rustls::crypto::ring::default_provider().install_default();
    // No proxy of the environment: the token is the server's.
    Client::builder().timeout(std::time::Duration::from_secs(5)).no_proxy()
}

/// No server answers at `url`.
pub(super) fn unreachable(url: &str, error: &reqwest::Error) -> Failed {
    let hint = "is Meridian running there? `--server` names another address";
    Failed::new(format!("error: cannot reach {url}: {error}; {hint}"))
}

/// What the server has against a request.
pub(super) fn refused(response: reqwest::blocking::Response) -> Failed {
    let status = response.status();
    let body: Result<serde_json::Value, _> = response.json();
    let reason = body.ok().and_then(|body| Some(body.get("error")?.as_str()?.to_owned()));
    Failed::new(format!("error: {}", reason.unwrap_or_else(|| format!("the server says {status}"))))
}
