//! What a route's `hosts` and `matches` say.

mod host;

use std::{collections::BTreeMap, fmt, str::FromStr};

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de, ser::SerializeMap};

use crate::units::{FieldName, Invalid, Method, Pattern, UrlPath, as_text, distinct};

pub use host::{HostName, HostPattern};

/// What a request must meet, all of it.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Match {
    /// The method.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub method: Option<Method>,
    /// The path, without the query.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<PathMatch>,
    /// Header fields by name: a text that the value equals, or `{ regex: ... }` that it meets.
    #[serde(
        skip_serializing_if = "BTreeMap::is_empty",
        deserialize_with = "distinct"
    )]
    pub headers: BTreeMap<FieldName, ValueMatch>,
    /// Query parameters by name, likewise.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub query: BTreeMap<String, ValueMatch>,
    /// A gRPC call, in the place of method and path.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub grpc: Option<GrpcMatch>,
}

/// What a path must be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum PathMatch {
    /// Equal to this.
    Exact(UrlPath),
    /// This or below it, segment by segment: `/charge` is met by `/charge/1`, not by `/charged`.
    Prefix(UrlPath),
    /// Met from its first to its last character.
    Regex(Pattern),
}

/// What a value must be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ValueMatch {
    /// Equal to this; written as the bare text or `{ exact: text }`.
    Exact(String),
    /// Met from its first to its last character.
    Regex(Pattern),
}

/// Which gRPC calls; at least one of the two.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct GrpcMatch {
    /// The service with its package, `mail.v1.Mailer`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub service: Option<GrpcName>,
    /// The method, `Send`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub method: Option<GrpcName>,
}

/// The name of a gRPC service or method.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GrpcName(Box<str>);

impl GrpcName {
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for GrpcName {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        let inner = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.');
        if !text.is_empty() && text.bytes().all(inner) {
            Ok(GrpcName(text.into()))
        } else {
            Err(Invalid(format!(
                "`{text}` is not the name of a gRPC service or method, like `mail.v1.Mailer`"
            )))
        }
    }
}

impl fmt::Display for GrpcName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

as_text!(GrpcName, "mail.v1.Mailer", { "pattern": "^[A-Za-z0-9_.]+$" });

/// The words of a `ValueMatch` that is written out.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
enum Word {
    Exact,
    Regex,
}

impl Serialize for ValueMatch {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            ValueMatch::Exact(text) => serializer.serialize_str(text),
            ValueMatch::Regex(pattern) => {
                let mut map = serializer.serialize_map(Some(1))?;
                map.serialize_entry("regex", pattern)?;
                map.end()
            }
        }
    }
}

impl<'de> Deserialize<'de> for ValueMatch {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Value;
        impl<'de> de::Visitor<'de> for Value {
            type Value = ValueMatch;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a text, or `{ regex: ... }`")
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<ValueMatch, E> {
                Ok(ValueMatch::Exact(text.to_owned()))
            }
            fn visit_u64<E: de::Error>(self, number: u64) -> Result<ValueMatch, E> {
                Ok(ValueMatch::Exact(number.to_string()))
            }
            fn visit_map<A: de::MapAccess<'de>>(self, mut map: A) -> Result<ValueMatch, A::Error> {
                let value = match map.next_key()? {
                    Some(Word::Exact) => ValueMatch::Exact(map.next_value()?),
                    Some(Word::Regex) => ValueMatch::Regex(map.next_value()?),
                    None => return Err(de::Error::custom("one key is needed here")),
                };
                match map.next_key::<Word>()? {
                    None => Ok(value),
                    Some(_) => Err(de::Error::custom("either `exact` or `regex`")),
                }
            }
        }
        deserializer.deserialize_any(Value)
    }
}

impl JsonSchema for ValueMatch {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "ValueMatch".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let pattern = generator.subschema_for::<Pattern>();
        let written = |word: &str, value: Schema| json_schema!({ "type": "object", "properties": { word: value }, "required": [word], "additionalProperties": false });
        let text = json_schema!({ "type": "string" });
        json_schema!({ "anyOf": [text, written("exact", text.clone()), written("regex", pattern)] })
    }
}
