//! What can be seen of files without reading them, and hints that a directory has changed.
//!
//! Control side; called by whoever follows a directory: certificates ([`crate::tls`]) and manifests ([`crate::kube`]).
//! An event of the file system is a hint and no more, since events get lost on some file systems: who follows a directory
//! looks again each second all the same.
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::sync::Arc;

use notify::Watcher as _;
use notify::event::{AccessKind, AccessMode, EventKind};
use tokio::sync::Notify;

/// Identity and age of one file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileLooks {
    file: (u64, u64),
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl FileLooks {
    /// As the file's metadata show it.
    #[must_use]
    pub fn of(meta: &fs::Metadata) -> Self {
        Self {
            file: (meta.dev(), meta.ino()),
            size: meta.size(),
            modified: (meta.mtime(), meta.mtime_nsec()),
            changed: (meta.ctime(), meta.ctime_nsec()),
        }
    }

    /// As the file at `path` looks now, links followed; none if there is none.
    #[must_use]
    pub fn at(path: &Path) -> Option<Self> {
        fs::metadata(path).ok().map(|meta| Self::of(&meta))
    }
}

/// A watch on a directory, set anew when there is another one in its place.
#[derive(Default)]
pub struct Watch {
    watched: Option<(u64, u64)>,
    watcher: Option<notify::RecommendedWatcher>,
}

impl Watch {
    /// Sees to it that the directory at `dir`, as it is now, is watched; each change in it notifies `hint`. To be called before
    /// each look.
    pub fn keep_on(&mut self, dir: &Path, hint: &Arc<Notify>) {
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
            let read = |kind: &EventKind| matches!(kind, EventKind::Access(access) if *access != AccessKind::Close(AccessMode::Write));
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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn given_a_watched_directory_when_files_are_read_then_there_is_no_hint_and_when_one_is_written_there_is() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("file");
        fs::write(&file, "1").unwrap();
        let (hint, mut watch) = (Arc::new(Notify::new()), Watch::default());
        watch.keep_on(dir.path(), &hint);

        fs::read(&file).unwrap();
        fs::read_dir(dir.path()).unwrap().for_each(drop);
        let before = FileLooks::at(&file);
        let early = tokio::time::timeout(Duration::from_millis(200), hint.notified()).await;
        assert!(early.is_err(), "reading is no news");

        fs::write(&file, "2 and more").unwrap();
        tokio::time::timeout(Duration::from_secs(30), hint.notified()).await.unwrap();
        assert_ne!(FileLooks::at(&file), before);
    }

    #[tokio::test]
    async fn given_a_directory_that_is_replaced_when_kept_on_then_the_new_one_is_watched() {
        let parent = tempfile::tempdir().unwrap();
        let dir = parent.path().join("dir");
        let (hint, mut watch) = (Arc::new(Notify::new()), Watch::default());
        watch.keep_on(&dir, &hint);
        for _ in 0..2 {
            fs::create_dir(&dir).unwrap();
            watch.keep_on(&dir, &hint);
            fs::write(dir.join("file"), "1").unwrap();
            tokio::time::timeout(Duration::from_secs(30), hint.notified()).await.unwrap();
            fs::rename(&dir, parent.path().join("old")).unwrap();
            fs::remove_dir_all(parent.path().join("old")).unwrap();
        }
    }
}
