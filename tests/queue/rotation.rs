//! T1, T2 and B1: certificates that come, change, break and go, as kubelet delivers them.
use std::time::{Duration, Instant};

use lockkeeper::certs::mint::{Ca, KeyKind, LeafSpec, Pair, Validity};
use lockkeeper::local::client::{Protocol, Trust, dial};
use rustls::version::TLS13;

use crate::support::app::App;
use crate::support::binary::{Binary, queue};
use crate::support::client::{Raw, get, local, run};
use crate::support::pki::{NAME, Pki};
use crate::support::scrape::{observed, prometheus, sum};
use crate::support::wait::eventually;

fn serial(port: u16, trust: &Trust) -> std::io::Result<String> {
    run(dial(local(port), Some(trust), Protocol::Http1)).map(|(_, peer)| peer.unwrap().serial)
}

/// T1.1: within a second of the swap. The handshakes that look for it take their time too, more of it on a busy machine:
/// what they took before is added to the bound, and the shortest of several swaps counts.
#[test]
fn given_a_swap_when_watched_by_handshakes_then_the_new_pair_serves_within_a_second() {
    let (app, mut pki) = (App::ok(), Pki::new());
    let mut queue = queue(app.port()).certs(pki.dir()).start();
    let port = queue.tls();
    let trust = pki.trust();
    let mut baseline = Duration::ZERO;
    for _ in 0..20 {
        let start = Instant::now();
        serial(port, &trust).unwrap();
        baseline = baseline.max(start.elapsed());
    }
    let mut took = Vec::new();
    for _ in 0..5 {
        let wanted = pki.rotate();
        let start = Instant::now();
        eventually("the new serial", || serial(port, &trust).is_ok_and(|serial| serial == wanted));
        took.push(start.elapsed());
        if took.iter().min().is_some_and(|took| *took <= Duration::from_secs(1) + 2 * baseline) {
            return;
        }
    }
    panic!("never within a second (a handshake takes {baseline:?}): {took:?}");
}

/// T1.7 and T1.4 in small: swap upon swap, while callers come with and without a connection: not one fails.
#[test]
fn given_ten_swaps_a_second_when_callers_come_then_none_fails() {
    let (app, mut pki) = (App::ok(), Pki::new());
    let mut queue = queue(app.port()).certs(pki.dir()).start();
    let port = queue.tls();
    let stop = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let callers: Vec<_> = (0..4)
        .map(|caller| {
            let (stop, config) = (stop.clone(), pki.client(&[&TLS13], &["http/1.1"]));
            std::thread::spawn(move || {
                let mut kept = Raw::tls(port, config.clone(), NAME);
                let mut served = 0;
                while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                    if caller % 2 == 0 {
                        kept = Raw::tls(port, config.clone(), NAME);
                    }
                    let reply = kept.get("/", "").try_reply().expect("an answer");
                    assert_eq!(reply.status(), 200);
                    served += 1;
                }
                served
            })
        })
        .collect();
    let mut last = String::new();
    for _ in 0..30 {
        last = pki.rotate();
        std::thread::sleep(Duration::from_millis(100));
    }
    let trust = pki.trust();
    eventually("the last one serves", || serial(port, &trust).is_ok_and(|serial| serial == last));
    stop.store(true, std::sync::atomic::Ordering::Relaxed);
    for caller in callers {
        assert!(caller.join().unwrap() > 10, "no load");
    }
}

/// What the log complains about pairs; authorities have lines of their own.
fn complaints(queue: &Binary) -> Vec<String> {
    let loud = |line: &str| line.contains(r#""severity":"WARNING""#) || line.contains(r#""severity":"ERROR""#);
    queue.log.lines(|line| loud(line) && !line.contains("tls/trust.rs"))
}

/// T1.6: what must never replace a good pair, each with its reason: the old pair serves on, one line says why however
/// often the files are looked at, and the metric counts.
#[test]
fn given_pairs_that_are_unfit_when_swapped_in_then_the_old_one_serves_and_each_is_told_once_and_counted() {
    let app = App::ok();
    let mut pki = Pki::new();
    let (mut queue, metrics) = observed(queue(app.port()).certs(pki.dir()));
    let port = queue.tls();
    let trust = pki.trust();
    let first = serial(port, &trust).unwrap();
    let ca = Ca::new("another", KeyKind::P256).unwrap();
    let leaf = |spec: LeafSpec| -> Pair { ca.leaf(&spec).unwrap() };
    let good = leaf(LeafSpec::new([NAME]));
    let other = leaf(LeafSpec::new([NAME]));
    let expired = leaf(LeafSpec { validity: Validity::expired(), ..LeafSpec::new([NAME]) });
    let not_yet = leaf(LeafSpec { validity: Validity::not_yet(), ..LeafSpec::new([NAME]) });
    let pair = |cert: &str, key: &str| vec![("tls.crt", cert.to_owned()), ("tls.key", key.to_owned())];
    let half = &good.cert_pem[..good.cert_pem.len() / 2];
    let cases = [
        ("junk", pair("junk", "junk")),
        ("half a certificate", pair(half, &good.key_pem)),
        ("empty files", pair("", "")),
        ("a key that is another's", pair(&good.cert_pem, &other.key_pem)),
        ("a key that is junk", pair(&good.cert_pem, "junk")),
        ("an expired one", pair(&expired.cert_pem, &expired.key_pem)),
        ("one that is not valid yet", pair(&not_yet.cert_pem, &not_yet.key_pem)),
        ("no key", vec![("tls.crt", good.cert_pem.clone()), ("ca.crt", ca.cert_pem().to_owned())]),
        ("no certificate", vec![("tls.key", good.key_pem.clone()), ("ca.crt", ca.cert_pem().to_owned())]),
    ];
    let failures =
        || sum(&prometheus(metrics), "lockkeeper_certificate_reload_failures_total", &[]).unwrap_or_default();
    for (what, files) in cases {
        let (lines, counted) = (complaints(&queue).len(), failures());
        let files: Vec<(&str, &[u8])> = files.iter().map(|(name, text)| (*name, text.as_bytes())).collect();
        pki.mount.publish(&files).unwrap();
        eventually(&format!("a complaint about {what}"), || complaints(&queue).len() > lines);
        eventually(&format!("{what} is counted"), || failures() > counted);
        assert_eq!(serial(port, &trust).unwrap(), first, "{what}");
        // The directory is looked at each second: it stays with one line.
        std::thread::sleep(Duration::from_millis(2200));
        let new = complaints(&queue).split_off(lines);
        assert_eq!(new.len(), 1, "{what}: {new:#?}");
        assert_eq!(serial(port, &trust).unwrap(), first, "{what}");
    }
    let wanted = pki.rotate();
    eventually("the next good pair", || serial(port, &trust).is_ok_and(|serial| serial == wanted));
}

/// T2, B1: none at the start, then there, gone, and there again: the TLS port follows, plaintext and probes never notice.
#[test]
fn given_certificates_that_come_and_go_when_asked_then_tls_follows_and_plaintext_goes_on() {
    let app = App::ok();
    let mut pki = Pki::empty();
    let mut queue = queue(app.port()).certs(pki.dir()).start();
    let http = queue.http();
    let trust = pki.trust();
    let probe = "User-Agent: kube-probe/1\r\nK-Network-Probe: queue\r\n";
    let unharmed = || {
        assert_eq!(get(http, "/", "").status(), 200);
        assert_eq!(get(http, "/", probe).text(), "queue");
    };
    unharmed();
    assert!(queue.log.lines(|line| line.contains("tls server main:")).is_empty());
    for opened in 1..=2 {
        let wanted = pki.rotate();
        eventually("the TLS port opens", || queue.log.lines(|line| line.contains("tls server main:")).len() == opened);
        let port = queue.tls();
        eventually("the pair serves", || serial(port, &trust).is_ok_and(|serial| serial == wanted));
        let mut open = Raw::tls(port, pki.client(&[&TLS13], &["http/1.1"]), NAME);
        assert_eq!(open.get("/", "").reply().status(), 200);
        unharmed();

        pki.mount.publish(&[]).unwrap();
        eventually("the TLS port closes", || std::net::TcpStream::connect(local(port)).is_err());
        assert_eq!(open.get("/", "").reply().status(), 200, "a connection from before lives on");
        unharmed();
    }
}

/// T2: a bad first pair is no end: the process lives, says so, and serves the first good one.
#[test]
fn given_a_bad_pair_at_the_start_when_a_good_one_comes_then_the_tls_port_opens() {
    let app = App::ok();
    let mut pki = Pki::empty();
    let (one, two) = (pki.leaf(), pki.leaf());
    pki.mount.publish(&[("tls.crt", one.chain.as_bytes()), ("tls.key", two.key.as_bytes())]).unwrap();
    let mut queue = queue(app.port()).certs(pki.dir()).start();
    assert_eq!(get(queue.http(), "/", "").status(), 200);
    eventually("a complaint", || !complaints(&queue).is_empty());
    assert!(queue.log.lines(|line| line.contains("tls server main:")).is_empty());
    let wanted = pki.rotate();
    assert_eq!(serial(queue.tls(), &pki.trust()).unwrap(), wanted);
}
