//! What the status of an Ingress says, as net-kourier writes it.
//!
//! Control side; pure. Serving takes an object for ready when `observedGeneration` is its generation and `Ready` is
//! true. Source: `networking/pkg/apis/networking/v1alpha1/ingress_lifecycle.go`, net-kourier's
//! `pkg/reconciler/ingress/ingress.go`.

pub mod probe;
pub mod report;
pub mod target;

use serde::{Deserialize, Serialize};

/// The status of an object.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Status {
    /// The generation of the specification that the rest speaks of.
    #[serde(default)]
    pub observed_generation: i64,
    /// By type, in alphabetical order.
    #[serde(default)]
    pub conditions: Vec<Condition>,
    /// Where the object can be reached from outside.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub public_load_balancer: Option<LoadBalancer>,
    /// Where it can be reached from inside the cluster.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub private_load_balancer: Option<LoadBalancer>,
}

/// One condition.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Condition {
    /// `Ready`, `NetworkConfigured` or `LoadBalancerReady`.
    #[serde(rename = "type", default)]
    pub kind: String,
    /// `True`, `False` or `Unknown`.
    #[serde(default)]
    pub status: String,
    /// When it last became what it is (RFC 3339).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_transition_time: Option<String>,
    /// A word.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub reason: String,
    /// A sentence.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub message: String,
}

/// The addresses of one side of the gateway.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
pub struct LoadBalancer {
    /// Exactly one: the Route controller takes more for an error.
    #[serde(default)]
    pub ingress: Vec<Address>,
}

/// An address of the gateway.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Address {
    /// A name inside of the cluster.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub domain_internal: String,
}

impl LoadBalancer {
    /// The load balancer behind a Service of the gateway.
    #[must_use]
    pub fn service(name: &str, namespace: &str, cluster_domain: &str) -> Self {
        Self { ingress: vec![Address { domain_internal: format!("{name}.{namespace}.svc.{cluster_domain}") }] }
    }
}

/// How far an object has come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It can't be served, or not in full.
    Failed {
        /// The reason of the condition: [`RECONCILE_FAILED`], or a word of ours.
        reason: &'static str,
        /// What is wrong.
        message: String,
        /// Whether it is a certificate, while all else is served.
        certificate: bool,
    },
    /// Another object has a host of it.
    Conflict,
    /// It is served here; the replicas are being asked.
    Waiting,
    /// Each replica serves it.
    Ready,
}

/// Kourier's reason for an object that can't be served, or not in full.
pub const RECONCILE_FAILED: &str = "ReconcileIngressFailed";
/// The reason for an object that names a Secret of another namespace.
pub const SECRET_NOT_PERMITTED: &str = "SecretNotPermitted";

const READY: &str = "Ready";
const NETWORK: &str = "NetworkConfigured";
const BALANCER: &str = "LoadBalancerReady";

impl Status {
    /// The status that follows: conditions that stay what they are keep their time.
    #[must_use]
    pub fn next(
        &self,
        outcome: &Outcome,
        generation: i64,
        balancers: &(LoadBalancer, LoadBalancer),
        now: &str,
    ) -> Self {
        let before = |kind: &str| {
            let found = self.conditions.iter().find(|c| c.kind == kind);
            found.map_or((Unknown, String::new(), String::new()), |c| {
                (State::read(&c.status), c.reason.clone(), c.message.clone())
            })
        };
        let say = |state, reason: &str, message: &str| (state, reason.to_owned(), message.to_owned());
        let (network, balancer) = match outcome {
            Outcome::Failed { .. } => (before(NETWORK), before(BALANCER)),
            Outcome::Conflict => (
                before(NETWORK),
                say(False, "DomainConflict", "Ingress rejected: ingress has a conflicting domain with another ingress"),
            ),
            Outcome::Waiting => {
                (say(True, "", ""), say(Unknown, "Uninitialized", "Waiting for load balancer to be ready"))
            }
            Outcome::Ready => (say(True, "", ""), say(True, "", "")),
        };
        let ready = match outcome {
            Outcome::Failed { reason, message, .. } => say(Unknown, reason, message),
            // The dependent that is worst lends its reason.
            _ => [&network, &balancer].into_iter().min_by_key(|c| c.0).cloned().unwrap_or(say(Unknown, "", "")),
        };
        let mut next = Self {
            observed_generation: generation,
            conditions: Vec::with_capacity(3),
            public_load_balancer: Some(balancers.0.clone()),
            private_load_balancer: Some(balancers.1.clone()),
        };
        for (kind, (state, reason, message)) in [(BALANCER, balancer), (NETWORK, network), (READY, ready)] {
            let mut condition = Condition {
                kind: kind.to_owned(),
                status: state.text().to_owned(),
                last_transition_time: None,
                reason,
                message,
            };
            let same = self.conditions.iter().find(|c| {
                condition.last_transition_time.clone_from(&c.last_transition_time);
                condition == **c
            });
            let since = same.and_then(|c| c.last_transition_time.clone());
            condition.last_transition_time = since.or_else(|| Some(now.to_owned()));
            next.conditions.push(condition);
        }
        next
    }

    /// Whether it says that this generation is ready.
    #[must_use]
    pub fn is_ready(&self, generation: i64) -> bool {
        self.observed_generation == generation && self.conditions.iter().any(|c| c.kind == READY && c.status == "True")
    }
}

/// Worst first.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum State {
    False,
    Unknown,
    True,
}
use State::{False, True, Unknown};

impl State {
    fn read(text: &str) -> Self {
        match text {
            "True" => True,
            "False" => False,
            _ => Unknown,
        }
    }

    fn text(self) -> &'static str {
        match self {
            False => "False",
            Unknown => "Unknown",
            True => "True",
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn balancers() -> (LoadBalancer, LoadBalancer) {
        let of = |name| LoadBalancer::service(name, "kourier-system", "cluster.local");
        (of("kourier"), of("kourier-internal"))
    }

    fn told(status: &Status) -> Vec<(&str, &str, &str)> {
        status.conditions.iter().map(|c| (c.kind.as_str(), c.status.as_str(), c.reason.as_str())).collect()
    }

    #[test]
    fn given_a_new_object_when_it_goes_its_way_then_the_conditions_are_kouriers() {
        let waiting = Status::default().next(&Outcome::Waiting, 1, &balancers(), "t1");
        let unknown = ("LoadBalancerReady", "Unknown", "Uninitialized");
        assert_eq!(told(&waiting), [unknown, ("NetworkConfigured", "True", ""), ("Ready", "Unknown", "Uninitialized")]);
        assert!(!waiting.is_ready(1));

        let ready = waiting.next(&Outcome::Ready, 1, &balancers(), "t2");
        assert!(ready.is_ready(1) && !ready.is_ready(2));
        let times: Vec<_> = ready.conditions.iter().map(|c| c.last_transition_time.as_deref().unwrap()).collect();
        assert_eq!(times, ["t2", "t1", "t2"], "a condition that stays keeps its time");
        assert_eq!(ready, ready.next(&Outcome::Ready, 1, &balancers(), "t3"));

        let failed = ready.next(
            &Outcome::Failed { reason: RECONCILE_FAILED, message: "no Secret".to_owned(), certificate: true },
            2,
            &balancers(),
            "t4",
        );
        assert_eq!(
            told(&failed),
            [
                ("LoadBalancerReady", "True", ""),
                ("NetworkConfigured", "True", ""),
                ("Ready", "Unknown", "ReconcileIngressFailed")
            ]
        );
        assert_eq!(failed.observed_generation, 2);

        let conflict = ready.next(&Outcome::Conflict, 2, &balancers(), "t5");
        assert_eq!(
            told(&conflict),
            [
                ("LoadBalancerReady", "False", "DomainConflict"),
                ("NetworkConfigured", "True", ""),
                ("Ready", "False", "DomainConflict")
            ]
        );
    }

    #[test]
    fn given_a_status_when_written_then_it_has_kubernetes_names() {
        let text = serde_json::to_string(&Status::default().next(&Outcome::Ready, 3, &balancers(), "t")).unwrap();

        for part in [
            r#""observedGeneration":3"#,
            r#"{"type":"Ready","status":"True","lastTransitionTime":"t"}"#,
            r#""publicLoadBalancer":{"ingress":[{"domainInternal":"kourier.kourier-system.svc.cluster.local"}]}"#,
        ] {
            assert!(text.contains(part), "{text} lacks {part}");
        }
    }
}
