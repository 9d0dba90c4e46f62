//! Sections 1, 2, 9 and 10: environment, the API, the order of the start, config maps.
use std::time::Duration;

use super::world::{Activator, NAMESPACE, REVISION, SYSTEM, World, free_ip};
use crate::support::app::App;
use crate::support::objects::{config_map, private_endpoints, public_endpoints};
use crate::support::wait::eventually;

/// 1: what is required, and what is wrong, by name; exit code 1.
#[test]
fn given_a_bad_environment_when_started_then_it_ends_with_1_and_names_the_variable() {
    let world = World::new(false);
    for (name, value) in [
        ("POD_NAME", None),
        ("POD_IP", None),
        ("SYSTEM_NAMESPACE", None),
        ("MAX_IDLE_PROXY_CONNS", Some("many")),
        ("ACTIVATOR_TLS_MIN_VERSION", Some("1.1")),
        ("ACTIVATOR_TLS_CIPHER_SUITES", Some("TLS_NONE")),
    ] {
        let builder = match value {
            Some(value) => world.builder().env(name, value),
            None => world.builder().unset(name),
        };
        let (code, log) = builder.finish();
        assert_eq!(code, Some(1), "{name}: {log}");
        assert!(log.contains(name) && log.contains(value.unwrap_or_default()), "{name}: {log}");
    }
}

/// Only our own settings: 64, and what was expected.
#[test]
fn given_a_bad_setting_of_ours_when_started_then_it_ends_with_64() {
    let (code, log) = World::new(false).builder().env("LOCKKEEPER_BALANCE", "random").finish();
    assert_eq!(code, Some(64), "{log}");
    assert!(log.contains("LOCKKEEPER_BALANCE=\"random\": expected least-loaded or original"), "{log}");
}

/// 2: what is asked of the API server: nothing is written, one Secret by its name, no more kinds than the original.
#[test]
fn given_the_api_server_s_audit_when_the_activator_runs_then_it_asked_for_no_more_than_it_needs() {
    let world = World::new(true);
    world.create(world.revision());
    let _activator = world.start();
    let requests = world.api.requests();
    assert!(requests.iter().all(|audit| audit.method == "GET"));
    let kinds = ["/version", "/configmaps", "/secrets", "/endpoints", "/services", "/revisions"];
    for audit in &requests {
        assert!(kinds.iter().any(|kind| audit.path.ends_with(kind)), "{}", audit.path);
    }
    let bundles = "networking.knative.dev/trust-bundle";
    let maps = ["config-logging", "config-observability", "config-network"];
    for audit in &requests {
        let (named, labelled) = (audit.parameter("fieldSelector"), audit.parameter("labelSelector"));
        let name = named.strip_prefix("metadata.name=").unwrap_or_default();
        let narrow = match audit.path.rsplit('/').next().unwrap_or_default() {
            "secrets" => name == "routing-serving-certs",
            "configmaps" => maps.contains(&name) || labelled == bundles,
            "endpoints" => labelled.contains("serving.knative.dev/revision"),
            "services" => labelled == "networking.internal.knative.dev/serviceType=Private",
            _ => true,
        };
        assert!(narrow, "{audit:?}");
        if audit.path.ends_with("/secrets") || audit.path.ends_with("/configmaps") {
            assert!(audit.path.contains("/namespaces/knative-serving/"), "{}", audit.path);
        }
    }
}

/// 9.3: it is asked again; that it ends after a minute is tested beside `await_version`.
#[test]
fn given_an_api_server_that_is_away_when_it_comes_then_the_activator_starts() {
    let world = World::new(false);
    world.api.stop();
    let mut process = world.builder().spawn();
    process.logs("Failed to get k8s version");
    world.api.restart();
    process.port_of("server http1:");
}

/// 9.11: each of the three config maps must be there.
#[test]
fn given_a_config_map_that_is_absent_when_started_then_it_ends_with_1_and_names_it() {
    for name in ["config-logging", "config-observability", "config-network"] {
        let world = World::new(false);
        world.api.delete("configmaps", SYSTEM, name);
        let (code, log) = world.builder().finish();
        assert_eq!(code, Some(1), "{name}: {log}");
        assert!(log.contains(&format!("configmap \\\"{name}\\\" not found")) || log.contains(name), "{log}");
    }
}

/// 10: a bad value in `config-network` at start is fatal and named.
#[test]
fn given_a_config_network_that_cannot_be_used_when_started_then_it_ends_with_1_and_names_key_and_value() {
    let world = World::new(false);
    world.api.apply(config_map(SYSTEM, "config-network").entry("system-internal-tls", "perhaps"));
    let (code, log) = world.builder().finish();
    assert_eq!(code, Some(1), "{log}");
    assert!(log.contains("system-internal-tls") && log.contains("perhaps"), "{log}");
}

/// 9: a port that listens has all objects: the first request finds its revision.
#[test]
fn given_objects_at_start_when_the_port_is_open_then_the_first_request_is_served() {
    let world = World::new(false);
    world.create(world.revision());
    let pod = world.pod();
    world.endpoints(&[pod.ip], &[]);
    let activator = Activator::unready(world.builder());
    assert_eq!(activator.get().status(), 200);
}

/// The API server is away: traffic goes on; what changed meanwhile is known when it is back.
#[test]
fn given_the_api_server_is_away_when_requests_come_then_they_are_served() {
    let world = World::new(false);
    world.create(world.revision());
    let activator = world.start();
    let pod = world.pod();
    world.endpoints(&[pod.ip], &[]);
    assert_eq!(activator.get().status(), 200);
    world.api.stop();
    assert_eq!(activator.get().status(), 200);
    let next = world.pod();
    world.endpoints(&[next.ip], &[]);
    world.api.restart();
    eventually("the new pod is used", || {
        assert_eq!(activator.get().status(), 200);
        !next.app.seen().is_empty()
    });
}

/// One broken object costs that object alone, and is named.
#[test]
fn given_a_revision_that_cannot_be_read_when_others_come_then_they_are_served_and_it_is_named() {
    let world = World::new(false);
    world.api.apply(world.revision().set("/metadata/name", "broken-00001").set("/spec/timeoutSeconds", "soon"));
    world.create(world.revision());
    let mut activator = world.start();
    let pod = world.pod();
    world.endpoints(&[pod.ip], &[]);
    assert_eq!(activator.get().status(), 200);
    activator.process.logs("broken-00001");
}

/// 6.4: with two activators and as many pods each uses its own; ours is not asked for what the other has.
#[test]
fn given_two_activators_when_pods_are_divided_then_each_pod_has_one_owner() {
    let world = World::new(false);
    world.create(world.revision().concurrency(10));
    world.activators(&["127.0.0.1", "127.0.0.9"]);
    let activator = Activator::of(world.builder().env("LOCKKEEPER_BORROW", "false"), false);
    let pods: Vec<_> = (0..2).map(|_| world.pod()).collect();
    world.endpoints(&pods.iter().map(|pod| pod.ip).collect::<Vec<_>>(), &[]);
    // Until both answered their probe, the one that did is all there is to divide.
    let seen = || pods.iter().map(|pod| pod.app.seen().len()).collect::<Vec<_>>();
    eventually("one pod is ours", || {
        let before = seen();
        for _ in 0..20 {
            assert_eq!(activator.get().status(), 200);
        }
        before.iter().zip(seen()).filter(|(before, after)| *before != after).count() == 1
    });
    // The other activator leaves: both pods are ours.
    world.api.apply(public_endpoints(NAMESPACE, REVISION).subset(&["127.0.0.1"], &[], "http", 8012));
    eventually("both are in use", || {
        assert_eq!(activator.get().status(), 200);
        pods.iter().all(|pod| !pod.app.seen().is_empty())
    });
}

/// 7.8: pods that can't be reached one by one: the cluster IP is used.
#[test]
fn given_pods_that_cannot_be_reached_when_the_cluster_ip_answers_then_requests_go_there() {
    let world = World::new(false);
    world.create(world.revision());
    // A pod stands for whatever is behind the cluster IP.
    let behind = world.pod();
    let service = crate::support::objects::service(NAMESPACE, &format!("{REVISION}-private"), &behind.ip.to_string())
        .label("serving.knative.dev/revision", REVISION)
        .label("networking.internal.knative.dev/serviceType", "Private")
        .port("http", 8012);
    world.api.apply(service);
    let hole = private_endpoints(NAMESPACE, REVISION).subset(&["192.0.2.1"], &[], "http", 8012);
    world.api.apply(hole);
    let activator = world.start();
    assert_eq!(activator.get().status(), 200);
    assert_eq!(behind.app.seen().len(), 1);

    // A3: and back by itself, with nothing to tell of it but the pod's own answer.
    let ip = free_ip();
    world.endpoints(&[ip], &[]);
    assert_eq!(activator.get().status(), 200);
    assert_eq!(behind.app.seen().len(), 2);
    let pod = world.pod_at(ip, NAMESPACE, App::ok(), |builder| builder);
    eventually("the pod is used", || {
        assert_eq!(activator.get().status(), 200);
        !pod.app.seen().is_empty()
    });
}

/// 10: the level changes while it runs.
#[test]
fn given_a_new_level_when_config_logging_changes_then_lines_of_that_level_are_written() {
    let world = World::new(false);
    let mut activator = world.start();
    assert!(activator.process.log.lines(|line| line.contains("\"DEBUG\"")).is_empty());
    world.api.apply(config_map(SYSTEM, "config-logging").entry("loglevel.activator", "debug"));
    eventually("debug lines", || {
        let mut gone = activator.ask();
        gone.shutdown();
        drop(gone);
        !activator.process.log.lines(|line| line.contains("\"DEBUG\"")).is_empty()
    });
    world.api.apply(config_map(SYSTEM, "config-logging").entry("loglevel.activator", "loud"));
    activator.process.logs("the previous settings stay");
    std::thread::sleep(Duration::from_millis(10));
}
