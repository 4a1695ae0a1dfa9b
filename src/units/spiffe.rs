//! A SPIFFE id: who a workload is, as `spiffe://<trust domain>/<path>`.
//!
//! Read by the rules of the SPIFFE ID specification (§2): no query, no fragment, no port, no user, no escapes, no
//! empty or dot segment, at most 2,048 bytes. Compared as it is written, because there is one way to write it.

use std::{borrow::Cow, fmt, sync::Arc};

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

const SCHEME: &str = "spiffe://";
const LONGEST: usize = 2048;
const LONGEST_DOMAIN: usize = 255;

/// A SPIFFE id that keeps the rules. Cheap to clone.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SpiffeId {
    text: Arc<str>,
    /// Bytes of the scheme and the trust domain.
    domain_end: u16,
}

/// Why a text is no SPIFFE id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SpiffeIdError {
    #[error("`{0}` does not begin with spiffe://")]
    Scheme(String),
    #[error("a SPIFFE id has at most 2048 bytes, this one has {0}")]
    TooLong(usize),
    #[error(
        "`{0}` names no trust domain: lower-case letters, digits, `.`, `-` and `_`, at most 255 bytes"
    )]
    TrustDomain(String),
    #[error(
        "the path of `{0}` is none: segments of letters, digits, `.`, `-` and `_`, none empty, `.` or `..`"
    )]
    Path(String),
}

impl SpiffeId {
    pub fn parse(text: &str) -> Result<Self, SpiffeIdError> {
        if text.len() > LONGEST {
            return Err(SpiffeIdError::TooLong(text.len()));
        }
        let Some(rest) = text.strip_prefix(SCHEME) else {
            return Err(SpiffeIdError::Scheme(text.to_owned()));
        };
        let (domain, path) = match rest.find('/') {
            Some(at) => rest.split_at(at),
            None => (rest, ""),
        };
        if !is_trust_domain(domain) {
            return Err(SpiffeIdError::TrustDomain(text.to_owned()));
        }
        if !path.is_empty() && !path[1..].split('/').all(is_segment) {
            return Err(SpiffeIdError::Path(text.to_owned()));
        }
        Ok(SpiffeId {
            text: text.into(),
            domain_end: (SCHEME.len() + domain.len()) as u16,
        })
    }

    /// The id of a Kubernetes service account.
    pub fn of_service_account(
        trust_domain: &str,
        namespace: &str,
        account: &str,
    ) -> Result<Self, SpiffeIdError> {
        Self::parse(&format!(
            "{SCHEME}{trust_domain}/ns/{namespace}/sa/{account}"
        ))
    }

    pub fn as_str(&self) -> &str {
        &self.text
    }

    pub fn trust_domain(&self) -> &str {
        &self.text[SCHEME.len()..self.domain_end.into()]
    }

    /// Empty, or with its leading slash.
    pub fn path(&self) -> &str {
        &self.text[self.domain_end.into()..]
    }

    /// `<ns>` of `/ns/<ns>/sa/<sa>`.
    pub fn namespace(&self) -> Option<&str> {
        self.account().map(|(namespace, _)| namespace)
    }

    /// `<sa>` of `/ns/<ns>/sa/<sa>`.
    pub fn service_account(&self) -> Option<&str> {
        self.account().map(|(_, account)| account)
    }

    fn account(&self) -> Option<(&str, &str)> {
        let (namespace, account) = self.path().strip_prefix("/ns/")?.split_once("/sa/")?;
        (!namespace.contains('/') && !account.contains('/')).then_some((namespace, account))
    }
}

/// Whether a text names a trust domain.
pub fn is_trust_domain(text: &str) -> bool {
    let letter = |byte: u8| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'.' | b'-' | b'_');
    !text.is_empty() && text.len() <= LONGEST_DOMAIN && text.bytes().all(letter)
}

fn is_segment(text: &str) -> bool {
    let letter = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_');
    !matches!(text, "" | "." | "..") && text.bytes().all(letter)
}

impl fmt::Display for SpiffeId {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        to.write_str(&self.text)
    }
}

impl fmt::Debug for SpiffeId {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, to)
    }
}

impl Serialize for SpiffeId {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(&self.text)
    }
}

impl<'de> Deserialize<'de> for SpiffeId {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let text = Cow::<'de, str>::deserialize(from)?;
        SpiffeId::parse(&text).map_err(de::Error::custom)
    }
}

impl JsonSchema for SpiffeId {
    fn schema_name() -> Cow<'static, str> {
        "SpiffeId".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": "string",
            "pattern": "^spiffe://[a-z0-9._-]+(/[A-Za-z0-9._-]+)*$",
            "description": "A SPIFFE id, such as `spiffe://cluster.local/ns/shop/sa/web`."
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_taken_apart() {
        let id = SpiffeId::parse("spiffe://cluster.local/ns/shop/sa/web").unwrap();
        assert_eq!(id.trust_domain(), "cluster.local");
        assert_eq!(id.path(), "/ns/shop/sa/web");
        assert_eq!(id.namespace(), Some("shop"));
        assert_eq!(id.service_account(), Some("web"));
        let bare = SpiffeId::parse("spiffe://partner.example").unwrap();
        assert_eq!((bare.trust_domain(), bare.path()), ("partner.example", ""));
        assert_eq!(bare.namespace(), None);
    }

    #[test]
    fn a_deeper_path_is_no_service_account() {
        for text in [
            "spiffe://a/ns/x/sa/y/z",
            "spiffe://a/ns/x/y/sa/z",
            "spiffe://a/x/ns/y/sa/z",
        ] {
            assert_eq!(SpiffeId::parse(text).unwrap().namespace(), None, "{text}");
        }
    }

    #[test]
    fn what_breaks_the_rules_is_refused() {
        let long = format!("spiffe://a/{}", "x".repeat(2048));
        for text in [
            "",
            "spiffe://",
            "spiffe:///a",
            "SPIFFE://a/b",
            "https://a/b",
            "spiffe://A/b",
            "spiffe://a:80/b",
            "spiffe://user@a/b",
            "spiffe://a/",
            "spiffe://a//b",
            "spiffe://a/b/",
            "spiffe://a/./b",
            "spiffe://a/../b",
            "spiffe://a/%62",
            "spiffe://a/b?c",
            "spiffe://a/b#c",
            "spiffe://a/ü",
            "spiffe://a/b\0",
            &long,
        ] {
            assert!(SpiffeId::parse(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn an_id_of_a_service_account_is_read_back() {
        let id = SpiffeId::of_service_account("cluster.local", "shop", "web").unwrap();
        assert_eq!(id.as_str(), "spiffe://cluster.local/ns/shop/sa/web");
        assert!(SpiffeId::of_service_account("cluster.local", "shop/x", "").is_err());
    }
}
