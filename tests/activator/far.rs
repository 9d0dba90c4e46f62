//! A3: pods at the other end of a slow path. Every byte takes half a round trip in each direction.
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;

use super::world::{NAMESPACE, World, free_ip};
use crate::support::accept::{Serving, accept_all};
use crate::support::app::App;
use crate::support::wait::eventually;

/// The ports of a pod at an address of its own, with a slow path in between; until it is dropped.
struct Path {
    ip: IpAddr,
    _serving: Serving,
}

impl Path {
    fn to(pod: IpAddr, delay: Duration) -> Self {
        const PORTS: [u16; 2] = [8012, 8112];
        let ip = free_ip();
        let listeners = PORTS.map(|port| std::net::TcpListener::bind((ip, port)).unwrap());
        let serving = accept_all(listeners.into(), move |index, near| async move {
            let _ = carry(near, SocketAddr::new(pod, PORTS[index]), delay).await;
        });
        Self { ip, _serving: serving }
    }
}

async fn carry(near: TcpStream, far: SocketAddr, delay: Duration) -> io::Result<()> {
    let far = TcpStream::connect(far).await?;
    let ((near_in, near_out), (far_in, far_out)) = (near.into_split(), far.into_split());
    tokio::try_join!(late(near_in, far_out, delay), late(far_in, near_out, delay))?;
    Ok(())
}

/// What comes in goes out after the delay; more may come in meanwhile.
async fn late(mut from: impl AsyncRead + Unpin, mut to: impl AsyncWrite + Unpin, delay: Duration) -> io::Result<()> {
    let (send, mut pieces) = tokio::sync::mpsc::unbounded_channel();
    let read = async move {
        let mut piece = vec![0; 64 * 1024];
        loop {
            let count = from.read(&mut piece).await?;
            let at = tokio::time::Instant::now() + delay;
            if send.send((at, piece[..count].to_vec())).is_err() || count == 0 {
                return io::Result::Ok(());
            }
        }
    };
    let write = async move {
        while let Some((at, piece)) = pieces.recv().await {
            tokio::time::sleep_until(at).await;
            if piece.is_empty() {
                to.shutdown().await?;
                break;
            }
            to.write_all(&piece).await?;
        }
        io::Result::Ok(())
    };
    tokio::try_join!(read, write).map(|_| ())
}

/// Every held request is served, whatever the round trip, in plaintext and over TLS. (The original fails above 70 ms one
/// way.) A path in one process can't delay the connection itself: `probing/tests` has that in virtual time.
#[test]
fn given_pods_behind_any_round_trip_when_requests_are_held_then_all_are_served() {
    for tls in [false, true] {
        let world = World::new(tls);
        world.create(world.revision());
        let activator = world.start();
        let pod = world.pod_at(free_ip(), NAMESPACE, App::ok(), |builder| builder);
        for round_trip in [0, 70, 150, 300] {
            let path = Path::to(pod.ip, Duration::from_millis(round_trip / 2));
            let mut held: Vec<_> = (0..5).map(|_| activator.ask()).collect();
            assert!(held[0].reply_within(Duration::from_millis(20)).is_none(), "it is held");

            world.endpoints(&[], &[path.ip]);

            for client in &mut held {
                assert_eq!(client.reply().status(), 200, "{round_trip} ms, TLS: {tls}");
            }
            // The next ones are held when the revision has no pod any more.
            world.endpoints(&[], &[]);
            eventually("it has no pod", || activator.ask().reply_within(Duration::from_millis(700)).is_none());
        }
    }
}
