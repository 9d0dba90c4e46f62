//! The pools of one worker, for roles that talk to many upstreams.
//!
//! A pool is found by address *and* by what the other end has to prove: when an address passes to a pod of another
//! namespace, or TLS is switched on or off, nothing of the old connections is inherited. Data side, one worker.

use std::cell::RefCell;
use std::collections::HashMap;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::{Duration, Instant};

use foldhash::fast::RandomState;
use tokio::sync::watch;

use super::dial::{Patience, Target, Tls};
use super::upstream::{Limits, Pool, Speaks};
use crate::tls::verifier::ExpectedSan;

/// How long a pool without traffic keeps its HTTP/2 connections, as a multiple of [`Limits::idle_time`].
const FORGET: u32 = 10;

/// Settings of all pools of a worker.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// What each may hold.
    pub pool: Limits,
    /// Idle HTTP/1.1 connections in all of them.
    pub idle: usize,
    /// Longest time for TCP to connect.
    pub connect: Duration,
    /// Longest time for a TLS handshake.
    pub handshake: Duration,
}

/// The pools of one worker.
pub struct Pools {
    settings: Settings,
    patience: Rc<Patience>,
    by: RefCell<HashMap<Key, Rc<Pool>, RandomState>>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Key {
    address: SocketAddr,
    expected: Option<ExpectedSan>,
}

impl Pools {
    /// No pool yet.
    #[must_use]
    pub fn new(settings: Settings) -> Rc<Self> {
        Rc::new(Self { settings, patience: Rc::new(Patience::new(settings.connect)), by: RefCell::default() })
    }

    /// The pool for `address`, over `tls` if given; made if there is none. Upstreams are known to speak HTTP/2.
    #[must_use]
    pub fn pool(&self, address: SocketAddr, tls: Option<&Tls>) -> Rc<Pool> {
        let key = Key { address, expected: tls.map(|tls| tls.expected.clone()) };
        let mut by = self.by.borrow_mut();
        if let Some(pool) = by.get(&key) {
            return pool.clone();
        }
        let target = Target {
            address,
            tls: tls.cloned(),
            connect: Some(self.patience.clone()),
            handshake: Some(self.settings.handshake),
            local: None,
        };
        let pool = Pool::new(target, self.settings.pool, Speaks::Http2);
        by.insert(key, pool.clone());
        pool
    }

    /// Closes what was idle for too long and forgets pools that nobody uses. To be called each second or so.
    pub fn sweep(&self, now: Instant) {
        let forget = self.settings.pool.idle_time * FORGET;
        let mut left = self.settings.idle;
        let mut by = self.by.borrow_mut();
        by.retain(|_, pool| {
            pool.sweep(now);
            let idle = pool.idle();
            if idle > left {
                pool.keep_idle(left);
            }
            left = left.saturating_sub(idle);
            idle > 0 || !pool.is_idle(now, forget)
        });
        if by.is_empty() {
            by.shrink_to_fit();
        }
    }
}

/// Closes what was verified by an authority that is no longer trusted, whenever what is trusted has changed
/// ([`crate::tls::trust::Store::changes`]); see [`Pool::distrust`].
pub async fn follow_trust(mut changes: watch::Receiver<u64>, pools: Rc<Pools>) {
    while changes.changed().await.is_ok() {
        for pool in pools.by.borrow().values() {
            pool.distrust();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings() -> Settings {
        let pool = Limits {
            idle: 2,
            idle_time: Duration::from_secs(1),
            header_lines: 100,
            header_bytes: 4096,
            header_room: 6,
        };
        Settings { pool, idle: 4, connect: Duration::from_secs(1), handshake: Duration::from_secs(1) }
    }

    #[test]
    fn given_a_pool_that_nobody_uses_when_swept_long_after_then_it_is_forgotten() {
        let pools = Pools::new(settings());
        let address = ([127, 0, 0, 1], 1).into();
        let pool = pools.pool(address, None);
        assert!(Rc::ptr_eq(&pool, &pools.pool(address, None)));

        pools.sweep(Instant::now() + Duration::from_secs(5));
        assert_eq!(pools.by.borrow().len(), 1);
        pools.sweep(Instant::now() + Duration::from_secs(11));
        assert!(pools.by.borrow().is_empty());
    }
}
