//! A SPIFFE Workload API: identity, bundles and revocation lists, streamed over a Unix socket.
//!
//! The agent sends all of it again whenever any of it changes, and renews certificates in good time: that is its
//! business. Ours is to stay connected: a stream that ends is opened again, after 100 ms, doubling up to 30 s.

mod messages;

use std::{
    collections::HashMap,
    fmt,
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use prost::Message;
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, PrivatePkcs8KeyDer};
use sha2::{Digest, Sha256};
use tokio::time::{interval, sleep};
use x509_parser::parse_x509_certificate;

use super::{Intake, LOOK, Lookout, News, SourceError, federated};
use crate::tls::{
    bundles::{Bundles, Revocations},
    identity::{Identity, IdentityError},
    leaf::Leaf,
    metrics::Rotation,
    settings::{Settings, Socket},
    store::Store,
};
use messages::Messages;

pub use messages::ApiError;

const FIRST_WAIT: Duration = Duration::from_millis(100);
const LONGEST_WAIT: Duration = Duration::from_secs(30);

/// A Workload API that a store follows.
pub(super) struct Followed {
    settings: Settings,
    socket: Socket,
    store: Store,
    /// What the agent said last; empty before that.
    message: Bytes,
    /// A reconnected agent says the same again, and that is no rotation.
    intake: Intake,
}

impl Followed {
    pub fn new(settings: &Settings, socket: &Socket, store: &Store) -> Self {
        Followed {
            settings: settings.clone(),
            socket: socket.clone(),
            store: store.clone(),
            message: Bytes::new(),
            intake: Intake::new(store, socket.to_string()),
        }
    }

    pub async fn run(mut self) {
        let store = self.store.clone();
        tokio::select! {
            () = self.follow() => {}
            () = watch(&store) => {}
        }
    }

    async fn follow(&mut self) {
        let mut wait = FIRST_WAIT;
        loop {
            let error = self.session(&mut wait).await;
            self.store.metrics().rotation(Rotation::Unavailable);
            tracing::warn!(socket = %self.socket, %error, again_ms = wait.as_millis() as u64, "the Workload API is asked again");
            // Between half and all of it, so that the workloads of a machine do not come back at once.
            sleep(wait.mul_f64(0.5 + fastrand::f64() / 2.0)).await;
            wait = (wait * 2).min(LONGEST_WAIT);
        }
    }

    /// One connection to its end, which is always an error.
    async fn session(&mut self, wait: &mut Duration) -> ApiError {
        let mut messages = match Messages::open(self.socket.path()).await {
            Ok(messages) => messages,
            Err(error) => return error,
        };
        let mut files = interval(LOOK);
        loop {
            tokio::select! {
                message = messages.next() => match message {
                    Ok(message) => {
                        *wait = FIRST_WAIT;
                        self.message = message;
                    }
                    Err(error) => return error,
                },
                // The files of `trustBundles` may have changed.
                _ = files.tick() => {}
            }
            self.look();
        }
    }

    /// Takes over what is new.
    fn look(&mut self) {
        if self.message.is_empty() {
            return;
        }
        let mut digest = Sha256::new_with_prefix(&self.message);
        for file in self.settings.trust_bundles.values() {
            digest.update(std::fs::read(file).unwrap_or_default());
        }
        let (message, settings) = (&self.message, &self.settings);
        self.intake.look(digest.finalize().into(), || {
            let response = Response::decode(message.clone()).map_err(ApiError::from)?;
            news(response, settings)
        });
    }
}

async fn watch(store: &Store) {
    let mut lookout = Lookout::default();
    loop {
        lookout.look(store);
        sleep(LOOK).await;
    }
}

/// What an agent gives, as it came.
pub struct Given {
    pub chains: Vec<Vec<CertificateDer<'static>>>,
    pub bundles: Vec<(String, Vec<CertificateDer<'static>>)>,
    pub lists: Vec<Vec<u8>>,
}

/// Asks an agent once.
pub async fn fetch(socket: &Socket) -> Result<Given, ApiError> {
    let message = Messages::open(socket.path()).await?.next().await?;
    let response = Response::decode(message)?;
    let mut given = Given {
        chains: Vec::new(),
        bundles: Vec::new(),
        lists: response.lists,
    };
    for svid in &response.svids {
        let chain = certificates(&svid.chain).unwrap_or_default();
        let id = chain
            .first()
            .and_then(|leaf| Leaf::read(leaf).ok())
            .map(|leaf| leaf.id);
        let domain = id.map_or_else(|| "?".to_owned(), |id| id.trust_domain().to_owned());
        if !given.bundles.iter().any(|(known, _)| *known == domain) {
            given
                .bundles
                .push((domain, certificates(&svid.bundle).unwrap_or_default()));
        }
        given.chains.push(chain);
    }
    for (domain, bundle) in &response.federated {
        let domain = domain.strip_prefix("spiffe://").unwrap_or(domain);
        given
            .bundles
            .push((domain.to_owned(), certificates(bundle).unwrap_or_default()));
    }
    Ok(given)
}

/// The first identity is ours: the agent puts the default one there.
fn news(response: Response, settings: &Settings) -> Result<News, SourceError> {
    let Some(svid) = response.svids.into_iter().next() else {
        return Err(SourceError::NoIdentity);
    };
    let chain = certificates(&svid.chain).ok_or(IdentityError::Chain(1))?;
    let key = PrivatePkcs8KeyDer::from(svid.key);
    let identity = Identity::new(chain, key.into(), SystemTime::now())?;
    let mut roots: HashMap<String, Vec<u8>> = HashMap::new();
    for (domain, bundle) in response.federated {
        let domain = domain.strip_prefix("spiffe://").unwrap_or(&domain);
        let said_here = settings
            .trust_bundles
            .keys()
            .any(|said| said.as_str() == domain);
        // An agent may know of a domain before it has its roots; what the file says goes before what the agent says.
        if !bundle.is_empty() && !said_here {
            roots.insert(domain.to_owned(), bundle);
        }
    }
    roots.insert(identity.id().trust_domain().to_owned(), svid.bundle);
    let mut bundles = Bundles::default();
    for (domain, bundle) in roots {
        let roots = certificates(&bundle).ok_or_else(|| SourceError::Roots(domain.clone()))?;
        bundles.add(&domain, &roots)?;
    }
    federated(&settings.trust_bundles, &mut bundles)?;
    let lists: Vec<_> = response
        .lists
        .into_iter()
        .map(CertificateRevocationListDer::from)
        .collect();
    Ok(News {
        identity,
        bundles,
        revocations: Revocations::new(&lists)?,
    })
}

/// Certificates in DER, one behind the other.
fn certificates(mut der: &[u8]) -> Option<Vec<CertificateDer<'static>>> {
    let mut found = Vec::new();
    while !der.is_empty() {
        let (rest, _) = parse_x509_certificate(der).ok()?;
        found.push(der[..der.len() - rest.len()].to_vec().into());
        der = rest;
    }
    Some(found)
}

/// `X509SVIDResponse` of workload.proto.
#[derive(Clone, PartialEq, Message)]
#[prost(skip_debug)]
struct Response {
    #[prost(message, repeated, tag = "1")]
    svids: Vec<Svid>,
    #[prost(bytes = "vec", repeated, tag = "2")]
    lists: Vec<Vec<u8>>,
    #[prost(map = "string, bytes", tag = "3")]
    federated: HashMap<String, Vec<u8>>,
}

/// `X509SVID` of workload.proto. All in DER.
#[derive(Clone, PartialEq, Message)]
#[prost(skip_debug)]
struct Svid {
    #[prost(bytes = "vec", tag = "2")]
    chain: Vec<u8>,
    /// PKCS#8, not encrypted.
    #[prost(bytes = "vec", tag = "3")]
    key: Vec<u8>,
    #[prost(bytes = "vec", tag = "4")]
    bundle: Vec<u8>,
}

impl fmt::Debug for Response {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Response")
            .field("identities", &self.svids.len())
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for Svid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Svid").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;
    use crate::tls::{
        issue::{Authority, Issued},
        pem,
        tests::{DAY, ROOT, id, root},
    };

    fn der(text: &str) -> Vec<u8> {
        let found = pem::certificates(text.as_bytes()).unwrap();
        found.iter().flat_map(|der| der.to_vec()).collect()
    }

    fn svid(issued: &Issued, by: &Authority) -> Svid {
        Svid {
            chain: der(&issued.certificate),
            key: pem::key(issued.key.as_bytes())
                .unwrap()
                .secret_der()
                .to_vec(),
            bundle: der(by.certificate()),
        }
    }

    fn response() -> Response {
        let web = ROOT.issue(&id("web"), DAY).unwrap();
        Response {
            svids: vec![svid(&web, &ROOT)],
            lists: Vec::new(),
            federated: HashMap::new(),
        }
    }

    fn settings(bundles: &[(&str, PathBuf)]) -> Settings {
        Settings {
            files: None,
            workload_api: None,
            trust_bundles: bundles
                .iter()
                .map(|(domain, file)| (domain.parse().unwrap(), file.clone()))
                .collect(),
            cut_at_expiry: false,
        }
    }

    fn domains(news: &News) -> Vec<(String, usize)> {
        news.bundles
            .domains()
            .map(|(domain, roots)| (domain.to_owned(), roots))
            .collect()
    }

    #[test]
    fn all_of_a_message_is_taken() {
        let (partner, again) = (root("partner.example"), root("partner.example"));
        let web = ROOT.issue(&id("web"), DAY).unwrap();
        let list = ROOT
            .revoke(&[&web.serial], SystemTime::now() + DAY)
            .unwrap();
        let both = der(&format!("{}{}", partner.certificate(), again.certificate()));
        let mut said = response();
        said.federated
            .insert("spiffe://partner.example".to_owned(), both);
        said.federated
            .insert("spiffe://later.example".to_owned(), Vec::new());
        said.lists = pem::revocation_lists(list.as_bytes())
            .unwrap()
            .iter()
            .map(|list| list.to_vec())
            .collect();
        // Through the wire's own form.
        let said = Response::decode(Bytes::from(said.encode_to_vec())).unwrap();
        let news = news(said, &settings(&[])).unwrap();
        assert_eq!(news.identity.id(), &id("web"));
        assert_eq!(
            domains(&news),
            [
                ("mesh.example".to_owned(), 1),
                ("partner.example".to_owned(), 2)
            ]
        );
        assert!(!news.revocations.is_empty());
    }

    #[test]
    fn what_the_file_says_of_a_domain_goes_before_what_the_agent_says() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("partner.pem");
        let (said_here, said_there) = (root("partner.example"), root("partner.example"));
        std::fs::write(&file, format!("{0}{0}", said_here.certificate())).unwrap();
        let mut said = response();
        said.federated
            .insert("partner.example".to_owned(), der(said_there.certificate()));
        let news = news(said, &settings(&[("partner.example", file)])).unwrap();
        assert_eq!(domains(&news)[1], ("partner.example".to_owned(), 2));
    }

    #[test]
    fn a_message_that_is_no_use_says_why() {
        let why = |said: Response| news(said, &settings(&[])).err().unwrap().to_string();
        let mut none = response();
        none.svids.clear();
        assert!(why(none).contains("no identity for us"));
        let mut rootless = response();
        rootless.svids[0].bundle.clear();
        assert!(why(rootless).contains("empty"));
        let mut torn = response();
        torn.svids[0].bundle.pop();
        assert!(why(torn).contains("roots of mesh.example"));
        let mut keyless = response();
        keyless.svids[0].key = vec![0x30];
        assert!(why(keyless).contains("key"));
        let shown = format!("{:?} {:?}", response(), response().svids);
        assert!(!shown.contains("key"), "{shown}");
    }

    #[test]
    fn certificates_stand_one_behind_the_other() {
        let two = der(&format!("{0}{0}", ROOT.certificate()));
        assert_eq!(certificates(&two).unwrap().len(), 2);
        assert_eq!(certificates(&two[..two.len() - 1]), None);
    }
}
