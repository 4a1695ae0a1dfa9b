//! A workload's certificate, read by the rules of the SPIFFE X.509-SVID specification (§2 to §5).
//!
//! Says whose it is and when it ends. Whether anybody vouches for it is `trust`'s to say.

use std::time::{Duration, SystemTime};

use x509_parser::{
    certificate::X509Certificate, extensions::GeneralName, parse_x509_certificate, time::ASN1Time,
    x509::X509Version,
};

use crate::units::{SpiffeId, SpiffeIdError};

/// What a workload's certificate says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Leaf {
    pub id: SpiffeId,
    pub validity: Validity,
}

/// From when until when a certificate counts, both ends included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Validity {
    pub from: SystemTime,
    pub until: SystemTime,
}

/// Why a certificate names no workload.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LeafError {
    #[error("it is no X.509 certificate")]
    Malformed,
    #[error("it has no URI among its alternative names, so it names no workload")]
    NoUri,
    #[error("it has {0} URIs among its alternative names; a workload has one")]
    ManyUris(usize),
    #[error("its URI is no SPIFFE id: {0}")]
    Id(#[from] SpiffeIdError),
    #[error("{0} names a trust domain, not a workload in it")]
    NoPath(SpiffeId),
    #[error("it is the certificate of an authority, not of a workload")]
    Authority,
    #[error("its key usage does not allow it to sign a handshake")]
    KeyUsage,
}

impl Leaf {
    pub fn read(der: &[u8]) -> Result<Self, LeafError> {
        let certificate = parse(der).ok_or(LeafError::Malformed)?;
        let id = id(&certificate)?;
        if certificate.is_ca() {
            return Err(LeafError::Authority);
        }
        if let Some(usage) = certificate.key_usage().map_err(|_| LeafError::Malformed)? {
            if usage.value.key_cert_sign() || usage.value.crl_sign() {
                return Err(LeafError::Authority);
            }
            if !usage.value.digital_signature() {
                return Err(LeafError::KeyUsage);
            }
        }
        let validity = Validity::of(&certificate);
        Ok(Leaf { id, validity })
    }
}

impl Validity {
    pub fn read(der: &[u8]) -> Option<Self> {
        parse(der).map(|certificate| Validity::of(&certificate))
    }

    /// Of a root. What is no certificate of an authority vouches for nobody.
    pub fn of_root(der: &[u8]) -> Result<Self, &'static str> {
        let root = parse(der).ok_or("it cannot be read")?;
        // Version 1 has no place to say so.
        if root.version() == X509Version::V3 && !root.is_ca() {
            return Err("it is no certificate of an authority");
        }
        Ok(Validity::of(&root))
    }

    fn of(certificate: &X509Certificate<'_>) -> Self {
        Validity {
            from: moment(certificate.validity().not_before),
            until: moment(certificate.validity().not_after),
        }
    }
}

/// The whole of `der` and nothing behind it.
fn parse(der: &[u8]) -> Option<X509Certificate<'_>> {
    match parse_x509_certificate(der) {
        Ok(([], certificate)) => Some(certificate),
        _ => None,
    }
}

fn id(certificate: &X509Certificate<'_>) -> Result<SpiffeId, LeafError> {
    // Names said in two extensions, or names that cannot be read, are an error here: no choice among readings.
    let names = certificate
        .subject_alternative_name()
        .map_err(|_| LeafError::Malformed)?;
    let mut uris = names
        .iter()
        .flat_map(|names| &names.value.general_names)
        .filter_map(|name| match name {
            GeneralName::URI(uri) => Some(*uri),
            _ => None,
        });
    let uri = uris.next().ok_or(LeafError::NoUri)?;
    match uris.count() {
        0 => {}
        more => return Err(LeafError::ManyUris(more + 1)),
    }
    let id = SpiffeId::parse(uri)?;
    if id.path().is_empty() {
        return Err(LeafError::NoPath(id));
    }
    Ok(id)
}

/// A date of a certificate. Before 1970 counts as 1970.
pub(super) fn moment(time: ASN1Time) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(time.timestamp().try_into().unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use rcgen::{BasicConstraints, CertificateParams, IsCa, KeyUsagePurpose};
    use rustls::pki_types::{CertificateDer, pem::PemObject};

    use super::*;
    use crate::tls::{
        issue::workload,
        tests::{DAY, ROOT},
    };

    fn read(params: CertificateParams) -> Result<Leaf, LeafError> {
        let issued = ROOT.sign(params).unwrap();
        Leaf::read(&CertificateDer::from_pem_slice(issued.certificate.as_bytes()).unwrap())
    }

    fn named(uris: &[&str]) -> CertificateParams {
        workload(uris, SystemTime::now(), DAY).unwrap()
    }

    #[test]
    fn a_workload_is_named_by_its_one_uri() {
        let leaf = read(named(&["spiffe://mesh.example/ns/shop/sa/web"])).unwrap();
        assert_eq!(leaf.id.as_str(), "spiffe://mesh.example/ns/shop/sa/web");
        let left = leaf
            .validity
            .until
            .duration_since(SystemTime::now())
            .unwrap();
        assert!(left <= DAY && left > DAY / 2);
    }

    #[test]
    fn no_uri_and_two_uris_name_nobody() {
        assert_eq!(read(named(&[])), Err(LeafError::NoUri));
        let two = ["spiffe://mesh.example/web", "spiffe://mesh.example/orders"];
        assert_eq!(read(named(&two)), Err(LeafError::ManyUris(2)));
        let one_of_them = ["spiffe://mesh.example/web", "https://mesh.example/"];
        assert_eq!(read(named(&one_of_them)), Err(LeafError::ManyUris(2)));
    }

    #[test]
    fn a_uri_that_is_no_spiffe_id_names_nobody() {
        for uri in [
            "https://mesh.example/web",
            "spiffe://mesh.example/a/../web",
            "spiffe://Mesh.example/web",
        ] {
            assert!(
                matches!(read(named(&[uri])), Err(LeafError::Id(_))),
                "{uri}"
            );
        }
        assert!(matches!(
            read(named(&["spiffe://mesh.example"])),
            Err(LeafError::NoPath(_))
        ));
    }

    #[test]
    fn an_authority_is_no_workload() {
        let mut authority = named(&["spiffe://mesh.example/web"]);
        authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        assert_eq!(read(authority), Err(LeafError::Authority));
        for usage in [KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign] {
            let mut signer = named(&["spiffe://mesh.example/web"]);
            signer.key_usages.push(usage);
            assert_eq!(read(signer), Err(LeafError::Authority));
        }
        let mut mute = named(&["spiffe://mesh.example/web"]);
        mute.key_usages = vec![KeyUsagePurpose::KeyEncipherment];
        assert_eq!(read(mute), Err(LeafError::KeyUsage));
    }

    #[test]
    fn bytes_are_no_certificate() {
        assert_eq!(Leaf::read(b""), Err(LeafError::Malformed));
        assert_eq!(Leaf::read(b"\x30\x03abc"), Err(LeafError::Malformed));
    }
}
