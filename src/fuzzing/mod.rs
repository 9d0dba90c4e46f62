//! What is tried with arbitrary input: a function for each parser of what comes from outside, with the properties that
//! must hold whatever comes in.
//!
//! Called by the targets of `fuzz/` (one a function, found by its name) and, on a stable compiler, by the tests below,
//! which replay the corpus and add random variations of it. In no ordinary build.
#![allow(clippy::unwrap_used, reason = "a property that does not hold is to stop the run")]
#![allow(clippy::missing_panics_doc, reason = "the same")]

mod certificates;
mod cluster;
mod http;
mod lines;
mod settings;
mod text;

/// Takes any bytes; panics if a property does not hold.
pub type Target = fn(&[u8]);

/// All targets by name, in alphabetical order.
pub const TARGETS: &[(&str, Target)] = &[
    ("access_log", text::access_log),
    ("bundle", certificates::bundle),
    ("certificate", certificates::certificate),
    ("config_maps", cluster::config_maps),
    ("grpc_health", http::grpc_health),
    ("headers", http::headers),
    ("identity", certificates::identity),
    ("ingress", cluster::ingress),
    ("interim", http::interim),
    ("key", certificates::key),
    ("labels", http::labels),
    ("lines", lines::lines),
    ("logging", settings::logging),
    ("manifest", settings::manifest),
    ("observability", settings::observability),
    ("pem", certificates::pem),
    ("probe", settings::probe),
    ("proxy_protocol", http::proxy_protocol),
    ("request_log", text::request_log),
    ("traceparent", http::traceparent),
    ("values", settings::values),
    ("websocket", http::websocket),
];

/// Gives `data` to the target called `name`.
///
/// # Panics
/// There is no such target, or a property does not hold.
pub fn run(name: &str, data: &[u8]) {
    let target = TARGETS.iter().find(|(known, _)| *known == name).map(|(_, target)| target);
    target.unwrap_or_else(|| panic!("no target {name}"))(data);
}

/// The parts of an input that a NUL byte separates; absent ones are empty.
fn parts<const N: usize>(data: &[u8]) -> [&[u8]; N] {
    let mut parts = data.splitn(N, |byte| *byte == 0);
    std::array::from_fn(|_| parts.next().unwrap_or_default())
}

/// The parts of an input as text.
fn texts<const N: usize>(data: &[u8]) -> [String; N] {
    parts::<N>(data).map(|part| String::from_utf8_lossy(part).into_owned())
}

#[cfg(test)]
mod tests;
