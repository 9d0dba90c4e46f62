//! kubeconfig files, for processes outside a cluster.
//!
//! What a data plane may need is read: the current context, or the cluster that `-cluster` names; authorities and a
//! client certificate, as files or in place; a token, as it is or as a file. Programs that fetch credentials (`exec`)
//! and unverified servers are refused with a word on what to use instead.
//!
//! Source: client-go's `clientcmd/api/v1/types.go`.
use std::path::Path;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;

use crate::kube::api::cluster::{Cluster, Content, Token};
use crate::kube::manifest;
use crate::kube::object::null_is_empty;
use crate::kube::place;
use crate::kube::source::Flags;

#[derive(Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
struct File {
    #[serde(default, deserialize_with = "null_is_empty")]
    clusters: Vec<Named<ClusterEntry>>,
    #[serde(default, deserialize_with = "null_is_empty")]
    users: Vec<Named<User>>,
    #[serde(default, deserialize_with = "null_is_empty")]
    contexts: Vec<Named<Context>>,
    #[serde(default, deserialize_with = "null_is_empty")]
    current_context: String,
}

#[derive(Deserialize)]
struct Named<T> {
    name: String,
    #[serde(alias = "cluster", alias = "user", alias = "context")]
    value: T,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct ClusterEntry {
    server: String,
    certificate_authority: Option<String>,
    certificate_authority_data: Option<String>,
    #[serde(default)]
    insecure_skip_tls_verify: bool,
    tls_server_name: Option<String>,
    proxy_url: Option<String>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
struct User {
    token: Option<String>,
    #[serde(rename = "tokenFile")]
    token_file: Option<String>,
    client_certificate: Option<String>,
    client_certificate_data: Option<String>,
    client_key: Option<String>,
    client_key_data: Option<String>,
    exec: Option<serde::de::IgnoredAny>,
    auth_provider: Option<serde::de::IgnoredAny>,
    username: Option<serde::de::IgnoredAny>,
}

#[derive(Deserialize)]
struct Context {
    cluster: String,
    #[serde(default)]
    user: String,
}

/// The cluster that a kubeconfig names. Of a list of files (`a:b`) only a single one is taken.
pub(super) fn load(path: &Path, flags: &Flags) -> Result<Cluster, String> {
    let origin = path.display();
    let text = std::fs::read_to_string(path).map_err(|error| format!("{origin}: {error}"))?;
    let document = manifest::value(&text).map_err(|error| format!("{origin}: {error}"))?;
    let json = serde_json::to_vec(&document).map_err(|error| format!("{origin}: {error}"))?;
    let file: File =
        serde_json::from_slice(&json).map_err(|error| format!("{origin}: {}", place::words(&json, &error)))?;
    let dir = path.parent().unwrap_or(Path::new("."));
    choose(file, flags, dir).map_err(|why| format!("{origin}: {why}"))
}

fn choose(file: File, flags: &Flags, dir: &Path) -> Result<Cluster, String> {
    let context = match find(file.contexts, &file.current_context) {
        Some(context) => context,
        None if flags.cluster.is_some() => Context { cluster: String::new(), user: String::new() },
        None => return Err(format!("there is no context {:?} (current-context)", file.current_context)),
    };
    let name = flags.cluster.as_ref().unwrap_or(&context.cluster);
    let entry = find(file.clusters, name).ok_or_else(|| format!("there is no cluster {name:?}"))?;
    let user = match context.user.as_str() {
        "" => User::default(),
        name => find(file.users, name).ok_or_else(|| format!("there is no user {name:?}"))?,
    };
    if entry.insecure_skip_tls_verify {
        return Err("insecure-skip-tls-verify is not supported: name the server's certificate-authority".to_owned());
    }
    if entry.proxy_url.is_some() {
        return Err("proxy-url is not supported".to_owned());
    }
    let dated = user.exec.is_some() || user.auth_provider.is_some() || user.username.is_some();
    let token = match (user.token, user.token_file) {
        (_, Some(file)) => Token::File(dir.join(file)),
        (Some(token), None) => Token::Fixed(token),
        (None, None) => Token::None,
    };
    let certificate = match (
        content(dir, user.client_certificate, user.client_certificate_data, "client-certificate-data")?,
        content(dir, user.client_key, user.client_key_data, "client-key-data")?,
    ) {
        (Some(certificate), Some(key)) => Some((certificate, key)),
        (None, None) => None,
        _ => return Err("client certificate and client key go together".to_owned()),
    };
    if dated && certificate.is_none() && matches!(token, Token::None) {
        return Err("users with exec, auth-provider or a password are not supported: use a token, a tokenFile or a \
                    client certificate (kubectl create token makes one)"
            .to_owned());
    }
    let authorities =
        content(dir, entry.certificate_authority, entry.certificate_authority_data, "certificate-authority-data")?
            .unwrap_or_else(Cluster::system_authorities);
    let server = flags.server.as_ref().unwrap_or(&entry.server);
    Ok(Cluster { certificate, server_name: entry.tls_server_name, ..Cluster::at(server, token, authorities)? })
}

fn find<T>(list: Vec<Named<T>>, name: &str) -> Option<T> {
    list.into_iter().find(|entry| entry.name == name).map(|entry| entry.value)
}

/// Data in place goes before a file, as in client-go.
fn content(dir: &Path, file: Option<String>, data: Option<String>, field: &str) -> Result<Option<Content>, String> {
    let set = |value: Option<String>| value.filter(|value| !value.is_empty());
    match (set(data), set(file)) {
        (Some(data), _) => match STANDARD.decode(data.trim()) {
            Ok(bytes) => Ok(Some(Content::Bytes(bytes))),
            Err(error) => Err(format!("{field}: expected base64: {error}")),
        },
        (None, Some(file)) => Ok(Some(Content::File(dir.join(file)))),
        (None, None) => Ok(None),
    }
}
