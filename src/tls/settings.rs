//! What `identity:` says: where our certificate comes from and whom we believe; and an upstream's `tls:`.

use std::{collections::BTreeMap, fmt, path::PathBuf, str::FromStr};

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use crate::units::{Hostname, Invalid, as_text, distinct};

/// Who we are. Without it everything is plaintext.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", try_from = "Said")]
pub struct Settings {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub files: Option<Files>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub workload_api: Option<Socket>,
    pub trust_bundles: BTreeMap<Hostname, PathBuf>,
    pub cut_at_expiry: bool,
}

/// Who we are: by `files` or by `workloadApi`. Without it everything is plaintext.
#[derive(Deserialize, JsonSchema)]
#[schemars(rename = "Identity")]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Said {
    /// Certificate, key and roots in files, read again when they change.
    #[serde(default)]
    files: Option<Files>,
    /// The socket of a SPIFFE Workload API.
    #[serde(default)]
    workload_api: Option<Socket>,
    /// Roots of other trust domains, in PEM files, by the domain's name.
    #[serde(default, deserialize_with = "distinct")]
    trust_bundles: BTreeMap<Hostname, PathBuf>,
    /// True: streams, upgrades and TCP end with the peer's certificate too, as calls do anyway.
    #[serde(default)]
    cut_at_expiry: bool,
}

impl TryFrom<Said> for Settings {
    type Error = Invalid;

    fn try_from(said: Said) -> Result<Self, Invalid> {
        match (&said.files, &said.workload_api) {
            (None, None) => Err(Invalid(
                "an identity comes from `files` or from `workloadApi`: say one".to_owned(),
            )),
            (Some(_), Some(_)) => Err(Invalid(
                "an identity comes from `files` or from `workloadApi`: say one, not both"
                    .to_owned(),
            )),
            _ => Ok(Settings {
                files: said.files,
                workload_api: said.workload_api,
                trust_bundles: said.trust_bundles,
                cut_at_expiry: said.cut_at_expiry,
            }),
        }
    }
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
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub enum Towards {
    /// Mutual TLS where we and the upstream have an identity, else plaintext, counted.
    #[default]
    Auto,
    /// Mutual TLS inside the mesh, never plaintext.
    Mesh,
    /// Plaintext.
    None,
    /// Ordinary TLS, by name.
    Ordinary(Ordinary),
}

const WORDS: &[&str] = &["auto", "mesh", "none"];

impl Serialize for Towards {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Towards::Auto => serializer.serialize_str("auto"),
            Towards::Mesh => serializer.serialize_str("mesh"),
            Towards::None => serializer.serialize_str("none"),
            Towards::Ordinary(ordinary) => ordinary.serialize(serializer),
        }
    }
}

impl<'de> Deserialize<'de> for Towards {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Entry;
        impl<'de> de::Visitor<'de> for Entry {
            type Value = Towards;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("auto, mesh, none, or `sni: NAME` for ordinary TLS")
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<Towards, E> {
                match text {
                    "auto" => Ok(Towards::Auto),
                    "mesh" => Ok(Towards::Mesh),
                    "none" => Ok(Towards::None),
                    other => Err(E::unknown_variant(other, WORDS)),
                }
            }
            fn visit_map<A: de::MapAccess<'de>>(self, map: A) -> Result<Towards, A::Error> {
                let ordinary = Ordinary::deserialize(de::value::MapAccessDeserializer::new(map))?;
                Ok(Towards::Ordinary(ordinary))
            }
        }
        deserializer.deserialize_any(Entry)
    }
}

impl JsonSchema for Towards {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "UpstreamTls".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let ordinary = generator.subschema_for::<Ordinary>();
        json_schema!({ "anyOf": [{ "enum": ["auto", "mesh", "none"] }, ordinary] })
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    fn identity(yaml: &str) -> Result<Settings, String> {
        serde_yaml::from_str(yaml).map_err(|error| error.to_string())
    }

    #[test]
    fn an_identity_has_one_source() {
        let files = "files: { certificate: a, key: b, roots: c }";
        assert!(identity(files).is_ok());
        assert!(identity("workloadApi: unix:///run/agent.sock").is_ok());
        assert!(
            identity("cutAtExpiry: true")
                .unwrap_err()
                .contains("say one")
        );
        let both = format!("{files}\nworkloadApi: unix:///run/agent.sock");
        assert!(identity(&both).unwrap_err().contains("not both"));
        assert!(
            identity("workloadApi: /run/agent.sock")
                .unwrap_err()
                .contains("unix:///")
        );
    }

    #[test]
    fn what_was_said_is_written_again() {
        for yaml in [
            "auto",
            "mesh",
            "none",
            "sni: api.example\nroots: /etc/roots.pem",
        ] {
            let towards: Towards = serde_yaml::from_str(yaml).unwrap();
            assert_eq!(serde_yaml::to_string(&towards).unwrap().trim(), yaml);
        }
        let unknown = serde_yaml::from_str::<Towards>("tls")
            .unwrap_err()
            .to_string();
        assert!(unknown.contains("auto"), "{unknown}");
    }
}
