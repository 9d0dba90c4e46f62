//! Section 4: the admin port.
use std::time::Duration;

use crate::support::app::App;
use crate::support::binary::{queue, timed};
use crate::support::client::{Raw, get};
use crate::support::pki::{NAME, Pki};
use crate::support::wait::eventually;

const PROBE: &str = "User-Agent: kube-probe/1\r\nK-Network-Probe: queue\r\n";

/// 4: without a signal within a second the drain is undone.
#[test]
fn given_no_signal_when_the_hook_calls_then_probes_fail_for_a_second_and_come_back() {
    let app = App::ok();
    let mut queue = queue(app.port()).env("LOCKKEEPER_DRAIN_QUIET_PERIOD", "30s").start();
    let (admin, http) = (queue.admin(), queue.http());

    let hook = std::thread::spawn(move || timed(|| get(admin, "/wait-for-drain", "")));
    eventually("probes fail", || get(http, "/", PROBE).status() == 503);
    assert_eq!(get(http, "/", "").status(), 200, "requests are served meanwhile");
    let (reply, took) = hook.join().unwrap();

    assert_eq!((reply.status(), reply.text().len()), (200, 0));
    assert!(took >= Duration::from_millis(900), "{took:?}");
    eventually("probes are good again", || get(http, "/", PROBE).status() == 200);
}

/// 4: other paths.
#[test]
fn when_another_path_is_asked_then_404() {
    let app = App::ok();
    let mut queue = queue(app.port()).start();
    for path in ["/", "/wait-for-drain/", "/metrics"] {
        assert_eq!(get(queue.admin(), path, "").status(), 404, "{path}");
    }
}

/// Issue 3: TLS and plaintext on one port, since the hook has to keep working over plain HTTP.
#[test]
fn given_certificates_when_the_admin_port_is_asked_in_tls_and_plain_then_both_answer() {
    let (app, pki) = (App::ok(), Pki::new());
    let mut queue = queue(app.port()).certs(pki.dir()).start();
    queue.tls();
    let admin = queue.admin();

    assert_eq!(get(admin, "/nothing", "").status(), 404);
    let mut client = Raw::tls(admin, pki.client(rustls::ALL_VERSIONS, &[]), NAME);
    assert_eq!(client.get("/nothing", "").reply().status(), 404);
}
