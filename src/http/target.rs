//! Reads once what a request is for: host, port, path, query.
//!
//! One `Host`, in absolute form replaced by the target's own (RFC 9112 §3.2.2), in HTTP/2 the same as
//! `:authority`. A host is an IPv4 address, an IPv6 address in brackets or a name of letters, digits, `-`, `.`,
//! `_`, `~`: narrower than `reg-name`, whose other bytes no resolver knows. An address in an old short form
//! (`127.1`, `0x7f000001`) is refused, since resolvers read it and rules do not.

mod host;

use std::borrow::Cow;

use http::{HeaderMap, Method, Uri, Version, header};

use super::{head::MAX_TARGET, path};
use crate::fault::{Fault, Reason};
use host::{Authority, read_authority};

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
    /// In lower case, without the final dot; an IPv6 address without brackets. Empty for HTTP/1.0 without `Host`.
    pub host: Cow<'a, str>,
    pub port: Option<u16>,
    /// Begins with `/`; empty for `CONNECT`, `*` for `OPTIONS *`. Owned where it is not what the client wrote.
    pub path: Cow<'a, str>,
    pub query: Option<&'a str>,
    pub form: Form,
    ambiguous: bool,
}

impl Target<'_> {
    /// The path holds something that servers read in two ways (see `path`): refused where a rule looks at paths.
    pub fn is_ambiguous(&self) -> bool {
        self.ambiguous
    }

    /// What a path rule must answer to an ambiguous path.
    #[cold]
    pub fn ambiguous_path() -> Fault {
        let words =
            "the path holds //, %2f, %5c, \\ or ; and the host's path rules could read it two ways";
        Fault::new(Reason::AmbiguousPath, words)
    }

    /// The `Host` to forward: the host, and the port if one was written.
    pub fn authority(&self) -> Cow<'_, str> {
        match (self.host.contains(':'), self.port) {
            (false, None) => Cow::Borrowed(&self.host),
            (false, Some(port)) => Cow::Owned(format!("{}:{port}", self.host)),
            (true, None) => Cow::Owned(format!("[{}]", self.host)),
            (true, Some(port)) => Cow::Owned(format!("[{}]:{port}", self.host)),
        }
    }

    /// The path and query to forward, where they are not what the client wrote.
    pub fn rewritten(&self) -> Option<String> {
        match (&self.path, self.query) {
            (Cow::Borrowed(_), _) => None,
            (Cow::Owned(path), None) => Some(path.clone()),
            (Cow::Owned(path), Some(query)) => Some(format!("{path}?{query}")),
        }
    }
}

#[cold]
pub(super) fn bad(words: &'static str) -> Fault {
    Fault::new(Reason::BadRequest, words)
}

#[cold]
fn too_long() -> Fault {
    Fault::new(
        Reason::UriTooLong,
        "the request target is longer than 8 KiB",
    )
}

/// Reads the target of a request. `uri_too_long` over 8 KiB, `bad_request` where it could be read two ways or not at all.
pub fn read_target<'a>(
    method: &Method,
    uri: &'a Uri,
    headers: &'a HeaderMap,
    version: Version,
) -> Result<Target<'a>, Fault> {
    let form = form(method, uri, version)?;
    let (host, port) = authority(uri, headers, version, form)?;
    let path = match form {
        Form::Authority => path::Path {
            text: Cow::Borrowed(""),
            ambiguous: false,
        },
        Form::Asterisk => path::Path {
            text: Cow::Borrowed("*"),
            ambiguous: false,
        },
        Form::Origin | Form::Absolute => path::read(uri.path())?,
    };
    let query = uri.query();
    // HTTP/1 has been through the guard; HTTP/2 bounds the head alone.
    if uri.path().len() + query.map_or(0, |query| query.len() + 1) > MAX_TARGET {
        return Err(too_long());
    }
    if query.is_some_and(|query| !query.is_ascii()) {
        return Err(bad("a byte in the query that must be escaped"));
    }
    Ok(Target {
        host,
        port,
        path: path.text,
        query,
        form,
        ambiguous: path.ambiguous,
    })
}

fn form(method: &Method, uri: &Uri, version: Version) -> Result<Form, Fault> {
    let h2 = version >= Version::HTTP_2;
    if *method == Method::CONNECT {
        return match uri.scheme().is_none() && uri.authority().is_some() {
            true => Ok(Form::Authority),
            false => Err(bad("a CONNECT target that is not host:port")),
        };
    }
    if uri.path() == "*" {
        return match *method == Method::OPTIONS {
            true => Ok(Form::Asterisk),
            false => Err(bad("a target of * on a method other than OPTIONS")),
        };
    }
    match (uri.scheme_str(), uri.authority()) {
        (None, None) => Ok(Form::Origin),
        (Some("http" | "https"), _) if h2 => Ok(Form::Origin),
        (Some("http"), Some(_)) => Ok(Form::Absolute),
        (Some(_), _) => Err(bad("a target whose scheme is not http")),
        // HTTP/2 without a scheme, or `GET host:80`.
        (None, Some(_)) => Err(bad("a request target of no known form")),
    }
}

fn authority<'a>(
    uri: &'a Uri,
    headers: &'a HeaderMap,
    version: Version,
    form: Form,
) -> Result<Authority<'a>, Fault> {
    let mut hosts = headers.get_all(header::HOST).iter();
    let host = hosts.next();
    if hosts.next().is_some() {
        return Err(bad("more than one host"));
    }
    let of_host = || match host {
        Some(host) => read_authority(host.as_bytes()).map(Some),
        None => Ok(None),
    };
    let h2 = version >= Version::HTTP_2;
    let target = match uri.authority() {
        Some(authority) => Some(read_authority(authority.as_str().as_bytes())?),
        None => None,
    };
    match target {
        Some(target) => {
            if form == Form::Authority && target.1.is_none() {
                return Err(bad("a CONNECT target that is not host:port"));
            }
            if h2 && of_host()?.is_some_and(|host| host != target) {
                return Err(bad("a host that is not the :authority"));
            }
            if host.is_none() && version == Version::HTTP_11 {
                return Err(bad("no host"));
            }
            Ok(target)
        }
        None => match of_host()? {
            Some(host) => Ok(host),
            // Routing decides: a sidecar's application needs no host.
            None if version < Version::HTTP_11 => Ok((Cow::Borrowed(""), None)),
            None => Err(bad("no host")),
        },
    }
}

#[cfg(test)]
mod tests;
