//! What many idle revisions cost in memory.
use serde_json::{Value, json};

use crate::knative::endpoints::Endpoints;
use crate::knative::revision::Revision;
use crate::knative::service::Service;
use crate::kube::object::{self, Object, Selection};
use crate::kube::objects::Writer;
use crate::kube::{Key, Objects};

/// As large as a cluster's: a third of an object is what controllers note about fields.
#[expect(clippy::needless_pass_by_value, reason = "callers make it on the spot")]
fn object(kind: &str, name: &str, i: usize, part: (&str, Value)) -> String {
    let fields: Vec<String> = (0..12).map(|n| format!("f:field-{n}")).collect();
    json!({"apiVersion": "v1", "kind": kind, part.0: part.1, "metadata": {
        "name": name, "namespace": format!("namespace-{}", i % 200), "resourceVersion": "123456", "generation": 1,
        "uid": format!("00000000-0000-4000-8000-{i:012x}"), "creationTimestamp": "2026-11-24T10:00:00Z",
        "labels": {"serving.knative.dev/revision": format!("service-{i}-00001"), "app": format!("service-{i}-00001"),
            "serving.knative.dev/revisionUID": format!("00000000-0000-4000-8000-{i:012x}"),
            "serving.knative.dev/service": format!("service-{i}"),
            "serving.knative.dev/configuration": format!("service-{i}"),
            "networking.internal.knative.dev/serviceType": if name.ends_with("-private") { "Private" } else { "Public" }},
        "annotations": {"kubectl.kubernetes.io/last-applied-configuration": "x".repeat(1500)},
        "managedFields": [{"manager": "controller", "operation": "Update", "fieldsV1": {"f:metadata": fields}}]}})
    .to_string()
}

fn take<T: Object>(writer: &mut Writer<T>, json: &str) {
    let read = object::read::<T>(json.as_bytes(), &Selection::everywhere());
    if let Ok(read) = read
        && let Some(object) = read.object
    {
        writer.apply(&read.key, read.uid, object);
    }
}

fn resident() -> u64 {
    let text = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    text.split(' ').nth(1).and_then(|pages| pages.parse::<u64>().ok()).unwrap_or(0) * 4096
}

/// The objects of idle revisions as this process keeps them: a Revision, two Endpoints of which the public one names
/// two activators, a Service. Some 1.8 KiB each. The activator's goals: 40 MiB in all at 1,000 of them, 150 MiB at
/// 10,000. Other tests in this process would change what is measured: `.ci/run` runs it in one of its own,
/// `cargo test --lib footprint -- --ignored --nocapture`.
#[test]
#[ignore = "needs a process of its own"]
fn given_ten_thousand_idle_revisions_then_their_objects_fit_into_a_part_of_the_goal() {
    const REVISIONS: usize = 10_000;
    let before = resident();
    let (revisions, mut write_revisions) = Objects::<Revision>::new();
    let (endpoints, mut write_endpoints) = Objects::<Endpoints>::new();
    let (services, mut write_services) = Objects::<Service>::new();
    for i in 0..REVISIONS {
        let (name, private) = (format!("service-{i}-00001"), format!("service-{i}-00001-private"));
        let container = json!({"name": "user-container", "image": "example.com/app@sha256:0", "ports": [{}],
            "env": [{"name": "TARGET", "value": "x"}], "readinessProbe": {"tcpSocket": {"port": 0}}});
        let spec = json!({"containerConcurrency": 0, "timeoutSeconds": 300, "containers": [container]});
        take(&mut write_revisions, &object("Revision", &name, i, ("spec", spec)));
        take(&mut write_endpoints, &object("Endpoints", &private, i, ("subsets", json!(null))));
        let subsets =
            json!([{"addresses": [{"ip": "10.1.2.3"}, {"ip": "10.1.2.4"}], "ports": [{"name": "http", "port": 8012}]}]);
        take(&mut write_endpoints, &object("Endpoints", &name, i, ("subsets", subsets)));
        let spec =
            json!({"clusterIP": "10.96.1.1", "ports": [{"name": "http", "port": 80}, {"name": "https", "port": 443}]});
        take(&mut write_services, &object("Service", &private, i, ("spec", spec)));
    }
    let held = resident().saturating_sub(before);

    assert_eq!((revisions.len(), endpoints.len(), services.len()), (REVISIONS, 2 * REVISIONS, REVISIONS));
    assert!(revisions.get(&Key::new("namespace-7", "service-7-00001")).is_some());
    println!("{REVISIONS} idle revisions: {} KiB, {} bytes each", held / 1024, held / REVISIONS as u64);
    assert!(held < 40 << 20, "{held} bytes");
}
