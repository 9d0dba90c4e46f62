//! Contract, sections 3.3 and 3.7: an object is ready when every replica serves it, also those that come meanwhile.
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::cluster::Cluster;
use super::harness::{NAMESPACE, app, simple};
use crate::support::app::{App, ok, response};
use crate::support::binary::Binary;
use crate::support::client::Raw;
use crate::support::wait::eventually;

fn reason(cluster: &Cluster) -> String {
    cluster.condition(NAMESPACE, "hello", "Ready").map(|ready| ready.1).unwrap_or_default()
}

fn ports(replica: &mut Binary) -> Vec<(&'static str, u16)> {
    let ports = [
        ("HTTP", "Starting http server:"),
        ("HTTPS", "Starting https server:"),
        ("INTERNAL_HTTP", "Starting internal http server:"),
        ("INTERNAL_HTTPS", "Starting internal https server:"),
        ("PROBE_HTTP", "Starting probe http server:"),
        ("PROBE_HTTPS", "Starting probe https server:"),
    ];
    ports.map(|(name, told)| (name, replica.port_of(told))).into()
}

/// One that is listed and not up yet holds the object back; once it is up, the object is ready, on both.
#[test]
fn given_a_replica_that_does_not_answer_when_it_comes_up_late_then_the_object_is_ready_and_it_serves_it() {
    let (cluster, backend) = (Cluster::new(), app("one"));
    cluster.replicas(&["127.0.0.1", "127.0.0.2"]);
    cluster.backend("app", backend.port());
    let mut first = cluster.replica("one");
    cluster.api.apply(simple("hello", "a", "app"));
    eventually("the replicas are asked", || reason(&cluster) == "Uninitialized" && backend.count() > 0);
    assert_eq!(cluster.writes("hello"), 1, "waiting");

    let mut builder = cluster.builder("two").env("LOCKKEEPER_LISTEN_ADDRESS", "127.0.0.2");
    for (name, port) in ports(&mut first) {
        builder = builder.env(&format!("LOCKKEEPER_{name}_PORT"), port);
    }
    let mut second = builder.spawn();
    cluster.ready(NAMESPACE, "hello");

    let address = SocketAddr::from(([127, 0, 0, 2], second.port_of("Starting http server:")));
    let reply = Raw::plain_at(address).send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").reply();
    assert_eq!(reply.text(), "one");
    assert_eq!(cluster.writes("hello"), 2, "waiting, ready: by the first one alone");
}

/// One that joins while others are still being asked is asked as well (Kourier's list is that of the beginning); one that
/// leaves is not waited for.
#[test]
fn given_a_replica_that_joins_while_an_object_waits_when_it_lacks_the_routes_then_the_object_waits_for_it_too() {
    let (cluster, backend) = (Cluster::new(), app("one"));
    cluster.replicas(&["127.0.0.1", "127.0.0.2"]);
    cluster.backend("app", backend.port());
    let mut replica = cluster.replica("one");
    let port = replica.port_of("Starting probe http server:");
    cluster.api.apply(simple("hello", "a", "app"));
    eventually("the replicas are asked", || reason(&cluster) == "Uninitialized" && backend.count() > 0);

    let has_routes = Arc::new(AtomicBool::new(false));
    let listener = TcpListener::bind((Ipv4Addr::new(127, 0, 0, 3), port)).unwrap();
    let late = App::listen(listener, {
        let has_routes = has_routes.clone();
        move |conn| {
            while conn.request().is_some() {
                match has_routes.load(Ordering::Relaxed) {
                    false => conn.send(response("404 Not Found", &[], "")),
                    // Without the hash: as if somebody on the way had taken it off.
                    true => conn.send(ok("")),
                }
            }
        }
    });
    cluster.replicas(&["127.0.0.1", "127.0.0.3"]);
    eventually("the late one is asked, again and again", || late.count() > 2);
    assert_eq!(reason(&cluster), "Uninitialized");

    has_routes.store(true, Ordering::Relaxed);
    cluster.ready(NAMESPACE, "hello");
}
