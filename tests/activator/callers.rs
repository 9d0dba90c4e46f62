//! Certificates of callers (`LOCKKEEPER_CLIENT_AUTH`): on the TLS port, and the activator's own where a queue asks for one.
use std::time::Duration;

use lockkeeper::local::pki::Authority;

use super::world::{Activator, NAMESPACE, Pod, REVISION, SYSTEM, World, named};
use crate::support::app::App;
use crate::support::client::Raw;
use crate::support::objects::trust_bundle;
use crate::support::pki::client_of;
use crate::support::wait::eventually;

/// A world with a pod, and an activator that treats callers as `mode` says.
fn with_callers(mode: &str, names: Option<&str>) -> (World, Pod, Activator, u16) {
    let world = World::new(true);
    world.create(world.revision());
    let mut builder = world.builder().env("LOCKKEEPER_CLIENT_AUTH", mode);
    if let Some(names) = names {
        builder = builder.env("LOCKKEEPER_CLIENT_AUTH_SANS", names);
    }
    let mut activator = Activator::unready(builder);
    eventually("it is ready", || activator.health().status() == 200);
    let port = activator.https();
    let pod = world.pod();
    world.endpoints(&[pod.ip], &[]);
    (world, pod, activator, port)
}

/// One request over TLS; none if the handshake fails.
fn ask(port: u16, world: &World, shown: Option<(&Authority, &str)>) -> Option<u16> {
    let config = client_of(&world.authority, shown);
    let mut client = Raw::tls(port, config, "kn-routing");
    client.get("/", &named(NAMESPACE, REVISION)).try_reply().map(|reply| reply.status())
}

#[test]
fn given_callers_must_show_a_certificate_when_they_come_then_only_the_configured_names_are_served() {
    let stranger = Authority::mint("stranger").unwrap();
    for (names, right, wrong) in [(None, "kn-routing", "kn-user-default"), (Some("edge, mesh"), "mesh", "kn-routing")] {
        let (world, pod, activator, port) = with_callers("require", names);
        let own = &world.authority;
        assert_eq!(ask(port, &world, Some((own, right))), Some(200), "{right}");
        assert_eq!(ask(port, &world, None), None, "without a certificate");
        assert_eq!(ask(port, &world, Some((own, wrong))), None, "{wrong}");
        assert_eq!(ask(port, &world, Some((&stranger, right))), None, "a stranger's");
        assert_eq!(pod.app.seen().len(), 1);
        // The ports without TLS know no callers: kubelet's probes come there.
        assert_eq!(activator.get().status(), 200);
    }
}

#[test]
fn given_callers_may_show_a_certificate_when_they_come_then_none_is_fine_and_a_wrong_one_is_not() {
    let stranger = Authority::mint("stranger").unwrap();
    let (world, _pod, _activator, port) = with_callers("request", None);
    assert_eq!(ask(port, &world, None), Some(200));
    assert_eq!(ask(port, &world, Some((&world.authority, "kn-routing"))), Some(200));
    assert_eq!(ask(port, &world, Some((&stranger, "kn-routing"))), None);
    assert_eq!(ask(port, &world, Some((&world.authority, "kn-user-default"))), None);
}

/// The authority of a caller is any of those that pods may have, as they are now.
#[test]
fn given_an_authority_that_is_removed_when_its_callers_come_again_then_they_are_refused() {
    let (world, _pod, _activator, port) = with_callers("require", None);
    let other = Authority::mint("lockkeeper tests, another").unwrap();
    assert_eq!(ask(port, &world, Some((&other, "kn-routing"))), None);
    world.api.apply(trust_bundle(SYSTEM, "bundle", other.pem()));
    eventually("it is trusted", || ask(port, &world, Some((&other, "kn-routing"))) == Some(200));
    world.api.delete("configmaps", SYSTEM, "bundle");
    eventually("it is no longer trusted", || ask(port, &world, Some((&other, "kn-routing"))).is_none());
    assert_eq!(ask(port, &world, Some((&world.authority, "kn-routing"))), Some(200));
}

/// What an authority vouched for does not outlive it: connections of its callers end, those under way after their response,
/// and those of callers without a certificate stay.
#[test]
fn given_open_connections_when_their_callers_authority_is_removed_then_they_end_and_others_stay() {
    let (world, pod, _activator, port) = with_callers("request", None);
    let other = Authority::mint("lockkeeper tests, another").unwrap();
    world.api.apply(trust_bundle(SYSTEM, "bundle", other.pem()));
    eventually("it is trusted", || ask(port, &world, Some((&other, "kn-routing"))) == Some(200));
    let open = |shown| Raw::tls(port, client_of(&world.authority, shown), "kn-routing");
    let (mut idle, mut busy) = (open(Some((&other, "kn-routing"))), open(Some((&other, "kn-routing"))));
    let mut anonymous = open(None);
    let headers = named(NAMESPACE, REVISION);
    for client in [&mut idle, &mut busy, &mut anonymous] {
        assert_eq!(client.get("/", &headers).reply().status(), 200);
    }
    // Of a request that waits, the response is still to come.
    world.endpoints(&[], &[]);
    eventually("there is no pod", || {
        let mut client = open(None);
        client.get("/", &headers).reply_within(Duration::from_millis(300)).is_none()
    });
    busy.get("/", &headers);

    world.api.delete("configmaps", SYSTEM, "bundle");

    assert!(idle.closes(), "at once");
    world.endpoints(&[pod.ip], &[]);
    let last = busy.reply();
    assert_eq!(last.status(), 200);
    assert!(busy.closes(), "after its response");
    assert_eq!(anonymous.get("/", &headers).reply().status(), 200);
}

/// Both hops verified in both directions: the activator shows `routing-serving-certs` to a queue that asks.
#[test]
fn given_a_queue_that_requires_a_certificate_when_the_activator_calls_then_it_is_served() {
    let world = World::new(true);
    world.create(world.revision());
    let activator = world.start();
    let pod = world.pod_with(App::ok(), |builder| builder.env("LOCKKEEPER_CLIENT_AUTH", "require"));
    world.endpoints(&[pod.ip], &[]);
    assert_eq!(activator.get().status(), 200);
    let refused = world.pod_with(App::ok(), |builder| {
        builder.env("LOCKKEEPER_CLIENT_AUTH", "require").env("LOCKKEEPER_CLIENT_AUTH_SANS", "somebody-else")
    });
    world.endpoints(&[refused.ip], &[]);
    eventually("the other pod is in use", || activator.get().status() == 502);
    assert!(refused.app.seen().is_empty());
}
