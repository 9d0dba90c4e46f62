//! Whether an upstream is spoken to over TLS (`system-internal-tls`), also while the cluster is being switched.
//!
//! Control side; pure. `config-network` and the ports that splits name change one after the other: Serving's controllers
//! read the former and then rewrite one Ingress after another, from port 80 to port 443 or back. A revision's public
//! Service offers both (`serving/pkg/reconciler/serverlessservice/resources/services.go`): there the port that the split
//! names is the last word. Anything else has one port, which says nothing, and follows the switch at once.
use std::time::{Duration, Instant};

use super::objects::{Service, ServicePort};

/// For how long after encryption was switched on, or the process has started, a split that still names the plain port of
/// a Service with both is spoken to in plaintext. Afterwards what has not been rewritten is refused rather than trusted.
pub const SWITCHING: Duration = Duration::from_secs(600);

/// Name and number of a public Service's port for TLS.
const HTTPS: (&str, u16) = ("https", 443);
/// Names and numbers of its other port (`networking/pkg/apis/networking/ports.go`).
const PLAIN: [(&str, u16); 3] = [("http", 80), ("http2", 80), ("http2", 81)];

/// `system-internal-tls`.
#[derive(Clone, Copy, Debug, Default)]
pub struct Switch {
    on: Option<Instant>,
}

impl Switch {
    /// It is on, or off, from now on.
    pub fn set(&mut self, on: bool, at: Instant) {
        self.on = match (on, self.on) {
            (false, _) => None,
            (true, before) => before.or(Some(at)),
        };
    }

    /// Whether `port` of `service` speaks TLS.
    #[must_use]
    pub fn encrypts(&self, service: &Service, port: Option<&ServicePort>, at: Instant) -> bool {
        let is = |port: &ServicePort, wanted: (&str, u16)| (port.name.as_str(), port.port) == wanted;
        let both = service.ports.iter().any(|port| is(port, HTTPS))
            && service.ports.iter().any(|port| PLAIN.iter().any(|plain| is(port, *plain)));
        let Some(port) = port.filter(|_| both) else { return self.on.is_some() };
        match self.on {
            None => is(port, HTTPS),
            Some(since) => is(port, HTTPS) || at.saturating_duration_since(since) >= SWITCHING,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn service(ports: &[(&str, u16)]) -> Service {
        let port = |(name, port): &(&str, u16)| ServicePort {
            name: (*name).to_owned(),
            port: *port,
            target_port: None,
            app_protocol: None,
        };
        Service { external_name: None, ports: ports.iter().map(port).collect() }
    }

    #[test]
    fn given_a_service_with_both_ports_when_switched_then_the_split_is_the_last_word_for_a_while() {
        let (at, later) = (Instant::now(), Instant::now() + SWITCHING);
        let both = service(&[("http2", 81), ("https", 443)]);
        let (plain, tls) = (both.ports.first(), both.ports.last());
        let mut switch = Switch::default();
        assert!(switch.encrypts(&both, tls, at) && !switch.encrypts(&both, plain, at));

        switch.set(true, at);
        assert!(switch.encrypts(&both, tls, at) && !switch.encrypts(&both, plain, at));
        switch.set(true, later);
        assert!(switch.encrypts(&both, plain, later), "said again is not switched again");

        switch.set(false, later);
        assert!(switch.encrypts(&both, tls, later) && !switch.encrypts(&both, plain, later));
    }

    #[test]
    fn given_a_service_with_one_port_when_switched_then_it_follows_whatever_the_port() {
        let at = Instant::now();
        let mut switch = Switch::default();
        for ports in [[("http", 80)], [("https", 443)], [("", 8080)]] {
            let one = service(&ports);
            switch.set(false, at);
            assert!(!switch.encrypts(&one, one.ports.first(), at) && !switch.encrypts(&one, None, at));
            switch.set(true, at);
            assert!(switch.encrypts(&one, one.ports.first(), at) && switch.encrypts(&one, None, at));
        }
    }
}
