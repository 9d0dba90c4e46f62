//! The revision's timers in the activator: what becomes of a response that has begun, and what counts as its beginning.

use std::time::{Duration, Instant};

use super::world::{Activator, World};
use crate::support::app::{App, ok};
use crate::support::client::Reply;

/// An activator under a total timer of a second, before an application that begins and never ends.
fn before_half_an_answer(style: &str) -> (World, Activator) {
    let world = World::new(false);
    world.create(world.revision().timeout(1));
    let activator = Activator::of(world.builder().env("LOCKKEEPER_TIMEOUT_STYLE", style), false);
    (world, activator)
}

fn half() -> App {
    App::start(|conn| {
        while let Some((head, _)) = conn.request() {
            if head.target() == "*" {
                conn.send("HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n");
                return;
            }
            conn.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhalf \r\n");
            conn.wait_close();
        }
    })
}

#[test]
fn given_each_style_when_a_response_that_has_begun_is_late_then_it_is_reset_or_ends_with_the_text() {
    for (style, complete, text) in [("strict", false, "half "), ("original", true, "half activator request timeout")] {
        let (world, activator) = before_half_an_answer(style);
        let pod = world.pod_with(half(), |builder| builder);
        world.endpoints(&[pod.ip], &[]);
        let reply = activator.ask().reply();
        assert_eq!((reply.status(), reply.body.complete, reply.text().as_str()), (200, complete, text));
    }
}

/// As in the queue: an interim response that went to the caller is the response's start.
#[test]
fn given_early_hints_in_time_when_the_response_is_late_then_the_start_timer_is_over() {
    let world = World::new(false);
    world.create(world.revision().set("/spec/responseStartTimeoutSeconds", 1));
    let activator = world.start();
    let app = App::start(|conn| {
        while let Some((head, _)) = conn.request() {
            if head.target() == "*" {
                conn.send("HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n");
                return;
            }
            conn.send("HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n");
            std::thread::sleep(Duration::from_millis(1500));
            conn.send(ok("late"));
        }
    });
    let pod = world.pod_with(app, |builder| builder);
    world.endpoints(&[pod.ip], &[]);
    let mut client = activator.ask();
    assert_eq!(client.head().unwrap().status(), 103);
    assert_eq!(client.reply().text(), "late");
}

/// 5.3: each timer counts from the request's arrival, while it waits and while its pod is silent.
#[test]
fn given_each_timer_when_a_request_waits_or_its_pod_is_silent_then_504_names_the_timer() {
    for (field, cause) in [
        ("/spec/timeoutSeconds", "timeout_total"),
        ("/spec/responseStartTimeoutSeconds", "timeout_start"),
        ("/spec/idleTimeoutSeconds", "timeout_idle"),
    ] {
        let world = World::new(false);
        world.create(world.revision().set(field, 1));
        let activator = world.start();
        let in_time = |reply: &Reply, start: Instant, what: &str| {
            assert_eq!((reply.status(), reply.text().as_str()), (504, "activator request timeout"), "{field}, {what}");
            assert_eq!(reply.header("x-lockkeeper-cause"), Some(cause), "{field}, {what}");
            assert!(start.elapsed() >= Duration::from_secs(1), "{field}, {what}: {:?}", start.elapsed());
        };
        let start = Instant::now();
        in_time(&activator.get(), start, "waiting");

        let silent = App::start(|conn| {
            conn.head();
            conn.wait_close();
        });
        let pod = world.pod_with(silent, |builder| builder);
        world.endpoints(&[pod.ip], &[]);
        let start = Instant::now();
        in_time(&activator.get(), start, "at a silent pod");
        assert!(!pod.app.seen().is_empty(), "{field}");
    }
}
