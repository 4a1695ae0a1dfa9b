//! Words of HTTP that stand in the routing file: names and values of header fields, methods, statuses, paths, patterns.

use std::{collections::BTreeMap, fmt, ops::Deref, str::FromStr};

use http::{HeaderName, HeaderValue, StatusCode};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use super::{Invalid, as_text, invalid};

/// A value that dereferences to the library's type of the same thing.
macro_rules! wraps {
    ($unit:ident, $inner:ty) => {
        impl Deref for $unit {
            type Target = $inner;

            fn deref(&self) -> &$inner {
                &self.0
            }
        }

        impl fmt::Display for $unit {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.as_text())
            }
        }
    };
}

/// The name of a header field, in lower case.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct FieldName(pub HeaderName);

impl FieldName {
    fn as_text(&self) -> &str {
        self.0.as_str()
    }
}

impl PartialOrd for FieldName {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for FieldName {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.0.as_str().cmp(other.0.as_str())
    }
}

impl FromStr for FieldName {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        match HeaderName::from_bytes(text.as_bytes()) {
            Ok(name) => Ok(FieldName(name)),
            Err(_) => invalid(format!("`{text}` is not the name of a header field")),
        }
    }
}

/// The name of a field that belongs to the message and may be changed: not framing, not one of those that belong to a
/// connection (RFC 9110 §7.6.1), not `host`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct MessageField(pub FieldName);

impl FromStr for MessageField {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        let name: FieldName = text.parse()?;
        match name.as_str() {
            "host" => invalid("`host` cannot be changed here; `urlRewrite: { hostname }` does"),
            "connection"
            | "content-length"
            | "keep-alive"
            | "proxy-authenticate"
            | "proxy-authorization"
            | "proxy-connection"
            | "te"
            | "trailer"
            | "transfer-encoding"
            | "upgrade" => invalid(format!(
                "`{name}` cannot be changed: it frames the message or belongs to one connection"
            )),
            _ => Ok(MessageField(name)),
        }
    }
}

impl<'de> Deserialize<'de> for MessageField {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        super::text(deserializer, "the name of a header field")
    }
}

/// Reads fields whose names may be changed.
pub(crate) fn message_fields<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<BTreeMap<FieldName, FieldValue>, D::Error> {
    let fields: BTreeMap<MessageField, FieldValue> = super::distinct(deserializer)?;
    let fields = fields.into_iter();
    Ok(fields.map(|(name, value)| (name.0, value)).collect())
}

/// Reads names of fields that may be changed.
pub(crate) fn message_names<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Vec<FieldName>, D::Error> {
    let names = Vec::<MessageField>::deserialize(deserializer)?;
    Ok(names.into_iter().map(|name| name.0).collect())
}

/// The value of a header field: visible ASCII, spaces and tabs inside.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct FieldValue(pub HeaderValue);

impl FieldValue {
    fn as_text(&self) -> &str {
        self.0.to_str().unwrap_or_default()
    }
}

impl FromStr for FieldValue {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        match HeaderValue::from_str(text) {
            Ok(value) if text.is_ascii() && text.trim() == text => Ok(FieldValue(value)),
            // The text stays unsaid: it may be a credential.
            _ => invalid("not the value of a header field: visible ASCII, with spaces inside only"),
        }
    }
}

/// A request method, in capitals.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Method(pub http::Method);

impl Method {
    fn as_text(&self) -> &str {
        self.0.as_str()
    }
}

impl FromStr for Method {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        let capitals = !text.bytes().any(|byte| byte.is_ascii_lowercase());
        match http::Method::from_bytes(text.as_bytes()) {
            Ok(method) if capitals => Ok(Method(method)),
            Ok(_) => invalid(format!(
                "methods are case-sensitive: write `{}`",
                text.to_ascii_uppercase()
            )),
            Err(_) => invalid(format!("`{text}` is not a request method")),
        }
    }
}

/// A path as it stands in a request: begins with `/`, has no query and no dot segments.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct UrlPath(Box<str>);

impl UrlPath {
    pub fn as_str(&self) -> &str {
        &self.0
    }

    fn as_text(&self) -> &str {
        &self.0
    }
}

impl FromStr for UrlPath {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        let visible = |byte: u8| byte.is_ascii_graphic() && !matches!(byte, b'?' | b'#');
        if !text.starts_with('/') {
            return invalid(format!("`{text}` is not a path: it begins with `/`"));
        }
        if !text.bytes().all(visible) {
            return invalid(format!(
                "`{text}` is not a path: visible ASCII without `?` and `#`, the rest escaped like `%20`"
            ));
        }
        if text.split('/').any(|segment| matches!(segment, "." | "..")) {
            return invalid(format!(
                "`{text}` has dot segments: no request has them when it is matched"
            ));
        }
        Ok(UrlPath(text.into()))
    }
}

/// A regular expression that compiles within 1 MiB.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Pattern(Box<str>);

impl Pattern {
    fn as_text(&self) -> &str {
        &self.0
    }
}

impl FromStr for Pattern {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        match regex::RegexBuilder::new(text).size_limit(1 << 20).build() {
            Ok(_) => Ok(Pattern(text.into())),
            Err(regex::Error::CompiledTooBig(_)) => {
                invalid("this regular expression grows over 1 MiB when it is compiled")
            }
            Err(error) => {
                let words = error.to_string();
                let last = words.lines().last().unwrap_or_default();
                let why = last.strip_prefix("error: ").unwrap_or(last);
                invalid(format!("this regular expression does not compile: {why}"))
            }
        }
    }
}

wraps!(FieldName, HeaderName);
wraps!(FieldValue, HeaderValue);
wraps!(Method, http::Method);
wraps!(UrlPath, str);
wraps!(Pattern, str);
as_text!(FieldName, "x-tier", { "pattern": "^[!#$%&'*+.^_`|~0-9A-Za-z-]+$" });
as_text!(FieldValue, "gold", {});
as_text!(Method, "POST", { "pattern": "^[^a-z]+$" });
as_text!(UrlPath, "/charge", { "pattern": "^/" });
as_text!(Pattern, "/v[0-9]+/.*", { "format": "regex" });

/// A status a final answer can have: 200 to 599.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Status(StatusCode);

impl Status {
    pub const ACCEPTED: Status = Status(StatusCode::ACCEPTED);
    pub const FOUND: Status = Status(StatusCode::FOUND);

    pub fn new(number: u64) -> Result<Self, Invalid> {
        let code = u16::try_from(number)
            .ok()
            .filter(|code| (200..600).contains(code))
            .and_then(|code| StatusCode::from_u16(code).ok());
        match code {
            Some(code) => Ok(Status(code)),
            None => invalid(format!("{number} is not a status: 200 to 599")),
        }
    }

    pub fn code(self) -> StatusCode {
        self.0
    }
}

impl Serialize for Status {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u16(self.0.as_u16())
    }
}

impl<'de> Deserialize<'de> for Status {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Status::new(u64::deserialize(deserializer)?).map_err(de::Error::custom)
    }
}

impl JsonSchema for Status {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Status".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "integer", "minimum": 200, "maximum": 599 })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn methods_are_capitals() {
        assert!("PROPFIND".parse::<Method>().is_ok());
        assert_eq!(
            "get".parse::<Method>().unwrap_err().0,
            "methods are case-sensitive: write `GET`"
        );
    }

    #[test]
    fn a_path_is_one_that_a_request_can_have() {
        for good in ["/", "/a/b", "/a%20b", "/a//b"] {
            assert!(good.parse::<UrlPath>().is_ok(), "{good}");
        }
        for bad in ["", "a", "/a?b", "/a b", "/é", "/a/../b", "/."] {
            assert!(bad.parse::<UrlPath>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_pattern_says_why_it_does_not_compile() {
        assert_eq!(
            "/a(b".parse::<Pattern>().unwrap_err().0,
            "this regular expression does not compile: unclosed group"
        );
        assert!("(a{1000}){1000}".parse::<Pattern>().is_err());
    }

    #[test]
    fn a_field_value_never_splits_a_head() {
        for bad in ["a\r\nb", " a", "a\u{7f}", "é"] {
            assert!(bad.parse::<FieldValue>().is_err(), "{bad:?}");
        }
    }
}
