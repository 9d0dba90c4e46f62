//! Settings of the gateway role from the environment: the variables of net-kourier's controller and its Envoy, and our
//! own. What can change while it runs is in ConfigMaps: [`super::kourier`].
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use crate::config::env::{Env, Reader};
use crate::config::error::{Error, Errors};
use crate::config::value;
use crate::gateway::authz::settings::Settings;
use crate::knative::cluster_domain;
use crate::knative::ingress::DEFAULT_CLASS;

/// Everything that the gateway is told at start.
#[derive(Clone, Debug)]
pub struct Config {
    /// `SYSTEM_NAMESPACE`: where Knative's ConfigMaps, Secrets and its activator are; default `knative-serving`.
    pub system_namespace: String,
    /// `KOURIER_GATEWAY_NAMESPACE`: where the gateway's own Services are; default the system namespace.
    pub gateway_namespace: String,
    /// `CLUSTER_DOMAIN`, else what `/etc/resolv.conf` says, else `cluster.local`.
    pub cluster_domain: String,
    /// `LOCKKEEPER_INGRESS_CLASS`: the class of Ingress that is served; default Kourier's.
    pub class: String,
    /// `LOCKKEEPER_EXTERNAL_SERVICE`: the Service in front of the external ports; default `kourier`.
    pub external_service: String,
    /// `LOCKKEEPER_INTERNAL_SERVICE`: the Service in front of the internal ports, whose addresses are the replicas;
    /// default `kourier-internal`.
    pub internal_service: String,
    /// `CERTS_SECRET_NAMESPACE` and `CERTS_SECRET_NAME`: the certificate for hosts without one of their own;
    /// `config-kourier` goes before them.
    pub default_certificate: Option<(String, String)>,
    /// `KOURIER_EXTAUTHZ_HOST` and its like: who decides about requests; goes before `config-kourier`.
    pub authorizer: Option<Settings>,
    /// `KOURIER_HTTPOPTION_DISABLED`: a proxy in front redirects, so this one does not; default false.
    pub never_redirect: bool,
    /// `LOCKKEEPER_RETRY_LOST`: whether a request without a body whose method is idempotent is sent to another upstream,
    /// once, when its own goes away before a byte of the response; default true.
    pub retry_lost: bool,
    /// Which Secrets are watched.
    pub secrets: Secrets,
    /// `LOCKKEEPER_SHARED_SECRET_NAMESPACES`: namespaces whose Secrets the Ingresses of every namespace may name, with
    /// commas between; `*` is all of them, as in Kourier; default none.
    pub shared_secrets: Vec<String>,
    /// `DRAIN_TIME_SECONDS`: from the signal to the end of what is still in flight; default 15.
    pub drain_time: Duration,
    /// `LOCKKEEPER_DRAIN_SETTLE`: how much of that new connections are still taken; default 5 s.
    pub drain_settle: Duration,
    /// Ports; 0 is any free one.
    pub ports: Ports,
    /// `LOCKKEEPER_LISTEN_ADDRESS`: in place of `listen-ip-addresses` of `config-kourier`.
    pub listen_address: Option<IpAddr>,
    /// `LOCKKEEPER_STATUS_DIR`: where status is written when objects come from a directory; default none.
    pub status_dir: Option<PathBuf>,
    /// `WORKER_THREADS`: number of worker threads, at most 1024; default by CPU quota.
    pub worker_threads: Option<u32>,
    /// `OTEL_EXPORTER_OTLP_CERTIFICATE`: authorities of an `https` collector of traces; default those of the system.
    pub collector_ca: Option<PathBuf>,
    /// `POD_NAME`: this replica's name in logs.
    pub pod: String,
}

/// Which Secrets are watched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Secrets {
    /// Those with the label of Serving's certificates, and those that an Ingress names, one by one.
    Needed,
    /// Those with the label alone (`ENABLE_SECRET_INFORMER_FILTERING_BY_CERT_UID=true`).
    Labelled,
    /// Every Secret of the cluster: one watch for those who have thousands without the label.
    All,
}

/// The gateway's ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ports {
    /// `LOCKKEEPER_HTTP_PORT`: external rules, plain; default 8080.
    pub http: u16,
    /// `LOCKKEEPER_HTTPS_PORT`: external rules, TLS; default 8443.
    pub https: u16,
    /// `LOCKKEEPER_INTERNAL_HTTP_PORT`: all rules, plain; default 8081.
    pub internal_http: u16,
    /// `LOCKKEEPER_INTERNAL_HTTPS_PORT`: cluster-local rules, TLS; default 8444.
    pub internal_https: u16,
    /// `LOCKKEEPER_PROBE_HTTP_PORT`: as `http`, never with PROXY protocol; default 8090.
    pub probe_http: u16,
    /// `LOCKKEEPER_PROBE_HTTPS_PORT`: as `https`, never with PROXY protocol; default 9443.
    pub probe_https: u16,
    /// `LOCKKEEPER_ADMIN_PORT`: metrics, health and what is in force; default 9000.
    pub admin: u16,
}

impl Config {
    /// Reads and checks every setting.
    ///
    /// # Errors
    /// All mistakes at once.
    pub fn from_env(env: &dyn Env) -> Result<Self, Errors> {
        let mut read = Reader::new(env);
        let system = read.non_empty("SYSTEM_NAMESPACE").unwrap_or_else(|| "knative-serving".to_owned());
        let gateway = read.non_empty("KOURIER_GATEWAY_NAMESPACE").unwrap_or_else(|| system.clone());
        let text = |name: &str, default: &str| read.non_empty(name).unwrap_or_else(|| default.to_owned());
        let class = text("LOCKKEEPER_INGRESS_CLASS", DEFAULT_CLASS);
        let external_service = text("LOCKKEEPER_EXTERNAL_SERVICE", "kourier");
        let internal_service = text("LOCKKEEPER_INTERNAL_SERVICE", "kourier-internal");
        let pod = text("POD_NAME", "");
        let shared_secrets = read.or("LOCKKEEPER_SHARED_SECRET_NAMESPACES", Vec::new(), value::list);
        let default_certificate = read.non_empty("CERTS_SECRET_NAMESPACE").zip(read.non_empty("CERTS_SECRET_NAME"));
        let status_dir = read.non_empty("LOCKKEEPER_STATUS_DIR").map(PathBuf::from);
        let collector_ca = read.non_empty("OTEL_EXPORTER_OTLP_CERTIFICATE").map(PathBuf::from);
        let never_redirect = read.or("KOURIER_HTTPOPTION_DISABLED", false, value::bool);
        let retry_lost = read.or("LOCKKEEPER_RETRY_LOST", true, value::bool);
        let labelled = read.or("ENABLE_SECRET_INFORMER_FILTERING_BY_CERT_UID", false, value::bool);
        let secrets = read.or("LOCKKEEPER_WATCH_SECRETS", None, |text| secrets(text).map(Some));
        let drain = read.or("DRAIN_TIME_SECONDS", 15, value::int);
        let settle = read.or("LOCKKEEPER_DRAIN_SETTLE", Duration::from_secs(5), value::duration);
        let http = read.or("LOCKKEEPER_HTTP_PORT", 8080, value::port_or_zero);
        let https = read.or("LOCKKEEPER_HTTPS_PORT", 8443, value::port_or_zero);
        let internal_http = read.or("LOCKKEEPER_INTERNAL_HTTP_PORT", 8081, value::port_or_zero);
        let internal_https = read.or("LOCKKEEPER_INTERNAL_HTTPS_PORT", 8444, value::port_or_zero);
        let probe_http = read.or("LOCKKEEPER_PROBE_HTTP_PORT", 8090, value::port_or_zero);
        let probe_https = read.or("LOCKKEEPER_PROBE_HTTPS_PORT", 9443, value::port_or_zero);
        let admin = read.or("LOCKKEEPER_ADMIN_PORT", 9000, value::port_or_zero);
        let listen_address = read.or("LOCKKEEPER_LISTEN_ADDRESS", None, |text| value::ip(text).map(Some));
        let worker_threads = read.or("WORKER_THREADS", None, |text| value::threads(text).map(Some));
        let cluster_domain = cluster_domain::find(env);
        let authorizer = Settings::of_environment(env).unwrap_or_else(|mistake| {
            read.mistake(Error::Fatal { message: "External authorisation", error: mistake.to_string() });
            None
        });
        read.finish(|| {
            Some(Self {
                system_namespace: system,
                gateway_namespace: gateway,
                cluster_domain,
                class,
                external_service,
                internal_service,
                default_certificate,
                authorizer,
                never_redirect: never_redirect?,
                retry_lost: retry_lost?,
                secrets: secrets?.unwrap_or(if labelled? { Secrets::Labelled } else { Secrets::Needed }),
                shared_secrets: shared_secrets?,
                drain_time: Duration::from_secs(u64::try_from(drain?).unwrap_or(0)),
                drain_settle: settle?,
                ports: Ports {
                    http: http?,
                    https: https?,
                    internal_http: internal_http?,
                    internal_https: internal_https?,
                    probe_http: probe_http?,
                    probe_https: probe_https?,
                    admin: admin?,
                },
                listen_address: listen_address?,
                status_dir,
                collector_ca,
                worker_threads: worker_threads?,
                pod,
            })
        })
    }
}

fn secrets(text: &str) -> Result<Secrets, value::Invalid> {
    match text {
        "needed" => Ok(Secrets::Needed),
        "labelled" => Ok(Secrets::Labelled),
        "all" => Ok(Secrets::All),
        _ => Err(value::Invalid::new("needed, labelled or all")),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::collections::HashMap;

    use super::*;

    fn read(vars: &[(&str, &str)]) -> Result<Config, Errors> {
        let env: HashMap<String, String> = vars.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        Config::from_env(&env)
    }

    #[test]
    fn given_nothing_when_read_then_the_defaults_are_kouriers() {
        let config = read(&[]).unwrap();

        assert_eq!(
            (config.system_namespace.as_str(), config.gateway_namespace.as_str()),
            ("knative-serving", "knative-serving")
        );
        assert_eq!(config.class, "kourier.ingress.networking.knative.dev");
        assert_eq!((config.ports.http, config.ports.probe_https, config.ports.admin), (8080, 9443, 9000));
        assert_eq!(config.secrets, Secrets::Needed);
        assert_eq!(config.drain_time, Duration::from_secs(15));
    }

    #[test]
    fn given_mistakes_when_read_then_all_of_them_are_named() {
        let errors =
            read(&[("LOCKKEEPER_HTTP_PORT", "x"), ("LOCKKEEPER_WATCH_SECRETS", "some")]).unwrap_err().to_string();

        for part in
            [r#"LOCKKEEPER_HTTP_PORT="x""#, r#"LOCKKEEPER_WATCH_SECRETS="some": expected needed, labelled or all"#]
        {
            assert!(errors.contains(part), "{errors}");
        }
    }
}
