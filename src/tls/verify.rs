//! rustls' two questions about a peer, answered by `trust`.

use std::sync::Arc;

use rustls::{
    CertificateError, DistinguishedName, Error, OtherError,
    client::danger::{ServerCertVerified, ServerCertVerifier},
    pki_types::{CertificateDer, ServerName, UnixTime},
    server::danger::{ClientCertVerified, ClientCertVerifier},
};

use super::{
    generation::Expected,
    provider::proof_of_key,
    trust::{Role, Trust, Untrusted},
};

/// Judges callers: any workload of a trust domain that has a bundle.
#[derive(Debug)]
pub(super) struct Callers(pub Arc<Trust>);

/// Judges callees: the workload that is expected.
#[derive(Debug)]
pub(super) struct Callees {
    pub trust: Arc<Trust>,
    pub expected: Expected,
}

impl ClientCertVerifier for Callers {
    /// None: roots of several trust domains, of which each peer knows its own.
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        self.0
            .judge(leaf, intermediates, Role::Client, now)
            .map_err(refusal)?;
        Ok(ClientCertVerified::assertion())
    }

    proof_of_key!();
}

impl ServerCertVerifier for Callees {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let peer = self
            .trust
            .judge(leaf, intermediates, Role::Server, now)
            .map_err(refusal)?;
        self.expected.check(&peer).map_err(refusal)?;
        Ok(ServerCertVerified::assertion())
    }

    proof_of_key!();
}

/// The refusal as rustls carries it: the alert that the peer reads is chosen by it.
fn refusal(why: Untrusted) -> Error {
    match why {
        Untrusted::Expired => CertificateError::Expired,
        Untrusted::NotYetValid => CertificateError::NotValidYet,
        Untrusted::Revoked => CertificateError::Revoked,
        Untrusted::UnknownAuthority => CertificateError::UnknownIssuer,
        Untrusted::Purpose => CertificateError::InvalidPurpose,
        Untrusted::Signature => CertificateError::BadSignature,
        other => CertificateError::Other(OtherError(Arc::new(other))),
    }
    .into()
}

/// The refusal back from what rustls carried.
pub(super) fn refused(error: &Error) -> Option<Untrusted> {
    Some(match error {
        Error::NoCertificatesPresented => Untrusted::NoCertificate,
        Error::InvalidCertificate(CertificateError::Expired) => Untrusted::Expired,
        Error::InvalidCertificate(CertificateError::NotValidYet) => Untrusted::NotYetValid,
        Error::InvalidCertificate(CertificateError::Revoked) => Untrusted::Revoked,
        Error::InvalidCertificate(CertificateError::UnknownIssuer) => Untrusted::UnknownAuthority,
        Error::InvalidCertificate(CertificateError::InvalidPurpose) => Untrusted::Purpose,
        Error::InvalidCertificate(CertificateError::BadSignature) => Untrusted::Signature,
        Error::InvalidCertificate(CertificateError::Other(OtherError(other))) => {
            match other.downcast_ref::<Untrusted>() {
                Some(why) => why.clone(),
                None => Untrusted::Chain(other.to_string()),
            }
        }
        Error::InvalidCertificate(other) => Untrusted::Chain(other.to_string()),
        _ => return None,
    })
}
