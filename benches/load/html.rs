//! The report: one file without scripts, fonts or images, so that it opens anywhere and for good.

use std::fmt::Write as _;

use crate::chart;
use crate::results::{Results, in_words, number};

const STYLE: &str = "
:root { color-scheme: light dark; --ink: #1c2430; --faint: #d5dbe3; --paper: #fff;
  --c0: #0b6e99; --c1: #d9822b; --c2: #5c8a3a; --c3: #8a5ba6; --c4: #b5495b; }
@media (prefers-color-scheme: dark) { :root { --ink: #dfe6ee; --faint: #39424e; --paper: #14181d;
  --c0: #4fb3dd; --c1: #f0a75a; --c2: #93c46c; --c3: #c095dc; --c4: #e58494; } }
body { font: 15px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper); max-width: 60rem;
  margin: 2rem auto; padding: 0 1rem; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { padding: .2rem .6rem; text-align: right; border-bottom: 1px solid var(--faint); }
th:first-child, td:first-child { text-align: left; }
tr.work th { padding-top: 1rem; text-align: left; }
figure { margin: 0 0 1.5rem; } figcaption { margin-bottom: .3rem; }
.plots { display: grid; grid-template-columns: repeat(auto-fit, minmax(26rem, 1fr)); gap: 0 2rem; }
svg { width: 100%; height: auto; } svg text { font-size: 13px; fill: var(--ink); }
.grid { stroke: var(--faint); } polyline { fill: none; stroke-width: 2; }
.c0 { fill: var(--c0); } .c1 { fill: var(--c1); } .c2 { fill: var(--c2); } .c3 { fill: var(--c3); } .c4 { fill: var(--c4); }
.l0 { stroke: var(--c0); } .l1 { stroke: var(--c1); } .l2 { stroke: var(--c2); } .l3 { stroke: var(--c3); }
.l4 { stroke: var(--c4); }
";

/// The page.
pub(crate) fn page(results: &Results, cpus: &str, versions: &[String]) -> String {
    let mut page = format!(
        "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\"><meta name=\"viewport\" content=\"width=device-width\">\
         <title>lockkeeper under load</title><style>{STYLE}</style><h1>lockkeeper under load</h1><p>{}</p><ul>",
        escape(cpus)
    );
    for line in versions.iter().chain(&results.remarks()) {
        let _ = write!(page, "<li>{}</li>", escape(line));
    }
    page.push_str("</ul><h2>CPU time and memory</h2><p>Less is better.</p><div class=\"plots\">");
    for row in results.rows() {
        if row.measure.is_of_time() {
            continue;
        }
        figure(
            &mut page,
            &format!("{}: {}", row.work, row.measure.title()),
            &chart::bars(&results.names, &row.medians),
        );
    }
    page.push_str("</div><h2>Latency</h2><p>At a fixed rate, all rounds together.</p><div class=\"plots\">");
    for (work, histograms) in results.histograms() {
        figure(&mut page, work, &chart::percentiles(&results.names, histograms));
    }
    page.push_str("</div><h2>All figures</h2><p>Medians of the rounds; the ratio is to the best of the others, or of those that the goal names.</p>");
    table(&mut page, results);
    page.push_str("</html>\n");
    page
}

fn figure(page: &mut String, caption: &str, svg: &str) {
    let _ = write!(page, "<figure><figcaption>{}</figcaption>{svg}</figure>", escape(caption));
}

fn table(page: &mut String, results: &Results) {
    page.push_str("<table><tr><th></th>");
    for name in &results.names {
        let _ = write!(page, "<th>{}</th>", escape(name));
    }
    page.push_str("<th>to best</th><th>goal</th></tr>");
    let mut last = None;
    for row in results.rows() {
        if last != Some(row.work) {
            let columns = results.names.len() + 3;
            let _ = write!(page, "<tr class=\"work\"><th colspan=\"{columns}\">{}</th></tr>", escape(row.work));
            last = Some(row.work);
        }
        let _ = write!(page, "<tr><td>{}</td>", row.measure.title());
        for value in &row.medians {
            let _ = write!(page, "<td>{}</td>", value.map_or("-".to_owned(), number));
        }
        let _ = write!(page, "<td>{}</td>", row.ratio.map_or("-".to_owned(), |ratio| format!("{ratio:.2}")));
        let _ = write!(page, "<td>{}</td></tr>", row.goal.map_or(String::new(), |goal| escape(&in_words(&goal))));
    }
    page.push_str("</table>");
}

/// Text for a page.
pub(crate) fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}
