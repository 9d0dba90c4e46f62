//! Contract, sections 2.2 and 12: an object that can't be served says which field is to blame, keeps what was good of it
//! before, and costs nobody else anything.
use serde_json::{Value, json};

use super::harness::{Directory, app, builder, get, ingress, path, rule, simple, split};
use crate::support::client::Raw;

/// A way to break the object of [`simple`], and what the condition says of it.
type Break = (fn(&mut Value), &'static str);

const BREAKS: &[Break] = &[
    (|spec| *spec = json!("all"), "spec: invalid type: string \"all\""),
    (|spec| *spec = Value::Null, "spec.rules: \"\": expected at least one rule"),
    (|spec| spec["rules"] = json!([]), "spec.rules: \"\": expected at least one rule"),
    (|spec| spec["rules"] = json!("all"), "spec.rules: invalid type: string \"all\""),
    (|spec| spec["httpOption"] = json!("Sometimes"), "spec.httpOption: \"Sometimes\": expected Enabled or Redirected"),
    (|spec| spec["tls"] = json!([{"hosts": ["a"]}]), "spec.tls[0].secretName: \"\": expected the name of a Secret"),
    (|spec| spec["rules"][0]["http"] = Value::Null, "spec.rules[0].http.paths: \"\": expected at least one path"),
    (
        |spec| spec["rules"][0]["http"]["paths"] = json!([]),
        "spec.rules[0].http.paths: \"\": expected at least one path",
    ),
    (|spec| spec["rules"][0]["visibility"] = json!("Public"), "spec.rules[0].visibility: \"Public\""),
    (|spec| spec["rules"][0]["hosts"] = json!(["a:80"]), "spec.rules[0].hosts[0]: \"a:80\": expected a host name"),
    (|spec| of_path(spec)["path"] = json!("x"), "paths[0].path: \"x\": expected a path that starts with /"),
    (|spec| of_path(spec)["rewriteHost"] = json!("a b"), "paths[0].rewriteHost: \"a b\""),
    (|spec| of_path(spec)["splits"] = json!([]), "paths[0].splits: \"\": expected at least one split"),
    (|spec| of_path(spec)["headers"] = json!({"a b": {"exact": "x"}}), "paths[0].headers: \"a b\""),
    (|spec| of_path(spec)["appendHeaders"] = json!({"Host": "b"}), "paths[0].appendHeaders: \"Host\""),
    (|spec| of_path(spec)["appendHeaders"] = json!({":path": "/"}), "paths[0].appendHeaders: \":path\""),
    (|spec| of_path(spec)["appendHeaders"] = json!({"A": "x\r\ny"}), "paths[0].appendHeaders[A]: \"x\\r\\ny\""),
    (|spec| of_split(spec)["percent"] = json!(101), "splits[0].percent: \"101\": expected a number from 0 to 100"),
    (|spec| of_split(spec)["percent"] = json!(-1), "splits[0].percent: \"-1\": expected a number from 0 to 100"),
    (|spec| of_split(spec)["percent"] = json!("100"), "splits[0].percent: invalid type: string \"100\""),
    (|spec| of_split(spec)["serviceNamespace"] = json!("ns2"), "serviceNamespace: \"ns2\": expected the object's own"),
    (|spec| of_split(spec)["serviceName"] = json!(""), "serviceName: \"\": expected the name of a Service"),
    (|spec| of_split(spec)["servicePort"] = json!(0), "servicePort: \"0\": expected a port's number or name"),
    (|spec| of_split(spec)["servicePort"] = json!(""), "servicePort: \"\": expected a port's number or name"),
    (|spec| shares(spec, &[50, 40]), "paths[0].splits: \"90\": expected percentages that add up to 100"),
    (|spec| shares(spec, &[0, 0]), "paths[0].splits: \"0\": expected percentages that add up to 100"),
];

fn of_path(spec: &mut Value) -> &mut Value {
    &mut spec["rules"][0]["http"]["paths"][0]
}

fn of_split(spec: &mut Value) -> &mut Value {
    &mut of_path(spec)["splits"][0]
}

fn shares(spec: &mut Value, percentages: &[u32]) {
    of_path(spec)["splits"] = percentages.iter().map(|percent| split("app", *percent)).collect();
}

/// Each violation in an object of its own: from the start, and as an update of one that serves.
#[test]
fn given_objects_that_break_a_rule_when_read_then_each_names_the_field_and_serves_as_it_did_before() {
    let (directory, backend) = (Directory::new(), app("one"));
    let host = |index: usize| format!("h{index}.example.com");
    let broken = |name: &str, index: usize, break_it: fn(&mut Value)| {
        let mut object = simple(name, &host(index), "app");
        break_it(&mut object["spec"]);
        object["metadata"]["generation"] = 2.into();
        object
    };
    directory.backend("app", "http", &[backend.port()]).apply(simple("good", "good.example.com", "app"));
    for (index, (break_it, _)) in BREAKS.iter().enumerate() {
        directory.apply(simple(&format!("before-{index}"), &host(index), "app"));
        directory.apply(broken(&format!("never-{index}"), index, *break_it));
    }
    let mut gateway = directory.start(builder());
    gateway.ready("good", 1);
    for (index, (break_it, _)) in BREAKS.iter().enumerate() {
        gateway.ready(&format!("before-{index}"), 1);
        gateway.directory.apply(broken(&format!("before-{index}"), index, *break_it));
    }
    let mut caller = Raw::plain(gateway.http());
    let mut ask = |host: &str| caller.send(format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n")).reply().status();
    for (index, (_, words)) in BREAKS.iter().enumerate() {
        for name in [format!("never-{index}"), format!("before-{index}")] {
            let message = gateway.says(&name, "Ready", "ReconcileIngressFailed");
            assert!(message.contains(words), "{name}: {message} lacks {words}");
            assert_eq!(gateway.status(&name).unwrap()["observedGeneration"], 2, "{name}");
        }
        assert_eq!(ask(&host(index)), 200, "{words}");
    }
    assert_eq!(ask("good.example.com"), 200);

    let mut repaired = simple("before-0", "new.example.com", "app");
    repaired["metadata"]["generation"] = 3.into();
    gateway.directory.apply(repaired);
    gateway.ready("before-0", 3);
    assert_eq!((ask("new.example.com"), ask(&host(0))), (200, 404));
}

/// Two paths to two ports of one Service are two backends (Kourier keys its clusters by the Service alone).
#[test]
fn given_paths_to_several_ports_of_a_service_when_asked_then_each_goes_to_its_own() {
    let (directory, one, two) = (Directory::new(), app("one"), app("two"));
    let to = |prefix: &str, port: Value| {
        let mut path = path(prefix, "app");
        path["splits"][0]["servicePort"] = port;
        path
    };
    let ports = json!([{"name": "http", "port": 80}, {"name": "more", "port": 81}]);
    let mut slice = super::harness::slice("app", 0, "http", 0);
    slice["ports"] = json!([{"name": "http", "port": one.port()}, {"name": "more", "port": two.port()}]);
    let paths = vec![to("/", json!(80)), to("/two", json!("more")), to("/two/by/number", json!(81))];
    directory
        .apply(json!({"apiVersion": "v1", "kind": "Service", "metadata": {"namespace": "ns1", "name": "app"}, "spec": {"ports": ports}}))
        .apply(slice)
        .apply(ingress("hello", 1, json!({"rules": [rule("ExternalIP", &["a"], paths)]})));
    let mut gateway = directory.start(builder());
    gateway.ready("hello", 1);
    for (path, answer) in [("/", "one"), ("/two", "two"), ("/two/by/number", "two"), ("/", "one")] {
        assert_eq!(get(gateway.http(), "a", path).text(), answer, "{path}");
    }
}
