//! What a thread has answered, counted without a shared write: the usual where the ledger is told
//! of it, the rest by a table that is told of a few times a second.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use foldhash::fast::FixedState;
use metrics::counter;

use super::counts::Kind;
use super::exposure::{Sheet, queries};
use super::limiter::Verdict;
use crate::ids::ServiceId;
use crate::query::{Named, Silence, Summary, Transport};
use crate::snapshot::Plan;
use crate::time::Instant;

/// Counts of one thread.
pub(super) struct Tally {
    pub(super) transport: Transport,
    /// What the ids mean.
    pub(super) plan: Arc<Plan>,
    /// Where it is told which answers may be remembered, and usual ones are counted.
    sheet: Sheet,
    /// When the others were last told.
    told: Instant,
    unusual: Few<Kind>,
    truncated: u64,
    silences: Few<Silence>,
    limited: Few<Verdict>,
}

/// Their keys are not for strangers to choose: a fast hash will do.
type Few<T> = HashMap<T, u64, FixedState>;

/// From one time to the next when what is not usual is told.
const ROUND: Duration = Duration::from_millis(250);

impl Tally {
    /// Nothing is counted yet.
    pub(super) fn new(transport: Transport, plan: Arc<Plan>, sheet: Sheet) -> Self {
        Self {
            transport,
            plan,
            sheet,
            told: Instant::default(),
            unusual: Few::default(),
            truncated: 0,
            silences: Few::default(),
            limited: Few::default(),
        }
    }

    /// Counts by the names of this plan from now on.
    pub(super) fn turn_to(&mut self, plan: &Arc<Plan>, sheet: Sheet) {
        self.flush();
        (self.plan, self.sheet) = (plan.clone(), sheet);
    }

    /// Has the processor fetch what [`Self::count`] writes for an answer.
    pub(super) fn approach(&self, now: Instant, summary: &Summary) {
        if let (Some(service), Some(named)) = (summary.service, summary.named) {
            self.sheet.approach(now, service, named);
        }
    }

    /// One more answer; `passed` are the services that a chain of names passed before its last.
    #[inline]
    pub(super) fn count(
        &mut self,
        now: Instant,
        summary: &Summary,
        passed: &[Option<(ServiceId, Named)>],
    ) {
        let Summary { rcode, service, region, .. } = *summary;
        let kind = (rcode, service.map(|service| (service, region)));
        if !self.sheet.count(kind) {
            *self.unusual.entry(kind).or_default() += 1;
        }
        // Nobody remembers what is cut short.
        if summary.truncated {
            self.truncated += 1;
            return;
        }
        let last = service.zip(summary.named);
        for (service, named) in passed.iter().flatten() {
            self.sheet.add(now, *service, *named);
        }
        if let Some((service, named)) = last {
            self.sheet.add(now, service, named);
        }
        // What was asked for is asked for again when the first of a chain is forgotten.
        if let Some((_, (_, ttl))) = passed.first().copied().flatten().or(last) {
            self.sheet.answered(now, summary.asker, ttl);
        }
    }

    /// One more that is not answered.
    pub(super) fn silent(&mut self, reason: Silence) {
        *self.silences.entry(reason).or_default() += 1;
    }

    /// One more that is not answered as it would have been.
    pub(super) fn limit(&mut self, verdict: Verdict) {
        *self.limited.entry(verdict).or_default() += 1;
    }

    /// Tells what was counted, if it is time to.
    pub(super) fn tell(&mut self, now: Instant) -> bool {
        let is_due = now.since(self.told) >= ROUND;
        if is_due {
            self.told = now;
            self.flush();
        }
        is_due
    }

    /// Tells all of it.
    pub(super) fn flush(&mut self) {
        for (kind, count) in self.unusual.drain() {
            queries(&self.plan, self.transport, kind).increment(count);
        }
        let truncated = std::mem::take(&mut self.truncated);
        if truncated > 0 {
            let transport = self.transport.label();
            counter!("meridian_truncated_total", "transport" => transport).increment(truncated);
        }
        for (verdict, count) in self.limited.drain() {
            counter!("meridian_limited_total", "how" => verdict.label()).increment(count);
        }
        for (reason, count) in self.silences.drain() {
            counter!("meridian_silent_total", "reason" => reason.label()).increment(count);
        }
    }
}

#[cfg(test)]
mod tests {
    use metrics::with_local_recorder;
    use metrics_exporter_prometheus::PrometheusBuilder;

    use super::*;
    use crate::config::{Config, Targets};
    use crate::ids::{RegionId, RegionSet};
    use crate::query::Rcode;
    use crate::server::exposure::Exposure;
    use crate::time::Ttl;

    fn plan() -> Arc<Plan> {
        let service = |row| {
            format!("  s{row}: {{ regions: {{ here: 192.0.2.1 }}, names: [s{row}.example.com] }}\n")
        };
        let services: String = (0..2).map(service).collect();
        let text = format!(
            "regions: {{ here: {{}} }}\nzones: {{ example.com: {{ ns: [ns.example.net] }} }}\n\
             services:\n{services}"
        );
        let mut no_files = |_: &std::path::Path| Err("no files here".to_owned());
        let config = Config::load("test", &text, &mut Targets::default(), &mut no_files).unwrap();
        let Config { zones, services, regions, identity, .. } = config;
        Plan::new(zones, services, regions, Vec::new(), identity).into()
    }

    /// A moment, and what is counted from then on, and told where.
    fn world(transport: Transport) -> (Instant, Exposure, Tally) {
        let (now, plan) = (Instant::from_nanos(1_000_000_000_000), plan());
        let exposure = Exposure::default();
        let sheet = exposure.sheet(now, &plan, transport);
        (now, exposure, Tally::new(transport, plan, sheet))
    }

    fn answer(service: usize) -> Summary {
        let region = RegionId::from_index(0).unwrap();
        Summary {
            rcode: Rcode::NoError,
            service: ServiceId::from_index(service),
            region: Some(region),
            named: Some((RegionSet::EMPTY.with(region), Ttl::from_secs(30))),
            asker: 0,
            by_subnet: false,
            truncated: false,
            proven: false,
            is_given: true,
        }
    }

    #[test]
    fn each_service_of_a_chain_is_told_by_its_own_ttl() {
        let (now, exposure, mut tally) = world(Transport::Udp);
        let last = answer(1);
        let hour = last.named.map(|(regions, _)| (regions, Ttl::from_secs(3600))).unwrap();
        let front = [ServiceId::from_index(0).map(|id| (id, hour))];
        tally.count(now, &last, &front);
        // The last one has no such records: nobody remembers a region of it.
        tally.count(now, &Summary { named: None, region: None, ..last }, &front);
        tally.count(now, &Summary { truncated: true, ..last }, &front);
        let told = |now| -> Vec<(String, u64)> {
            let remaining = exposure.remaining(now).into_iter();
            remaining.map(|((service, _), of)| (service, of.answers)).collect()
        };
        assert_eq!(told(now), [("s0".to_owned(), 2), ("s1".to_owned(), 1)]);
        assert_eq!(told(now + Duration::from_secs(600)), [("s0".to_owned(), 2)]);
    }

    #[test]
    fn each_answer_is_counted_once_by_what_it_is() {
        let recorder = PrometheusBuilder::new().build_recorder();
        with_local_recorder(&recorder, || {
            for transport in [Transport::Udp, Transport::Https] {
                let (now, exposure, mut tally) = world(transport);
                let usual = answer(1);
                let nothing = Summary { region: None, named: None, ..usual };
                let fixed = Summary { service: None, ..nothing };
                let nowhere = Summary { rcode: Rcode::NxDomain, ..fixed };
                let failed = Summary { rcode: Rcode::ServFail, ..nothing };
                let cut = Summary { truncated: true, ..usual };
                for summary in [usual, usual, nothing, fixed, nowhere, failed, cut] {
                    tally.count(now, &summary, &[]);
                }
                assert!(tally.tell(now) && !tally.tell(now + ROUND / 2), "a few times a second");
                assert!(tally.tell(now + ROUND));
                exposure.tell();
            }
        });
        let text = recorder.handle().render();
        for label in [Transport::Udp, Transport::Https].map(Transport::label) {
            for (rcode, service, region, count) in [
                ("NOERROR", "s1", "here", 3),
                ("NOERROR", "s1", "", 1),
                ("NOERROR", "", "", 1),
                ("NXDOMAIN", "", "", 1),
                ("SERVFAIL", "s1", "", 1),
            ] {
                let line = format!(
                    "meridian_queries_total{{transport=\"{label}\",rcode=\"{rcode}\",\
                     service=\"{service}\",region=\"{region}\"}} {count}\n"
                );
                assert!(text.contains(&line), "no {line} in {text}");
            }
            let truncated = format!("meridian_truncated_total{{transport=\"{label}\"}} 1\n");
            assert!(text.contains(&truncated), "no {truncated} in {text}");
        }
        assert_eq!(text.matches("\nmeridian_queries_total{").count(), 10, "{text}");
    }
}
