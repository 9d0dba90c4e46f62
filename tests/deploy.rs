//! The manifests in `deploy/`: each kustomization is put together, and what comes out must fit Knative, the restricted pod
//! security standard, and what the roles really ask for.
//!
//! Kustomize itself and the schemas of Kubernetes are not needed here: `tests/interop/manifests.py` has both.
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs;
use std::path::Path;

use lockkeeper::gateway::config::Config;
use lockkeeper::knative::{ingress, names, network::Network};
use serde_json::{Value, json};

use crate::support::apiserver::{ApiServer, Audit};
use crate::support::binary::{Builder, command};
use crate::support::objects::{config_map, trust_bundle};
use crate::support::wait::eventually;

const SYSTEM: &str = "knative-serving";
const GATEWAY: &str = "kourier-system";
const OVERLAYS: [&str; 4] = ["queue-only", "activator-only", "gateway-only", "all"];

fn overlay(name: &str) -> Vec<Value> {
    resolve(&Path::new("deploy/overlays").join(name))
}

/// The objects of a kustomization. Knows the fields that ours use, and refuses all others.
fn resolve(dir: &Path) -> Vec<Value> {
    let [kustomization] = &documents(&dir.join("kustomization.yaml"))[..] else { panic!("{}", dir.display()) };
    let mut objects = Vec::new();
    for (field, value) in kustomization.as_object().unwrap() {
        let list = || value.as_array().unwrap_or_else(|| panic!("{}: {field}", dir.display())).iter();
        match field.as_str() {
            "apiVersion" => assert_eq!(value, "kustomize.config.k8s.io/v1beta1"),
            "kind" => assert_eq!(value, "Kustomization"),
            "resources" | "patches" | "images" | "configurations" => assert!(list().len() > 0),
            _ => panic!("{}: {field} is not known to this test", dir.display()),
        }
    }
    let entries = |field: &str| kustomization[field].as_array().cloned().unwrap_or_default();
    for resource in entries("resources") {
        let path = dir.join(resource.as_str().unwrap());
        objects.extend(if path.is_dir() { resolve(&path) } else { documents(&path) });
    }
    for patch in entries("patches") {
        for patch in documents(&dir.join(patch["path"].as_str().unwrap())) {
            let object = objects.iter_mut().find(|object| id(object) == id(&patch));
            merge(object.unwrap_or_else(|| panic!("{}: nothing to patch", id(&patch))), &patch);
        }
    }
    objects
}

fn documents(path: &Path) -> Vec<Value> {
    let text = fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let read = |text: &str| serde_saphyr::from_str::<Value>(text).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    text.split("\n---\n").map(read).filter(|value| !value.is_null()).collect()
}

fn merge(object: &mut Value, patch: &Value) {
    match (object, patch) {
        (Value::Object(object), Value::Object(patch)) => {
            for (key, value) in patch {
                merge(object.entry(key).or_insert(Value::Null), value);
            }
        }
        // Kubernetes merges containers and variables by their names.
        (Value::Array(items), Value::Array(patch)) if patch.iter().all(|item| item.get("name").is_some()) => {
            for patch in patch {
                match items.iter_mut().find(|item| item["name"] == patch["name"]) {
                    Some(item) => merge(item, patch),
                    None => items.push(patch.clone()),
                }
            }
        }
        (object, patch) => *object = patch.clone(),
    }
}

fn text<'a>(value: &'a Value, pointer: &str) -> &'a str {
    value.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

fn id(object: &Value) -> String {
    let namespace = match text(object, "/metadata/namespace") {
        "" => String::new(),
        namespace => format!("{namespace}/"),
    };
    format!("{} {namespace}{}", text(object, "/kind"), text(object, "/metadata/name"))
}

fn find<'a>(objects: &'a [Value], wanted: &str) -> &'a Value {
    objects.iter().find(|object| id(object) == wanted).unwrap_or_else(|| panic!("no {wanted}"))
}

fn data(objects: &[Value], map: &str) -> BTreeMap<String, String> {
    serde_json::from_value(find(objects, &format!("ConfigMap {SYSTEM}/{map}"))["data"].clone()).unwrap()
}

fn list<'a>(value: &'a Value, pointer: &str) -> impl Iterator<Item = &'a Value> {
    value.pointer(pointer).and_then(Value::as_array).into_iter().flatten()
}

fn words(value: &Value, pointer: &str) -> BTreeSet<String> {
    list(value, pointer).map(|word| word.as_str().unwrap().to_owned()).collect()
}

fn pods(objects: &[Value]) -> impl Iterator<Item = (&Value, &Value)> {
    objects.iter().filter_map(|object| Some((object, object.pointer("/spec/template/spec")?)))
}

/// Kinds with the version that serves them in every supported Kubernetes, Knative and cert-manager.
#[test]
fn when_each_overlay_is_put_together_then_its_objects_are_known_once_and_no_more_than_its_part() {
    let of = [
        ("v1", ["Namespace", "ServiceAccount", "Service", "ConfigMap"].as_slice()),
        ("apps/v1", &["Deployment"]),
        ("policy/v1", &["PodDisruptionBudget"]),
        ("networking.k8s.io/v1", &["NetworkPolicy"]),
        ("rbac.authorization.k8s.io/v1", &["Role", "RoleBinding", "ClusterRole", "ClusterRoleBinding"]),
        ("cert-manager.io/v1", &["ClusterIssuer", "Certificate"]),
    ];
    for name in OVERLAYS {
        let objects = overlay(name);
        let ids: BTreeSet<String> = objects.iter().map(id).collect();
        assert_eq!(ids.len(), objects.len(), "{name}: an object stands there twice");
        for object in &objects {
            let version = text(object, "/apiVersion");
            let known = of.iter().any(|(of, kinds)| *of == version && kinds.contains(&text(object, "/kind")));
            assert!(known, "{name}: {version}, {}", id(object));
            let cluster = ["Namespace", "ClusterRole", "ClusterRoleBinding", "ClusterIssuer"];
            let namespaced = !cluster.contains(&text(object, "/kind"));
            assert_eq!(namespaced, !text(object, "/metadata/namespace").is_empty(), "{name}: {}", id(object));
        }
        let has = |wanted: &str| ids.contains(wanted);
        let all = name == "all";
        assert_eq!(has("ConfigMap knative-serving/config-deployment"), all || name == "queue-only");
        assert_eq!(has("Deployment knative-serving/activator"), all || name == "activator-only");
        assert_eq!(has("Deployment kourier-system/3scale-kourier-gateway"), all || name == "gateway-only");
        assert_eq!(has("ClusterIssuer knative-serving-ca-issuer"), all);
        for map in objects.iter().filter(|object| object["kind"] == "ConfigMap") {
            let ours = ["config-deployment", "config-network", "config-certmanager", "knative-bundle"];
            assert!(ours.contains(&text(map, "/metadata/name")), "{}", id(map));
        }
    }
    assert_eq!(overlay("queue-only").len(), 1);
    let names: Vec<String> = resolve(Path::new("deploy/namespace")).iter().map(id).collect();
    assert_eq!(names, ["NetworkPolicy lockkeeper-queue"], "its namespace is given with -n");
}

/// What can be applied by path alone is the same as in the bases.
#[test]
fn when_the_manifests_beside_the_overlays_are_read_then_they_are_those_of_the_bases() {
    for part in ["activator", "gateway"] {
        let base = format!("deploy/base/{part}/{part}.yaml");
        assert_eq!(documents(Path::new(&format!("deploy/{part}.yaml"))), documents(Path::new(&base)), "{part}");
    }
}

/// Every image can be set in the overlay.
#[test]
fn when_images_are_looked_at_then_the_overlays_list_them_all() {
    for name in OVERLAYS {
        let objects = overlay(name);
        let mut used: BTreeSet<String> = pods(&objects)
            .flat_map(|(_, pod)| list(pod, "/containers"))
            .map(|c| text(c, "/image").to_owned())
            .collect();
        if objects.iter().any(|object| id(object).ends_with("/config-deployment")) {
            used.insert(data(&objects, "config-deployment")["queue-sidecar-image"].clone());
        }
        let [kustomization] = &documents(&Path::new("deploy/overlays").join(name).join("kustomization.yaml"))[..]
        else {
            panic!("{name}")
        };
        let listed = list(kustomization, "/images").map(|image| format!("{}:TAG", text(image, "/name"))).collect();
        assert_eq!(used, listed, "{name}");
    }
}

/// Names and ports by which Knative, its tests and its users find things.
#[test]
fn when_names_are_looked_at_then_they_are_those_that_knative_fixes() {
    let objects = overlay("all");
    let empty: HashMap<String, String> = HashMap::new();
    let defaults = Config::from_env(&empty).unwrap();
    let ports = defaults.ports;
    let services =
        [("kourier", ports.http, ports.https), ("kourier-internal", ports.internal_http, ports.internal_https)];
    for (name, http, https) in services {
        let service = find(&objects, &format!("Service {GATEWAY}/{name}"));
        let expected = json!([
            {"name": "http2", "port": 80, "targetPort": http},
            {"name": "https", "port": 443, "targetPort": https}
        ]);
        assert_eq!(service["spec"]["ports"], expected);
        assert_eq!(service["spec"]["selector"], json!({"app": "3scale-kourier-gateway"}));
    }
    assert_eq!(
        (defaults.external_service.as_str(), defaults.internal_service.as_str()),
        ("kourier", "kourier-internal")
    );

    let gateway = find(&objects, &format!("Deployment {GATEWAY}/3scale-kourier-gateway"));
    assert_eq!(gateway.pointer("/spec/template/metadata/labels/app").unwrap(), "3scale-kourier-gateway");
    let container = gateway.pointer("/spec/template/spec/containers/0").unwrap();
    let env: HashMap<String, String> =
        list(container, "/env").map(|env| (text(env, "/name").to_owned(), text(env, "/value").to_owned())).collect();
    let config = Config::from_env(&env).unwrap();
    assert_eq!((config.system_namespace.as_str(), config.gateway_namespace.as_str()), (SYSTEM, GATEWAY));
    let grace = gateway.pointer("/spec/template/spec/terminationGracePeriodSeconds").unwrap().as_u64().unwrap();
    assert!(grace > config.drain_time.as_secs(), "a drain would be cut");
    let exposed: BTreeSet<u64> =
        list(container, "/ports").map(|port| port["containerPort"].as_u64().unwrap()).collect();
    let all = [ports.http, ports.https, ports.internal_http, ports.internal_https, ports.admin];
    assert!(all.iter().all(|port| exposed.contains(&u64::from(*port))), "{exposed:?}");

    let activator = find(&objects, "Deployment knative-serving/activator");
    assert_eq!(activator.pointer("/spec/template/spec/containers/0/name").unwrap(), "activator");
    assert!(activator.pointer("/spec/selector").is_none(), "that is Knative's and can't be changed");

    let network = Network::parse(&data(&objects, "config-network")).unwrap();
    assert!(network.system_internal_tls && network.cluster_local_domain_tls && network.external_domain_tls);
    assert_eq!(network.ingress_class, ingress::DEFAULT_CLASS);
    let network = Network::parse(&data(&overlay("gateway-only"), "config-network")).unwrap();
    assert!(!network.system_internal_tls && !network.cluster_local_domain_tls && !network.external_domain_tls);
    let bundle = find(&objects, "ConfigMap knative-serving/knative-bundle");
    assert_eq!(bundle["metadata"]["labels"]["networking.knative.dev/trust-bundle"], "true");
}

/// The chain of cert-manager's objects holds: Knative asks an issuer that is there, which signs with a CA that is made.
#[test]
fn when_issuers_are_followed_then_each_leads_to_the_ca() {
    let objects = overlay("all");
    let config = data(&objects, "config-certmanager");
    let keys: Vec<&str> = config.keys().map(String::as_str).collect();
    assert_eq!(keys, ["clusterLocalIssuerRef", "issuerRef", "systemInternalIssuerRef"]);
    for reference in config.values() {
        let reference: Value = serde_saphyr::from_str(reference).unwrap();
        let issuer = find(&objects, &format!("{} {}", text(&reference, "/kind"), text(&reference, "/name")));
        let secret = text(issuer, "/spec/ca/secretName");
        let ca = objects.iter().find(|object| object["kind"] == "Certificate").unwrap();
        assert_eq!((text(ca, "/spec/secretName"), &ca["spec"]["isCA"]), (secret, &Value::Bool(true)));
        assert_eq!(text(ca, "/metadata/namespace"), "cert-manager", "where Secrets of ClusterIssuers are looked for");
        let root = find(&objects, &format!("ClusterIssuer {}", text(ca, "/spec/issuerRef/name")));
        assert!(root["spec"]["selfSigned"].is_object());
    }
}

/// OpenShift: the operator writes configuration and sets images, so none of its objects may be applied; the class is ours.
#[test]
fn when_the_overlay_for_openshift_is_put_together_then_it_leaves_the_operators_objects_alone() {
    let objects = overlay("openshift");
    for object in &objects {
        let name = text(object, "/metadata/name");
        assert!(!name.starts_with("config-") && name != "activator", "{}", id(object));
    }
    let gateway = find(&objects, &format!("Deployment {GATEWAY}/3scale-kourier-gateway"));
    let env: HashMap<String, String> = list(gateway, "/spec/template/spec/containers/0/env")
        .map(|env| (text(env, "/name").to_owned(), text(env, "/value").to_owned()))
        .collect();
    let config = Config::from_env(&env).unwrap();
    assert_eq!(
        (config.class.as_str(), config.gateway_namespace.as_str()),
        ("lockkeeper.ingress.networking.knative.dev", GATEWAY)
    );

    let [serving] = &documents(Path::new("deploy/overlays/openshift/knative-serving.yaml"))[..] else { panic!() };
    let settings = serde_json::from_value(serving["spec"]["config"]["network"].clone()).unwrap();
    let network = Network::parse(&settings).unwrap();
    assert!(network.system_internal_tls && network.cluster_local_domain_tls && !network.external_domain_tls);
    for reference in serving["spec"]["config"]["certmanager"].as_object().unwrap().values() {
        let reference: Value = serde_saphyr::from_str(reference.as_str().unwrap()).unwrap();
        find(&objects, &format!("{} {}", text(&reference, "/kind"), text(&reference, "/name")));
    }
    let [subscription] = &documents(Path::new("deploy/overlays/openshift/subscription.yaml"))[..] else { panic!() };
    let images: Vec<&str> = list(subscription, "/spec/config/env").map(|env| text(env, "/name")).collect();
    assert_eq!(images, ["IMAGE_queue-proxy", "IMAGE_activator"]);
}

/// What the pages say to type names files that are there.
#[test]
fn when_the_pages_are_read_then_the_files_that_they_name_exist() {
    for page in ["README.md", "docs/knative.md", "docs/openshift.md"] {
        let text = fs::read_to_string(page).unwrap();
        let end = |c: char| !c.is_ascii_alphanumeric() && !"/-_.".contains(c);
        let named = text.match_indices("deploy/").filter(|(at, _)| !text[..*at].ends_with(['/', '.']));
        let mut seen = 0;
        for (at, _) in named {
            let path = &text[at..];
            let path = path[..path.find(end).unwrap_or(path.len())].trim_end_matches('.');
            assert!(Path::new(path).exists(), "{page} names {path}");
            seen += 1;
        }
        assert!(seen > 0, "{page}");
    }
}

/// Pod Security Standards, level `restricted`.
#[test]
fn when_pods_are_looked_at_then_each_is_restricted_bounded_and_covered_by_policy_and_budget() {
    let objects = overlay("all");
    assert_eq!(pods(&objects).count(), 2);
    for (deployment, pod) in pods(&objects) {
        let what = id(deployment);
        for host in ["hostNetwork", "hostPID", "hostIPC", "volumes"] {
            assert!(pod.get(host).is_none(), "{what}: {host}");
        }
        for container in list(pod, "/containers") {
            let security = &container["securityContext"];
            assert_eq!(security["allowPrivilegeEscalation"], false, "{what}");
            assert_eq!(security["runAsNonRoot"], true, "{what}");
            assert_eq!(security["readOnlyRootFilesystem"], true, "{what}");
            assert_eq!(security["capabilities"], json!({"drop": ["ALL"]}), "{what}");
            assert_eq!(security["seccompProfile"], json!({"type": "RuntimeDefault"}), "{what}");
            assert!(security.get("privileged").is_none() && security.get("runAsUser").is_none(), "{what}");
            assert!(container.pointer("/resources/requests/memory").is_some(), "{what}");
        }
        let namespace = text(deployment, "/metadata/namespace");
        let app = if namespace == GATEWAY { "3scale-kourier-gateway" } else { "activator" };
        for (kind, pointer) in [("NetworkPolicy", "/spec/podSelector"), ("PodDisruptionBudget", "/spec/selector")] {
            let of = |object: &&Value| object["kind"] == kind && text(object, "/metadata/namespace") == namespace;
            let object = objects.iter().find(of).unwrap_or_else(|| panic!("no {kind} in {namespace}"));
            assert_eq!(object.pointer(pointer).unwrap(), &json!({"matchLabels": {"app": app}}), "{}", id(object));
        }
    }
    let labels = &find(&objects, "Namespace kourier-system")["metadata"]["labels"];
    assert_eq!(labels["pod-security.kubernetes.io/enforce"], "restricted");
}

/// Policies open the ports that are listened on, and no others.
#[test]
fn when_policies_are_read_then_they_open_the_ports_of_the_role() {
    let empty: HashMap<String, String> = HashMap::new();
    let ports = Config::from_env(&empty).unwrap().ports;
    let gateway = [
        ports.http,
        ports.https,
        ports.internal_http,
        ports.internal_https,
        ports.probe_http,
        ports.probe_https,
        ports.admin,
    ];
    let pod = [names::PORT_HTTP1, 8013, names::PORT_HTTPS, 9090];
    let queue = [names::PORT_HTTP1, 8013, names::PORT_HTTPS, 9090, 9091];
    let objects = [overlay("all"), resolve(Path::new("deploy/namespace"))].concat();
    let policies = objects.iter().filter(|object| object["kind"] == "NetworkPolicy");
    let mut seen = 0;
    for policy in policies {
        let expected: &[u16] = match text(policy, "/metadata/name") {
            "lockkeeper-gateway" => &gateway,
            "lockkeeper-activator" => &pod,
            _ => &queue,
        };
        let open: BTreeSet<u64> = list(policy, "/spec/ingress")
            .flat_map(|rule| list(rule, "/ports"))
            .map(|port| port["port"].as_u64().unwrap())
            .collect();
        assert_eq!(open, expected.iter().map(|port| u64::from(*port)).collect(), "{}", id(policy));
        assert_eq!(policy["spec"]["policyTypes"], json!(["Ingress"]));
        seen += 1;
    }
    assert_eq!(seen, 3);
}

/// One right: API group, resource, name if it is limited to one, verb.
type Right = (String, String, Option<String>, String);

/// What the service account of a Deployment may do, by namespace; `*` is everywhere.
fn rights(objects: &[Value], deployment: &str) -> BTreeMap<String, BTreeSet<Right>> {
    let deployment = find(objects, deployment);
    let account = text(deployment, "/spec/template/spec/serviceAccountName");
    let namespace = text(deployment, "/metadata/namespace");
    find(objects, &format!("ServiceAccount {namespace}/{account}"));
    let mut rights: BTreeMap<String, BTreeSet<Right>> = BTreeMap::new();
    for binding in objects.iter().filter(|object| text(object, "/kind").ends_with("RoleBinding")) {
        let is_ours = |subject: &Value| {
            (text(subject, "/kind"), text(subject, "/name"), text(subject, "/namespace"))
                == ("ServiceAccount", account, namespace)
        };
        if !list(binding, "/subjects").any(is_ours) {
            continue;
        }
        let within = text(binding, "/metadata/namespace");
        let kind = text(binding, "/roleRef/kind");
        let place = if kind == "Role" { format!("{within}/") } else { String::new() };
        let role = find(objects, &format!("{kind} {place}{}", text(binding, "/roleRef/name")));
        let within = if within.is_empty() { "*" } else { within };
        for rule in list(role, "/rules") {
            let names: Vec<Option<String>> = match rule.get("resourceNames") {
                None => vec![None],
                Some(_) => words(rule, "/resourceNames").into_iter().map(Some).collect(),
            };
            for group in words(rule, "/apiGroups") {
                for resource in words(rule, "/resources") {
                    for (name, verb) in
                        names.iter().flat_map(|n| words(rule, "/verbs").into_iter().map(move |v| (n, v)))
                    {
                        let right = (group.clone(), resource.clone(), name.clone(), verb);
                        assert!(
                            !right.0.contains('*') && !right.1.contains('*') && !right.3.contains('*'),
                            "{right:?}"
                        );
                        rights.entry(within.to_owned()).or_default().insert(right);
                    }
                }
            }
        }
    }
    rights
}

/// The namespace and the right that a request needs, as the API server's authoriser sees it; none for `/version`.
fn needed(audit: &Audit) -> Option<(String, Right)> {
    let mut parts: Vec<&str> = audit.path.trim_matches('/').split('/').collect();
    if parts.first() == Some(&"version") {
        return None;
    }
    let group = match parts.remove(0) {
        "api" => "",
        _ => parts.remove(0),
    };
    parts.remove(0);
    let namespace = (parts.first() == Some(&"namespaces") && parts.len() > 2).then(|| {
        parts.remove(0);
        parts.remove(0)
    });
    let selected = audit.query.get("fieldSelector").and_then(|selector| selector.strip_prefix("metadata.name="));
    let name = parts.get(1).copied().or(selected);
    let resource = match parts.get(2) {
        Some(sub) => format!("{}/{sub}", parts[0]),
        None => parts[0].to_owned(),
    };
    let verb = match (audit.method.as_str(), parts.get(1)) {
        ("GET", Some(_)) => "get",
        ("GET", None) if audit.query.get("watch").is_some_and(|watch| watch == "true" || watch == "1") => "watch",
        ("GET", None) => "list",
        ("PUT", _) => "update",
        ("PATCH", _) => "patch",
        ("POST", _) => "create",
        (method, _) => panic!("{method} {}", audit.path),
    };
    let right = (group.to_owned(), resource, name.map(str::to_owned), verb.to_owned());
    Some((namespace.unwrap_or("*").to_owned(), right))
}

#[track_caller]
fn permits(rights: &BTreeMap<String, BTreeSet<Right>>, audits: &[Audit]) {
    for audit in audits {
        let Some((namespace, (group, resource, name, verb))) = needed(audit) else { continue };
        let may = [namespace.as_str(), "*"].iter().filter_map(|within| rights.get(*within)).any(|rights| {
            let right = |name| (group.clone(), resource.clone(), name, verb.clone());
            rights.contains(&right(None)) || rights.contains(&right(name.clone()))
        });
        assert!(may, "{verb} {resource} {name:?} in {namespace}: {} {}", audit.method, audit.path);
    }
}

/// Starts a role against an API server, until it has asked for `wanted` and watches them.
fn requests(role: Builder, wanted: &[&str]) -> Vec<Audit> {
    let api = ApiServer::start();
    api.apply(config_map(SYSTEM, "config-network").entry("system-internal-tls", "enabled"));
    for name in ["config-logging", "config-observability", "config-kourier"] {
        api.apply(config_map(SYSTEM, name));
    }
    api.apply(trust_bundle(SYSTEM, "knative-bundle", ""));
    let mut role = role.env("SYSTEM_NAMESPACE", SYSTEM).env("LOCKKEEPER_LISTEN_ADDRESS", "127.0.0.1");
    for (name, value) in api.env() {
        role = role.env(&name, value);
    }
    let _running = role.spawn();
    eventually("every kind is asked for", || wanted.iter().all(|plural| !api.requests_for(plural).is_empty()));
    api.requests()
}

#[test]
fn given_the_activators_roles_when_it_starts_then_they_allow_what_it_asks_for_and_nothing_that_it_never_does() {
    let rights = rights(&overlay("activator-only"), "Deployment knative-serving/activator");
    let activator = ["HTTP_PORT", "HTTP2_PORT", "TLS_PORT"]
        .iter()
        .fold(command(&["activator"]), |builder, port| builder.env(&format!("LOCKKEEPER_{port}"), 0))
        .env("POD_NAME", "activator-0")
        .env("POD_IP", "127.0.0.1")
        .env("PROFILING_PORT", 0)
        .env("LOCKKEEPER_AUTOSCALER", "127.0.0.1:1");
    let asked = requests(activator, &["revisions", "endpoints", "services", "secrets", "configmaps"]);
    permits(&rights, &asked);

    let used: BTreeSet<String> = asked.iter().filter_map(needed).map(|(_, right)| right.1).collect();
    for (group, resource, name, verb) in rights.values().flatten() {
        assert!(used.contains(resource), "{group}/{resource} is never asked for");
        assert!(["list", "watch"].contains(&verb.as_str()), "the activator changes nothing: {verb} {resource}");
        assert_eq!(name.is_some(), resource == "secrets", "one Secret, by its name");
    }
}

#[test]
fn given_the_gateways_roles_when_it_starts_then_they_allow_what_it_asks_for_and_it_changes_statuses_only() {
    let rights = rights(&overlay("gateway-only"), &format!("Deployment {GATEWAY}/3scale-kourier-gateway"));
    let gateway = ["HTTP", "HTTPS", "INTERNAL_HTTP", "INTERNAL_HTTPS", "PROBE_HTTP", "PROBE_HTTPS", "ADMIN"]
        .iter()
        .fold(command(&["gateway"]), |builder, port| builder.env(&format!("LOCKKEEPER_{port}_PORT"), 0))
        .env("KOURIER_GATEWAY_NAMESPACE", GATEWAY);
    let asked = requests(gateway, &["ingresses", "services", "endpointslices", "secrets", "configmaps"]);
    permits(&rights, &asked);

    for (_, _, name, verb) in rights[SYSTEM].iter().filter(|right| right.1 == "leases") {
        let own = format!("lockkeeper-gateway.{}", ingress::DEFAULT_CLASS);
        assert_eq!(name.as_deref(), (verb != "create").then_some(own.as_str()), "no other Lease: {verb}");
    }
    for (_, resource, _, verb) in rights.values().flatten() {
        let reads = ["get", "list", "watch"].contains(&verb.as_str());
        let allowed = match resource.as_str() {
            "ingresses" => reads || verb == "patch",
            "ingresses/status" => verb == "update",
            "services" | "secrets" | "endpointslices" | "configmaps" => ["list", "watch"].contains(&verb.as_str()),
            "leases" => reads || ["create", "update"].contains(&verb.as_str()),
            "events" => ["get", "create", "patch"].contains(&verb.as_str()),
            _ => false,
        };
        assert!(allowed, "{verb} {resource}");
    }
}
