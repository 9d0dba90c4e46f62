//! Which API server, and how it is spoken to.
//!
//! Found once, at start; the files that it names are read again with each connection (authorities, client certificate)
//! and each request (token), since Kubernetes renews them in place.
//!
//! Source: client-go's `rest.InClusterConfig`, `clientcmd`, and `knative.dev/pkg/environment`.
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use http::Uri;
use http::uri::Scheme;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, RootCertStore};

use crate::config::env::Env;
use crate::kube::api::kubeconfig;
use crate::kube::source::Flags;
use crate::tls::policy::Policy;
use crate::tls::{pem, provider};

/// Where the kubelet puts a pod's token and the authorities of its API server.
const ACCOUNT: &str = "/var/run/secrets/kubernetes.io/serviceaccount";
/// Names that directory, for processes that are not in a pod.
const ACCOUNT_DIR: &str = "LOCKKEEPER_SERVICE_ACCOUNT_DIR";
/// Authorities of the system, for kubeconfigs that name none.
const SYSTEM_AUTHORITIES: &str = "/etc/ssl/certs/ca-certificates.crt";

/// An API server and the credentials for it.
#[derive(Debug)]
pub struct Cluster {
    pub(super) scheme: Scheme,
    pub(super) host: String,
    pub(super) port: u16,
    /// What goes before `/api`; no slash at its end.
    pub(super) prefix: String,
    pub(super) token: Token,
    pub(super) authorities: Content,
    pub(super) certificate: Option<(Content, Content)>,
    /// The name that the server's certificate must have, if not the host.
    pub(super) server_name: Option<String>,
}

/// What proves to the server who we are.
pub(super) enum Token {
    /// Nothing, or a client certificate.
    None,
    /// As it is.
    Fixed(String),
    /// What this file holds when it is needed.
    File(PathBuf),
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => f.write_str("None"),
            Self::Fixed(_) => f.write_str("Fixed"),
            Self::File(path) => f.debug_tuple("File").field(path).finish(),
        }
    }
}

/// PEM in a file, or given in place.
pub(super) enum Content {
    /// In a file, read anew each time.
    File(PathBuf),
    /// Here.
    Bytes(Vec<u8>),
}

impl fmt::Debug for Content {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => f.debug_tuple("File").field(path).finish(),
            Self::Bytes(_) => f.write_str("Bytes"),
        }
    }
}

impl Content {
    pub(super) fn read(&self) -> Result<Vec<u8>, String> {
        match self {
            Self::File(path) => fs::read(path).map_err(|error| format!("{}: {error}", path.display())),
            Self::Bytes(bytes) => Ok(bytes.clone()),
        }
    }

    /// Where it comes from, for people.
    fn origin(&self) -> String {
        match self {
            Self::File(path) => path.display().to_string(),
            Self::Bytes(_) => "the kubeconfig".to_owned(),
        }
    }
}

impl Cluster {
    /// The API server that the settings name: `-server` alone, else the kubeconfig of `-kubeconfig` or `$KUBECONFIG`
    /// (with `-cluster` and `-server` over it), else the one of the pod that this runs in
    /// (`KUBERNETES_SERVICE_HOST`, `KUBERNETES_SERVICE_PORT`), else `~/.kube/config`.
    ///
    /// # Errors
    /// None is named, or a file that belongs to its settings can't be used.
    pub fn find(env: &dyn Env, flags: &Flags) -> Result<Self, String> {
        let set = |name: &str| env.var(name).filter(|value| !value.is_empty());
        let named = flags.kubeconfig.clone().or_else(|| set("KUBECONFIG").map(PathBuf::from));
        if let Some(path) = named {
            return kubeconfig::load(&path, flags);
        }
        if let Some(server) = &flags.server {
            return Self::at(server, Token::None, Content::File(SYSTEM_AUTHORITIES.into()));
        }
        match (set("KUBERNETES_SERVICE_HOST"), set("KUBERNETES_SERVICE_PORT")) {
            (Some(host), Some(port)) => {
                let dir = set(ACCOUNT_DIR).map_or_else(|| PathBuf::from(ACCOUNT), PathBuf::from);
                Self::of_the_pod(&host, &port, &dir)
            }
            _ => match set("HOME").map(|home| Path::new(&home).join(".kube/config")).filter(|path| path.exists()) {
                Some(path) => kubeconfig::load(&path, flags),
                None => Err("no API server is named: neither KUBERNETES_SERVICE_HOST and KUBERNETES_SERVICE_PORT \
                             are set, as in a pod, nor KUBECONFIG"
                    .to_owned()),
            },
        }
    }

    fn of_the_pod(host: &str, port: &str, dir: &Path) -> Result<Self, String> {
        let host = if host.contains(':') { format!("[{host}]") } else { host.to_owned() };
        let token = dir.join("token");
        fs::read(&token).map_err(|error| format!("{}: {error}", token.display()))?;
        Self::at(&format!("https://{host}:{port}"), Token::File(token), Content::File(dir.join("ca.crt")))
    }

    /// The API server at a URL; `https` if it has no scheme.
    pub(super) fn at(url: &str, token: Token, authorities: Content) -> Result<Self, String> {
        let bad = |why: &str| format!("the API server's URL {url:?} can't be used: {why}");
        let full = if url.contains("://") { url.to_owned() } else { format!("https://{url}") };
        let uri: Uri = full.parse().map_err(|error: http::uri::InvalidUri| bad(&error.to_string()))?;
        let host = uri.host().filter(|host| !host.is_empty()).ok_or_else(|| bad("it has no host"))?;
        let scheme = uri.scheme().cloned().unwrap_or(Scheme::HTTPS);
        let port = match scheme.as_str() {
            "https" => 443,
            "http" => 80,
            other => return Err(bad(&format!("expected https or http, not {other}"))),
        };
        Ok(Self {
            host: host.trim_start_matches('[').trim_end_matches(']').to_owned(),
            port: uri.port_u16().unwrap_or(port),
            prefix: uri.path().trim_end_matches('/').to_owned(),
            scheme,
            token,
            authorities,
            certificate: None,
            server_name: None,
        })
    }

    /// Host and port as a request names them.
    pub(super) fn authority(&self) -> String {
        match self.host.contains(':') {
            true => format!("[{}]:{}", self.host, self.port),
            false => format!("{}:{}", self.host, self.port),
        }
    }

    /// The bearer token, as it is now.
    pub(super) fn bearer(&self) -> Result<Option<String>, String> {
        match &self.token {
            Token::None => Ok(None),
            Token::Fixed(token) => Ok(Some(token.clone())),
            Token::File(path) => match fs::read_to_string(path) {
                Ok(token) if !token.trim().is_empty() => Ok(Some(token.trim().to_owned())),
                Ok(_) => Err(format!("{} is empty", path.display())),
                Err(error) => Err(format!("{}: {error}", path.display())),
            },
        }
    }

    /// TLS settings made of the files as they are now, and the name that the server must prove; none for plaintext.
    pub(super) fn tls(&self) -> Result<Option<(Arc<ClientConfig>, ServerName<'static>)>, String> {
        if self.scheme == Scheme::HTTP {
            return Ok(None);
        }
        let name = self.server_name.as_ref().unwrap_or(&self.host);
        let name = ServerName::try_from(name.clone()).map_err(|error| format!("{name:?}: {error}"))?;
        let mut roots = RootCertStore::empty();
        let text = self.authorities.read()?;
        let found = pem::certificates(&text).map_err(|error| format!("{}: {error}", self.authorities.origin()))?;
        roots.add_parsable_certificates(found);
        if roots.is_empty() {
            return Err(format!("no certificate authority in {}", self.authorities.origin()));
        }
        // Some providers' servers still end at TLS 1.2.
        let policy = Policy::parse("", Some("1.2"), None, None, None).unwrap_or_default();
        let builder = ClientConfig::builder_with_provider(provider::provider(&policy))
            .with_protocol_versions(&provider::versions(&policy))
            .map_err(|error| error.to_string())?
            .with_root_certificates(roots);
        let mut config = match &self.certificate {
            None => builder.with_no_client_auth(),
            Some((certificate, key)) => {
                let chain = pem::certificates(&certificate.read()?)
                    .map_err(|error| format!("{}: {error}", certificate.origin()))?;
                let key = pem::private_key(&key.read()?).map_err(|error| format!("{}: {error}", key.origin()))?;
                builder.with_client_auth_cert(chain, key).map_err(|error| error.to_string())?
            }
        };
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Ok(Some((Arc::new(config), name)))
    }

    pub(super) fn system_authorities() -> Content {
        Content::File(SYSTEM_AUTHORITIES.into())
    }
}
