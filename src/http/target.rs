//! Reads once what a request is for: host, port, path, query.
//!
//! One `Host`, in absolute form replaced by the target's own (RFC 9112 §3.2.2), in HTTP/2 the same as
//! `:authority`. A host is an IPv4 address, an IPv6 address in brackets or a name of letters, digits, `-`, `.`,
//! `_`, `~`: narrower than `reg-name`, whose other bytes no resolver knows. An address in an old short form
//! (`127.1`, `0x7f000001`) is refused, since resolvers read it and rules do not.

use std::{
    borrow::Cow,
    net::{Ipv4Addr, Ipv6Addr},
};

use http::{HeaderMap, Method, Uri, Version, header};

use super::{
    head::MAX_TARGET,
    octets::{self, LABEL, NAME},
    path,
};
use crate::fault::{Fault, Reason};

/// Longest host name DNS knows, its final dot not counted.
const MAX_HOST: usize = 253;

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

type Authority<'a> = (Cow<'a, str>, Option<u16>);

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

/// Reads `host[:port]`.
fn read_authority(bytes: &[u8]) -> Result<Authority<'_>, Fault> {
    let end = octets::run(bytes, NAME);
    let port = match &bytes[end..] {
        [] => None,
        [b':', digits @ ..] => Some(port(digits)?),
        [b'[', address @ ..] if end == 0 => return self::address(address),
        _ => return Err(bad("a host with a byte that no host has")),
    };
    Ok((name(&bytes[..end])?, port))
}

fn name(bytes: &[u8]) -> Result<Cow<'_, str>, Fault> {
    let bytes = bytes.strip_suffix(b".").unwrap_or(bytes);
    if bytes.is_empty() || bytes.len() > MAX_HOST {
        return Err(bad("a host that is empty or longer than 253 bytes"));
    }
    let mut label = 0;
    let mut upper = false;
    loop {
        let rest = &bytes[label..];
        let mut len = octets::run(rest, LABEL);
        if !matches!(rest.get(len), None | Some(b'.')) {
            upper = true;
            len = rest
                .iter()
                .position(|&byte| byte == b'.')
                .unwrap_or(rest.len());
        }
        if len == 0 {
            return Err(bad("a host with an empty label"));
        }
        if len == rest.len() {
            break;
        }
        label += len + 1;
    }
    let last = &bytes[label..];
    let Ok(text) = str::from_utf8(bytes) else {
        return Err(bad("a host with a byte that no host has"));
    };
    if last[0].is_ascii_digit() && is_number(last) && text.parse::<Ipv4Addr>().is_err() {
        return Err(bad("a host that is a number and no IPv4 address"));
    }
    Ok(match upper {
        true => Cow::Owned(text.to_ascii_lowercase()),
        false => Cow::Borrowed(text),
    })
}

/// What resolvers of old read as a part of an address.
fn is_number(label: &[u8]) -> bool {
    match label {
        [b'0', b'x' | b'X', digits @ ..] => digits.iter().all(u8::is_ascii_hexdigit),
        digits => digits.iter().all(u8::is_ascii_digit),
    }
}

/// The rest of `[address]` or `[address]:port`.
#[cold]
fn address(bytes: &[u8]) -> Result<Authority<'_>, Fault> {
    let refused = || bad("a host in brackets that is no IPv6 address");
    let end = bytes
        .iter()
        .position(|&byte| byte == b']')
        .ok_or_else(refused)?;
    let text = str::from_utf8(&bytes[..end]).map_err(|_| refused())?;
    let address: Ipv6Addr = text.parse().map_err(|_| refused())?;
    let port = match &bytes[end + 1..] {
        [] => None,
        [b':', digits @ ..] => Some(port(digits)?),
        _ => return Err(refused()),
    };
    // One address, one text.
    Ok((Cow::Owned(address.to_string()), port))
}

fn port(digits: &[u8]) -> Result<u16, Fault> {
    let all = !digits.is_empty()
        && digits.len() <= 5
        && digits[0] != b'0'
        && digits.iter().all(u8::is_ascii_digit);
    let value = digits.iter().fold(0, |sum, &digit| {
        sum * 10 + u32::from(digit.wrapping_sub(b'0'))
    });
    match u16::try_from(value) {
        Ok(port) if all => Ok(port),
        _ => Err(bad("a port that is not between 1 and 65535")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read<'a>(request: &'a http::Request<()>) -> Result<Target<'a>, Fault> {
        read_target(
            request.method(),
            request.uri(),
            request.headers(),
            request.version(),
        )
    }

    fn request(version: Version, method: &str, uri: &str, hosts: &[&str]) -> http::Request<()> {
        let mut request = http::Request::builder()
            .version(version)
            .method(method)
            .uri(uri);
        for host in hosts {
            request = request.header("host", *host);
        }
        request.body(()).unwrap()
    }

    const H1: Version = Version::HTTP_11;
    const H2: Version = Version::HTTP_2;

    #[test]
    fn targets_are_read() {
        let cases = [
            (
                H1,
                "GET",
                "/a?b",
                &["h"][..],
                "h",
                None,
                "/a",
                Some("b"),
                Form::Origin,
            ),
            (
                H1,
                "GET",
                "/",
                &["Api.Shop:8080"],
                "api.shop",
                Some(8080),
                "/",
                None,
                Form::Origin,
            ),
            (
                H1,
                "GET",
                "/",
                &["api.shop."],
                "api.shop",
                None,
                "/",
                None,
                Form::Origin,
            ),
            (
                H1,
                "GET",
                "/",
                &["api.shop.:80"],
                "api.shop",
                Some(80),
                "/",
                None,
                Form::Origin,
            ),
            (
                H1,
                "GET",
                "/",
                &["my_svc~1-x"],
                "my_svc~1-x",
                None,
                "/",
                None,
                Form::Origin,
            ),
            (
                H1,
                "GET",
                "/",
                &["10.0.0.1:65535"],
                "10.0.0.1",
                Some(65535),
                "/",
                None,
                Form::Origin,
            ),
            (
                H1,
                "GET",
                "/",
                &["[::1]"],
                "::1",
                None,
                "/",
                None,
                Form::Origin,
            ),
            (
                H1,
                "GET",
                "/",
                &["[0:0:0:0:0:0:0:1]:90"],
                "::1",
                Some(90),
                "/",
                None,
                Form::Origin,
            ),
            (
                H1,
                "GET",
                "/",
                &["1a.2b"],
                "1a.2b",
                None,
                "/",
                None,
                Form::Origin,
            ),
            (
                H1,
                "GET",
                "http://O.x:81/p/../q?r",
                &["other"],
                "o.x",
                Some(81),
                "/q",
                Some("r"),
                Form::Absolute,
            ),
            (
                H1,
                "GET",
                "http://o.x",
                &["other"],
                "o.x",
                None,
                "/",
                None,
                Form::Absolute,
            ),
            (
                H1,
                "CONNECT",
                "db:5432",
                &["db:5432"],
                "db",
                Some(5432),
                "",
                None,
                Form::Authority,
            ),
            (
                H1,
                "OPTIONS",
                "*",
                &["h"],
                "h",
                None,
                "*",
                None,
                Form::Asterisk,
            ),
            (
                Version::HTTP_10,
                "GET",
                "/",
                &[],
                "",
                None,
                "/",
                None,
                Form::Origin,
            ),
            (
                H2,
                "GET",
                "http://a.b/c",
                &[],
                "a.b",
                None,
                "/c",
                None,
                Form::Origin,
            ),
            (
                H2,
                "GET",
                "https://a.b:1/c",
                &["A.b:1"],
                "a.b",
                Some(1),
                "/c",
                None,
                Form::Origin,
            ),
            (
                H2,
                "GET",
                "/c",
                &["a.b"],
                "a.b",
                None,
                "/c",
                None,
                Form::Origin,
            ),
            (
                H2,
                "CONNECT",
                "a.b:1",
                &[],
                "a.b",
                Some(1),
                "",
                None,
                Form::Authority,
            ),
        ];
        for (version, method, uri, hosts, host, port, path, query, form) in cases {
            let request = request(version, method, uri, hosts);
            let target =
                read(&request).unwrap_or_else(|fault| panic!("{method} {uri} {hosts:?}: {fault}"));
            let read = (
                &*target.host,
                target.port,
                &*target.path,
                target.query,
                target.form,
            );
            assert_eq!(
                read,
                (host, port, path, query, form),
                "{method} {uri} {hosts:?}"
            );
        }
    }

    #[test]
    fn targets_of_two_minds_are_refused() {
        let cases: &[(Version, &str, &str, &[&str])] = &[
            (H1, "GET", "/", &[]),
            (H1, "GET", "/", &["a", "a"]),
            (H1, "GET", "/", &["a", "b"]),
            (H1, "GET", "http://a/", &[]),
            (H1, "GET", "http://a/", &["a", "b"]),
            (H1, "GET", "http://u@a/", &["a"]),
            (H1, "GET", "http://u:p@a/", &["a"]),
            (H1, "GET", "https://a/", &["a"]),
            (H1, "GET", "ftp://a/", &["a"]),
            (H1, "GET", "a:80", &["a"]),
            (H1, "GET", "*", &["a"]),
            (H1, "CONNECT", "a", &["a"]),
            (H1, "CONNECT", "/", &["a"]),
            (H1, "CONNECT", "http://a/", &["a"]),
            (H1, "GET", "/%zz", &["a"]),
            (H2, "GET", "http://a/", &["b"]),
            (H2, "GET", "http://a/", &["a:80"]),
            (H2, "GET", "http://a:80/", &["a"]),
            (H2, "GET", "http://a/", &["a", "a"]),
            (H2, "GET", "http://u@a/", &[]),
            (H2, "GET", "/", &[]),
            (H2, "GET", "/a?é", &["a"]),
            (H2, "GET", "/é", &["a"]),
        ];
        for (version, method, uri, hosts) in cases {
            let request = request(*version, method, uri, hosts);
            let fault = read(&request).expect_err(uri);
            assert_eq!(
                fault.reason(),
                Reason::BadRequest,
                "{method} {uri} {hosts:?}"
            );
        }
    }

    #[test]
    fn hosts_that_are_none_are_refused() {
        let long = "a".repeat(254);
        for host in [
            "",
            ".",
            "..",
            ".a",
            "a..b",
            "a..",
            ":80",
            "a:",
            "a:0",
            "a:080",
            "a:65536",
            "a:99999",
            "a:123456",
            "a:+1",
            "a:1x",
            "a:80:80",
            "a b",
            "a/b",
            "a\\b",
            "a?b",
            "a#b",
            "a@b",
            "u:p@b",
            "a,b",
            "a;b",
            "a%2e",
            "a%00",
            "a\"",
            "<a>",
            "a!",
            "é",
            "a\tb",
            "[",
            "[]",
            "[::1",
            "::1",
            "[::1]x",
            "[::1]:",
            "[::1]:0",
            "[fe80::1%eth0]",
            "[1.2.3.4]",
            "[v1.x]",
            "127.1",
            "1.2.3.4.5",
            "256.1.1.1",
            "01.2.3.4",
            "2130706433",
            "0x7f000001",
            "1.2.3.0x4",
            "0x",
            "1.2.3.4:",
            &long,
        ] {
            assert!(read_authority(host.as_bytes()).is_err(), "{host:?}");
        }
    }

    #[test]
    fn targets_are_bounded() {
        let reason = |len: usize| {
            let uri = format!("http://a/{}?b", "x".repeat(len - 3));
            let request = request(H2, "GET", &uri, &[]);
            read(&request).err().map(|fault| fault.reason())
        };
        assert_eq!(reason(8192), None);
        assert_eq!(reason(8193), Some(Reason::UriTooLong));
    }

    #[test]
    fn what_is_clean_is_borrowed() {
        let request = request(H1, "GET", "/v1/orders?x=1", &["orders.shop:8080"]);
        let target = read(&request).unwrap();
        assert!(matches!(target.host, Cow::Borrowed(_)));
        assert!(matches!(target.path, Cow::Borrowed(_)));
        assert_eq!(target.rewritten(), None);
    }

    #[test]
    fn what_is_forwarded_is_what_was_matched() {
        let request = request(H1, "GET", "http://[::1]:81/a/../%62?q=%61", &["x"]);
        let target = read(&request).unwrap();
        assert_eq!(target.rewritten().as_deref(), Some("/b?q=%61"));
        assert_eq!(target.authority(), "[::1]:81");
    }
}
