//! What a disagreement between nodes has cost.

use std::time::Duration;

use crate::config::Config;
use crate::convergence::{Parting, percent};
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
        let writes = config.writes.get(service).map(|writes| {
            let met = parting.writes(writes, Some(&lag));
            format!(
                "; at its declared writes {:.0} met another, and {:.0} are lost if the last one \
                 wins",
                met.writes, met.lost
            )
        });
        format!(
            "it answered {service} differently for {:.1} s, for up to {} of those who asked it, \
             or {} of all lookups: {stale:.1} s worth of requests went elsewhere, a resolver's \
             answer changed {flips:.1} times in the mean, and two regions could be written to \
             for {window}{}",
            span.as_secs_f64(),
            percent(*share),
            percent(lookups),
            writes.unwrap_or_default()
        )
    }
}
