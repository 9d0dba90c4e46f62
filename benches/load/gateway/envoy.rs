//! Envoy as Kourier configures it: a filter chain for each certificate, chosen by SNI, all with one table of routes in
//! which each route has a twin for probes, told apart by a header.

use std::process::Command;

use lockkeeper::local::pki::Leaf;
use serde_json::{Value, json};

use crate::client::{Ask, HOST, NAMESPACE, REVISION, certificates};
use crate::contender::{Contender, Ports, free_ports};
use crate::peers::version;
use crate::{Failure, Stage};

use super::Backend;

/// What it serves.
#[derive(Clone, Copy)]
pub(crate) enum Certificates<'a> {
    /// That of [`HOST`].
    One,
    /// The same, beside one that serves many.
    Alone,
    /// These too, a host and a filter chain each.
    Many(&'a [(String, Leaf)]),
}

/// The executable: the one that is named, that of the Python wheel, or what `envoy` is.
fn executable(stage: &Stage) -> String {
    if let Some(named) = &stage.args.envoy {
        return named.clone();
    }
    // A wrapper's own start and memory are not Envoy's.
    let wheel = "import envoy, pathlib; print(pathlib.Path(envoy.__file__).parent / '_bin' / 'envoy')";
    let found = Command::new("python3").args(["-c", wheel]).output().ok().filter(|output| output.status.success());
    let found = found.and_then(|output| String::from_utf8(output.stdout).ok()).map(|path| path.trim().to_owned());
    found.filter(|path| std::path::Path::new(path).exists()).unwrap_or_else(|| "envoy".to_owned())
}

pub(crate) fn contender(
    stage: &Stage,
    backend: Backend,
    to_tls: bool,
    certificates: Certificates<'_>,
) -> Result<Option<Contender>, Failure> {
    let program = executable(stage);
    let Some(about) = version(&program, "--version") else {
        println!("Envoy is not installed: left out");
        return Ok(None);
    };
    let [plain, tls] = free_ports()?;
    let kind = match certificates {
        Certificates::One => "one",
        Certificates::Alone => "alone",
        Certificates::Many(_) => "many",
    };
    let home = stage.dir.join(format!("envoy-{kind}-{to_tls}"));
    std::fs::create_dir(&home)?;
    let routes = home.join("routes.json");
    std::fs::write(&routes, route_table(&certificates).to_string())?;
    let manager = |name: &str| {
        json!({"name": "envoy.filters.network.http_connection_manager", "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
            "stat_prefix": name, "codec_type": "AUTO", "stream_idle_timeout": "0s",
            "rds": {"route_config_name": "routes", "config_source": {"path_config_source": {"path": routes}}},
            "upgrade_configs": [{"upgrade_type": "websocket"}],
            "http_filters": [{"name": "envoy.filters.http.router", "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"}}]
        }})
    };
    let chain = |host: &str, chain: Value, key: Value| {
        json!({
            "filter_chain_match": {"server_names": [host]},
            "filters": [manager("external")],
            "transport_socket": {"name": "envoy.transport_sockets.tls", "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext",
                "disable_stateless_session_resumption": true,
                "common_tls_context": {
                    "alpn_protocols": ["h2", "http/1.1"],
                    "tls_params": {"tls_minimum_protocol_version": "TLSv1_3", "tls_maximum_protocol_version": "TLSv1_3"},
                    "tls_certificates": [{"certificate_chain": chain, "private_key": key}]
                }
            }}
        })
    };
    let text = |text: &str| json!({"inline_string": text});
    let mut chains = vec![chain(HOST, text(&stage.tls.leaf.chain), text(&stage.tls.leaf.key))];
    if let Certificates::Many(more) = certificates {
        chains.extend(more.iter().map(|(host, leaf)| chain(host, text(&leaf.chain), text(&leaf.key))));
    }
    let address = |port: u16| json!({"socket_address": {"address": "127.0.0.1", "port_value": port}});
    let inspector = json!({"name": "envoy.filters.listener.tls_inspector", "typed_config": {
        "@type": "type.googleapis.com/envoy.extensions.filters.listener.tls_inspector.v3.TlsInspector"}});
    let config = json!({"node": {"id": "load", "cluster": "load"}, "static_resources": {
        "listeners": [
            {"name": "plain", "address": address(plain), "filter_chains": [{"filters": [manager("plain")]}]},
            {"name": "tls", "address": address(tls), "listener_filters": [inspector], "filter_chains": chains}
        ],
        "clusters": [cluster(stage, backend, to_tls)]
    }});
    let file = home.join("envoy.json");
    std::fs::write(&file, config.to_string())?;
    let file = file.display().to_string();
    let command = [&program, "-c", &file, "--concurrency", "1", "-l", "critical", "--disable-hot-restart"];
    Ok(Some(Contender {
        name: "Envoy".to_owned(),
        about,
        command: command.iter().map(|part| (*part).to_owned()).collect(),
        env: Vec::new(),
        ports: Ports { plain, tls, h2: Some(tls) },
        ask: Ask::Plain,
        log: stage.dir.join("envoy.log"),
    }))
}

fn route_table(certificates: &Certificates<'_>) -> Value {
    let host = |host: &str| {
        let added = |name: &str, value: &str| {
            json!({"header": {"key": name, "value": value},
            "append_action": "OVERWRITE_IF_EXISTS_OR_ADD"})
        };
        let target = json!({"cluster": "backend", "timeout": "0s", "upgrade_configs": [{"upgrade_type": "websocket"}]});
        let headers = [added("Knative-Serving-Namespace", NAMESPACE), added("Knative-Serving-Revision", REVISION)];
        let probe = json!([{"name": "K-Network-Hash", "string_match": {"exact": "override"}}]);
        json!({"name": host, "domains": [host, format!("{host}:*")], "routes": [
            {"match": {"prefix": "/", "headers": probe}, "route": target,
             "request_headers_to_add": [headers[0], headers[1], added("K-Network-Hash", "0")]},
            {"match": {"prefix": "/"}, "route": target, "request_headers_to_add": headers}
        ]})
    };
    let mut hosts = vec![host(HOST)];
    if let Certificates::Many(more) = certificates {
        hosts.extend(more.iter().map(|(name, _)| host(name)));
    }
    json!({"resources": [{
        "@type": "type.googleapis.com/envoy.config.route.v3.RouteConfiguration",
        "name": "routes", "virtual_hosts": hosts
    }]})
}

fn cluster(stage: &Stage, backend: Backend, to_tls: bool) -> Value {
    let port = if to_tls { backend.tls } else { backend.plain };
    let address = json!({"socket_address": {"address": "127.0.0.1", "port_value": port}});
    let mut cluster = json!({
        "name": "backend", "type": "STATIC", "connect_timeout": "5s",
        "load_assignment": {"cluster_name": "backend",
            "endpoints": [{"lb_endpoints": [{"endpoint": {"address": address}}]}]}
    });
    if to_tls {
        let authorities = certificates(&stage.dir).join("ca.crt");
        cluster["transport_socket"] = json!({"name": "envoy.transport_sockets.tls", "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext",
            "common_tls_context": {
                "tls_params": {"tls_minimum_protocol_version": "TLSv1_3", "tls_maximum_protocol_version": "TLSv1_3"},
                "validation_context": {
                    "trusted_ca": {"filename": authorities},
                    "match_typed_subject_alt_names": [{"san_type": "DNS", "matcher": {"exact": "kn-user-default"}}]
                }
            }
        }});
    }
    cluster
}
