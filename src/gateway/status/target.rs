//! What is asked of each replica about an object: one host after the other, over the port and the scheme that prove most.
//!
//! Control side; pure. Source: net-kourier's `pkg/reconciler/ingress/lister.go`, with two differences. A path is asked for
//! that the object has, where Kourier's `/healthz` is not found for ever; and each host is asked for over TLS if it has a
//! certificate or is redirected there, where Kourier takes a redirect for a good answer.
use std::collections::BTreeSet;

use crate::gateway::certificates::Certificates;
use crate::knative::ingress::{Spec, Visibility, hosts};

/// What has to be checked from outside before an object is ready.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ToProbe {
    /// The hash that each replica has to answer.
    pub hash: String,
    /// Each host, on which side, over which scheme, and a path that the object has.
    pub targets: Vec<Target>,
}

/// One host to ask for.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Target {
    /// The host.
    pub host: String,
    /// Whether it is reached from outside.
    pub external: bool,
    /// Whether it is asked over TLS.
    pub tls: bool,
    /// A path that leads somewhere.
    pub path: String,
}

/// The targets of an object; its hosts' certificates are among those in force.
#[must_use]
pub fn of(spec: &Spec, certificates: &Certificates) -> Vec<Target> {
    let mut targets = BTreeSet::new();
    for rule in &spec.rules {
        let visibility = rule.visibility();
        let external = visibility == Visibility::ExternalIp;
        let of_object = spec.tls_for(visibility);
        // The longest prefix may be an ACME path, which leads to a solver.
        let paths = rule.paths().iter().map(|path| path.prefix()).filter(|path| !path.contains("acme-challenge"));
        let path = match paths.min_by_key(|path| path.len()) {
            None => continue,
            // A path that every rule without paths of its own has.
            Some("/") => "/healthz",
            Some(path) => path,
        };
        for host in rule.hosts.iter().filter(|host| !host.contains('*')) {
            let own = of_object.iter().any(|tls| tls.hosts.contains(host));
            let redirected = external && spec.redirects();
            let reached = || certificates.reaches(visibility.into(), &hosts::normal(host), !of_object.is_empty());
            let tls = own || redirected && reached();
            targets.insert(Target { host: host.clone(), external, tls, path: path.to_owned() });
        }
    }
    targets.into_iter().collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::sync::Arc;

    use super::*;
    use crate::gateway::route::table::Side;
    use crate::knative::secret::Secret;
    use crate::kube::Key;

    const TO: &str = r#""splits":[{"serviceNamespace":"ns","serviceName":"s","servicePort":80}]"#;

    /// Each target as `host path`, in its own order, with a sign for TLS and one for the inside.
    fn told(option: &str, certificates: &Certificates) -> Vec<String> {
        let spec = format!(
            r#"{{"httpOption":"{option}","tls":[{{"hosts":["a.x"],"secretName":"s"}}],"rules":[
                {{"hosts":["a.x","*.w.x"],"visibility":"ExternalIP","http":{{"paths":[{{{TO}}}]}}}},
                {{"hosts":["a.x"],"visibility":"ExternalIP","http":{{"paths":[{{{TO}}}]}}}},
                {{"hosts":["b.x"],"visibility":"ExternalIP","http":{{"paths":[
                    {{"path":"/.well-known/acme-challenge/t",{TO}}},{{"path":"/long/er",{TO}}},{{"path":"/only",{TO}}}]}}}},
                {{"hosts":["l.ns"],"visibility":"ClusterLocal","http":{{"paths":[{{{TO}}}]}}}}]}}"#
        );
        let of_target = |target: Target| {
            let sign = |sign, there| if there { sign } else { "" };
            let signs = [sign(" tls", target.tls), sign(" inside", !target.external)].concat();
            format!("{} {}{signs}", target.host, target.path)
        };
        of(&serde_json::from_str(&spec).unwrap(), certificates).into_iter().map(of_target).collect()
    }

    #[test]
    fn given_an_object_when_its_hosts_are_listed_then_each_is_asked_for_where_it_proves_most() {
        let mut certificates = Certificates::default();
        let plain = ["a.x /healthz tls", "b.x /only", "l.ns /healthz inside"];
        assert_eq!(told("Enabled", &certificates), plain);
        assert_eq!(told("Redirected", &certificates), plain, "without a certificate there is no redirect");

        let key = rcgen::KeyPair::generate().unwrap();
        let certificate = rcgen::CertificateParams::new(vec!["d".to_owned()]).unwrap().self_signed(&key).unwrap();
        let pair = [("tls.crt", certificate.pem()), ("tls.key", key.serialize_pem())];
        let data = pair.into_iter().map(|(k, v)| (k.to_owned(), v.into_bytes())).collect();
        let default = Key::new("ns", "default");
        certificates.set_default(Side::External, Some(default.clone()));
        certificates.secret(&default, Some(&Arc::new(Secret { data })));
        assert_eq!(told("Enabled", &certificates), plain);
        assert_eq!(told("Redirected", &certificates), ["a.x /healthz tls", "b.x /only tls", "l.ns /healthz inside"]);
    }
}
