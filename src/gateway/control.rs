//! Feeds the state from Kubernetes objects, or from a directory of them, and publishes what follows.
//!
//! Control side, one task. A burst of changes is applied whole before anything is published; what is published, the
//! routing table and both sets of certificates, is in force on every worker at once.
use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, watch};
use tokio::task::AbortHandle;

use super::authz::check::Authorizer;
use super::backends::UNSETTLED;
use super::config::{Config, Secrets};
use super::events::{self, Events};
use super::kourier::Kourier;
use super::live::Live;
use super::objects::{EndpointSlice, Ingress, LABEL_SERVICE, Service};
use super::route::table::Side;
use super::state::State;
use super::status::Outcome;
use super::status::probe::Replicas;
use super::status::report::Reporter;
use crate::knative::network::Network;
use crate::knative::secret::Secret;
use crate::kube::{Change, Key, Object, Objects, Selection, Source};

/// Label of the Secrets that Serving has had issued (`serving/pkg/reconciler/certificate/resources`).
const LABEL_CERTIFICATE: &str = "networking.internal.knative.dev/certificate-uid";
/// How many changes wait for this task at most.
const WAITING: usize = 1024;
/// How long the first reading waits for Secrets that objects name one by one.
const SECRETS_TIME: Duration = Duration::from_secs(10);

/// One change.
enum Event {
    Ingress(Change<Ingress>),
    Service(Change<Service>),
    Slice(Change<EndpointSlice>),
    Secret(Change<Secret>),
    Kourier(Arc<Kourier>),
    Network(Arc<Network>),
    Trust,
    Leads(bool),
}

/// The task's parts.
pub struct Control {
    config: Config,
    source: Source,
    live: Arc<Live>,
    state: State,
    reporter: Reporter,
    replicas: Replicas,
    internal_service: Key,
    secrets: HashMap<Key, Watched>,
    events: (mpsc::Sender<Event>, mpsc::Receiver<Event>),
    network: watch::Receiver<Arc<Network>>,
    kourier: watch::Receiver<Arc<Kourier>>,
    leads: watch::Receiver<bool>,
    tell: Events,
    /// `listen-ip-addresses` as it was at the start.
    listens_on: Vec<IpAddr>,
    /// What was told of objects that are not served as they are.
    told: HashMap<Key, (&'static str, String)>,
}

/// A Secret that is watched by its name.
struct Watched {
    objects: Objects<Secret>,
    _follower: Follower,
}

impl Control {
    /// Settings are followed through `network` and `kourier`; status is written while `leads` is true.
    #[must_use]
    #[expect(clippy::too_many_arguments, reason = "the parts of one task, put together in one place")]
    pub fn new(
        config: Config,
        source: Source,
        live: Arc<Live>,
        reporter: Reporter,
        replicas: Replicas,
        network: watch::Receiver<Arc<Network>>,
        kourier: watch::Receiver<Arc<Kourier>>,
        leads: watch::Receiver<bool>,
        tell: Events,
    ) -> Self {
        let mut config = config;
        if matches!(source, Source::Directory(_)) && config.secrets == Secrets::Needed {
            // It is read whole anyway.
            config.secrets = Secrets::All;
        }
        let state = State::new(&config.class, &config.system_namespace, &config.shared_secrets);
        let internal_service = Key::new(&config.gateway_namespace, &config.internal_service);
        let listens_on = kourier.borrow().listen_addresses.clone();
        Self {
            config,
            source,
            live,
            state,
            reporter,
            replicas,
            internal_service,
            secrets: HashMap::new(),
            events: mpsc::channel(WAITING),
            network,
            kourier,
            leads,
            tell,
            listens_on,
            told: HashMap::new(),
        }
    }

    /// Reads everything once, says so through [`Live::set_ready`], and then follows the changes for ever.
    pub async fn run(mut self) {
        let ingresses = self.source.objects::<Ingress>(Selection::everywhere());
        let services = self.source.objects::<Service>(Selection::everywhere());
        let slices = self.source.objects::<EndpointSlice>(Selection::everywhere().labelled(LABEL_SERVICE));
        let secrets = match self.config.secrets {
            Secrets::All => self.source.objects::<Secret>(Selection::everywhere()),
            Secrets::Needed | Secrets::Labelled => {
                self.source.objects::<Secret>(Selection::everywhere().labelled(LABEL_CERTIFICATE))
            }
        };
        services.synced().await;
        slices.synced().await;
        secrets.synced().await;
        ingresses.synced().await;
        let at = Instant::now();
        let network = self.network.borrow_and_update().clone();
        self.apply_network(&network, at);
        let kourier = self.kourier.borrow_and_update().clone();
        self.apply_kourier(&kourier);
        let leads = *self.leads.borrow_and_update();
        self.lead(leads);
        for (key, service) in services.all() {
            self.state.service(&key, Some(service), at);
        }
        for (key, slice) in slices.all() {
            self.state.slice(&key, &slice, false, at);
        }
        for (key, secret) in secrets.all() {
            self.state.secret(&key, Some(&secret));
        }
        for (key, ingress) in ingresses.all() {
            self.state.ingress(&key, Some(&ingress), at);
        }
        self.watch_named_secrets();
        let named: Vec<_> = self.secrets.values().map(|watched| watched.objects.clone()).collect();
        let all_named = async {
            for secret in &named {
                secret.synced().await;
            }
        };
        if tokio::time::timeout(SECRETS_TIME, all_named).await.is_err() {
            tracing::warn!("not all Secrets that are named could be read in {SECRETS_TIME:?}: going on without them");
        }
        for secret in &named {
            for (key, secret) in secret.all() {
                self.state.secret(&key, Some(&secret));
            }
        }
        self.settle();
        self.live.set_ready(true);
        tracing::info!("All objects are read: {} of class {} are served", self.state.len(), self.config.class);

        let _followers = [
            follow(&ingresses, self.events.0.clone(), Event::Ingress),
            follow(&services, self.events.0.clone(), Event::Service),
            follow(&slices, self.events.0.clone(), Event::Slice),
            follow(&secrets, self.events.0.clone(), Event::Secret),
            follow_watch(self.kourier.clone(), self.events.0.clone(), |watch| {
                Event::Kourier(watch.borrow_and_update().clone())
            }),
            follow_watch(self.network.clone(), self.events.0.clone(), |watch| {
                Event::Network(watch.borrow_and_update().clone())
            }),
            follow_watch(self.live.trust.changes(), self.events.0.clone(), |_| Event::Trust),
            follow_watch(self.leads.clone(), self.events.0.clone(), |watch| Event::Leads(*watch.borrow_and_update())),
        ];
        let mut tick = tokio::time::interval(UNSETTLED / 4);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            let release = self.state.next_release();
            tokio::select! {
                event = self.events.1.recv() => {
                    let Some(event) = event else { return };
                    self.apply(event);
                    while let Ok(event) = self.events.1.try_recv() {
                        self.apply(event);
                    }
                }
                _ = tick.tick() => self.state.backends.settle(Instant::now()),
                () = until(release) => {}
            }
            self.settle();
        }
    }

    fn apply(&mut self, event: Event) {
        let at = Instant::now();
        match event {
            Event::Ingress(Change::Applied(key, ingress)) => self.state.ingress(&key, Some(&ingress), at),
            Event::Ingress(Change::Deleted(key, _)) => self.state.ingress(&key, None, at),
            Event::Service(Change::Applied(key, service)) => self.state.service(&key, Some(service), at),
            Event::Service(Change::Deleted(key, _)) => self.state.service(&key, None, at),
            Event::Slice(Change::Applied(key, slice)) => self.state.slice(&key, &slice, false, at),
            Event::Slice(Change::Deleted(key, slice)) => self.state.slice(&key, &slice, true, at),
            Event::Secret(Change::Applied(key, secret)) => self.state.secret(&key, Some(&secret)),
            Event::Secret(Change::Deleted(key, _)) => self.state.secret(&key, None),
            Event::Kourier(kourier) => self.apply_kourier(&kourier),
            Event::Network(network) => self.apply_network(&network, at),
            Event::Trust => {
                let network = self.network.borrow().clone();
                self.apply_network(&network, at);
            }
            Event::Leads(leads) => self.lead(leads),
        }
    }

    /// This replica begins or ends to write status.
    fn lead(&mut self, leads: bool) {
        self.live.set_leads(leads);
        self.reporter.set_leads(leads);
        self.tell.set_leads(leads);
        self.told.clear();
        if leads {
            self.state.touch_all();
        }
    }

    /// Publishes what has changed, and looks at the objects that it matters to.
    fn settle(&mut self) {
        self.state.release(Instant::now());
        self.watch_named_secrets();
        self.live.unusable_certificates.store(self.state.certificates.unusable(), Ordering::Relaxed);
        if let Some(routes) = self.state.take_changed() {
            // Certificates first: a host that can be reached over TLS has one by then.
            for side in [Side::External, Side::Internal] {
                self.live.certificates(side).publish(self.state.certificates.names(side));
            }
            self.live.routes.store(Arc::new(routes));
            self.live.work.compiled.store(self.state.compiled(), Ordering::Relaxed);
            self.live.work.certificates.store(self.state.certificates.read(), Ordering::Relaxed);
        }
        let mut replicas: BTreeSet<_> = self.state.backends.addresses(&self.internal_service);
        if replicas.is_empty() && matches!(self.source, Source::Directory(_)) {
            // Manifests need not say where the gateway itself is.
            replicas.insert(self.config.listen_address.unwrap_or(std::net::Ipv4Addr::LOCALHOST.into()));
        }
        *self.replicas.borrow_mut() = replicas;
        for key in self.state.take_touched() {
            match (self.state.object(&key).cloned(), self.state.outcome(&key)) {
                (Some(ingress), Some(outcome)) => {
                    self.tell_of(&key, &ingress, &outcome);
                    let probe = self.state.to_probe(&key);
                    self.reporter.look_at(&key, &ingress, outcome, probe);
                }
                _ => {
                    self.told.remove(&key);
                    self.reporter.forget(&key);
                }
            }
        }
    }

    /// An Event when an object is no longer served as it is, or for another reason.
    fn tell_of(&mut self, key: &Key, ingress: &Ingress, outcome: &Outcome) {
        let now = match outcome {
            Outcome::Failed { message, certificate: true, .. } => (events::BAD_CERTIFICATE, message.clone()),
            Outcome::Failed { message, .. } => (events::INGRESS_REFUSED, message.clone()),
            Outcome::Conflict => {
                let hosts = self.state.conflicts(key).join(", ");
                (events::DOMAIN_CONFLICT, format!("another Ingress has {hosts}"))
            }
            Outcome::Waiting | Outcome::Ready => {
                self.told.remove(key);
                return;
            }
        };
        if self.told.get(key) != Some(&now) {
            self.tell.ingress(key, ingress, now.0, &now.1);
            self.told.insert(key.clone(), now);
        }
    }

    fn apply_kourier(&mut self, kourier: &Arc<Kourier>) {
        let unknown = kourier.access_log.iter().flat_map(|template| &template.unknown);
        for operator in unknown {
            tracing::warn!("service-access-log-template: {operator} is not known and comes out as -");
        }
        for key in &kourier.ignored {
            tracing::warn!("config-kourier: {key} does nothing here");
        }
        if self.config.listen_address.is_none() && kourier.listen_addresses != self.listens_on {
            tracing::warn!("config-kourier: listen-ip-addresses acts at the next start");
        }
        let wanted = self.config.authorizer.clone().or_else(|| kourier.authorizer.clone());
        if self.live.authorizer.load().as_ref().map(|authorizer| &authorizer.settings) != wanted.as_ref() {
            let authorizer = wanted.map(|settings| Arc::new(Authorizer::new(settings, &self.live.trust)));
            self.live.authorizer.store(authorizer);
        }
        self.live.settings.store(kourier.clone());
        let external = kourier.default_certificate.clone().or_else(|| self.config.default_certificate.clone());
        let external = external.map(|(namespace, name)| Key::new(&namespace, &name));
        let internal = kourier.cluster_certificate.as_ref().map(|name| Key::new(&self.config.system_namespace, name));
        self.state.certificates.set_default(Side::External, external);
        self.state.certificates.set_default(Side::Internal, internal);
        self.state.touch_certificates();
    }

    fn apply_network(&mut self, network: &Network, at: Instant) {
        let trusts = self.live.trust.snapshot().is_some();
        self.state.set_upstream_tls(network.system_internal_tls, trusts, at);
        self.live.encryption.store(network.system_internal_tls, Ordering::Relaxed);
    }

    /// Watches each Secret that is named and does not come with the others.
    fn watch_named_secrets(&mut self) {
        let all = self.config.secrets == Secrets::All;
        for key in self.state.certificates.take_unsettled() {
            if !self.state.certificates.is_named(&key) {
                if self.secrets.remove(&key).is_some() {
                    // Nobody tells of it from now on; whoever names it again asks anew.
                    self.state.secret(&key, None);
                }
                continue;
            }
            let default = self.is_default(&key);
            let wanted = default || self.config.secrets == Secrets::Needed;
            if all || !wanted || self.state.certificates.has(&key) || self.secrets.contains_key(&key) {
                continue;
            }
            let objects = self.source.objects::<Secret>(Selection::within(key.namespace()).named(key.name()));
            let follower = follow(&objects, self.events.0.clone(), Event::Secret);
            self.secrets.insert(key, Watched { objects, _follower: follower });
        }
    }

    fn is_default(&self, key: &Key) -> bool {
        let kourier = self.live.settings.load();
        let is = |pair: &Option<(String, String)>| {
            pair.as_ref().is_some_and(|(namespace, name)| namespace == key.namespace() && name == key.name())
        };
        is(&kourier.default_certificate)
            || is(&self.config.default_certificate)
            || kourier.cluster_certificate.as_deref() == Some(key.name())
    }
}

/// Waits until then; for ever, if there is no such moment.
async fn until(moment: Option<Instant>) {
    match moment {
        Some(moment) => tokio::time::sleep_until(moment.into()).await,
        None => std::future::pending().await,
    }
}

/// A task that ends with whoever holds this.
struct Follower(AbortHandle);

impl Drop for Follower {
    fn drop(&mut self) {
        self.0.abort();
    }
}

fn follow<T: Object>(objects: &Objects<T>, events: mpsc::Sender<Event>, event: fn(Change<T>) -> Event) -> Follower {
    let mut changes = objects.changes();
    let task = tokio::task::spawn_local(async move { while events.send(event(changes.next().await)).await.is_ok() {} });
    Follower(task.abort_handle())
}

fn follow_watch<T: 'static>(
    mut watch: watch::Receiver<T>,
    events: mpsc::Sender<Event>,
    event: impl Fn(&mut watch::Receiver<T>) -> Event + 'static,
) -> Follower {
    let task = tokio::task::spawn_local(async move {
        while watch.changed().await.is_ok() {
            let event = event(&mut watch);
            if events.send(event).await.is_err() {
                return;
            }
        }
    });
    Follower(task.abort_handle())
}
