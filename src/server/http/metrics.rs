//! What Prometheus reads.
//!
//! Counters and histograms are kept by the metrics crate. What is true now (the state of each
//! endpoint, the age of a database) is written when it is asked for, from the same [`View`] as
//! the dashboard, so that nothing of an endpoint that is gone stays behind.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::sync::OnceLock;

use metrics::{
    Unit, counter, describe_counter, describe_gauge, describe_histogram, gauge, histogram,
};
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
use procfs::ProcResult;
use procfs::process::{LimitValue, Process};

use super::super::control::Listed;
use super::super::exposure::Exposures;
use super::super::handle::View;
use super::super::limiter::Verdict;
use super::super::load::What;
use super::alarms::{Lost, lost};
use super::convergence::Leaving;
use crate::health::{Failure, Outcome, State};
use crate::query::{Silence, Transport};
use crate::steer::{Hold, state_of};

/// Seconds, for what should take microseconds.
const QUICK: &[f64] =
    &[1e-6, 2e-6, 5e-6, 1e-5, 2e-5, 5e-5, 1e-4, 2e-4, 5e-4, 1e-3, 2e-3, 5e-3, 1e-2, 1e-1];
/// Seconds, for what crosses a network.
const SLOW: &[f64] = &[1e-3, 2e-3, 5e-3, 1e-2, 2e-2, 5e-2, 0.1, 0.2, 0.3, 0.5, 0.75, 1.0];
/// Seconds, for a failover.
const FAILOVER: &[f64] = &[0.05, 0.1, 0.2, 0.3, 0.5, 0.75, 1.0, 1.25, 1.5, 1.75, 2.0, 3.0, 5.0];

/// The recorder of this process; it is installed once, however many servers run.
pub(crate) fn install() -> PrometheusHandle {
    static RECORDER: OnceLock<PrometheusHandle> = OnceLock::new();
    RECORDER.get_or_init(build).clone()
}

fn build() -> PrometheusHandle {
    let buckets = [
        ("meridian_answer_seconds", QUICK),
        ("meridian_publish_seconds", QUICK),
        ("meridian_probe_lag_seconds", QUICK),
        ("meridian_probe_seconds", SLOW),
        ("meridian_failover_seconds", FAILOVER),
    ];
    let builder =
        buckets.into_iter().try_fold(PrometheusBuilder::new(), |builder, (name, bounds)| {
            builder.set_buckets_for_metric(Matcher::Full(name.to_owned()), bounds)
        });
    // Only an empty list of buckets is refused.
    let recorder = builder.unwrap_or_default().build_recorder();
    let handle = recorder.handle();
    // Somebody else's recorder stays: a library that embeds us may have one.
    let _theirs = metrics::set_global_recorder(recorder);
    describe();
    begin();
    handle
}

/// What is counted is there before its first event: to Prometheus, a counter that appears as 1 has
/// not grown. What has services, interfaces or webhooks in its labels begins with these.
fn begin() {
    for name in [
        "meridian_panics_total",
        "meridian_state_lost_total",
        "meridian_unsent_total",
        "meridian_cluster_refused_total",
    ] {
        let _zero = counter!(name);
    }
    let [success, local] = [Outcome::Success, Outcome::Failure(Failure::Local)].map(Outcome::label);
    let silent = [Silence::TooShort, Silence::NoPort, Silence::Response].map(Silence::label);
    let limited = [Verdict::AskAgain, Verdict::Silence].map(Verdict::label);
    for (name, label, values) in [
        ("meridian_truncated_total", "transport", &[Transport::Udp.label()][..]),
        ("meridian_silent_total", "reason", &silent),
        ("meridian_limited_total", "how", &limited),
        ("meridian_probes_total", "outcome", &[success, local]),
        ("meridian_load_reports_total", "outcome", &["read", "malformed"]),
        ("meridian_tcp_refused_total", "reason", &["connections", "per_client"]),
    ] {
        for value in values {
            let _zero = counter!(name, label => *value);
        }
    }
    for what in What::ALL.map(What::label) {
        for outcome in ["applied", "refused"] {
            let _zero = counter!("meridian_reloads_total", "what" => what, "outcome" => outcome);
        }
        let _zero = gauge!("meridian_reload_refused", "what" => what);
    }
    for name in ["meridian_tcp_connections", "meridian_leases_late"] {
        let _zero = gauge!(name);
    }
    for name in
        ["meridian_probe_lag_seconds", "meridian_publish_seconds", "meridian_failover_seconds"]
    {
        let _none = histogram!(name);
    }
}

fn describe() {
    use Unit::{Count, Seconds};
    let counters = [
        ("meridian_queries_total", "Answers given, by transport, rcode, service and region"),
        ("meridian_cluster_refused_total", "Packets to the cluster's address without its seal"),
        ("meridian_state_lost_total", "Times that something could not be kept on disk"),
        ("meridian_truncated_total", "Answers that told the client to ask again over TCP"),
        ("meridian_silent_total", "Packets not answered, as an answer could make a loop"),
        ("meridian_limited_total", "Questions over UDP beyond the limit of their network"),
        ("meridian_unsent_total", "Answers that the system could not send"),
        ("meridian_webhook_events_total", "Events of webhooks, by whether they were delivered"),
        ("meridian_xdp_total", "Packets that came past the kernel's stack, by interface"),
        ("meridian_probes_total", "Probes, by what they saw"),
        ("meridian_load_reports_total", "Load reports of endpoints, by whether they made sense"),
        ("meridian_reloads_total", "Attempts to serve changed files"),
        ("meridian_tcp_refused_total", "TCP connections closed at once for want of room"),
        ("meridian_panics_total", "Queries answered SERVFAIL because of a bug; report it"),
    ];
    for (name, text) in counters {
        describe_counter!(name, Count, text);
    }
    let gauges = [
        ("meridian_tcp_connections", "TCP connections that are open"),
        ("meridian_leases_late", "1 while etcd tells about writers too late for their leases"),
        ("meridian_reload_refused", "1 while the newest files are refused and older ones serve"),
    ];
    for (name, text) in gauges {
        describe_gauge!(name, Count, text);
    }
    let histograms = [
        ("meridian_answer_seconds", "From the arrival of a batch of queries to its answers"),
        ("meridian_probe_seconds", "How long probes took"),
        ("meridian_probe_lag_seconds", "How late probes began"),
        ("meridian_publish_seconds", "From a verdict to the answers that know of it"),
        ("meridian_failover_seconds", "From the first failed probe to the answers without it"),
    ];
    for (name, text) in histograms {
        describe_histogram!(name, Seconds, text);
    }
}

/// What is true now, in Prometheus' text format.
pub(super) fn now(view: &View) -> String {
    let mut out = String::new();
    let plan = view.snapshot.plan();
    head(&mut out, "meridian_endpoint_state", "1 up, 0 down, -1 no verdict yet");
    for service in &plan.services {
        for pool in &service.pools {
            let region = plan.region_name(pool.region);
            for endpoint in &pool.endpoints {
                let state = match state_of(endpoint, &view.health) {
                    State::Up => 1,
                    State::Down => 0,
                    State::Unknown => -1,
                };
                let (service, region) = (escaped(&service.name), escaped(region));
                // It says nothing of its region, which may be down.
                let unchecked = if endpoint.probed.is_some() { "" } else { ",unchecked=\"yes\"" };
                let labels = format!(
                    "service=\"{service}\",region=\"{region}\",endpoint=\"{}\"{unchecked}",
                    endpoint.address
                );
                let _fine = writeln!(out, "meridian_endpoint_state{{{labels}}} {state}");
            }
        }
    }
    let name = "meridian_nothing_up_share";
    head(&mut out, name, "The share of all IPv4 addresses whose clients have nothing that is up");
    for (id, service) in plan.ids().zip(&plan.services) {
        for Lost { family, share, .. } in lost(&view.snapshot, id) {
            let service = escaped(&service.name);
            let labels = format!("service=\"{service}\",type=\"{family}\"");
            let _fine = writeln!(out, "{name}{{{labels}}} {share}");
        }
    }
    let condition = view.condition;
    for (name, text, value) in [
        ("meridian_ready", "1 once the first verdicts are in", view.ready),
        ("meridian_abstains", "1 while this node does not trust its own sight", condition.abstains),
        ("meridian_probes_lossy", "1 while many of this node's probes get lost", condition.loses),
        ("meridian_isolated", "1 while too few other nodes are heard", condition.isolated),
    ] {
        head(&mut out, name, text);
        let _fine = writeln!(out, "{name} {}", u8::from(value));
    }
    head(&mut out, "meridian_stale_targets", "Targets of which no probe comes back");
    let _fine = writeln!(out, "meridian_stale_targets {}", view.stale);
    let name = "meridian_clock_off_seconds";
    head(&mut out, name, "How far the wall clock was set ahead since the start");
    let _fine = writeln!(out, "{name} {:.3}", view.clock_off);
    let name = "meridian_state_waiting_seconds";
    head(&mut out, name, "For how long what is to be kept has been waiting for the disk");
    let _fine = writeln!(out, "{name} {:.3}", view.unkept_for.as_secs_f64());
    certificates(&mut out, view);
    head(&mut out, "meridian_held_regions", "Services' regions that health alone does not move");
    let kept = view.holds.all().filter(|(.., hold)| *hold == Hold::Kept).count();
    let back = view.holds.all().count() - kept;
    let _fine = writeln!(out, "meridian_held_regions{{why=\"kept\"}} {kept}");
    let _fine = writeln!(out, "meridian_held_regions{{why=\"failback\"}} {back}");
    nodes(&mut out, view);
    writers(&mut out, view);
    arriving(&mut out, view);
    overrides(&mut out, view);
    head(&mut out, "meridian_generation", "Which change of the world is answered");
    let _fine = writeln!(out, "meridian_generation {}", view.snapshot.generation());
    databases(&mut out, view);
    head(&mut out, "meridian_build_info", "Which version this is");
    let version = env!("CARGO_PKG_VERSION");
    let _fine = writeln!(out, "meridian_build_info{{version=\"{version}\"}} 1");
    // Where `/proc` is hidden, less is told.
    out + &process(view).unwrap_or_default()
}

/// The process, by the names that Prometheus' own clients give to what is told of theirs.
#[expect(clippy::cast_precision_loss, reason = "what a process has is far less than 2^53")]
fn process(view: &View) -> ProcResult<String> {
    let own = Process::myself()?;
    let (stat, files) = (own.stat()?, own.limits()?.max_open_files.soft_limit);
    let (name, mut out) = ("process_cpu_seconds_total", String::new());
    let cpu = (stat.utime + stat.stime) as f64 / procfs::ticks_per_second() as f64;
    let text = "Its time on cores, the kernel's part included";
    let _fine = writeln!(out, "# HELP {name} {text}\n# TYPE {name} counter\n{name} {cpu}");
    let most = match files {
        LimitValue::Unlimited => f64::INFINITY,
        LimitValue::Value(most) => most as f64,
    };
    for (name, text, value) in [
        ("resident_memory_bytes", "Its memory", (stat.rss * procfs::page_size()) as f64),
        ("virtual_memory_bytes", "What it has reserved", stat.vsize as f64),
        ("open_fds", "Its open files and sockets", own.fd_count()? as f64),
        ("max_fds", "How many these may be", most),
        ("threads", "Its threads", stat.num_threads as f64),
        ("start_time_seconds", "When it began", view.started.as_nanos() as f64 / 1e9),
    ] {
        head(&mut out, &format!("process_{name}"), text);
        let value = if value.is_finite() { value.to_string() } else { "+Inf".to_owned() };
        let _fine = writeln!(out, "process_{name} {value}");
    }
    Ok(out)
}

/// When the databases were built: of several of a kind the oldest.
fn databases(out: &mut String, view: &View) {
    let name = "meridian_geoip_build_timestamp_seconds";
    head(out, name, "When a GeoIP database was built");
    let mut oldest: BTreeMap<&str, u64> = BTreeMap::new();
    for (kind, file, description) in &view.loaded.databases {
        // The one in the box is as old as the program, and coarse: a year is no harm.
        let kind = if file.is_some() { kind.label() } else { "in_the_box" };
        let built = oldest.entry(kind).or_insert(u64::MAX);
        *built = description.build_epoch.min(*built);
    }
    for (kind, built) in oldest {
        let _fine = writeln!(out, "{name}{{database=\"{kind}\"}} {built}");
    }
}

/// As many words are told one by one: there are seldom ten.
const MOST_WORDS: usize = 1000;

/// What operators have said, and maintenance that has begun.
fn overrides(out: &mut String, view: &View) {
    let standing = view.said.iter().filter(|said| said.since <= view.now);
    let words: BTreeSet<(String, String)> =
        standing.map(|said| (said.subject.to_string(), said.verb())).collect();
    head(out, "meridian_overrides", "Operators' words, and maintenance, that are in force");
    let _fine = writeln!(out, "meridian_overrides {}", words.len());
    head(out, "meridian_override", "1 for each of these");
    for (subject, word) in words.iter().take(MOST_WORDS) {
        let subject = escaped(subject);
        let _fine = writeln!(out, "meridian_override{{subject=\"{subject}\",word=\"{word}\"}} 1");
    }
}

/// Who is heard, and who differs.
fn nodes(out: &mut String, view: &View) {
    head(out, "meridian_nodes_heard", "Other nodes of the cluster that are heard");
    let others = view.nodes.iter().filter(|node| !node.is_own);
    let _fine =
        writeln!(out, "meridian_nodes_heard {}", others.clone().filter(|node| node.fresh).count());
    let name = "meridian_node_differs";
    head(out, name, "Services that a heard node answers otherwise than this one");
    for node in others.clone().filter(|node| node.fresh) {
        let label = escaped(&node.name);
        let _fine = writeln!(out, "{name}{{node=\"{label}\"}} {}", node.differs.len());
    }
    let name = "meridian_node_list_differs";
    head(out, name, "1 while a heard node goes by another list of nodes than this one");
    for node in others.filter(|node| node.fresh) {
        let is_other = u8::from(node.list == Listed::Another);
        let _fine = writeln!(out, "{name}{{node=\"{}\"}} {is_other}", escaped(&node.name));
    }
}

/// Which answers may be remembered, and who is expected where.
pub(super) fn leaving(exposures: &Exposures, leaving: &[Leaving]) -> String {
    let mut out = String::new();
    let labels = |service: &str, region: &str| {
        format!("service=\"{}\",region=\"{}\"", escaped(service), escaped(region))
    };
    let name = "meridian_answers_remembered";
    head(&mut out, name, "Answers of this node that name a region and may still be remembered");
    for ((service, region), remaining) in exposures {
        let labels = labels(service, region);
        let _fine = writeln!(out, "{name}{{{labels}}} {}", remaining.answers);
    }
    let name = "meridian_answers_remembered_until_seconds";
    head(&mut out, name, "When the last of these answers is forgotten");
    for ((service, region), remaining) in exposures {
        let labels = labels(service, region);
        let _fine = writeln!(out, "{name}{{{labels}}} {}", remaining.until);
    }
    let name = "meridian_left_expected_share";
    head(&mut out, name, "Of a region that left the answers: clients that are expected to stay");
    for of in leaving {
        let labels = labels(&of.service, &of.region);
        let _fine = writeln!(out, "{name}{{{labels}}} {:.6}", of.expected);
    }
    out
}

fn certificates(out: &mut String, view: &View) {
    let ending = view.ending().count();
    head(out, "meridian_certificates_ending", "Targets whose certificate ends soon");
    let _fine = writeln!(out, "meridian_certificates_ending {ending}");
    let Some(end) = view.loaded.certificate_ends() else { return };
    let name = "meridian_own_certificate_end_timestamp_seconds";
    head(out, name, "When the certificate of this node's own listeners ends");
    let _fine = writeln!(out, "{name} {}", end.as_secs());
}

/// The requests of each region whose endpoints tell them.
fn arriving(out: &mut String, view: &View) {
    let name = "meridian_arriving_requests";
    head(out, name, "Requests a second at a service's region, of the endpoints that tell");
    let config = &view.loaded.config;
    for (service, pool) in
        config.services.iter().flat_map(|of| of.pools.iter().map(move |pool| (of, pool)))
    {
        let endpoints = pool.endpoints.iter();
        let told = endpoints.filter_map(|of| view.signals.sight(of).requests);
        let Some(sum) = told.reduce(|sum, of| sum + of) else { continue };
        let region = view.loaded.plan.region_name(pool.region);
        let (service, region) = (escaped(&service.name), escaped(region));
        let _fine = writeln!(out, "{name}{{service=\"{service}\",region=\"{region}\"}} {sum}");
    }
}

fn writers(out: &mut String, view: &View) {
    head(out, "meridian_writer_epoch", "The epoch of a service's writer; 0: no region writes");
    for writer in &view.writers {
        let epoch = writer.writer.as_ref().map_or(0, |(_, epoch)| *epoch);
        let label = escaped(&writer.service);
        let _fine = writeln!(out, "meridian_writer_epoch{{service=\"{label}\"}} {epoch}");
    }
    let name = "meridian_writer_down";
    head(out, name, "1 while all endpoints of a service's writer are down, and are answered");
    for writer in &view.writers {
        let label = escaped(&writer.service);
        let lease = if writer.leased { "etcd" } else { "manual" };
        let is_down = u8::from(writer.is_down);
        let _fine = writeln!(out, "{name}{{service=\"{label}\",lease=\"{lease}\"}} {is_down}");
    }
}

/// What comes before a gauge's values.
fn head(out: &mut String, name: &str, text: &str) {
    let _fine = write!(out, "# HELP {name} {text}\n# TYPE {name} gauge\n");
}

fn escaped(text: &str) -> String {
    text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}
