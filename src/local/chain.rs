//! The steps of `local --check` that go through activator and gateway: every hop verified by its name, a start from zero,
//! the way past the activator, and a wrong name refused on every hop.
use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, Instant};

use crate::knative::names;
use crate::local::check::{Seen, Steps, expect};
use crate::local::client::{Answer, Connection, Outgoing, Peer, Protocol, Trust, dial};
use crate::local::front::Front;
use crate::local::manifests::{HOST, LOCAL_HOSTS};
use crate::local::pki::Authority;
use crate::local::topology::{NAMESPACE, REVISION, loopback};
use crate::local::wake::Wake;

/// How long a pod outlives the last request.
const IDLE: Duration = Duration::from_secs(2);
/// How long a change may take to be in force.
const LIMIT: Duration = Duration::from_secs(10);

/// Starts activator and gateway, checks them and stops them.
///
/// # Errors
/// Names the first thing that is wrong.
pub async fn check(steps: &Steps, authority: &Authority, state: &Path) -> io::Result<()> {
    let mut wake = Wake::start(authority, state, IDLE).await?;
    let through = Through { address: wake.tls, trust: Trust::exact(authority.der(), names::SAN_ROUTING) };
    steps.passes("cold start, TLS on both hops", cold_start(&mut wake, &through)).await?;
    steps.passes("HTTP/2 through the activator", through.ask(Protocol::Http2, 200)).await?;
    steps.passes("scaled to zero", scaled_to_zero(&mut wake)).await?;

    let mut front = Front::start(wake.manifests(), state)?;
    front.ready().await?;
    let outside = Hop { port: front.https_port, trust: Trust::new(authority.der(), HOST) };
    steps.passes("gateway: plain HTTP redirected", redirected(&front)).await?;
    steps.passes("gateway: from zero, external TLS", from_zero(&mut wake, &outside, authority)).await?;
    steps.passes("gateway: past the activator", past_the_activator(&wake, &outside, authority)).await?;
    for (name, protocol) in LOCAL_HOSTS.into_iter().zip([Protocol::Http1, Protocol::Http2, Protocol::Http1]) {
        let inside = Hop { port: front.internal_https_port, trust: Trust::new(authority.der(), name) };
        steps.passes(&format!("gateway: {name}"), inside.ask(protocol)).await?;
    }
    steps.passes("gateway: system-internal TLS off, on", switched(&wake, &outside)).await?;
    let other = Trust::new(authority.der(), "other.default.example.com");
    steps.refuses("gateway, a host it has not", loopback(front.https_port), &other, "alert UnrecognisedName").await?;
    wake.await_pod(false).await?;

    wake.name_pod(authority, "kn-user-somebody-else")?;
    steps.passes("refused: pod with a wrong SAN", impostor(&through)).await?;
    wake.await_pod(true).await?;
    steps.passes("refused: the same, gateway to pod", refused(&outside)).await?;
    wake.await_pod(false).await?;
    steps.passes("refused: activator with a wrong SAN", false_activator(&wake, &outside, authority)).await?;

    front.stop()?;
    wake.stop().await
}

/// A way in through the gateway.
struct Hop {
    port: u16,
    trust: Trust,
}

impl Hop {
    async fn get(&self, protocol: Protocol) -> io::Result<(Option<Peer>, Answer)> {
        let mut connection = Connection::open(loopback(self.port), Some(&self.trust), protocol).await?;
        let answer = connection.get(&self.trust.name, "/").await?;
        Ok((connection.peer, answer))
    }

    async fn ask(&self, protocol: Protocol) -> io::Result<Seen> {
        let (peer, answer) = self.get(protocol).await?;
        page(&answer)?;
        Ok(Seen { peer, what: "200".to_owned() })
    }
}

/// The page of the sample application, in lower case.
fn page(answer: &Answer) -> io::Result<String> {
    expect(&format!("status {}", answer.status), answer.status == 200)?;
    let page = String::from_utf8_lossy(&answer.body).to_lowercase();
    expect("the page is not the sample application's", page.starts_with("hello from the sample application"))?;
    Ok(page)
}

const BY_ACTIVATOR: &str = "k-proxy-request: activator";

async fn redirected(front: &Front) -> io::Result<Seen> {
    let mut connection = Connection::open(loopback(front.http_port), None, Protocol::Http1).await?;
    let answer = connection.get(HOST, "/path").await?;
    let location = answer.headers.get("location").and_then(|location| location.to_str().ok()).unwrap_or_default();
    let what = format!("{} to {location}", answer.status);
    expect(&what, what == format!("301 to https://{HOST}/path"))?;
    Ok(Seen { peer: None, what })
}

async fn from_zero(wake: &mut Wake, outside: &Hop, authority: &Authority) -> io::Result<Seen> {
    expect("a pod runs before the first request", wake.pod.borrow().is_none())?;
    let (peer, answer) = outside.get(Protocol::Http1).await?;
    expect("it did not come through the activator", page(&answer)?.contains(BY_ACTIVATOR))?;
    wake.await_pod(true).await?;
    let activator = shown(wake.tls, authority, names::SAN_ROUTING).await?;
    let queue = shown(pod(wake), authority, &names::san_user(NAMESPACE)).await?;
    Ok(Seen { peer, what: format!("200, gateway to activator {activator}, activator to queue {queue}") })
}

/// Once the pod runs, the slices lead to it.
async fn past_the_activator(wake: &Wake, outside: &Hop, authority: &Authority) -> io::Result<Seen> {
    let deadline = Instant::now() + LIMIT;
    loop {
        let (peer, answer) = outside.get(Protocol::Http2).await?;
        if !page(&answer)?.contains(BY_ACTIVATOR) {
            let queue = shown(pod(wake), authority, &names::san_user(NAMESPACE)).await?;
            return Ok(Seen { peer, what: format!("200, gateway to queue {queue}") });
        }
        expect("requests still go to the activator", Instant::now() < deadline)?;
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// `system-internal-tls` is switched off and on again while a connection is open; the hop behind the gateway follows.
async fn switched(wake: &Wake, outside: &Hop) -> io::Result<Seen> {
    let mut connection = Connection::open(loopback(outside.port), Some(&outside.trust), Protocol::Http1).await?;
    for on in [false, true] {
        wake.manifests().encrypt(on)?;
        let deadline = Instant::now() + LIMIT;
        // What the controller writes follows the ConfigMap, here as there.
        while wake.manifests().splits_are_encrypted() != on || page(&connection.get(HOST, "/").await?).is_err() {
            expect("the Ingress does not follow config-network", Instant::now() < deadline)?;
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        for _ in 0..20 {
            page(&connection.get(HOST, "/").await?)?;
        }
    }
    Ok(Seen { peer: None, what: "served in plaintext behind the gateway, then over TLS again".to_owned() })
}

fn pod(wake: &Wake) -> SocketAddr {
    SocketAddr::from((wake.address(), names::PORT_HTTPS))
}

/// The name that the certificate of `address` proves: the one that the hop before it asks for.
async fn shown(address: SocketAddr, authority: &Authority, name: &str) -> io::Result<String> {
    dial(address, Some(&Trust::exact(authority.der(), name)), Protocol::Http1).await?;
    Ok(format!("(SAN {name})"))
}

/// The way through the activator alone.
struct Through {
    address: SocketAddr,
    trust: Trust,
}

impl Through {
    async fn get(&self, protocol: Protocol) -> io::Result<(Option<Peer>, Answer)> {
        let mut connection = Connection::open(self.address, Some(&self.trust), protocol).await?;
        let request = connection
            .request("GET", HOST, "/")
            .header("knative-serving-namespace", NAMESPACE)
            .header("knative-serving-revision", REVISION)
            .body(Outgoing::whole(""))
            .map_err(io::Error::other)?;
        let answer = connection.fetch(request).await?;
        Ok((connection.peer, answer))
    }

    async fn ask(&self, protocol: Protocol, status: u16) -> io::Result<Seen> {
        let (peer, answer) = self.get(protocol).await?;
        expect(&format!("status {}", answer.status), answer.status == status)?;
        let page = String::from_utf8_lossy(&answer.body).to_lowercase();
        expect("the page is not the sample application's", page.starts_with("hello from the sample application"))?;
        expect("it did not come through the activator", page.contains(BY_ACTIVATOR))?;
        Ok(Seen { peer, what: "200".to_owned() })
    }
}

async fn cold_start(wake: &mut Wake, through: &Through) -> io::Result<Seen> {
    expect("a pod runs before the first request", wake.pod.borrow().is_none())?;
    let seen = through.ask(Protocol::Http1, 200).await?;
    let queue = wake.await_pod(true).await?.unwrap_or_default();
    Ok(Seen { what: format!("200, started queue process {queue} and its application"), ..seen })
}

async fn scaled_to_zero(wake: &mut Wake) -> io::Result<Seen> {
    wake.await_pod(false).await?;
    let address = std::net::SocketAddr::from((wake.address(), crate::knative::names::PORT_HTTPS));
    let gone = tokio::net::TcpStream::connect(address).await.is_err();
    expect("the pod's port is still open", gone)?;
    Ok(Seen { peer: None, what: "the processes are gone".to_owned() })
}

/// A pod whose certificate is for another namespace starts, and gets no byte of the request.
async fn impostor(through: &Through) -> io::Result<Seen> {
    let (_, answer) = through.get(Protocol::Http1).await?;
    mismatch(&answer)
}

/// The gateway sends nothing to an upstream that proves another name.
async fn refused(outside: &Hop) -> io::Result<Seen> {
    let deadline = Instant::now() + LIMIT;
    loop {
        let (_, answer) = outside.get(Protocol::Http1).await?;
        match mismatch(&answer) {
            Err(_) if Instant::now() < deadline => tokio::time::sleep(Duration::from_millis(20)).await,
            seen => return seen,
        }
    }
}

async fn false_activator(wake: &Wake, outside: &Hop, authority: &Authority) -> io::Result<Seen> {
    let (name, serial) = ("kn-somebody-else", 0x3099);
    wake.manifests().routing_certificate(authority, &authority.leaf(&[name], serial)?)?;
    refused(outside).await
}

fn mismatch(answer: &Answer) -> io::Result<Seen> {
    let cause = answer.headers.get("x-lockkeeper-cause").and_then(|cause| cause.to_str().ok()).unwrap_or_default();
    let what = format!("{}, {cause}", answer.status);
    expect(&what, what == "502, tls_san_mismatch")?;
    Ok(Seen { peer: None, what })
}
