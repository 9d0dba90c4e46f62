//! What comes from the API server: ConfigMaps and Ingress objects.

use std::collections::{BTreeMap, HashMap};

use super::http::{header_lines, texts_of};
use super::texts;
use crate::gateway::kourier::Kourier;
use crate::gateway::route::compile::{Object, compile};
use crate::gateway::route::owners::Owners;
use crate::gateway::route::table::Side;
use crate::knative::{ingress, logging, network, observability};

/// `key=value` lines as the data of each ConfigMap that is followed; `\n` in a value is a line end.
pub(super) fn config_maps(data: &[u8]) {
    let [text] = texts(data);
    let pairs = text.lines().filter_map(|line| line.split_once('='));
    let data: BTreeMap<String, String> = pairs.map(|(k, v)| (k.to_owned(), v.replace("\\n", "\n"))).collect();
    let _ = network::Network::parse(&data);
    let _ = Kourier::parse(&data);
    if let Ok(logging) = logging::Logging::parse(&data) {
        let _ = logging.level("activator");
    }
    let _ = observability::parse(&data, &HashMap::new());
}

/// The spec of an Ingress as JSON, a NUL byte, an authority and a path with a blank between, a NUL byte, header lines.
/// What compiles is found only under hosts that the object has, and from outside only what is not inside alone.
pub(super) fn ingress(data: &[u8]) {
    let ([json, target], lines) = texts_of(data);
    let Ok(spec) = serde_json::from_str::<ingress::Spec>(&json) else { return };
    // A rule without hosts is for all of them.
    let all = || vec!["*".to_owned()];
    let hosts = |rule: &ingress::Rule| if rule.hosts.is_empty() { all() } else { rule.hosts.clone() };
    let hosts: Vec<String> = spec.rules.iter().flat_map(hosts).collect();
    let (namespace, name) = ("default".to_owned(), "hello".to_owned());
    let (annotations, labels) = (BTreeMap::new(), BTreeMap::new());
    let object = Object { namespace, name, created: 0, annotations, labels, spec };
    let Ok(compiled) = compile(object, |service, _| service.clone()) else { return };
    let mut owners = Owners::default();
    owners.put(compiled);
    let table = owners.table();
    let (authority, path) = target.split_once(' ').unwrap_or((&target, "/"));
    let headers = header_lines(lines);
    let external = table.find(Side::External, authority, path, &headers);
    let internal = table.find(Side::Internal, authority, path, &headers);
    if external.is_ok() {
        assert!(internal.is_ok(), "what is open outside is open inside");
    }
    if let Ok(route) = internal {
        let host = ingress::hosts::normal(authority).into_owned();
        let fits = |pattern: &String| {
            let pattern = ingress::hosts::normal(pattern).into_owned();
            pattern == host || pattern == "*" || pattern.strip_prefix('*').is_some_and(|end| host.ends_with(end))
        };
        assert!(hosts.iter().any(fits), "{authority:?} is none of {hosts:?}");
        assert!(route.matches(path, &headers));
        let _ = (route.choose(0), route.choose(u32::MAX));
    }
}
