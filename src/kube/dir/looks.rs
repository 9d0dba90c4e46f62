//! What a directory looks like from outside, and hints that it has changed.
//!
//! Control side; called by [`super`].
use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use notify::Watcher;
use notify::event::{AccessKind, EventKind};
use tokio::sync::Notify;

/// Files count as settled when they looked the same for so long.
const SETTLED: Duration = Duration::from_millis(20);
/// Files that never settle are read after so many looks.
const LOOKS: usize = 25;

/// The looks of the directory once they have stopped changing; at once if they are as they were `before`.
pub(super) async fn settled(path: &Path, before: &BTreeMap<String, FileLooks>) -> io::Result<Looks> {
    let mut looks = Looks::of(path)?;
    if looks.files == *before {
        return Ok(looks);
    }
    for _ in 0..LOOKS {
        tokio::time::sleep(SETTLED).await;
        let next = Looks::of(path)?;
        if next == looks {
            break;
        }
        looks = next;
    }
    Ok(looks)
}

/// What can be seen of the directory without reading its files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Looks {
    /// Where the files of this generation are.
    pub(super) within: PathBuf,
    /// By name.
    pub(super) files: BTreeMap<String, FileLooks>,
}

/// Identity and age of one file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct FileLooks {
    file: (u64, u64),
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Looks {
    fn of(dir: &Path) -> io::Result<Self> {
        let within = match fs::read_link(dir.join("..data")) {
            Ok(target) => dir.join(target),
            Err(_) => dir.to_owned(),
        };
        let mut files = BTreeMap::new();
        for entry in fs::read_dir(&within)? {
            let path = entry?.path();
            let Some(name) = path.file_name().and_then(|name| name.to_str()) else { continue };
            let kind = path.extension().and_then(|extension| extension.to_str());
            if name.starts_with('.') || !matches!(kind, Some("yaml" | "yml" | "json")) {
                continue;
            }
            // A file that vanishes between these two lines is gone.
            let Ok(meta) = fs::metadata(&path) else { continue };
            if meta.is_file() {
                files.insert(name.to_owned(), FileLooks::of(&meta));
            }
        }
        Ok(Self { within, files })
    }
}

impl FileLooks {
    fn of(meta: &fs::Metadata) -> Self {
        Self {
            file: (meta.dev(), meta.ino()),
            size: meta.size(),
            modified: (meta.mtime(), meta.mtime_nsec()),
            changed: (meta.ctime(), meta.ctime_nsec()),
        }
    }
}

/// A watch on the directory, set anew when the directory is another one.
#[derive(Default)]
pub(super) struct Watch {
    watched: Option<(u64, u64)>,
    watcher: Option<notify::RecommendedWatcher>,
}

impl Watch {
    pub(super) fn keep_on(&mut self, dir: &Path, hint: &Arc<Notify>) {
        let identity = fs::metadata(dir).ok().map(|meta| (meta.dev(), meta.ino()));
        if identity == self.watched {
            return;
        }
        self.watched = identity;
        self.watcher = None;
        if identity.is_none() {
            return;
        }
        let hint = Arc::clone(hint);
        let told = move |event: notify::Result<notify::Event>| {
            // Our own reading opens and closes files too, and is no news.
            let read = |kind: &EventKind| {
                use notify::event::AccessMode;
                let close = AccessKind::Close(AccessMode::Write);
                matches!(kind, EventKind::Access(access) if *access != close)
            };
            if !matches!(&event, Ok(event) if read(&event.kind)) {
                hint.notify_one();
            }
        };
        match notify::recommended_watcher(told).and_then(|mut watcher| {
            watcher.watch(dir, notify::RecursiveMode::NonRecursive)?;
            Ok(watcher)
        }) {
            Ok(watcher) => self.watcher = Some(watcher),
            // Looking each second is enough; it only takes up to a second longer.
            Err(error) => tracing::debug!("No file-system events for {}: {error}", dir.display()),
        }
    }
}
