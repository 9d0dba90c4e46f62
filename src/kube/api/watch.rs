//! Keeps a set of objects as the API server has it.
//!
//! First the whole set, then what changes. The whole set comes as a stream of its own objects that ends with a
//! bookmark (`sendInitialEvents`), or in pages from servers that refuse this. Watches end all the time, by time limit
//! and by mishap, and are taken up at the last version that was seen; only when the server no longer knows that version
//! is the whole set read again. Objects that are gone by then are told as deleted at its end, not before.
//!
//! Source: Kubernetes' *API concepts* (efficient detection of changes), client-go's `tools/cache/reflector.go`.
use std::fmt::Write;
use std::time::{Duration, Instant};

use http::{Method, StatusCode};
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::kube::api::Client;
use crate::kube::api::backoff::{self, Backoff, random};
use crate::kube::api::error::{Error, Refusal};
use crate::kube::api::lines::Lines;
use crate::kube::object::{self, Object, Selection, Unreadable};
use crate::kube::objects::Writer;
use crate::telemetry::log::Throttle;

/// Objects in a page, as client-go asks for.
const PAGE: usize = 500;
/// The server ends a watch after this time, at random up to twice of it (client-go: 5 to 10 minutes).
const WATCH: Duration = Duration::from_secs(300);
/// A watch on which nothing came for so long is begun anew: bookmarks come each minute.
const SILENCE: Duration = Duration::from_secs(150);
/// A server that takes a streaming list for an ordinary watch never ends it; after this silence, or a bookmark that is
/// not the end, it is asked for pages.
const UNENDED: Duration = Duration::from_secs(30);
/// After so many refusals in a row a version counts as lost: a server that was restored from a backup may never know it.
const REFUSALS: u32 = 4;
/// Refusals that are about something else than what was asked for, and hold for lists and pages too: rights, a server that
/// is busy or starting, a balancer before one that is gone. All objects need not be read again after them.
const ELSEWHERE: [StatusCode; 6] = [
    StatusCode::UNAUTHORIZED,
    StatusCode::FORBIDDEN,
    StatusCode::NOT_FOUND,
    StatusCode::TOO_MANY_REQUESTS,
    StatusCode::BAD_GATEWAY,
    StatusCode::SERVICE_UNAVAILABLE,
];
/// A watch that lived so long was a good one.
const GOOD: Duration = Duration::from_secs(5);

/// Follows the objects until the task is aborted.
pub(super) async fn run<T: Object>(client: Client, selection: Selection, writer: Writer<T>) {
    let log = Throttle::every(Duration::from_secs(30));
    let mut watch = Watch {
        client,
        selection,
        writer,
        version: None,
        streams: true,
        log,
        lost: None,
        relisted: None,
        connected: None,
        refusals: 0,
    };
    let mut backoff = Backoff::new();
    loop {
        let begun = Instant::now();
        let end = watch.once().await;
        watch.writer.counters().set_connected(false);
        if watch.connected.take().is_some_and(|at| at.elapsed() > GOOD) {
            backoff.reset();
            watch.refusals = 0;
        }
        let again = match end {
            // Ended in order. One that ends at once, again and again, must not make us busy.
            Ok(()) if begun.elapsed() < backoff::FIRST => Again::Later(None),
            Ok(()) => Again::Now,
            Err(error) => watch.failed(&error, backoff.is_fresh()),
        };
        if let Again::Later(asked) = again {
            tokio::time::sleep(backoff.wait(asked)).await;
        }
    }
}

/// When a watch that ended begins again.
enum Again {
    Now,
    /// After a while, which may be as long as the server has asked for.
    Later(Option<Duration>),
}

struct Watch<T> {
    client: Client,
    selection: Selection,
    writer: Writer<T>,
    /// The last version that was seen, once the whole set was.
    version: Option<String>,
    /// Whether the server may be asked for streaming lists.
    streams: bool,
    log: Throttle,
    /// Since when changes don't reach us, if that was said.
    lost: Option<Instant>,
    /// When the whole set was last asked for.
    relisted: Option<Instant>,
    /// Since when changes reach us in this attempt.
    connected: Option<Instant>,
    /// Answers in a row that were no watch, and not about something else.
    refusals: u32,
}

#[derive(Deserialize)]
struct Event<'a> {
    #[serde(rename = "type")]
    kind: &'a str,
    #[serde(borrow)]
    object: &'a RawValue,
}

#[derive(Deserialize)]
struct Page<'a> {
    metadata: PageMeta,
    #[serde(borrow, default)]
    items: Option<Vec<&'a RawValue>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[derive(Default)]
struct PageMeta {
    resource_version: String,
    #[serde(rename = "continue")]
    next: Option<String>,
}

/// The version of an object, and the mark of the bookmark that ends a streaming list.
#[derive(Deserialize)]
struct Bookmark {
    metadata: BookmarkMeta,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct BookmarkMeta {
    resource_version: String,
    annotations: Option<BookmarkAnnotations>,
}

#[derive(Deserialize)]
struct BookmarkAnnotations {
    #[serde(rename = "k8s.io/initial-events-end")]
    end: Option<String>,
}

impl<T: Object> Watch<T> {
    /// One watch, the whole set before it if need be, to its end.
    async fn once(&mut self) -> Result<(), Error> {
        if self.version.is_none() {
            self.writer.counters().relist();
            self.relisted = Some(Instant::now());
            if self.streams {
                return self.stream(None).await;
            }
            self.pages().await?;
        }
        self.stream(self.version.clone()).await
    }

    /// A watch from `version` on; from none, the whole set comes first.
    async fn stream(&mut self, version: Option<String>) -> Result<(), Error> {
        let mut initial = version.is_none();
        let mut query = String::from("watch=true&allowWatchBookmarks=true");
        let _ = write!(query, "&timeoutSeconds={}", (WATCH + random(WATCH)).as_secs());
        match &version {
            Some(version) => parameter(&mut query, "resourceVersion", version),
            None => query.push_str("&sendInitialEvents=true&resourceVersionMatch=NotOlderThan"),
        }
        let response = self.client.send(Method::GET, &self.path(&query), None).await?;
        let mut lines = Lines::of(response.into_body());
        if initial {
            self.writer.begin();
        } else {
            self.connected();
        }
        loop {
            let limit = if initial { UNENDED } else { SILENCE };
            let next = lines.next(|line| self.event(line, initial));
            let Ok(next) = tokio::time::timeout(limit, next).await else {
                // The next attempt asks for pages. A watch without even a bookmark may be one from a version that the
                // server has never reached: the set is read anew.
                self.streams &= !initial;
                self.version = None;
                return Err(Error::lost(format!("nothing came for {limit:?}")));
            };
            let Some(event) = next? else {
                return match initial {
                    true => Err(Error::lost("the stream ended before the whole set had come".to_owned())),
                    false => Ok(()),
                };
            };
            self.writer.counters().contact();
            if event? && initial {
                initial = false;
                self.writer.finish();
                self.connected();
            }
        }
    }

    /// Takes in one event. Returns whether it is the end of the whole set.
    fn event(&mut self, line: &[u8], initial: bool) -> Result<bool, Error> {
        let nonsense = |error: serde_json::Error| Error::Nonsense(format!("an event can't be read: {error}"));
        let Event { kind, object } = serde_json::from_slice(line).map_err(nonsense)?;
        let json = object.get().as_bytes();
        match kind {
            "ADDED" | "MODIFIED" => self.apply(json),
            "DELETED" => match object::key_alone(json) {
                Some(key) => self.writer.delete(&key),
                None => return Err(Error::Nonsense("a deleted object has no name".to_owned())),
            },
            "BOOKMARK" => {
                let Bookmark { metadata } = serde_json::from_str(object.get()).map_err(nonsense)?;
                let ends = metadata.annotations.is_some_and(|marks| marks.end.as_deref() == Some("true"));
                if initial && !ends {
                    self.streams = false;
                    return Err(Error::Nonsense("the server takes a streaming list for a watch".to_owned()));
                }
                self.version = Some(metadata.resource_version);
                return Ok(ends);
            }
            "ERROR" => return Err(Error::Refused(Refusal::read(StatusCode::INTERNAL_SERVER_ERROR, None, json))),
            // A kind of event that is invented later must not stop us.
            _ => return Ok(false),
        }
        if !initial {
            self.writer.counters().event();
            // Versions of objects are versions of the whole; those of a streaming list come in no order.
            if let Ok(Bookmark { metadata }) = serde_json::from_str(object.get()) {
                self.version = Some(metadata.resource_version);
            }
        }
        Ok(false)
    }

    fn apply(&mut self, json: &[u8]) {
        match object::read::<T>(json, &self.selection) {
            Ok(read) => match read.object {
                Some(object) => self.writer.apply(&read.key, read.uid, object),
                None => self.writer.delete(&read.key),
            },
            Err(Unreadable { key, why }) => {
                self.writer.counters().unread();
                let name = key.as_ref().map_or("without a name", |key| key.as_str());
                let kind = T::KIND.kind;
                if self.log.allows(&format!("{name} {why}")) {
                    tracing::error!("{kind} {name} can't be used: {why}; what was known of it stays");
                }
                if let Some(key) = key {
                    self.writer.keep(&key);
                }
            }
        }
    }

    /// The whole set, in pages.
    async fn pages(&mut self) -> Result<(), Error> {
        self.writer.begin();
        let (mut next, mut size) = (None::<String>, Some(PAGE));
        loop {
            let mut query = String::new();
            if let Some(size) = size {
                parameter(&mut query, "limit", &size.to_string());
            }
            if let Some(next) = &next {
                parameter(&mut query, "continue", next);
            }
            let body = match self.client.request(Method::GET, &self.path(&query), None).await {
                Ok(body) => body,
                // The pages took too long, and the server has forgotten the state that they are of: all at once, then.
                Err(error) if error.is_expired() && next.is_some() => {
                    (next, size) = (None, None);
                    self.writer.begin();
                    continue;
                }
                Err(error) => return Err(error),
            };
            let page: Page<'_> = serde_json::from_slice(&body)
                .map_err(|error| Error::Nonsense(format!("a list can't be read: {error}")))?;
            for item in page.items.unwrap_or_default() {
                self.apply(item.get().as_bytes());
            }
            self.writer.counters().contact();
            match page.metadata.next.filter(|next| !next.is_empty()) {
                Some(more) => next = Some(more),
                None => {
                    self.version = Some(page.metadata.resource_version);
                    self.writer.finish();
                    return Ok(());
                }
            }
        }
    }

    fn connected(&mut self) {
        self.writer.counters().set_connected(true);
        self.writer.counters().contact();
        self.connected = Some(Instant::now());
        if let Some(since) = self.lost.take() {
            let seconds = since.elapsed().as_secs();
            tracing::info!("Watching {} again, after {seconds} s", T::KIND.plural);
        }
    }

    /// Says what went wrong, unless it is the `first` failure, and draws conclusions.
    fn failed(&mut self, error: &Error, first: bool) -> Again {
        let refused = |status| matches!(error, Error::Refused(refusal) if refusal.status == status);
        if self.version.is_some() && error.is_expired() {
            tracing::debug!("The server no longer knows our version of {}; reading all of them", T::KIND.plural);
            self.version = None;
            // A server that says so at once after each list must not keep us busy.
            let lately = self.relisted.is_some_and(|at| at.elapsed() < GOOD);
            return if lately { Again::Later(None) } else { Again::Now };
        }
        // Servers refuse streaming lists with 400, 422, and, over an old etcd, with 500; client-go turns to pages after any
        // error.
        let refusal = matches!(error, Error::Refused(refusal) if !ELSEWHERE.contains(&refusal.status));
        if self.version.is_none() && self.streams && refusal {
            tracing::debug!("The server gives no streaming list of {}: {error}", T::KIND.plural);
            self.streams = false;
            return Again::Now;
        }
        self.writer.counters().failure();
        self.refusals += u32::from(refusal || matches!(error, Error::Nonsense(_)));
        if self.refusals >= REFUSALS {
            self.refusals = 0;
            self.version = None;
        }
        // A single watch that broke is ordinary; a second failure in a row is worth a word.
        if !first && self.log.allows(&error.to_string()) {
            let kind = T::KIND.plural;
            let hint = match refused(StatusCode::NOT_FOUND) {
                true => " (is the kind installed?)",
                false => "",
            };
            tracing::warn!("Failed to watch {kind}: {error}{hint}; the last state stays in use");
            self.lost.get_or_insert_with(Instant::now);
        }
        Again::Later(match error {
            Error::Refused(refusal) => refusal.retry_after,
            _ => None,
        })
    }

    fn path(&self, query: &str) -> String {
        let kind = T::KIND;
        let mut path = match kind.group {
            "" => format!("/api/{}", kind.version),
            group => format!("/apis/{group}/{}", kind.version),
        };
        if let Some(namespace) = &self.selection.namespace {
            let _ = write!(path, "/namespaces/{namespace}");
        }
        let _ = write!(path, "/{}?", kind.plural);
        if let Some(name) = &self.selection.name {
            parameter(&mut path, "fieldSelector", &format!("metadata.name={name}"));
        }
        let labels = self.selection.label_selector();
        if !labels.is_empty() {
            parameter(&mut path, "labelSelector", &labels);
        }
        if !query.is_empty() {
            if !path.ends_with('?') {
                path.push('&');
            }
            path.push_str(query.trim_start_matches('&'));
        }
        path
    }
}

/// Appends `&name=value`, without the `&` after a `?` or at the beginning.
fn parameter(query: &mut String, name: &str, value: &str) {
    if !query.is_empty() && !query.ends_with('?') {
        query.push('&');
    }
    query.push_str(name);
    query.push('=');
    for byte in value.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => query.push(char::from(byte)),
            _ => {
                let _ = write!(query, "%{byte:02X}");
            }
        }
    }
}
