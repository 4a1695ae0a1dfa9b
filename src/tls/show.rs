//! Certificates for a person to read: whose, by whom, from when until when, and what is wrong with them.
//!
//! Judges nothing: a stranger's certificate is shown like our own. Never shows a key.

use std::{
    net::IpAddr,
    sync::Arc,
    time::{Duration, SystemTime},
};

use rustls::{
    ClientConfig, Error,
    client::danger::{ServerCertVerified, ServerCertVerifier},
    pki_types::{CertificateDer, ServerName, UnixTime},
};
use tokio::net::TcpStream;
use x509_parser::{
    certificate::X509Certificate, extensions::GeneralName, parse_x509_certificate,
    prelude::FromDer, revocation_list::CertificateRevocationList,
};

use super::{
    alpn::Alpn,
    client::shake,
    failure::HandshakeError,
    leaf::{Leaf, LeafError, moment},
    pem::{self, PemError},
    provider::{proof_of_key, provider},
    settings::Socket,
    source::{ApiError, fetch},
};

pub use super::identity::said;

/// A certificate that ends within this time gets a warning, as does one past two thirds of its life.
const SOON: Duration = Duration::from_secs(3600);

/// One certificate in words.
#[derive(Debug, Clone)]
pub struct Certificate {
    /// Its SPIFFE id; or the URIs or names it has instead, or its subject.
    pub name: String,
    pub is_authority: bool,
    pub issuer: String,
    pub serial: String,
    pub from: SystemTime,
    pub until: SystemTime,
    pub warnings: Vec<String>,
}

/// One revocation list in words.
#[derive(Debug, Clone)]
pub struct List {
    pub issuer: String,
    pub revoked: usize,
    pub next_update: Option<SystemTime>,
}

/// What stands in a file.
#[derive(Debug, Default)]
pub struct Contents {
    pub certificates: Vec<Certificate>,
    pub lists: Vec<List>,
    /// What kind of key there is, or why it is no use.
    pub key: Option<Result<(), PemError>>,
}

/// What a peer presents in a handshake.
#[derive(Debug)]
pub struct Presented {
    pub chain: Vec<Certificate>,
    pub version: String,
    pub group: String,
    pub alpn: String,
}

/// What a Workload API gives to this process.
#[derive(Debug)]
pub struct Given {
    pub identities: Vec<Vec<Certificate>>,
    /// Roots by trust domain.
    pub bundles: Vec<(String, Vec<Certificate>)>,
    pub lists: Vec<List>,
}

/// What stands in a file, in PEM or DER.
pub fn contents(text: &[u8]) -> Result<Contents, PemError> {
    let mut found = Contents::default();
    if text.first() == Some(&0x30) {
        found.certificates.extend(certificate(text));
        found.lists.extend(list(text));
    } else {
        let holds = |words: &str| {
            text.windows(words.len())
                .any(|window| window == words.as_bytes())
        };
        if holds("-----BEGIN CERTIFICATE-----") {
            found.certificates = pem::certificates(text)?
                .iter()
                .filter_map(|der| certificate(der))
                .collect();
        }
        if holds("-----BEGIN X509 CRL-----") {
            found.lists = pem::revocation_lists(text)?
                .iter()
                .filter_map(|der| list(der))
                .collect();
        }
        if holds("PRIVATE KEY-----") {
            found.key = Some(pem::key(text).and_then(|key| {
                let loaded = provider().key_provider.load_private_key(key);
                loaded.map(drop).map_err(PemError::unsupported)
            }));
        }
    }
    match found.certificates.is_empty() && found.lists.is_empty() && found.key.is_none() {
        true => Err(PemError::Absent("certificate, revocation list or key")),
        false => Ok(found),
    }
}

/// What a peer presents, whoever it is. `sni` is sent, where there is one.
pub async fn presented(stream: TcpStream, sni: Option<&str>) -> Result<Presented, HandshakeError> {
    let mut config = ClientConfig::builder_with_provider(provider().clone())
        .with_safe_default_protocol_versions()
        .map_err(HandshakeError::Protocol)?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Anyone))
        .with_no_client_auth();
    config.enable_sni = sni.is_some();
    let name = match sni {
        Some(sni) => ServerName::try_from(sni.to_owned())
            .map_err(|error| HandshakeError::Protocol(Error::General(error.to_string())))?,
        None => ServerName::from(IpAddr::from([127, 0, 0, 1])),
    };
    let stream = shake(Arc::new(config), name, stream, &Alpn::ALL).await?;
    let (_, session) = stream.get_ref();
    let word = |word: Option<String>| word.unwrap_or_else(|| "none".to_owned());
    Ok(Presented {
        chain: session
            .peer_certificates()
            .unwrap_or_default()
            .iter()
            .filter_map(|der| certificate(der))
            .collect(),
        version: word(
            session
                .protocol_version()
                .map(|version| format!("{version:?}")),
        ),
        group: word(
            session
                .negotiated_key_exchange_group()
                .map(|group| format!("{:?}", group.name())),
        ),
        alpn: word(
            session
                .alpn_protocol()
                .map(|alpn| String::from_utf8_lossy(alpn).into_owned()),
        ),
    })
}

/// What the agent gives to this process now.
pub async fn given(socket: &Socket) -> Result<Given, ApiError> {
    let shown =
        |chain: &[CertificateDer<'_>]| chain.iter().filter_map(|der| certificate(der)).collect();
    let given = fetch(socket).await?;
    Ok(Given {
        identities: given.chains.iter().map(|chain| shown(chain)).collect(),
        bundles: given
            .bundles
            .iter()
            .map(|(domain, roots)| (domain.clone(), shown(roots)))
            .collect(),
        lists: given.lists.iter().filter_map(|der| list(der)).collect(),
    })
}

/// None for bytes that are no certificate.
fn certificate(der: &[u8]) -> Option<Certificate> {
    let (_, read) = parse_x509_certificate(der).ok()?;
    let mut shown = Certificate {
        name: name(&read),
        is_authority: read.is_ca(),
        issuer: match read.issuer() == read.subject() {
            true => "itself".to_owned(),
            false => read.issuer().to_string(),
        },
        serial: read.raw_serial_as_string(),
        from: moment(read.validity().not_before),
        until: moment(read.validity().not_after),
        warnings: Vec::new(),
    };
    shown.warnings = warnings(der, &read, &shown);
    Some(shown)
}

fn name(read: &X509Certificate<'_>) -> String {
    let names = read.subject_alternative_name().ok().flatten();
    let names: Vec<String> = names
        .iter()
        .flat_map(|names| &names.value.general_names)
        .filter_map(|name| match name {
            GeneralName::URI(uri) => Some((*uri).to_owned()),
            GeneralName::DNSName(name) => Some((*name).to_owned()),
            _ => None,
        })
        .collect();
    match names.is_empty() {
        true => read.subject().to_string(),
        false => names.join(", "),
    }
}

fn warnings(der: &[u8], read: &X509Certificate<'_>, shown: &Certificate) -> Vec<String> {
    let (now, mut found) = (SystemTime::now(), Vec::new());
    if now > shown.until {
        found.push("it has ended".to_owned());
    } else if now < shown.from {
        found.push("it does not count yet".to_owned());
    } else {
        let life = shown.until.duration_since(shown.from).unwrap_or_default();
        let left = shown.until.duration_since(now).unwrap_or_default();
        if left < SOON.min(life / 3) {
            found.push("it ends soon".to_owned());
        }
    }
    if shown.is_authority {
        return found;
    }
    if let Err(why) = Leaf::read(der)
        && why != LeafError::Authority
    {
        found.push(why.to_string());
    }
    if let Ok(Some(usage)) = read.extended_key_usage()
        && !(usage.value.any || usage.value.server_auth && usage.value.client_auth)
    {
        found.push(
            "it is not for both sides of a connection (serverAuth and clientAuth)".to_owned(),
        );
    }
    found
}

fn list(der: &[u8]) -> Option<List> {
    let (_, read) = CertificateRevocationList::from_der(der).ok()?;
    Some(List {
        issuer: read.issuer().to_string(),
        revoked: read.iter_revoked_certificates().count(),
        next_update: read.next_update().map(moment),
    })
}

/// Lets every certificate pass: it is only looked at. That its key is at hand is still checked.
#[derive(Debug)]
struct Anyone;

impl ServerCertVerifier for Anyone {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    proof_of_key!();
}
