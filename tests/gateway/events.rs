//! Contract, section 4.5: what is wrong with an object is an Event as well, and never a flood of them.
use serde_json::{Value, json};

use super::cluster::Cluster;
use super::harness::{NAMESPACE, SYSTEM, app, get, ingress, path, rule, secret, simple};
use crate::support::objects::{self, config_map};
use crate::support::wait::{eventually, eventually_some};

/// The Events of a reason about objects called so.
fn events(cluster: &Cluster, reason: &str, name: &str) -> Vec<Value> {
    let fits = |event: &Value| event["reason"] == reason && event["involvedObject"]["name"] == name;
    cluster.api.objects("events").into_iter().filter(fits).collect()
}

fn writes(cluster: &Cluster) -> usize {
    let is = |audit: &crate::support::apiserver::Audit| audit.method != "GET" && audit.path.contains("/events");
    cluster.api.requests().iter().filter(|audit| is(audit)).count()
}

#[test]
fn given_objects_that_are_not_served_when_they_are_read_then_each_has_one_event_that_says_why() {
    let (cluster, backend) = (Cluster::new(), app("one"));
    let ca = super::harness::authority();
    let mut with_tls = simple("tls", "tls.example.com", "app");
    with_tls["spec"]["tls"] =
        json!([{"hosts": ["tls.example.com"], "secretName": "cert", "secretNamespace": NAMESPACE}]);
    let mut late = simple("late", "a.example.com", "app");
    late["metadata"]["creationTimestamp"] = "2026-02-01T00:00:00Z".into();
    let mut refused = simple("refused", "b.example.com", "app");
    refused["spec"]["rules"][0]["http"]["paths"][0]["splits"][0]["percent"] = 50.into();
    cluster.backend("app", backend.port());
    cluster.api.apply_all([simple("early", "a.example.com", "app"), late, refused, with_tls]);
    cluster.api.apply(secret("cert", &ca.leaf(&["tls.example.com"], 1).unwrap()));
    let mut replica = cluster.replica("one");
    cluster.ready(NAMESPACE, "tls");

    cluster.api.apply(objects::secret(NAMESPACE, "cert").entry("tls.crt", "junk").entry("tls.key", "junk"));
    cluster.api.apply(config_map(SYSTEM, "config-kourier").entry("stream-idle-timeout", "soon"));
    for (name, reason, words) in [
        ("tls", "BadCertificate", "its last good certificate stays in use"),
        ("late", "DomainConflict", "a.example.com"),
        ("refused", "IngressRefused", "percent"),
        ("config-kourier", "ConfigInvalid", "stream-idle-timeout=\"soon\""),
    ] {
        let event = eventually_some(&format!("{name} has an Event {reason}"), || events(&cluster, reason, name).pop());
        assert!(event["message"].as_str().unwrap().contains(words), "{event}");
        assert_eq!((event["type"].as_str(), event["reportingInstance"].as_str()), (Some("Warning"), Some("one")));
        if reason != "ConfigInvalid" {
            let about = cluster.ingress(NAMESPACE, name);
            assert_eq!(event["involvedObject"]["uid"], about["metadata"]["uid"]);
            assert_eq!(event["metadata"]["namespace"], NAMESPACE);
        }
    }
    assert!(events(&cluster, "DomainConflict", "early").is_empty());
    let http = replica.port_of("Starting http server:");
    assert_eq!(get(http, "a.example.com", "/").status(), 200);
}

#[test]
fn given_an_object_that_goes_wrong_again_and_again_when_told_then_it_is_one_event_with_a_count() {
    let (cluster, backend) = (Cluster::new(), app("one"));
    cluster.backend("app", backend.port());
    let mut replica = cluster.replica("one");
    eventually("it leads", || cluster.api.objects("leases").len() == 1);
    let http = replica.port_of("Starting http server:");
    for turn in 0..20 {
        let host = format!("h{turn}.example.com");
        cluster.api.apply(simple("app", &host, "app"));
        eventually("the good one serves", || get(http, &host, "/").status() == 200);
        let mut bad = simple("app", &host, "app");
        bad["spec"]["rules"][0]["http"]["paths"][0]["splits"][0]["percent"] = (turn + 1).into();
        cluster.api.apply(bad);
        eventually("the bad one is refused", || {
            replica.log.lines(|line| line.contains("is not served as it is")).len() > turn
        });
    }

    let event = eventually_some("the count is written", || {
        events(&cluster, "IngressRefused", "app").pop().filter(|event| event["count"].as_u64() > Some(10))
    });
    assert_eq!(events(&cluster, "IngressRefused", "app").len(), 1, "{event}");
    assert!(writes(&cluster) <= 12, "{} writes for 20 turns", writes(&cluster));
}

#[test]
fn given_hundreds_of_bad_objects_when_read_then_events_are_limited() {
    let cluster = Cluster::new();
    let bad = |index: u32| {
        ingress(&format!("bad-{index}"), 1, json!({"rules": [rule("ExternalIP", &["a"], vec![path("", "")])]}))
    };
    cluster.api.apply_all((0..400).map(bad));
    let mut replica = cluster.replica("one");
    eventually("each has its condition", || {
        (0..400).all(|index| cluster.condition(NAMESPACE, &format!("bad-{index}"), "Ready").is_some())
    });
    let admin = replica.port_of("Starting http server admin:");
    let dropped = || {
        let text = get(admin, "x", "/metrics").text();
        let line = text.lines().find(|line| line.starts_with("lockkeeper_gateway_events_dropped_total "))?;
        line.rsplit(' ').next()?.parse::<u32>().ok()
    };
    eventually("the rest is counted", || dropped().is_some_and(|dropped| dropped >= 300));
    let told = cluster.api.objects("events").len();
    assert!((40..=100).contains(&told), "{told}");
}
