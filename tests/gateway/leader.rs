//! Contract, sections 1.2 and 3.7: of several replicas one writes status; all of them route.
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::{Value, json};

use super::cluster::Cluster;
use super::harness::{NAMESPACE, SYSTEM, app, get, simple};
use crate::support::app::{App, ok, response};
use crate::support::binary::Binary;
use crate::support::objects::config_map;
use crate::support::wait::{eventually, eventually_some};

const LEASE: &str = "lockkeeper-gateway.kourier.ingress.networking.knative.dev";

fn lease(cluster: &Cluster) -> Value {
    cluster.api.object("leases", SYSTEM, LEASE).unwrap_or_default()
}

fn holder(cluster: &Cluster) -> String {
    lease(cluster)["spec"]["holderIdentity"].as_str().unwrap_or_default().to_owned()
}

fn quick(cluster: &Cluster) {
    let settings = config_map(SYSTEM, "config-leader-election");
    cluster
        .api
        .apply(settings.entry("lease-duration", "3s").entry("renew-deadline", "2s").entry("retry-period", "500ms"));
}

fn port(replica: &mut Binary) -> u16 {
    replica.port_of("Starting http server:")
}

fn leads(replica: &mut Binary) -> bool {
    let admin = replica.port_of("Starting http server admin:");
    get(admin, "x", "/metrics").text().contains("lockkeeper_gateway_leader 1")
}

#[test]
fn given_two_replicas_when_the_leader_is_killed_then_the_other_takes_over_and_both_route_all_along() {
    // Probes are not answered for until an object has been seen to wait: each then has two writes, and no more.
    let answers = Arc::new(AtomicBool::new(false));
    let backend = App::each({
        let answers = answers.clone();
        move |head, _| match head.get("k-network-hash") {
            None => ok("one"),
            Some(_) if !answers.load(Ordering::SeqCst) => response("503 Service Unavailable", &[], ""),
            Some(hash) => response("200 OK", &[("K-Network-Hash", hash)], ""),
        }
    });
    let cluster = Cluster::new();
    quick(&cluster);
    cluster.backend("app", backend.port()).api.apply(simple("first", "a", "app"));
    let mut one = cluster.replica("one");
    eventually("the first replica leads", || holder(&cluster) == "one");
    let mut two = cluster.replica("two");
    eventually("it is said to wait", || cluster.writes("first") == 1);
    answers.store(true, Ordering::SeqCst);
    cluster.ready(NAMESPACE, "first");
    assert_eq!(cluster.writes("first"), 2, "one writer: waiting, ready");
    for replica in [&mut one, &mut two] {
        assert_eq!(get(port(replica), "a", "/").text(), "one");
    }
    assert!(leads(&mut one) && !leads(&mut two));

    answers.store(false, Ordering::SeqCst);
    one.signal("KILL");
    one.exit();
    cluster.api.apply(simple("second", "b", "app"));
    let routes = port(&mut two);
    eventually("the other routes at once", || get(routes, "b", "/").status() == 200);
    eventually("it is said to wait", || cluster.writes("second") == 1);
    answers.store(true, Ordering::SeqCst);
    cluster.ready(NAMESPACE, "second");

    assert_eq!(holder(&cluster), "two");
    assert_eq!(lease(&cluster)["spec"]["leaseTransitions"], 1);
    assert_eq!(cluster.writes("second"), 2);
    assert_eq!(cluster.writes("first"), 2, "what is ready is not written again");
}

#[test]
fn given_a_leader_when_another_one_has_the_lease_then_it_stops_writing_until_that_has_run_out() {
    let (cluster, backend) = (Cluster::new(), app("one"));
    quick(&cluster);
    cluster.backend("app", backend.port()).api.apply(simple("first", "a", "app"));
    let mut replica = cluster.replica("one");
    cluster.ready(NAMESPACE, "first");
    // A holder that renews: each time that its Lease would run out it is written anew.
    let steal = |seconds: u32| {
        let mut lease = lease(&cluster);
        lease["spec"] = json!({"holderIdentity": "another", "leaseDurationSeconds": seconds, "leaseTransitions": 7});
        cluster.api.apply(lease);
    };
    steal(600);
    replica.logs("leads no longer");
    cluster.api.apply(simple("second", "b", "app"));
    let routes = port(&mut replica);
    eventually("it routes all the same", || get(routes, "b", "/").status() == 200);
    assert_eq!((cluster.writes("second"), holder(&cluster)), (0, "another".to_owned()));

    steal(1);
    cluster.ready(NAMESPACE, "second");
    assert_eq!(holder(&cluster), "one");
    assert_eq!(lease(&cluster)["spec"]["leaseTransitions"], 8);
}

#[test]
fn given_an_api_server_that_refuses_leases_when_the_deadline_is_over_then_the_leader_stops_writing() {
    let (cluster, backend) = (Cluster::new(), app("one"));
    quick(&cluster);
    cluster.backend("app", backend.port());
    let mut replica = cluster.replica("one");
    eventually("it leads", || holder(&cluster) == "one");

    cluster.api.forbid("leases", true);
    replica.logs("leads no longer");
    let told = replica.log.lines(|line| line.contains("Lease") && line.contains("403 Forbidden"));
    assert_eq!(told.len(), 1, "an attempt each half second, one word about them: {told:#?}");
    cluster.api.apply(simple("first", "a", "app"));
    let routes = port(&mut replica);
    eventually("it routes", || get(routes, "a", "/").status() == 200);
    assert_eq!(cluster.writes("first"), 0);

    cluster.api.forbid("leases", false);
    cluster.ready(NAMESPACE, "first");
}

/// With the default of 60 s nobody else could lead within the patience of this test, were the Lease not given back.
#[test]
fn given_the_defaults_when_the_leader_leaves_in_order_then_the_lease_is_given_back_and_the_other_leads_at_once() {
    let (cluster, backend) = (Cluster::new(), app("one"));
    cluster.backend("app", backend.port());
    let mut one = cluster.replica("one");
    eventually("the first replica leads", || holder(&cluster) == "one");
    assert_eq!(lease(&cluster)["spec"]["leaseDurationSeconds"], 60);
    let mut two = cluster.replica("two");

    one.signal("TERM");
    assert_eq!(one.exit().code(), Some(0));

    eventually_some("the other leads", || (holder(&cluster) == "two").then_some(()));
    cluster.api.apply(simple("first", "a", "app"));
    cluster.ready(NAMESPACE, "first");
    two.signal("TERM");
    assert_eq!(two.exit().code(), Some(0));
    assert_eq!(holder(&cluster), "", "nobody is left");
}
