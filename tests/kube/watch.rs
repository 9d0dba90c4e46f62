//! List and watch, feature by feature.
use std::time::Duration;

use lockkeeper::knative::config_map::ConfigMap;
use lockkeeper::knative::endpoints::{Endpoints, Role};
use lockkeeper::knative::revision::{LABEL_REVISION, Protocol, Revision};
use lockkeeper::knative::service::{Service, private};
use lockkeeper::kube::{Key, Selection};

use super::{names, next, on_the_control_side, source, until, within};
use crate::support::apiserver::{ApiServer, Cut};
use crate::support::objects::{config_map, private_endpoints, private_service, public_endpoints, revision, service};

/// API concepts, streaming lists: the set is complete with the bookmark that says so, and not before.
#[test]
fn given_objects_when_watched_then_one_streaming_list_gives_them_and_their_changes() {
    let server = ApiServer::start();
    server.apply(revision("demo", "a-00001").concurrency(3));
    server.apply(revision("demo", "b-00001").h2c());
    on_the_control_side(async {
        let revisions = source(&server).objects::<Revision>(Selection::everywhere());
        assert!(!revisions.is_synced());
        within("the set is read", revisions.synced()).await;
        assert_eq!(names(&revisions), ["a-00001", "b-00001"]);
        assert_eq!(revisions.find("demo/a-00001").unwrap().container_concurrency, 3);
        assert_eq!(revisions.get(&Key::new("demo", "b-00001")).unwrap().protocol, Protocol::H2c);

        let mut changes = revisions.changes();
        let mut first = [next(&mut changes).await, next(&mut changes).await];
        first.sort();
        assert_eq!(first, ["+a-00001", "+b-00001"]);
        server.apply(revision("demo", "c-00001"));
        assert_eq!(next(&mut changes).await, "+c-00001");
        server.delete("revisions", "demo", "a-00001");
        assert_eq!(next(&mut changes).await, "-a-00001");
        server.apply(revision("demo", "c-00001").timeout(7));
        assert_eq!(next(&mut changes).await, "+c-00001");
        assert_eq!(revisions.find("demo/c-00001").unwrap().timeout, Some(Duration::from_secs(7)));
        assert!(changes.try_next().is_none());
        assert_eq!((revisions.counters().relists(), revisions.counters().events()), (1, 3));
    });

    let asked = server.requests_for("revisions");
    assert_eq!((asked.len(), server.connections()), (1, 1), "{asked:?}");
    assert_eq!(asked[0].path, "/apis/serving.knative.dev/v1/revisions");
    assert_eq!(asked[0].protocol, "HTTP/2.0");
    for (name, value) in
        [("sendInitialEvents", "true"), ("resourceVersionMatch", "NotOlderThan"), ("allowWatchBookmarks", "true")]
    {
        assert_eq!(asked[0].parameter(name), value);
    }
    let seconds: u64 = asked[0].parameter("timeoutSeconds").parse().unwrap();
    assert!((300..=600).contains(&seconds), "{seconds}");
}

/// Servers without the feature answer 422 or 400, over an old etcd 500; a list in pages of 500 gives the set then, once and for all.
#[test]
fn given_a_server_that_refuses_streaming_lists_when_watched_then_pages_give_the_set() {
    for status in [422, 400, 500] {
        let server = ApiServer::start();
        server.refuse_streaming_lists(Some(status));
        server.apply_all((0..1201).map(|i| revision("demo", &format!("r{i}-00001")).into()));
        on_the_control_side(async {
            let revisions = source(&server).objects::<Revision>(Selection::everywhere());
            within("the set is read", revisions.synced()).await;
            assert_eq!(revisions.len(), 1201);
            server.apply(revision("demo", "new-00001"));
            until("the new one is there", || revisions.len() == 1202).await;
        });

        let asked = server.requests_for("revisions");
        let limits: Vec<&str> = asked.iter().filter(|a| !a.is_watch()).map(|a| a.parameter("limit")).collect();
        assert_eq!(limits, ["500", "500", "500"]);
        let watch = asked.last().unwrap();
        assert!(watch.is_watch() && watch.parameter("resourceVersion") == "2201", "{watch:?}");
    }
}

/// A server that knows nothing of streaming lists takes them for watches: the set is never complete that way.
#[test]
fn given_a_server_that_takes_streaming_lists_for_watches_when_it_sends_a_bookmark_then_pages_give_the_set() {
    let server = ApiServer::start();
    server.ignore_streaming_lists();
    server.apply(revision("demo", "a-00001"));
    on_the_control_side(async {
        let revisions = source(&server).objects::<Revision>(Selection::everywhere());
        until("its objects came", || revisions.len() == 1).await;
        assert!(!revisions.is_synced());
        server.bookmark();
        within("the set is read", revisions.synced()).await;
        assert_eq!(revisions.counters().relists(), 2);
    });
}

/// A server that forgets the list of which pages are asked for answers 410; the list is read in one piece then.
#[test]
fn given_pages_that_expire_when_the_next_is_asked_for_then_the_whole_list_is() {
    let server = ApiServer::start();
    server.refuse_streaming_lists(Some(422));
    server.apply_all((0..600).map(|i| revision("demo", &format!("r{i}-00001")).into()));
    on_the_control_side(async {
        let revisions = source(&server).objects::<Revision>(Selection::everywhere());
        until("the first page is asked for", || {
            server.expire_pages();
            revisions.is_synced()
        })
        .await;
        assert_eq!(revisions.len(), 600);
    });
}

/// A watch that ends, in order or not, is taken up where it was; nothing is listed again.
#[test]
fn given_a_watch_that_is_cut_when_objects_change_then_it_goes_on_where_it_was() {
    let server = ApiServer::start();
    server.apply(revision("demo", "a-00001"));
    on_the_control_side(async {
        let revisions = source(&server).objects::<Revision>(Selection::everywhere());
        within("the set is read", revisions.synced()).await;
        for (i, cut) in [Cut::Clean, Cut::MidEvent, Cut::Clean, Cut::MidEvent].into_iter().enumerate() {
            until("the watch runs", || server.watches("revisions") == 1).await;
            server.cut("revisions", cut);
            until("the watch was cut", || server.requests_for("revisions").len() == i + 2).await;
            server.apply(revision("demo", &format!("n{i}-00001")));
            until("the change came", || revisions.len() == i + 2).await;
        }
        assert_eq!(revisions.counters().relists(), 1);
    });
    for (i, audit) in server.requests_for("revisions").iter().skip(1).enumerate() {
        assert_eq!(audit.parameter("resourceVersion"), (1001 + i).to_string(), "{audit:?}");
    }
}

/// 410, as an answer and as an event: the set is read again, and what was deleted meanwhile is told.
#[test]
fn given_a_server_that_forgot_our_version_when_the_watch_is_cut_then_the_set_is_read_again() {
    let server = ApiServer::start();
    server.apply(revision("demo", "a-00001"));
    server.apply(revision("demo", "b-00001"));
    on_the_control_side(async {
        let revisions = source(&server).objects::<Revision>(Selection::everywhere());
        within("the set is read", revisions.synced()).await;
        let mut changes = revisions.changes();
        next(&mut changes).await;
        next(&mut changes).await;
        for (round, cut) in [Cut::Clean, Cut::Expired].into_iter().enumerate() {
            until("the watch runs", || server.watches("revisions") == 1).await;
            server.hold("revisions");
            server.delete("revisions", "demo", ["a-00001", "b-00001"][round]);
            server.apply(revision("demo", &format!("n{round}-00001")));
            server.compact();
            server.cut("revisions", cut);
            server.release("revisions");
            let mut told = [next(&mut changes).await, next(&mut changes).await];
            told.sort();
            assert_eq!(told, [format!("+n{round}-00001"), format!("-{}", ["a-00001", "b-00001"][round])]);
        }
        assert_eq!(revisions.counters().relists(), 3);
    });
}

/// A bookmark moves the version on without an event, so that a quiet watch survives forgetfulness.
#[test]
fn given_a_bookmark_when_the_watch_is_cut_then_it_goes_on_after_the_bookmark() {
    let server = ApiServer::start();
    server.apply(revision("demo", "a-00001"));
    on_the_control_side(async {
        let revisions = source(&server).objects::<Revision>(Selection::within("demo"));
        within("the set is read", revisions.synced()).await;
        server.apply(revision("demo", "b-00001"));
        until("the change came", || revisions.len() == 2).await;
        server.bookmark();
        server.cut("revisions", Cut::Clean);
        until("the watch goes on", || server.requests_for("revisions").len() == 2).await;
    });
    assert_eq!(server.requests_for("revisions")[1].parameter("resourceVersion"), "1002");
}

/// A stream that ends before its set is complete gives no set, and takes nothing away.
#[test]
fn given_a_list_that_is_cut_when_it_is_read_again_then_nothing_was_lost_in_between() {
    let server = ApiServer::start();
    server.apply_all((0..300).map(|i| revision("demo", &format!("r{i}-00001")).into()));
    on_the_control_side(async {
        server.slow(512, Duration::from_millis(1));
        let revisions = source(&server).objects::<Revision>(Selection::everywhere());
        until("a part has come", || !revisions.is_empty()).await;
        server.stop();
        until("the loss is noticed", || revisions.counters().failures() >= 1).await;
        assert!(!revisions.is_synced() && revisions.len() < 300);
        let before = revisions.len();
        server.slow(1 << 20, Duration::ZERO);
        server.restart();
        until("nothing is lost", || {
            assert!(revisions.len() >= before);
            revisions.is_synced()
        })
        .await;
        assert_eq!(revisions.len(), 300);
    });
}

/// Events in pieces of a few bytes are put together.
#[test]
fn given_a_slow_stream_when_events_come_in_pieces_then_they_are_whole() {
    let server = ApiServer::start();
    server.slow(7, Duration::from_micros(100));
    server.apply(config_map("demo", "a").entry("text", "line\nline\u{2028}\"quoted\" ✓"));
    on_the_control_side(async {
        let maps = source(&server).objects::<ConfigMap>(Selection::everywhere());
        within("the set is read", maps.synced()).await;
        server.apply(config_map("demo", "b").entry("x", "y"));
        until("the change came", || maps.len() == 2).await;
        assert_eq!(maps.find("demo/a").unwrap().data["text"], "line\nline\u{2028}\"quoted\" ✓");
    });
}

/// An object that can't be read costs itself, keeps what was known of it, and is counted.
#[test]
fn given_an_object_with_a_bad_field_when_read_then_the_others_are_there_and_its_last_version_stays() {
    for refuse in [None, Some(422)] {
        let server = ApiServer::start();
        server.refuse_streaming_lists(refuse);
        server.apply(revision("demo", "good-00001"));
        server.apply(revision("demo", "bad-00001").set("/spec/timeoutSeconds", "soon"));
        on_the_control_side(async {
            let revisions = source(&server).objects::<Revision>(Selection::everywhere());
            within("the set is read", revisions.synced()).await;
            assert_eq!(names(&revisions), ["good-00001"]);
            assert_eq!(revisions.counters().unreadable(), 1);

            server.apply(revision("demo", "good-00001").set("/spec/containerConcurrency", -1));
            until("the bad version came", || revisions.counters().unreadable() == 2).await;
            assert_eq!(revisions.find("demo/good-00001").unwrap().container_concurrency, 0);
            server.apply(revision("demo", "bad-00001").timeout(9));
            until("it was repaired", || revisions.len() == 2).await;
        });
    }
}

/// Deleted and made again between two looks: whoever follows is told of both, since another uid is another object.
#[test]
fn given_an_object_that_is_replaced_when_nobody_looked_then_its_deletion_is_told_first() {
    let server = ApiServer::start();
    server.apply(revision("demo", "a-00001").concurrency(1));
    on_the_control_side(async {
        let revisions = source(&server).objects::<Revision>(Selection::everywhere());
        within("the set is read", revisions.synced()).await;
        let mut changes = revisions.changes();
        assert_eq!(next(&mut changes).await, "+a-00001");

        server.delete("revisions", "demo", "a-00001");
        server.apply(revision("demo", "a-00001").concurrency(2));
        until("both came", || revisions.find("demo/a-00001").is_some_and(|r| r.container_concurrency == 2)).await;
        assert_eq!(next(&mut changes).await, "-a-00001");
        assert_eq!(next(&mut changes).await, "+a-00001");
        assert!(changes.try_next().is_none());
    });
}

/// Selectors go to the server: what is not wanted never comes here, and what stops being wanted is deleted.
#[test]
fn given_selections_when_watched_then_only_they_are_asked_for() {
    let server = ApiServer::start();
    server.apply(config_map("knative-serving", "config-network").entry("a", "b"));
    server.apply(config_map("knative-serving", "other"));
    server.apply(config_map("demo", "config-network"));
    server.apply(config_map("knative-serving", "bundle").label("networking.knative.dev/trust-bundle", ""));
    on_the_control_side(async {
        let source = source(&server);
        let named = source.objects::<ConfigMap>(Selection::within("knative-serving").named("config-network"));
        let bundles = Selection::within("knative-serving").labelled("networking.knative.dev/trust-bundle");
        let bundles = source.objects::<ConfigMap>(bundles);
        within("the sets are read", async { tokio::join!(named.synced(), bundles.synced()) }).await;
        assert_eq!((names(&named), names(&bundles)), (vec!["config-network".to_owned()], vec!["bundle".to_owned()]));
        server.apply(config_map("knative-serving", "bundle"));
        until("the bundle lost its label", || bundles.is_empty()).await;
        server.apply(config_map("knative-serving", "other").label("networking.knative.dev/trust-bundle", "x"));
        until("another one gained it", || bundles.len() == 1).await;
    });
    let asked = server.requests_for("configmaps");
    assert!(asked.iter().all(|audit| audit.path == "/api/v1/namespaces/knative-serving/configmaps"), "{asked:?}");
    assert!(asked.iter().any(|audit| audit.parameter("fieldSelector") == "metadata.name=config-network"));
    assert!(asked.iter().any(|audit| audit.parameter("labelSelector") == "networking.knative.dev/trust-bundle"));
}

/// All watches share one connection, and a watch ends when nobody holds its objects any more.
#[test]
fn given_objects_that_nobody_holds_when_dropped_then_their_watch_ends() {
    let server = ApiServer::start();
    server.apply(private_endpoints("demo", "a-00001").subset(&["10.0.0.1"], &[], "http", 8012));
    on_the_control_side(async {
        let source = source(&server);
        let revisions = source.objects::<Revision>(Selection::everywhere());
        let endpoints = source.objects::<Endpoints>(Selection::everywhere());
        within("the sets are read", async { tokio::join!(revisions.synced(), endpoints.synced()) }).await;
        until("both run", || server.watches("revisions") + server.watches("endpoints") == 2).await;
        let changes = revisions.changes();
        drop(revisions);
        tokio::task::yield_now().await;
        assert_eq!(server.watches("revisions"), 1);
        drop(changes);
        until("one ended", || server.watches("revisions") == 0).await;
        assert_eq!(server.watches("endpoints"), 1);
    });
}

/// What stands between a gateway and a revision: both Endpoints and the private Service.
#[test]
fn given_what_belongs_to_a_revision_when_read_then_each_is_what_its_labels_say() {
    let server = ApiServer::start();
    server.apply(private_endpoints("demo", "a-00001").subset(&["10.0.0.1"], &["10.0.0.2"], "http", 8012));
    server.apply(public_endpoints("demo", "a-00001").subset(&["10.0.9.9"], &[], "http", 8012));
    server.apply(private_service("demo", "a-00001", "10.96.0.7"));
    server.apply(service("kube-system", "dns", "10.96.0.10").port("dns", 53));
    on_the_control_side(async {
        let source = source(&server);
        let endpoints = source.objects::<Endpoints>(Selection::everywhere().labelled(LABEL_REVISION));
        let services = source.objects::<Service>(Selection::everywhere());
        within("the sets are read", async { tokio::join!(endpoints.synced(), services.synced()) }).await;
        let pods = endpoints.find("demo/a-00001-private").unwrap();
        assert_eq!((pods.role, pods.revision.as_str()), (Role::Private, "demo/a-00001"));
        let found = pods.destinations(Protocol::Http1);
        assert_eq!(
            (found.ready, found.not_ready),
            (vec![([10, 0, 0, 1], 8012).into()], vec![([10, 0, 0, 2], 8012).into()])
        );
        assert_eq!(endpoints.find("demo/a-00001").unwrap().role, Role::Public);
        let private = services.get(&private(&pods.revision)).unwrap();
        assert_eq!(
            (&*private.cluster_ip, private.port(Protocol::Http1), private.port(Protocol::H2c)),
            ("10.96.0.7", Some(80), None)
        );
        assert_eq!(services.len(), 2);
    });
}
