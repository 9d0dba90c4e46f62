//! The trust store: the union of every valid authority from all its sources, with a generation number.
//!
//! Sources set their part (control side); verifiers read the published snapshot with one atomic load (data side).
//!
//! Rules: one invalid certificate in a bundle is skipped with a warning that names the source and the position, the
//! others are used. A source that turns empty while it was not keeps its last good anchors, which is logged and counted:
//! nobody is ever verified against nothing. The generation grows with each change of the set, and
//! [`Store::is_current`] says whether what an older generation verified may live on, so that pooled connections and
//! resumption tickets don't outlive a removed authority.
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwapOption;
use rustls::RootCertStore;
use rustls::pki_types::CertificateDer;
use time::OffsetDateTime;
use tokio::sync::watch;

use crate::tls::expiry::date;
use crate::tls::identity::Leaf;
use crate::tls::pem;

/// An authority that we trust.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Anchor {
    /// The source that gave it (the first one, if several did).
    pub source: String,
    /// Its subject, as text.
    pub subject: String,
    /// Last moment of its validity.
    pub not_after: OffsetDateTime,
    der: CertificateDer<'static>,
}

impl Anchor {
    /// The certificate.
    pub fn der(&self) -> &CertificateDer<'static> {
        &self.der
    }
}

/// A published state of the trust store.
#[derive(Debug)]
pub struct Snapshot {
    /// Its number, from 1.
    pub generation: u64,
    /// What verifiers use.
    pub roots: Arc<RootCertStore>,
    /// The same, for people.
    pub anchors: Vec<Anchor>,
    /// What the generation before had and this one has not.
    pub removed: Vec<Anchor>,
    /// The newest generation, this one included, that took an anchor away; 0 if none ever did.
    pub last_removal: u64,
}

/// What became of a source's text.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// Anchors that the source gives now.
    pub valid: usize,
    /// Blocks that were skipped.
    pub skipped: usize,
    /// Whether the source was left as it was, because it would have become empty.
    pub kept: bool,
}

/// The anchors of all sources.
#[derive(Debug)]
pub struct Store {
    sources: Mutex<BTreeMap<String, Vec<Anchor>>>,
    current: ArcSwapOption<Snapshot>,
    changed: watch::Sender<u64>,
    skipped: AtomicU64,
    kept: AtomicU64,
}

impl Store {
    /// A store without sources: nothing can be verified until one gives an anchor.
    pub fn new() -> Arc<Self> {
        Arc::new(Self {
            sources: Mutex::default(),
            current: ArcSwapOption::empty(),
            changed: watch::Sender::new(0),
            skipped: AtomicU64::new(0),
            kept: AtomicU64::new(0),
        })
    }

    /// Replaces what the source called `name` gives by the certificates of `text` (PEM). Warnings name the source and
    /// the position of each block that is skipped.
    pub fn set_source(&self, name: &str, text: &[u8]) -> Outcome {
        let (anchors, skipped) = read(name, text, OffsetDateTime::now_utc());
        self.skipped.fetch_add(skipped as u64, Ordering::Relaxed);
        let mut sources = self.sources.lock().unwrap_or_else(PoisonError::into_inner);
        let before = sources.get(name).map_or(0, Vec::len);
        if anchors.is_empty() && before > 0 {
            self.kept.fetch_add(1, Ordering::Relaxed);
            tracing::error!(
                source = name,
                "No valid certificate authority is left in {name}; the last good {before} stay in use"
            );
            return Outcome { valid: before, skipped, kept: true };
        }
        let outcome = Outcome { valid: anchors.len(), skipped, kept: false };
        sources.insert(name.to_owned(), anchors);
        self.publish(&sources);
        outcome
    }

    /// Forgets a source on purpose, as when its ConfigMap was deleted. The last anchors of all sources stay in use:
    /// returns whether the source was forgotten.
    pub fn remove_source(&self, name: &str) -> bool {
        let mut sources = self.sources.lock().unwrap_or_else(PoisonError::into_inner);
        let others_have_some = sources.iter().any(|(other, anchors)| other != name && !anchors.is_empty());
        let had_some = sources.get(name).is_some_and(|anchors| !anchors.is_empty());
        if had_some && !others_have_some {
            self.kept.fetch_add(1, Ordering::Relaxed);
            tracing::error!(
                source = name,
                "{name} was removed, but no other source gives a certificate authority; its last good ones stay in use"
            );
            return false;
        }
        sources.remove(name);
        self.publish(&sources);
        true
    }

    /// What verifiers use; none before the first valid anchor.
    pub fn roots(&self) -> Option<Arc<RootCertStore>> {
        self.current.load().as_ref().map(|snapshot| Arc::clone(&snapshot.roots))
    }

    /// The published state.
    pub fn snapshot(&self) -> Option<Arc<Snapshot>> {
        self.current.load_full()
    }

    /// The number of the published state; 0 before the first. Read it *before* a handshake and keep it with the
    /// connection: a change in between then counts as one after it.
    pub fn generation(&self) -> u64 {
        self.current.load().as_ref().map_or(0, |snapshot| snapshot.generation)
    }

    /// Whether what was verified by `generation` may live on: no anchor was removed since.
    pub fn is_current(&self, generation: u64) -> bool {
        self.current.load().as_ref().is_none_or(|snapshot| generation >= snapshot.last_removal)
    }

    /// Tells of each new generation; the value is its number.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    /// How many blocks of bundles were skipped so far.
    pub fn skipped(&self) -> u64 {
        self.skipped.load(Ordering::Relaxed)
    }

    /// How often a source would have become empty and was kept.
    pub fn kept(&self) -> u64 {
        self.kept.load(Ordering::Relaxed)
    }

    fn publish(&self, sources: &BTreeMap<String, Vec<Anchor>>) {
        let mut anchors: Vec<Anchor> = Vec::new();
        for anchor in sources.values().flatten() {
            if !anchors.iter().any(|known| known.der == anchor.der) {
                anchors.push(anchor.clone());
            }
        }
        let before = self.current.load_full();
        let known = before.as_ref().map_or(&[][..], |snapshot| &snapshot.anchors);
        let is_in = |set: &[Anchor], anchor: &Anchor| set.iter().any(|other| other.der == anchor.der);
        let removed: Vec<Anchor> = known.iter().filter(|anchor| !is_in(&anchors, anchor)).cloned().collect();
        let unchanged = removed.is_empty() && anchors.len() == known.len();
        if anchors.is_empty() || unchanged {
            return;
        }
        let mut roots = RootCertStore::empty();
        for anchor in &anchors {
            // Each one was accepted by the same function when its source was read.
            let _ = roots.add(anchor.der.clone());
        }
        let generation = before.as_ref().map_or(0, |snapshot| snapshot.generation) + 1;
        let last_removal = match removed.is_empty() {
            true => before.as_ref().map_or(0, |snapshot| snapshot.last_removal),
            false => generation,
        };
        tracing::info!(
            generation,
            anchors = anchors.len(),
            removed = removed.len(),
            "Trusted certificate authorities changed"
        );
        self.current.store(Some(Arc::new(Snapshot {
            generation,
            roots: Arc::new(roots),
            anchors,
            removed,
            last_removal,
        })));
        self.changed.send_replace(generation);
    }
}

/// The valid anchors of a bundle, and how many blocks were skipped.
fn read(source: &str, text: &[u8], now: OffsetDateTime) -> (Vec<Anchor>, usize) {
    let mut anchors = Vec::new();
    let mut skipped = 0;
    let blocks = pem::blocks(text);
    if blocks.is_empty() && !text.trim_ascii().is_empty() {
        skipped += 1;
        tracing::warn!(source, "{source} holds no PEM block; nothing of it is trusted");
    }
    for block in blocks {
        let position = block.position();
        match anchor(source, block.content, now) {
            Ok(anchor) => anchors.push(anchor),
            Err(why) => {
                skipped += 1;
                tracing::warn!(source, "{source}, {position} is skipped: {why}; the others are used");
            }
        }
    }
    (anchors, skipped)
}

fn anchor(source: &str, content: pem::Content, now: OffsetDateTime) -> Result<Anchor, String> {
    let der = match content {
        pem::Content::Certificate(der) => der,
        pem::Content::Broken(why) => return Err(why),
        pem::Content::Key(_) => return Err("a private key does not belong in a trust bundle".to_owned()),
        pem::Content::Other => return Err("it is not a certificate".to_owned()),
    };
    RootCertStore::empty().add(der.clone()).map_err(|error| error.to_string())?;
    let facts = Leaf::of(&der)?;
    // webpki does not look at an anchor's dates, Go does: an expired authority vouches for nobody.
    if facts.not_after < now {
        return Err(format!("{} expired at {}", facts.subject, date(facts.not_after)));
    }
    Ok(Anchor { source: source.to_owned(), subject: facts.subject, not_after: facts.not_after, der })
}
