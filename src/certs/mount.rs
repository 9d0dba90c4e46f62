//! Lays files out as kubelet mounts a Secret or ConfigMap, and swaps them as it does.
//!
//! Used by tests and by `local`, so that both live through what a pod lives through. Each generation is a directory with
//! a name of its own, `..data` is a link to the current one that is replaced by an atomic rename, and the visible files
//! are links through `..data` (`k8s.io/kubernetes`, `pkg/volume/util/atomic_writer.go`).
use std::collections::BTreeMap;
use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, symlink};
use std::path::{Path, PathBuf};

use crate::certs::mint::Pair;

/// A mounted volume.
#[derive(Debug)]
pub struct Mount {
    dir: PathBuf,
    generation: u64,
}

impl Mount {
    /// A volume at `dir`, which is made if it is missing (for this user alone); without files yet.
    ///
    /// # Errors
    /// The directory can't be made.
    pub fn new(dir: impl Into<PathBuf>) -> io::Result<Self> {
        let dir = dir.into();
        DirBuilder::new().recursive(true).mode(0o700).create(&dir)?;
        Ok(Self { dir, generation: 0 })
    }

    /// Where it is mounted.
    pub fn path(&self) -> &Path {
        &self.dir
    }

    /// Swaps in a certificate pair and its authorities, as a TLS Secret of cert-manager.
    ///
    /// # Errors
    /// A file can't be written.
    pub fn swap(&mut self, pair: &Pair, ca_pem: &str) -> io::Result<()> {
        self.swap_files(&[
            ("tls.crt", pair.cert_pem.as_bytes()),
            ("tls.key", pair.key_pem.as_bytes()),
            ("ca.crt", ca_pem.as_bytes()),
        ])
    }

    /// Swaps in these files and no others; none empties the volume.
    ///
    /// # Errors
    /// A file can't be written.
    pub fn swap_files(&mut self, files: &[(&str, &[u8])]) -> io::Result<()> {
        let files: BTreeMap<&str, &[u8]> = files.iter().copied().collect();
        let data = self.dir.join("..data");
        let old = fs::read_link(&data).ok();

        self.generation += 1;
        let name = loop {
            let name = format!("..2026_01_01_00_00_00.{:09}", self.generation);
            if !self.dir.join(&name).exists() {
                break name;
            }
            self.generation += 1;
        };
        fs::create_dir(self.dir.join(&name))?;
        for (file, bytes) in &files {
            fs::write(self.dir.join(&name).join(file), bytes)?;
        }

        let new = self.dir.join("..data_tmp");
        let _ = fs::remove_file(&new);
        symlink(&name, &new)?;
        fs::rename(&new, &data)?;

        for file in files.keys() {
            let link = self.dir.join(file);
            if fs::symlink_metadata(&link).is_err() {
                symlink(Path::new("..data").join(file), link)?;
            }
        }
        for entry in fs::read_dir(&self.dir)? {
            let entry = entry?;
            let visible = entry.file_name().to_string_lossy().into_owned();
            if !visible.starts_with("..") && !files.contains_key(visible.as_str()) {
                fs::remove_file(entry.path())?;
            }
        }
        match old {
            Some(old) => fs::remove_dir_all(self.dir.join(old)),
            None => Ok(()),
        }
    }
}
