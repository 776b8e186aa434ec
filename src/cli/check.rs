//! `meridian check`.

use std::path::PathBuf;

use serde_json::{Value, json};

use super::{Failed, print, print_error};
use crate::config::{Problem, sort};
use crate::server::{Loaded, Loader, Source};
use crate::steer::Policy;

/// Tells what is wrong, or what would be served.
pub(super) fn run(config: PathBuf, as_json: bool) -> Result<(), Failed> {
    let loaded = Loader::new(Source::File(config)).load().map(|mut loaded| {
        loaded.config.warnings.extend(loaded.wrong_states());
        sort(&mut loaded.config.warnings, &loaded.file);
        loaded
    });
    match loaded {
        Ok(loaded) if as_json => {
            print(&format!("{:#}", summary_json(&loaded)));
            Ok(())
        }
        Ok(loaded) => {
            for warning in &loaded.config.warnings {
                print_error(&warning.to_string());
            }
            print(&summary(&loaded));
            Ok(())
        }
        Err(refused) if as_json => {
            let problems: Vec<Value> = refused.problems.iter().map(problem_json).collect();
            print(&format!("{:#}", json!({ "ok": false, "problems": problems })));
            Err(Failed::new(String::new()))
        }
        Err(refused) => {
            let problems = &refused.problems;
            let errors = problems.iter().filter(|problem| !problem.is_warning).count();
            let word = if errors == 1 { "error" } else { "errors" };
            let told = Failed::refused(problems).told;
            Err(Failed::new(format!("{told}\n{errors} {word}")))
        }
    }
}

fn summary(loaded: &Loaded) -> String {
    let config = &loaded.config;
    let mut lines = vec![format!("{}: good", loaded.file)];
    for zone in config.zones.iter() {
        let (names, records) = zone.size();
        lines.push(format!("  zone      {}: {names} names, {records} records", zone.origin()));
    }
    for service in &config.services {
        let names: Vec<String> = service.names.iter().map(ToString::to_string).collect();
        let endpoints: usize = service.pools.iter().map(|pool| pool.endpoints.len()).sum();
        let policy = match service.policy {
            Policy::Weighted => format!("weighted: {}", loaded.plan.weights(service)),
            ref other => other.to_string(),
        };
        lines.push(format!(
            "  service   {} ({policy}): {} in {} regions, {endpoints} endpoints, TTL {}",
            service.name,
            names.join(", "),
            service.pools.len(),
            service.ttl,
        ));
    }
    lines.push(format!("  probes    {} targets", config.targets.len()));
    for (kind, file, description) in &loaded.databases {
        let file =
            file.as_ref().map_or("the one in the box".to_owned(), |of| of.display().to_string());
        lines.push(format!("  geoip     {}: {file} ({})", kind.label(), description.database_type));
    }
    lines.join("\n")
}

fn summary_json(loaded: &Loaded) -> Value {
    let config = &loaded.config;
    let zones = config.zones.iter().map(|zone| {
        let (names, records) = zone.size();
        json!({ "origin": zone.origin().to_string(), "names": names, "records": records })
    });
    let services = config.services.iter().map(|service| {
        json!({
            "name": service.name,
            "policy": service.policy.to_string(),
            "names": service.names.iter().map(ToString::to_string).collect::<Vec<_>>(),
            "regions": service.pools.len(),
            "endpoints": service.pools.iter().map(|pool| pool.endpoints.len()).sum::<usize>(),
            "ttl": service.ttl.as_secs(),
        })
    });
    json!({
        "ok": true,
        "file": loaded.file,
        "zones": zones.collect::<Vec<_>>(),
        "services": services.collect::<Vec<_>>(),
        "targets": config.targets.len(),
        "warnings": config.warnings.iter().map(problem_json).collect::<Vec<_>>(),
    })
}

fn problem_json(problem: &Problem) -> Value {
    json!({
        "file": problem.file,
        "line": problem.at.map(|at| at.line),
        "column": problem.at.map(|at| at.column),
        "key": problem.key,
        "what": problem.what,
        "suggestion": problem.suggestion,
        "warning": problem.is_warning,
    })
}
