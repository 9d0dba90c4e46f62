//! Which replica writes status: the one that holds a Lease in the system namespace. All replicas route, whoever leads.
//!
//! Control side: [`start`] begins an [`election`] task about a [`lease`], with the times of [`settings`].
mod election;
mod lease;
pub mod settings;

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use self::election::Election;
use self::settings::Settings;
use super::config::Config;
use super::config_maps;
use super::events::Events;
use super::live::Live;
use crate::kube::{Key, Source};

/// How often it is looked whether everything has been read.
const LOOK: Duration = Duration::from_millis(50);

/// Whether this replica writes status, from now on and until `leaving` is true. A directory has one reader, which leads.
pub async fn start(
    config: &Config,
    source: &Source,
    live: &Arc<Live>,
    leaving: watch::Receiver<bool>,
    events: &Events,
) -> watch::Receiver<bool> {
    let Source::Server(client) = source else { return watch::channel(true).1 };
    let settings = config_maps::follow(source, &config.system_namespace, settings::NAME, Settings::parse, events).await;
    let (tell, told) = watch::channel(false);
    let lease = Key::new(&config.system_namespace, &lease_name(&config.class));
    let election = Election::new(client.clone(), lease, identity_of(&config.pod), tell);
    let live = live.clone();
    tokio::task::spawn_local(async move {
        let mut told_to_leave = leaving.clone();
        // Whoever has not read everything yet has nothing to write.
        let ready = async {
            while !live.is_ready() {
                tokio::time::sleep(LOOK).await;
            }
        };
        tokio::select! {
            () = ready => election.run(settings, leaving).await,
            _ = told_to_leave.wait_for(|leaving| *leaving) => {}
        }
    });
    told
}

/// This replica's name in the Lease: the pod's, so that a restarted container goes on with it.
fn identity_of(pod: &str) -> String {
    if !pod.is_empty() {
        return pod.to_owned();
    }
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    format!("{}_{}", host.trim(), std::process::id())
}

/// The name of the Lease of the gateways that serve a class: each class has its own leader.
fn lease_name(class: &str) -> String {
    let fit = |c: char| if c.is_ascii_lowercase() || c.is_ascii_digit() || c == '.' || c == '-' { c } else { '-' };
    let class: String = class.to_ascii_lowercase().chars().map(fit).collect();
    format!("lockkeeper-gateway.{}", class.trim_matches(['.', '-']))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn given_a_class_when_the_lease_is_named_then_kubernetes_takes_the_name() {
        assert_eq!(
            lease_name("kourier.ingress.networking.knative.dev"),
            "lockkeeper-gateway.kourier.ingress.networking.knative.dev"
        );
        assert_eq!(lease_name("My_Class/"), "lockkeeper-gateway.my-class");
    }
}
