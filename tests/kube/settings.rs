//! Settings that follow a ConfigMap.
use lockkeeper::knative::config_map::{Settings, Unusable};
use lockkeeper::knative::network::{self, Network};

use super::{on_the_control_side, source, until, within};
use crate::support::apiserver::ApiServer;
use crate::support::objects::config_map;

const SYSTEM: &str = "knative-serving";

/// Contract of the activator, section 10: a bad live update keeps the old value.
#[test]
fn given_settings_when_an_update_is_bad_or_the_map_is_deleted_then_the_last_good_ones_stay() {
    let server = ApiServer::start();
    server.apply(config_map(SYSTEM, network::NAME).entry("system-internal-tls", "Enabled"));
    on_the_control_side(async {
        let source = source(&server);
        let start = Settings::start(&source, SYSTEM, network::NAME, Network::parse);
        let settings = within("the settings are read", start).await.unwrap();
        assert!(settings.current().system_internal_tls);
        let mut changes = settings.changes();

        server.apply(config_map(SYSTEM, network::NAME).entry("system-internal-tls", "sometimes"));
        server.apply(config_map(SYSTEM, network::NAME).entry("ingress-class", "x"));
        within("the good update came", changes.changed()).await.unwrap();
        until("the last update is in force", || settings.current().ingress_class == "x").await;
        assert!(!settings.current().system_internal_tls);

        server.delete("configmaps", SYSTEM, network::NAME);
        server.apply(config_map(SYSTEM, network::NAME).entry("ingress-class", "y"));
        until("the map came back", || settings.current().ingress_class == "y").await;
    });
}

#[test]
fn given_no_map_or_a_bad_one_when_started_then_the_reason_is_told() {
    let server = ApiServer::start();
    on_the_control_side(async {
        let source = source(&server);
        let start = || Settings::start(&source, SYSTEM, network::NAME, Network::parse);
        let absent = within("an answer", start()).await.unwrap_err();
        assert!(matches!(absent, Unusable::Absent(_)), "{absent}");
        assert_eq!(absent.to_string(), "configmap \"config-network\" not found in namespace knative-serving");

        server.apply(config_map(SYSTEM, network::NAME).entry("rollout-duration", "soon"));
        let bad = within("an answer", start()).await.unwrap_err().to_string();
        assert!(bad.contains("rollout-duration=\"soon\": expected a whole number"), "{bad}");
    });
}
