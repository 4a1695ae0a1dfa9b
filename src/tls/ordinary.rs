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
