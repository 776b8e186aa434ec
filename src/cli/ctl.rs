//! `meridian ctl`: an operator's way to a running server.

use std::net::IpAddr;
use std::time::Duration;

use clap::{Args, Subcommand};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::convergence::{self, Patience};
use super::server::{Server, Whom};
use super::{Failed, print};
use crate::config::{self, RAMP, duration};
use crate::convergence::{percent, percent_said};
use crate::server::http::api::NodeStatus;
use crate::server::http::changes::{
    Clearing, Effect, Happened, LONGEST_SPAN, Push, Saying, Standing, Steps,
};
use crate::server::http::fit::Fitting;
use crate::server::http::writers::{Handover, Writing};

/// What is asked of a running server.
#[derive(Args)]
pub(super) struct Ctl {
    #[command(flatten)]
    server: Whom,
    /// Print JSON: an object or a list, or with `drain --wait` one when it is drained and one at
    /// the end.
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Tell what is up, what operators have said, and what is wrong.
    Status,
    /// Send no new clients there, unless nothing else is up.
    ///
    /// Exit codes with --wait: 0 it may be switched off; 3 time ran out, and it may not yet; 4 the
    /// drain was undone meanwhile, or nobody knows of the region; 1 and 2 as ever.
    Drain {
        #[command(flatten)]
        word: Word,
        /// Wait until it may be switched off: nobody is sent there any more.
        #[arg(long, conflicts_with = "dry_run")]
        wait: bool,
        /// Wait for so long at most.
        #[arg(long, value_name = "TIME", value_parser = span, requires = "wait")]
        timeout: Option<Duration>,
        /// So many of its clients may still be expected there (default: the server's).
        #[arg(long, value_name = "SHARE", value_parser = share, requires = "wait")]
        residual: Option<f64>,
    },
    /// Tell who may still be sent to what has left the answers.
    #[command(args_conflicts_with_subcommands = true)]
    Convergence {
        #[command(subcommand)]
        of: Option<OfConvergence>,
        /// Only this, even if it is in the answers: REGION or SERVICE/REGION.
        subject: Option<String>,
        /// So many of its clients may still be expected there (default: the server's).
        #[arg(long, value_name = "SHARE", value_parser = share)]
        residual: Option<f64>,
    },
    /// Take it for up, whatever the probes say.
    Up(Word),
    /// Take it for down, whatever the probes say.
    Down(Word),
    /// Take back what was said.
    Clear {
        /// What it was about: REGION, SERVICE/REGION or an address.
        subject: String,
        /// Why.
        #[arg(long, default_value = "")]
        reason: String,
        /// Who says so.
        #[arg(long, env = "USER", default_value = "unknown")]
        owner: String,
    },
    /// Let a service's region back that is well again and waits for that (`failback: manual`).
    /// Affects only the node you ask: run it on every node.
    Failback {
        /// SERVICE/REGION.
        subject: String,
        /// Why.
        #[arg(long, default_value = "")]
        reason: String,
        /// Who says so.
        #[arg(long, env = "USER", default_value = "unknown")]
        owner: String,
    },
    /// Tell what operators have said.
    Overrides,
    /// Say that an address is up or down, as far as a `pushed` check goes.
    Push {
        /// The check.
        check: String,
        /// The address.
        address: IpAddr,
        /// What it is.
        #[arg(value_parser = ["up", "down"])]
        state: String,
        /// For how long that is to be believed, such as 90s.
        #[arg(long = "for", value_name = "TIME", value_parser = span)]
        span: Duration,
        /// How many requests of clients arrive there, a second.
        #[arg(long, value_name = "RATE")]
        requests: Option<f64>,
        /// The writer's epoch that it has acknowledged.
        #[arg(long)]
        epoch: Option<u64>,
    },
    /// Tell who decides together, and who answers differently.
    Nodes,
    /// Tell which regions write, where one at a time may.
    Writers,
    /// Let another region write (`steer: single-writer`).
    Writer {
        /// The service.
        service: String,
        /// The region.
        region: String,
        /// The old writer is known to write no more: do not wait for it.
        #[arg(long)]
        fenced: bool,
        /// Why: whoever is paged next wants to know.
        #[arg(long, value_parser = said)]
        reason: String,
        /// Who says so.
        #[arg(long, env = "USER", default_value = "unknown", value_parser = said)]
        owner: String,
    },
    /// Tell what happened, the newest last; with --json the newest first, as the API does.
    History {
        /// At most so many.
        #[arg(long, default_value_t = 30)]
        limit: usize,
        /// Only this kind: state, override, reload or node.
        #[arg(long)]
        kind: Option<String>,
    },
}

/// What else is told of convergence.
#[derive(clap::Subcommand)]
enum OfConvergence {
    /// What resolvers do with answers, by when they came back, as a population to configure.
    Fit,
}

/// What an operator says.
#[derive(Args)]
struct Word {
    /// What it is about: REGION, SERVICE/REGION or an address.
    subject: String,
    /// Why: whoever is paged next wants to know.
    #[arg(long, value_parser = said)]
    reason: String,
    /// Who says so.
    #[arg(long, env = "USER", default_value = "unknown", value_parser = said)]
    owner: String,
    /// For how long, such as 90s, 30m or 2h.
    #[arg(long = "for", value_name = "TIME", value_parser = span, conflicts_with = "until")]
    span: Option<Duration>,
    /// Until when, such as 2030-01-31T12:00:00Z.
    #[arg(long, value_name = "TIME", value_parser = moment)]
    until: Option<String>,
    /// A share of the clients at a time, such as 10%/30s; the same clients on every node.
    #[arg(long, value_name = "SHARE/TIME", value_parser = steps)]
    ramp: Option<Steps>,
    /// Also if that leaves services with nothing that is up.
    #[arg(long)]
    force: bool,
    /// Only tell what it would do.
    #[arg(long)]
    dry_run: bool,
}

fn span(text: &str) -> Result<Duration, String> {
    let days = LONGEST_SPAN.as_secs() / 86_400;
    let span = duration(text).filter(|span| *span <= LONGEST_SPAN);
    span.ok_or_else(|| format!("expected a time such as 90s, 30m or 2h, of {days}d at most"))
}

/// A time that is to come, as it is written.
fn moment(text: &str) -> Result<String, String> {
    let read: Result<Timestamp, _> = text.parse();
    match read {
        Err(_) => Err("expected a time such as 2030-01-31T12:00:00Z".to_owned()),
        Ok(moment) if moment <= Timestamp::now() => Err("it would be over already".to_owned()),
        Ok(_) => Ok(text.to_owned()),
    }
}

/// A text that says something.
fn said(text: &str) -> Result<String, String> {
    let is_said = !text.trim().is_empty();
    is_said.then(|| text.to_owned()).ok_or_else(|| "expected a text that says something".to_owned())
}

/// A span as the server takes it, in whole seconds; a part of one counts as one.
fn seconds(span: Duration) -> u64 {
    span.as_secs() + u64::from(span.subsec_nanos() > 0)
}

fn share(text: &str) -> Result<f64, String> {
    config::share(text).ok_or_else(|| "expected a share such as 1%".to_owned())
}

fn steps(text: &str) -> Result<Steps, String> {
    let ramp = config::steps(text).ok_or_else(|| format!("expected {RAMP}"))?;
    Ok(Steps { percent: ramp.percent, every_seconds: ramp.every.as_secs() })
}

/// Asks, and prints what is told.
pub(super) fn run(ctl: Ctl) -> Result<(), Failed> {
    let server = Server::of(ctl.server)?;
    let json = ctl.json;
    match ctl.command {
        Command::Status => {
            let status: Value = server.get("/api/v1/status", &[])?;
            show(json, &status, status_text)
        }
        Command::Drain { word, wait, timeout, residual } => {
            let subject = word.subject.clone();
            if wait {
                // What cannot be waited for is not drained either.
                convergence::ask(&server, Some(&subject), residual)?;
            }
            say(&server, json, "drain", word)?;
            if !wait {
                return Ok(());
            }
            convergence::wait(&server, json, &Patience { subject, residual, timeout })
        }
        Command::Convergence { of: None, subject, residual } => {
            let told = convergence::ask(&server, subject.as_deref(), residual)?;
            show(json, &told, |told| convergence::text(subject.as_deref(), told))
        }
        Command::Convergence { of: Some(OfConvergence::Fit), .. } => {
            let fitting: Fitting = server.get("/api/v1/convergence/fit", &[])?;
            show(json, &fitting, convergence::fit_text)
        }
        Command::Up(word) => say(&server, json, "up", word),
        Command::Down(word) => say(&server, json, "down", word),
        Command::Clear { subject, reason, owner } => {
            let told = format!("{subject}: cleared");
            let clearing = Clearing { subject, reason, owner };
            server.send("DELETE", "/api/v1/overrides", &clearing)?;
            done(json, &told)
        }
        Command::Failback { subject, reason, owner } => {
            let_back(&server, json, &Clearing { subject, reason, owner })
        }
        Command::Writers => {
            let writers: Vec<Writing> = server.get("/api/v1/writers", &[])?;
            show(json, &writers, |writers| writers_text(writers))
        }
        Command::Writer { service, region, fenced, reason, owner } => {
            let told = format!("{service}: {region} is to write");
            let handover = Handover { service, region, fenced, reason, owner };
            server.send("PUT", "/api/v1/writers", &handover)?;
            done(json, &told)
        }
        Command::Overrides => {
            let said: Vec<Standing> = server.get("/api/v1/overrides", &[])?;
            show(json, &said, |said| overrides_text(said))
        }
        Command::Push { check, address, state, span, requests, epoch } => {
            let (up, for_seconds) = (state == "up", seconds(span));
            let told = format!("{address}: {state}, as far as {check} goes");
            let push = Push { check, address, up, for_seconds, requests, epoch };
            server.send("PUT", "/api/v1/pushed", &push)?;
            done(json, &told)
        }
        Command::Nodes => {
            let nodes: Vec<NodeStatus> = server.get("/api/v1/nodes", &[])?;
            show(json, &nodes, |nodes| nodes_text(nodes))
        }
        Command::History { limit, kind } => {
            let limit = limit.to_string();
            let kind = kind.as_deref().map(|kind| ("kind", kind));
            let query: Vec<_> = [("limit", limit.as_str())].into_iter().chain(kind).collect();
            let happened: Vec<Happened> = server.get("/api/v1/history", &query)?;
            show(json, &happened, |happened| history_text(happened))
        }
    }
}

/// Tells what was done.
fn done(json: bool, told: &str) -> Result<(), Failed> {
    show(json, &json!({ "done": true, "told": told }), |_| told.to_owned())
}

/// Each node knows for itself what was out: one lets back what it is told, and tells no other.
fn let_back(server: &Server, json: bool, clearing: &Clearing) -> Result<(), Failed> {
    server.send("POST", "/api/v1/failback", clearing)?;
    let nodes: Vec<NodeStatus> = server.get("/api/v1/nodes", &[])?;
    let others = nodes.iter().filter(|node| !node.own).map(|node| node.name.as_str());
    let others = others.collect::<Vec<_>>().join(", ");
    let told = format!("{}: let back", clearing.subject);
    let told = match others.as_str() {
        "" => told,
        others => format!("{told} at this node only; say it to {others} too"),
    };
    done(json, &told)
}

fn say(server: &Server, json: bool, what: &str, word: Word) -> Result<(), Failed> {
    let saying = Saying {
        subject: word.subject,
        word: what.to_owned(),
        reason: word.reason,
        owner: word.owner,
        until: word.until,
        for_seconds: word.span.map(seconds),
        ramp: word.ramp,
        force: word.force,
        dry_run: word.dry_run,
    };
    let answer = server.send("PUT", "/api/v1/overrides", &saying)?;
    let effect: Effect = answer.json()?;
    show(json, &effect, |effect| effect_text(&saying, effect))
}

/// Prints what is told, for programs or for people.
pub(super) fn show<T: Serialize + ?Sized>(
    json: bool,
    value: &T,
    text: impl Fn(&T) -> String,
) -> Result<(), Failed> {
    let shown = if json { serde_json::to_string_pretty(value)? } else { text(value) };
    print(&shown);
    Ok(())
}

/// What a word does, for people.
fn effect_text(saying: &Saying, effect: &Effect) -> String {
    let Saying { subject, word, .. } = saying;
    let tense = if effect.done { "" } else { " (dry run: nothing has changed)" };
    let mut lines = vec![format!("{subject}: {word}{tense}")];
    if let Some(Steps { percent, every_seconds }) = saying.ramp {
        let steps = format!("{percent} % of the clients every {every_seconds} s");
        lines.push(format!("  ramp      {steps}; what follows is its end"));
    }
    for service in &effect.left_with_nothing {
        lines
            .push(format!("  DANGER    {service} is left with nothing that is up and not drained"));
    }
    lines.push("  Clients, of those that asked lately, or of all addresses:".to_owned());
    for moved in &effect.shares {
        let region = moved.region.as_deref().unwrap_or("no region");
        let (before, after) = (percent(moved.before), percent(moved.after));
        let sign = if before == after { "" } else { "  ←" };
        let what = format!("{} {}", moved.service, moved.rtype);
        let by = match moved.observed {
            0 => "addresses".to_owned(),
            count => format!("{count} asked"),
        };
        let moved = format!("{before:>8} → {after:>8}");
        lines.push(format!("    {what:<20} {region:<16} {moved}  {by}{sign}"));
    }
    if effect.regions.iter().any(|load| load.capacity.is_some()) {
        lines.push("  Regions, over all services, beside their share of capacity:".into());
        for load in &effect.regions {
            let (before, after) = (percent(load.before), percent(load.after));
            let capacity = load.capacity.map(percent).unwrap_or_default();
            let over = load.capacity.is_some_and(|capacity| load.after > capacity);
            let sign = if over { "  ← more than its share" } else { "" };
            let region = &load.region;
            let shown = format!("{before:>8} → {after:>8}  of {capacity:>8}{sign}");
            lines.push(format!("    {region:<16} {shown}"));
        }
    }
    lines.join("\n")
}

fn overrides_text(said: &[Standing]) -> String {
    if said.is_empty() {
        return "nothing is overridden".to_owned();
    }
    said.iter().map(override_text).collect::<Vec<_>>().join("\n")
}

fn override_text(said: &Standing) -> String {
    let until = said.until.as_ref().map_or("until cleared".to_owned(), |of| format!("until {of}"));
    let ramp = said.ramp.map_or(String::new(), |Steps { percent, every_seconds }| {
        let so_far =
            said.reached_percent.filter(|_| !said.planned).map(|of| format!(" ({of} % so far)"));
        format!(", {percent} %/{every_seconds} s{}", so_far.unwrap_or_default())
    });
    let Standing { subject, word, reason, owner, since, .. } = said;
    let from = if said.planned { "from" } else { "since" };
    format!("{subject}: {word}{ramp} {from} {since} {until}, by {owner}: {reason}")
}

fn writers_text(writers: &[Writing]) -> String {
    if writers.is_empty() {
        return "no service is `steer: single-writer`".to_owned();
    }
    let line = |of: &Writing| {
        let Writing { service, lease, .. } = of;
        let writes = match (&of.region, of.epoch) {
            (Some(region), Some(epoch)) => {
                format!("{region} writes, epoch {epoch}{}", if of.down { ", IS DOWN" } else { "" })
            }
            _ => "NO REGION WRITES".to_owned(),
        };
        let wanted = of.wanted.as_ref().filter(|wanted| of.region.as_ref() != Some(wanted));
        let wanted = wanted.map(|wanted| format!(", {wanted} is wanted"));
        let from = of.next_from.as_ref().map(|from| format!(", the next one from {from} on"));
        let problem = of.problem.as_ref().map(|problem| format!(": {problem}"));
        let more = [wanted, from, problem].into_iter().flatten().collect::<String>();
        format!("{service} (lease: {lease}): {writes}{more}")
    };
    writers.iter().map(line).collect::<Vec<_>>().join("\n")
}

fn nodes_text(nodes: &[NodeStatus]) -> String {
    if nodes.is_empty() {
        return "this node decides alone".to_owned();
    }
    let mut lines = Vec::new();
    let own = nodes.iter().find(|node| node.own).and_then(|node| node.config.clone());
    for node in nodes {
        let mut says = vec![match (node.own, node.heard) {
            (true, _) => "this node".to_owned(),
            (_, true) => "heard".to_owned(),
            (_, false) => "NOT HEARD".to_owned(),
        }];
        says.extend(node.unopened.then(|| "ITS PACKETS OUR KEY DOES NOT OPEN".to_owned()));
        says.extend(node.version.as_ref().map(|version| format!("version {version}")));
        says.extend(node.generation.map(|generation| format!("generation {generation}")));
        says.extend(node.abstains.then(|| "ABSTAINS".to_owned()));
        says.extend(node.isolated.then(|| "ISOLATED".to_owned()));
        match node.list.as_str() {
            "another" => says.push("ANOTHER LIST OF NODES".to_owned()),
            "not agreed" if node.own => says.push("ITS LIST OF NODES IS NOT AGREED".to_owned()),
            _ => {}
        }
        if node.config.is_some() && node.config != own {
            says.push("ANOTHER CONFIGURATION".to_owned());
        }
        lines.push(format!("{}: {}", node.name, says.join(", ")));
        for of in &node.differs {
            let (service, names, since) = (&of.service, of.names.join(", "), &of.since);
            let (share, lookups) = (percent(of.share), percent(of.lookups));
            lines.push(format!(
                "  answers {service} ({names}) differently since {since}, for {share} of the \
                 clients who ask it, or {lookups} of all lookups"
            ));
            if !of.single_writer {
                let span = of.two_writers.map(|of| format!("{of:.0} s"));
                let (span, rest) = (span.as_deref().unwrap_or("more than 2 h"), of.residual);
                lines.push(format!(
                    "    two regions can be written to for {span}, if it ends now: until all but \
                     {} have moved",
                    percent_said(rest)
                ));
            }
            if let Some((conflicts, lost)) = of.conflicts.zip(of.lost) {
                lines.push(format!(
                    "    at its declared writes {conflicts:.0} have met another so far; if the \
                     last one wins, {lost:.0} are lost"
                ));
            }
        }
    }
    lines.join("\n")
}

fn history_text(happened: &[Happened]) -> String {
    let line = |of: &Happened| {
        let Happened { at, kind, subject, what, why, who, .. } = of;
        let took = of.took_ms.map(|ms| format!("{ms:.0} ms after its first sign"));
        let who = Some(format!("by {who}")).filter(|_| !who.is_empty());
        let why = Some(why.clone()).filter(|why| !why.is_empty());
        let more: Vec<String> = why.into_iter().chain(took).chain(who).collect();
        let more = if more.is_empty() { String::new() } else { format!(" ({})", more.join(", ")) };
        format!("{at}  {kind:<8}  {subject}: {what}{more}")
    };
    happened.iter().rev().map(line).collect::<Vec<_>>().join("\n")
}

/// The status in the words that a tired person looks for.
fn status_text(status: &Value) -> String {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
    let mut lines = vec![format!(
        "{} {}, generation {}, since {}",
        text(&status["node"]),
        text(&status["version"]),
        status["generation"],
        text(&status["started"]),
    )];
    for problem in list(&status["config"]["refused"]) {
        lines.push(format!("  REFUSED   {}", text(&problem)));
    }
    for warning in list(&status["config"]["warnings"]) {
        lines.push(format!("  WARNING   {}", text(&warning)));
    }
    for alarm in list(&status["alarms"]) {
        lines.push(format!("  ALARM     {}", text(&alarm)));
    }
    let said: Vec<Standing> = Deserialize::deserialize(&status["overrides"]).unwrap_or_default();
    lines.extend(said.iter().map(|said| format!("  override  {}", override_text(said))));
    for writer in list(&status["writers"]) {
        let (service, region) = (text(&writer["service"]), text(&writer["region"]));
        let writes = match region.as_str() {
            "" => "no region writes (`ctl writers`)".to_owned(),
            region => format!("{region}, epoch {}", writer["epoch"]),
        };
        lines.push(format!("  writer    {service}: {writes}"));
    }
    for of in list(&status["leaving"]) {
        let (service, region) = (text(&of["service"]), text(&of["region"]));
        let safe = of["safe"].as_bool() == Some(true);
        let may = if safe { "may be switched off" } else { "NOT TO BE SWITCHED OFF yet" };
        lines.push(format!("  left      {service}/{region}: {may} (`ctl convergence`)"));
    }
    for service in list(&status["services"]) {
        lines.push(format!("  {} ({})", text(&service["name"]), text(&service["policy"])));
        for endpoint in list(&service["endpoints"]) {
            lines.push(endpoint_text(&endpoint, &status["now"]));
        }
    }
    lines.join("\n")
}

/// An endpoint at this time, and what is to be known of it besides what the probes say.
fn endpoint_text(endpoint: &Value, now: &Value) -> String {
    let text = |key: &str| endpoint[key].as_str().unwrap_or_default();
    let said =
        endpoint["override"].as_str().map(|word| format!("{word} by {}", text("override_by")));
    // Both are written alike, so that the later one comes after the other.
    let held = endpoint["held_until"].as_str().filter(|until| now.as_str() < Some(until));
    let held = held.map(|until| format!("held down until {until}, as it failed again soon"));
    let seen = endpoint["seen"].as_array().into_iter().flatten().filter_map(Value::as_str);
    let seen = Some(seen.collect::<Vec<_>>().join(", ")).filter(|seen| !seen.is_empty());
    let hold = endpoint["hold"].as_str().map(str::to_owned);
    let is = |key: &'static str| endpoint[key].as_bool().filter(|is| *is).map(|_| key.to_owned());
    let known = [is("suspected"), is("stale"), said, hold, seen, held];
    let known: String = known.into_iter().flatten().map(|known| format!(" [{known}]")).collect();
    format!(
        "    {:<16} {:<24} {:<8} {}{known}",
        text("region"),
        text("address"),
        text("state"),
        text("last"),
    )
}
