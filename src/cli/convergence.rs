//! Who may still be sent to a region: told once, or waited for.

use std::cmp::Reverse;
use std::collections::BTreeSet;
use std::io::IsTerminal;
use std::time::{Duration, Instant};

use indicatif::ProgressBar;
use jiff::Timestamp;

use super::ctl::show;
use super::server::Server;
use super::{Failed, bar, print, print_error};
use crate::convergence::{Kind, percent};
use crate::server::http::arriving::{Arriving, Telling};
use crate::server::http::changes::Standing;
use crate::server::http::convergence::{Leaving, Wait};
use crate::server::http::fit::{Fitting, Proposed};

/// What is waited for, and for how long.
pub(super) struct Patience {
    pub(super) subject: String,
    pub(super) residual: Option<f64>,
    pub(super) timeout: Option<Duration>,
}

/// How often the server is asked.
const EVERY: Duration = Duration::from_millis(500);

/// A server that is started anew answers again within this.
const UNHEARD: Duration = Duration::from_secs(60);

/// The exit code when time ran out, and when what is waited for was undone.
const TIMED_OUT: u8 = 3;
const UNDONE: u8 = 4;

/// What is to be said of a region that neither is configured nor has left the answers.
const UNKNOWN: &str =
    "no service has it, and none had it in its answers since this node was started";

/// What the server tells of `subject`, or of all that has left the answers.
pub(super) fn ask(
    server: &Server,
    subject: Option<&str>,
    residual: Option<f64>,
) -> Result<Vec<Leaving>, Failed> {
    let residual = residual.map(|share| share.to_string());
    let subject = subject.map(|subject| ("subject", subject));
    let residual = residual.as_deref().map(|share| ("residual", share));
    let query: Vec<_> = subject.into_iter().chain(residual).collect();
    server.get("/api/v1/convergence", &query)
}

/// Waits until a drained region may be switched off. As JSON, what is known of it at the end is
/// told, whichever that is.
#[expect(clippy::disallowed_methods, reason = "a person waits")]
pub(super) fn wait(server: &Server, json: bool, patience: &Patience) -> Result<(), Failed> {
    let Patience { subject, residual, timeout } = patience;
    let began = Instant::now();
    let (mut bar, mut heard) = (Bar::new(subject), began);
    let ask = || {
        let told = ask(server, Some(subject), *residual)?;
        let said: Vec<Standing> = server.get("/api/v1/overrides", &[])?;
        Ok::<_, Failed>((told, said))
    };
    loop {
        let is_over = timeout.is_some_and(|timeout| began.elapsed() >= timeout);
        let (told, said) = match ask() {
            Err(failed) if failed.is_unheard && heard.elapsed() < UNHEARD && !is_over => {
                bar.tell(&format!("{}; asking again", failed.told));
                std::thread::sleep(EVERY);
                continue;
            }
            answer => {
                heard = Instant::now();
                answer.inspect_err(|_| bar.end())?
            }
        };
        let blocked: Vec<&Leaving> = told.iter().filter(|of| !of.safe).collect();
        let Some(end) = end(subject, (&told, &blocked), &said, is_over) else {
            bar.show(began.elapsed(), &blocked);
            std::thread::sleep(EVERY);
            continue;
        };
        bar.end();
        match &end {
            _ if json => show(json, &told, |_| String::new())?,
            Ok(what) => print(what),
            Err(_) => {}
        }
        return end.map(|_| ());
    }
}

/// How a wait ends, if what is told of `subject` is its end: with what it may be, or what is not.
fn end(
    subject: &str,
    (told, blocked): (&[Leaving], &[&Leaving]),
    said: &[Standing],
    is_over: bool,
) -> Option<Result<String, Failed>> {
    let is_drained = |of: &Standing| of.subject == subject && of.word != "up" && !of.planned;
    if told.is_empty() {
        let what = format!("{subject}: {UNKNOWN}; do not take it for safe");
        Some(Err(Failed::with(UNDONE, what)))
    } else if blocked.is_empty() {
        Some(Ok(format!("{subject}: may be switched off")))
    } else if !said.iter().any(is_drained) {
        let what = format!("{subject}: is drained no longer; do not switch it off");
        Some(Err(Failed::with(UNDONE, what)))
    } else if is_over {
        let waits = blocked.iter().map(|of| leaving_text(of)).collect::<Vec<_>>();
        let what = format!("{subject}: not to be switched off yet\n{}", waits.join("\n"));
        Some(Err(Failed::with(TIMED_OUT, what)))
    } else {
        None
    }
}

/// A bar with the reason that lasts longest on a terminal, a line for each new reason elsewhere.
struct Bar {
    bar: ProgressBar,
    is_seen: bool,
    /// The reasons that stood when it was last asked.
    said: BTreeSet<String>,
    /// It was told that nobody is heard.
    is_unheard: bool,
}

impl Bar {
    fn new(subject: &str) -> Self {
        let bar = bar(1000, "{prefix} [{bar:30}] {percent} %  {wide_msg}");
        bar.set_prefix(subject.to_owned());
        let is_seen = std::io::stderr().is_terminal();
        Self { bar, is_seen, said: BTreeSet::new(), is_unheard: false }
    }

    fn show(&mut self, waited: Duration, blocked: &[&Leaving]) {
        self.is_unheard = false;
        let of_region = |of: &Leaving, wait: &Wait| {
            format!("{}/{}: {}", of.service, of.region, wait_text(wait))
        };
        let mut waits: Vec<_> =
            blocked.iter().flat_map(|of| of.waits.iter().map(|wait| (*of, wait))).collect();
        // First what no time ends: somebody must act.
        waits.sort_by_key(|(_, wait)| Reverse((wait.until.is_none(), wait.until.as_deref())));
        if !self.is_seen {
            // The same with another figure is no news.
            let is_figure = |of: char| of.is_ascii_digit() || matches!(of, '.' | ',');
            let mut said = BTreeSet::new();
            for (of, wait) in waits {
                let why = wait.why.replace(is_figure, "");
                let kind = format!("{}/{}: {why}", of.service, of.region);
                if !self.said.contains(&kind) {
                    print_error(&of_region(of, wait));
                }
                said.insert(kind);
            }
            self.said = said;
            return;
        }
        let Some((of, wait)) = waits.first() else { return };
        let at = of_region(of, wait);
        let left = wait.until.as_deref().and_then(left_until);
        // Of a thousand, in whole milliseconds.
        let waited = waited.as_millis();
        let place = left.map_or(0, |left| 1000 * waited / (waited + left.as_millis()).max(1));
        self.bar.set_position(u64::try_from(place).unwrap_or(0));
        self.bar.set_message(at);
    }

    /// Tells why there is nothing to show, once until there is: a server that is started anew does
    /// first not answer and then not listen.
    fn tell(&mut self, why: &str) {
        if self.is_seen {
            self.bar.set_message(why.to_owned());
        } else if !std::mem::replace(&mut self.is_unheard, true) {
            print_error(why);
            self.said.clear();
        }
    }

    fn end(&self) {
        self.bar.finish_and_clear();
    }
}

/// How long it is until then; nothing, if that is over.
fn left_until(moment: &str) -> Option<Duration> {
    let moment: Timestamp = moment.parse().ok()?;
    Some(Duration::try_from(moment.duration_since(Timestamp::now())).unwrap_or_default())
}

fn wait_text(Wait { why, until }: &Wait) -> String {
    let Some(until) = until else { return why.clone() };
    let left = left_until(until).map(|left| format!(", in {:.0} s", left.as_secs_f64().ceil()));
    format!("{why}, until {}{}", until, left.unwrap_or_default())
}

/// What has left the answers, or is known of `subject`, for people.
pub(super) fn text(subject: Option<&str>, told: &[Leaving]) -> String {
    if told.is_empty() {
        return match subject {
            Some(subject) => format!("{subject}: {UNKNOWN}"),
            None => "no region has left the answers since this node was started".to_owned(),
        };
    }
    told.iter().map(leaving_text).collect::<Vec<_>>().join("\n")
}

fn leaving_text(of: &Leaving) -> String {
    let name = format!("{}/{}", of.service, of.region);
    let verdict = match (of.in_answers, of.safe) {
        (true, _) => "in the answers",
        (_, true) => "may be switched off",
        (_, false) => "NOT TO BE SWITCHED OFF",
    };
    let mut lines = vec![format!("{name}: {verdict}")];
    if let Some(since) = &of.since {
        lines.push(match of.had {
            Some(had) => format!("  left      {since}; it had {} of the clients", percent(had)),
            None => format!("  left      before {since}, when this node began to look"),
        });
    }
    let until = of.answers_until.as_ref().map(|until| format!(", until {until}"));
    lines.push(format!(
        "  answers   {} that name it may be remembered, {} of the service's{}",
        of.answers,
        percent(of.share),
        until.unwrap_or_default(),
    ));
    if !of.in_answers {
        lines.push(format!(
            "  expected  {} of its clients go there still (population {})",
            percent(of.expected),
            of.population
        ));
        let moved = of.moved.iter().map(|moved| {
            let at = moved.at.as_deref().unwrap_or("not within 2 h");
            format!("{} left: {at}", percent(moved.left))
        });
        lines.push(format!("  model     {}", moved.collect::<Vec<_>>().join("; ")));
        lines.extend(arriving_lines(&of.arriving));
    }
    let waits = of.waits.iter().filter(|_| !of.in_answers);
    lines.extend(waits.map(|wait| format!("  WAIT      {}", wait_text(wait))));
    lines.join("\n")
}

/// So many endpoints that do not tell are named.
const NAMED: usize = 4;

/// What still arrives, and who does not tell.
fn arriving_lines(of: &Arriving) -> Vec<String> {
    let Some(rate) = of.rate_text() else {
        return vec!["  arriving  not known: no endpoint tells".to_owned()];
    };
    let silent: Vec<String> = of.endpoints.iter().filter_map(Telling::silence).collect();
    let more = silent.len().saturating_sub(NAMED);
    let mut lines = vec![format!("  arriving  {rate}")];
    lines.extend(silent.iter().take(NAMED).map(|why| format!("            {why}")));
    if more > 0 {
        lines.push(format!("            nor do {more} others"));
    }
    lines
}

/// What resolvers do, and the population that says so.
pub(super) fn fit_text(of: &Fitting) -> String {
    let Some(fit) = &of.fit else {
        return format!("no resolver has asked again for what it was told since {}", of.since);
    };
    let mut lines = vec![
        format!("# Of {} questions of resolvers that came back since {}.", fit.resolvers, of.since),
        format!(
            "# {} came back sooner than a cache does: several behind an address, or shorter times.",
            percent(fit.sooner)
        ),
        "# The others, with the shares between which each is with a probability of 90 %:"
            .to_owned(),
    ];
    lines.extend(fit.kinds.iter().map(|kind| format!("#   {}", kind_text(kind))));
    lines.push(
        "# Of what is behind them, clients and connections, resolvers tell nothing: that is".into(),
    );
    lines.push("# as configured.".into());
    lines.push("convergence:\n  population:".to_owned());
    lines.extend(of.population.iter().map(class_text));
    lines.join("\n")
}

fn kind_text(kind: &Kind) -> String {
    let [low, high] = kind.between;
    let [share, low, high] = [kind.share, low, high].map(percent);
    format!("{share:>7}  ({low} to {high})  {kind}")
}

fn class_text(Proposed { name, share, settings }: &Proposed) -> String {
    let settings = settings.iter().map(|(key, value)| format!(", {key}: {value}"));
    let settings: String = settings.collect();
    format!("    {name}: {{ share: {:.2}%{settings} }}", share * 100.0)
}
