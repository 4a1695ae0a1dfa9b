//! PEM files: certificates, one private key, revocation lists.
//!
//! Errors say what stands in the file in place of what is wanted, never what is in it.

use rustls::{
    Error,
    pki_types::{
        CertificateDer, CertificateRevocationListDer, PrivateKeyDer,
        pem::{self, PemObject},
    },
};

/// Why a file cannot be read as what it should be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PemError {
    #[error("there is no {0} in it")]
    Absent(&'static str),
    #[error("its PEM is broken: {0}")]
    Broken(String),
    #[error(
        "the key is encrypted; weft asks nobody for a passphrase, so give it the key decrypted, in a file that only it may read (mode 0600)"
    )]
    Encrypted,
    #[error(
        "a key of this kind is not supported: {0}; use ECDSA P-256, P-384 or P-521, Ed25519 or RSA from 2048 bits"
    )]
    Unsupported(String),
}

impl PemError {
    /// Why no signing key could be made of a private key.
    pub(super) fn unsupported(error: Error) -> Self {
        PemError::Unsupported(match error {
            // As it is it begins with `unexpected error`.
            Error::General(words) => words,
            other => other.to_string(),
        })
    }
}

impl From<pem::Error> for PemError {
    fn from(error: pem::Error) -> Self {
        // `IllegalSectionStart` would repeat a line of the file.
        PemError::Broken(match error {
            pem::Error::MissingSectionEnd { .. } => "a section has no end".to_owned(),
            pem::Error::IllegalSectionStart { .. } => {
                "a section begins with a broken line".to_owned()
            }
            pem::Error::Base64Decode(_) => "a section is not base64".to_owned(),
            other => other.to_string(),
        })
    }
}

/// All certificates of a file, in its order; at least one.
pub(super) fn certificates(text: &[u8]) -> Result<Vec<CertificateDer<'static>>, PemError> {
    let found: Vec<_> = CertificateDer::pem_slice_iter(text).collect::<Result<_, _>>()?;
    if found.is_empty() {
        return Err(PemError::Absent("certificate"));
    }
    Ok(found)
}

/// The first private key of a file.
pub(super) fn key(text: &[u8]) -> Result<PrivateKeyDer<'static>, PemError> {
    let has = |words: &str| {
        text.windows(words.len())
            .any(|window| window == words.as_bytes())
    };
    if has("-----BEGIN ENCRYPTED PRIVATE KEY-----") || has("Proc-Type: 4,ENCRYPTED") {
        return Err(PemError::Encrypted);
    }
    if has("-----BEGIN DSA PRIVATE KEY-----") {
        return Err(PemError::Unsupported("DSA".to_owned()));
    }
    match PrivateKeyDer::from_pem_slice(text) {
        Ok(key) => Ok(key),
        Err(pem::Error::NoItemsFound) => Err(PemError::Absent("private key")),
        Err(error) => Err(error.into()),
    }
}

/// All revocation lists of a file, in PEM, or one in DER; at least one.
pub(super) fn revocation_lists(
    text: &[u8],
) -> Result<Vec<CertificateRevocationListDer<'static>>, PemError> {
    const SEQUENCE: u8 = 0x30;
    if text.first() == Some(&SEQUENCE) {
        return Ok(vec![text.to_vec().into()]);
    }
    let found: Vec<_> =
        CertificateRevocationListDer::pem_slice_iter(text).collect::<Result<_, _>>()?;
    if found.is_empty() {
        return Err(PemError::Absent("revocation list"));
    }
    Ok(found)
}
