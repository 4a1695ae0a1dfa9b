//! Which protocols a request may switch to.

use std::{fmt, str::FromStr};

use http::HeaderValue;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::units::{Invalid, as_text};

/// The name of a protocol as `Upgrade` has it, `websocket`, in lower case.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Token(Box<str>);

impl Token {
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Token {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        let inner = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~/".contains(&byte);
        if text.is_empty() || !text.bytes().all(inner) {
            return Err(Invalid(format!(
                "`{text}` is not the name of a protocol, like `websocket`"
            )));
        }
        // Behind an upgrade to HTTP/2 every rule of ours would be passed by (request smuggling).
        match text.to_ascii_lowercase() {
            text if text == "h2c" || text.starts_with("http") => Err(Invalid(format!(
                "`{text}` is never passed: it is HTTP that nobody would look at"
            ))),
            text => Ok(Token(text.into())),
        }
    }
}

impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

as_text!(Token, "websocket", {});

/// The protocols that may be switched to; none = no upgrade is passed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(transparent)]
pub struct Upgrades(Vec<Token>);

impl Upgrades {
    /// The protocol among these that `offered` names, in whatever case.
    pub fn find(&self, offered: &HeaderValue) -> Option<&Token> {
        let same = |token: &&Token| {
            offered
                .as_bytes()
                .eq_ignore_ascii_case(token.as_str().as_bytes())
        };
        self.0.iter().find(same)
    }
}

impl Default for Upgrades {
    fn default() -> Self {
        Upgrades(vec![Token("websocket".into())])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_protocol_has_a_name_and_is_no_http() {
        for good in ["websocket", "WebSocket", "spdy/3.1", "tcp"] {
            assert!(good.parse::<Token>().is_ok(), "{good}");
        }
        for bad in ["", "a b", "h2c", "H2C", "HTTP/2.0", "web,socket", "é"] {
            assert!(bad.parse::<Token>().is_err(), "{bad}");
        }
    }

    #[test]
    fn an_offer_is_found_in_whatever_case() {
        let upgrades = Upgrades::default();
        assert!(
            upgrades
                .find(&HeaderValue::from_static("WebSocket"))
                .is_some()
        );
        assert!(upgrades.find(&HeaderValue::from_static("web")).is_none());
    }
}
