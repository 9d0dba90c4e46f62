//! Plots as SVG, for the report. Colours are classes that the page's style sheet defines.

use std::fmt::Write as _;

use crate::histogram::Histogram;
use crate::html::escape;
use crate::results::number;

const WIDTH: f64 = 640.0;
const LABEL: f64 = 130.0;
const BAR: f64 = 22.0;
/// Classes that the style sheet has.
const COLOURS: usize = 5;

/// A bar for each name that has a value.
pub(crate) fn bars(names: &[String], values: &[Option<f64>]) -> String {
    let most = values.iter().flatten().copied().fold(f64::MIN_POSITIVE, f64::max);
    let mut bars = String::new();
    let mut y = 4.0;
    for (index, (name, value)) in names.iter().zip(values).enumerate() {
        let Some(value) = value else { continue };
        let length = (WIDTH - LABEL - 80.0) * value / most;
        let middle = y + BAR * 0.7;
        let _ = write!(
            bars,
            r#"<text x="{x}" y="{middle:.0}" text-anchor="end">{name}</text><rect class="c{colour}" x="{LABEL}" y="{y:.0}" width="{length:.1}" height="{BAR}" rx="2"/><text x="{end:.1}" y="{middle:.0}">{text}</text>"#,
            x = LABEL - 8.0,
            name = escape(name),
            colour = index % COLOURS,
            end = LABEL + length + 6.0,
            text = number(*value),
        );
        y += BAR + 6.0;
    }
    format!(r#"<svg viewBox="0 0 {WIDTH} {y:.0}" role="img">{bars}</svg>"#)
}

/// Latency by percentile, both axes logarithmic: each nine has the same room.
pub(crate) fn percentiles(names: &[String], histograms: &[Histogram]) -> String {
    const HEIGHT: f64 = 300.0;
    const BOTTOM: f64 = HEIGHT - 40.0;
    const RIGHT: f64 = WIDTH - 20.0;
    const LEFT: f64 = 60.0;
    // 0 is the fastest, 3 is p99.9, the last that a few thousand requests can tell.
    const NINES: f64 = 3.0;
    let share = |nines: f64| 1.0 - 10_f64.powf(-nines);
    let steps = || (0..=60).map(|step| NINES * f64::from(step) / 60.0);
    let measured = || histograms.iter().enumerate().filter(|(_, histogram)| histogram.len() > 0);
    let micros = |histogram: &Histogram, nines: f64| (histogram.quantile(share(nines)) as f64 / 1e3).max(1.0);
    let least = measured().map(|(_, h)| micros(h, 0.0)).fold(f64::MAX, f64::min);
    let most = measured().map(|(_, h)| micros(h, NINES)).fold(f64::MIN_POSITIVE, f64::max);
    let (low, high) = (least.log10().floor(), most.log10().ceil().max(least.log10().floor() + 1.0));
    let x = |nines: f64| LEFT + (RIGHT - LEFT) * nines / NINES;
    let y = |micros: f64| BOTTOM - (BOTTOM - 30.0) * (micros.log10() - low) / (high - low);

    let mut svg = String::new();
    for (nines, text) in [(0.301, "p50"), (1.0, "p90"), (2.0, "p99"), (3.0, "p99.9")] {
        let _ = write!(
            svg,
            r#"<line class="grid" x1="{0:.1}" x2="{0:.1}" y1="30" y2="{BOTTOM}"/><text x="{0:.1}" y="{1}" text-anchor="middle">{text}</text>"#,
            x(nines),
            BOTTOM + 16.0
        );
    }
    for power in (low as i32)..=(high as i32) {
        let micros = 10_f64.powi(power);
        let text = if micros >= 1000.0 { format!("{} ms", micros / 1000.0) } else { format!("{micros} us") };
        let _ = write!(
            svg,
            r#"<line class="grid" x1="{LEFT}" x2="{RIGHT}" y1="{0:.1}" y2="{0:.1}"/><text x="{1}" y="{2:.1}" text-anchor="end">{text}</text>"#,
            y(micros),
            LEFT - 6.0,
            y(micros) + 4.0
        );
    }
    let mut legend = LEFT;
    for (index, histogram) in measured() {
        let points: Vec<String> =
            steps().map(|nines| format!("{:.1},{:.1}", x(nines), y(micros(histogram, nines)))).collect();
        let name = names.get(index).map(String::as_str).unwrap_or_default();
        let colour = index % COLOURS;
        let _ = write!(
            svg,
            r#"<polyline class="l{colour}" points="{}"/><rect class="c{colour}" x="{legend}" y="8" width="12" height="12"/><text x="{}" y="18">{}</text>"#,
            points.join(" "),
            legend + 17.0,
            escape(name)
        );
        legend += 40.0 + 8.0 * name.len() as f64;
    }
    format!(r#"<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img">{svg}</svg>"#)
}
