//! Contract, section 7: what the ConfigMaps and the environment say, and when it acts.
use super::callers::{ask, connect, serial};
use super::harness::{Directory, NAMESPACE, SYSTEM, app, authority, builder, get, secret, secret_in, simple, with_tls};
use crate::support::binary::Stream;
use crate::support::client::Raw;
use crate::support::objects::{Object, config_map};
use crate::support::wait::eventually;

fn config() -> Object {
    config_map(SYSTEM, "config-kourier")
}

/// Sections 6.6 and 7: the template is taken as it is, what is unknown in it is named, and there are no lines without it.
#[test]
fn given_an_access_log_template_when_it_changes_then_so_do_the_lines() {
    let (directory, backend, ca) = (Directory::new(), app("one"), authority());
    directory
        .backend("app", "http", &[backend.port()])
        .apply(secret("cert", &ca.leaf(&["a.example.com"], 1).unwrap()))
        .apply(with_tls("a", "a.example.com", "cert", "Enabled"))
        .apply(config());
    let mut gateway = directory.start(builder());
    gateway.ready("a", 1);
    let (http, https) = (gateway.http(), gateway.https());
    get(http, "a.example.com", "/by-default");
    gateway.binary.logs("\"GET /by-default HTTP/1.1\" 200 - 0 ");

    let template = "mine %REQ(:PATH)% %RESPONSE_CODE% %REQUESTED_SERVER_NAME% %DOWNSTREAM_TLS_VERSION% %WHAT%\n";
    gateway.directory.apply(config().entry("service-access-log-template", template));
    gateway.binary.logs("service-access-log-template: %WHAT% is not known");
    ask(&mut connect(https, &ca, "a.example.com"), "a.example.com");
    gateway.binary.logs("mine / 200 a.example.com TLSv1.3 -");

    // With a sign on responses that it acts.
    let off = config().entry("enable-service-access-logging", "false").entry("disable-envoy-server-header", "true");
    gateway.directory.apply(off);
    eventually("the log is off", || get(http, "a.example.com", "/polled").header("server").is_none());
    get(http, "a.example.com", "/silent");
    gateway.directory.apply(config().entry("service-access-log-template", "after %REQ(:PATH)%\n"));
    eventually("it is on again", || {
        get(http, "a.example.com", "/polled");
        gateway.binary.log.of(Stream::Stdout).iter().any(|line| line == "after /polled")
    });
    assert!(gateway.binary.log.lines(|line| line.contains("/silent")).is_empty(), "lines come in order");
}

/// Keys that can't act now, or never, are named in the log; addresses count from the next start.
#[test]
fn given_addresses_to_listen_on_when_they_change_then_the_log_says_that_they_act_at_the_next_start() {
    let (directory, backend) = (Directory::new(), app("one"));
    directory
        .backend("app", "http", &[backend.port()])
        .apply(simple("hello", "a", "app"))
        .apply(config().entry("listen-ip-addresses", "127.0.0.1, 127.0.0.2"));
    let mut gateway = directory.start(builder().unset("LOCKKEEPER_LISTEN_ADDRESS"));
    gateway.ready("hello", 1);
    let port = gateway.http();
    for address in [[127, 0, 0, 1], [127, 0, 0, 2]] {
        let reply = Raw::plain_at((address, port).into()).send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").reply();
        assert_eq!(reply.text(), "one", "{address:?}");
    }
    assert!(std::net::TcpStream::connect(("127.0.0.3", port)).is_err());

    let more = config().entry("enable-cryptomb", "true").entry("extauthz-pack-as-byte", "true");
    gateway.directory.apply(more.entry("listen-ip-addresses", "127.0.0.1"));
    for told in [
        "listen-ip-addresses acts at the next start",
        "enable-cryptomb does nothing here",
        "extauthz-pack-as-byte does nothing here",
    ] {
        gateway.binary.logs(told);
    }
}

/// The environment names a default certificate and an authoriser. Of the former the ConfigMap has the last word, of the
/// latter the environment; and where a proxy in front redirects, nobody is redirected here.
#[test]
fn given_kouriers_variables_when_the_config_map_says_otherwise_then_the_right_one_counts() {
    let (directory, backend, ca) = (Directory::new(), app("one"), authority());
    let authorizer = crate::support::app::App::each(|_, _| crate::support::app::response("401 Unauthorized", &[], ""));
    let leaf = |serial| ca.leaf(&["*.example.com"], serial).unwrap();
    directory
        .backend("app", "http", &[backend.port()])
        .apply(secret_in("certs", "from-env", &leaf(0x11)))
        .apply(secret("from-map", &leaf(0x22)))
        .apply(with_tls("a", "a.example.com", "from-map", "Redirected"))
        .apply(simple("plain", "plain.example.com", "app"))
        .apply(config());
    let mut gateway = directory.start(
        builder()
            .env("CERTS_SECRET_NAMESPACE", "certs")
            .env("CERTS_SECRET_NAME", "from-env")
            .env("KOURIER_HTTPOPTION_DISABLED", "true")
            .env("KOURIER_EXTAUTHZ_HOST", format!("127.0.0.1:{}", authorizer.port()))
            .env("KOURIER_EXTAUTHZ_PROTOCOL", "http"),
    );
    gateway.ready("a", 1);
    let (http, https) = (gateway.http(), gateway.https());
    assert_eq!(serial(https, &ca, "plain.example.com").unwrap(), "11");
    assert_eq!(get(http, "a.example.com", "/").status(), 401, "asked, and not redirected");

    gateway.directory.apply(
        config()
            .entry("certs-secret-namespace", NAMESPACE)
            .entry("certs-secret-name", "from-map")
            .entry("extauthz-host", "127.0.0.1:1")
            .entry("extauthz-protocol", "http")
            .entry("extauthz-failure-mode-allow", "true"),
    );
    eventually("the map's certificate is shown", || serial(https, &ca, "plain.example.com").unwrap() == "22");
    assert_eq!(get(http, "a.example.com", "/").status(), 401, "still the environment's authoriser");
}

/// A mistake in `config-network` leaves what was in force, like one in `config-kourier`.
#[test]
fn given_a_mistake_in_config_network_when_read_then_encryption_stays_as_it_was() {
    let directory = Directory::new();
    let network = |key: &str, value: &str| config_map(SYSTEM, "config-network").entry(key, value);
    directory.apply(network("internal-encryption", "true"));
    let mut gateway = directory.start(builder());
    let admin = gateway.admin();
    let encrypts =
        |on: u8| get(admin, "x", "/metrics").text().contains(&format!("lockkeeper_gateway_encryption {on}\n"));
    assert!(encrypts(1), "the key's old name");

    gateway.directory.apply(network("system-internal-tls", "perhaps"));
    gateway.binary.logs("ConfigMap knative-serving/config-network can't be used: system-internal-tls=");
    assert!(encrypts(1));
    gateway.directory.apply(network("system-internal-tls", "disabled"));
    eventually("it is repaired", || encrypts(0));
}
