//! Connections to the one application of this pod: by 127.0.0.1 or by ::1, whichever takes them, and with patience
//! while it restarts.
//!
//! Data side; one [`Local`] a worker, part of the [`super::dial::Target`] that its pool connects to. The Go queue knows 127.0.0.1
//! only, so that is asked first and its error is the one that counts; the address that took the last connection is asked
//! first the next time. With a hold time, a refused connection is no failure yet: one task a worker tries again each
//! [`AGAIN`], whoever waits goes on when it gets through, and only when the time is over is the refusal passed on.

use std::cell::Cell;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::rc::Rc;
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::sync::Notify;
use tokio::time::Instant;

/// From one try to the next while the application takes no connection.
const AGAIN: Duration = Duration::from_millis(10);

/// Who is told of what happens towards the application.
pub trait Told {
    /// A connection was opened.
    fn opened(&self);
    /// A request uses a connection that served one before.
    fn reused(&self);
    /// A request goes out once more, on a fresh connection.
    fn sent_again(&self);
    /// A request is held until the application takes connections.
    fn held(&self);
}

/// Opens connections to one application.
pub struct Local {
    addresses: Vec<SocketAddr>,
    /// The one that took the last connection.
    last: Cell<usize>,
    hold: Duration,
    told: Rc<dyn Told>,
    listening: Notify,
    waiting: Cell<u32>,
    trying: Cell<bool>,
}

impl Local {
    /// To `address`; if that is 127.0.0.1, then also to ::1. A refused connection is tried again for `hold`; zero is
    /// not at all.
    #[must_use]
    pub fn new(address: SocketAddr, hold: Duration, told: Rc<dyn Told>) -> Rc<Self> {
        let mut addresses = vec![address];
        if address.ip() == Ipv4Addr::LOCALHOST {
            addresses.push((Ipv6Addr::LOCALHOST, address.port()).into());
        }
        Rc::new(Self {
            addresses,
            last: Cell::new(0),
            hold,
            told,
            listening: Notify::new(),
            waiting: Cell::new(0),
            trying: Cell::new(false),
        })
    }

    /// The first address.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.addresses.first().copied().unwrap_or_else(|| (Ipv4Addr::LOCALHOST, 0).into())
    }

    /// Who is told.
    #[must_use]
    pub fn told(&self) -> &dyn Told {
        &*self.told
    }

    /// A connection, as soon as the application takes one.
    ///
    /// # Errors
    /// It takes none, for as long as is waited.
    pub async fn connect(self: &Rc<Self>) -> io::Result<TcpStream> {
        let mut refused = match self.connect_now().await {
            Err(error) if is_refused(&error) && !self.hold.is_zero() => error,
            other => return other,
        };
        self.told.held();
        let until = Instant::now() + self.hold;
        loop {
            if tokio::time::timeout_at(until, self.wait()).await.is_err() {
                return Err(refused);
            }
            match self.connect_now().await {
                Err(error) if is_refused(&error) => refused = error,
                other => return other,
            }
        }
    }

    /// A connection, or why there is none now.
    ///
    /// # Errors
    /// Those of the first address.
    pub async fn connect_now(&self) -> io::Result<TcpStream> {
        let first = self.last.get();
        let mut failed = None;
        for index in std::iter::once(first).chain((0..self.addresses.len()).filter(|index| *index != first)) {
            let Some(address) = self.addresses.get(index) else { continue };
            match TcpStream::connect(address).await {
                Ok(socket) => {
                    self.last.set(index);
                    let _ = socket.set_nodelay(true);
                    self.told.opened();
                    return Ok(socket);
                }
                Err(error) if index == 0 || failed.is_none() => failed = Some(error),
                Err(_) => {}
            }
        }
        Err(failed.unwrap_or_else(|| io::ErrorKind::AddrNotAvailable.into()))
    }

    /// Done when a connection got through.
    async fn wait(self: &Rc<Self>) {
        let _waiting = Waiting::new(self);
        let listening = self.listening.notified();
        if !self.trying.replace(true) {
            tokio::task::spawn_local(self.clone().keep_trying());
        }
        listening.await;
    }

    async fn keep_trying(self: Rc<Self>) {
        while self.waiting.get() > 0 {
            tokio::time::sleep(AGAIN).await;
            if !matches!(self.connect_now().await, Err(error) if is_refused(&error)) {
                break;
            }
        }
        self.trying.set(false);
        self.listening.notify_waiters();
    }
}

/// Counts who waits.
struct Waiting<'d>(&'d Local);

impl<'d> Waiting<'d> {
    fn new(local: &'d Local) -> Self {
        local.waiting.set(local.waiting.get() + 1);
        Self(local)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.waiting.set(self.0.waiting.get().saturating_sub(1));
    }
}

fn is_refused(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::ConnectionRefused
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::net::closed::{closed, open};

    #[derive(Default)]
    struct Counted {
        opened: Cell<u32>,
        held: Cell<u32>,
    }

    impl Told for Counted {
        fn opened(&self) {
            self.opened.set(self.opened.get() + 1);
        }
        fn reused(&self) {}
        fn sent_again(&self) {}
        fn held(&self) {
            self.held.set(self.held.get() + 1);
        }
    }

    fn on_a_worker(test: impl Future<Output = ()>) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        tokio::task::LocalSet::new().block_on(&runtime, test);
    }

    #[test]
    fn given_a_listener_on_ipv6_only_when_dialled_then_it_is_reached_and_remembered() {
        on_a_worker(async {
            let listener = std::net::TcpListener::bind("[::1]:0").unwrap();
            let port = listener.local_addr().unwrap().port();
            let local = Local::new((Ipv4Addr::LOCALHOST, port).into(), Duration::ZERO, Rc::<Counted>::default());

            let socket = local.connect().await.unwrap();

            assert!(socket.peer_addr().unwrap().is_ipv6());
            assert_eq!(local.last.get(), 1);
        });
    }

    #[test]
    fn given_no_listener_and_no_patience_when_dialled_then_it_is_refused_at_once() {
        on_a_worker(async {
            let (_socket, address) = closed();
            let told = Rc::<Counted>::default();
            let local = Local::new(address, Duration::ZERO, told.clone());

            let error = local.connect().await.unwrap_err();

            assert!(is_refused(&error), "{error}");
            assert_eq!((told.opened.get(), told.held.get()), (0, 0));
        });
    }

    #[test]
    fn given_a_listener_that_comes_late_when_two_wait_for_it_then_both_get_through() {
        on_a_worker(async {
            let (socket, address) = closed();
            let told = Rc::<Counted>::default();
            let local = Local::new(address, Duration::from_secs(30), told.clone());
            let late = async {
                while told.held.get() < 2 {
                    tokio::task::yield_now().await;
                }
                open(socket)
            };

            let (one, two, _listener) = tokio::join!(local.connect(), local.connect(), late);

            assert!(one.is_ok() && two.is_ok());
        });
    }
}
