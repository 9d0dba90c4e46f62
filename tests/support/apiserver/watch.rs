//! The stream of one watch.
use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use serde_json::{Value, json};
use tokio::sync::mpsc::Sender;
use tokio::time::Instant;

use super::state::{Event, Resource, Selector};
use super::{Cut, Shared};

/// A piece of a body; an error resets the stream.
pub(super) type Piece = io::Result<Bytes>;

pub(super) struct Watch {
    pub(super) resource: Resource,
    pub(super) selector: Selector,
    /// The version after which events are sent.
    pub(super) from: u64,
    /// What is sent first, as added.
    pub(super) initial: Vec<Value>,
    /// Whether a bookmark ends that.
    pub(super) mark_end: bool,
    pub(super) bookmarks: bool,
    pub(super) limit: Duration,
}

struct Counted(Arc<Shared>, String);

impl Counted {
    fn new(shared: &Arc<Shared>, plural: &str) -> Self {
        *shared.state.lock().unwrap().watches.entry(plural.to_owned()).or_default() += 1;
        Self(Arc::clone(shared), plural.to_owned())
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        *self.0.state.lock().unwrap().watches.entry(self.1.clone()).or_default() -= 1;
    }
}

impl Watch {
    /// Sends until the watch ends; an error means that the client has gone.
    pub(super) async fn run(mut self, shared: Arc<Shared>, to: Sender<Piece>) -> Option<()> {
        let plural = self.resource.plural.clone();
        let mut turn = shared.turn.subscribe();
        let (cuts, bookmarks) = {
            let state = shared.state.lock().unwrap();
            (state.cuts.get(&plural).map_or(0, |cut| cut.0), state.bookmarks)
        };
        let _counted = Counted::new(&shared, &plural);
        for object in std::mem::take(&mut self.initial) {
            self.send(&shared, &to, "ADDED", &object).await?;
        }
        if self.mark_end {
            let mut bookmark = self.bookmark();
            bookmark["metadata"]["annotations"] = json!({"k8s.io/initial-events-end": "true"});
            self.send(&shared, &to, "BOOKMARK", &bookmark).await?;
        }
        let end = Instant::now() + self.limit;
        let mut marked = bookmarks;
        loop {
            let (events, cut, bookmarks) = {
                let state = shared.state.lock().unwrap();
                let held = state.held.contains(&plural);
                let new = |event: &&Event| event.version > self.from && event.resource == self.resource && !held;
                let cut = state.cuts.get(&plural).filter(|cut| cut.0 > cuts).map(|cut| cut.1);
                let from = state.history.partition_point(|event| event.version <= self.from);
                (state.history.iter().skip(from).filter(new).cloned().collect::<Vec<_>>(), cut, state.bookmarks)
            };
            for event in events {
                self.from = event.version;
                if let Some(kind) = self.kind(&event) {
                    self.send(&shared, &to, kind, &event.told).await?;
                }
            }
            match cut {
                None => {}
                Some(Cut::Clean) => return Some(()),
                Some(Cut::MidEvent) => {
                    to.send(Ok(Bytes::from_static(b"{\"type\":\"MODIFIED\",\"object\":{\"metada"))).await.ok()?;
                    // The client has to see the bytes before the reset overtakes them.
                    tokio::time::sleep(Duration::from_millis(20)).await;
                    to.send(Err(io::Error::other("cut"))).await.ok()?;
                    return Some(());
                }
                Some(Cut::Expired) => {
                    let status = super::serve::status(410, "Expired", "too old resource version");
                    self.send(&shared, &to, "ERROR", &status).await?;
                    return Some(());
                }
            }
            if self.bookmarks && bookmarks > marked {
                marked = bookmarks;
                self.send(&shared, &to, "BOOKMARK", &self.bookmark()).await?;
            }
            tokio::select! {
                changed = turn.changed() => changed.ok()?,
                () = tokio::time::sleep_until(end) => return Some(()),
                () = to.closed() => return None,
            }
        }
    }

    /// What an event is to this watch: an object may enter and leave what is selected.
    fn kind(&self, event: &Event) -> Option<&'static str> {
        let selected = |object: &Option<Value>| object.as_ref().is_some_and(|object| self.selector.matches(object));
        match (selected(&event.before), selected(&event.after)) {
            (false, false) => None,
            (false, true) => Some("ADDED"),
            (true, true) => Some("MODIFIED"),
            (true, false) => Some("DELETED"),
        }
    }

    fn bookmark(&self) -> Value {
        json!({"kind": "Bookmark", "apiVersion": self.resource.api, "metadata": {"resourceVersion": self.from.to_string()}})
    }

    async fn send(&self, shared: &Shared, to: &Sender<Piece>, kind: &str, object: &Value) -> Option<()> {
        let mut line = json!({"type": kind, "object": object}).to_string();
        line.push('\n');
        let slow = shared.state.lock().unwrap().slow;
        let Some((size, pause)) = slow else {
            return to.send(Ok(line.into())).await.ok();
        };
        for piece in line.as_bytes().chunks(size) {
            to.send(Ok(Bytes::copy_from_slice(piece))).await.ok()?;
            tokio::time::sleep(pause).await;
        }
        Some(())
    }
}
