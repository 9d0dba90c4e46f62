//! How the API server is found, and what it is told of us.
use std::collections::HashMap;
use std::fs;

use bytes::Bytes;
use http::Method;
use lockkeeper::knative::revision::Revision;
use lockkeeper::kube::api::Client;
use lockkeeper::kube::api::cluster::Cluster;
use lockkeeper::kube::api::error::Error as ApiError;
use lockkeeper::kube::source::{Error, Flags};
use lockkeeper::kube::{Selection, Source};

use super::{on_the_control_side, source, until, within};
use crate::support::apiserver::{ApiServer, Cut};
use crate::support::objects::revision;

/// The file of the token is read for each request, as rotation replaces it in place.
#[test]
fn given_a_token_that_is_rotated_when_the_watch_begins_anew_then_the_new_one_is_sent() {
    let server = ApiServer::start();
    server.apply(revision("demo", "a-00001"));
    on_the_control_side(async {
        let revisions = source(&server).objects::<Revision>(Selection::everywhere());
        within("the set is read", revisions.synced()).await;
        until("the watch runs", || server.watches("revisions") == 1).await;
        server.rotate_token("second-token");
        server.cut("revisions", Cut::Clean);
        server.apply(revision("demo", "b-00001"));
        until("the change came", || revisions.len() == 2).await;
    });
    assert!(server.requests().iter().all(|audit| audit.status == 200), "{:?}", server.requests());
}

/// Contract of the activator, section 1: KUBERNETES_MIN_VERSION.
#[test]
fn given_servers_of_several_versions_when_checked_then_old_and_nameless_ones_are_refused() {
    let server = ApiServer::start();
    on_the_control_side(async {
        let source = source(&server);
        assert!(within("an answer", source.check_version("v1.34.0")).await.is_ok());
        server.version("v1.33.0");
        let error = within("an answer", source.check_version("v1.34.0")).await.unwrap_err().to_string();
        assert!(error.contains("\"1.33.0\" is not compatible, need at least \"1.34.0\""), "{error}");
        server.version("1.34");
        assert!(within("an answer", source.check_version("v1.34.0")).await.is_err());
        server.stop();
        assert!(matches!(within("an answer", source.check_version("v1.34.0")).await, Err(Error::Server(_))));
    });
}

/// A server that its authorities don't vouch for is not spoken to.
#[test]
fn given_another_authority_when_asked_then_the_server_gets_no_token() {
    let server = ApiServer::start();
    let other = ApiServer::start();
    fs::copy(other.account().join("ca.crt"), server.account().join("ca.crt")).unwrap();
    on_the_control_side(async {
        let error = within("an answer", source(&server).check_version("v1.34.0")).await.unwrap_err().to_string();
        assert!(error.contains("invalid peer certificate"), "{error}");
    });
    assert!(server.requests().is_empty());
}

/// A forbidden kind costs that kind only.
#[test]
fn given_a_forbidden_kind_when_it_is_allowed_later_then_it_is_read_then() {
    let server = ApiServer::start();
    server.apply(revision("demo", "a-00001"));
    server.forbid("revisions", true);
    on_the_control_side(async {
        let revisions = source(&server).objects::<Revision>(Selection::everywhere());
        until("it was refused", || revisions.counters().failures() >= 2).await;
        server.forbid("revisions", false);
        within("the set is read", revisions.synced()).await;
    });
}

fn kubeconfig(server: &ApiServer, user: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Config\ncurrent-context: here\n\
         contexts:\n- name: here\n  context: {{cluster: c, user: u}}\n\
         clusters:\n- name: c\n  cluster:\n    server: https://127.0.0.1:{}\n    certificate-authority: ca.crt\n\
         users:\n- name: u\n  user: {user}\n",
        server.address().port()
    )
}

fn find(config: &str, server: &ApiServer, flags: &Flags) -> Result<Source, Error> {
    let path = server.account().join("kubeconfig");
    fs::write(&path, config).unwrap();
    let env = HashMap::from([("KUBECONFIG".to_owned(), path.display().to_string())]);
    Source::find(&env, flags)
}

/// kubeconfigs: files next to them, tokens in place and as files, and a context that is not the current one's cluster.
#[test]
fn given_kubeconfigs_when_they_name_the_server_then_it_answers() {
    let server = ApiServer::start();
    on_the_control_side(async {
        for user in ["{token: first-token}", "{tokenFile: token}"] {
            let source = find(&kubeconfig(&server, user), &server, &Flags::default()).unwrap();
            assert!(within("an answer", source.check_version("v1.34.0")).await.is_ok(), "{user}");
        }
        let flags =
            Flags { server: Some(format!("https://localhost:{}", server.address().port())), ..Flags::default() };
        let config = kubeconfig(&server, "{token: first-token}").replace("127.0.0.1", "127.0.0.9");
        let source = find(&config, &server, &flags).unwrap();
        assert!(within("an answer", source.check_version("v1.34.0")).await.is_ok());
    });
}

/// What is not supported, or missing, is said by name.
#[test]
fn given_kubeconfigs_that_are_of_no_use_when_read_then_the_reason_is_named() {
    let server = ApiServer::start();
    let good = kubeconfig(&server, "{token: t}");
    for (config, reason) in [
        (kubeconfig(&server, "{exec: {command: aws}}"), "exec"),
        (good.replace("current-context: here", "current-context: there"), "\"there\""),
        (good.replace("cluster: c,", "cluster: other,"), "\"other\""),
        (good.replace("certificate-authority: ca.crt", "insecure-skip-tls-verify: true"), "insecure-skip-tls-verify"),
        (
            good.replace("certificate-authority: ca.crt", "certificate-authority-data: '?'"),
            "certificate-authority-data",
        ),
        (good.replace("    server: ", "    host: "), "server"),
        (good.replace("https://", "ftp://"), "expected https or http"),
        ("clusters: [".to_owned(), "kubeconfig"),
    ] {
        let error = find(&config, &server, &Flags::default()).unwrap_err().to_string();
        assert!(error.contains(reason), "{reason}: {error}");
    }
    let error = Source::find(&HashMap::new(), &Flags::default()).unwrap_err().to_string();
    assert!(error.contains("KUBERNETES_SERVICE_HOST") && error.contains("KUBECONFIG"), "{error}");
}

/// More watches than one connection carries go over several, and leave room for other requests.
#[test]
fn given_more_watches_than_a_connection_carries_then_another_one_is_opened() {
    let server = ApiServer::start();
    on_the_control_side(async {
        let source = source(&server);
        let watch = |i: u32| source.objects::<Revision>(Selection::within("demo").named(format!("r{i}-00001")));
        let watched: Vec<_> = (0..150).map(watch).collect();
        until("all are read", || watched.iter().all(|objects| objects.is_synced())).await;
        assert!(within("an answer", source.check_version("v1.34.0")).await.is_ok());
        assert_eq!(server.connections(), 2);
        assert_eq!(server.watches("revisions"), 150);
    });
}

/// A server without HTTP/2 gets a connection for each watch.
#[test]
fn given_a_server_of_http1_when_watched_then_each_watch_has_its_connection() {
    let server = ApiServer::start();
    server.only_http1();
    server.apply(revision("demo", "a-00001"));
    on_the_control_side(async {
        let source = source(&server);
        let all = source.objects::<Revision>(Selection::everywhere());
        let some = source.objects::<Revision>(Selection::within("demo"));
        within("the sets are read", async { tokio::join!(all.synced(), some.synced()) }).await;
        server.cut("revisions", Cut::MidEvent);
        server.apply(revision("demo", "b-00001"));
        until("the change came to both", || all.len() == 2 && some.len() == 2).await;
        until("both watch again", || server.connections() == 4).await;
    });
    let asked = server.requests();
    assert!(asked.iter().all(|audit| audit.protocol == "HTTP/1.1"), "{asked:?}");
}

/// Writes go over the same connection, and refusals say what the server said.
#[test]
fn given_an_object_when_written_with_an_old_version_then_the_conflict_is_told() {
    let server = ApiServer::start();
    server.apply(revision("demo", "a-00001"));
    let env: HashMap<String, String> = server.env().into_iter().collect();
    let path = "/apis/serving.knative.dev/v1/namespaces/demo/revisions/a-00001";
    on_the_control_side(async {
        let client = Client::new(Cluster::find(&env, &Flags::default()).unwrap());
        let write = async |method: Method, path: &str, kind: &'static str, body: &str| {
            let body = Some((kind, Bytes::from(body.to_owned())));
            within("an answer", client.request(method, path, body)).await
        };
        let version = server.object("revisions", "demo", "a-00001").unwrap()["metadata"]["resourceVersion"].clone();
        let body = format!(r#"{{"metadata":{{"resourceVersion":{version}}},"status":{{"x":1}}}}"#);
        let status = format!("{path}/status");
        write(Method::PUT, &status, "application/json", &body).await.unwrap();
        let conflict = write(Method::PUT, &status, "application/json", &body).await.unwrap_err();
        assert!(matches!(&conflict, ApiError::Refused(refusal) if refusal.status == 409), "{conflict}");
        assert!(conflict.to_string().contains("the object has been modified"), "{conflict}");
        let patch = r#"{"metadata":{"labels":{"serving.knative.dev/service":null}}}"#;
        write(Method::PATCH, path, "application/merge-patch+json", patch).await.unwrap();
    });
    let object = server.object("revisions", "demo", "a-00001").unwrap();
    assert_eq!(object["status"]["x"], 1);
    assert!(object["metadata"]["labels"].get("serving.knative.dev/service").is_none());
    let methods: Vec<_> = server.requests().into_iter().map(|audit| (audit.method, audit.status)).collect();
    assert_eq!(methods, [("PUT".into(), 200), ("PUT".into(), 409), ("PATCH".into(), 200)]);
}
