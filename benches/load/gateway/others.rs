//! nginx and HAProxy with the gateway's route: TLS 1.3 from callers, one thread, connections to the backend kept and
//! its certificate verified, the caller's address and the revision's name added.

use crate::client::{HOST, NAMESPACE, REVISION, certificates};
use crate::contender::{Contender, Ports, free_ports};
use crate::peers::{contender, version};
use crate::{Failure, Stage};

use super::Backend;

pub(crate) fn nginx(stage: &Stage, backend: Backend, to_tls: bool) -> Result<Option<Contender>, Failure> {
    let Some(about) = version("nginx", "-v") else {
        println!("nginx is not installed: left out");
        return Ok(None);
    };
    let [plain, tls, h2] = free_ports()?;
    let home = stage.dir.join(format!("nginx-{to_tls}"));
    std::fs::create_dir(&home)?;
    let (here, certificates) = (home.display(), certificates(&stage.dir).display().to_string());
    let (scheme, port) = if to_tls { ("https", backend.tls) } else { ("http", backend.plain) };
    let config = home.join("nginx.conf");
    std::fs::write(
        &config,
        format!(
            "worker_processes 1; daemon off; pid {here}/pid; error_log stderr crit;
events {{ worker_connections 4096; }}
http {{
  access_log off; client_max_body_size 0; keepalive_requests 1000000000; keepalive_timeout 600;
  client_body_temp_path {here}/body; proxy_temp_path {here}/proxy; fastcgi_temp_path {here}/fastcgi;
  uwsgi_temp_path {here}/uwsgi; scgi_temp_path {here}/scgi;
  ssl_session_tickets off; ssl_session_cache off;
  upstream backend {{ server 127.0.0.1:{port}; keepalive 1000; keepalive_requests 1000000000; }}
  server {{
    listen 127.0.0.1:{plain}; listen 127.0.0.1:{tls} ssl; listen 127.0.0.1:{h2} ssl http2;
    server_name {HOST};
    ssl_certificate {certificates}/tls.crt; ssl_certificate_key {certificates}/tls.key; ssl_protocols TLSv1.3;
    location / {{
      proxy_pass {scheme}://backend; proxy_http_version 1.1; proxy_buffering off; proxy_request_buffering off;
      proxy_ssl_verify on; proxy_ssl_trusted_certificate {certificates}/ca.crt; proxy_ssl_name kn-user-default;
      proxy_ssl_protocols TLSv1.3;
      proxy_set_header Connection \"\"; proxy_set_header Host $host;
      proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for; proxy_set_header X-Forwarded-Proto $scheme;
      proxy_set_header Knative-Serving-Namespace {NAMESPACE}; proxy_set_header Knative-Serving-Revision {REVISION};
    }}
  }}
}}
"
        ),
    )?;
    let command = ["nginx", "-e", "stderr", "-p", &here.to_string(), "-c", &config.display().to_string()];
    Ok(Some(contender("nginx", about, &command, Ports { plain, tls, h2: Some(h2) }, &stage.dir)))
}

pub(crate) fn haproxy(stage: &Stage, backend: Backend, to_tls: bool) -> Result<Option<Contender>, Failure> {
    let Some(about) = version("haproxy", "-v") else {
        println!("HAProxy is not installed: left out");
        return Ok(None);
    };
    let [plain, tls] = free_ports()?;
    let certificates = certificates(&stage.dir).display().to_string();
    let server = match to_tls {
        false => format!("127.0.0.1:{}", backend.plain),
        true => format!(
            "127.0.0.1:{} ssl ca-file {certificates}/ca.crt verify required verifyhost kn-user-default ssl-min-ver TLSv1.3",
            backend.tls
        ),
    };
    let config = stage.dir.join(format!("haproxy-{to_tls}.cfg"));
    std::fs::write(
        &config,
        format!(
            "global
  maxconn 4096
  nbthread 1
  ssl-default-bind-options ssl-min-ver TLSv1.3 no-tls-tickets
  tune.ssl.cachesize 0
defaults
  mode http
  timeout client 600s
  timeout server 600s
  timeout connect 5s
  option forwardfor
  http-reuse always
frontend callers
  bind 127.0.0.1:{plain}
  bind 127.0.0.1:{tls} ssl crt {certificates}/pair.pem alpn h2,http/1.1
  http-request set-header X-Forwarded-Proto https
  http-request set-header Knative-Serving-Namespace {NAMESPACE}
  http-request set-header Knative-Serving-Revision {REVISION}
  use_backend backend if {{ req.hdr(host),lower -m beg {HOST} }}
backend backend
  server backend {server}
"
        ),
    )?;
    let command = ["haproxy", "-db", "-f", &config.display().to_string()];
    Ok(Some(contender("HAProxy", about, &command, Ports { plain, tls, h2: Some(tls) }, &stage.dir)))
}
