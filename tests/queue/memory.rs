//! Q6 and Q10: memory comes back after a burst, idle connections hold little of it, and readers that stall hold no more.
//! Bodies of any size are in `bulk`.
use std::io::Write;
use std::net::TcpStream;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rustls::version::TLS13;

use crate::support::app::{App, ok};
use crate::support::binary::{Binary, executable, queue, socket_timeout};
use crate::support::client::{Raw, get, local};
use crate::support::message::Reader;
use crate::support::pki::{NAME, Pki};
use crate::support::wait::{eventually, patience};

/// Q6: 2,000 connections at once, each with a request held at the application; when all have left, memory is back within a
/// fifth of what it was when idle. Idle means after a first round of each kind: what is loaded once stays.
#[test]
fn given_a_burst_of_2000_connections_when_they_have_left_then_memory_is_back_within_a_fifth() {
    const BURST: usize = 2000;
    let gate = std::sync::Arc::new((std::sync::Mutex::new(false), std::sync::Condvar::new()));
    let inside = gate.clone();
    let app = App::start(move |conn| {
        while let Some((head, _)) = conn.request() {
            if head.target() == "/held" {
                let open = inside.0.lock().unwrap();
                drop(inside.1.wait_while(open, |open| !*open).unwrap());
            }
            conn.send(ok("ok"));
        }
    });
    let pki = Pki::new();
    // The pool keeps its share of the burst for as long as it is told: 90 s by default, as the original.
    let mut queue = queue(app.port()).certs(pki.dir()).env("LOCKKEEPER_UPSTREAM_IDLE_TIMEOUT", "1s").start();
    let (http, tls) = (queue.http(), queue.tls());
    for _ in 0..50 {
        get(http, "/", "");
        Raw::tls(tls, pki.client(&[&TLS13], &[]), NAME).get("/", "").reply();
    }
    let idle = settled(&queue);

    let mut clients: Vec<Raw> = (0..BURST).map(|_| Raw::plain(http)).collect();
    for client in &mut clients {
        client.get("/held", "X-Filler: 0123456789012345678901234567890123456789012345678901234567890123\r\n");
    }
    eventually("all are held at the application", || app.count() >= BURST + 100);
    let burst = queue.memory_own();
    *gate.0.lock().unwrap() = true;
    gate.1.notify_all();
    for client in &mut clients {
        assert_eq!(client.reply().status(), 200);
    }
    drop(clients);

    let bound = idle + (idle / 5).max(2048);
    let mut last = 0;
    eventually_memory(&queue, bound, &mut last);
    assert!(last <= bound, "{idle} KiB idle, {burst} in the burst, {last} long after it");
    assert!(burst > bound, "{burst} KiB in the burst: there was none");
}

/// A connection that is idle is its socket, its TLS state and its task; what a request needs is given back soon after it.
#[test]
fn given_1000_idle_tls_connections_when_they_have_rested_then_each_holds_15_kib_at_most() {
    const CROWD: u64 = 1000;
    let app = App::start(|conn| {
        while conn.request().is_some() {
            conn.send(ok("ok"));
        }
    });
    let pki = Pki::new();
    let mut queue = queue(app.port()).certs(pki.dir()).env("WORKER_THREADS", "1").start();
    let port = queue.tls();
    let connect = || {
        let mut client = Raw::tls(port, pki.client(&[&TLS13], &[]), NAME);
        client.get("/", "");
        assert_eq!(client.reply().status(), 200);
        client
    };
    for _ in 0..50 {
        connect();
    }
    let before = queue.memory_own();

    let crowd: Vec<Raw> = (0..CROWD).map(|_| connect()).collect();

    let start = std::time::Instant::now();
    let mut each = u64::MAX;
    while each > 15 && start.elapsed() < patience() {
        std::thread::sleep(Duration::from_millis(50));
        each = queue.memory_own().saturating_sub(before) / CROWD;
    }
    assert!(each <= 15, "{each} KiB each");
    drop(crowd);
}

/// Pages of a file that are not on the disk yet look like pages that were written to: an executable that was just installed
/// has nothing else.
#[test]
fn given_an_executable_that_was_just_written_when_it_has_started_then_what_only_the_start_needed_is_unmapped() {
    let app = App::start(|_| {});
    // Beside the original, which is on a disk.
    let dir = tempfile::tempdir_in(executable().parent().unwrap()).unwrap();
    let copy = dir.path().join("lockkeeper");
    std::fs::copy(executable(), &copy).unwrap();

    let queue = queue(app.port()).executable(&copy).start();

    eventually("a third of it is unmapped", || queue.memory_of_files() * 3 < queue.memory_peak() * 2);
}

/// Waits a while for memory to fall to `bound`; the last look is in `last`.
fn eventually_memory(queue: &Binary, bound: u64, last: &mut u64) {
    let start = std::time::Instant::now();
    while start.elapsed() < patience() {
        *last = queue.memory_own();
        if *last <= bound {
            return;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// Memory when it no longer changes.
fn settled(queue: &Binary) -> u64 {
    let mut last = queue.memory_own();
    let mut same = 0;
    while same < 10 {
        std::thread::sleep(Duration::from_millis(50));
        let now = queue.memory_own();
        same = if now == last { same + 1 } else { 0 };
        last = now;
    }
    last
}

/// Q10: readers that do not read. What the application may write ahead ends in bounded buffers, the kernel's and ours.
#[test]
fn given_readers_that_stall_when_the_application_writes_on_then_memory_grows_by_2_mib_a_stream_at_most() {
    const READERS: usize = 16;
    let written = std::sync::Arc::new(AtomicU64::new(0));
    let counter = written.clone();
    let app = App::start(move |conn| {
        while conn.head().is_some() {
            conn.send("HTTP/1.1 200 OK\r\nContent-Length: 1073741824\r\n\r\n");
            let piece = vec![b'x'; 64 << 10];
            while conn.try_send(&piece) {
                counter.fetch_add(piece.len() as u64, Ordering::Relaxed);
            }
        }
    });
    let mut queue = queue(app.port()).start();
    let http = queue.http();
    get_some(http);
    queue.reset_memory_peak();
    let before = queue.memory();
    let mut plain: Vec<TcpStream> = (0..READERS).map(|_| TcpStream::connect(local(http)).unwrap()).collect();
    for stream in &mut plain {
        stream.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
    }
    let mut frames = crate::support::h2::Frames::connect(http);
    // A window of 1 GiB for the connection and for each stream: it is we who must not take what nobody reads.
    frames.send(crate::support::h2::SETTINGS, 0, 0, &[0, 4, 0x3f, 0xff, 0xff, 0xff]);
    frames.send(crate::support::h2::WINDOW_UPDATE, 0, 0, &0x3fff_0000u32.to_be_bytes());
    for n in 0..READERS as u32 {
        let get = [(":method", "GET"), (":scheme", "http"), (":path", "/"), (":authority", "a")];
        frames.headers(n * 2 + 1, &get, true);
    }
    eventually("all have begun", || app.count() >= 2 * READERS);
    stalls("the writers stall", &written);
    let grown = queue.memory_peak().saturating_sub(before);
    let streams = 2 * READERS as u64;
    assert!(grown <= 2 * 1024 * streams, "grew by {grown} KiB with {streams} streams");
    // And they are streams yet: reading goes on where it stopped.
    let mut reader = Reader::new(plain.remove(0));
    reader.stream.set_read_timeout(socket_timeout()).unwrap();
    assert_eq!(reader.head().unwrap().status(), 200);
    assert_eq!(reader.bytes(8 << 20).len(), 8 << 20);
}

/// Q10 the other way: an application that does not read. What callers may send ahead ends in bounded buffers.
#[test]
fn given_an_application_that_stalls_when_callers_upload_then_memory_grows_by_half_a_mib_a_stream_at_most() {
    const CALLERS: u64 = 16;
    static PIECE: [u8; 64 << 10] = [b'x'; 64 << 10];
    let end = std::sync::Arc::new(std::sync::Barrier::new(CALLERS as usize + 1));
    let ends = end.clone();
    let app = App::start(move |conn| {
        conn.head();
        ends.wait();
    });
    let mut queue = queue(app.port()).start();
    let http = queue.http();
    let before = queue.memory_own();
    let written = std::sync::Arc::new(AtomicU64::new(0));
    for _ in 0..CALLERS {
        let mut stream = TcpStream::connect(local(http)).unwrap();
        let counter = written.clone();
        // They end with their connections, once the application closes.
        std::thread::spawn(move || {
            let _ = stream.write_all(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1073741824\r\n\r\n");
            while stream.write_all(&PIECE).is_ok() {
                counter.fetch_add(PIECE.len() as u64, Ordering::Relaxed);
            }
        });
    }
    eventually("all have come", || app.count() as u64 >= CALLERS);
    stalls("the callers stall", &written);
    let grown = queue.memory_own().saturating_sub(before);
    assert!(written.load(Ordering::Relaxed) > CALLERS * 1024 * 1024, "nothing was sent ahead");
    end.wait();
    assert!(grown <= CALLERS * 512, "grew by {grown} KiB with {CALLERS} streams");
}

/// Waits until nothing is written any more: every buffer on the way is full.
#[track_caller]
fn stalls(what: &str, written: &AtomicU64) {
    let mut last = u64::MAX;
    eventually(what, || {
        std::thread::sleep(Duration::from_millis(300));
        std::mem::replace(&mut last, written.load(Ordering::Relaxed)) == written.load(Ordering::Relaxed)
    });
}

fn get_some(port: u16) {
    let mut reader = Reader::new(TcpStream::connect(local(port)).unwrap());
    reader.stream.set_read_timeout(socket_timeout()).unwrap();
    reader.stream.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
    reader.head().unwrap();
    reader.bytes(1 << 20);
}
