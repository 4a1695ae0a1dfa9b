//! A small certificate authority: roots, workloads' certificates, revocation lists.
//!
//! For development (`weft certs dev`) and for tests. Keys are ECDSA P-256, made where they are asked for.

use std::time::{Duration, SystemTime};

use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyIdMethod, KeyPair, KeyUsagePurpose,
    RevokedCertParams, SanType, SerialNumber,
};

use crate::units::SpiffeId;

pub use rcgen::Error as IssueError;

/// A certificate counts from this long before it was made: clocks differ.
const BACKDATED: Duration = Duration::from_secs(60);

/// The root of a trust domain, with its key.
pub struct Authority {
    certificate: String,
    key: String,
    issuer: Issuer<'static, KeyPair>,
}

/// A certificate and its key, in PEM.
#[derive(Clone)]
pub struct Issued {
    pub certificate: String,
    pub key: String,
    pub serial: Vec<u8>,
}

impl Authority {
    /// A new root for a trust domain.
    pub fn new(domain: &str, name: &str, lifetime: Duration) -> Result<Self, IssueError> {
        Self::since(SystemTime::now(), domain, name, lifetime)
    }

    /// A root that counts from `from` on.
    pub fn since(
        from: SystemTime,
        domain: &str,
        name: &str,
        lifetime: Duration,
    ) -> Result<Self, IssueError> {
        let mut params = dated(CertificateParams::default(), from, lifetime);
        params.distinguished_name.push(DnType::CommonName, name);
        params.subject_alt_names = vec![SanType::URI(format!("spiffe://{domain}").try_into()?)];
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let key = KeyPair::generate()?;
        let certificate = params.self_signed(&key)?;
        let (pem, key_pem) = (certificate.pem(), key.serialize_pem());
        Ok(Authority {
            certificate: pem,
            key: key_pem,
            issuer: Issuer::new(params, key),
        })
    }

    /// The root that was made before.
    pub fn load(certificate: &str, key: &str) -> Result<Self, IssueError> {
        let issuer = Issuer::from_ca_cert_pem(certificate, KeyPair::from_pem(key)?)?;
        Ok(Authority {
            certificate: certificate.to_owned(),
            key: key.to_owned(),
            issuer,
        })
    }

    /// The root, in PEM.
    pub fn certificate(&self) -> &str {
        &self.certificate
    }

    /// Its private key, in PEM.
    pub fn key(&self) -> &str {
        &self.key
    }

    /// A certificate for a workload, for both sides of a connection.
    pub fn issue(&self, id: &SpiffeId, lifetime: Duration) -> Result<Issued, IssueError> {
        let params = workload(&[id.as_str()], SystemTime::now(), lifetime)?;
        self.sign(params)
    }

    /// Any certificate.
    pub fn sign(&self, mut params: CertificateParams) -> Result<Issued, IssueError> {
        // At most 20 bytes, and positive.
        let mut serial = fastrand::u128(..).to_be_bytes();
        serial[0] &= 0x7f;
        params.serial_number = Some(SerialNumber::from_slice(&serial));
        params.use_authority_key_identifier_extension = true;
        let key = KeyPair::generate()?;
        let certificate = params.signed_by(&key, &self.issuer)?;
        Ok(Issued {
            certificate: certificate.pem(),
            key: key.serialize_pem(),
            serial: serial.to_vec(),
        })
    }

    /// A list of what this root has revoked, in PEM, to be replaced by `next_update`.
    pub fn revoke(&self, serials: &[&[u8]], next_update: SystemTime) -> Result<String, IssueError> {
        let now = SystemTime::now();
        let revoked = |serial: &&[u8]| RevokedCertParams {
            serial_number: SerialNumber::from_slice(serial),
            revocation_time: now.into(),
            reason_code: None,
            invalidity_date: None,
        };
        let list = CertificateRevocationListParams {
            this_update: (now.min(next_update) - BACKDATED).into(),
            next_update: next_update.into(),
            crl_number: SerialNumber::from(1),
            issuing_distribution_point: None,
            revoked_certs: serials.iter().map(revoked).collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        list.signed_by(&self.issuer)?.pem()
    }
}

/// What a workload's certificate says, from `from` on.
pub fn workload(
    uris: &[&str],
    from: SystemTime,
    lifetime: Duration,
) -> Result<CertificateParams, IssueError> {
    let mut params = dated(CertificateParams::default(), from, lifetime);
    for uri in uris {
        params
            .subject_alt_names
            .push(SanType::URI((*uri).try_into()?));
    }
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![
        ExtendedKeyUsagePurpose::ServerAuth,
        ExtendedKeyUsagePurpose::ClientAuth,
    ];
    Ok(params)
}

fn dated(mut params: CertificateParams, from: SystemTime, lifetime: Duration) -> CertificateParams {
    params.not_before = (from - BACKDATED).into();
    params.not_after = (from + lifetime).into();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params
}
