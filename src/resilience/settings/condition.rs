//! One entry of `retry.conditions`: what is tried again.

use std::fmt;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de, ser::SerializeMap};

use crate::units::Status;

/// What is tried again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Condition {
    /// No connection was made.
    Connect,
    /// The peer gave the request back unprocessed.
    Refused,
    /// The connection or stream ended before the answer's head.
    Reset,
    /// A try took longer than `backendRequest`.
    Timeout,
    /// 502, 503 or 504.
    Gateway,
    /// Any 5xx.
    ServerError,
    /// This status.
    Status(Status),
    /// One of these gRPC codes, in headers or trailers.
    Grpc(Vec<GrpcCode>),
}

/// The words, as they are written.
const WORDS: [(&str, Condition); 6] = [
    ("connect", Condition::Connect),
    ("refused", Condition::Refused),
    ("reset", Condition::Reset),
    ("timeout", Condition::Timeout),
    ("gateway", Condition::Gateway),
    ("5xx", Condition::ServerError),
];

/// The words again: what an unknown one is compared with.
const NAMES: &[&str] = &[
    "connect", "refused", "reset", "timeout", "gateway", "5xx", "grpc",
];

impl Serialize for Condition {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Condition::Status(status) => serializer.serialize_str(status.code().as_str()),
            Condition::Grpc(codes) => {
                let mut map = serializer.serialize_map(Some(1))?;
                map.serialize_entry("grpc", codes)?;
                map.end()
            }
            word => match WORDS.iter().find(|(_, known)| known == word) {
                Some((name, _)) => serializer.serialize_str(name),
                None => Err(serde::ser::Error::custom("a condition without a word")),
            },
        }
    }
}

impl<'de> Deserialize<'de> for Condition {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Entry;
        impl<'de> de::Visitor<'de> for Entry {
            type Value = Condition;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("connect, refused, reset, timeout, gateway, 5xx, a status like 503, or `grpc: [unavailable]`")
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<Condition, E> {
                if let Ok(number) = text.parse() {
                    return self.visit_u64(number);
                }
                let known = WORDS.iter().find(|(name, _)| *name == text);
                match known {
                    Some((_, condition)) => Ok(condition.clone()),
                    None => Err(E::unknown_variant(text, NAMES)),
                }
            }
            fn visit_u64<E: de::Error>(self, number: u64) -> Result<Condition, E> {
                Status::new(number)
                    .map(Condition::Status)
                    .map_err(E::custom)
            }
            fn visit_map<A: de::MapAccess<'de>>(self, mut map: A) -> Result<Condition, A::Error> {
                match map.next_key::<String>()?.as_deref() {
                    Some("grpc") => {}
                    Some(other) => return Err(de::Error::unknown_field(other, &["grpc"])),
                    None => return Err(de::Error::custom("one key is needed here")),
                }
                let codes = map.next_value()?;
                match map.next_key::<String>()? {
                    None => Ok(Condition::Grpc(codes)),
                    Some(_) => Err(de::Error::custom("one condition an entry")),
                }
            }
        }
        deserializer.deserialize_any(Entry)
    }
}

impl JsonSchema for Condition {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Condition".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let codes = generator.subschema_for::<Vec<GrpcCode>>();
        json_schema!({ "anyOf": [
            { "enum": ["connect", "refused", "reset", "timeout", "gateway", "5xx"] },
            { "type": "string", "pattern": "^[2-5][0-9][0-9]$" },
            { "type": "integer", "minimum": 200, "maximum": 599 },
            { "type": "object", "properties": { "grpc": codes }, "required": ["grpc"], "additionalProperties": false }
        ] })
    }
}

/// A gRPC code that a failed call can end with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[repr(u8)]
pub enum GrpcCode {
    /// 1: the caller gave up.
    Cancelled = 1,
    /// 2: no better code is known.
    Unknown = 2,
    /// 3: the call makes no sense.
    InvalidArgument = 3,
    /// 4: it took too long.
    DeadlineExceeded = 4,
    /// 5: it asks for what is not there.
    NotFound = 5,
    /// 6: it makes what is there.
    AlreadyExists = 6,
    /// 7: the caller may not.
    PermissionDenied = 7,
    /// 8: a quota is used up.
    ResourceExhausted = 8,
    /// 9: the state does not allow it.
    FailedPrecondition = 9,
    /// 10: a conflict with another call.
    Aborted = 10,
    /// 11: past the end.
    OutOfRange = 11,
    /// 12: no such method.
    Unimplemented = 12,
    /// 13: a bug.
    Internal = 13,
    /// 14: not now.
    Unavailable = 14,
    /// 15: data is gone.
    DataLoss = 15,
    /// 16: no valid credentials.
    Unauthenticated = 16,
}

impl GrpcCode {
    /// The number in `grpc-status`.
    pub const fn number(self) -> u8 {
        self as u8
    }
}
