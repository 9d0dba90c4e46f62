//! Objects of a cluster, as its controllers write them.
use serde_json::{Value, json};

/// An object that is being made.
#[derive(Clone, Debug)]
pub struct Object(Value);

impl From<Object> for Value {
    fn from(object: Object) -> Self {
        object.0
    }
}

impl Object {
    fn new(api: &str, kind: &str, namespace: &str, name: &str) -> Self {
        let meta = json!({"namespace": namespace, "name": name, "labels": {}, "annotations": {}});
        Self(json!({"apiVersion": api, "kind": kind, "metadata": meta}))
    }

    /// Sets anything, by JSON pointer; objects on the way must be there.
    pub fn set(mut self, pointer: &str, value: impl Into<Value>) -> Self {
        let (parent, key) = pointer.rsplit_once('/').unwrap();
        self.0.pointer_mut(parent).unwrap()[key] = value.into();
        self
    }

    /// A label.
    pub fn label(mut self, name: &str, value: &str) -> Self {
        self.0["metadata"]["labels"][name] = value.into();
        self
    }

    /// An annotation.
    pub fn annotation(mut self, name: &str, value: &str) -> Self {
        self.0["metadata"]["annotations"][name] = value.into();
        self
    }

    /// The object as one document of YAML, which JSON is.
    pub fn manifest(&self) -> String {
        format!("---\n{}\n", self.0)
    }

    // Revisions.

    /// `containerConcurrency`.
    pub fn concurrency(self, limit: u32) -> Self {
        self.set("/spec/containerConcurrency", limit)
    }

    /// `timeoutSeconds`.
    pub fn timeout(self, seconds: u32) -> Self {
        self.set("/spec/timeoutSeconds", seconds)
    }

    /// The container speaks HTTP/2.
    pub fn h2c(self) -> Self {
        self.set("/spec/containers/0/ports", json!([{"name": "h2c", "containerPort": 8080}]))
    }

    /// Whether the container is ready is found out by a command.
    pub fn exec_readiness(self) -> Self {
        self.set("/spec/containers/0/readinessProbe", json!({"exec": {"command": ["true"]}}))
    }

    // Endpoints and Services.

    /// A subset: ready and not ready addresses and the port named `name`.
    pub fn subset(mut self, ready: &[&str], not_ready: &[&str], name: &str, port: u16) -> Self {
        let list = |ips: &[&str]| ips.iter().map(|ip| json!({"ip": ip, "nodeName": "node-1"})).collect::<Vec<_>>();
        let mut subset = json!({"ports": [{"name": name, "port": port, "protocol": "TCP"}]});
        for (field, ips) in [("addresses", ready), ("notReadyAddresses", not_ready)] {
            if !ips.is_empty() {
                subset[field] = list(ips).into();
            }
        }
        self.0["subsets"].as_array_mut().unwrap().push(subset);
        self
    }

    /// A port of a Service.
    pub fn port(mut self, name: &str, port: u16) -> Self {
        let port = json!({"name": name, "port": port, "targetPort": 8012, "protocol": "TCP"});
        self.0["spec"]["ports"].as_array_mut().unwrap().push(port);
        self
    }

    // ConfigMaps and Secrets.

    /// An entry of a ConfigMap, or of a Secret.
    pub fn entry(mut self, key: &str, value: &str) -> Self {
        let secret = self.0["kind"] == "Secret";
        self.0["data"][key] = match secret {
            true => base64(value.as_bytes()).into(),
            false => value.into(),
        };
        self
    }
}

/// A Revision with one container, no limit of concurrency and 300 s.
pub fn revision(namespace: &str, name: &str) -> Object {
    let mut object = Object::new("serving.knative.dev/v1", "Revision", namespace, name);
    let service = name.rsplit_once('-').map_or(name, |(service, _)| service);
    object.0["spec"] = json!({"containerConcurrency": 0, "timeoutSeconds": 300,
        "containers": [{"name": "user-container", "image": "example.com/app@sha256:0", "ports": [{"containerPort": 8080}],
                        "readinessProbe": {"successThreshold": 1, "tcpSocket": {"port": 0}}, "resources": {}}]});
    object.label("serving.knative.dev/service", service).label("serving.knative.dev/configuration", service)
}

/// The Endpoints of a revision's private Service: its pods.
pub fn private_endpoints(namespace: &str, revision: &str) -> Object {
    endpoints(namespace, &format!("{revision}-private"), revision, "Private")
        .label("serving.knative.dev/revisionUID", "00000000-0000-4000-8000-000000000000")
}

/// The Endpoints of a revision's public Service.
pub fn public_endpoints(namespace: &str, revision: &str) -> Object {
    endpoints(namespace, revision, revision, "Public")
}

fn endpoints(namespace: &str, name: &str, revision: &str, kind: &str) -> Object {
    let mut object = Object::new("v1", "Endpoints", namespace, name);
    object.0["subsets"] = json!([]);
    object.label("serving.knative.dev/revision", revision).label("networking.internal.knative.dev/serviceType", kind)
}

/// A Service without ports.
pub fn service(namespace: &str, name: &str, cluster_ip: &str) -> Object {
    let mut object = Object::new("v1", "Service", namespace, name);
    object.0["spec"] = json!({"clusterIP": cluster_ip, "ports": []});
    object
}

/// A revision's private Service on port 80.
pub fn private_service(namespace: &str, revision: &str, cluster_ip: &str) -> Object {
    service(namespace, &format!("{revision}-private"), cluster_ip)
        .label("serving.knative.dev/revision", revision)
        .label("networking.internal.knative.dev/serviceType", "Private")
        .port("http", 80)
}

/// An empty ConfigMap.
pub fn config_map(namespace: &str, name: &str) -> Object {
    let mut object = Object::new("v1", "ConfigMap", namespace, name);
    object.0["data"] = json!({});
    object
}

/// A ConfigMap with trusted authorities.
pub fn trust_bundle(namespace: &str, name: &str, pem: &str) -> Object {
    config_map(namespace, name).label("networking.knative.dev/trust-bundle", "true").entry("cas.pem", pem)
}

/// An empty Secret.
pub fn secret(namespace: &str, name: &str) -> Object {
    let mut object = Object::new("v1", "Secret", namespace, name);
    object.0["data"] = json!({});
    object
}

/// The Secret of activator and gateway.
pub fn routing_certs(namespace: &str, chain: &str, key: &str, authorities: &str) -> Object {
    let object = secret(namespace, "routing-serving-certs").entry("tls.crt", chain).entry("tls.key", key);
    if authorities.is_empty() { object } else { object.entry("ca.crt", authorities) }
}

fn base64(bytes: &[u8]) -> String {
    use base64::Engine;
    base64::engine::general_purpose::STANDARD.encode(bytes)
}
