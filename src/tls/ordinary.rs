//! Ordinary TLS to a server outside the mesh: its name, the roots it leads to, and what we show if it asks.

use std::{
    env, fs, io,
    path::{Path, PathBuf},
    sync::Arc,
};

use rustls::{
    ClientConfig, RootCertStore,
    client::{Resumption, WebPkiServerVerifier},
    pki_types::{CertificateDer, DnsName, ServerName},
};

use super::{
    client::Connector,
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

impl Connector {
    /// Ordinary TLS 1.3 or 1.2. The files are read now.
    pub fn to_server(settings: &Ordinary) -> Result<Self, OrdinaryError> {
        let sni = settings.sni.as_str().trim_end_matches('.');
        let name =
            DnsName::try_from(sni.to_owned()).map_err(|_| OrdinaryError::Name(sni.to_owned()))?;
        let roots = roots(settings.roots.as_deref())?;
        let verifier =
            WebPkiServerVerifier::builder_with_provider(roots.into(), provider().clone())
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
        Ok(Connector::ordinary(
            Arc::new(config),
            ServerName::DnsName(name),
        ))
    }
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
        Alpn, HandshakeError, Untrusted,
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
