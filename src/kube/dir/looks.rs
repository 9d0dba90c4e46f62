//! What a directory of manifests looks like from outside.
//!
//! Control side; called by [`super`].
use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::config::directory::FileLooks;

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
