//! Settings: values of the environment, and JSON in them; manifests.

use std::collections::HashMap;

use super::texts;
use crate::config::value;
use crate::kube::manifest as reader;
use crate::queue::metrics;
use crate::queue::readiness::Probe;
use crate::telemetry::log::settings::Settings;
use crate::telemetry::observability::Observability;
use crate::telemetry::request_log::Template;
use crate::tls::policy::Policy;

/// One text as each kind of value.
pub(super) fn values(data: &[u8]) {
    let [text] = texts(data);
    if let Ok(number) = value::int(&text) {
        assert_eq!(value::int(&number.to_string()), Ok(number));
    }
    if let Ok(duration) = value::duration(&text) {
        assert!(i64::try_from(duration.as_nanos()).is_ok());
        assert_eq!(value::duration(&format!("{}ns", duration.as_nanos())), Ok(duration));
    }
    if let Ok(bytes) = value::bytes(&text) {
        assert!(bytes > 0 && value::bytes(&bytes.to_string()) == Ok(bytes));
    }
    if let Ok(address) = value::host_port(&text) {
        assert_eq!(value::host_port(&address.to_string()), Ok(address));
    }
    if let Ok(ip) = value::ip(&text) {
        assert_eq!(value::ip(&ip.to_string()), Ok(ip));
    }
    if let Ok(port) = value::port(&text) {
        assert!(port > 0 && value::port_or_zero(&text) == Ok(port));
    }
    if let Ok(count) = value::count(&text) {
        assert!(count > 0);
    }
    let _ = value::bool(&text);
    assert!(value::list(&text).is_ok_and(|items| items.iter().all(|item| !item.trim().is_empty())));
    for position in 0..4 {
        let at = |index| (index == position).then_some(text.as_str());
        let _ = Policy::parse("", at(0), at(1), at(2), at(3));
    }
}

/// Kubernetes' probes, one or several.
pub(super) fn probe(data: &[u8]) {
    let [text] = texts(data);
    if let Ok(probes) = Probe::parse_all(&text, false) {
        assert!(probes.len() <= 1 && (text.is_empty() || probes.len() == 1));
    }
    let _ = Probe::parse_all(&text, true);
}

/// zap's configuration, a NUL byte, a level.
pub(super) fn logging(data: &[u8]) {
    let [json, level] = texts(data);
    let _ = Settings::parse(&json, &level);
}

/// `OBSERVABILITY_CONFIG`, a NUL byte, lines `NAME=VALUE` of the environment.
pub(super) fn observability(data: &[u8]) {
    let [json, lines] = texts(data);
    let env: HashMap<String, String> =
        lines.lines().filter_map(|line| line.split_once('=')).map(|(n, v)| (n.to_owned(), v.to_owned())).collect();
    if let Ok(observability) = Observability::parse(&json, &env)
        && let Some(template) = observability.request_log
    {
        assert!(!template.is_empty());
        let _ = Template::parse(&template);
    }
    let attributes = metrics::resource(&env);
    assert!(attributes.windows(2).all(|pair| pair[0] <= pair[1]));
}

/// Objects in YAML or JSON.
pub(super) fn manifest(data: &[u8]) {
    let [text] = texts(data);
    for item in reader::items(&text) {
        assert!(item.place.starts_with("document "));
    }
}
