//! Request to route, as a value: no I/O.
//!
//! Routes are compiled to a `Table` when the routing file is loaded. A lookup then costs about the same with one
//! route or a thousand, allocates nothing and cannot fail. What wins is written at `Table::find`.

mod compile;
mod explain;
mod hosts;
mod keys;
mod matcher;
mod prefix;
mod regexes;
mod rule;
mod settings;
mod shadow;
#[cfg(test)]
mod tests;

use std::fmt;

use http::{HeaderMap, Method};

pub use matcher::Table;
pub use regexes::Whole;
pub use settings::{GrpcMatch, GrpcName, HostName, HostPattern, Match, PathMatch, ValueMatch};
pub use shadow::Shadowed;

/// A route's place in the file, from 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RouteId(pub u32);

impl RouteId {
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

/// What the table looks at of a request, after hygiene: one host without a trailing dot, a path read once.
#[derive(Debug, Clone, Copy)]
pub struct View<'a> {
    /// Any case; an IPv6 address with or without its brackets.
    pub host: &'a str,
    pub port: Option<u16>,
    pub method: &'a Method,
    /// Without the query.
    pub path: &'a str,
    /// Without the question mark.
    pub query: Option<&'a str>,
    pub headers: &'a HeaderMap,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Found {
    Route(RouteId),
    /// The host has routes, but none for this request.
    NoRoute,
    UnknownHost,
}

/// A match that cannot be compiled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    pub route: RouteId,
    pub match_index: usize,
    pub what: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what)
    }
}
