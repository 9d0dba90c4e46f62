//! A2: a pod that swallows connections: its machine is there, and nothing comes back.
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use socket2::{Domain, Socket, Type};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::oneshot;
use tokio_rustls::TlsAcceptor;

use super::crowd::{Crowd, server};
use super::world::{Activator, NAMESPACE, REVISION, World, free_ip};
use crate::support::objects::private_endpoints;
use crate::support::wait::eventually;

/// A pod that serves until it turns into a hole.
struct Pod {
    ip: IpAddr,
    serving: oneshot::Sender<()>,
    sockets: Vec<Socket>,
}

impl Pod {
    fn start(tls: Option<rustls::ServerConfig>) -> Self {
        let ip = free_ip();
        let sockets: Vec<Socket> = [8012, 8112].map(|port| listener((ip, port).into())).into();
        let copies: Vec<std::net::TcpListener> = sockets.iter().map(|s| s.try_clone().unwrap().into()).collect();
        let (serving, mut stop) = oneshot::channel::<()>();
        let tls = tls.map(|config| TlsAcceptor::from(Arc::new(config)));
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async move {
                for (copy, tls) in copies.into_iter().zip([None, tls]) {
                    let listener = tokio::net::TcpListener::from_std(copy).unwrap();
                    tokio::spawn(async move {
                        while let Ok((socket, _)) = listener.accept().await {
                            let tls = tls.clone();
                            tokio::spawn(async move {
                                match tls {
                                    None => serve(socket).await,
                                    Some(tls) => serve(tls.accept(socket).await?).await,
                                }
                            });
                        }
                    });
                }
                let _ = (&mut stop).await;
            });
            // All connections end with the runtime.
        });
        Self { ip, serving, sockets }
    }

    /// Ends what is open and takes nothing more: the kernel's queues are full from then on.
    fn swallow(self) -> Vec<Socket> {
        drop(self.serving);
        let mut held = self.sockets;
        for port in [8012, 8112] {
            let address = SocketAddr::new(self.ip, port);
            eventually("the queue is full", || {
                let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
                let full = socket.connect_timeout(&address.into(), Duration::from_millis(50)).is_err();
                held.push(socket);
                full
            });
        }
        held
    }
}

fn listener(address: SocketAddr) -> Socket {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.set_reuse_address(true).unwrap();
    socket.bind(&address.into()).unwrap();
    socket.listen(1).unwrap();
    socket.set_nonblocking(true).unwrap();
    socket
}

async fn serve(mut socket: impl AsyncRead + AsyncWrite + Unpin) -> std::io::Result<()> {
    let mut head = Vec::new();
    while socket.read_buf(&mut head).await? > 0 {
        if head.ends_with(b"\r\n\r\n") {
            let body = if head.starts_with(b"GET /healthz") { "queue" } else { "ok" };
            head.clear();
            let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len());
            socket.write_all(answer.as_bytes()).await?;
            socket.flush().await?;
        }
    }
    Ok(())
}

/// Nobody notices but by the time in which a connection is awaited, and of a hundred requests one at most.
#[test]
fn given_ten_pods_when_one_swallows_connections_then_no_request_fails_and_few_are_late() {
    for tls in [false, true] {
        let world = World::new(tls);
        world.create(world.revision());
        let activator = Activator::of(world.builder().env("WORKER_THREADS", 1), tls);
        let crowd = Crowd::start(9, tls.then_some(&world.authority));
        let hole = Pod::start(tls.then(|| server(&world.authority)));
        let ip = hole.ip.to_string();
        let ips: Vec<&str> = crowd.ips.iter().map(String::as_str).chain([ip.as_str()]).collect();
        world.api.apply(private_endpoints(NAMESPACE, REVISION).subset(&ips, &[], "http", 8012));
        let asked = || crowd.requests.iter().all(|count| count.load(std::sync::atomic::Ordering::SeqCst) > 0);
        eventually("all are in use", || {
            assert_eq!(activator.get().status(), 200);
            asked()
        });

        let _held = hole.swallow();

        let mut took: Vec<Duration> = (0..300)
            .map(|_| {
                let start = Instant::now();
                assert_eq!(activator.get().status(), 200, "TLS: {tls}");
                start.elapsed()
            })
            .collect();
        took.sort_unstable();
        println!("TLS: {tls}: {:?} of 99 in 100, {:?} at most", took[296], took[299]);
        // `LOCKKEEPER_CONNECT_TIMEOUT`, before anything was measured; and somebody met it.
        assert!(took[296] < Duration::from_secs(1), "{took:?}");
        let aside = || !activator.process.log.lines(|line| line.contains(&ip) && line.contains("put aside")).is_empty();
        assert!(aside(), "it was offered a request");
    }
}
