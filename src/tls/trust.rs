//! Whether a peer's certificate is believed: its one SPIFFE id, its chain to a root of *its* trust domain, the dates,
//! the revocation lists.
//!
//! What was judged once is remembered, so that a peer with a thousand connections costs one judgement and one copy of
//! its chain, and so that a resumed handshake, in which nothing is shown, can be held to the same dates.

use std::{
    borrow::Borrow,
    collections::HashSet,
    fmt,
    hash::{Hash, Hasher},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::SystemTime,
};

use rustls::pki_types::{CertificateDer, UnixTime};
use webpki::{
    CertRevocationList, EndEntityCert, ExpirationPolicy, KeyUsage, RevocationCheckDepth,
    RevocationOptionsBuilder, UnknownStatusPolicy, VerifiedPath,
};

use super::{
    bundles::{Bundle, Bundles, Revocations},
    leaf::{Leaf, LeafError, Validity},
    provider::provider,
};
use crate::units::SpiffeId;

/// A chain of certificates may have this many bytes in all.
const LONGEST_CHAIN: usize = 10 << 10;
/// Peers that are remembered, of each role. One more empties the memory: it only saves work.
const REMEMBERED: usize = 1024;

/// The verified peer of a handshake.
pub struct Peer {
    pub id: SpiffeId,
    /// When the first certificate of its chain ends.
    pub not_after: SystemTime,
    /// The generation that judged it.
    pub generation: u64,
    role: Role,
    /// Leaf first.
    chain: Box<[CertificateDer<'static>]>,
}

/// On which side of the handshake the peer is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Role {
    Client,
    Server,
}

/// Why a peer is not believed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Untrusted {
    #[error("the peer shows no certificate")]
    NoCertificate,
    #[error("the peer's chain of certificates has {0} bytes, more than 10 KiB")]
    TooLong(usize),
    #[error("the peer's certificate names no workload: {0}")]
    Leaf(#[from] LeafError),
    #[error("there is no bundle for the trust domain of {0}")]
    UnknownDomain(SpiffeId),
    #[error("no root of its trust domain vouches for the peer")]
    UnknownAuthority,
    #[error("a certificate of the peer has ended")]
    Expired,
    #[error("a certificate of the peer does not count yet")]
    NotYetValid,
    #[error("a certificate of the peer is revoked")]
    Revoked,
    #[error("the peer's certificate is not for this side of a connection")]
    Purpose,
    #[error("a signature of the peer, or in its chain, does not hold")]
    Signature,
    #[error("the peer is {0}, which is not expected here")]
    Unexpected(SpiffeId),
    #[error("the peer's chain of certificates does not hold: {0}")]
    Chain(String),
}

impl Untrusted {
    /// One word, for a metric.
    pub const fn word(&self) -> &'static str {
        match self {
            Untrusted::NoCertificate => "no_certificate",
            Untrusted::TooLong(_) => "chain_too_long",
            Untrusted::Leaf(LeafError::NoUri) => "no_uri",
            Untrusted::Leaf(LeafError::ManyUris(_)) => "many_uris",
            Untrusted::Leaf(_) => "no_workload",
            Untrusted::UnknownDomain(_) => "unknown_trust_domain",
            Untrusted::UnknownAuthority => "unknown_authority",
            Untrusted::Expired => "expired",
            Untrusted::NotYetValid => "not_yet_valid",
            Untrusted::Revoked => "revoked",
            Untrusted::Purpose => "wrong_purpose",
            Untrusted::Signature => "bad_signature",
            Untrusted::Unexpected(_) => "unexpected_identity",
            Untrusted::Chain(_) => "bad_chain",
        }
    }
}

/// What one generation believes.
pub(super) struct Trust {
    number: u64,
    bundles: Bundles,
    revocations: Revocations,
    clients: Mutex<HashSet<Known>>,
    servers: Mutex<HashSet<Known>>,
}

impl Trust {
    pub fn new(number: u64, bundles: Bundles, revocations: Revocations) -> Self {
        Trust {
            number,
            bundles,
            revocations,
            clients: Mutex::default(),
            servers: Mutex::default(),
        }
    }

    pub fn bundles(&self) -> &Bundles {
        &self.bundles
    }

    pub fn revocations(&self) -> &Revocations {
        &self.revocations
    }

    /// Who shows these certificates in this role.
    pub fn judge(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        role: Role,
        now: UnixTime,
    ) -> Result<Arc<Peer>, Untrusted> {
        let now_at = at(now);
        if let Some(known) = self.known(role).get(leaf.as_ref()) {
            return match known.0.not_after {
                not_after if now_at > not_after => Err(Untrusted::Expired),
                _ => Ok(known.0.clone()),
            };
        }
        let length = intermediates
            .iter()
            .fold(leaf.len(), |sum, one| sum + one.len());
        if length > LONGEST_CHAIN {
            return Err(Untrusted::TooLong(length));
        }
        let Leaf { id, .. } = Leaf::read(leaf)?;
        let Some(bundle) = self.bundles.of(id.trust_domain()) else {
            return Err(Untrusted::UnknownDomain(id));
        };
        let not_after = self.verify(leaf, intermediates, bundle, role, now)?;
        let peer = Arc::new(Peer {
            id,
            not_after,
            generation: self.number,
            role,
            chain: std::iter::once(leaf)
                .chain(intermediates)
                .map(|certificate| certificate.clone().into_owned())
                .collect(),
        });
        let mut known = self.known(role);
        if known.len() >= REMEMBERED {
            known.clear();
        }
        known.insert(Known(peer.clone()));
        Ok(peer)
    }

    /// Whether a peer that another generation believed is believed by this one.
    ///
    /// That its certificate has ended since does not count: a connection may outlive it.
    pub fn still_trusts(&self, peer: &Peer) -> Result<(), Untrusted> {
        if peer.generation == self.number {
            return Ok(());
        }
        let (leaf, intermediates) = peer.chain.split_first().ok_or(Untrusted::NoCertificate)?;
        let until = UnixTime::since_unix_epoch(since_epoch(peer.not_after));
        let at = UnixTime::now().min(until);
        self.judge(leaf, intermediates, peer.role, at).map(drop)
    }

    fn known(&self, role: Role) -> MutexGuard<'_, HashSet<Known>> {
        let known = match role {
            Role::Client => &self.clients,
            Role::Server => &self.servers,
        };
        // Nothing panics while it is held; were it so, what it holds is still true.
        known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns when the first certificate of the way to the root ends.
    fn verify(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        bundle: &Bundle,
        role: Role,
        now: UnixTime,
    ) -> Result<SystemTime, Untrusted> {
        let lists: Vec<&CertRevocationList<'_>> = self.revocations.lists.iter().collect();
        match walk(leaf, intermediates, bundle, role, now, &lists) {
            // A list of the same issuer's name that another key signed (a root was replaced) must not hide the right
            // one, nor keep everybody out: each list speaks for itself, and one that is not the issuer's says nothing.
            Err(error) if !lists.is_empty() && speaks_of_list(&error) => {
                let mut end = walk(leaf, intermediates, bundle, role, now, &[])
                    .map_err(|error| untrusted(&error))?;
                for list in lists {
                    match walk(leaf, intermediates, bundle, role, now, &[list]) {
                        Ok(other) => end = end.min(other),
                        Err(error) if speaks_of_list(&error) => {}
                        Err(error) => return Err(untrusted(&error)),
                    }
                }
                Ok(end)
            }
            other => other.map_err(|error| untrusted(&error)),
        }
    }
}

fn walk(
    leaf: &CertificateDer<'_>,
    intermediates: &[CertificateDer<'_>],
    bundle: &Bundle,
    role: Role,
    now: UnixTime,
    lists: &[&CertRevocationList<'_>],
) -> Result<SystemTime, webpki::Error> {
    let end_entity = EndEntityCert::try_from(leaf)?;
    let revocation = RevocationOptionsBuilder::new(lists).ok().map(|options| {
        options
            .with_depth(RevocationCheckDepth::Chain)
            .with_status_policy(UnknownStatusPolicy::Allow)
            .with_expiration_policy(ExpirationPolicy::Ignore)
            .build()
    });
    let usage = match role {
        Role::Client => KeyUsage::client_auth(),
        Role::Server => KeyUsage::server_auth(),
    };
    // webpki looks at the dates of every certificate but the root.
    let root_counts = |path: &VerifiedPath<'_>| root_counts(path, bundle, now);
    let path = end_entity.verify_for_usage(
        provider().signature_verification_algorithms.all,
        &bundle.anchors,
        intermediates,
        now,
        usage,
        revocation,
        Some(&root_counts),
    )?;
    let mut end = root_validity(&path, bundle).until;
    let used = path
        .intermediate_certificates()
        .map(|certificate| certificate.der());
    for certificate in used.chain([leaf.clone()]) {
        end = end.min(
            Validity::read(&certificate)
                .ok_or(webpki::Error::BadDer)?
                .until,
        );
    }
    Ok(end)
}

fn root_validity(path: &VerifiedPath<'_>, bundle: &Bundle) -> Validity {
    let place = bundle
        .anchors
        .iter()
        .position(|anchor| std::ptr::eq(anchor, path.anchor()));
    // The path was built from these very anchors.
    bundle.validity[place.expect("a path ends at one of the anchors it was built from")]
}

fn root_counts(
    path: &VerifiedPath<'_>,
    bundle: &Bundle,
    now: UnixTime,
) -> Result<(), webpki::Error> {
    let root = root_validity(path, bundle);
    let time = |moment| UnixTime::since_unix_epoch(since_epoch(moment));
    if at(now) > root.until {
        return Err(webpki::Error::CertExpired {
            time: now,
            not_after: time(root.until),
        });
    }
    if at(now) < root.from {
        return Err(webpki::Error::CertNotValidYet {
            time: now,
            not_before: time(root.from),
        });
    }
    Ok(())
}

/// True where a revocation list could not be used, rather than the certificate.
fn speaks_of_list(error: &webpki::Error) -> bool {
    use webpki::Error::*;
    matches!(
        error,
        InvalidCrlSignatureForPublicKey
            | IssuerNotCrlSigner
            | UnsupportedCrlSignatureAlgorithmContext(_)
            | UnsupportedCrlSignatureAlgorithmForPublicKeyContext(_)
    )
}

fn untrusted(error: &webpki::Error) -> Untrusted {
    use webpki::Error::*;
    match error {
        CertExpired { .. } | InvalidCertValidity => Untrusted::Expired,
        CertNotValidYet { .. } => Untrusted::NotYetValid,
        CertRevoked => Untrusted::Revoked,
        UnknownIssuer | InvalidSignatureForPublicKey => Untrusted::UnknownAuthority,
        RequiredEkuNotFoundContext(_) => Untrusted::Purpose,
        CaUsedAsEndEntity => Untrusted::Leaf(LeafError::Authority),
        BadDer => Untrusted::Leaf(LeafError::Malformed),
        other => Untrusted::Chain(other.to_string()),
    }
}

fn at(time: UnixTime) -> SystemTime {
    SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(time.as_secs())
}

fn since_epoch(moment: SystemTime) -> std::time::Duration {
    moment
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default()
}

/// A remembered peer, found by its leaf: who has proved to hold the leaf's key is whom the leaf names.
struct Known(Arc<Peer>);

impl Borrow<[u8]> for Known {
    fn borrow(&self) -> &[u8] {
        self.0.chain.first().map_or(&[], |leaf| leaf.as_ref())
    }
}

impl Hash for Known {
    fn hash<H: Hasher>(&self, state: &mut H) {
        Borrow::<[u8]>::borrow(self).hash(state);
    }
}

impl PartialEq for Known {
    fn eq(&self, other: &Self) -> bool {
        Borrow::<[u8]>::borrow(self) == Borrow::<[u8]>::borrow(other)
    }
}

impl Eq for Known {}

impl Peer {
    /// What it showed, leaf first.
    pub fn chain(&self) -> &[CertificateDer<'static>] {
        &self.chain
    }
}

impl fmt::Debug for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Peer")
            .field("id", &self.id)
            .field("generation", &self.generation)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for Trust {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Trust")
            .field("number", &self.number)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
