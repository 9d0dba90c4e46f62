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
mod kind;
mod looks;

use std::cell::RefCell;
use std::collections::{BTreeMap, HashSet};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;

use crate::config::directory::{FileLooks, Watch};
use crate::kube::counters::Activity;
use crate::kube::manifest;
use crate::kube::object::{Object, Selection};
use crate::kube::objects::Objects;
use kind::{Kind, Sink};
use looks::Looks;

/// How often the directory is looked at without a hint.
const POLL: Duration = Duration::from_secs(1);
/// Longest file: 10,000 objects of ordinary size.
const MAX_FILE: u64 = 256 << 20;

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
        self.0.sinks.borrow_mut().push(Box::new(Kind::new(writer, selection)));
        self.0.hint.notify_one();
        if !self.0.followed.replace(true) {
            tokio::task::spawn_local(follow(Rc::clone(&self.0)));
        }
        objects
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
        let looks = looks::settled(&directory.path, &reader.seen).await;
        reader.step(&directory, looks);
        let _ = tokio::time::timeout(POLL, hint.notified()).await;
    }
}

#[derive(Default)]
struct Reader {
    seen: BTreeMap<String, FileLooks>,
    /// Files of which nothing was wanted when they were last read, and which nobody has parsed.
    unparsed: HashSet<String>,
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
            self.unparsed.remove(&name);
            sinks.iter_mut().for_each(|sink| sink.forget(&path.join(&name)));
        }
        for (name, file) in &looks.files {
            if !changed(name, file, &self.seen) && !self.shadowed.contains(name) {
                continue;
            }
            let shown: Arc<Path> = path.join(name).into();
            match read(&looks.within.join(name)) {
                Ok(text) => {
                    // Who has read everything needs no file again that is as it was.
                    let same = self.seen.get(name) == Some(file) && !self.shadowed.contains(name);
                    // Parsing is what a start with thousands of files spends its time on, and settings are read one by
                    // one before the rest: readers of those pass over files that can't have them.
                    let parsed = self.seen.contains_key(name) && !self.unparsed.contains(name);
                    let mut asking = sinks.iter().filter(|sink| !same || !sink.is_complete());
                    if !asking.any(|sink| sink.is_complete() || sink.may_want(&text, parsed)) {
                        if !parsed {
                            self.unparsed.insert(name.clone());
                        }
                        self.seen.insert(name.clone(), file.clone());
                        continue;
                    }
                    self.unparsed.remove(name);
                    let items = manifest::items(&text);
                    report(&shown, &items);
                    let mut shadowed = false;
                    for sink in sinks.iter_mut().filter(|sink| !same || !sink.is_complete()) {
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
