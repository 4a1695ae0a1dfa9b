//! Why a value of the tree is not the one that its type asks for, and which value that is.

use std::fmt;

use serde::de::{self, Expected, Unexpected};

use super::tree::{Id, short};

/// Why a value could not be made, and of what.
#[derive(Debug)]
pub struct Error(Box<Facts>);

#[derive(Debug)]
struct Facts {
    about: Option<About>,
    cause: Cause,
}

/// A value, or the key before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct About {
    pub value: Id,
    pub on_key: bool,
}

/// What is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Cause {
    Words(String),
    UnknownKey {
        found: String,
        known: &'static [&'static str],
    },
    UnknownWord {
        found: String,
        known: &'static [&'static str],
    },
    Missing(&'static str),
    /// Expected, found.
    Type(String, String),
    /// A mapping with one key was expected; it has so many.
    OneKey(usize),
}

impl Error {
    pub fn new(cause: Cause) -> Self {
        Error(Box::new(Facts { about: None, cause }))
    }

    /// Says what it is about, unless something deeper has said it.
    pub fn about(mut self, value: Id, on_key: bool) -> Self {
        self.0.about.get_or_insert(About { value, on_key });
        self
    }

    /// Forgets what it is about, for whoever knows better.
    pub fn about_nothing(mut self) -> Self {
        self.0.about = None;
        self
    }

    pub fn cause(&self) -> &Cause {
        &self.0.cause
    }

    pub fn into_parts(self) -> (Option<About>, Cause) {
        (self.0.about, self.0.cause)
    }
}

impl std::error::Error for Error {}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.0.cause)
    }
}

impl de::Error for Error {
    fn custom<T: fmt::Display>(words: T) -> Self {
        Error::new(Cause::Words(words.to_string()))
    }

    fn invalid_type(found: Unexpected<'_>, expected: &dyn Expected) -> Self {
        Error::new(Cause::Type(wanted(&expected.to_string()), name(found)))
    }

    fn invalid_value(found: Unexpected<'_>, expected: &dyn Expected) -> Self {
        Self::invalid_type(found, expected)
    }

    fn unknown_field(found: &str, known: &'static [&'static str]) -> Self {
        let found = found.to_owned();
        Error::new(Cause::UnknownKey { found, known })
    }

    fn unknown_variant(found: &str, known: &'static [&'static str]) -> Self {
        let found = found.to_owned();
        Error::new(Cause::UnknownWord { found, known })
    }

    fn missing_field(key: &'static str) -> Self {
        Error::new(Cause::Missing(key))
    }
}

/// What serde's own words for an expectation are called here.
fn wanted(expected: &str) -> String {
    let name = match expected {
        "u8" => "a whole number from 0 to 255",
        "u16" => "a whole number from 0 to 65535",
        "u32" => "a whole number from 0 to 4294967295",
        "u64" => "a whole number",
        "a boolean" => "true or false",
        "a string" | "path string" => "a text",
        "a sequence" => "a list",
        "a map" => "a mapping",
        other if other.starts_with("struct ") => "a mapping",
        other => other,
    };
    name.to_owned()
}

fn name(found: Unexpected<'_>) -> String {
    match found {
        Unexpected::Bool(value) => format!("the boolean `{value}`"),
        Unexpected::Unsigned(number) => format!("the number {number}"),
        Unexpected::Str(text) => format!("the text `{}`", short(text)),
        Unexpected::Unit | Unexpected::Option => "nothing".into(),
        Unexpected::Seq => "a list".into(),
        Unexpected::Map => "a mapping".into(),
        other => other.to_string(),
    }
}
