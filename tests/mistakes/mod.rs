//! Settings that are none: what becomes of the real process, and that its log names variable, value and what was
//! expected. The tables are complete: each role's source is searched for the variables that it reads.
mod activator;
mod gateway;
mod queue;

use crate::support::binary::Builder;

/// The variables of a TLS policy, behind their prefix.
const PARTS: [&str; 4] = ["MIN_VERSION", "MAX_VERSION", "CIPHER_SUITES", "CURVE_PREFERENCES"];

/// What becomes of a process with a bad value.
#[derive(Clone, Copy, PartialEq)]
enum End {
    /// It exits with this status.
    Exit(i32),
    /// It serves, as the original does.
    Serves,
}

/// The log line with `expected`, which must name the variable; the escapes of JSON and of quoted values are undone.
#[track_caller]
fn named(log: &str, name: &str, expected: &str) -> String {
    // Quotes within quotes are escaped twice.
    let plain = |line: &str| line.replace("\\\\", "\\").replace("\\\"", "\"").replace("\\\"", "\"");
    let line = log.lines().map(plain).find(|line| line.contains(expected));
    let line = line.unwrap_or_else(|| panic!("{name}: no line with {expected:?}: {log}"));
    assert!(line.contains(name), "{name}: {line}");
    line
}

/// One that ends the process at once.
#[track_caller]
fn ends(builder: Builder, name: &str, value: &str, status: i32, expected: &str) {
    let (code, log) = builder.env(name, value).finish();
    assert_eq!(code, Some(status), "{name}={value:?}: {log}");
    let line = named(&log, name, expected);
    assert!(line.contains(value), "{name}={value:?}: {line}");
}

/// The names of variables in source text: literals of capitals and underscores.
fn literals(sources: &[&str]) -> Vec<String> {
    let mut names = Vec::new();
    for source in sources {
        let source = source.split("#[cfg(test)]").next().unwrap_or_default();
        let is_name = |text: &&str| {
            let word = text.bytes().all(|b| b.is_ascii_uppercase() || b.is_ascii_digit() || b == b'_');
            (word && text.contains('_') && text.len() > 5 && !text.ends_with('_')) || *text == "HOSTNAME"
        };
        names.extend(source.split('"').filter(is_name).map(str::to_owned));
    }
    names
}

/// Each variable that is read must be among the `known` ones, and in the README.
#[track_caller]
fn check(read: &[String], known: &[&str]) {
    let readme = include_str!("../../README.md");
    for name in read {
        assert!(known.contains(&name.as_str()), "{name} is read and not in the table of mistakes");
        // The reference writes families of names short: `A_B`, `.._C`.
        let short = |at: usize| readme.contains(&format!("`..{}`", name.get(at..).unwrap_or_default()));
        let told = readme.contains(&format!("`{name}`"))
            || name.match_indices('_').any(|(at, _)| short(at))
            || (name.starts_with("OTEL_EXPORTER_OTLP_") && readme.contains("`OTEL_EXPORTER_OTLP_*`"))
            || (name.starts_with("ACTIVATOR_TLS_") && readme.contains("`ACTIVATOR_TLS_*`"));
        assert!(told, "{name} is read and not in the README's reference");
    }
}
