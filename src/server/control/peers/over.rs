//! What a disagreement between nodes has cost.

use std::time::Duration;

use crate::config::Config;
use crate::convergence::{Parting, percent, percent_said};
use crate::steer::Service;
use crate::time::Ttl;

/// A disagreement that is over.
pub(super) struct Over {
    pub(super) node: String,
    pub(super) service: String,
    pub(super) span: Duration,
    pub(super) share: f64,
    pub(super) ttl: Ttl,
}

impl Over {
    /// What it cost.
    pub(super) fn report(&self, config: &Config) -> String {
        let Self { service, span, share, ttl, .. } = self;
        let nodes = config.cluster.as_ref().map_or(1, |cluster| cluster.nodes.len());
        let lookups = share / nodes.max(1) as f64;
        let parting = Parting { share: lookups, seconds: span.as_secs_f64() };
        let lag = config.convergence.population.lag(f64::from(ttl.as_secs()));
        let window = match parting.until(&lag, config.convergence.residual) {
            Some(seconds) => format!("{seconds:.0} s"),
            None => "more than 2 h".to_owned(),
        };
        let flips = parting.flips(f64::from(ttl.as_secs()), 0.0);
        let stale = parting.stale(&lag) - lag.mean();
        let of = config.service(service).and_then(|id| config.services.get(id.index()));
        let has_one_writer = of.is_some_and(Service::has_one_writer);
        let two_writers = match has_one_writer {
            true => String::new(),
            false => format!(
                "; two regions could be written to for {window}, until all but {} had moved",
                percent_said(config.convergence.residual)
            ),
        };
        let writes = config.writes.get(service).filter(|_| !has_one_writer).map(|writes| {
            let met = parting.writes(writes, Some(&lag));
            format!(
                "; at its declared writes {:.0} met another, and {:.0} are lost if the last one \
                 wins",
                met.writes, met.lost
            )
        });
        format!(
            "it answered {service} differently for {:.1} s, for up to {} of those who asked it, \
             or {} of all lookups: {stale:.1} s worth of requests went elsewhere, and a resolver's \
             answer changed {flips:.1} times in the mean{two_writers}{}",
            span.as_secs_f64(),
            percent(*share),
            percent(lookups),
            writes.unwrap_or_default()
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Targets;

    #[test]
    fn two_regions_are_written_to_only_where_two_can_be() {
        let text = "regions: { us: { at: [39, -77] }, eu: { at: [53, -6] } }
zones: { example.com: { ns: [ns1.example.net, ns2.example.net] } }
services:
  web: { names: [www.example.com], regions: { us: 192.0.2.10, eu: 192.0.2.20 } }
  one: { names: [one.example.com], steer: single-writer, lease: manual,
         regions: { us: 192.0.2.10, eu: 192.0.2.20 } }
";
        let mut no_files = |_: &std::path::Path| Err("no files here".to_owned());
        let config = Config::load("a.yaml", text, &mut Targets::default(), &mut no_files).unwrap();
        for (service, is_told) in [("web", true), ("one", false)] {
            let (node, service) = ("ns2".to_owned(), service.to_owned());
            let (span, ttl) = (Duration::from_secs(10), Ttl::from_secs(30));
            let told = Over { node, service, span, share: 0.5, ttl }.report(&config);
            assert_eq!(told.contains("two regions could be written to for"), is_told, "{told}");
            assert_eq!(told.contains("until all but 1 % had moved"), is_told, "{told}");
        }
    }
}
