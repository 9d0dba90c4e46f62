//! What is in force, on the admin port.
use serde_json::{Value, json};

use super::harness::{Directory, NAMESPACE, app, authority, builder, get, ingress, rule, secret, split};
use crate::support::client::Raw;

/// What is told is what serves; keys and the values of headers are not in it.
#[test]
fn given_routes_and_certificates_when_the_config_is_asked_for_then_it_shows_them_and_no_key() {
    let (directory, backend, ca) = (Directory::new(), app("one"), authority());
    let leaf = ca.leaf(&["*.w.example.com"], 0x2a).unwrap();
    let mut most = split("app", 90);
    most["appendHeaders"] = json!({"Secret-Word": "hush"});
    directory
        .backend("app", "http", &[backend.port()])
        .apply(secret("cert", &leaf))
        .apply(ingress(
            "hello",
            1,
            json!({
                "tls": [{"hosts": ["*.w.example.com"], "secretName": "cert", "secretNamespace": NAMESPACE}],
                "rules": [
                    rule("ExternalIP", &["*.w.example.com"], vec![json!({"path": "/x", "splits": [most, split("none", 10)]})]),
                    rule("ClusterLocal", &["hello.ns1"], vec![json!({"splits": [split("app", 100)]})]),
                ]
            }),
        ));
    let mut gateway = directory.start(builder());
    let admin = gateway.admin();
    let text = get(admin, "x", "/config").text();
    let config: Value = serde_json::from_str(&text).unwrap();

    assert_eq!((config["ready"].as_bool(), config["leads"].as_bool()), (Some(true), Some(true)));
    let hosts: Vec<_> = config["hosts"].as_array().unwrap().iter().map(|host| host["host"].as_str().unwrap()).collect();
    assert_eq!(hosts, ["*.w.example.com", "hello.ns1"]);
    let route = &config["hosts"][0]["external"][0];
    assert_eq!((route["ingress"].as_str(), route["path"].as_str()), (Some("ns1/hello"), Some("/x")));
    let shares = &route["shares"];
    assert_eq!((shares[0]["percent"].as_u64(), shares[1]["percent"].as_u64()), (Some(90), Some(10)));
    assert_eq!(shares[0]["service"], "ns1/app:80");
    assert_eq!(shares[0]["upstreams"][0]["address"], format!("127.0.0.1:{}", backend.port()));
    assert_eq!((&shares[0]["sets"], &shares[1]["upstreams"]), (&json!(["secret-word"]), &Value::Null));
    assert!(config["hosts"][1]["external"].as_array().unwrap().is_empty());
    let certificate = &config["certificates"]["external"]["names"][0];
    assert_eq!((certificate["name"].as_str(), certificate["serial"].as_str()), (Some("*.w.example.com"), Some("2a")));
    assert_eq!(config["certificates"]["external"]["default"], Value::Null);

    let key: String = leaf.key.lines().nth(1).unwrap().chars().take(20).collect();
    for hidden in ["PRIVATE", "hush", &key] {
        assert!(!text.contains(hidden), "{hidden}");
    }
    // Envoy's admin port lets anybody take it out of service; this one shows and changes nothing.
    let drain =
        Raw::plain(admin).send("POST /drain_listeners HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n").reply();
    assert_eq!((drain.status(), get(admin, "x", "/ready").status()), (404, 200));
    let one: Value = serde_json::from_str(&get(admin, "x", "/config?host=hello.ns1").text()).unwrap();
    assert_eq!(one["hosts"].as_array().unwrap().len(), 1);
    assert!(one["certificates"]["external"]["names"].as_array().unwrap().is_empty());
}
