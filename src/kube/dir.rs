//! Objects from a directory of manifests, followed for as long as somebody reads them.
//!
//! For `local`, tests and looking at a cluster's state without the cluster. Every file directly in the directory whose
//! name ends in `.yaml`, `.yml` or `.json` is read, in the order of names; those that begin with a dot are not. An
//! object without a namespace is in `default`, and its name must be its own: of two with the same one, the first counts.
//!
//! As with certificates ([`crate::tls::source_dir`]), a file-system event is only a hint, files are read through one
//! resolved `..data`, and each second the looks of all files are compared. Files that change are read once they have
//! stopped changing, so that a file in the middle of being written is not taken for a shorter one. A file that can't be
//! read, and a document that can't be, leave what was known of them in place, as does a directory that vanishes.
use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use notify::Watcher;
use notify::event::{AccessKind, EventKind};
use serde_json::Value;
use tokio::sync::Notify;

use crate::kube::counters::Activity;
use crate::kube::key::Key;
use crate::kube::manifest;
use crate::kube::object::{self, Object, Selection, Unreadable};
use crate::kube::objects::{Objects, Writer};
use crate::telemetry::log::Throttle;

/// How often the directory is looked at without a hint.
const POLL: Duration = Duration::from_secs(1);
/// Files count as settled when they looked the same for so long.
const SETTLED: Duration = Duration::from_millis(20);
/// Files that never settle are read after so many looks.
const LOOKS: usize = 25;
/// Longest file: 10,000 objects of ordinary size.
const MAX_FILE: u64 = 256 << 20;
/// Where objects are that don't say.
const NAMESPACE: &str = "default";

/// A directory of manifests. Clones share the watch of it. Lives on one thread, within a `LocalSet`.
#[derive(Clone)]
pub struct Directory(Rc<Shared>);

struct Shared {
    path: PathBuf,
    sinks: RefCell<Vec<Box<dyn Sink>>>,
    hint: Arc<Notify>,
    activity: Activity,
    /// Whether a task follows the directory.
    followed: RefCell<bool>,
}

impl std::fmt::Debug for Directory {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Directory").field(&self.0.path).finish()
    }
}

impl Directory {
    /// The directory at `path`, which need not exist yet.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self(Rc::new(Shared {
            path: path.into(),
            sinks: RefCell::default(),
            hint: Arc::default(),
            activity: Activity::default(),
            followed: RefCell::default(),
        }))
    }

    /// What is read of this directory now.
    pub fn activity(&self) -> &Activity {
        &self.0.activity
    }

    /// The objects of one kind, from now on, as [`crate::kube::Source::objects`] has it.
    pub fn objects<T: Object>(&self, selection: Selection) -> Objects<T> {
        let (objects, mut writer) = Objects::new();
        self.0.activity.add(T::KIND.plural, objects.counters());
        writer.begin();
        let log = Throttle::every(Duration::from_secs(60));
        let kind = Kind { writer, selection, log, files: HashMap::new(), owners: HashMap::new(), complete: false };
        self.0.sinks.borrow_mut().push(Box::new(kind));
        self.0.hint.notify_one();
        if !self.0.followed.replace(true) {
            tokio::task::spawn_local(follow(Rc::clone(&self.0)));
        }
        objects
    }
}

/// One kind of objects, whatever its type.
trait Sink {
    /// Whether anybody still reads them.
    fn is_read(&self) -> bool;
    /// Whether every file was given once.
    fn is_complete(&self) -> bool;
    /// A file is so now. Returns whether an object of it was passed over because another file has it too.
    fn take(&mut self, file: &Arc<Path>, items: &[manifest::Item]) -> bool;
    /// A file is gone.
    fn forget(&mut self, file: &Path);
    /// All files have been given.
    fn finish(&mut self);
    /// Whether the directory can be read at all.
    fn connected(&mut self, connected: bool);
}

struct Kind<T> {
    writer: Writer<T>,
    selection: Selection,
    log: Throttle,
    /// The objects of each file.
    files: HashMap<Arc<Path>, Vec<Key>>,
    /// The file of each object.
    owners: HashMap<Key, Arc<Path>>,
    complete: bool,
}

impl<T: Object> Kind<T> {
    fn is_ours(value: &Value) -> bool {
        let text = |name: &str| value.get(name).and_then(Value::as_str);
        text("kind") == Some(T::KIND.kind) && text("apiVersion") == Some(&T::KIND.api_version())
    }

    fn complain(&self, file: &Path, place: &str, why: &str) {
        self.writer.counters().unread();
        if self.log.allows(&format!("{} {place} {why}", file.display())) {
            let kind = T::KIND.kind;
            tracing::error!("{}, {place}: {kind} can't be used: {why}; what was known of it stays", file.display());
        }
    }

    fn remove(&mut self, key: &Key) {
        self.owners.remove(key);
        self.writer.delete(key);
    }
}

impl<T: Object> Sink for Kind<T> {
    fn is_read(&self) -> bool {
        self.writer.is_read()
    }

    fn is_complete(&self) -> bool {
        self.complete
    }

    fn take(&mut self, file: &Arc<Path>, items: &[manifest::Item]) -> bool {
        let before = self.files.remove(file).unwrap_or_default();
        let (mut now, mut seen) = (Vec::new(), HashSet::new());
        let (mut broken, mut shadowed) = (false, false);
        for manifest::Item { place, object } in items {
            let Ok(value) = object else {
                broken = true;
                continue;
            };
            if !Self::is_ours(value) {
                continue;
            }
            // Through text, so that objects have one reader only, whatever they come from.
            let json = serde_json::to_vec(value).unwrap_or_default();
            let read = object::read_in::<T>(&json, &self.selection, NAMESPACE);
            let key = match &read {
                Ok(read) => read.key.clone(),
                Err(Unreadable { key: Some(key), .. }) => key.clone(),
                Err(Unreadable { key: None, why }) => {
                    broken = true;
                    self.complain(file, place, why);
                    continue;
                }
            };
            let owner = self.owners.get(&key).filter(|owner| *owner != file);
            if owner.is_some() || !seen.insert(key.clone()) {
                shadowed |= owner.is_some();
                let first = owner.unwrap_or(file).display();
                self.complain(file, place, &format!("{key} is in {first} already"));
                continue;
            }
            self.writer.counters().event();
            match read {
                Ok(read) => match read.object {
                    Some(object) => self.writer.apply(&key, read.uid, object),
                    None => self.writer.delete(&key),
                },
                Err(Unreadable { why, .. }) => {
                    self.complain(file, place, &why);
                    self.writer.keep(&key);
                }
            }
            self.owners.insert(key.clone(), Arc::clone(file));
            now.push(key);
        }
        for key in before {
            match seen.contains(&key) {
                true => {}
                // It may be the one that can't be read.
                false if broken => now.push(key),
                false => self.remove(&key),
            }
        }
        if !now.is_empty() {
            self.files.insert(Arc::clone(file), now);
        }
        self.writer.counters().contact();
        shadowed
    }

    fn forget(&mut self, file: &Path) {
        for key in self.files.remove(file).unwrap_or_default() {
            self.remove(&key);
        }
    }

    fn finish(&mut self) {
        if !self.complete {
            self.complete = true;
            self.writer.counters().relist();
            self.writer.finish();
        }
    }

    fn connected(&mut self, connected: bool) {
        self.writer.counters().set_connected(connected);
        if connected {
            self.writer.counters().contact();
        }
    }
}

/// Follows the directory until nobody reads any kind of it.
async fn follow(directory: Rc<Shared>) {
    let hint = &directory.hint;
    let mut reader = Reader::default();
    let mut watch = Watch::default();
    loop {
        watch.keep_on(&directory.path, hint);
        directory.sinks.borrow_mut().retain(|sink| sink.is_read());
        if directory.sinks.borrow().is_empty() {
            directory.followed.replace(false);
            return;
        }
        let looks = settled(&directory.path).await;
        reader.step(&directory, looks);
        let _ = tokio::time::timeout(POLL, hint.notified()).await;
    }
}

/// The looks of the directory once they have stopped changing.
async fn settled(path: &Path) -> io::Result<Looks> {
    let mut looks = Looks::of(path)?;
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

#[derive(Default)]
struct Reader {
    seen: BTreeMap<String, FileLooks>,
    /// Files that have an object which another file has too: read again when anything else changes.
    shadowed: HashSet<String>,
    complaint: Option<String>,
}

impl Reader {
    fn step(&mut self, directory: &Shared, looks: io::Result<Looks>) {
        let path = &directory.path;
        let mut sinks = directory.sinks.borrow_mut();
        let looks = match looks {
            Ok(looks) => looks,
            Err(error) => {
                sinks.iter_mut().for_each(|sink| sink.connected(false));
                self.complain(format!("The directory of manifests {} can't be read: {error}", path.display()));
                return;
            }
        };
        self.complaint = None;
        sinks.iter_mut().for_each(|sink| sink.connected(true));
        // A kind that was asked for later has seen nothing yet: all is read again.
        let anew = sinks.iter().any(|sink| !sink.is_complete());
        let gone: Vec<String> = self.seen.keys().filter(|name| !looks.files.contains_key(*name)).cloned().collect();
        let changed = |name: &String, file: &FileLooks, seen: &BTreeMap<_, _>| anew || seen.get(name) != Some(file);
        let any = !gone.is_empty() || looks.files.iter().any(|(name, file)| changed(name, file, &self.seen));
        if !any {
            return;
        }
        for name in gone {
            self.seen.remove(&name);
            self.shadowed.remove(&name);
            sinks.iter_mut().for_each(|sink| sink.forget(&path.join(&name)));
        }
        for (name, file) in &looks.files {
            if !changed(name, file, &self.seen) && !self.shadowed.contains(name) {
                continue;
            }
            let shown: Arc<Path> = path.join(name).into();
            match read(&looks.within.join(name)) {
                Ok(text) => {
                    let items = manifest::items(&text);
                    report(&shown, &items);
                    let mut shadowed = false;
                    for sink in sinks.iter_mut() {
                        shadowed |= sink.take(&shown, &items);
                    }
                    match shadowed {
                        true => self.shadowed.insert(name.clone()),
                        false => self.shadowed.remove(name),
                    };
                    self.seen.insert(name.clone(), file.clone());
                }
                // Not remembered as seen, so that it is tried again.
                Err(error) => {
                    self.complain(format!("{}: {error}; what was known of it stays", shown.display()));
                }
            }
        }
        sinks.iter_mut().for_each(|sink| sink.finish());
    }

    fn complain(&mut self, words: String) {
        if self.complaint.as_ref() != Some(&words) {
            tracing::error!("{words}");
            self.complaint = Some(words);
        }
    }
}

/// Documents that can't be read at all belong to no kind.
fn report(file: &Path, items: &[manifest::Item]) {
    for manifest::Item { place, object } in items {
        if let Err(why) = object {
            tracing::error!("{}, {place} can't be read: {why}; what was known of it stays", file.display());
        }
    }
}

fn read(path: &Path) -> io::Result<String> {
    if fs::metadata(path)?.len() > MAX_FILE {
        return Err(io::Error::new(io::ErrorKind::InvalidData, format!("larger than {MAX_FILE} bytes")));
    }
    fs::read_to_string(path)
}

/// What can be seen of the directory without reading its files.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Looks {
    /// Where the files of this generation are.
    within: PathBuf,
    files: BTreeMap<String, FileLooks>,
}

/// Identity and age of one file.
#[derive(Clone, Debug, PartialEq, Eq)]
struct FileLooks {
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
struct Watch {
    watched: Option<(u64, u64)>,
    watcher: Option<notify::RecommendedWatcher>,
}

impl Watch {
    fn keep_on(&mut self, dir: &Path, hint: &Arc<Notify>) {
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

#[cfg(test)]
mod tests;
