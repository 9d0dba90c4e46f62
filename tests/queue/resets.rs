//! Q8: what HTTP/2 says beside requests and answers: streams that either side gives up, on either side.
use std::sync::mpsc::channel;

use crate::support::binary::queue;
use crate::support::h2::{DATA, END_HEADERS, HEADERS, PING, RST_STREAM};
use crate::support::h2_app::{H2App, H2Caller};
use crate::support::wait::patience;

const INTERNAL_ERROR: u32 = 2;
const CANCEL: u32 = 8;

/// 7: the application learns at once, and by the code that says so.
#[test]
fn given_a_caller_that_cancels_when_the_application_works_then_it_is_told_by_the_same_code() {
    let (tell, told) = channel();
    let (began, begun) = channel();
    let app = H2App::start(move |conn| {
        while let Some(frame) = conn.frame() {
            match frame.kind {
                HEADERS => drop(began.send(())),
                RST_STREAM => drop(tell.send(frame.code())),
                _ => {}
            }
        }
    });
    let mut queue = queue(app.port()).start();
    let mut caller = H2Caller::connect(queue.http());
    let streams = caller.send(&[("GET", None)]);
    begun.recv_timeout(patience()).expect("the request is there");
    caller.frames().send(RST_STREAM, 0, streams[0], &CANCEL.to_be_bytes());
    assert_eq!(told.recv_timeout(patience()), Ok(CANCEL));
    assert!(queue.log.lines(|line| line.contains(r#""severity":"ERROR""#)).is_empty());
}

/// 7: an answer that the application gives up is cut, never ended as if whole; other streams go on.
#[test]
fn given_an_application_that_resets_when_its_answer_has_begun_then_the_caller_gets_a_reset() {
    let app = H2App::start(move |conn| {
        while let Some((stream, body)) = conn.request() {
            if body.is_empty() {
                conn.frames().send(HEADERS, END_HEADERS, stream, &[0x88]);
                conn.frames().send(DATA, 0, stream, b"half");
                conn.frames().send(RST_STREAM, 0, stream, &CANCEL.to_be_bytes());
            } else {
                conn.answer(stream, &body);
            }
        }
    });
    let mut queue = queue(app.port()).start();
    let mut caller = H2Caller::connect(queue.http());
    let streams = caller.send(&[("GET", None), ("POST", Some(b"whole"))]);
    let (mut reset, mut whole) = (None, Vec::new());
    while reset.is_none() || whole != b"whole" {
        let frame = caller.frame().expect("the connection goes on");
        match frame.kind {
            RST_STREAM => {
                assert_eq!(frame.stream, streams[0]);
                reset = Some(frame.code());
            }
            DATA if frame.stream == streams[0] => assert!(!frame.ends_stream(), "ended as if whole"),
            DATA => whole.extend(frame.payload),
            _ => {}
        }
    }
    assert_eq!(reset, Some(INTERNAL_ERROR));
}

/// A reset before the answer is a 502 that names its cause.
#[test]
fn given_an_application_that_resets_when_nothing_was_answered_then_502() {
    let app = H2App::start(move |conn| {
        while let Some((stream, _)) = conn.request() {
            conn.frames().send(RST_STREAM, 0, stream, &INTERNAL_ERROR.to_be_bytes());
        }
    });
    let mut queue = queue(app.port()).start();
    let mut caller = H2Caller::connect(queue.http());
    let (ok, text) = caller.ask("POST", Some(b"x")).expect("an answer and no reset");
    assert!(!ok, "{}", String::from_utf8_lossy(&text));
    queue.logs("upstream_reset");
}

/// RFC 9113 section 6.7: a PING is answered with what it carried.
#[test]
fn given_a_ping_when_it_comes_then_it_is_answered_with_its_own_bytes() {
    let app = H2App::start(|conn| while conn.frame().is_some() {});
    let mut queue = queue(app.port()).start();
    let mut caller = H2Caller::connect(queue.http());
    const ACK: u8 = 1;
    caller.frames().send(PING, 0, 0, b"8 bytes.");
    let pong = caller.frames().until("an answer", |frame| frame.kind == PING);
    assert_eq!((pong.flags, pong.payload.as_slice()), (ACK, b"8 bytes.".as_slice()));
}
