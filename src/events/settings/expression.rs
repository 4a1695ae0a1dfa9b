//! A CEL expression in the routing file, known to compile.

use std::{fmt, str::FromStr};

use crate::units::{Invalid, as_text};

/// The parser recurses: these bounds keep its stack small.
const MAX_BYTES: usize = 1024;
const MAX_NESTING: usize = 16;

/// A CEL expression over `request` that compiles.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Expression(Box<str>);

impl Expression {
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Expression {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        if text.len() > MAX_BYTES || nesting(text) > MAX_NESTING {
            return Err(Invalid(format!(
                "an expression has at most {MAX_BYTES} bytes and {MAX_NESTING} brackets within each other"
            )));
        }
        let program = cel::Program::compile(text).map_err(|errors| {
            // Beside what its author can read the parser tells of its own inside.
            let mut readable = errors
                .errors
                .iter()
                .filter(|one| one.msg.starts_with("Syntax error: "));
            let why = readable.next().map_or_else(String::new, |one| {
                let words = one.msg.trim_start_matches("Syntax error: ");
                let words = words.split(" expecting ").next().unwrap_or(words);
                format!(", at character {}: {words}", one.pos.1 + 1)
            });
            Invalid(format!("this expression does not compile{why}"))
        })?;
        let references = program.references();
        match references
            .variables()
            .into_iter()
            .find(|name| *name != "request")
        {
            Some(name) => Err(Invalid(format!(
                "`{name}` is not known in this expression: it is over `request`"
            ))),
            None => Ok(Expression(text.into())),
        }
    }
}

/// How deep brackets stand within each other; those in strings count too.
fn nesting(text: &str) -> usize {
    let mut depth = 0_usize;
    let mut deepest = 0;
    for byte in text.bytes() {
        match byte {
            b'(' | b'[' | b'{' => depth += 1,
            b')' | b']' | b'}' => depth = depth.saturating_sub(1),
            _ => {}
        }
        deepest = deepest.max(depth);
    }
    deepest
}

impl fmt::Display for Expression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

as_text!(Expression, "request.headers[\"x-customer-id\"]", {});

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn no_expression_is_too_deep_for_the_parser() {
        for deep in [
            "(", "[", "!", "-", "a?b:", "a.", "a||", "a+", "{1:", "a(", "\"", "request[", "[(a)]+",
        ] {
            let _ = deep.repeat(1024 / deep.len()).parse::<Expression>();
            let _ = (deep.repeat(16) + "a").parse::<Expression>();
        }
        let balanced = "(".repeat(16) + "request" + &")".repeat(16);
        assert!(balanced.parse::<Expression>().is_ok());
        assert!(format!("({balanced})").parse::<Expression>().is_err());
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic(text in "[a-z.()\\[\\]{}\"'0-9+!?:&|<= -]{0,60}", any in "\\PC{0,20}") {
            let _ = text.parse::<Expression>();
            let _ = any.parse::<Expression>();
        }
    }

    #[test]
    fn an_expression_compiles_and_knows_the_request_alone() {
        assert!("request.headers['x-id']".parse::<Expression>().is_ok());
        assert!("request.headers[".parse::<Expression>().is_err());
        assert_eq!(
            "event.id".parse::<Expression>().unwrap_err().0,
            "`event` is not known in this expression: it is over `request`"
        );
    }
}
