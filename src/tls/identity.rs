//! Who we are: a chain of certificates, its private key, the one SPIFFE id it names, and until when.
//!
//! What is built has been checked: the key is the certificate's, the dates hold now. Nothing of the key is ever shown.

use std::{fmt, sync::Arc, time::SystemTime};

use rustls::{
    Error, InconsistentKeys,
    pki_types::{CertificateDer, PrivateKeyDer},
    sign::CertifiedKey,
};

use super::{
    leaf::{Leaf, LeafError, Validity},
    pem::{self, PemError},
    provider::provider,
};
use crate::units::SpiffeId;

/// A workload's own certificate and key.
pub struct Identity {
    id: SpiffeId,
    key: Arc<CertifiedKey>,
    not_before: SystemTime,
    not_after: SystemTime,
}

/// Why a certificate and a key are no identity.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IdentityError {
    #[error("the certificate cannot be used: {0}")]
    Certificate(#[source] PemError),
    #[error("the private key cannot be used: {0}")]
    Key(#[source] PemError),
    #[error("the certificate is no workload's: {0}")]
    Leaf(#[from] LeafError),
    #[error("certificate {0} of the chain cannot be read")]
    Chain(usize),
    #[error("the private key is not the one of the certificate of {0}")]
    KeyMismatch(SpiffeId),
    #[error("the certificate of {id} ended at {}", said(*.at))]
    Expired { id: SpiffeId, at: SystemTime },
    #[error("the certificate of {id} does not count before {}", said(*.at))]
    NotYetValid { id: SpiffeId, at: SystemTime },
}

impl Identity {
    /// Of PEM text: the certificate with those that lead to its root, leaf first, and its key.
    pub fn from_pem(chain: &[u8], key: &[u8], now: SystemTime) -> Result<Self, IdentityError> {
        let chain = pem::certificates(chain).map_err(IdentityError::Certificate)?;
        let key = pem::key(key).map_err(IdentityError::Key)?;
        Self::new(chain, key, now)
    }

    pub fn new(
        chain: Vec<CertificateDer<'static>>,
        key: PrivateKeyDer<'static>,
        now: SystemTime,
    ) -> Result<Self, IdentityError> {
        let leaf = chain
            .first()
            .ok_or(IdentityError::Certificate(PemError::Absent("certificate")))?;
        let Leaf { id, validity } = Leaf::read(leaf)?;
        let (mut not_before, mut not_after) = (validity.from, validity.until);
        for (at, certificate) in chain.iter().enumerate().skip(1) {
            let validity = Validity::read(certificate).ok_or(IdentityError::Chain(at + 1))?;
            not_before = not_before.max(validity.from);
            not_after = not_after.min(validity.until);
        }
        if now > not_after {
            return Err(IdentityError::Expired { id, at: not_after });
        }
        if now < not_before {
            return Err(IdentityError::NotYetValid { id, at: not_before });
        }
        let key = provider()
            .key_provider
            .load_private_key(key)
            .map_err(|error| IdentityError::Key(PemError::unsupported(error)))?;
        let key = CertifiedKey::new(chain, key);
        match key.keys_match() {
            Ok(()) | Err(Error::InconsistentKeys(InconsistentKeys::Unknown)) => {}
            Err(_) => return Err(IdentityError::KeyMismatch(id)),
        }
        Ok(Identity {
            id,
            key: Arc::new(key),
            not_before,
            not_after,
        })
    }

    pub fn id(&self) -> &SpiffeId {
        &self.id
    }

    /// Leaf first.
    pub fn chain(&self) -> &[CertificateDer<'static>] {
        &self.key.cert
    }

    pub fn not_before(&self) -> SystemTime {
        self.not_before
    }

    /// When the first certificate of the chain ends.
    pub fn not_after(&self) -> SystemTime {
        self.not_after
    }

    pub(super) fn key(&self) -> &Arc<CertifiedKey> {
        &self.key
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Identity")
            .field("id", &self.id)
            .field("not_after", &said(self.not_after))
            .finish_non_exhaustive()
    }
}

/// A moment in words for a log line.
pub fn said(moment: SystemTime) -> String {
    httpdate::fmt_http_date(moment)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tls::{
        issue::{Issued, workload},
        tests::{DAY, ROOT, id},
    };

    fn web() -> Issued {
        ROOT.issue(&id("web"), DAY).unwrap()
    }

    fn read(certificate: &str, key: &str) -> Result<Identity, IdentityError> {
        Identity::from_pem(certificate.as_bytes(), key.as_bytes(), SystemTime::now())
    }

    #[test]
    fn a_key_of_another_certificate_is_refused() {
        let error = read(&web().certificate, &web().key).unwrap_err();
        assert_eq!(error, IdentityError::KeyMismatch(id("web")));
    }

    #[test]
    fn a_certificate_outside_its_dates_is_refused() {
        let web = web();
        let at = |now| {
            Identity::from_pem(web.certificate.as_bytes(), web.key.as_bytes(), now).unwrap_err()
        };
        assert!(matches!(
            at(SystemTime::now() + 2 * DAY),
            IdentityError::Expired { .. }
        ));
        assert!(matches!(
            at(SystemTime::now() - DAY),
            IdentityError::NotYetValid { .. }
        ));
    }

    #[test]
    fn a_chain_ends_with_its_first_certificate_to_end() {
        let short = ROOT
            .sign(workload(&["spiffe://mesh.example/b"], SystemTime::now(), DAY / 2).unwrap())
            .unwrap();
        let web = web();
        let chain = format!("{}{}", web.certificate, short.certificate);
        let alone = read(&web.certificate, &web.key).unwrap();
        let both = read(&chain, &web.key).unwrap();
        assert!(both.not_after() < alone.not_after());
    }

    #[test]
    fn keys_that_cannot_be_used_say_why() {
        let certificate = web().certificate;
        let why = |key: &str| read(&certificate, key).unwrap_err().to_string();
        assert!(
            why(
                "-----BEGIN ENCRYPTED PRIVATE KEY-----\nMIIB\n-----END ENCRYPTED PRIVATE KEY-----\n"
            )
            .contains("encrypted")
        );
        let old = "-----BEGIN EC PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\nDEK-Info: AES-256-CBC,00\n\nMIIB\n-----END EC PRIVATE KEY-----\n";
        assert!(why(old).contains("encrypted"));
        assert!(
            why("-----BEGIN DSA PRIVATE KEY-----\nMIIB\n-----END DSA PRIVATE KEY-----\n")
                .contains("not supported")
        );
        assert!(
            why("-----BEGIN PRIVATE KEY-----\nMIIB\n-----END PRIVATE KEY-----\n")
                .contains("not supported")
        );
        assert!(why("").contains("no private key"));
        assert!(why(&certificate).contains("no private key"));
    }

    #[test]
    fn a_file_without_a_certificate_says_so() {
        let web = web();
        assert!(
            read("", &web.key)
                .unwrap_err()
                .to_string()
                .contains("no certificate")
        );
        assert!(
            read(&web.key, &web.key)
                .unwrap_err()
                .to_string()
                .contains("no certificate")
        );
        let torn = &web.certificate[..web.certificate.len() / 2];
        assert!(
            read(torn, &web.key)
                .unwrap_err()
                .to_string()
                .contains("no end")
        );
    }

    #[test]
    fn nothing_of_a_key_is_shown() {
        let web = web();
        let shown = format!("{:?}", read(&web.certificate, &web.key).unwrap());
        assert!(shown.contains("spiffe://mesh.example/web"));
        assert!(!shown.to_lowercase().contains("key"), "{shown}");
        let secret: String = web.key.lines().nth(1).unwrap().chars().take(20).collect();
        let mistaken = read(&web.certificate, &web.key.replace('M', "!")).unwrap_err();
        assert!(!format!("{mistaken} {mistaken:?}").contains(&secret));
    }
}
