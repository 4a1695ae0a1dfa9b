//! What a route changes on the way: the Gateway API's core filters, by its names.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize, de};

use crate::units::{FieldName, FieldValue, Hostname, UrlPath, message_fields, message_names};

/// One change of a request or an answer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum Filter {
    /// Changes header fields of the request.
    RequestHeaderModifier(HeaderModifier),
    /// Changes header fields of the answer.
    ResponseHeaderModifier(HeaderModifier),
    /// Changes the host or the path that the upstream sees.
    UrlRewrite(UrlRewrite),
    /// Answers with a redirect and asks no upstream.
    RequestRedirect(RequestRedirect),
}

/// Header fields to set, add and remove, in this order. Framing, hop-by-hop fields and `host` are not for it.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct HeaderModifier {
    /// Fields that replace any of the same name.
    #[serde(deserialize_with = "message_fields")]
    pub set: BTreeMap<FieldName, FieldValue>,
    /// Fields that are added to those of the same name.
    #[serde(deserialize_with = "message_fields")]
    pub add: BTreeMap<FieldName, FieldValue>,
    /// Names of fields that are dropped.
    #[serde(deserialize_with = "message_names")]
    pub remove: Vec<FieldName>,
}

/// Changes what the upstream sees of the address.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct UrlRewrite {
    /// The host to name instead.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hostname: Option<Hostname>,
    /// The path to ask for instead; the query stays.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<PathRewrite>,
}

/// What becomes of a path.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum PathRewrite {
    /// The whole path.
    ReplaceFullPath(UrlPath),
    /// The part that `path: { prefix }` matched.
    ReplacePrefixMatch(UrlPath),
}

/// Sends the caller elsewhere. What is not said stays as it was asked for.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct RequestRedirect {
    /// The scheme to send the caller to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scheme: Option<Scheme>,
    /// The host to send the caller to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hostname: Option<Hostname>,
    /// The port to send the caller to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// The path to send the caller to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<PathRewrite>,
    /// 301, 302, 303, 307 or 308.
    pub status_code: RedirectStatus,
}

/// A scheme.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum Scheme {
    /// Plaintext.
    Http,
    /// TLS.
    Https,
}

/// A status that redirects.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, JsonSchema)]
#[schemars(extend("enum" = [301, 302, 303, 307, 308]))]
pub struct RedirectStatus(u16);

impl RedirectStatus {
    pub fn code(self) -> http::StatusCode {
        http::StatusCode::from_u16(self.0).unwrap_or(http::StatusCode::FOUND)
    }
}

impl Default for RedirectStatus {
    fn default() -> Self {
        RedirectStatus(302)
    }
}

impl<'de> Deserialize<'de> for RedirectStatus {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match u64::deserialize(deserializer)? {
            code @ (301 | 302 | 303 | 307 | 308) => Ok(RedirectStatus(code as u16)),
            code => Err(de::Error::custom(format!(
                "{code} does not redirect: 301, 302, 303, 307 or 308"
            ))),
        }
    }
}
