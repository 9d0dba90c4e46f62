//! The methods about signatures that all of rustls' verifier traits have in common.
//!
//! Used inside the `impl` of a verifier, which then only says whom it accepts. `checked` is for peers that are
//! identified, by the algorithms at hand; `unchecked` for those whose certificate is not verified at all: a signature by
//! an unknown key proves nothing.

/// Checks handshake signatures with `$algorithms`, a `WebPkiSupportedAlgorithms` reached from `$this`.
macro_rules! checked {
    ($this:ident => $algorithms:expr) => {
        fn verify_tls12_signature(
            &$this,
            message: &[u8],
            leaf: &rustls::pki_types::CertificateDer<'_>,
            signature: &rustls::DigitallySignedStruct,
        ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
            rustls::crypto::verify_tls12_signature(message, leaf, signature, &$algorithms)
        }

        fn verify_tls13_signature(
            &$this,
            message: &[u8],
            leaf: &rustls::pki_types::CertificateDer<'_>,
            signature: &rustls::DigitallySignedStruct,
        ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
            rustls::crypto::verify_tls13_signature(message, leaf, signature, &$algorithms)
        }

        fn supported_verify_schemes(&$this) -> Vec<rustls::SignatureScheme> {
            $algorithms.supported_schemes()
        }
    };
}

/// Takes every handshake signature of the schemes that `$algorithms` has.
macro_rules! unchecked {
    ($this:ident => $algorithms:expr) => {
        fn verify_tls12_signature(
            &$this,
            _: &[u8],
            _: &rustls::pki_types::CertificateDer<'_>,
            _: &rustls::DigitallySignedStruct,
        ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
            Ok(rustls::client::danger::HandshakeSignatureValid::assertion())
        }

        fn verify_tls13_signature(
            &$this,
            _: &[u8],
            _: &rustls::pki_types::CertificateDer<'_>,
            _: &rustls::DigitallySignedStruct,
        ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
            Ok(rustls::client::danger::HandshakeSignatureValid::assertion())
        }

        fn supported_verify_schemes(&$this) -> Vec<rustls::SignatureScheme> {
            $algorithms.supported_schemes()
        }
    };
}

pub(crate) use {checked, unchecked};
