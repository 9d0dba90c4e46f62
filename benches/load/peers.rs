//! nginx and HAProxy as they would stand beside an application: the same TLS version, connections to the application
//! kept, no buffering on disk, the caller's address passed on, one thread.

use std::io;
use std::path::Path;
use std::process::Command;

use crate::client::{Ask, certificates};
use crate::contender::{Contender, Ports, free_ports};

/// The version line that a program prints; nothing if it is not installed.
pub(crate) fn version(program: &str, option: &str) -> Option<String> {
    let output = Command::new(program).arg(option).output().ok()?;
    let text = if output.stdout.is_empty() { output.stderr } else { output.stdout };
    Some(
        String::from_utf8_lossy(&text)
            .lines()
            .find(|line| !line.trim().is_empty())
            .unwrap_or_default()
            .trim()
            .to_owned(),
    )
}

/// nginx. It has no HTTP/2 towards the application.
pub(crate) fn nginx(dir: &Path, app: u16) -> io::Result<Option<Contender>> {
    let Some(about) = version("nginx", "-v") else {
        println!("nginx is not installed: left out");
        return Ok(None);
    };
    let [plain, tls] = free_ports()?;
    let home = dir.join("nginx");
    std::fs::create_dir(&home)?;
    let (here, certificates) = (home.display(), certificates(dir).display().to_string());
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
  upstream app {{ server 127.0.0.1:{app}; keepalive 1000; keepalive_requests 1000000000; }}
  server {{
    listen 127.0.0.1:{plain}; listen 127.0.0.1:{tls} ssl;
    ssl_certificate {certificates}/tls.crt; ssl_certificate_key {certificates}/tls.key; ssl_protocols TLSv1.3;
    location / {{
      proxy_pass http://app; proxy_http_version 1.1; proxy_buffering off; proxy_request_buffering off;
      proxy_set_header Connection \"\"; proxy_set_header Host $host;
      proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
    }}
  }}
}}
"
        ),
    )?;
    let command = ["nginx", "-e", "stderr", "-p", &here.to_string(), "-c", &config.display().to_string()];
    Ok(Some(contender("nginx", about, &command, Ports { plain, tls, h2: None }, dir)))
}

/// HAProxy.
pub(crate) fn haproxy(dir: &Path, app: u16) -> io::Result<Option<Contender>> {
    let Some(about) = version("haproxy", "-v") else {
        println!("HAProxy is not installed: left out");
        return Ok(None);
    };
    let [plain, tls, h2] = free_ports()?;
    let pair = certificates(dir).join("pair.pem");
    let pair = pair.display();
    let config = dir.join("haproxy.cfg");
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
frontend h1
  bind 127.0.0.1:{plain}
  bind 127.0.0.1:{tls} ssl crt {pair} alpn http/1.1
  default_backend h1
frontend h2
  bind 127.0.0.1:{h2} ssl crt {pair} alpn h2
  default_backend h2
backend h1
  server app 127.0.0.1:{app}
backend h2
  server app 127.0.0.1:{app} proto h2
"
        ),
    )?;
    let command = ["haproxy", "-db", "-f", &config.display().to_string()];
    Ok(Some(contender("HAProxy", about, &command, Ports { plain, tls, h2: Some(h2) }, dir)))
}

pub(crate) fn contender(name: &str, about: String, command: &[&str], ports: Ports, dir: &Path) -> Contender {
    Contender {
        name: name.to_owned(),
        about,
        command: command.iter().map(|part| (*part).to_owned()).collect(),
        env: Vec::new(),
        ports,
        ask: Ask::Plain,
        log: dir.join(format!("{name}.log")),
    }
}
