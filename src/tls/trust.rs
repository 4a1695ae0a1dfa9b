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

    /// Who shows this chain, leaf first, in this role.
    pub fn judge(
        &self,
        chain: &[CertificateDer<'_>],
        role: Role,
        now: UnixTime,
    ) -> Result<Arc<Peer>, Untrusted> {
        let (leaf, intermediates) = chain.split_first().ok_or(Untrusted::NoCertificate)?;
        let now_at = at(now);
        if let Some(known) = self.known(role).get(leaf.as_ref()) {
            return match known.0.not_after {
                not_after if now_at > not_after => Err(Untrusted::Expired),
                _ => Ok(known.0.clone()),
            };
        }
        let length = chain.iter().map(|certificate| certificate.len()).sum();
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
            chain: chain
                .iter()
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
        let until = UnixTime::since_unix_epoch(since_epoch(peer.not_after));
        let now = UnixTime::now();
        self.judge(
            &peer.chain,
            peer.role,
            if now < until { now } else { until },
        )
        .map(drop)
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
mod tests {
    use std::time::Duration;

    use rcgen::{CertificateParams, ExtendedKeyUsagePurpose};
    use rustls::pki_types::pem::PemObject;

    use super::*;
    use crate::tls::{
        issue::{Authority, Issued, workload},
        tests::{DAY, ROOT, bundles, id, root},
    };

    fn chain(issued: &Issued) -> Vec<CertificateDer<'static>> {
        CertificateDer::pem_slice_iter(issued.certificate.as_bytes())
            .collect::<Result<_, _>>()
            .unwrap()
    }

    fn trust(roots: &[(&str, &Authority)], lists: &[String]) -> Trust {
        numbered(1, roots, lists)
    }

    fn numbered(number: u64, roots: &[(&str, &Authority)], lists: &[String]) -> Trust {
        let revocations = match lists {
            [] => Revocations::default(),
            lists => Revocations::from_pem(lists.concat().as_bytes()).unwrap(),
        };
        Trust::new(number, bundles(roots), revocations)
    }

    fn own() -> Trust {
        trust(&[("mesh.example", &ROOT)], &[])
    }

    fn judge(trust: &Trust, issued: &Issued) -> Result<Arc<Peer>, Untrusted> {
        trust.judge(&chain(issued), Role::Client, UnixTime::now())
    }

    fn later(trust: &Trust, issued: &Issued, by: Duration) -> Result<Arc<Peer>, Untrusted> {
        let then = UnixTime::since_unix_epoch(since_epoch(SystemTime::now() + by));
        trust.judge(&chain(issued), Role::Client, then)
    }

    fn params(uri: &str) -> CertificateParams {
        workload(&[uri], SystemTime::now(), DAY).unwrap()
    }

    #[test]
    fn a_root_vouches_for_its_own_domain_alone() {
        let (web, partner) = (
            ROOT.issue(&id("web"), DAY).unwrap(),
            root("partner.example"),
        );
        assert_eq!(judge(&own(), &web).unwrap().id, id("web"));
        // The partner's root signs a certificate that names a workload of ours.
        let forged = partner.issue(&id("web"), DAY).unwrap();
        let both = trust(
            &[("mesh.example", &ROOT), ("partner.example", &partner)],
            &[],
        );
        assert_eq!(
            judge(&both, &forged).unwrap_err(),
            Untrusted::UnknownAuthority
        );
        let theirs = SpiffeId::parse("spiffe://partner.example/billing").unwrap();
        let honest = partner.issue(&theirs, DAY).unwrap();
        assert_eq!(judge(&both, &honest).unwrap().id, theirs);
        assert_eq!(
            judge(&own(), &honest).unwrap_err(),
            Untrusted::UnknownDomain(theirs)
        );
    }

    #[test]
    fn the_dates_of_leaf_and_root_count_each_time() {
        let long = Authority::new("mesh.example", "long", 10 * DAY).unwrap();
        let trust = trust(&[("mesh.example", &long)], &[]);
        let web = long.issue(&id("web"), DAY).unwrap();
        assert!(judge(&trust, &web).is_ok());
        // Remembered by now.
        assert_eq!(
            later(&trust, &web, 2 * DAY).unwrap_err(),
            Untrusted::Expired
        );
        let future = long
            .sign(workload(&[id("web").as_str()], SystemTime::now() + DAY, DAY).unwrap())
            .unwrap();
        assert_eq!(judge(&trust, &future).unwrap_err(), Untrusted::NotYetValid);
        // A leaf that outlives its root ends with it.
        let brief = Authority::new("mesh.example", "brief", DAY).unwrap();
        let outliving = brief.issue(&id("web"), 9 * DAY).unwrap();
        let by_brief = self::trust(&[("mesh.example", &brief)], &[]);
        let peer = judge(&by_brief, &outliving).unwrap();
        assert!(peer.not_after <= SystemTime::now() + DAY);
        let fresh = self::trust(&[("mesh.example", &brief)], &[]);
        assert_eq!(
            later(&fresh, &outliving, 2 * DAY).unwrap_err(),
            Untrusted::Expired
        );
    }

    #[test]
    fn a_certificate_serves_the_side_it_is_for() {
        let mut server = params("spiffe://mesh.example/web");
        server.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        let server = ROOT.sign(server).unwrap();
        assert_eq!(judge(&own(), &server).unwrap_err(), Untrusted::Purpose);
        assert!(
            own()
                .judge(&chain(&server), Role::Server, UnixTime::now())
                .is_ok()
        );
        let mut any = params("spiffe://mesh.example/web");
        any.extended_key_usages.clear();
        assert!(judge(&own(), &ROOT.sign(any).unwrap()).is_ok());
    }

    #[test]
    fn a_chain_has_ten_kibibytes() {
        let web = ROOT.issue(&id("web"), DAY).unwrap();
        let long: Vec<_> = chain(&web).into_iter().cycle().take(40).collect();
        let error = own()
            .judge(&long, Role::Client, UnixTime::now())
            .unwrap_err();
        assert!(matches!(error, Untrusted::TooLong(_)), "{error}");
        assert_eq!(
            own().judge(&[], Role::Client, UnixTime::now()).unwrap_err(),
            Untrusted::NoCertificate
        );
    }

    #[test]
    fn what_is_revoked_is_refused_and_what_is_unknown_is_not() {
        let (web, orders) = (
            ROOT.issue(&id("web"), DAY).unwrap(),
            ROOT.issue(&id("orders"), DAY).unwrap(),
        );
        let next = SystemTime::now() + DAY;
        let list = ROOT.revoke(&[&web.serial], next).unwrap();
        let ours: &[(&str, &Authority)] = &[("mesh.example", &ROOT)];
        let trust = trust(ours, &[list]);
        assert_eq!(judge(&trust, &web).unwrap_err(), Untrusted::Revoked);
        assert!(judge(&trust, &orders).is_ok());
        // Of another issuer nothing is known.
        let partner = root("partner.example");
        let theirs = partner
            .issue(&SpiffeId::parse("spiffe://partner.example/a").unwrap(), DAY)
            .unwrap();
        let with_partner: &[(&str, &Authority)] =
            &[("mesh.example", &ROOT), ("partner.example", &partner)];
        let lists = [ROOT.revoke(&[&web.serial], next).unwrap()];
        assert!(judge(&self::trust(with_partner, &lists), &theirs).is_ok());
    }

    #[test]
    fn a_list_past_its_date_still_revokes() {
        let web = ROOT.issue(&id("web"), DAY).unwrap();
        let list = ROOT
            .revoke(
                &[&web.serial],
                SystemTime::now() - Duration::from_secs(3600),
            )
            .unwrap();
        let trust = trust(&[("mesh.example", &ROOT)], &[list]);
        assert_eq!(judge(&trust, &web).unwrap_err(), Untrusted::Revoked);
        assert!(judge(&trust, &ROOT.issue(&id("orders"), DAY).unwrap()).is_ok());
    }

    /// A replaced root often keeps its name. The list of the old key must neither keep everybody out nor hide the new
    /// key's.
    #[test]
    fn lists_of_two_keys_with_one_name_stand_side_by_side() {
        let old = root("mesh.example");
        let web = ROOT.issue(&id("web"), DAY).unwrap();
        let orders = ROOT.issue(&id("orders"), DAY).unwrap();
        let next = SystemTime::now() + DAY;
        let lists = [
            old.revoke(&[], next).unwrap(),
            ROOT.revoke(&[&web.serial], next).unwrap(),
        ];
        let mut reversed = lists.clone();
        reversed.reverse();
        for lists in [lists, reversed] {
            let trust = trust(&[("mesh.example", &ROOT)], &lists);
            assert_eq!(judge(&trust, &web).unwrap_err(), Untrusted::Revoked);
            assert!(judge(&trust, &orders).is_ok());
        }
    }

    #[test]
    fn a_later_generation_judges_what_is_open_again() {
        let ours: &[(&str, &Authority)] = &[("mesh.example", &ROOT)];
        let web = ROOT.issue(&id("web"), DAY).unwrap();
        let peer = judge(&numbered(1, ours, &[]), &web).unwrap();
        assert_eq!(numbered(2, ours, &[]).still_trusts(&peer), Ok(()));
        let list = ROOT
            .revoke(&[&web.serial], SystemTime::now() + DAY)
            .unwrap();
        assert_eq!(
            numbered(2, ours, &[list]).still_trusts(&peer),
            Err(Untrusted::Revoked)
        );
        let new = root("mesh.example");
        let replaced = numbered(2, &[("mesh.example", &new)], &[]);
        assert_eq!(
            replaced.still_trusts(&peer),
            Err(Untrusted::UnknownAuthority)
        );
        let gone = numbered(2, &[("partner.example", &new)], &[]);
        assert_eq!(
            gone.still_trusts(&peer),
            Err(Untrusted::UnknownDomain(id("web")))
        );
    }

    #[test]
    fn a_connection_may_outlive_its_certificate() {
        let now = SystemTime::now();
        let old = Authority::since(now - 3 * DAY, "mesh.example", "old", 10 * DAY).unwrap();
        let ours: &[(&str, &Authority)] = &[("mesh.example", &old)];
        let web = old
            .sign(workload(&[id("web").as_str()], now - 2 * DAY, DAY).unwrap())
            .unwrap();
        let then = UnixTime::since_unix_epoch(since_epoch(now - 3 * DAY / 2));
        let peer = numbered(1, ours, &[])
            .judge(&chain(&web), Role::Client, then)
            .unwrap();
        let next = numbered(2, ours, &[]);
        assert_eq!(judge(&next, &web).unwrap_err(), Untrusted::Expired);
        assert_eq!(next.still_trusts(&peer), Ok(()));
        let list = old.revoke(&[&web.serial], now + DAY).unwrap();
        assert_eq!(
            numbered(3, ours, &[list]).still_trusts(&peer),
            Err(Untrusted::Revoked)
        );
    }

    #[test]
    fn who_is_known_costs_no_second_copy() {
        let (trust, web) = (own(), ROOT.issue(&id("web"), DAY).unwrap());
        let (first, again) = (judge(&trust, &web).unwrap(), judge(&trust, &web).unwrap());
        assert!(Arc::ptr_eq(&first, &again));
        let server = trust
            .judge(&chain(&web), Role::Server, UnixTime::now())
            .unwrap();
        assert!(
            !Arc::ptr_eq(&first, &server),
            "a caller is not judged as a callee"
        );
    }
}
