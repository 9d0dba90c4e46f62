//! A collector of metrics and spans as OpenTelemetry's: OTLP over HTTP/1.1 or gRPC, in plaintext or over TLS.
use std::convert::Infallible;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};

use http::request::Parts;
use http::{Request, Response};
use hyper::body::{Body as _, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use lockkeeper::local::app::LocalExecutor;
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsAcceptor;

use super::accept::accept;
use super::pki::Pki;

/// A request with its body.
pub type Seen = (Parts, Vec<u8>);

/// A collector that answers each push with success; its port, and what it got. It ends with the test's process.
pub fn start(tls: Option<ServerConfig>, grpc: bool) -> (u16, Receiver<Seen>) {
    let (sender, seen) = channel();
    let acceptor = tls.map(|config| TlsAcceptor::from(Arc::new(config)));
    let port = accept(move |socket| {
        let (acceptor, sender) = (acceptor.clone(), sender.clone());
        async move {
            match acceptor {
                None => serve(socket, sender, grpc).await,
                Some(acceptor) => match acceptor.accept(socket).await {
                    Ok(stream) => serve(stream, sender, grpc).await,
                    Err(error) => eprintln!("collector: {error}"),
                },
            }
        }
    });
    (port, seen)
}

/// Settings for [`start`] with the certificate in `pki`.
pub fn over_tls(pki: &mut Pki, alpn: &str) -> ServerConfig {
    let leaf = pki.leaf();
    let chain = CertificateDer::pem_slice_iter(leaf.chain.as_bytes()).collect::<Result<_, _>>().unwrap();
    let key = PrivateKeyDer::from_pem_slice(leaf.key.as_bytes()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let mut config = builder.with_no_client_auth().with_single_cert(chain, key).unwrap();
    config.alpn_protocols = vec![alpn.as_bytes().to_vec()];
    config
}

async fn serve<S: AsyncRead + AsyncWrite + Unpin + 'static>(stream: S, sender: Sender<Seen>, grpc: bool) {
    let service = service_fn(move |request: Request<Incoming>| {
        let sender = sender.clone();
        async move {
            let (head, body) = request.into_parts();
            let _ = sender.send((head, read(body).await));
            let mut answer = Response::builder();
            if grpc {
                answer = answer.header("content-type", "application/grpc").header("grpc-status", "0");
            }
            Ok::<_, Infallible>(answer.body(String::new()).unwrap())
        }
    });
    let io = TokioIo::new(stream);
    let _ = if grpc {
        hyper::server::conn::http2::Builder::new(LocalExecutor).serve_connection(io, service).await
    } else {
        hyper::server::conn::http1::Builder::new().serve_connection(io, service).await
    };
}

async fn read(body: Incoming) -> Vec<u8> {
    let mut body = std::pin::pin!(body);
    let mut bytes = Vec::new();
    while let Some(Ok(frame)) = std::future::poll_fn(|cx| body.as_mut().poll_frame(cx)).await {
        if let Ok(data) = frame.into_data() {
            bytes.extend_from_slice(&data);
        }
    }
    bytes
}
