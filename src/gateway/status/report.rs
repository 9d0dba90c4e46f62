//! Keeps the status of each object true: decides, asks the replicas, writes.
//!
//! Control side. Each object has at most one task, which is replaced when the object changes; none while another replica
//! leads. What is written goes to
//! the status subresource, or to files when objects come from a directory. A finaliser that Kourier left is taken off
//! objects that are being deleted; lockkeeper sets none of its own.
use std::cell::RefCell;
use std::collections::HashMap;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::Method;
use serde_json::json;
use time::OffsetDateTime;
use time::macros::format_description;
use tokio::task::AbortHandle;

use super::probe::Prober;
use super::target::ToProbe;
use super::{LoadBalancer, Outcome, Status};
use crate::gateway::objects::Ingress;
use crate::knative::ingress::FINALIZER;
use crate::kube::api::Client;
use crate::kube::{Key, Object as _};

/// The pause before a write that failed is tried again; it doubles.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(10);

/// Where status goes.
#[derive(Clone)]
pub enum Sink {
    /// The API server.
    Server(Client),
    /// Files `<namespace>.<name>.json` in a directory.
    Directory(PathBuf),
    /// Nowhere.
    None,
}

/// Keeps statuses.
pub struct Reporter {
    sink: Sink,
    prober: Prober,
    balancers: Rc<(LoadBalancer, LoadBalancer)>,
    tasks: HashMap<Key, Task>,
    written: Rc<RefCell<HashMap<Key, Status>>>,
    leads: bool,
}

/// What is being done for an object.
struct Task {
    about: About,
    handle: AbortHandle,
}

/// What a task was started for; another one of the same would do the same.
#[derive(Clone, PartialEq)]
struct About {
    generation: i64,
    outcome: Outcome,
    probe: Option<ToProbe>,
    deleted: bool,
}

impl Drop for Task {
    fn drop(&mut self) {
        self.handle.abort();
    }
}

impl Reporter {
    /// A reporter for a gateway behind these load balancers (public, private).
    #[must_use]
    pub fn new(sink: Sink, prober: Prober, balancers: (LoadBalancer, LoadBalancer)) -> Self {
        Self { sink, prober, balancers: Rc::new(balancers), tasks: HashMap::new(), written: Rc::default(), leads: true }
    }

    /// Whether this replica writes status; if not, another one does. Whoever begins has to look at all objects again.
    pub fn set_leads(&mut self, leads: bool) {
        self.leads = leads;
        if !leads {
            self.tasks.clear();
            // From now on what another one writes counts.
            self.written.borrow_mut().clear();
        }
    }

    /// An object is gone, or not ours.
    pub fn forget(&mut self, key: &Key) {
        self.tasks.remove(key);
        self.written.borrow_mut().remove(key);
        if let Sink::Directory(directory) = &self.sink {
            let _ = std::fs::remove_file(directory.join(file(key)));
        }
    }

    /// Brings the status of an object up to date.
    pub fn look_at(&mut self, key: &Key, ingress: &Arc<Ingress>, outcome: Outcome, probe: Option<ToProbe>) {
        if !self.leads {
            return;
        }
        let about = About { generation: ingress.generation, outcome, probe, deleted: ingress.awaits_finalizer };
        if self.tasks.get(key).is_some_and(|task| task.about == about) {
            return;
        }
        self.tasks.remove(key);
        let work = Work {
            sink: self.sink.clone(),
            key: key.clone(),
            ingress: ingress.clone(),
            about: about.clone(),
            prober: self.prober.clone(),
            balancers: self.balancers.clone(),
            written: self.written.clone(),
        };
        let handle = tokio::task::spawn_local(work.run()).abort_handle();
        self.tasks.insert(key.clone(), Task { about, handle });
    }
}

struct Work {
    sink: Sink,
    key: Key,
    ingress: Arc<Ingress>,
    about: About,
    prober: Prober,
    balancers: Rc<(LoadBalancer, LoadBalancer)>,
    written: Rc<RefCell<HashMap<Key, Status>>>,
}

impl Work {
    async fn run(self) {
        if self.about.deleted {
            return self.until_done(|| self.take_finalizer_off()).await;
        }
        let probe = match (&self.about.outcome, &self.about.probe) {
            (Outcome::Waiting, Some(probe)) => probe,
            _ => return self.write(&self.about.outcome).await,
        };
        let known = self.last().is_ready(self.about.generation);
        if known {
            // Ready for this generation already: written again only if the load balancers have other names.
            return self.write(&Outcome::Ready).await;
        }
        self.write(&Outcome::Waiting).await;
        self.prober.until_ready(probe).await;
        self.write(&Outcome::Ready).await;
        tracing::info!("Ingress {} is ready (generation {})", self.key, self.about.generation);
    }

    /// The status that stands: what was written here, else what was read.
    fn last(&self) -> Status {
        self.written.borrow().get(&self.key).cloned().unwrap_or_else(|| self.ingress.status.clone())
    }

    async fn write(&self, outcome: &Outcome) {
        let last = self.last();
        let now = OffsetDateTime::now_utc();
        let format = format_description!("[year]-[month]-[day]T[hour]:[minute]:[second]Z");
        let next = last.next(outcome, self.about.generation, &self.balancers, &now.format(format).unwrap_or_default());
        if next == last {
            return;
        }
        self.until_done(|| self.put(&next)).await;
        self.written.borrow_mut().insert(self.key.clone(), next);
    }

    async fn until_done<F: Future<Output = Result<(), String>>>(&self, attempt: impl Fn() -> F) {
        let mut pause = FIRST_PAUSE;
        while let Err(why) = attempt().await {
            tracing::warn!("status of Ingress {} could not be written: {why}", self.key);
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    async fn put(&self, status: &Status) -> Result<(), String> {
        match &self.sink {
            Sink::None => Ok(()),
            Sink::Directory(directory) => {
                let text = serde_json::to_vec_pretty(status).map_err(|e| e.to_string())?;
                let path = directory.join(file(&self.key));
                let fresh = path.with_extension("tmp");
                std::fs::write(&fresh, text)
                    .and_then(|()| std::fs::rename(&fresh, &path))
                    .map_err(|error| format!("{}: {error}", path.display()))
            }
            Sink::Server(client) => {
                // Without a resource version: the last writer wins, and all of them write the same.
                let version = self.version(client).await?;
                let body = json!({
                    "apiVersion": Ingress::KIND.api_version(),
                    "kind": Ingress::KIND.kind,
                    "metadata": {
                        "name": self.key.name(),
                        "namespace": self.key.namespace(),
                        "resourceVersion": version,
                    },
                    "status": status,
                });
                let path = format!("{}/status", path(&self.key));
                let body = Some(("application/json", Bytes::from(body.to_string())));
                client.request(Method::PUT, &path, body).await.map(drop).map_err(|error| error.to_string())
            }
        }
    }

    /// The object's version at the moment: custom resources demand one.
    async fn version(&self, client: &Client) -> Result<String, String> {
        let bytes = client.request(Method::GET, &path(&self.key), None).await.map_err(|error| error.to_string())?;
        let object: serde_json::Value = serde_json::from_slice(&bytes).map_err(|error| error.to_string())?;
        Ok(object["metadata"]["resourceVersion"].as_str().unwrap_or_default().to_owned())
    }

    async fn take_finalizer_off(&self) -> Result<(), String> {
        let Sink::Server(client) = &self.sink else { return Ok(()) };
        let left: Vec<_> = self.ingress.finalizers.iter().filter(|name| *name != FINALIZER).collect();
        let body = json!({
            "metadata": { "finalizers": left, "resourceVersion": self.ingress.resource_version }
        });
        let body = Some(("application/merge-patch+json", Bytes::from(body.to_string())));
        client.request(Method::PATCH, &path(&self.key), body).await.map(drop).map_err(|error| error.to_string())
    }
}

fn path(key: &Key) -> String {
    let kind = Ingress::KIND;
    format!("/apis/{}/{}/namespaces/{}/{}/{}", kind.group, kind.version, key.namespace(), kind.plural, key.name())
}

fn file(key: &Key) -> String {
    format!("{}.{}.json", key.namespace(), key.name())
}
