//! Thousands of revisions that nobody calls: what they hold, how soon the activator is ready, and that one more is known at
//! once; from the API server and from a directory of manifests.
use std::fmt::Write as _;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::world::{Activator, NAMESPACE, SYSTEM, World, named};
use crate::support::binary::Builder;
use crate::support::client::Raw;
use crate::support::objects::{Object, config_map, private_endpoints, private_service, public_endpoints, revision};
use crate::support::wait::{eventually, patience};

/// A revision at zero as a cluster has it: no pods, the activators in its path, and metadata of a real one.
fn idle(number: usize) -> [Object; 4] {
    let name = format!("service-{number}-00001");
    let real = |object: Object| {
        object
            .annotation("serving.knative.dev/creator", "system:serviceaccount:argocd:argocd-application-controller")
            .annotation("autoscaling.knative.dev/target-burst-capacity", "211")
            .label("app.kubernetes.io/name", &format!("service-{number}"))
    };
    let activators = ["10.0.0.1", "10.0.0.2", "10.0.0.3"];
    [
        real(revision(NAMESPACE, &name)),
        real(private_endpoints(NAMESPACE, &name)),
        real(public_endpoints(NAMESPACE, &name).subset(&activators, &[], "http", 8012)),
        real(private_service(NAMESPACE, &name, &format!("10.96.{}.{}", number / 250 % 250, number % 250))),
    ]
}

/// What a process that knows `count` of them holds, in KiB of its own; it has to answer for one that comes then.
fn measure(world: &World, builder: Builder, count: usize, add: impl Fn(&[Object])) -> u64 {
    let start = Instant::now();
    let mut process = builder.spawn();
    // In a debug build, on a busy machine, beside the server of all these objects.
    let limit = patience() * 6;
    let listens =
        |process: &crate::support::binary::Binary| !process.log.lines(|l| l.contains("server h2c:")).is_empty();
    while !listens(&process) {
        assert!(start.elapsed() < limit, "no port after {limit:?}");
        std::thread::sleep(Duration::from_millis(20));
    }
    let ready = start.elapsed();
    let (http1, h2c) = (process.port_of("server http1:"), process.port_of("server h2c:"));
    let activator = Activator { process, http1, h2c };
    eventually("it is ready", || activator.health().status() == 200);
    // What the start left free goes back to the kernel within seconds; the least of a while is what idle means.
    let until = Instant::now() + Duration::from_secs(8);
    let (mut own, mut all) = (u64::MAX, u64::MAX);
    while Instant::now() < until {
        (own, all) = (own.min(activator.process.memory_own()), all.min(activator.process.memory()));
        std::thread::sleep(Duration::from_millis(100));
    }
    let start = Instant::now();
    add(&idle(count));
    let mut client = Raw::plain(activator.http1);
    let one_more = named(NAMESPACE, &format!("service-{count}-00001"));
    eventually("one more is known", || {
        client = Raw::plain(activator.http1);
        // Held, and so not answered, is what it is once it is known.
        client.get("/", &one_more).reply_within(Duration::from_millis(50)).is_none()
    });
    let known = start.elapsed();
    assert!(!world.autoscaler.told().is_empty(), "it is woken");
    println!(
        "{count} revisions: {:.1} MiB of its own, {:.1} MiB in all; ports open after {ready:?}; one more known after {known:?}",
        own as f64 / 1024.0,
        all as f64 / 1024.0,
    );
    own
}

fn from_the_api_server(count: usize) -> u64 {
    let world = World::new(false);
    world.api.apply_all((0..count).flat_map(|number| idle(number).map(Value::from)));
    let add = |objects: &[Object]| objects.iter().for_each(|object| world.api.apply(object.clone()));
    measure(&world, world.builder(), count, add)
}

fn from_a_directory(count: usize) -> u64 {
    let world = World::new(false);
    let dir = tempfile::tempdir().unwrap();
    let write = |name: &str, objects: &[Object]| {
        let mut text = String::new();
        objects.iter().for_each(|object| write!(text, "---\n{}", object.manifest()).unwrap());
        std::fs::write(dir.path().join(name), text).unwrap();
    };
    let maps = ["config-logging", "config-observability", "config-network"].map(|name| config_map(SYSTEM, name));
    write("config.yaml", &maps);
    for number in 0..count {
        write(&format!("service-{number}.yaml"), &idle(number));
    }
    let builder = world.builder().env("LOCKKEEPER_MANIFEST_DIR", dir.path().display());
    measure(&world, builder, count, |objects| write("one-more.yaml", objects))
}

/// The figures are 40 MiB at a thousand and 150 MiB at ten thousand, of which 24 are pages of the binary.
const THOUSAND: u64 = 16 << 10;
const TEN_THOUSAND: u64 = 126 << 10;

#[test]
fn given_a_thousand_idle_revisions_when_nobody_calls_then_they_hold_less_than_40_mib() {
    let own = from_the_api_server(1000);
    assert!(own <= THOUSAND, "{own} KiB");
    let own = from_a_directory(1000);
    assert!(own <= THOUSAND, "{own} KiB");
}

#[test]
#[ignore = "takes a minute and a gigabyte"]
fn given_ten_thousand_idle_revisions_when_nobody_calls_then_they_hold_less_than_150_mib() {
    let own = from_the_api_server(10_000);
    assert!(own <= TEN_THOUSAND, "{own} KiB");
    let own = from_a_directory(10_000);
    assert!(own <= TEN_THOUSAND, "{own} KiB");
}
