//! T10: HTTP/2 callers that attack. Whatever they send costs them alone: their connection ends or stalls, memory stays
//! bounded, and a bystander on a connection of its own is served as before.
use std::time::{Duration, Instant};

use crate::support::app::App;
use crate::support::binary::queue;
use crate::support::client::{Raw, local};
use crate::support::h2::{
    CONTINUATION, DATA, END_HEADERS, END_STREAM, Frames, GOAWAY, HEADERS, PING, RST_STREAM, SETTINGS, WINDOW_UPDATE,
    block, frame,
};
use crate::support::wait::patience;

/// What its own memory may grow by, each time that it is looked at.
const OWN_KIB: u64 = 4 * 1024;

/// What the peak of resident memory may grow by, less the pages of the executable that were mapped meanwhile.
const PEAK_KIB: u64 = 10 * 1024;

/// How an attack ended.
#[derive(Debug, PartialEq, Eq)]
enum Ended {
    /// The connection was ended, with this error code in GOAWAY if one arrived.
    Closed(Option<u32>),
    /// The peer stopped reading, or took all of it: nothing more can be sent, or all was.
    Held,
}

const GET: &[(&str, &str)] = &[(":method", "GET"), (":scheme", "http"), (":path", "/"), (":authority", "attacker")];
const POST: &[(&str, &str)] = &[(":method", "POST"), (":scheme", "http"), (":path", "/"), (":authority", "attacker")];

/// An application that never answers an attacker, and everybody else at once.
fn application() -> App {
    App::start(|conn| {
        while let Some(head) = conn.head() {
            if head.get("host") == Some("attacker") {
                conn.wait_close();
                return;
            }
            conn.body(&head);
            conn.send(crate::support::app::ok("ok"));
        }
    })
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort();
    times[times.len() / 2]
}

/// Runs an attack beside a bystander.
#[track_caller]
fn siege(attack: impl FnOnce(&mut Frames) -> Ended + Send + 'static) -> Ended {
    let app = application();
    let mut queue = queue(app.port()).start();
    let http = queue.http();
    let mut bystander = Raw::plain(http);
    let mut ask = move || {
        let start = Instant::now();
        assert_eq!(bystander.get("/", "").reply().status(), 200, "the bystander");
        start.elapsed()
    };
    let baseline = median((0..200).map(|_| ask()).collect());
    queue.reset_memory_peak();
    let (before, own_before, files_before) = (queue.memory(), queue.memory_own(), queue.memory_of_files());

    let attacker = std::thread::spawn(move || {
        let mut frames = Frames::connect(http);
        frames.socket().set_write_timeout(Some(Duration::from_secs(2))).unwrap();
        let ended = attack(&mut frames);
        (ended, frames)
    });
    let (mut during, mut own, mut files) = (Vec::new(), 0, 0);
    while !attacker.is_finished() || during.len() < 50 {
        during.push(ask());
        own = own.max(queue.memory_own());
        files = files.max(queue.memory_of_files());
    }
    let (ended, frames) = attacker.join().unwrap();
    let own = own.max(queue.memory_own()).saturating_sub(own_before);
    let files = files.max(queue.memory_of_files()).saturating_sub(files_before);
    let peak = queue.memory_peak().saturating_sub(before + files);
    drop(frames);

    println!("{own} KiB of its own, {peak} KiB at the peak, for one attacker");
    assert!(own <= OWN_KIB && peak <= PEAK_KIB, "{own} KiB, {peak} KiB for one attacker");
    let during = median(during);
    let bound = (baseline * 20).max(Duration::from_millis(50));
    assert!(during <= bound, "the bystander waited {during:?}, {baseline:?} without the attack");
    assert!(queue.poll().is_none() && queue.log.lines(|line| line.contains("panicked")).is_empty());
    ended
}

/// Sends pieces until the peer no longer takes them or there are none left, then sees how the connection stands.
fn flood(frames: &mut Frames, pieces: impl IntoIterator<Item = Vec<u8>>) -> Ended {
    let mut sent_all = true;
    for piece in pieces {
        if !frames.bytes(&piece) {
            sent_all = false;
            break;
        }
    }
    let (goaway, ended) = frames.end(if sent_all { Duration::from_secs(3) } else { patience() });
    if ended { Ended::Closed(goaway.map(|frame| frame.code())) } else { Ended::Held }
}

#[track_caller]
fn closes(ended: Ended, codes: &[u32]) {
    // The GOAWAY may be lost in the reset that follows it; if it came, it says why.
    match ended {
        Ended::Closed(None) => {}
        Ended::Closed(Some(code)) => assert!(codes.contains(&code), "GOAWAY with code {code}, not one of {codes:?}"),
        Ended::Held => panic!("the connection was kept"),
    }
}

const PROTOCOL_ERROR: u32 = 1;
const FRAME_SIZE_ERROR: u32 = 6;
const COMPRESSION_ERROR: u32 = 9;
const ENHANCE_YOUR_CALM: u32 = 11;

/// CVE-2023-44487: streams that are reset as soon as they are opened.
#[test]
fn given_streams_that_are_reset_at_once_when_thousands_come_then_the_connection_ends() {
    let ended = siege(|frames| {
        let open_and_reset = |stream: u32| {
            let mut bytes = frame(HEADERS, END_HEADERS | END_STREAM, stream, &block(GET));
            bytes.extend(frame(RST_STREAM, 0, stream, &8u32.to_be_bytes()));
            bytes
        };
        let batches =
            (0..200u32).map(move |batch| (0..100).flat_map(|n| open_and_reset((batch * 100 + n) * 2 + 1)).collect());
        flood(frames, batches)
    });
    closes(ended, &[ENHANCE_YOUR_CALM]);
}

/// The flood of 2024: a header block that never ends.
#[test]
fn given_a_header_block_without_end_when_continuations_come_then_the_connection_ends() {
    let ended = siege(|frames| {
        let first = frame(HEADERS, END_STREAM, 1, &block(GET));
        let filler = block(&[("x-filler", &"y".repeat(16_000))]);
        flood(frames, std::iter::once(first).chain((0..4096).map(move |_| frame(CONTINUATION, 0, 1, &filler))))
    });
    closes(ended, &[ENHANCE_YOUR_CALM, PROTOCOL_ERROR, COMPRESSION_ERROR, FRAME_SIZE_ERROR]);
}

/// The same with frames that carry nothing, so that no limit of size is reached.
#[test]
fn given_empty_continuations_when_they_do_not_end_then_the_connection_ends() {
    let ended = siege(|frames| {
        let first = frame(HEADERS, END_STREAM, 1, &block(GET));
        let empty: Vec<u8> = (0..1000).flat_map(|_| frame(CONTINUATION, 0, 1, &[])).collect();
        flood(frames, std::iter::once(first).chain((0..200).map(move |_| empty.clone())))
    });
    closes(ended, &[ENHANCE_YOUR_CALM, PROTOCOL_ERROR]);
}

/// CVE-2019-9515: settings, each of which wants an answer that is never read.
#[test]
fn given_settings_without_end_when_their_answers_are_not_read_then_nobody_else_notices() {
    siege(|frames| {
        let some: Vec<u8> = (0..1000).flat_map(|_| frame(SETTINGS, 0, 0, &[0, 4, 0, 0, 255, 255])).collect();
        flood(frames, (0..500).map(move |_| some.clone()))
    });
}

/// CVE-2019-9512: pings, likewise.
#[test]
fn given_pings_without_end_when_their_answers_are_not_read_then_nobody_else_notices() {
    siege(|frames| {
        let some: Vec<u8> = (0..1000).flat_map(|_| frame(PING, 0, 0, &[7; 8])).collect();
        flood(frames, (0..500).map(move |_| some.clone()))
    });
}

/// CVE-2019-9518: frames without content on an open stream.
#[test]
fn given_empty_data_frames_without_end_when_sent_then_nobody_else_notices() {
    siege(|frames| {
        let first = frame(HEADERS, END_HEADERS, 1, &block(POST));
        let some: Vec<u8> = (0..1000).flat_map(|_| frame(DATA, 0, 1, &[])).collect();
        flood(frames, std::iter::once(first).chain((0..500).map(move |_| some.clone())))
    });
}

/// CVE-2025-8671: faults that make the server reset streams, which frees them for the attacker while work goes on.
#[test]
fn given_faults_that_make_us_reset_streams_when_thousands_come_then_the_connection_ends() {
    let ended = siege(|frames| {
        let open_and_fault = |stream: u32| {
            let mut bytes = frame(HEADERS, END_HEADERS, stream, &block(POST));
            // An increment of nothing is a stream error (RFC 9113 section 6.9).
            bytes.extend(frame(WINDOW_UPDATE, 0, stream, &[0; 4]));
            bytes
        };
        let batches =
            (0..200u32).map(move |batch| (0..100).flat_map(|n| open_and_fault((batch * 100 + n) * 2 + 1)).collect());
        flood(frames, batches)
    });
    closes(ended, &[ENHANCE_YOUR_CALM, PROTOCOL_ERROR]);
}

/// More streams than may be open: they are refused one by one, and those that are open go on.
#[test]
fn given_more_streams_than_announced_when_opened_then_the_rest_is_refused() {
    let app = application();
    let mut queue = queue(app.port()).env("LOCKKEEPER_MAX_CONCURRENT_STREAMS", 10).start();
    let mut frames = Frames::connect(queue.http());
    // The server's settings, and with them the limit, are known and acknowledged before the streams are opened.
    frames.until("settings", |frame| frame.kind == SETTINGS && frame.flags & 1 == 0);
    for stream in 0..50u32 {
        frames.headers(stream * 2 + 1, GET, true);
    }
    let mut refused = 0;
    while refused < 40 {
        let frame = frames.next().expect("the connection goes on");
        assert_ne!(frame.kind, GOAWAY, "{frame:?}");
        if frame.kind == RST_STREAM {
            assert_eq!(frame.code(), 7, "REFUSED_STREAM: it may be sent again elsewhere");
            refused += 1;
        }
    }
}

/// Settings of the wrong length, a header block that is none, a stream of an even number, DATA on a stream that nobody opened, a window beyond 2^31.
#[test]
fn given_frames_that_break_the_protocol_when_sent_then_the_connection_ends_with_a_reason() {
    let app = application();
    let mut queue = queue(app.port()).start();
    let overflow = [
        frame(WINDOW_UPDATE, 0, 0, &0x7fff_ffffu32.to_be_bytes()),
        frame(WINDOW_UPDATE, 0, 0, &0x7fff_ffffu32.to_be_bytes()),
    ];
    let cases: [(&str, Vec<u8>, &[u32]); 5] = [
        ("an even stream", frame(HEADERS, END_HEADERS | END_STREAM, 2, &block(GET)), &[PROTOCOL_ERROR]),
        ("data on an idle stream", frame(DATA, 0, 1, b"x"), &[PROTOCOL_ERROR]),
        ("settings of five bytes", frame(SETTINGS, 0, 0, &[0; 5]), &[FRAME_SIZE_ERROR, PROTOCOL_ERROR]),
        (
            "a header block that is none",
            frame(HEADERS, END_HEADERS | END_STREAM, 1, &[0xff; 40]),
            &[COMPRESSION_ERROR, PROTOCOL_ERROR],
        ),
        ("a window beyond its limit", overflow.concat(), &[3]),
    ];
    for (what, bytes, codes) in cases {
        let mut frames = Frames::connect(queue.http());
        frames.bytes(&bytes);
        let (goaway, ended) = frames.end(patience());
        let code = goaway.map(|frame| frame.code());
        assert!(ended && code.is_some_and(|code| codes.contains(&code)), "{what}: ended {ended}, GOAWAY {code:?}");
    }
    assert!(std::net::TcpStream::connect(local(queue.http())).is_ok());
    assert_eq!(app.count(), 0);
}
