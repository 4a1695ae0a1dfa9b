//! One match of a route, compiled: where it looks for the path, and what else it asks of a request.

use std::{cmp::Reverse, fmt};

use http::{HeaderMap, HeaderName, Method, header::CONTENT_TYPE};
use regex_automata::meta;
use smallvec::SmallVec;

use super::{RouteId, View, prefix};

/// What a match asks of the path; the order of the variants is their precedence.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Path {
    Exact(Box<str>),
    /// Without the slash at its end; longer ones come first.
    Prefix(Longest),
    Regex(Box<str>),
    /// Nothing.
    Any,
}

/// A text that sorts before its shorter kin.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Longest(pub(super) Box<str>);

impl Ord for Longest {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (Reverse(self.0.len()), &self.0).cmp(&(Reverse(other.0.len()), &other.0))
    }
}

impl PartialOrd for Longest {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Path {
    pub(super) fn prefix(text: &str) -> Self {
        Path::Prefix(Longest(prefix::trimmed(text).into()))
    }
}

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Path::Exact(text) => write!(f, "path exactly `{text}`"),
            Path::Prefix(Longest(text)) if text.is_empty() => f.write_str("path under `/`"),
            Path::Prefix(Longest(text)) => write!(f, "path under `{text}`"),
            Path::Regex(text) => write!(f, "path like regex `{text}`"),
            Path::Any => f.write_str("any path"),
        }
    }
}

/// A match among those of its host that ask for the same path.
#[derive(Debug, Clone)]
pub(super) struct Rule {
    pub(super) route: RouteId,
    pub(super) match_index: u32,
    pub(super) asks: Asks,
}

impl Rule {
    /// Rules that ask for the same path, in the order in which they are tried.
    pub(super) fn precedence(&self) -> impl Ord + use<> {
        let asks = &self.asks;
        (
            asks.method.is_none(),
            Reverse(asks.headers.len() + usize::from(asks.grpc)),
            Reverse(asks.query.len()),
            self.route,
            self.match_index,
        )
    }
}

/// What a match asks beside the path. All of it must hold.
#[derive(Debug, Clone, Default)]
pub(super) struct Asks {
    pub(super) method: Option<Method>,
    /// A gRPC request, told by its content type; weighs as one header.
    pub(super) grpc: bool,
    /// Of a header that comes several times, one with this value is enough.
    pub(super) headers: Box<[(HeaderName, Value)]>,
    /// As the caller means them: `%20` and `+` are read as spaces.
    pub(super) query: Box<[(Box<str>, Value)]>,
}

/// What a value must be.
#[derive(Debug, Clone)]
pub(super) enum Value {
    Exact(Box<str>),
    /// The pattern, and what it compiles to.
    Regex(Box<str>, meta::Regex),
}

impl Value {
    fn meets(&self, value: &[u8]) -> bool {
        match self {
            Value::Exact(text) => text.as_bytes() == value,
            Value::Regex(_, regex) => regex.is_match(value),
        }
    }

    /// The same for form-encoded text.
    fn meets_encoded(&self, value: &str) -> bool {
        match self {
            Value::Exact(text) => decoded(value).eq(text.bytes()),
            Value::Regex(_, regex) => {
                regex.is_match(&*decoded(value).collect::<SmallVec<[u8; 256]>>())
            }
        }
    }
}

impl PartialEq for Value {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Value::Exact(a), Value::Exact(b)) | (Value::Regex(a, _), Value::Regex(b, _)) => a == b,
            _ => false,
        }
    }
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Value::Exact(text) => write!(f, "`{text}`"),
            Value::Regex(text, _) => write!(f, "like `{text}`"),
        }
    }
}

impl Asks {
    #[inline]
    pub(super) fn hold(&self, view: &View<'_>) -> bool {
        self.method
            .as_ref()
            .is_none_or(|method| method == view.method)
            && (!self.grpc || is_grpc(view.headers))
            && self
                .headers
                .iter()
                .all(|(name, value)| has_header(view.headers, name, value))
            && self
                .query
                .iter()
                .all(|(name, value)| has_parameter(view.query, name, value))
    }

    /// The first thing asked that does not hold, in words.
    pub(super) fn unmet(&self, view: &View<'_>) -> Option<String> {
        if let Some(method) = self.method.as_ref().filter(|method| *method != view.method) {
            return Some(format!("method is {}, not {method}", view.method));
        }
        if self.grpc && !is_grpc(view.headers) {
            return Some("not a gRPC request: its content-type is not application/grpc".to_owned());
        }
        let header = |(name, value): &&(HeaderName, Value)| !has_header(view.headers, name, value);
        if let Some((name, value)) = self.headers.iter().find(header) {
            return Some(match view.headers.get(name) {
                Some(other) => format!(
                    "header {name} is `{}`, not {value}",
                    other.as_bytes().escape_ascii()
                ),
                None => format!("header {name} is absent, not {value}"),
            });
        }
        let parameter =
            |(name, value): &&(Box<str>, Value)| !has_parameter(view.query, name, value);
        self.query
            .iter()
            .find(parameter)
            .map(|(name, value)| format!("no query parameter {name} is {value}"))
    }

    /// True when every request that meets `other` meets this too.
    pub(super) fn cover(&self, other: &Asks) -> bool {
        (self.method.is_none() || self.method == other.method)
            && (!self.grpc || other.grpc)
            && self
                .headers
                .iter()
                .all(|header| other.headers.contains(header))
            && self
                .query
                .iter()
                .all(|parameter| other.query.contains(parameter))
    }
}

fn has_header(headers: &HeaderMap, name: &HeaderName, value: &Value) -> bool {
    headers
        .get_all(name)
        .iter()
        .any(|line| value.meets(line.as_bytes()))
}

/// `application/grpc`, alone or with `+proto` and the like; gRPC-Web is another protocol.
fn is_grpc(headers: &HeaderMap) -> bool {
    const GRPC: &[u8] = b"application/grpc";
    headers
        .get(CONTENT_TYPE)
        .map(|value| value.as_bytes())
        .is_some_and(|value| {
            value
                .split_at_checked(GRPC.len())
                .is_some_and(|(kind, rest)| {
                    kind.eq_ignore_ascii_case(GRPC)
                        && matches!(rest.first(), None | Some(b'+' | b';' | b' '))
                })
        })
}

fn has_parameter(query: Option<&str>, name: &str, value: &Value) -> bool {
    query.is_some_and(|query| {
        query.split('&').any(|pair| {
            let (pair_name, pair_value) = pair.split_once('=').unwrap_or((pair, ""));
            decoded(pair_name).eq(name.bytes()) && value.meets_encoded(pair_value)
        })
    })
}

/// What form-encoded text means; a broken escape stands for itself.
fn decoded(text: &str) -> impl Iterator<Item = u8> {
    let mut rest = text.as_bytes();
    std::iter::from_fn(move || {
        let digit = |byte: u8| (byte as char).to_digit(16);
        if let [b'%', high, low, tail @ ..] = rest
            && let (Some(high), Some(low)) = (digit(*high), digit(*low))
        {
            rest = tail;
            return Some((high * 16 + low) as u8);
        }
        let (&byte, tail) = rest.split_first()?;
        rest = tail;
        Some(if byte == b'+' { b' ' } else { byte })
    })
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn exact(text: &str) -> Value {
        Value::Exact(text.into())
    }

    #[test]
    fn query_parameters_are_compared_as_the_caller_means_them() {
        for (query, holds) in [
            ("q=a+b", true),
            ("q=a%20b", true),
            ("x=1&q=a%20b&y", true),
            ("%71=a b", true),
            ("q=z&q=a+b", true),
            ("q=a%2Bb", false),
            ("q=a+b+", false),
            ("q=a%2", false),
            ("q", false),
            ("", false),
        ] {
            assert_eq!(
                has_parameter(Some(query), "q", &exact("a b")),
                holds,
                "{query}"
            );
        }
        assert!(has_parameter(Some("x=1&flag"), "flag", &exact("")));
        assert!(has_parameter(Some("q=100%"), "q", &exact("100%")));
        assert!(!has_parameter(None, "q", &exact("")));
    }

    #[test]
    fn grpc_is_told_by_its_content_type() {
        for (value, grpc) in [
            ("application/grpc", true),
            ("application/grpc+proto", true),
            ("Application/GRPC; charset=utf-8", true),
            ("application/grpc-web", false),
            ("application/grp", false),
            ("application/json", false),
        ] {
            let headers = HeaderMap::from_iter([(CONTENT_TYPE, HeaderValue::from_static(value))]);
            assert_eq!(is_grpc(&headers), grpc, "{value}");
        }
        assert!(!is_grpc(&HeaderMap::new()));
    }
}
