//! The `httpGet` handler: HTTP/1.1, h2c, or HTTPS on loopback.
//!
//! Called through [`super::attempt`]. Control side. Rules: a new connection each try; status 200 to 399 is good; up to
//! ten requests along redirects, on the probe's own host only (a redirect elsewhere is itself the good answer, as for
//! kubelet). With auto-detection h2c is tried first, then HTTP/1.1 within the same try, both with the probe's headers;
//! what worked is remembered until the application cannot be reached.
//! Source: `knative.dev/serving/pkg/queue/health/probe.go` (`HTTPProbe`, `detectHTTPProtocolVersion`).
use std::pin::pin;
use std::time::Duration;

use http::header::{ACCEPT_ENCODING, CONNECTION, HOST, LOCATION, USER_AGENT};
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, Uri, Version};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

use super::attempt::{Failure, within};
use super::probe::HttpGet;
use super::target::Target;
use super::tls;

/// Go's `kube-probe/<major>/<minor>` with both left empty.
pub(super) const USER_AGENT_VALUE: &str = "kube-probe//";

/// Requests in one try, redirects included.
const MAX_REQUESTS: usize = 10;

/// What is known of one `httpGet` probe.
pub(super) struct HttpTry {
    target: Target,
    is_https: bool,
    path: String,
    headers: HeaderMap,
    auto_detect: bool,
    /// The version that worked, with auto-detection.
    learned: Option<Version>,
}

/// One request of a try.
struct Hop {
    target: Target,
    is_https: bool,
    path: String,
}

impl HttpTry {
    /// The try of `get`, or why it can never be good.
    pub(super) fn new(get: &HttpGet, auto_detect: bool) -> Result<Self, String> {
        let is_https = get.scheme.eq_ignore_ascii_case("https");
        if !is_https && !get.scheme.is_empty() && !get.scheme.eq_ignore_ascii_case("http") {
            return Err(format!("unsupported protocol scheme {:?}", get.scheme.to_lowercase()));
        }
        let path = escaped_path(&get.path).ok_or(format!("error constructing probe url {:?}", get.path))?;
        let mut headers = HeaderMap::new();
        headers.insert(USER_AGENT, HeaderValue::from_static(USER_AGENT_VALUE));
        headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("gzip"));
        for header in &get.http_headers {
            let name = HeaderName::from_bytes(header.name.as_bytes());
            let (Ok(name), Ok(value)) = (name, HeaderValue::from_bytes(header.value.trim().as_bytes())) else {
                return Err(format!("net/http: invalid header field {:?}", header.name));
            };
            if name != HOST && name != USER_AGENT {
                headers.append(name, value);
            }
        }
        let target = Target::new(&get.host, &get.port.0)?;
        // Detection is about cleartext; over TLS the Go queue speaks HTTP/1.1 as well.
        Ok(Self { target, is_https, path, headers, auto_detect: auto_detect && !is_https, learned: None })
    }

    /// Tries once; `limit` bounds each version's try.
    pub(super) async fn run(&mut self, limit: Option<Duration>) -> Result<(), Failure> {
        if !self.auto_detect {
            return self.get(Version::HTTP_11, limit).await.and_then(good);
        }
        if let Some(version) = self.learned {
            let answered = self.get(version, limit).await;
            if answered.is_err() {
                // It may come back as another program.
                self.learned = None;
            }
            return answered.and_then(good);
        }
        let detected = self.detect(limit).await;
        detected.map_err(|failure| failure.wrap(|e| format!("failed to run HTTP protocol probe with error: {e}")))
    }

    async fn detect(&mut self, limit: Option<Duration>) -> Result<(), Failure> {
        for version in [Version::HTTP_2, Version::HTTP_11] {
            let result = self.get(version, limit).await.and_then(good);
            match result {
                Ok(()) => {
                    self.learned = Some(version);
                    return Ok(());
                }
                Err(failure) if failure.refused || version == Version::HTTP_11 => return Err(failure),
                Err(_) => {}
            }
        }
        Ok(())
    }

    /// The final status.
    async fn get(&mut self, version: Version, limit: Option<Duration>) -> Result<u16, Failure> {
        let url =
            format!("{}://{}{}", if self.is_https { "https" } else { "http" }, self.target.authority(), self.path);
        let timed_out = "net/http: request canceled (Client.Timeout exceeded while awaiting headers)";
        let answered = within(limit, Box::pin(self.follow(version)), || Failure::new(timed_out)).await;
        answered.map_err(|failure| failure.wrap(|e| format!("Get {url:?}: {e}")))
    }

    async fn follow(&mut self, version: Version) -> Result<u16, Failure> {
        let mut hop = Hop { target: self.target.clone(), is_https: self.is_https, path: self.path.clone() };
        for number in 0..MAX_REQUESTS {
            let stream = hop.target.connect().await?;
            if number == 0 {
                self.target = hop.target.clone();
            }
            let response = hop.exchange(stream, version, &self.headers).await?;
            match hop.redirected(&response) {
                Some(next) => hop = next,
                None => return Ok(response.status().as_u16()),
            }
        }
        Err(Failure::new(format!("stopped after {MAX_REQUESTS} redirects")))
    }
}

impl Hop {
    async fn exchange(
        &self,
        stream: TcpStream,
        version: Version,
        headers: &HeaderMap,
    ) -> Result<Response<()>, Failure> {
        if self.is_https {
            http1(tls::connect(stream).await?, self, headers).await
        } else if version == Version::HTTP_2 {
            h2c(stream, self, headers).await
        } else {
            http1(stream, self, headers).await
        }
    }

    /// The next hop, if `response` redirects to the same host.
    fn redirected(&self, response: &Response<()>) -> Option<Self> {
        if !matches!(response.status().as_u16(), 301 | 302 | 303 | 307 | 308) {
            return None;
        }
        let location = response.headers().get(LOCATION)?.to_str().ok()?.split('#').next()?;
        if let Some((scheme, rest)) = location.split_once("://") {
            let is_https = scheme.eq_ignore_ascii_case("https");
            let uri: Uri = format!("http://{rest}").parse().ok()?;
            let host = uri.host()?.trim_matches(['[', ']']);
            if !host.eq_ignore_ascii_case(self.target.host()) {
                return None;
            }
            let port = uri.port_u16().unwrap_or(if is_https { 443 } else { 80 });
            let path = uri.path_and_query().map_or("/", |path| path.as_str()).to_owned();
            return Some(Self { target: Target::new(host, &port.to_string()).ok()?, is_https, path });
        }
        if location.starts_with("//") {
            return None;
        }
        let path = if location.starts_with('/') {
            location.to_owned()
        } else {
            let directory = self.path.split('?').next()?.rsplit_once('/')?.0;
            format!("{directory}/{location}")
        };
        Some(Self { target: self.target.clone(), is_https: self.is_https, path })
    }
}

fn good(status: u16) -> Result<(), Failure> {
    if (200..400).contains(&status) {
        Ok(())
    } else {
        Err(Failure::new(format!("HTTP probe did not respond Ready, got status code: {status}")))
    }
}

async fn http1<S>(stream: S, hop: &Hop, headers: &HeaderMap) -> Result<Response<()>, Failure>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let broken = |error: &dyn std::error::Error| Failure::new(error.to_string());
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|e| broken(&e))?;
    let mut request = Request::get(&hop.path).body(String::new()).map_err(|e| broken(&e))?;
    let host = HeaderValue::from_str(&hop.target.authority()).map_err(|e| broken(&e))?;
    *request.headers_mut() = headers.clone();
    request.headers_mut().insert(HOST, host);
    request.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    let response = drive(sender.send_request(request), connection).await.map_err(|e| broken(&e))?;
    Ok(response.map(drop))
}

async fn h2c(stream: TcpStream, hop: &Hop, headers: &HeaderMap) -> Result<Response<()>, Failure> {
    let broken = |error: &dyn std::error::Error| Failure::new(error.to_string());
    let (mut sender, connection) = h2::client::handshake(stream).await.map_err(|e| broken(&e))?;
    let uri = format!("http://{}{}", hop.target.authority(), hop.path);
    let mut request = Request::get(uri).version(Version::HTTP_2).body(()).map_err(|e| broken(&e))?;
    *request.headers_mut() = headers.clone();
    let (response, _) = sender.send_request(request, true).map_err(|e| broken(&e))?;
    let response = drive(response, connection).await.map_err(|e| broken(&e))?;
    Ok(response.map(drop))
}

/// `exchange`, while its `connection` is polled beside it.
pub(super) async fn drive<T>(exchange: impl Future<Output = T>, connection: impl Future) -> T {
    let (mut exchange, mut connection) = (pin!(exchange), pin!(connection));
    tokio::select! {
        biased;
        result = &mut exchange => return result,
        _ = &mut connection => {}
    }
    // The connection has ended; that is what the exchange learns now.
    exchange.await
}

/// The path as it goes on the wire: `/` before it, characters that may not stand there escaped. `None` for what Go's
/// URL parser refuses.
fn escaped_path(path: &str) -> Option<String> {
    let path = path.split('#').next().unwrap_or_default();
    let mut escaped = String::from("/");
    let bytes = path.strip_prefix('/').unwrap_or(path).as_bytes();
    for (index, byte) in bytes.iter().enumerate() {
        match byte {
            b'%' => {
                let digits = bytes.get(index + 1..index + 3)?;
                if !digits.iter().all(u8::is_ascii_hexdigit) {
                    return None;
                }
                escaped.push('%');
            }
            0..=0x1f | 0x7f => return None,
            b' ' | b'"' | b'<' | b'>' | b'\\' | b'^' | b'`' | b'{' | b'|' | b'}' | 0x80.. => {
                escaped.push_str(&format!("%{byte:02X}"));
            }
            _ => escaped.push(char::from(*byte)),
        }
    }
    Some(escaped)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn given_paths_of_probes_then_they_are_escaped_as_go_escapes_them() {
        for (path, expected) in [
            ("", Some("/")),
            ("healthz", Some("/healthz")),
            ("/healthz?a=b#c", Some("/healthz?a=b")),
            ("/a b", Some("/a%20b")),
            ("/%20", Some("/%20")),
            ("/%zz", None),
            ("/%2", None),
            ("/\u{7f}", None),
            ("/ä", Some("/%C3%A4")),
        ] {
            assert_eq!(escaped_path(path).as_deref(), expected, "{path}");
        }
    }
}
