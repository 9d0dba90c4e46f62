//! Throw-away certificates for `local` and its check: a CA, leaves of it with serial numbers that tell rotations apart,
//! and a directory laid out as the kubelet does it. [`crate::certs`] makes all of them.
use std::io;
use std::path::Path;

use crate::certs::mint::{Ca, KeyKind, LeafSpec};
use crate::certs::mount;
use crate::tls::pem;

/// A certificate authority that lives as long as this value.
pub struct Authority {
    ca: Ca,
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
        let ca = Ca::new(name, KeyKind::P256).map_err(io::Error::other)?;
        let own = pem::certificates(ca.cert_pem().as_bytes()).map_err(io::Error::other)?;
        let der = own.first().map(|der| der.to_vec()).unwrap_or_default();
        Ok(Self { ca, der })
    }

    /// The CA's certificate, PEM.
    #[must_use]
    pub fn pem(&self) -> &str {
        self.ca.cert_pem()
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
        let spec = LeafSpec { serial: Some(serial), ..LeafSpec::new(names.iter().copied()) };
        let pair = self.ca.leaf(&spec).map_err(io::Error::other)?;
        Ok(Leaf { chain: pair.cert_pem, key: pair.key_pem, serial: format!("{serial:x}") })
    }
}

/// A directory as the kubelet mounts a Secret: files are links through `..data`, which is swapped in one rename.
#[derive(Debug)]
pub struct Mount(mount::Mount);

impl Mount {
    /// An empty one at `dir`, which is made if it is not there (readable by this user only).
    ///
    /// # Errors
    /// When the directory cannot be made.
    pub fn create(dir: &Path) -> io::Result<Self> {
        mount::Mount::new(dir).map(Self)
    }

    /// The directory.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.0.path()
    }

    /// Swaps in a new set of files; those that are not in it are gone.
    ///
    /// # Errors
    /// When the file system refuses.
    pub fn publish(&mut self, files: &[(&str, &[u8])]) -> io::Result<()> {
        self.0.swap_files(files)
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
