//! Bad input: an object costs itself alone, an update of a config map nothing, and whatever is wrong is named.
use super::world::{Activator, NAMESPACE, REVISION, SYSTEM, World};
use crate::support::binary::Stream;
use crate::support::objects::{config_map, private_endpoints, private_service, revision};
use crate::support::wait::eventually;

/// Everything fatal at start says which object, field and value.
#[test]
fn given_a_config_map_that_cannot_be_used_when_started_then_it_ends_with_1_and_names_map_key_and_value() {
    for (map, key, value) in [
        ("config-logging", "loglevel.activator", "loud"),
        ("config-observability", "metrics-protocol", "pigeon"),
        ("config-observability", "tracing-sampling-rate", "often"),
        ("config-network", "system-internal-tls", "perhaps"),
    ] {
        let world = World::new(false);
        world.api.apply(config_map(SYSTEM, map).entry(key, value));
        let (code, log) = world.builder().finish();
        assert_eq!(code, Some(1), "{map}: {log}");
        let fatal = log.lines().find(|line| line.contains(value)).unwrap_or_else(|| panic!("{map}: {log}"));
        assert!(fatal.contains(map) && fatal.contains(key), "{fatal}");
    }
}

/// The values before stay in force, all of them, and the log says why.
#[test]
fn given_a_config_map_in_force_when_an_update_cannot_be_used_then_the_values_before_stay() {
    let world = World::new(false);
    world.create(world.revision());
    let observability = || {
        config_map(SYSTEM, "config-observability")
            .entry("logging.enable-request-log", "true")
            .entry("logging.request-log-template", "{{.Response.Code}}.")
    };
    world.api.apply(observability());
    let mut activator = world.start();
    let pod = world.pod();
    world.endpoints(&[pod.ip], &[]);
    let lines = |activator: &Activator| activator.process.log.of(Stream::Stdout).len();
    let logs_requests = |activator: &Activator| {
        let before = lines(activator);
        assert_eq!(activator.get().status(), 200);
        eventually("a line", || lines(activator) > before);
    };
    logs_requests(&activator);

    // One bad value spoils the whole update, and the good one beside it.
    world
        .api
        .apply(observability().entry("logging.enable-request-log", "false").entry("tracing-sampling-rate", "often"));
    let told = activator.process.logs("the previous settings stay");
    assert!(told.contains("config-observability") && told.contains("tracing-sampling-rate") && told.contains("often"));
    logs_requests(&activator);

    world.api.apply(observability().entry("logging.request-log-template", "{{.Response.Code"));
    activator.process.logs("unclosed action; the previous settings stay");
    logs_requests(&activator);
    assert!(activator.process.log.of(Stream::Stdout).iter().all(|line| line == "200."));
}

/// Objects of every kind that are not what they should be: each is named, and nobody else notices.
#[test]
fn given_malformed_objects_when_they_come_at_start_and_later_then_each_is_named_and_others_are_served() {
    let world = World::new(false);
    let broken = |number: usize| {
        let name = format!("broken{number}-00001");
        [
            revision(NAMESPACE, &name).set("/spec/containerConcurrency", "many"),
            private_endpoints(NAMESPACE, &name).set("/subsets", "none"),
            private_service(NAMESPACE, &name, "10.0.0.1").set("/spec/ports", 80),
        ]
    };
    broken(0).into_iter().for_each(|object| world.api.apply(object));
    world.create(world.revision());
    let mut activator = world.start();
    let pod = world.pod();
    world.endpoints(&[pod.ip], &[]);
    assert_eq!(activator.get().status(), 200);
    broken(1).into_iter().for_each(|object| world.api.apply(object));

    for number in 0..2 {
        for (field, words) in [
            ("containerConcurrency", "broken{}-00001"),
            ("subsets", "broken{}-00001-private"),
            ("ports", "broken{}-00001-private"),
        ] {
            let words = words.replace("{}", &number.to_string());
            eventually(&format!("{field} of {words} is named"), || {
                !activator.process.log.lines(|line| line.contains(&words) && line.contains(field)).is_empty()
            });
        }
        assert_eq!(activator.ask_for(&format!("broken{number}-00001"), "").reply().status(), 404);
    }
    assert_eq!(activator.get().status(), 200);

    // What was known of an object stays when its next version is broken.
    world.api.apply(private_endpoints(NAMESPACE, REVISION).set("/subsets", "none"));
    world.api.apply(world.revision().set("/spec/timeoutSeconds", "soon"));
    activator.process.logs("timeoutSeconds");
    assert_eq!(activator.get().status(), 200);
}
