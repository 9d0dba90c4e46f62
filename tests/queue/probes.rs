//! Sections 3.1 and 5: probes that the queue answers, and the readiness of the application.
use std::net::TcpListener;
use std::time::Duration;

use crate::support::app::{App, ok};
use crate::support::binary::{queue, timed};
use crate::support::client::get;

const KUBELET: &str = "User-Agent: kube-probe/1.34\r\nK-Network-Probe: queue\r\n";

/// 3.1: the three agents, exactly `queue`.
#[test]
fn given_a_ready_application_when_probed_by_each_agent_then_the_answer_is_queue() {
    let app = App::ok();
    let mut queue = queue(app.port()).start();
    for agent in ["kube-probe/1.34", "Knative-Activator-Probe", "Knative-Autoscaling-Probe"] {
        let reply = get(queue.http(), "/any", &format!("User-Agent: {agent}\r\nK-Network-Probe: queue\r\n"));
        assert_eq!((reply.status(), reply.text().as_str()), (200, "queue"), "{agent}");
        assert_eq!(reply.header("content-type"), Some("text/plain; charset=utf-8"));
    }
    assert!(app.seen().is_empty(), "probes do not reach the application");
}

/// 3.1: wrong or missing probe header of a probing agent.
#[test]
fn given_a_probing_agent_when_its_header_is_unexpected_then_400_names_it() {
    let app = App::ok();
    let mut queue = queue(app.port()).start();
    let reply = get(queue.http(), "/", "User-Agent: Knative-Activator-Probe\r\nK-Network-Probe: other\r\n");
    assert_eq!((reply.status(), reply.text().as_str()), (400, "unexpected probe header value: other\n"));
    assert_eq!(get(queue.http(), "/", "User-Agent: Knative-Activator-Probe\r\n").status(), 400);
}

/// 3.1: the hash probe of the ingress.
#[test]
fn when_a_hash_probe_comes_then_its_hash_comes_back() {
    let app = App::ok();
    let mut queue = queue(app.port()).start();
    let reply = get(queue.http(), "/", "K-Network-Probe: probe\r\nK-Network-Hash: abc\r\n");
    assert_eq!((reply.status(), reply.header("k-network-hash"), reply.text().len()), (200, Some("abc"), 0));
    let reply = get(queue.http(), "/", "K-Network-Probe: probe\r\n");
    assert_eq!(reply.status(), 400);
    assert!(reply.text().contains(r#"a probe request must contain a non-empty "K-Network-Hash" header"#));
}

/// 3.1: an ordinary agent with the header is an ordinary request.
#[test]
fn given_an_ordinary_agent_when_it_sends_the_probe_header_then_it_goes_to_the_application() {
    let app = App::ok();
    let mut queue = queue(app.port()).start();
    assert_eq!(get(queue.http(), "/", "K-Network-Probe: queue\r\nUser-Agent: curl\r\n").text(), "ok");
    assert_eq!(app.last().get("k-network-probe"), Some("queue"));
}

/// 5.1: the probe waits for an application that comes up late, and is answered soon after.
#[test]
fn given_an_application_that_comes_up_late_when_probed_then_the_probe_waits_for_it() {
    let port = crate::support::port::free_port();
    let mut queue = queue(port).start();
    let http = queue.http();

    let probe = std::thread::spawn(move || get(http, "/", KUBELET).status());
    assert_eq!(get(http, "/", "").status(), 502, "ordinary requests are proxied all the same");
    let _app = App::listen(TcpListener::bind(("127.0.0.1", port)).unwrap(), |conn| conn.wait_close());

    assert_eq!(probe.join().unwrap(), 200);
}

/// 5.2: standard mode tries once a request.
#[test]
fn given_an_http_probe_when_the_application_says_500_then_one_try_fails_at_once() {
    let app = App::each(|head, _| match head.target() {
        "/healthz" => crate::support::app::response("500 Internal Server Error", &[], ""),
        _ => ok("ok"),
    });
    let probe = format!(
        r#"{{"httpGet":{{"path":"/healthz","port":{},"host":"127.0.0.1","httpHeaders":[{{"name":"X","value":"1"}}]}},"timeoutSeconds":1,"periodSeconds":10}}"#,
        app.port()
    );
    let mut queue = queue(app.port()).env("SERVING_READINESS_PROBE", probe).start();

    let (reply, took) = timed(|| get(queue.http(), "/", KUBELET));

    assert_eq!((reply.status(), reply.text().len()), (503, 0));
    assert!(took < Duration::from_secs(5), "{took:?}");
    let asked = app.last();
    assert_eq!(
        (asked.target(), asked.get("x"), asked.get("user-agent")),
        ("/healthz", Some("1"), Some("kube-probe//"))
    );
}

/// 5.2, Q7: the state follows the application through a restart.
#[test]
fn given_an_application_that_restarts_when_probed_then_readiness_comes_back() {
    let app = App::ok();
    let port = app.port();
    let probe = format!(r#"{{"tcpSocket":{{"port":{port},"host":"127.0.0.1"}},"timeoutSeconds":1,"periodSeconds":1}}"#);
    let mut queue = queue(port).env("SERVING_READINESS_PROBE", probe).start();
    let http = queue.http();
    assert_eq!(get(http, "/", KUBELET).status(), 200);

    drop(app);
    crate::support::wait::eventually("not ready without the application", || get(http, "/", KUBELET).status() == 503);

    let listener =
        crate::support::wait::eventually_some("the port is free", || TcpListener::bind(("127.0.0.1", port)).ok());
    let _app = App::listen(listener, |conn| conn.wait_close());
    crate::support::wait::eventually("ready again", || get(http, "/", KUBELET).status() == 200);
}

/// 5.3: no probe at all is always ready; `{}` never.
#[test]
fn given_an_empty_probe_when_probed_then_it_is_ready_and_an_empty_object_is_not() {
    let app = App::ok();
    let mut always = queue(app.port()).env("SERVING_READINESS_PROBE", "").start();
    assert_eq!(get(always.http(), "/", KUBELET).status(), 200);
    let mut never = queue(app.port()).env("SERVING_READINESS_PROBE", r#"{"periodSeconds":1}"#).start();
    assert_eq!(get(never.http(), "/", KUBELET).status(), 503);
}

/// 5.3: the round ends with the slowest of several containers.
#[test]
fn given_two_containers_when_one_is_down_then_not_ready() {
    let (up, other) = (App::ok(), App::ok());
    let probe = |port| format!(r#"{{"tcpSocket":{{"port":{port},"host":"127.0.0.1"}},"periodSeconds":1}}"#);
    let probes = format!("[{},{}]", probe(up.port()), probe(other.port()));
    let mut queue =
        queue(up.port()).env("ENABLE_MULTI_CONTAINER_PROBES", "true").env("SERVING_READINESS_PROBE", probes).start();
    let http = queue.http();
    assert_eq!(get(http, "/", KUBELET).status(), 200);
    drop(other);
    crate::support::wait::eventually("not ready", || get(http, "/", KUBELET).status() == 503);
}

/// Q7: what fails at each probe is written once in 10 s.
#[test]
fn given_an_application_that_is_down_when_probed_again_and_again_then_one_line_says_why() {
    let port = crate::support::port::free_port();
    let probe = format!(r#"{{"tcpSocket":{{"port":{port},"host":"127.0.0.1"}},"timeoutSeconds":1,"periodSeconds":1}}"#);
    let mut queue = queue(port).env("SERVING_READINESS_PROBE", probe).start();
    for _ in 0..10 {
        assert_eq!(get(queue.http(), "/", KUBELET).status(), 503);
    }
    queue.signal("TERM");
    queue.exit();
    let lines = queue.log.lines(|line| line.contains("readiness probe error: "));
    assert!(lines.len() == 1 && lines[0].contains("connection refused"), "{lines:#?}");
}
