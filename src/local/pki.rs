//! Throw-away certificates for `local` and its check: a CA, leaves of it, and a directory laid out as the kubelet does
//! it, so that a rotation here is the same swap of a symbolic link as in a pod.
use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::{DirBuilderExt, symlink};
use std::path::{Path, PathBuf};

use rcgen::{BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair};
use rcgen::{KeyUsagePurpose, SerialNumber};

/// A certificate authority that lives as long as this value.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
    der: Vec<u8>,
}

/// A leaf's chain and key, and its serial number.
#[derive(Clone, Debug)]
pub struct Leaf {
    /// The chain, PEM.
    pub chain: String,
    /// The key, PKCS#8 PEM.
    pub key: String,
    /// The serial number, hexadecimal.
    pub serial: String,
}

impl Authority {
    /// A new one, ECDSA P-256.
    ///
    /// # Errors
    /// When no key can be made.
    pub fn mint(name: &str) -> io::Result<Self> {
        let key = KeyPair::generate().map_err(io::Error::other)?;
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let certificate = params.self_signed(&key).map_err(io::Error::other)?;
        Ok(Self { pem: certificate.pem(), der: certificate.der().to_vec(), issuer: Issuer::new(params, key) })
    }

    /// The CA's certificate, PEM.
    #[must_use]
    pub fn pem(&self) -> &str {
        &self.pem
    }

    /// The CA's certificate, DER.
    #[must_use]
    pub fn der(&self) -> &[u8] {
        &self.der
    }

    /// A server's leaf for `names` (DNS names and addresses).
    ///
    /// # Errors
    /// When a name is not one, or no key can be made.
    pub fn leaf(&self, names: &[&str], serial: u64) -> io::Result<Leaf> {
        let key = KeyPair::generate().map_err(io::Error::other)?;
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let mut params = CertificateParams::new(names).map_err(io::Error::other)?;
        params.distinguished_name.push(DnType::CommonName, "lockkeeper");
        params.serial_number = Some(SerialNumber::from(serial));
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let certificate = params.signed_by(&key, &self.issuer).map_err(io::Error::other)?;
        Ok(Leaf { chain: certificate.pem(), key: key.serialize_pem(), serial: format!("{serial:x}") })
    }
}

/// A directory as the kubelet mounts a Secret: files are links through `..data`, which is swapped in one rename.
#[derive(Debug)]
pub struct Mount {
    dir: PathBuf,
    generation: u64,
}

impl Mount {
    /// An empty one at `dir`, which is made if it is not there (readable by this user only).
    ///
    /// # Errors
    /// When the directory cannot be made.
    pub fn create(dir: &Path) -> io::Result<Self> {
        DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
        Ok(Self { dir: dir.to_owned(), generation: 0 })
    }

    /// The directory.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.dir
    }

    /// Swaps in a new set of files; those that are not in it are gone.
    ///
    /// # Errors
    /// When the file system refuses.
    pub fn publish(&mut self, files: &[(&str, &[u8])]) -> io::Result<()> {
        self.generation += 1;
        let generation = format!("..generation_{}", self.generation);
        let folder = self.dir.join(&generation);
        fs::create_dir(&folder)?;
        for (name, bytes) in files {
            fs::write(folder.join(name), bytes)?;
        }
        let data = self.dir.join("..data");
        let old = fs::read_link(&data).ok();
        let staged = self.dir.join("..data_tmp");
        symlink(&generation, &staged)?;
        fs::rename(&staged, &data)?;
        for (name, _) in files {
            let link = self.dir.join(name);
            if link.symlink_metadata().is_err() {
                symlink(Path::new("..data").join(name), link)?;
            }
        }
        for entry in fs::read_dir(&self.dir)? {
            let name = entry?.file_name();
            let visible = !name.to_string_lossy().starts_with("..");
            if visible && !files.iter().any(|(kept, _)| name == *kept) {
                fs::remove_file(self.dir.join(&name))?;
            }
        }
        if let Some(old) = old {
            fs::remove_dir_all(self.dir.join(old))?;
        }
        Ok(())
    }

    /// Swaps in a leaf and the CA's certificate under the names that Knative uses.
    ///
    /// # Errors
    /// As [`Self::publish`].
    pub fn publish_leaf(&mut self, leaf: &Leaf, authority: &Authority) -> io::Result<()> {
        self.publish(&[
            ("tls.crt", leaf.chain.as_bytes()),
            ("tls.key", leaf.key.as_bytes()),
            ("ca.crt", authority.pem().as_bytes()),
        ])
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn given_a_mount_when_a_second_set_is_published_then_only_its_files_are_left() {
        let dir = tempfile::tempdir().unwrap();
        let mut mount = Mount::create(&dir.path().join("certs")).unwrap();

        mount.publish(&[("tls.crt", b"1"), ("ca.crt", b"1")]).unwrap();
        mount.publish(&[("tls.crt", b"2")]).unwrap();

        assert_eq!(fs::read(mount.path().join("tls.crt")).unwrap(), b"2");
        assert!(mount.path().join("ca.crt").symlink_metadata().is_err());
        assert_eq!(fs::read_dir(mount.path()).unwrap().count(), 3, "..data, its target, tls.crt");
    }
}
