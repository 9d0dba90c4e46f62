//! Ports of 127.0.0.1 that belong to one test.
//!
//! What a kernel gives out for port 0, and as the near end of a connection, it gives to anybody as soon as it is free: a
//! port on which nobody listens may be another test's a moment later, and so may that of an application that restarts.
//! These come from below that range, and each is given out once.
use std::net::TcpListener;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU16, Ordering};

/// Above the ports that Knative and the tests name.
const FIRST: u16 = 10_000;

/// Linux's default, where the file cannot be read.
const EPHEMERAL: u16 = 32_768;

/// The first port that the kernel gives out by itself.
static END: LazyLock<u16> = LazyLock::new(|| {
    let range = std::fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").unwrap_or_default();
    let first = range.split_ascii_whitespace().next().and_then(|first| first.parse().ok());
    // A machine that gives out all of them has no such ports: any will have to do.
    first.filter(|first| *first > FIRST + 4_096).unwrap_or(EPHEMERAL)
});

/// Other processes' tests begin elsewhere.
static NEXT: LazyLock<AtomicU16> = LazyLock::new(|| AtomicU16::new((std::process::id() % 64 * 256) as u16));

/// A listener on such a port. When it is closed nobody listens there, until the test does again.
#[track_caller]
pub fn free_listener() -> TcpListener {
    let span = *END - FIRST;
    for _ in 0..span {
        let port = FIRST + NEXT.fetch_add(1, Ordering::Relaxed) % span;
        // Whoever has the port on one address has it for all of us.
        let free = TcpListener::bind(("0.0.0.0", port)).is_ok();
        if let (true, Ok(listener)) = (free, TcpListener::bind(("127.0.0.1", port))) {
            return listener;
        }
    }
    panic!("no port between {FIRST} and {} is free", *END);
}

/// A port on which nobody listens, until the test or a process of its own does.
#[track_caller]
pub fn free_port() -> u16 {
    free_listener().local_addr().unwrap().port()
}
