//! The API server is away, or can't be asked for now: what was known stays, and what changed is known soon after.
use std::cell::Cell;
use std::collections::HashMap;
use std::rc::Rc;
use std::time::{Duration, Instant};

use lockkeeper::knative::config_map::ConfigMap;
use lockkeeper::knative::endpoints::Endpoints;
use lockkeeper::knative::revision::Revision;
use lockkeeper::knative::service::Service;
use lockkeeper::kube::source::Flags;
use lockkeeper::kube::{Selection, Source};

use super::{names, on_the_control_side, source, until, within};
use crate::support::apiserver::{ApiServer, Cut};
use crate::support::objects::{private_endpoints, private_service, revision};

/// The server is gone for a while: the state stays, and the watch comes back by itself.
#[test]
fn given_a_server_that_goes_away_when_it_comes_back_then_the_state_stayed_and_follows_again() {
    let server = ApiServer::start();
    server.apply(revision("demo", "a-00001"));
    on_the_control_side(async {
        let revisions = source(&server).objects::<Revision>(Selection::everywhere());
        within("the set is read", revisions.synced()).await;
        until("it is connected", || revisions.counters().connected()).await;
        server.stop();
        until("attempts fail", || revisions.counters().failures() >= 3).await;
        assert!(!revisions.counters().connected());
        assert_eq!(names(&revisions), ["a-00001"]);
        assert!(revisions.is_synced());

        server.apply(revision("demo", "b-00001"));
        server.restart();
        until("the change came", || revisions.len() == 2).await;
        assert!(revisions.counters().connected());
        assert_eq!(revisions.counters().relists(), 1);
    });
}

/// However long it was gone, and whatever was watched, what changed meanwhile is known soon after its return.
#[test]
fn given_a_server_that_was_gone_for_long_when_it_comes_back_then_all_kinds_follow_within_seconds() {
    let server = ApiServer::start();
    server.apply(revision("demo", "a-00001"));
    on_the_control_side(async {
        let source = source(&server);
        let revisions = source.objects::<Revision>(Selection::everywhere());
        let endpoints = source.objects::<Endpoints>(Selection::everywhere());
        let services = source.objects::<Service>(Selection::everywhere());
        let all = [revisions.counters(), endpoints.counters(), services.counters()];
        until("all are followed", || all.iter().all(|counters| counters.connected())).await;
        server.stop();
        // The longest waits have begun.
        until("attempts fail", || all.iter().all(|counters| counters.failures() >= 6)).await;
        server.apply(revision("demo", "b-00001"));
        server.apply(private_endpoints("demo", "b-00001").subset(&["10.0.0.1"], &[], "http", 8012));
        server.apply(private_service("demo", "b-00001", "None"));

        let start = Instant::now();
        server.restart();
        until("all changes came", || (revisions.len(), endpoints.len(), services.len()) == (2, 1, 1)).await;
        // Up to half a second and three; the rest is this machine's.
        assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
        assert!(all.iter().all(|counters| counters.relists() == 1));
    });
}

/// While nobody answers, one attempt to connect counts for all watches.
#[test]
fn given_many_watches_when_there_is_no_connection_then_few_are_tried() {
    let server = ApiServer::start();
    let mut env: HashMap<String, String> = server.env().into_iter().collect();
    on_the_control_side(async {
        let tried = Rc::new(Cell::new(0));
        let deaf = tokio::net::TcpListener::bind((env["KUBERNETES_SERVICE_HOST"].as_str(), 0)).await.unwrap();
        env.insert("KUBERNETES_SERVICE_PORT".to_owned(), deaf.local_addr().unwrap().port().to_string());
        let counted = tried.clone();
        // Takes connections, and ends them before any handshake.
        tokio::task::spawn_local(async move {
            while deaf.accept().await.is_ok() {
                counted.set(counted.get() + 1);
            }
        });
        let start = Instant::now();
        let source = Source::find(&env, &Flags::default()).unwrap();
        let watched =
            |number: usize| source.objects::<ConfigMap>(Selection::within("demo").named(format!("map-{number}")));
        let maps: Vec<_> = (0..100).map(watched).collect();
        until("all have failed", || maps.iter().all(|maps| maps.counters().failures() >= 3)).await;
        let most = start.elapsed().as_millis() / 500 + 1;
        assert!((1..=most).contains(&tried.get()), "{} of {most}", tried.get());
    });
}

/// A server that is busy, or starting, or whose balancer answers in its place: nothing is read again for that.
#[test]
fn given_a_server_that_is_not_ready_when_a_watch_is_taken_up_then_it_goes_on_where_it_was() {
    for status in [502, 403] {
        let server = ApiServer::start();
        server.apply(revision("demo", "a-00001"));
        on_the_control_side(async {
            let revisions = source(&server).objects::<Revision>(Selection::everywhere());
            within("the set is read", revisions.synced()).await;
            until("the watch runs", || server.watches("revisions") == 1).await;
            server.fail_next("revisions", 4, status);
            server.cut("revisions", Cut::Clean);
            until("it goes on", || server.requests_for("revisions").len() == 6).await;
            server.apply(revision("demo", "b-00001"));
            until("the change came", || revisions.len() == 2).await;
            assert_eq!(revisions.counters().relists(), 1, "{status}");
        });
    }
}

/// A server that is not there yet: nothing is synced until it is.
#[test]
fn given_no_server_when_it_comes_later_then_the_set_is_read_then() {
    let server = ApiServer::start();
    server.stop();
    server.apply(revision("demo", "a-00001"));
    on_the_control_side(async {
        let revisions = source(&server).objects::<Revision>(Selection::everywhere());
        until("attempts fail", || revisions.counters().failures() >= 2).await;
        assert!(!revisions.is_synced());
        server.restart();
        within("the set is read", revisions.synced()).await;
        assert_eq!(names(&revisions), ["a-00001"]);
    });
}

/// Errors of the server are waited out, with what it asks for; the streaming list stays possible.
#[test]
fn given_errors_when_the_set_is_asked_for_then_it_is_asked_for_again() {
    for status in [503, 429, 401, 403] {
        let server = ApiServer::start();
        server.apply(revision("demo", "a-00001"));
        server.fail_next("revisions", 2, status);
        on_the_control_side(async {
            let revisions = source(&server).objects::<Revision>(Selection::everywhere());
            within("the set is read", revisions.synced()).await;
            assert_eq!(revisions.counters().failures(), 2);
        });
        let asked = server.requests_for("revisions");
        assert_eq!(asked.iter().map(|audit| audit.status).collect::<Vec<_>>(), [status, status, 200]);
        assert!(asked.iter().all(|audit| audit.parameter("sendInitialEvents") == "true"));
    }
}

/// A version that the server refuses again and again, with whatever words, is given up.
#[test]
fn given_a_server_that_keeps_refusing_our_version_when_it_was_asked_often_then_the_set_is_read_again() {
    let server = ApiServer::start();
    server.apply(revision("demo", "a-00001"));
    on_the_control_side(async {
        let revisions = source(&server).objects::<Revision>(Selection::everywhere());
        within("the set is read", revisions.synced()).await;
        until("the watch runs", || server.watches("revisions") == 1).await;
        server.fail_next("revisions", 4, 504);
        server.cut("revisions", Cut::Clean);
        until("the set was read again", || revisions.counters().relists() == 2).await;
        server.apply(revision("demo", "b-00001"));
        until("the change came", || revisions.len() == 2).await;
    });
}
