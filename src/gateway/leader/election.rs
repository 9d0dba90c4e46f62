//! The election: when this replica takes the Lease, renews it, gives it up and gives it back.
//!
//! Control side, one task. The rules are client-go's (`tools/leaderelection/leaderelection.go`), with one difference: the
//! Lease is watched in place of polled, so that a holder that was killed is followed within the lease's duration, and one
//! that left in order at once.
//!
//! Other machines' clocks are not believed: a Lease counts as run out when it has not changed for its duration by the
//! clock of whoever looks.
use std::sync::Arc;
use std::time::Duration;

use http::StatusCode;
use tokio::sync::watch;
use tokio::time::Instant;

use super::lease::{Lease, Named, Spec, now};
use super::settings::Settings;
use crate::kube::api::{Client, Error};
use crate::kube::{Change, Key};
use crate::telemetry::log::Throttle;

/// The pause after an attempt that failed without a word about the Lease.
const FAILED: Duration = Duration::from_millis(500);
/// How long giving the Lease back may take.
const RELEASE: Duration = Duration::from_secs(2);

/// The task's parts.
pub(super) struct Election {
    lease: Named,
    /// This replica's name in it.
    identity: String,
    settings: Settings,
    leads: watch::Sender<bool>,
    /// The Lease as it was last seen, and since when it is so.
    seen: Option<(Lease, Instant)>,
}

impl Election {
    /// An election about the Lease `lease`. `leads` is told whenever this replica begins and ends to lead.
    #[must_use]
    pub(super) fn new(client: Client, lease: Key, identity: String, leads: watch::Sender<bool>) -> Self {
        Self { lease: Named::new(client, lease), identity, settings: Settings::default(), leads, seen: None }
    }

    /// Takes part until `leaving` is true; gives the Lease back by then. `settings` act from the next attempt on.
    pub(super) async fn run(mut self, mut settings: watch::Receiver<Arc<Settings>>, leaving: watch::Receiver<bool>) {
        let mut told = leaving.clone();
        tokio::select! {
            _ = told.wait_for(|leaving| *leaving) => {}
            () = self.take_part(&mut settings) => {}
        }
        let led = self.leads.send_replace(false);
        if led && tokio::time::timeout(RELEASE, self.release()).await.is_err() {
            tracing::warn!("Lease {} could not be given back in {RELEASE:?}", self.lease.key());
        }
    }

    async fn take_part(&mut self, settings: &mut watch::Receiver<Arc<Settings>>) {
        let leases = self.lease.watch();
        let mut changes = leases.changes();
        // As for the watches: while the API server is away, the same reason is told twice a minute.
        let log = Throttle::every(Duration::from_secs(30));
        loop {
            self.settings = **settings.borrow_and_update();
            let next = match self.attempt().await {
                Held::Ours => Instant::now() + self.settings.retry,
                Held::Until(end) => end,
                Held::Unknown(why) => {
                    if log.allows(&why) {
                        tracing::warn!("Lease {}: {why}", self.lease.key());
                    }
                    Instant::now() + FAILED
                }
            };
            loop {
                tokio::select! {
                    () = tokio::time::sleep_until(next) => break,
                    _ = settings.changed() => break,
                    change = changes.next() => if self.is_news(change) { break },
                }
            }
        }
    }

    /// Whether a change that was watched asks for an attempt. That another one has renewed does not.
    fn is_news(&mut self, change: Change<Lease>) -> bool {
        let Change::Applied(_, lease) = change else { return true };
        let holder = lease.spec.holder_identity.clone();
        let was = self.seen.as_ref().map_or("", |(seen, _)| &seen.spec.holder_identity);
        // One of our own writes, or an older one on its way.
        if holder == self.identity && was == holder {
            return false;
        }
        let changed = holder != was;
        // A new version by the same holder: its time begins anew. The attempt at its end sees it.
        changed || self.seen.as_ref().is_none_or(|(seen, _)| seen.version != lease.version)
    }

    /// Renews the Lease, or takes it if nobody holds it.
    async fn attempt(&mut self) -> Held {
        // A leader gives up in time even when the API server does not answer.
        let limit = match (*self.leads.borrow(), &self.seen) {
            (true, Some((_, since))) => *since + self.settings.renew,
            _ => Instant::now() + self.settings.renew,
        };
        let result = match tokio::time::timeout_at(limit, self.renew_or_take()).await {
            Ok(result) => result,
            Err(_) => Err(Error::Lost(format!("no answer within {:?}", self.settings.renew))),
        };
        match result {
            Ok(Held::Ours) => {
                self.lead(true);
                Held::Ours
            }
            Ok(held) => {
                self.lead(false);
                held
            }
            Err(error) => {
                if Instant::now() >= limit {
                    self.lead(false);
                }
                Held::Unknown(error.to_string())
            }
        }
    }

    fn lead(&self, leads: bool) {
        let changed = self.leads.send_if_modified(|now| std::mem::replace(now, leads) != leads);
        match (changed, leads) {
            (true, true) => tracing::info!("{} leads by Lease {}: it writes status", self.identity, self.lease.key()),
            (true, false) => tracing::warn!("{} leads no longer by Lease {}", self.identity, self.lease.key()),
            _ => {}
        }
    }

    async fn renew_or_take(&mut self) -> Result<Held, Error> {
        let Some(known) = self.lease.read().await? else {
            let created = self.lease.create(&self.ours(None)).await;
            return self.took(created).await;
        };
        let now = Instant::now();
        let since = match &self.seen {
            Some((seen, since)) if *seen == known => *since,
            _ => now,
        };
        let holder = known.spec.holder_identity.clone();
        let end = since + Duration::from_secs(known.spec.lease_duration_seconds.into());
        let (version, spec) = (known.version.clone(), self.ours(Some(&known.spec)));
        self.seen = Some((known, since));
        if !holder.is_empty() && holder != self.identity && now < end {
            return Ok(Held::Until(end));
        }
        let updated = self.lease.replace(&version, &spec).await;
        self.took(updated).await
    }

    /// What came of a write. A refusal means that another one was faster.
    async fn took(&mut self, answer: Result<Lease, Error>) -> Result<Held, Error> {
        match answer {
            Ok(lease) => {
                self.seen = Some((lease, Instant::now()));
                Ok(Held::Ours)
            }
            Err(Error::Refused(refusal)) if refusal.status == StatusCode::CONFLICT => {
                let Some(lease) = self.lease.read().await? else { return Ok(Held::Until(Instant::now() + FAILED)) };
                let end = Duration::from_secs(lease.spec.lease_duration_seconds.into());
                let now = Instant::now();
                let again = lease.spec.holder_identity.is_empty() || lease.spec.holder_identity == self.identity;
                self.seen = Some((lease, now));
                Ok(Held::Until(now + if again { FAILED } else { end }))
            }
            Err(error) => Err(error),
        }
    }

    /// The Lease as this replica would hold it after `before`.
    fn ours(&self, before: Option<&Spec>) -> Spec {
        let now = now();
        let renews = before.filter(|before| before.holder_identity == self.identity);
        let transitions = before.map_or(0, |before| before.lease_transitions);
        Spec {
            holder_identity: self.identity.clone(),
            lease_duration_seconds: u32::try_from(self.settings.lease.as_secs()).unwrap_or(u32::MAX).max(1),
            acquire_time: renews.and_then(|before| before.acquire_time.clone()).or_else(|| Some(now.clone())),
            renew_time: Some(now),
            lease_transitions: if renews.is_some() || before.is_none() { transitions } else { transitions + 1 },
        }
    }

    /// Leaves the Lease to whoever comes first.
    async fn release(&self) {
        let Ok(Some(known)) = self.lease.read().await else { return };
        if known.spec.holder_identity != self.identity {
            return;
        }
        let spec = Spec {
            holder_identity: String::new(),
            lease_duration_seconds: 1,
            renew_time: Some(now()),
            ..known.spec.clone()
        };
        match self.lease.replace(&known.version, &spec).await {
            Ok(_) => tracing::info!("Lease {} is given back", self.lease.key()),
            Err(error) => tracing::warn!("Lease {} could not be given back: {error}", self.lease.key()),
        }
    }
}

/// Who holds the Lease.
#[derive(Debug)]
enum Held {
    Ours,
    /// Another one, at least until then if it does not renew.
    Until(Instant),
    /// The API server could not be asked.
    Unknown(String),
}
