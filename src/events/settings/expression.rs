//! A CEL expression in the routing file, known to compile.

use std::{fmt, str::FromStr};

use crate::units::{Invalid, as_text};

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
        let program = cel::Program::compile(text).map_err(|errors| {
            let first = errors.errors.first();
            let why = first.map_or_else(String::new, |error| format!(": {}", error.msg));
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

impl fmt::Display for Expression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

as_text!(Expression, "request.headers[\"x-customer-id\"]", {});

#[cfg(test)]
mod tests {
    use super::*;

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
