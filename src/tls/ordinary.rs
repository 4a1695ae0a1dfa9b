//! Ordinary TLS to a server outside the mesh: its name, the roots it leads to, and what we show if it asks.
//!
//! The files are read again when they change (`papers`). What is wrong with them is told loudly, and the last good ones
//! go on.

use std::{
    env, fs, io,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use rustls::{
    ClientConfig, RootCertStore,
    client::{Resumption, WebPkiServerVerifier},
    pki_types::{CertificateDer, DnsName, ServerName},
};

use super::{
    papers::Papers,
    pem::{self, PemError},
    provider::provider,
    sessions::Sessions,
    settings::{ClientCertificate, Ordinary},
};

/// Where distributions keep the roots of the public web; the first that is there counts, `SSL_CERT_FILE` before all.
const SYSTEM_ROOTS: &[&str] = &[
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
];

/// Why TLS to a server outside the mesh cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum OrdinaryError {
    #[error("cannot read {}: {why}", file.display())]
    Read {
        file: PathBuf,
        #[source]
        why: io::Error,
    },
    #[error("{} cannot be used: {why}", file.display())]
    Pem {
        file: PathBuf,
        #[source]
        why: PemError,
    },
    #[error(
        "none of the machine's usual files of roots is there; name one as `roots`, or in $SSL_CERT_FILE"
    )]
    NoRoots,
    #[error("`{0}` is not a server's name")]
    Name(String),
    #[error("TLS cannot be set up: {0}")]
    Tls(#[from] rustls::Error),
}

/// One server, and how it is spoken to.
#[derive(Debug)]
pub(super) struct Server {
    settings: Ordinary,
    name: ServerName<'static>,
    papers: Papers,
    /// Counts what was taken over. Told apart from `made`, so that a request need not wait for it.
    number: AtomicU64,
    made: Mutex<Made>,
}

#[derive(Debug)]
struct Made {
    /// Of the files that it is made of.
    digest: [u8; 32],
    config: Arc<ClientConfig>,
    /// The words of the last refusal, which is told once.
    refused: Option<String>,
}

/// What a connection to a server outside the mesh was set up with.
#[derive(Debug)]
pub struct Setup {
    server: Arc<Server>,
    number: u64,
}

impl Setup {
    /// Whether the server's files are still the same.
    pub fn is_current(&self) -> bool {
        self.server.number.load(Ordering::Acquire) == self.number
    }
}

impl Server {
    /// TLS 1.3 or 1.2. The files are read now.
    pub fn new(settings: &Ordinary) -> Result<Arc<Self>, OrdinaryError> {
        let sni = settings.sni.as_str().trim_end_matches('.');
        let name =
            DnsName::try_from(sni.to_owned()).map_err(|_| OrdinaryError::Name(sni.to_owned()))?;
        let papers = Papers::new(&paths(settings));
        let digest = papers.digest();
        let made = Made {
            digest,
            config: config(settings)?,
            refused: None,
        };
        Ok(Arc::new(Server {
            settings: settings.clone(),
            name: ServerName::DnsName(name),
            papers,
            number: AtomicU64::new(0),
            made: Mutex::new(made),
        }))
    }

    pub fn name(&self) -> &ServerName<'static> {
        &self.name
    }

    /// For one handshake.
    pub fn config(self: &Arc<Self>) -> (Arc<ClientConfig>, Setup) {
        let made = self.made();
        let setup = Setup {
            server: self.clone(),
            number: self.number.load(Ordering::Acquire),
        };
        (made.config.clone(), setup)
    }

    /// Takes over what is new in the files; true where something was.
    pub fn renew(&self) -> Result<bool, OrdinaryError> {
        let digest = self.papers.digest();
        let mut made = self.made();
        if made.digest == digest {
            made.refused = None;
            return Ok(false);
        }
        drop(made);
        let Some(read) = self.papers.settled(digest, || config(&self.settings)) else {
            return Ok(false);
        };
        let (server, mut made) = (&self.settings.sni, self.made());
        match read {
            Ok(config) => {
                *made = Made {
                    digest,
                    config,
                    refused: None,
                };
                self.number.fetch_add(1, Ordering::AcqRel);
                tracing::info!(%server, "the TLS files of a server were taken over");
                Ok(true)
            }
            Err(why) => {
                let words = why.to_string();
                if made.refused.as_ref() != Some(&words) {
                    tracing::error!(%server, "the TLS files of a server are refused: {words}; the last good ones go on");
                    made.refused = Some(words);
                }
                Err(why)
            }
        }
    }

    /// Takes over what is new whenever it comes, for ever.
    pub async fn follow(&self) {
        let look = || {
            // What is refused was told.
            let _ = self.renew();
        };
        match self.papers.follow(look).await {}
    }

    fn made(&self) -> MutexGuard<'_, Made> {
        // Nothing panics while it is held; were it so, what it holds is whole.
        self.made.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn paths(settings: &Ordinary) -> Vec<PathBuf> {
    let roots = settings.roots.clone().or_else(system_roots);
    let shown = settings.client_certificate.as_ref();
    let shown = shown.map(|shown| [shown.certificate.clone(), shown.key.clone()]);
    roots
        .into_iter()
        .chain(shown.into_iter().flatten())
        .collect()
}

fn config(settings: &Ordinary) -> Result<Arc<ClientConfig>, OrdinaryError> {
    let roots = roots(settings.roots.as_deref())?;
    let verifier = WebPkiServerVerifier::builder_with_provider(roots.into(), provider().clone())
        .build()
        .map_err(|error| rustls::Error::General(error.to_string()))?;
    let builder = ClientConfig::builder_with_provider(provider().clone())
        .with_safe_default_protocol_versions()?
        .with_webpki_verifier(verifier);
    let mut config = match &settings.client_certificate {
        None => builder.with_no_client_auth(),
        Some(ClientCertificate { certificate, key }) => builder
            .with_client_auth_cert(of(certificate, pem::certificates)?, of(key, pem::key)?)?,
    };
    config.resumption = Resumption::store(Arc::new(Sessions::default()));
    Ok(Arc::new(config))
}

fn roots(said: Option<&Path>) -> Result<RootCertStore, OrdinaryError> {
    let mut store = RootCertStore::empty();
    match said {
        Some(file) => {
            for root in of(file, pem::certificates)? {
                store.add(root)?;
            }
        }
        None => {
            let file = system_roots().ok_or(OrdinaryError::NoRoots)?;
            let found: Vec<CertificateDer<'static>> = of(&file, pem::certificates)?;
            // Of hundreds that others chose, one that cannot be read is left out.
            store.add_parsable_certificates(found);
        }
    }
    Ok(store)
}

fn system_roots() -> Option<PathBuf> {
    let usual = SYSTEM_ROOTS.iter().map(PathBuf::from);
    env::var_os("SSL_CERT_FILE")
        .map(PathBuf::from)
        .into_iter()
        .chain(usual)
        .find(|file| file.exists())
}

fn of<T>(file: &Path, read: impl FnOnce(&[u8]) -> Result<T, PemError>) -> Result<T, OrdinaryError> {
    let text = fs::read(file).map_err(|why| OrdinaryError::Read {
        file: file.to_owned(),
        why,
    })?;
    read(&text).map_err(|why| OrdinaryError::Pem {
        file: file.to_owned(),
        why,
    })
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, SystemTime};

    use rcgen::SanType;
    use rustls::{ServerConfig, server::WebPkiClientVerifier};
    use tempfile::TempDir;

    use super::*;
    use crate::tls::{
        Alpn, Connector, HandshakeError, Untrusted,
        issue::{Authority, Issued, workload},
        tests::{DAY, ROOT, id, pair},
    };

    fn server(name: &str) -> Issued {
        let mut params = workload(&[], SystemTime::now(), DAY).unwrap();
        params.subject_alt_names = vec![SanType::DnsName(name.try_into().unwrap())];
        ROOT.sign(params).unwrap()
    }

    fn file(folder: &TempDir, name: &str, text: &str) -> PathBuf {
        let path = folder.path().join(name);
        fs::write(&path, text).unwrap();
        path
    }

    /// A call to a server that has `presented`, and asks for a client's certificate where `asks`.
    async fn call(
        settings: &Ordinary,
        presented: &Issued,
        asks: bool,
    ) -> Result<usize, HandshakeError> {
        let mut believed = RootCertStore::empty();
        believed
            .add(
                pem::certificates(ROOT.certificate().as_bytes())
                    .unwrap()
                    .remove(0),
            )
            .unwrap();
        let builder = ServerConfig::builder_with_provider(provider().clone())
            .with_safe_default_protocol_versions()
            .unwrap();
        let builder = match asks {
            true => builder.with_client_cert_verifier(
                WebPkiClientVerifier::builder_with_provider(believed.into(), provider().clone())
                    .build()
                    .unwrap(),
            ),
            false => builder.with_no_client_auth(),
        };
        let chain = pem::certificates(presented.certificate.as_bytes()).unwrap();
        let key = pem::key(presented.key.as_bytes()).unwrap();
        let config = builder.with_single_cert(chain, key).unwrap();
        let (ours, theirs) = pair().await;
        let connector = Connector::to_server(settings).unwrap();
        let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
        let (connected, accepted) = tokio::join!(
            connector.connect(ours, &[Alpn::ForeignHttp1]),
            acceptor.accept(theirs)
        );
        let connected = connected?;
        assert!(connected.peer.is_none());
        let shown = accepted.map_or(0, |stream| {
            stream.get_ref().1.peer_certificates().map_or(0, <[_]>::len)
        });
        Ok(shown)
    }

    #[tokio::test]
    async fn a_server_is_known_by_its_name_and_its_root() {
        let folder = tempfile::tempdir().unwrap();
        let believing = |sni: &str, roots: &str| Ordinary {
            sni: sni.parse().unwrap(),
            roots: Some(file(&folder, "roots.pem", roots)),
            client_certificate: None,
        };
        let api = server("api.example");
        assert!(
            call(&believing("api.example", ROOT.certificate()), &api, false)
                .await
                .is_ok()
        );
        let other = call(&believing("other.example", ROOT.certificate()), &api, false).await;
        assert!(
            matches!(other, Err(HandshakeError::Untrusted(Untrusted::Chain(_)))),
            "{other:?}"
        );
        let stranger = Authority::new("mesh.example", "another", DAY).unwrap();
        let unknown = call(
            &believing("api.example", stranger.certificate()),
            &api,
            false,
        )
        .await;
        assert!(
            matches!(
                unknown,
                Err(HandshakeError::Untrusted(Untrusted::UnknownAuthority))
            ),
            "{unknown:?}"
        );
    }

    #[tokio::test]
    async fn a_certificate_is_shown_where_the_server_asks() {
        let folder = tempfile::tempdir().unwrap();
        let ours = ROOT.issue(&id("web"), Duration::from_secs(60)).unwrap();
        let settings = Ordinary {
            sni: "api.example".parse().unwrap(),
            roots: Some(file(&folder, "roots.pem", ROOT.certificate())),
            client_certificate: Some(ClientCertificate {
                certificate: file(&folder, "web.crt", &ours.certificate),
                key: file(&folder, "web.key", &ours.key),
            }),
        };
        assert_eq!(
            call(&settings, &server("api.example"), true).await.unwrap(),
            1
        );
        assert_eq!(
            call(&settings, &server("api.example"), false)
                .await
                .unwrap(),
            0
        );
    }

    #[test]
    fn new_files_are_taken_over_and_bad_ones_are_not() {
        let folder = tempfile::tempdir().unwrap();
        let server = Server::new(&Ordinary {
            sni: "api.example".parse().unwrap(),
            roots: Some(file(&folder, "roots.pem", ROOT.certificate())),
            client_certificate: None,
        })
        .unwrap();
        let (first, setup) = server.config();
        assert!(!server.renew().unwrap() && setup.is_current());

        file(&folder, "roots.pem", "nothing");
        for _ in 0..2 {
            let error = server.renew().unwrap_err().to_string();
            assert!(error.contains("roots.pem"), "{error}");
        }
        assert!(Arc::ptr_eq(&first, &server.config().0) && setup.is_current());

        let other = Authority::new("mesh.example", "another", DAY).unwrap();
        file(&folder, "roots.pem", other.certificate());
        assert!(server.renew().unwrap() && !setup.is_current());
        assert!(server.config().1.is_current());
    }

    #[test]
    fn a_file_that_is_not_there_is_named() {
        let settings = Ordinary {
            sni: "api.example".parse().unwrap(),
            roots: Some("/nowhere/roots.pem".into()),
            client_certificate: None,
        };
        let error = Connector::to_server(&settings).unwrap_err().to_string();
        assert!(error.contains("/nowhere/roots.pem"), "{error}");
    }
}
