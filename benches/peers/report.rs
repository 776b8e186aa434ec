//! The figures: as a table for people, as JSON, and as a plot.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use serde_json::{Value, json};

use crate::load::{Seen, Workload, median};
use crate::servers::{Kind, Server, Setup, Spent};

/// One server under one workload.
pub(crate) struct Trial {
    pub(crate) kind: Kind,
    /// From its start to its first answer, in milliseconds.
    start: f64,
    /// Rounds at the most that it answers.
    pub(crate) full: Vec<Round>,
    /// Rounds at half of that, open loop.
    pub(crate) half: Vec<Round>,
    /// In KiB.
    pub(crate) memory: u64,
}

/// One server for some seconds.
pub(crate) struct Round {
    /// Answers a second.
    rate: f64,
    /// Time on a core for each answer, in microseconds.
    cpu: f64,
    /// The part of it that is not the kernel's, in microseconds: by ticks, so over many rounds.
    user: f64,
    /// The share of queries without an answer.
    loss: f64,
    /// How long half of the answers took at most, and 99 % of them, in microseconds.
    latency: [f64; 2],
    /// Answers that are NOERROR, NXDOMAIN and something else.
    rcodes: [u64; 3],
}

impl Round {
    pub(crate) fn new(seen: Seen, before: Spent, after: Spent) -> Self {
        let answers = seen.answers() as f64;
        let [user, system] = [after.user - before.user, after.system - before.system];
        let cpu = (after.nanoseconds - before.nanoseconds) as f64 / answers / 1000.0;
        let quantile = |share: f64| {
            let row = (seen.latencies.len() as f64 * share) as usize;
            f64::from(seen.latencies.get(row).copied().unwrap_or(0)) / 1000.0
        };
        let [no_error, nx_domain] = [seen.rcodes[0], seen.rcodes[3]];
        Self {
            rate: answers / seen.seconds,
            cpu,
            user: cpu * user as f64 / (user + system).max(1) as f64,
            loss: seen.lost as f64 / seen.sent as f64,
            latency: [quantile(0.5), quantile(0.99)],
            rcodes: [no_error, nx_domain, seen.answers() - no_error - nx_domain],
        }
    }
}

impl Trial {
    pub(crate) fn new(server: &Server) -> Self {
        let start = server.start.as_secs_f64() * 1000.0;
        Self { kind: server.kind, start, full: Vec::new(), half: Vec::new(), memory: 0 }
    }

    /// Answers a second, at the most.
    pub(crate) fn throughput(&self) -> f64 {
        median(self.full.iter().map(|round| round.rate))
    }
}

/// All servers under one workload; the yardstick is the first.
pub(crate) struct Table {
    pub(crate) workload: Workload,
    /// How many answers of a sample were the same from all, and of how many.
    pub(crate) agree: [usize; 2],
    pub(crate) trials: Vec<Trial>,
}

/// A row of the table.
struct Row {
    name: &'static str,
    rate: f64,
    /// To the yardstick's, round by round: the median, the least and the greatest.
    rate_ratio: [f64; 3],
    cpu: f64,
    cpu_ratio: [f64; 3],
    user: f64,
    loss: f64,
    latency: [f64; 2],
    memory: f64,
    start: f64,
}

impl Table {
    fn rows(&self) -> impl Iterator<Item = Row> {
        let yardstick = &self.trials[0].full;
        self.trials.iter().map(move |trial| {
            let ratio = |of: fn(&Round) -> f64| {
                let pairs = trial.full.iter().zip(yardstick);
                let ratios: Vec<f64> = pairs.map(|(ours, theirs)| of(ours) / of(theirs)).collect();
                let least = ratios.iter().copied().fold(f64::INFINITY, f64::min);
                [median(ratios.iter().copied()), least, ratios.iter().copied().fold(0.0, f64::max)]
            };
            let full = |of: fn(&Round) -> f64| median(trial.full.iter().map(of));
            let half = |of: fn(&Round) -> f64| median(trial.half.iter().map(of));
            let mean = |of: fn(&Round) -> f64| {
                trial.full.iter().map(of).sum::<f64>() / trial.full.len() as f64
            };
            Row {
                name: trial.kind.name(),
                rate: trial.throughput(),
                rate_ratio: ratio(|round| round.rate),
                cpu: full(|round| round.cpu),
                cpu_ratio: ratio(|round| round.cpu),
                user: mean(|round| round.user),
                loss: half(|round| round.loss),
                latency: [half(|round| round.latency[0]), half(|round| round.latency[1])],
                memory: trial.memory as f64 / 1024.0,
                start: trial.start,
            }
        })
    }

    /// For people.
    pub(crate) fn text(&self) -> String {
        let [alike, of] = self.agree;
        let mut text = format!(
            "### {}\n\nThe same answers from all: {alike} of {of}.\n\n\
             | server | answers/s | ÷ echo | CPU an answer | ÷ echo | of it not the kernel's \
             | lost at half load | p50, p99 at half load | memory | first answer |\n\
             |---|---|---|---|---|---|---|---|---|---|\n",
            self.workload.title()
        );
        for row in self.rows() {
            let ratio =
                |[median, least, most]: [f64; 3]| format!("{median:.3} [{least:.2}–{most:.2}]");
            writeln!(
                text,
                "| {} | {:.0} k | {} | {:.2} µs | {} | {:.2} µs | {:.3} % | {:.0}, {:.0} µs \
                 | {:.0} MiB | {:.0} ms |",
                row.name,
                row.rate / 1000.0,
                ratio(row.rate_ratio),
                row.cpu,
                ratio(row.cpu_ratio),
                row.user,
                row.loss * 100.0,
                row.latency[0],
                row.latency[1],
                row.memory,
                row.start,
            )
            .unwrap();
        }
        text
    }

    fn json(&self) -> Value {
        let row = |row: Row| {
            json!({
                "server": row.name, "answers_per_second": row.rate,
                "throughput_to_echo": row.rate_ratio, "cpu_microseconds": row.cpu,
                "cpu_to_echo": row.cpu_ratio, "user_microseconds": row.user,
                "lost_at_half_load": row.loss, "latency_at_half_load_microseconds": row.latency,
                "memory_mebibytes": row.memory, "start_milliseconds": row.start,
            })
        };
        let rows: Vec<Value> = self.rows().map(row).collect();
        json!({ "workload": self.workload.title(), "agree": self.agree, "servers": rows })
    }

    /// What has to be, however small the run: all answer, all alike, and as the workload has it.
    pub(crate) fn check(&self) {
        let title = self.workload.title();
        assert_eq!(self.agree[0], self.agree[1], "{title}: the servers disagree");
        for trial in self.trials.iter().filter(|trial| trial.kind != Kind::Echo) {
            for round in trial.full.iter().chain(&trial.half) {
                let [no_error, nx_domain, other] = round.rcodes.map(|count| count as f64);
                let share = nx_domain / (no_error + nx_domain);
                let expected = if let Workload::Static(_) = self.workload { 0.2 } else { 0.0 };
                let name = trial.kind.name();
                assert!(no_error > 0.0 && other < 1.0, "{title}, {name}: {:?}", round.rcodes);
                assert!((share - expected).abs() < 0.05, "{title}, {name}: {share} NXDOMAIN");
            }
        }
    }

    /// The bars of CPU to the echo's, from `top` down.
    fn bars(&self, top: usize) -> String {
        let mut svg = format!(
            "<text x=\"10\" y=\"{}\" class=\"title\">{}</text>\n",
            top + 16,
            self.workload.title()
        );
        for (line, row) in self.rows().enumerate() {
            let (y, [ratio, ..]) = (top + 24 + line * BAR, row.cpu_ratio);
            let class =
                if row.name == Kind::Meridian(Setup::One).name() { "ours" } else { "theirs" };
            let (width, cut) = ((ratio * UNIT).min(WIDEST), ratio * UNIT > WIDEST);
            let more = if cut { " →" } else { "" };
            writeln!(
                svg,
                "<text x=\"{}\" y=\"{}\" text-anchor=\"end\">{}</text>\n\
                 <rect x=\"{LEFT}\" y=\"{y}\" width=\"{width:.0}\" height=\"14\" \
                 class=\"{class}\"/>\n\
                 <text x=\"{:.0}\" y=\"{}\">{ratio:.2}{more}  ({:.2} µs, {:.0} k/s)</text>",
                LEFT - 8,
                y + 12,
                row.name,
                LEFT as f64 + width + 6.0,
                y + 12,
                row.cpu,
                row.rate / 1000.0,
            )
            .unwrap();
        }
        svg
    }
}

/// Where the bars begin, how long one of 1 is, and how long one can be.
const LEFT: usize = 160;
const UNIT: f64 = 150.0;
const WIDEST: f64 = 420.0;

/// From one bar to the next.
const BAR: usize = 20;

/// Writes the tables, the figures and the plot.
pub(crate) fn write(tables: &[Table], into: &Path) {
    fs::create_dir_all(into).unwrap();
    let texts: Vec<String> = tables.iter().map(Table::text).collect();
    fs::write(into.join("compare.md"), texts.join("\n")).unwrap();
    let all: Vec<Value> = tables.iter().map(Table::json).collect();
    let json = serde_json::to_string_pretty(&json!({ "machine": machine(), "workloads": all }));
    fs::write(into.join("compare.json"), json.unwrap() + "\n").unwrap();
    let (mut bars, mut top) = (String::new(), 30);
    for table in tables {
        bars += &table.bars(top);
        top += 40 + table.trials.len() * BAR;
    }
    let style = "text { font: 12px sans-serif; fill: #222 } .title { font-weight: bold }\n\
                 .ours { fill: #0a7d5a } .theirs { fill: #9aa5b1 }";
    let svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"760\" height=\"{top}\">\n\
         <style>{style}</style>\n<rect width=\"100%\" height=\"100%\" fill=\"#fff\"/>\n\
         <text x=\"10\" y=\"18\">CPU an answer, to that of an echo that does nothing: \
         shorter is better. {}</text>\n{bars}</svg>\n",
        machine()
    );
    fs::write(into.join("compare.svg"), svg).unwrap();
}

/// The machine, as it says itself.
fn machine() -> String {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let cpu = read("/proc/cpuinfo");
    let model = cpu.lines().find_map(|line| line.strip_prefix("model name")).unwrap_or("");
    let kernel = read("/proc/sys/kernel/osrelease");
    let model = model.trim_start_matches([' ', '\t', ':']);
    format!("{model}, Linux {}", kernel.trim().split('-').next().unwrap_or(""))
}
