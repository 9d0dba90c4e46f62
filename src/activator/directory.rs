//! Kubernetes' objects become revisions and what their throttles know.
//!
//! Control side. Follows Revisions, the Endpoints that belong to them and their private Services. Objects may come in any
//! order: each change is applied to the revision if it is there, and a revision that appears takes what is known of it.
//! Each revision is told on its own, and nothing here waits: no revision delays another.
//! Source: `knative.dev/serving/pkg/activator/net/{throttler,revision_backends}.go`.
use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tokio::sync::mpsc::UnboundedSender;

use super::revisions::{Revision, Revisions, expected_san};
use super::statistics::Load;
use super::throttle::{self, Activators, Budget, Command, Policy, Rules};
use crate::knative::endpoints::{Endpoints, LABEL_SERVICE_TYPE, Role};
use crate::knative::revision::{LABEL_REVISION, Revision as Spec, RevisionKey};
use crate::knative::service::{self, Service};
use crate::kube::objects::Changes;
use crate::kube::{Change, Key, Objects, Selection, Source};

/// How often each throttle computes everything again.
const RESYNC: Duration = Duration::from_secs(30);
/// Revisions between which the control side looks after others, while all are computed again.
const AT_ONCE: usize = 200;

/// The objects that make revisions.
pub struct Directory {
    revisions: Changes<Spec>,
    endpoints: Changes<Endpoints>,
    services: Changes<Service>,
}

/// What revisions are made with.
pub struct Wiring {
    /// Where workers find them.
    pub into: Arc<Revisions>,
    /// The settings of all throttles.
    pub policy: Arc<Policy>,
    /// What all waiting requests may hold.
    pub budget: Arc<Budget>,
    /// Is told which pods to probe.
    pub prober: UnboundedSender<Command>,
    /// Worker threads.
    pub workers: usize,
    /// Our own address as Endpoints spell it.
    pub pod_ip: String,
    /// Whether the name of older releases will do.
    pub accept_legacy_san: bool,
    /// Counts what a full computation found to differ; always a defect.
    pub differences: Arc<AtomicU64>,
}

/// What is known of a revision by its Endpoints, whether it exists or not.
#[derive(Default)]
struct Known {
    private: Option<Key>,
    public: Option<Key>,
}

/// The control side of all revisions.
struct Control {
    wiring: Wiring,
    known: HashMap<RevisionKey, Known>,
    endpoints: Objects<Endpoints>,
    services: Objects<Service>,
    /// The list of activators that was last made: most revisions have the same one.
    activators: Option<(Vec<String>, Arc<Activators>)>,
}

impl Directory {
    /// Begins to follow. Asks for nothing that no revision bears.
    #[must_use]
    pub fn follow(source: &Source) -> Self {
        let of_revisions = Selection::everywhere().labelled(LABEL_SERVICE_TYPE).labelled(LABEL_REVISION);
        let private = Selection::everywhere().with_label(LABEL_SERVICE_TYPE, "Private");
        Self {
            revisions: source.objects(Selection::everywhere()).changes(),
            endpoints: source.objects(of_revisions).changes(),
            services: source.objects(private).changes(),
        }
    }

    /// Waits until the source has given all of them once; says each minute what is missing.
    pub async fn synced(&self) {
        let all = async {
            self.revisions.objects().synced().await;
            self.endpoints.objects().synced().await;
            self.services.objects().synced().await;
        };
        let mut all = std::pin::pin!(all);
        while tokio::time::timeout(Duration::from_secs(60), &mut all).await.is_err() {
            let missing = [
                ("revisions", self.revisions.objects().is_synced()),
                ("endpoints", self.endpoints.objects().is_synced()),
                ("services", self.services.objects().is_synced()),
            ];
            let missing: Vec<_> = missing.iter().filter(|(_, synced)| !synced).map(|(what, _)| *what).collect();
            tracing::warn!("Still waiting for the API server's {}", missing.join(", "));
        }
    }

    /// Makes the revisions that are there now, and then follows all changes for ever.
    pub fn start(self, wiring: Wiring) -> impl Future<Output = ()> {
        let Self { mut revisions, mut endpoints, mut services } = self;
        let mut control = Control {
            wiring,
            known: HashMap::new(),
            endpoints: endpoints.objects().clone(),
            services: services.objects().clone(),
            activators: None,
        };
        while let Some(change) = endpoints.try_next() {
            control.endpoints(change);
        }
        // Services are looked up when their revision appears.
        while services.try_next().is_some() {}
        while let Some(change) = revisions.try_next() {
            control.revision(change);
        }
        async move {
            let mut resync = tokio::time::interval_at(tokio::time::Instant::now() + RESYNC, RESYNC);
            resync.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
            loop {
                tokio::select! {
                    change = revisions.next() => control.revision(change),
                    change = endpoints.next() => control.endpoints(change),
                    change = services.next() => control.service(change),
                    _ = resync.tick() => {
                        let into = control.wiring.into.clone();
                        tokio::task::spawn_local(compute_again(into.all(), control.wiring.differences.clone()));
                    }
                }
            }
        }
    }
}

async fn compute_again(revisions: Vec<Arc<Revision>>, differences: Arc<AtomicU64>) {
    for some in revisions.chunks(AT_ONCE) {
        for revision in some {
            for difference in revision.throttle.resync() {
                differences.fetch_add(1, Ordering::Relaxed);
                let key = revision.key.as_str();
                tracing::error!(
                    "knative.dev/key" = key,
                    "State that differed from what its inputs give: {difference:?}"
                );
            }
        }
        tokio::task::yield_now().await;
    }
}

impl Control {
    fn revision(&mut self, change: Change<Spec>) {
        let into = self.wiring.into.clone();
        match change {
            Change::Deleted(key, _) => {
                if let Some(revision) = into.find(key.namespace(), key.name()) {
                    into.remove(&key);
                    revision.throttle.close();
                }
            }
            Change::Applied(key, spec) => {
                let revision = match into.find(key.namespace(), key.name()) {
                    // What a throttle depends on does not change in a Revision's life.
                    Some(before) => Revision::new(
                        key,
                        spec,
                        before.throttle.clone(),
                        before.load.clone(),
                        before.metrics.clone(),
                        before.expected.clone(),
                    ),
                    None => self.new_revision(key, spec),
                };
                into.insert(revision.clone());
                self.tell_all(&revision);
            }
        }
    }

    fn new_revision(&self, key: RevisionKey, spec: Arc<Spec>) -> Arc<Revision> {
        let wiring = &self.wiring;
        let rules = Rules {
            policy: wiring.policy.clone(),
            concurrency: spec.container_concurrency,
            probe_optimisation: spec.ready_by_probe,
        };
        let throttle = throttle::Revision::new(key.as_str(), rules, wiring.budget.clone(), wiring.prober.clone());
        let load = Load::new(key.clone(), wiring.workers, Instant::now());
        let expected = expected_san(key.namespace(), wiring.accept_legacy_san);
        Revision::new(key, spec, throttle, load, Arc::default(), expected)
    }

    fn tell_all(&mut self, revision: &Revision) {
        self.tell_cluster_ip(revision);
        let Some(known) = self.known.get(&revision.key) else { return };
        let (private, public) = (known.private.clone(), known.public.clone());
        if let Some(found) = public.and_then(|key| self.endpoints.get(&key)) {
            self.tell_activators(revision, &found);
        }
        if let Some(found) = private.and_then(|key| self.endpoints.get(&key)) {
            tell_pods(revision, Some(&found));
        }
    }

    fn endpoints(&mut self, change: Change<Endpoints>) {
        let (key, endpoints, gone) = match change {
            Change::Applied(key, endpoints) => (key, endpoints, false),
            Change::Deleted(key, endpoints) => (key, endpoints, true),
        };
        let known = self.known.entry(endpoints.revision.clone()).or_default();
        let place = match endpoints.role {
            Role::Private => &mut known.private,
            Role::Public => &mut known.public,
        };
        if !gone {
            *place = Some(key);
        } else if place.as_ref() == Some(&key) {
            *place = None;
        } else {
            return;
        }
        if known.private.is_none() && known.public.is_none() {
            self.known.remove(&endpoints.revision);
        }
        let names = &endpoints.revision;
        let Some(revision) = self.wiring.into.find(names.namespace(), names.name()) else { return };
        match endpoints.role {
            Role::Private => tell_pods(&revision, (!gone).then_some(&*endpoints)),
            Role::Public if !gone => self.tell_activators(&revision, &endpoints),
            Role::Public => {}
        }
    }

    fn service(&mut self, change: Change<Service>) {
        let (Change::Applied(key, _) | Change::Deleted(key, _)) = change;
        let Some(name) = key.name().strip_suffix("-private") else { return };
        if let Some(revision) = self.wiring.into.find(key.namespace(), name) {
            self.tell_cluster_ip(&revision);
        }
    }

    fn tell_cluster_ip(&self, revision: &Revision) {
        let service = self.services.get(&service::private(&revision.key));
        let address = service.and_then(|service| {
            let ip: IpAddr = service.cluster_ip.parse().ok()?;
            Some(SocketAddr::new(ip, service.port(revision.spec.protocol)?))
        });
        revision.throttle.cluster_ip(address);
    }

    fn tell_activators(&mut self, revision: &Revision, endpoints: &Endpoints) {
        let addresses = endpoints.ready_addresses(revision.spec.protocol);
        let same = self.activators.as_ref().filter(|(known, _)| *known == addresses);
        let activators = match same {
            Some((_, activators)) => activators.clone(),
            None => {
                let own = &self.wiring.pod_ip;
                let Some(made) = Activators::new(addresses.iter().map(String::as_str), own) else { return };
                let made = Arc::new(made);
                self.activators = Some((addresses, made.clone()));
                made
            }
        };
        revision.throttle.activators(activators);
    }
}

fn tell_pods(revision: &Revision, endpoints: Option<&Endpoints>) {
    let found = endpoints.map(|endpoints| endpoints.destinations(revision.spec.protocol)).unwrap_or_default();
    revision.throttle.endpoints(&found.ready, &found.not_ready);
}
