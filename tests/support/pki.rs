//! Certificates for tests, and what a client needs to check them.
use std::path::Path;
use std::sync::Arc;

use lockkeeper::certs::mint::{Ca, KeyKind, LeafSpec, Validity};
use lockkeeper::local::client::Trust;
use lockkeeper::local::pki::{Authority, Leaf, Mount};
use rustls::client::WantsClientCert;
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::version::TLS12;
use rustls::{CipherSuite, ClientConfig, ConfigBuilder, RootCertStore, SupportedProtocolVersion};

/// The name that callers of the queue expect in tests.
pub const NAME: &str = "kn-user-default";

/// The certificates in a file, DER.
pub fn authorities(file: &Path) -> Vec<Vec<u8>> {
    let certificates = CertificateDer::pem_file_iter(file).unwrap();
    certificates.map(|certificate| certificate.unwrap().to_vec()).collect()
}

/// A CA and a directory as the kubelet mounts it.
pub struct Pki {
    /// The CA.
    pub authority: Authority,
    /// The directory.
    pub mount: Mount,
    _dir: tempfile::TempDir,
    serial: u64,
}

impl Pki {
    /// A CA and an empty directory.
    pub fn empty() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mount = Mount::create(&dir.path().join("certs")).unwrap();
        Self { authority: Authority::mint("lockkeeper tests").unwrap(), mount, _dir: dir, serial: 0x1000 }
    }

    /// A CA and a first leaf in place.
    pub fn new() -> Self {
        let mut pki = Self::empty();
        pki.rotate();
        pki
    }

    /// A new leaf that is not in place yet.
    pub fn leaf(&mut self) -> Leaf {
        self.serial += 1;
        self.authority.leaf(&[NAME, "localhost"], self.serial).unwrap()
    }

    /// Swaps in a new leaf; its serial number.
    pub fn rotate(&mut self) -> String {
        let leaf = self.leaf();
        self.mount.publish_leaf(&leaf, &self.authority).unwrap();
        leaf.serial
    }

    /// Swaps in a leaf of whose life less than a third is left.
    pub fn near_its_end(&mut self) {
        let ca = Ca::new("lockkeeper tests", KeyKind::P256).unwrap();
        let mut spec = LeafSpec::new([NAME]);
        let now = time::OffsetDateTime::now_utc();
        spec.validity =
            Validity { not_before: now - time::Duration::days(80), not_after: now + time::Duration::days(9) };
        let pair = ca.leaf(&spec).unwrap();
        let files = [("tls.crt", pair.cert_pem.as_bytes()), ("tls.key", pair.key_pem.as_bytes())];
        self.mount.publish(&files).unwrap();
    }

    /// The directory.
    pub fn dir(&self) -> &Path {
        self.mount.path()
    }

    /// What a caller expects.
    pub fn trust(&self) -> Trust {
        Trust::new(self.authority.der(), NAME)
    }

    /// A client's settings for [`super::client::Raw::tls`].
    pub fn client(&self, versions: &[&'static SupportedProtocolVersion], alpn: &[&str]) -> ClientConfig {
        client_speaking(&self.authority, versions, alpn)
    }

    /// A client with a certificate of its own for `name`, issued by `authority`.
    pub fn client_as(&self, authority: &Authority, name: &str) -> ClientConfig {
        client_of(&self.authority, Some((authority, name)))
    }
}

/// A client's settings: it trusts `root` and speaks these versions and protocols.
pub fn client_speaking(
    root: &Authority,
    versions: &[&'static SupportedProtocolVersion],
    alpn: &[&str],
) -> ClientConfig {
    let mut config = client(root, versions, aws_lc_rs::default_provider()).with_no_client_auth();
    config.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
    config
}

/// A client's settings: it trusts `root`, speaks TLS 1.2 and offers one cipher suite.
pub fn client_offering(root: &Authority, suite: CipherSuite) -> ClientConfig {
    let mut provider = aws_lc_rs::default_provider();
    provider.cipher_suites.retain(|known| known.suite() == suite);
    client(root, &[&TLS12], provider).with_no_client_auth()
}

/// A client's settings: it trusts `root`, and shows a certificate for a name if it is given an authority to issue one.
pub fn client_of(root: &Authority, shown: Option<(&Authority, &str)>) -> ClientConfig {
    let builder = client(root, rustls::DEFAULT_VERSIONS, aws_lc_rs::default_provider());
    let Some((authority, name)) = shown else { return builder.with_no_client_auth() };
    let leaf = authority.leaf(&[name], 1).unwrap();
    let chain = CertificateDer::pem_slice_iter(leaf.chain.as_bytes()).collect::<Result<_, _>>().unwrap();
    let key = PrivateKeyDer::from_pem_slice(leaf.key.as_bytes()).unwrap();
    builder.with_client_auth_cert(chain, key).unwrap()
}

fn client(
    root: &Authority,
    versions: &[&'static SupportedProtocolVersion],
    provider: CryptoProvider,
) -> ConfigBuilder<ClientConfig, WantsClientCert> {
    let mut roots = RootCertStore::empty();
    roots.add(root.der().to_vec().into()).unwrap();
    let builder = ClientConfig::builder_with_provider(Arc::new(provider)).with_protocol_versions(versions).unwrap();
    builder.with_root_certificates(roots)
}
