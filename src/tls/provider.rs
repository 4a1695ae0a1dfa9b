//! The cryptography that every handshake uses: aws-lc-rs, key exchange that outlives quantum computers first.

use std::sync::{Arc, LazyLock};

use rustls::crypto::{
    CryptoProvider,
    aws_lc_rs::{self, cipher_suite as suite, kx_group},
};

/// Inside the mesh TLS 1.3 alone is spoken; the older suites are for ordinary TLS to the outside.
static PROVIDER: LazyLock<Arc<CryptoProvider>> = LazyLock::new(|| {
    let mut provider = aws_lc_rs::default_provider();
    provider.kx_groups = vec![
        kx_group::X25519MLKEM768,
        kx_group::X25519,
        kx_group::SECP256R1,
        kx_group::SECP384R1,
    ];
    // AES-128 first, as BoringSSL and Go have it: a mebibyte costs less, and its 128 bits are not what breaks.
    provider.cipher_suites.sort_by_key(|known| {
        let suite = known.suite();
        suite != suite::TLS13_AES_128_GCM_SHA256.suite()
    });
    Arc::new(provider)
});

pub(super) fn provider() -> &'static Arc<CryptoProvider> {
    &PROVIDER
}

/// The methods of rustls' verifiers, for callers and for callees, by which a peer shows that it has the key of its
/// certificate. They are the same whoever judges the certificate.
macro_rules! proof_of_key {
    () => {
        fn verify_tls12_signature(
            &self,
            message: &[u8],
            certificate: &rustls::pki_types::CertificateDer<'_>,
            signed: &rustls::DigitallySignedStruct,
        ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
            let known = &$crate::tls::provider::provider().signature_verification_algorithms;
            rustls::crypto::verify_tls12_signature(message, certificate, signed, known)
        }

        fn verify_tls13_signature(
            &self,
            message: &[u8],
            certificate: &rustls::pki_types::CertificateDer<'_>,
            signed: &rustls::DigitallySignedStruct,
        ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
            let known = &$crate::tls::provider::provider().signature_verification_algorithms;
            rustls::crypto::verify_tls13_signature(message, certificate, signed, known)
        }

        fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
            let known = &$crate::tls::provider::provider().signature_verification_algorithms;
            known.supported_schemes()
        }
    };
}

pub(super) use proof_of_key;
