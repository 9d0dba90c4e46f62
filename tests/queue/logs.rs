//! Section 9: the log's form, and the lines that the documentation of others greps for.
use lockkeeper::local::client::{Connection, Protocol};
use rustls::version::TLS13;

use crate::support::app::{App, ok, response};
use crate::support::binary::{Stream, queue};
use crate::support::client::{Raw, get, local, run};
use crate::support::pki::{NAME, Pki};
use crate::support::scrape::{observed, prometheus, stat};
use crate::support::wait::eventually;

fn json(line: &str) -> serde_json::Value {
    serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"))
}

/// 9: JSON on stderr with the keys of the original.
#[test]
fn given_no_logging_config_when_started_then_each_line_is_an_object_with_gos_keys() {
    let app = App::ok();
    let mut queue = queue(app.port()).start();
    let line = json(&queue.logs("Starting http server main:"));
    assert_eq!(line["severity"], "INFO");
    assert_eq!(line["logger"], "queueproxy");
    assert_eq!(line["knative.dev/key"], "default/hello-00001");
    assert_eq!(line["knative.dev/pod"], "hello-00001-deployment-0");
    assert!(line["timestamp"].as_str().unwrap().ends_with('Z'));
    assert!(line["caller"].is_string());
    for line in queue.log.of(Stream::Stderr) {
        json(&line);
    }
}

/// 9 and issue 3: `grep -E 'certDir|Certificate|tls'` finds the documented lines.
#[test]
fn given_certificates_when_started_then_the_documented_grep_finds_its_lines() {
    let (app, pki) = (App::ok(), Pki::new());
    let mut queue = queue(app.port()).certs(pki.dir()).start();
    queue.tls();
    let found = queue.log.lines(|line| ["certDir", "Certificate", "tls"].iter().any(|word| line.contains(word)));
    let messages: Vec<String> =
        found.iter().map(|line| json(line)["message"].as_str().unwrap_or_default().to_owned()).collect();
    let has = |start: &str| messages.iter().any(|message| message.starts_with(start));
    assert!(has("Starting to watch the following directories for changes{certDir"), "{messages:?}");
    assert!(has("Certificate and/or key have changed on disk and were reloaded."), "{messages:?}");
    assert!(has("Starting tls server main:"), "{messages:?}");
    assert!(has("Starting tls server admin:"), "{messages:?}");
}

/// 9: the level's override, in any case; a bad one is ignored.
#[test]
fn given_a_level_when_started_then_lower_lines_are_absent() {
    let app = App::ok();
    let port = crate::support::port::free_port();
    let mut quiet = queue(app.port()).env("SERVING_LOGGING_LEVEL", "ERROR").env("QUEUE_SERVING_PORT", port).spawn();
    eventually("it listens", || std::net::TcpStream::connect(("127.0.0.1", port)).is_ok());
    quiet.signal("TERM");
    quiet.exit();
    assert!(quiet.log.lines(|line| line.contains("INFO")).is_empty(), "{}", quiet.log.text());
    queue(app.port()).env("SERVING_LOGGING_LEVEL", "nonsense").start();
}

/// 9: what config-logging ships: stdout, lower case.
#[test]
fn given_the_shipped_logging_config_when_started_then_lines_go_to_stdout_in_lower_case() {
    const CONFIG: &str = r#"{"level":"info","development":false,"outputPaths":["stdout"],"errorOutputPaths":["stderr"],
        "encoding":"json","encoderConfig":{"timeKey":"timestamp","levelKey":"severity","nameKey":"logger",
        "callerKey":"caller","messageKey":"message","stacktraceKey":"stacktrace","lineEnding":"",
        "levelEncoder":"","timeEncoder":"iso8601","durationEncoder":"","callerEncoder":""}}"#;
    let app = App::ok();
    let mut queue = queue(app.port()).env("SERVING_LOGGING_CONFIG", CONFIG).start();
    queue.logs("Starting http server main:");
    let lines = queue.log.of(Stream::Stdout);
    let line = json(lines.iter().find(|line| line.contains("Starting http server main:")).unwrap());
    assert_eq!(line["severity"], "info");
}

/// 9: a bad config falls back and says so.
#[test]
fn given_a_bad_logging_config_when_started_then_it_falls_back_with_a_warning() {
    let app = App::ok();
    let mut queue = queue(app.port()).env("SERVING_LOGGING_CONFIG", "{").start();
    let line = json(&queue.logs("Failed to parse logging config - using default zap production config"));
    assert_eq!((&line["severity"], &line["logger"]), (&"WARNING".into(), &"fallback-logger".into()));
}

/// O5: a healthy pod says nothing of what it serves, whatever the application answers and however callers behave.
#[test]
fn given_a_healthy_pod_when_it_serves_then_it_writes_no_line() {
    let app = App::each(|head, _| match head.target() {
        "/500" => response("500 Internal Server Error", &[], "no"),
        _ => ok("ok"),
    });
    let pki = Pki::new();
    let (mut queue, metrics) = observed(queue(app.port()).certs(pki.dir()));
    let (http, tls, stats) = (queue.http(), queue.tls(), queue.stats());
    let before = queue.log.lines(|_| true).len();
    for _ in 0..20 {
        assert_eq!(get(http, "/500", "").status(), 500);
        assert_eq!(Raw::tls(tls, pki.client(&[&TLS13], &[]), NAME).post("/", "body").reply().status(), 200);
        assert_eq!(get(http, "/", "User-Agent: kube-probe/1\r\nK-Network-Probe: queue\r\n").status(), 200);
        assert_eq!(get(http, "/", "K-Network-Probe: probe\r\nK-Network-Hash: a\r\n").status(), 200);
        stat(stats);
        prometheus(metrics);
        // Callers that leave: before a request, within one, and before its answer.
        Raw::plain(http).send("");
        Raw::plain(tls).send("");
        Raw::plain(http).send("GET / HTTP/1.1\r\n");
        Raw::plain(http).get("/", "");
    }
    run(async {
        for (port, trust) in [(http, None), (tls, Some(pki.trust()))] {
            let mut client = Connection::open(local(port), trust.as_ref(), Protocol::Http2).await.unwrap();
            assert_eq!(client.get("hello", "/").await.unwrap().status, 200);
        }
    });
    queue.signal("TERM");
    queue.exit();
    let lines = queue.log.lines(|_| true).split_off(before);
    let leaving = lines.iter().position(|line| line.contains("Received TERM signal")).expect("the line at the end");
    assert!(leaving == 0, "{:#?}", &lines[..leaving]);
}
