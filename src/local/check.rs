//! `lockkeeper local --check`: one round through the real listeners. The first thing that is wrong ends it.
use std::io;
use std::net::SocketAddr;
use std::time::Instant;

use bytes::Bytes;
use http_body::Frame;
use serde_json::Value;

use crate::local::chain;
use crate::local::client::{Connection, Outgoing, Peer, Protocol, Trust, dial, frame};
use crate::local::pki::Authority;
use crate::local::report::Report;
use crate::local::rotate::{rotate, trust};
use crate::local::topology::{Certificates, Options, Topology, loopback};
use crate::net::websocket;

const ONLY_TLS12: &[&rustls::SupportedProtocolVersion] = &[&rustls::version::TLS12];
const HOST: &str = "hello.default.example.com";

/// Starts everything, checks it and stops it.
///
/// # Errors
/// Names the first thing that is wrong.
pub async fn check(options: &Options, report: Report) -> io::Result<()> {
    let mut topology = Topology::start(options)?;
    let steps = Steps { report, trust: trust(&topology) };
    let ports = topology.ports();
    let (plain, tls) = (loopback(ports.http), loopback(ports.tls));
    let verified = Some(&steps.trust);

    steps.passes("HTTP/1.1 over TLS", hello(tls, verified, Protocol::Http1)).await?;
    steps.passes("HTTP/2 over TLS", hello(tls, verified, Protocol::Http2)).await?;
    steps.passes("HTTP/1.1 plaintext", hello(plain, None, Protocol::Http1)).await?;
    steps.passes("HTTP/2 plaintext (h2c)", hello(plain, None, Protocol::Http2)).await?;
    steps.passes("WebSocket over TLS", websocket_echo(tls, &steps.trust)).await?;
    steps.passes("gRPC stream with trailers", grpc_stream(tls, &steps.trust)).await?;
    let under_load = match topology.certificates {
        Certificates::Minted { .. } => "leaf rotation under load",
        Certificates::Given(_) => "old and new connections",
    };
    steps.passes(under_load, rotation(&mut topology, &steps.trust)).await?;

    let stranger = Authority::mint("a CA that nobody knows")?;
    let other_root = Trust { roots: vec![stranger.der().to_vec()], ..steps.trust.clone() };
    steps.refuses("wrong CA", tls, &other_root, "tls_unknown_ca").await?;
    let other_name = Trust { name: "kn-user-somebody-else".to_owned(), ..steps.trust.clone() };
    steps.refuses("wrong SAN expected", tls, &other_name, "tls_san_mismatch").await?;
    let old = Trust { versions: ONLY_TLS12, ..steps.trust.clone() };
    steps.refuses("TLS 1.2", tls, &old, "alert ProtocolVersion").await?;

    if let Certificates::Minted { authority, .. } = &topology.certificates {
        chain::check(&steps, authority, topology.state_dir()).await?;
    }
    topology.stop()
}

/// What a step saw.
#[derive(Default)]
pub struct Seen {
    /// Whom a handshake verified.
    pub peer: Option<Peer>,
    /// In words.
    pub what: String,
}

/// Takes one step after the other.
pub struct Steps {
    report: Report,
    trust: Trust,
}

impl Steps {
    /// A step that has to work.
    ///
    /// # Errors
    /// It did not.
    pub async fn passes(&self, name: &str, step: impl Future<Output = io::Result<Seen>>) -> io::Result<()> {
        let start = Instant::now();
        match Box::pin(step).await {
            Ok(seen) => {
                self.line(name, &seen, start);
                Ok(())
            }
            Err(error) => Err(self.wrong(name, &error.to_string())),
        }
    }

    /// A handshake that has to fail for one of `reasons`, with `|` between.
    ///
    /// # Errors
    /// It went through, or failed otherwise.
    pub async fn refuses(&self, name: &str, addr: SocketAddr, trust: &Trust, reasons: &str) -> io::Result<()> {
        let start = Instant::now();
        let name = format!("refused: {name}");
        let Err(error) = dial(addr, Some(trust), Protocol::Http1).await else {
            return Err(self.wrong(&name, "the handshake went through"));
        };
        let error = error.to_string();
        if !reasons.split('|').any(|reason| error.contains(reason)) {
            return Err(self.wrong(&name, &format!("refused, but for another reason: {error}")));
        }
        self.line(&name, &Seen { peer: None, what: error }, start);
        Ok(())
    }

    fn wrong(&self, name: &str, error: &str) -> io::Error {
        let fields = [("check", name.into()), ("ok", false.into()), ("error", error.into())];
        self.report.say("check", &format!("WRONG {name}: {error}"), &fields);
        io::Error::other(format!("{name}: {error}"))
    }

    fn line(&self, name: &str, seen: &Seen, start: Instant) {
        let milliseconds = u64::try_from(start.elapsed().as_millis()).unwrap_or(u64::MAX);
        let mut text = format!("ok    {name:<36} {}", seen.what);
        let mut fields: Vec<(&str, Value)> =
            vec![("check", name.into()), ("ok", true.into()), ("what", seen.what.as_str().into())];
        if let Some(peer) = &seen.peer {
            let names = peer.names.join(",");
            text += &format!("; SAN {names}, {}, {}, serial {}", peer.version, peer.group, peer.serial);
            fields.push(("san", peer.names.clone().into()));
            fields.push(("version", peer.version.as_str().into()));
            fields.push(("group", peer.group.as_str().into()));
            fields.push(("serial", peer.serial.as_str().into()));
        }
        fields.push(("ms", milliseconds.into()));
        self.report.say("check", &format!("{text}; {milliseconds} ms"), &fields);
    }
}

/// An error that says `what`, unless it is right.
///
/// # Errors
/// That.
pub fn expect(what: &str, right: bool) -> io::Result<()> {
    if right { Ok(()) } else { Err(io::Error::other(what.to_owned())) }
}

async fn hello(addr: SocketAddr, trust: Option<&Trust>, protocol: Protocol) -> io::Result<Seen> {
    let mut connection = Connection::open(addr, trust, protocol).await?;
    let answer = connection.get(HOST, "/").await?;
    expect(&format!("status {}", answer.status), answer.status == 200)?;
    let page = String::from_utf8_lossy(&answer.body);
    expect("the page is not the sample application's", page.starts_with("hello from the sample application"))?;
    let forwarded = page.contains("x-forwarded-for: 127.0.0.1") || page.contains("X-Forwarded-For: 127.0.0.1");
    expect("the application saw no X-Forwarded-For", forwarded)?;
    Ok(Seen { peer: connection.peer, what: "200".to_owned() })
}

async fn websocket_echo(addr: SocketAddr, trust: &Trust) -> io::Result<Seen> {
    const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
    let mut connection = Connection::open(addr, Some(trust), Protocol::Http1).await?;
    let request = connection
        .request("GET", HOST, "/ws")
        .header("connection", "Upgrade")
        .header("upgrade", "websocket")
        .header("sec-websocket-version", "13")
        .header("sec-websocket-key", KEY)
        .body(Outgoing::whole(""))
        .map_err(io::Error::other)?;
    let response = connection.send(request).await?;
    expect(&format!("status {}", response.status()), response.status() == 101)?;
    let accept = response.headers().get("sec-websocket-accept").map(http::HeaderValue::as_bytes);
    expect("Sec-WebSocket-Accept is wrong", accept == Some(websocket::accept(KEY).as_bytes()))?;
    let upgraded = hyper::upgrade::on(response).await.map_err(io::Error::other)?;
    let mut stream = hyper_util::rt::TokioIo::new(upgraded);
    for text in ["one", "two"] {
        websocket::write(&mut stream, websocket::TEXT, text.as_bytes(), true).await?;
        let echo = websocket::read(&mut stream).await?;
        expect("the echo differs", echo.payload == text.as_bytes())?;
    }
    websocket::write(&mut stream, websocket::CLOSE, &1000u16.to_be_bytes(), true).await?;
    let close = websocket::read(&mut stream).await?;
    expect("no close frame came back", close.opcode == websocket::CLOSE)?;
    Ok(Seen { peer: connection.peer, what: "2 messages echoed, closed".to_owned() })
}

async fn grpc_stream(addr: SocketAddr, trust: &Trust) -> io::Result<Seen> {
    let mut connection = Connection::open(addr, Some(trust), Protocol::Http2).await?;
    let (sender, body) = Outgoing::stream();
    let request = connection
        .request("POST", HOST, "/grpc.Echo/Stream")
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(body)
        .map_err(io::Error::other)?;
    let send = |text: &'static str| {
        let sender = sender.clone();
        async move { sender.send(Frame::data(Bytes::from_static(text.as_bytes()))).await.map_err(io::Error::other) }
    };
    let (sent, response) = tokio::join!(send("first"), connection.send(request));
    sent?;
    let mut incoming = response?.into_body();
    for (number, text) in ["first", "second"].into_iter().enumerate() {
        if number > 0 {
            send(text).await?;
        }
        let data = frame(&mut incoming).await?.and_then(|frame| frame.into_data().ok());
        expect("a message did not come back before the next one", data.as_deref() == Some(text.as_bytes()))?;
    }
    drop(sender);
    let trailers = frame(&mut incoming).await?.and_then(|frame| frame.into_trailers().ok());
    let status = trailers.as_ref().and_then(|trailers| trailers.get("grpc-status"));
    expect("no trailer grpc-status: 0", status.is_some_and(|status| status == "0"))?;
    Ok(Seen { peer: connection.peer, what: "2 messages in turns, grpc-status 0".to_owned() })
}

async fn rotation(topology: &mut Topology, trust: &Trust) -> io::Result<Seen> {
    let addr = loopback(topology.ports().tls);
    let (stop, mut stopped) = tokio::sync::oneshot::channel::<()>();
    let load = async {
        // One connection that outlives the rotation, and a new one for each round.
        let mut kept = Connection::open(addr, Some(trust), Protocol::Http2).await?;
        let mut requests = 0u32;
        let mut last_round = false;
        loop {
            let mut fresh = Connection::open(addr, Some(trust), Protocol::Http1).await?;
            for connection in [&mut kept, &mut fresh] {
                let answer = connection.get(HOST, "/bytes?n=1000").await?;
                expect(&format!("status {} during the rotation", answer.status), answer.status == 200)?;
                requests += 1;
            }
            if last_round {
                return Ok((requests, fresh.peer));
            }
            last_round = stopped.try_recv().is_ok();
        }
    };
    let swap = async {
        let rotation = rotate(topology).await;
        let _ = stop.send(());
        rotation
    };
    let (load, rotation): (io::Result<(u32, Option<Peer>)>, _) = tokio::join!(load, swap);
    let (requests, peer) = load?;
    let Some(rotation) = rotation? else {
        return Ok(Seen { peer, what: format!("{requests} requests, 0 failed; no rotation without the CA's key") });
    };
    let serial = peer.as_ref().map(|peer| peer.serial.as_str());
    expect("a new connection is shown the old leaf", serial == Some(rotation.serial.as_str()))?;
    let after = rotation.after.as_millis();
    Ok(Seen { peer, what: format!("{requests} requests, 0 failed, new leaf after {after} ms") })
}
