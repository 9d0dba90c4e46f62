//! The cryptography behind TLS: aws-lc, narrowed to a [`Policy`], and warmed up.
//!
//! Called where configurations are made (control side).
//!
//! aws-lc seeds its random generator when it is first used. With its CPU jitter entropy source built in that takes 25
//! to 40 ms of CPU time, once a process, under a lock. It is built out by `AWS_LC_SYS_NO_JITTER_ENTROPY=1` at compile
//! time; seeds then come from the kernel's generator and the CPU's. Nothing here draws random bytes before the first
//! handshake, so that a build with the source in listens just as early, and [`warm_up`] can be called on the control
//! thread once the listeners are open.
use std::sync::Arc;

use aws_lc_rs::agreement;
use aws_lc_rs::rand::SystemRandom;
use rustls::crypto::aws_lc_rs::{cipher_suite, default_provider, kx_group};
use rustls::crypto::{ActiveKeyExchange, CryptoProvider, GetRandomFailed, SharedSecret, SupportedKxGroup};
use rustls::{Error, NamedGroup, PeerMisbehaved, SupportedCipherSuite, SupportedProtocolVersion};

use crate::tls::policy::{Group, Policy, Suite, Version};

/// The provider that a policy allows. AES-128 stands first: it is the cheapest on every CPU that runs Kubernetes, and
/// Go's preference.
pub fn provider(policy: &Policy) -> Arc<CryptoProvider> {
    let tls12 = [
        (Suite::EcdsaAes128, cipher_suite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256),
        (Suite::RsaAes128, cipher_suite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256),
        (Suite::EcdsaAes256, cipher_suite::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384),
        (Suite::RsaAes256, cipher_suite::TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384),
        (Suite::EcdsaChaCha, cipher_suite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256),
        (Suite::RsaChaCha, cipher_suite::TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256),
    ];
    let mut cipher_suites: Vec<SupportedCipherSuite> = vec![
        cipher_suite::TLS13_AES_128_GCM_SHA256,
        cipher_suite::TLS13_AES_256_GCM_SHA384,
        cipher_suite::TLS13_CHACHA20_POLY1305_SHA256,
    ];
    cipher_suites.extend(tls12.iter().filter(|(suite, _)| policy.allows_suite(*suite)).map(|(_, suite)| *suite));
    let kx_groups = policy.groups().iter().map(|group| kx_group(*group)).collect();
    Arc::new(CryptoProvider { cipher_suites, kx_groups, ..default_provider() })
}

/// The versions that a policy allows; TLS 1.3 for one that allows none, since rustls wants at least one. Whoever makes
/// a configuration from such a policy has to refuse its handshakes.
pub fn versions(policy: &Policy) -> Vec<&'static SupportedProtocolVersion> {
    let mut versions = Vec::new();
    if policy.allows(Version::Tls13) || !policy.is_satisfiable() {
        versions.push(&rustls::version::TLS13);
    }
    if policy.allows(Version::Tls12) {
        versions.push(&rustls::version::TLS12);
    }
    versions
}

/// Seeds the random generator and runs each group once, so that the first handshake costs what the others cost.
/// Call it after the listeners are open, on a thread that may be busy for some 30 ms.
pub fn warm_up(policy: &Policy) {
    for group in policy.groups() {
        // A failure here shows itself in the first handshake, with its reason.
        let _ = kx_group(*group).start();
    }
}

fn kx_group(group: Group) -> &'static dyn SupportedKxGroup {
    match group {
        Group::X25519MlKem768 => kx_group::X25519MLKEM768,
        Group::X25519 => kx_group::X25519,
        Group::P256 => kx_group::SECP256R1,
        Group::P384 => kx_group::SECP384R1,
        Group::P521 => &P521,
    }
}

/// ECDH on P-521 (RFC 8446, section 4.2.8.2), which the Go components offer and rustls' provider leaves out.
#[derive(Debug)]
struct P521;

/// A key exchange that has begun.
struct P521Exchange {
    private: agreement::EphemeralPrivateKey,
    public: agreement::PublicKey,
}

impl SupportedKxGroup for P521 {
    fn start(&self) -> Result<Box<dyn ActiveKeyExchange>, Error> {
        let failed = |_| Error::from(GetRandomFailed);
        let private = agreement::EphemeralPrivateKey::generate(&agreement::ECDH_P521, &SystemRandom::new());
        let private = private.map_err(failed)?;
        let public = private.compute_public_key().map_err(failed)?;
        Ok(Box::new(P521Exchange { private, public }))
    }

    fn ffdhe_group(&self) -> Option<rustls::ffdhe_groups::FfdheGroup<'static>> {
        None
    }

    fn name(&self) -> NamedGroup {
        NamedGroup::secp521r1
    }
}

impl ActiveKeyExchange for P521Exchange {
    fn complete(self: Box<Self>, peer: &[u8]) -> Result<SharedSecret, Error> {
        // aws-lc takes compressed points too; TLS 1.3 knows only the uncompressed form, which begins with 4.
        if peer.first() != Some(&4) {
            return Err(PeerMisbehaved::InvalidKeyShare.into());
        }
        let peer = agreement::UnparsedPublicKey::new(&agreement::ECDH_P521, peer);
        let refused = Error::from(PeerMisbehaved::InvalidKeyShare);
        agreement::agree_ephemeral(self.private, peer, refused, |secret| Ok(SharedSecret::from(secret)))
    }

    fn ffdhe_group(&self) -> Option<rustls::ffdhe_groups::FfdheGroup<'static>> {
        None
    }

    fn pub_key(&self) -> &[u8] {
        self.public.as_ref()
    }

    fn group(&self) -> NamedGroup {
        NamedGroup::secp521r1
    }
}
