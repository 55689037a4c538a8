//! The figures of all contenders: medians, spread, table, JSON, CSV.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::time::{SystemTime, UNIX_EPOCH};

use serde::Serialize;
use serde_json::Value;

use crate::measure::CONTENDERS;

#[derive(Debug, Clone, Copy, Serialize)]
pub struct Spread {
    pub median: f64,
    pub min: f64,
    pub max: f64,
}

#[derive(Default, Serialize)]
pub struct Results {
    pub machine: String,
    pub date: String,
    pub size: usize,
    pub rounds: u64,
    pub seconds: f64,
    #[serde(skip)]
    rounds_of: BTreeMap<String, BTreeMap<String, Vec<f64>>>,
    /// Measure → contender → figure.
    pub table: BTreeMap<String, BTreeMap<String, Spread>>,
    /// Contender → (entries, touches/s within the bucket, across).
    pub curve: BTreeMap<String, Vec<(usize, f64, f64)>>,
    pub timeline: BTreeMap<String, Value>,
    pub disk: BTreeMap<String, Value>,
    /// Of Cloakroom and its older self.
    pub large: BTreeMap<String, Value>,
}

fn machine() -> String {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let cpu = read("/proc/cpuinfo");
    let model = cpu.lines().find_map(|line| line.strip_prefix("model name")).unwrap_or("");
    let memory = read("/proc/meminfo");
    let kib: u64 = memory.split_whitespace().nth(1).and_then(|kib| kib.parse().ok()).unwrap_or(0);
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    format!(
        "{cores} cores, {}, {} GiB, Linux {}",
        model.trim_start_matches(['\t', ' ', ':']),
        (kib + (1 << 19)) >> 20,
        read("/proc/sys/kernel/osrelease").trim()
    )
}

impl Results {
    pub fn new(size: usize, rounds: u64, seconds: f64) -> Self {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_micros();
        let date = crate::support::people::text_of_time(i64::try_from(now).unwrap())[..10].to_owned();
        Self { machine: machine(), date, size, rounds, seconds, ..Self::default() }
    }

    pub fn add_table(&mut self, contender: &str, figures: &Value) {
        for (measure, figure) in figures.as_object().unwrap() {
            let rounds = self.rounds_of.entry(measure.clone()).or_default().entry(contender.into()).or_default();
            rounds.push(figure.as_f64().unwrap());
            let mut sorted = rounds.clone();
            sorted.sort_unstable_by(f64::total_cmp);
            let middle = sorted.len() / 2;
            let median =
                if sorted.len() % 2 == 1 { sorted[middle] } else { (sorted[middle - 1] + sorted[middle]) / 2.0 };
            let spread = Spread { median, min: sorted[0], max: sorted[sorted.len() - 1] };
            self.table.entry(measure.clone()).or_default().insert(contender.into(), spread);
        }
    }

    pub fn add_curve(&mut self, contender: &str, size: usize, figures: &Value) {
        let rate = |name: &str| figures[name].as_f64().unwrap();
        let point = (size, rate("touch_uniform_stay_per_s"), rate("touch_uniform_cross_per_s"));
        self.curve.entry(contender.into()).or_default().push(point);
    }

    pub fn add_timeline(&mut self, contender: &str, figures: &Value) {
        self.timeline.insert(contender.into(), figures.clone());
    }

    pub fn add_disk(&mut self, contender: &str, figures: &Value) {
        self.disk.insert(contender.into(), figures["rows"].clone());
    }

    /// Medians, a row a measure, with the spread of Cloakroom and its ratio to each other contender's.
    pub fn table(&self) -> String {
        let present: Vec<&str> =
            CONTENDERS.iter().copied().filter(|name| self.table.values().any(|row| row.contains_key(*name))).collect();
        let mut text = format!(
            "{}; {}; {} entries; medians of {} rounds of {} s; (ratio of cloakroom's figure to this one's)\n\n",
            self.machine, self.date, self.size, self.rounds, self.seconds
        );
        writeln!(text, "| measure | {} |", present.join(" | ")).unwrap();
        writeln!(text, "| --- |{}", " ---: |".repeat(present.len())).unwrap();
        for (measure, row) in &self.table {
            write!(text, "| `{measure}` |").unwrap();
            let ours = row.get("cloakroom");
            for name in &present {
                match (row.get(*name), ours) {
                    (None, _) => text += " – |",
                    (Some(figure), Some(ours)) if *name != "cloakroom" && figure.median > 0.0 => {
                        let ratio = ours.median / figure.median;
                        write!(text, " {} ({}×) |", short(figure.median), short(ratio)).unwrap();
                    }
                    (Some(figure), _) if *name == "cloakroom" && self.rounds > 1 => {
                        let (low, high) = (short(figure.min), short(figure.max));
                        write!(text, " {} [{low}–{high}] |", short(figure.median)).unwrap();
                    }
                    (Some(figure), _) => write!(text, " {} |", short(figure.median)).unwrap(),
                }
            }
            text.push('\n');
        }
        if !self.curve.is_empty() {
            text += "\nTouches/s by number of entries, within the bucket / across:\n\n";
            for (name, points) in &self.curve {
                let points: Vec<String> = points
                    .iter()
                    .map(|(n, stay, cross)| format!("{n}: {} / {}", short(*stay), short(*cross)))
                    .collect();
                writeln!(text, "- {name}: {}", points.join("; ")).unwrap();
            }
        }
        if !self.timeline.is_empty() {
            text += "\nLatency at 20,000 touches/s, p99 before / during a prune of a tenth:\n\n";
            for (name, timeline) in &self.timeline {
                let of = |figure: &str| short(timeline["figures"][figure].as_f64().unwrap_or(f64::NAN));
                let (before, during) = (of("p99_before_prune_ns"), of("p99_while_pruning_ns"));
                let (from, until) = (of("pruned_from_s"), of("pruned_until_s"));
                let rate = of("prune_while_touched_per_s");
                writeln!(text, "- {name}: {before} ns / {during} ns, pruning {rate}/s from {from} s until {until} s")
                    .unwrap();
            }
        }
        if !self.disk.is_empty() {
            text += "\nBytes on disk, after the load / at most / at the end:\n\n";
            for (name, rows) in &self.disk {
                let rows = rows.as_array().unwrap();
                let (first, last) = (&rows[0], &rows[rows.len() - 1]);
                let of = |value: &Value| short(value.as_f64().unwrap());
                let most = short(rows.iter().filter_map(|row| row[1].as_f64()).fold(0.0, f64::max));
                let (loaded, ended, touches) = (of(&first[1]), of(&last[1]), of(&last[0]));
                writeln!(text, "- {name}: {loaded} / {most} / {ended} after {touches} touches").unwrap();
            }
        }
        for (name, figures) in &self.large {
            writeln!(text, "\nEntries of 350 bytes and of 100 KB, touches/s of {name}: {figures}").unwrap();
        }
        text
    }

    pub fn json(&self) -> String {
        serde_json::to_string_pretty(self).unwrap() + "\n"
    }

    pub fn csv(&self) -> String {
        let mut text = String::from("measure,contender,median,min,max\n");
        for (measure, row) in &self.table {
            for (name, figure) in row {
                let Spread { median, min, max } = figure;
                writeln!(text, "{measure},{name},{median:.1},{min:.1},{max:.1}").unwrap();
            }
        }
        for (name, points) in &self.curve {
            for (size, stay, cross) in points {
                writeln!(text, "curve_{size}_stay_per_s,{name},{stay:.1},{stay:.1},{stay:.1}").unwrap();
                writeln!(text, "curve_{size}_cross_per_s,{name},{cross:.1},{cross:.1},{cross:.1}").unwrap();
            }
        }
        text
    }
}

/// Three digits.
pub fn short(value: f64) -> String {
    match value.abs() {
        v if v >= 1e9 => format!("{:.2} G", value / 1e9),
        v if v >= 1e6 => format!("{:.2} M", value / 1e6),
        v if v >= 1e4 => format!("{:.0} k", value / 1e3),
        v if v >= 100.0 => format!("{value:.0}"),
        v if v >= 1.0 => format!("{value:.1}"),
        0.0 => "0".into(),
        _ => format!("{value:.3}"),
    }
}
