//! What was measured, the medians over the rounds, and the table.

use std::fmt::Write as _;
use std::io;

use crate::histogram::Histogram;

/// A figure of a work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Measure {
    Cpu,
    Rate,
    P50,
    P99,
    P999,
    Start,
    Ready,
    IdleMemory,
    LoadedMemory,
    Memory,
    ConnectionMemory,
    /// From one event to another.
    Median,
    Slowest99,
    Handshakes,
    /// To the same without what the work is about.
    Ratio,
}

impl Measure {
    pub(crate) fn title(self) -> &'static str {
        match self {
            Self::Cpu => "CPU, us each",
            Self::Rate => "flat out, a second",
            Self::P50 => "latency p50, us",
            Self::P99 => "latency p99, us",
            Self::P999 => "latency p99.9, us",
            Self::Start => "exec to first 200, ms",
            Self::Ready => "exec to ready, s",
            Self::IdleMemory | Self::Memory => "memory, MiB",
            Self::LoadedMemory => "memory after it, MiB",
            Self::ConnectionMemory => "memory, KiB each",
            Self::Median => "median, ms",
            Self::Slowest99 => "p99, ms",
            Self::Handshakes => "handshakes each",
            Self::Ratio => "CPU, to that of 1 certificate",
        }
    }

    fn more_is_better(self) -> bool {
        self == Self::Rate
    }

    /// Told by the plots of latency, or no cost.
    pub(crate) fn is_of_time(self) -> bool {
        matches!(self, Self::Rate | Self::P50 | Self::P99 | Self::P999)
    }
}

/// What a figure of ours is to be.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Goal {
    /// At most so much.
    Most(f64),
    /// At most so many times the best of these; the first of a row's goals counts of which somebody took part.
    Times(f64, &'static [&'static str]),
}

/// Everything that was measured, by contender; the first one is ours.
pub(crate) struct Results {
    pub(crate) names: Vec<String>,
    entries: Vec<Entry>,
    histograms: Vec<(&'static str, Vec<Histogram>)>,
    failures: Vec<(usize, String)>,
    notes: Vec<(usize, String)>,
}

struct Entry {
    work: &'static str,
    measure: Measure,
    values: Vec<Vec<f64>>,
    goals: &'static [Goal],
}

/// A line of the table.
pub(crate) struct Row {
    pub(crate) work: &'static str,
    pub(crate) measure: Measure,
    /// Medians, a contender each.
    pub(crate) medians: Vec<Option<f64>>,
    /// Ours to the best of the others, or of those that its goal names.
    pub(crate) ratio: Option<f64>,
    /// The goal, and whether it is reached.
    pub(crate) goal: Option<(String, bool)>,
}

impl Results {
    pub(crate) fn new(names: Vec<String>) -> Self {
        Self { names, entries: Vec::new(), histograms: Vec::new(), failures: Vec::new(), notes: Vec::new() }
    }

    fn entry(&mut self, work: &'static str, measure: Measure) -> &mut Entry {
        let known = self.entries.iter().position(|entry| entry.work == work && entry.measure == measure);
        let at = known.unwrap_or_else(|| {
            // Behind what is known of this work.
            let last = self.entries.iter().rposition(|entry| entry.work == work);
            let at = last.map_or(self.entries.len(), |last| last + 1);
            let values = vec![Vec::new(); self.names.len()];
            self.entries.insert(at, Entry { work, measure, values, goals: &[] });
            at
        });
        &mut self.entries[at]
    }

    pub(crate) fn put(&mut self, work: &'static str, measure: Measure, contender: usize, value: f64) {
        self.entry(work, measure).values[contender].push(value);
    }

    pub(crate) fn goals(&mut self, work: &'static str, measure: Measure, goals: &'static [Goal]) {
        self.entry(work, measure).goals = goals;
    }

    pub(crate) fn latencies(&mut self, work: &'static str, contender: usize, histogram: &Histogram) {
        for (measure, share) in [(Measure::P50, 0.5), (Measure::P99, 0.99), (Measure::P999, 0.999)] {
            self.put(work, measure, contender, histogram.quantile(share) as f64 / 1e3);
        }
        let at = self.histograms.iter().position(|(of, _)| *of == work).unwrap_or_else(|| {
            self.histograms.push((work, vec![Histogram::new(); self.names.len()]));
            self.histograms.len() - 1
        });
        self.histograms[at].1[contender].add(histogram);
    }

    pub(crate) fn failed(&mut self, contender: usize, errors: &[io::Error]) {
        self.failures.extend(errors.iter().map(|error| (contender, error.to_string())));
    }

    pub(crate) fn note(&mut self, contender: usize, note: &str) {
        if !self.notes.iter().any(|(of, known)| *of == contender && known == note) {
            self.notes.push((contender, note.to_owned()));
        }
    }

    /// Latencies of all rounds, for works that have any.
    pub(crate) fn histograms(&self) -> impl Iterator<Item = (&'static str, &[Histogram])> {
        self.histograms.iter().map(|(work, all)| (*work, all.as_slice()))
    }

    /// The median of a figure so far.
    pub(crate) fn median(&self, work: &'static str, measure: Measure, contender: usize) -> Option<f64> {
        let entry = self.entries.iter().find(|entry| entry.work == work && entry.measure == measure)?;
        median(&entry.values[contender])
    }

    pub(crate) fn rows(&self) -> Vec<Row> {
        self.entries.iter().map(|entry| self.row(entry)).collect()
    }

    fn row(&self, entry: &Entry) -> Row {
        let medians: Vec<Option<f64>> = entry.values.iter().map(|values| median(values)).collect();
        let best = |of: &dyn Fn(&str) -> bool| {
            let others = self.names.iter().zip(&medians).skip(1).filter(|(name, _)| of(name));
            let others = others.filter_map(|(_, value)| *value);
            if entry.measure.more_is_better() { others.reduce(f64::max) } else { others.reduce(f64::min) }
        };
        let ours = medians.first().copied().flatten();
        let to = |best: Option<f64>| ours.zip(best).map(|(ours, best)| ours / best);
        let mut ratio = to(best(&|_| true));
        let mut goal = None;
        for wanted in entry.goals {
            match wanted {
                Goal::Most(most) => goal = ours.map(|ours| (format!("at most {}", number(*most)), ours <= *most)),
                Goal::Times(most, names) => {
                    let Some(times) = to(best(&|name| names.contains(&name))) else { continue };
                    ratio = Some(times);
                    goal = Some((format!("{most:.2} of {}", names.join(", ")), times <= *most));
                }
            }
            break;
        }
        Row { work: entry.work, measure: entry.measure, medians, ratio, goal }
    }

    /// Failed requests and what was left out, a line each.
    pub(crate) fn remarks(&self) -> Vec<String> {
        let mut remarks = Vec::new();
        for (index, name) in self.names.iter().enumerate() {
            let mut failures = self.failures.iter().filter(|(of, _)| *of == index);
            if let Some((_, first)) = failures.next() {
                remarks.push(format!("{name}: {} requests failed, the first: {first}", failures.count() + 1));
            }
            remarks.extend(self.notes.iter().filter(|(of, _)| *of == index).map(|(_, note)| format!("{name}: {note}")));
        }
        if self.failures.is_empty() {
            remarks.push("no request failed".to_owned());
        }
        remarks
    }

    pub(crate) fn table(&self) -> String {
        let mut out = String::new();
        let _ = write!(out, "{:54}", "medians");
        for name in &self.names {
            let _ = write!(out, "{name:>13}");
        }
        out.push_str("      to best\n");
        let mut last = None;
        for row in self.rows() {
            if last != Some(row.work) {
                let _ = writeln!(out, "{}", row.work);
                last = Some(row.work);
            }
            let _ = write!(out, "    {:50}", row.measure.title());
            for value in &row.medians {
                let _ = write!(out, "{:>13}", value.map_or("-".to_owned(), number));
            }
            let _ = write!(out, "{:>13}", row.ratio.map_or("-".to_owned(), |ratio| format!("{ratio:.2}")));
            let _ = writeln!(out, "{}", row.goal.map_or(String::new(), |goal| format!("   {}", in_words(&goal))));
        }
        for remark in self.remarks() {
            let _ = writeln!(out, "{remark}");
        }
        out
    }
}

/// A goal and what became of it.
pub(crate) fn in_words((goal, reached): &(String, bool)) -> String {
    format!("{goal}: {}", if *reached { "reached" } else { "missed" })
}

/// Three digits that say something.
pub(crate) fn number(value: f64) -> String {
    match value.abs() {
        v if v >= 100.0 => format!("{value:.0}"),
        v if v >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

fn median(values: &[f64]) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    match sorted.len() {
        0 => None,
        n if n % 2 == 1 => sorted.get(middle).copied(),
        _ => Some((sorted[middle - 1] + sorted[middle]) / 2.0),
    }
}
