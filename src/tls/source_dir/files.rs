//! The files of a mounted directory: what can be seen of them, and their bytes, all of one generation.

use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use crate::config::directory::FileLooks;
use crate::tls::identity::{Reason, Rejection};

/// Larger files are refused: a Secret holds 1 MiB at most.
const MAX_FILE: u64 = 1 << 20;

pub(super) const CERTIFICATE: &str = "tls.crt";
pub(super) const KEY: &str = "tls.key";
pub(super) const AUTHORITIES: &str = "ca.crt";

/// The files' bytes; none for one that is missing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Files {
    pub(super) certificate: Option<Vec<u8>>,
    pub(super) key: Option<Secret>,
    pub(super) authorities: Option<Vec<u8>>,
}

/// The bytes of a private key; never printed.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Secret(pub(super) Vec<u8>);

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secret")
    }
}

/// What can be seen of a directory without reading its files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Looks {
    pub(super) data: Option<PathBuf>,
    files: Vec<Option<FileLooks>>,
}

/// Reads from `from`; a file that `dir` has and the generation has not is no link into it and is read from `dir`.
pub(super) fn read_files(from: &Path, dir: &Path, through_link: bool) -> Result<Files, Rejection> {
    let read = |what: &str, name: &str| {
        let mut path = from.join(name);
        if through_link && !path.exists() {
            path = dir.join(name);
        }
        read_file(&path).map_err(|error| Rejection {
            reason: Reason::Unreadable,
            detail: format!("failed to load {what} file in {}: {error}", dir.join(name).display()),
        })
    };
    Ok(Files {
        certificate: read("certificate", CERTIFICATE)?,
        key: read("key", KEY)?.map(Secret),
        authorities: read("authority", AUTHORITIES)?,
    })
}

fn read_file(path: &Path) -> io::Result<Option<Vec<u8>>> {
    let file = match fs::File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let mut bytes = Vec::new();
    file.take(MAX_FILE + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > MAX_FILE {
        return Err(io::Error::new(io::ErrorKind::InvalidData, format!("larger than {MAX_FILE} bytes")));
    }
    Ok(Some(bytes))
}

impl Looks {
    pub(super) fn of(dir: &Path) -> Self {
        let file = |name| FileLooks::at(&dir.join(name));
        Self {
            data: fs::read_link(dir.join("..data")).ok(),
            files: [CERTIFICATE, KEY, AUTHORITIES].into_iter().map(file).collect(),
        }
    }
}
