//! One generation of identity and trust: everything that a handshake takes, made together and left together.
//!
//! A ticket or a session of one generation is worth nothing in another: its keys and its store are the generation's.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use rustls::{
    ClientConfig, ServerConfig,
    client::Resumption,
    crypto::aws_lc_rs::Ticketer,
    pki_types::{CertificateDer, UnixTime},
    server::NoServerSessionStorage,
    sign::SingleCertAndKey,
    version::TLS13,
};

use super::{
    alpn::{self, Alpn},
    bundles::{Bundles, Revocations},
    identity::Identity,
    provider::provider,
    sessions::Sessions,
    trust::{Peer, Role, Trust, Untrusted},
    verify::{Callees, Callers},
};
use crate::units::SpiffeId;

/// Client configurations that are kept, one for each expected peer. More are made for one connection each.
const KEPT: usize = 1024;

/// What one state of identity, bundles and revocation lists comes to. Never changes.
#[derive(Debug)]
pub struct Generation {
    number: u64,
    identity: Identity,
    trust: Arc<Trust>,
    server: Arc<ServerConfig>,
    clients: Mutex<HashMap<Expected, Arc<ClientConfig>>>,
}

/// Which workload a callee must be.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub enum Expected {
    /// Any of a trust domain that has a bundle.
    #[default]
    Anyone,
    /// One of these.
    Of(Arc<[SpiffeId]>),
}

impl Expected {
    pub fn exactly(id: SpiffeId) -> Self {
        Expected::Of(Arc::new([id]))
    }

    pub fn check(&self, peer: &Peer) -> Result<(), Untrusted> {
        match self {
            Expected::Of(ids) if !ids.contains(&peer.id) => {
                Err(Untrusted::Unexpected(peer.id.clone()))
            }
            _ => Ok(()),
        }
    }
}

/// Why a generation cannot be made of what is right by itself.
#[derive(Debug, Clone, thiserror::Error)]
pub enum GenerationError {
    #[error("there is no bundle for {0}, our own trust domain")]
    NoOwnBundle(String),
    #[error("TLS cannot be set up: {0}")]
    Tls(#[from] rustls::Error),
}

impl Generation {
    pub(super) fn new(
        number: u64,
        identity: Identity,
        bundles: Bundles,
        revocations: Revocations,
    ) -> Result<Self, GenerationError> {
        let domain = identity.id().trust_domain();
        if bundles.of(domain).is_none() {
            return Err(GenerationError::NoOwnBundle(domain.to_owned()));
        }
        let trust = Arc::new(Trust::new(number, bundles, revocations));
        let mut server = ServerConfig::builder_with_provider(provider().clone())
            .with_protocol_versions(&[&TLS13])?
            .with_client_cert_verifier(Arc::new(Callers(trust.clone())))
            .with_cert_resolver(Arc::new(SingleCertAndKey::from(identity.key().clone())));
        server.alpn_protocols = alpn::wires(&Alpn::ALL);
        server.ticketer = Ticketer::new()?;
        server.session_storage = Arc::new(NoServerSessionStorage {});
        Ok(Generation {
            number,
            identity,
            trust,
            server: Arc::new(server),
            clients: Mutex::default(),
        })
    }

    /// Counts up from 1 with every change of identity, bundles or lists.
    pub fn number(&self) -> u64 {
        self.number
    }

    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    pub fn bundles(&self) -> &Bundles {
        self.trust.bundles()
    }

    pub fn revocations(&self) -> &Revocations {
        self.trust.revocations()
    }

    /// Whether the peer of an open connection may stay: its root is still there and nothing of its chain is revoked.
    ///
    /// That its certificate has ended since does not count here; `Peer::not_after` tells.
    pub fn still_trusts(&self, peer: &Peer) -> Result<(), Untrusted> {
        self.trust.still_trusts(peer)
    }

    /// False where peers with our bundles will not believe us: the root of our own certificate is not among them.
    pub fn trusts_itself(&self) -> bool {
        self.peer(Some(self.identity.chain()), Role::Server).is_ok()
    }

    pub(super) fn server(&self) -> Arc<ServerConfig> {
        self.server.clone()
    }

    /// Who a finished handshake was with: looked at after every one, because a resumed one shows nothing and rustls
    /// takes the certificate from the ticket as it was.
    pub(super) fn peer(
        &self,
        chain: Option<&[CertificateDer<'_>]>,
        role: Role,
    ) -> Result<Arc<Peer>, Untrusted> {
        let chain = chain.unwrap_or_default();
        let (leaf, intermediates) = chain.split_first().ok_or(Untrusted::NoCertificate)?;
        self.trust.judge(leaf, intermediates, role, UnixTime::now())
    }

    /// The configuration for calls to this workload.
    pub(super) fn client(&self, expected: &Expected) -> Result<Arc<ClientConfig>, rustls::Error> {
        let mut clients = self.clients.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(client) = clients.get(expected) {
            return Ok(client.clone());
        }
        let callees = Callees {
            trust: self.trust.clone(),
            expected: expected.clone(),
        };
        let mut client = ClientConfig::builder_with_provider(provider().clone())
            .with_protocol_versions(&[&TLS13])?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(callees))
            .with_client_cert_resolver(Arc::new(SingleCertAndKey::from(
                self.identity.key().clone(),
            )));
        // The name given at connecting only tells sessions apart; a workload is known by its id.
        client.enable_sni = false;
        client.resumption = Resumption::store(Arc::new(Sessions::default()));
        let client = Arc::new(client);
        if clients.len() < KEPT {
            clients.insert(expected.clone(), client.clone());
        }
        Ok(client)
    }
}
