//! What was measured, the medians over the rounds, and the table.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io;

use crate::histogram::Histogram;
use crate::work::Work;

/// A figure of a work.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Measure {
    Cpu,
    Rate,
    P50,
    P99,
    P999,
    Start,
    IdleMemory,
    LoadedMemory,
    ConnectionMemory,
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
            Self::IdleMemory => "memory, MiB",
            Self::LoadedMemory => "memory after it, MiB",
            Self::ConnectionMemory => "memory, KiB each",
        }
    }

    fn more_is_better(self) -> bool {
        self == Self::Rate
    }
}

/// Everything that was measured, by contender.
pub(crate) struct Results {
    pub(crate) names: Vec<String>,
    values: BTreeMap<(Work, Measure), Vec<Vec<f64>>>,
    histograms: BTreeMap<Work, Vec<Histogram>>,
    failures: Vec<(usize, String)>,
    notes: Vec<(usize, String)>,
}

/// A line of the table.
pub(crate) struct Row {
    pub(crate) work: Work,
    pub(crate) measure: Measure,
    /// Medians, a contender each.
    pub(crate) medians: Vec<Option<f64>>,
    /// Ours to the best of the others.
    pub(crate) ratio: Option<f64>,
}

impl Results {
    pub(crate) fn new(names: Vec<String>) -> Self {
        Self { names, values: BTreeMap::new(), histograms: BTreeMap::new(), failures: Vec::new(), notes: Vec::new() }
    }

    pub(crate) fn put(&mut self, work: Work, measure: Measure, contender: usize, value: f64) {
        let values = self.values.entry((work, measure)).or_insert_with(|| vec![Vec::new(); self.names.len()]);
        values[contender].push(value);
    }

    pub(crate) fn latencies(&mut self, work: Work, contender: usize, histogram: &Histogram) {
        for (measure, share) in [(Measure::P50, 0.5), (Measure::P99, 0.99), (Measure::P999, 0.999)] {
            self.put(work, measure, contender, histogram.quantile(share) as f64 / 1e3);
        }
        let all = self.histograms.entry(work).or_insert_with(|| vec![Histogram::new(); self.names.len()]);
        all[contender].add(histogram);
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
    pub(crate) fn histograms(&self) -> impl Iterator<Item = (Work, &[Histogram])> {
        self.histograms.iter().map(|(work, all)| (*work, all.as_slice()))
    }

    pub(crate) fn rows(&self) -> Vec<Row> {
        let row = |((work, measure), values): (&(Work, Measure), &Vec<Vec<f64>>)| {
            let medians: Vec<Option<f64>> = values.iter().map(|values| median(values)).collect();
            let others = medians.iter().skip(1).flatten().copied();
            let best = if measure.more_is_better() { others.reduce(f64::max) } else { others.reduce(f64::min) };
            let ratio = medians.first().copied().flatten().zip(best).map(|(ours, best)| ours / best);
            Row { work: *work, measure: *measure, medians, ratio }
        };
        self.values.iter().map(row).collect()
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
                let _ = writeln!(out, "{}", row.work.title());
                last = Some(row.work);
            }
            let _ = write!(out, "    {:50}", row.measure.title());
            for value in &row.medians {
                let _ = write!(out, "{:>13}", value.map_or("-".to_owned(), number));
            }
            let _ = writeln!(out, "{:>13}", row.ratio.map_or("-".to_owned(), |ratio| format!("{ratio:.2}")));
        }
        for remark in self.remarks() {
            let _ = writeln!(out, "{remark}");
        }
        out
    }
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
