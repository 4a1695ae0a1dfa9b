//! What `identity:` says: where our certificate comes from and whom we believe; and an upstream's `tls:`.

use std::{collections::BTreeMap, fmt, path::PathBuf, str::FromStr};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::units::{Hostname, Invalid, as_text, distinct};

/// Who we are. Without it everything is plaintext.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "Identity")]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Settings {
    /// Certificate, key and roots in files, read again when they change. Either these or `workloadApi`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub files: Option<Files>,
    /// The socket of a SPIFFE Workload API.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workload_api: Option<Socket>,
    /// Roots of other trust domains, in PEM files, by the domain's name.
    #[serde(default, deserialize_with = "distinct")]
    pub trust_bundles: BTreeMap<Hostname, PathBuf>,
    /// True: streams, upgrades and TCP end with the peer's certificate too, as calls do anyway.
    #[serde(default)]
    pub cut_at_expiry: bool,
}

/// An identity in files.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "IdentityFiles")]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Files {
    /// Our certificate and those that lead to its root, in PEM, ours first.
    pub certificate: PathBuf,
    /// Its private key, in PEM.
    pub key: PathBuf,
    /// The roots of our trust domain, in PEM.
    pub roots: PathBuf,
    /// Revocation lists, in PEM or DER.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub crl: Option<PathBuf>,
}

/// A Unix socket, as `unix:///run/spire/agent.sock`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Socket(PathBuf);

impl Socket {
    pub fn path(&self) -> &std::path::Path {
        &self.0
    }
}

impl FromStr for Socket {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        match text
            .strip_prefix("unix://")
            .or_else(|| text.strip_prefix("unix:"))
        {
            Some(path) if path.starts_with('/') && path.len() > 1 => Ok(Socket(path.into())),
            _ => Err(Invalid(format!(
                "`{text}` is not a socket: write it like `unix:///run/spire/agent.sock`"
            ))),
        }
    }
}

impl fmt::Display for Socket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "unix://{}", self.0.display())
    }
}

as_text!(Socket, "unix:///run/spire/agent.sock", { "pattern": "^unix:(//)?/.+" });

/// How connections to an upstream are secured.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "UpstreamTls")]
#[serde(rename_all = "camelCase")]
pub enum Towards {
    /// Mutual TLS where we have an identity and the upstream says whom to expect, else plaintext, counted.
    #[default]
    Auto,
    /// Mutual TLS inside the mesh, never plaintext.
    Mesh,
    /// Plaintext.
    None,
    /// Ordinary TLS, by name.
    #[serde(untagged)]
    Ordinary(Ordinary),
}

/// Ordinary TLS to a server outside the mesh.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "OrdinaryTls")]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Ordinary {
    /// The name that the server's certificate must have, sent to it as SNI.
    pub sni: Hostname,
    /// The roots it must lead to, in a PEM file; default: the machine's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub roots: Option<PathBuf>,
    /// What we show if the server asks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client_certificate: Option<ClientCertificate>,
}

/// A certificate for servers that ask for one.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ClientCertificate {
    /// The certificate and those that lead to its root, in PEM.
    pub certificate: PathBuf,
    /// Its private key, in PEM.
    pub key: PathBuf,
}
