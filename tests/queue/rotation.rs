//! T1, T2 and B1: certificates that come, change, break and go, as kubelet delivers them.
use std::time::Duration;

use lockkeeper::certs::mint::{Ca, KeyKind, LeafSpec, Pair, Validity};
use lockkeeper::local::client::{Protocol, Trust, dial};
use lockkeeper::local::pki::{Authority, Mount};
use rustls::version::TLS13;

use crate::support::app::App;
use crate::support::binary::{Binary, queue};
use crate::support::client::{Raw, get, local, run};
use crate::support::pki::{NAME, Pki};
use crate::support::scrape::{observed, prometheus, sum};
use crate::support::stalls::{Stalls, median};
use crate::support::wait::eventually;

fn serial(port: u16, trust: &Trust) -> std::io::Result<String> {
    run(dial(local(port), Some(trust), Protocol::Http1)).map(|(_, peer)| peer.unwrap().serial)
}

/// The bound for all that a change on disk brings about. The middle one of several has to keep it, less what the machine
/// stood still meanwhile: it is busy with other tests.
const SECOND: Duration = Duration::from_secs(1);

/// T1.1: with the file system's hints, as kubelet swaps.
#[test]
fn given_swaps_when_watched_by_handshakes_then_the_new_pair_serves_within_a_second_and_connections_live_on() {
    let (app, mut pki) = (App::ok(), Pki::new());
    let mut queue = queue(app.port()).certs(pki.dir()).start();
    let port = queue.tls();
    let mut open = Raw::tls(port, pki.client(&[&TLS13], &["http/1.1"]), NAME);
    assert_eq!(open.get("/", "").reply().status(), 200);
    let (trust, stalls) = (pki.trust(), Stalls::watch());
    let mut swap = || {
        let wanted = pki.rotate();
        stalls.timed(|| eventually("the new serial", || serial(port, &trust).is_ok_and(|serial| serial == wanted)))
    };
    let took: Vec<Duration> = (0..9).map(|_| swap()).collect();
    assert!(median(took.clone()) <= SECOND, "{took:?}");
    assert_eq!(open.get("/", "").reply().status(), 200, "the connection from before");
}

/// T1.1: without them, since they get lost. Here the directory is a link that turns to another one, of which the file
/// system tells nobody who watches the first.
#[test]
fn given_swaps_that_the_file_system_does_not_tell_of_when_watched_by_handshakes_then_within_a_second() {
    let (app, mut pki) = (App::ok(), Pki::new());
    let parent = tempfile::tempdir().unwrap();
    let dir = parent.path().join("certs");
    std::os::unix::fs::symlink(pki.dir(), &dir).unwrap();
    let mut queue = queue(app.port()).certs(&dir).start();
    let port = queue.tls();
    let (trust, stalls) = (pki.trust(), Stalls::watch());
    let mut turn = |n: usize| {
        let (leaf, next) = (pki.leaf(), parent.path().join(n.to_string()));
        Mount::create(&next).unwrap().publish_leaf(&leaf, &pki.authority).unwrap();
        let link = parent.path().join("next");
        std::os::unix::fs::symlink(&next, &link).unwrap();
        std::fs::rename(&link, &dir).unwrap();
        let serves = || serial(port, &trust).is_ok_and(|serial| serial == leaf.serial);
        stalls.timed(|| eventually("the new serial", serves))
    };
    let took: Vec<Duration> = (0..9).map(&mut turn).collect();
    assert!(median(took.clone()) <= SECOND, "{took:?}");
}

/// T2: certificates that come after the start, into an empty volume or with a directory that was not there.
#[test]
fn given_certificates_that_come_late_when_watched_then_the_tls_port_is_open_within_a_second() {
    let app = App::ok();
    let authority = Authority::mint("late").unwrap();
    let (trust, stalls) = (Trust::new(authority.der(), NAME), Stalls::watch());
    let leaf = authority.leaf(&[NAME], 7).unwrap();
    for mounted in [true, false] {
        let appear = |_| {
            let parent = tempfile::tempdir().unwrap();
            let dir = parent.path().join("certs");
            if mounted {
                Mount::create(&dir).unwrap();
            }
            let mut queue = queue(app.port()).certs(&dir).start();
            assert_eq!(get(queue.http(), "/", "").status(), 200, "live, and plaintext is up");
            assert!(queue.log.lines(|line| line.contains("tls server main:")).is_empty());
            Mount::create(&dir).unwrap().publish_leaf(&leaf, &authority).unwrap();
            stalls.timed(|| assert_eq!(serial(queue.tls(), &trust).unwrap(), "7"))
        };
        let took: Vec<Duration> = (0..5).map(appear).collect();
        assert!(median(took.clone()) <= SECOND, "{took:?}, mounted before: {mounted}");
    }
}

/// T1.7 and T1.4 in small: swap upon swap, while callers come with and without a connection: not one fails, and a
/// certificate is never read with the key of another generation.
#[test]
fn given_ten_swaps_a_second_when_callers_come_then_none_fails_and_generations_do_not_mix() {
    let (app, mut pki) = (App::ok(), Pki::new());
    let (mut queue, metrics) = observed(queue(app.port()).certs(pki.dir()));
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
    assert_eq!(sum(&prometheus(metrics), FAILURES, &[]), Some(0.0));
    assert!(complaints(&queue).is_empty(), "{:?}", complaints(&queue));
}

/// Pairs that were not taken, by reason.
const FAILURES: &str = "lockkeeper_certificate_reload_failures_total";

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
        ("junk", "bad_certificate", pair("junk", "junk")),
        ("half a certificate", "bad_certificate", pair(half, &good.key_pem)),
        ("empty files", "bad_certificate", pair("", "")),
        ("a key that is another's", "key_mismatch", pair(&good.cert_pem, &other.key_pem)),
        ("a key that is junk", "bad_key", pair(&good.cert_pem, "junk")),
        ("an expired one", "expired", pair(&expired.cert_pem, &expired.key_pem)),
        ("one that is not valid yet", "not_yet_valid", pair(&not_yet.cert_pem, &not_yet.key_pem)),
        ("no key", "unreadable", vec![("tls.crt", good.cert_pem.clone()), ("ca.crt", ca.cert_pem().to_owned())]),
        ("no certificate", "unreadable", vec![("tls.key", good.key_pem.clone()), ("ca.crt", ca.cert_pem().to_owned())]),
    ];
    let failures = |labels: &[(&str, &str)]| sum(&prometheus(metrics), FAILURES, labels).unwrap();
    for (what, reason, files) in cases {
        let (lines, all, of_this) = (complaints(&queue).len(), failures(&[]), failures(&[("reason", reason)]));
        let files: Vec<(&str, &[u8])> = files.iter().map(|(name, text)| (*name, text.as_bytes())).collect();
        pki.mount.publish(&files).unwrap();
        eventually(&format!("a complaint about {what}"), || complaints(&queue).len() > lines);
        assert_eq!(serial(port, &trust).unwrap(), first, "{what}");
        // The directory is looked at meanwhile, again and again: it stays with one line.
        std::thread::sleep(3 * lockkeeper::tls::source_dir::POLL);
        let new = complaints(&queue).split_off(lines);
        assert_eq!(new.len(), 1, "{what}: {new:#?}");
        let word = format!(r#""reason":"{reason}""#);
        assert!(new[0].contains(&word) && new[0].contains("previous certificate stays in use"), "{what}: {}", new[0]);
        assert_eq!((failures(&[]) - all, failures(&[("reason", reason)]) - of_this), (1.0, 1.0), "{what}");
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
