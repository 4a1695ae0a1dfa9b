//! Hygiene of headers: what one hop says to the next hop never passes a proxy (RFC 9110 §7.6.1).
//!
//! One scan over the map, by name length first; something is removed only where it was found. Nobody can
//! nominate away (by naming it in `Connection`) what others rely on: `Host`, framing, credentials, cookies,
//! forwarded and identity headers. `Trailer` stays, it announces what the codec must write.
//!
//! `Content-Length` stays too: there is one, it is a number, and the codec that reads the body holds the sender
//! to it. Who changes or cuts a body removes it.

mod trailers;

use http::{
    HeaderMap, HeaderName, HeaderValue, Version,
    header::{self, Entry},
};
use smallvec::SmallVec;

use crate::fault::{Fault, Reason};

pub use trailers::clean_trailers;

/// At most so many fields a message, whatever the protocol; the ones we drop count as well.
pub const MAX_FIELDS: usize = super::head::MAX_FIELDS;

/// Certificates of a client, as the hop that saw them tells it: only ever set by us.
pub const CLIENT_CERT: HeaderName = HeaderName::from_static(WHO_CALLS);
const WHO_CALLS: &str = "x-forwarded-client-cert";

/// Ours: requests from outside lose every header that begins so, except `ATTEMPT`.
const OURS: &str = "x-weft-";
/// Another sidecar's count of deliveries; it claims nothing, so the application may have it.
const ATTEMPT: &str = "x-weft-attempt";

/// What `Connection` cannot take away, besides names with one of `SAFE_PREFIXES`.
const SAFE: &[&str] = &[
    "authorization",
    "cache-control",
    "content-encoding",
    "content-length",
    "content-type",
    "cookie",
    "expect",
    "forwarded",
    "host",
    "idempotency-key",
    "location",
    "set-cookie",
    "traceparent",
    "tracestate",
    "trailer",
    "via",
    "www-authenticate",
    "x-real-ip",
    "x-request-id",
];
const SAFE_PREFIXES: &[&str] = &["x-forwarded-", "x-weft-", "x-b3-", "grpc-", "ce-"];

/// What the one scan of a message's headers told.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Facts {
    /// One, and a number; the codec that reads the body holds the sender to it.
    pub content_length: Option<u64>,
    /// The client waits for 100.
    pub expect_continue: bool,
    /// An expectation that is none we know: 417.
    pub expect_other: bool,
    /// `TE: trailers`: kept, gRPC needs it.
    pub te_trailers: bool,
    /// `Upgrade` names more than `h2c`. It is still there, for `upgrade` to read and take out.
    pub offers_upgrade: bool,
    /// `Connection` names `Upgrade`, without which that says nothing.
    pub names_upgrade: bool,
    /// Framed by `Transfer-Encoding`.
    pub chunked: bool,
    pub connection_close: bool,
    pub is_grpc: bool,
    pub has_request_id: bool,
    pub has_traceparent: bool,
    /// `Trailer` announces fields.
    pub trailers: bool,
}

/// What the scan found to take out, a bit each.
mod found {
    pub(super) const CONNECTION: u16 = 1;
    pub(super) const KEEP_ALIVE: u16 = 2;
    pub(super) const PROXY_CONNECTION: u16 = 4;
    pub(super) const TE: u16 = 8;
    pub(super) const TRANSFER_ENCODING: u16 = 16;
    pub(super) const UPGRADE: u16 = 32;
    pub(super) const PROXY_AUTH: u16 = 64;
    pub(super) const CLIENT_CERT: u16 = 128;
    pub(super) const OURS: u16 = 256;
    /// `Connection` names more than `keep-alive` and `close`.
    pub(super) const NAMED: u16 = 512;
    /// Answered by us: the callee is sent the body at once.
    pub(super) const EXPECT: u16 = 1024;
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Message {
    Request,
    Response,
}

/// Takes out of a request what is between the client and us, and says what it was.
///
/// `bad_request` where two readers could differ (`Content-Length` twice or no number), `head_too_large` over
/// 100 fields.
pub fn clean_request(headers: &mut HeaderMap, version: Version) -> Result<Facts, Fault> {
    clean(headers, version, Message::Request)
}

/// Takes out of an answer what is between the upstream and us, and says what it was.
///
/// `bad_answer` and `answer_head_too_large`, as above.
pub fn clean_response(headers: &mut HeaderMap, version: Version) -> Result<Facts, Fault> {
    clean(headers, version, Message::Response)
}

impl Message {
    #[cold]
    fn bad(self, words: &'static str) -> Fault {
        match self {
            Message::Request => Fault::new(Reason::BadRequest, words),
            Message::Response => Fault::new(Reason::BadAnswer, words),
        }
    }

    #[cold]
    fn too_large(self) -> Fault {
        match self {
            Message::Request => {
                Fault::new(Reason::HeadTooLarge, "more than 100 fields in the head")
            }
            Message::Response => {
                Fault::new(Reason::AnswerTooLarge, "more than 100 fields in the answer")
            }
        }
    }
}

fn clean(headers: &mut HeaderMap, version: Version, message: Message) -> Result<Facts, Fault> {
    if headers.len() > MAX_FIELDS {
        return Err(message.too_large());
    }
    let mut facts = Facts {
        connection_close: version == Version::HTTP_10,
        ..Facts::default()
    };
    let mut keep_alive = false;
    let mut found = 0;
    let mut lengths = 0;
    for (name, value) in headers.iter() {
        let name = name.as_str();
        match name.len() {
            2 if name == "te" => {
                found |= found::TE;
                facts.te_trailers |=
                    tokens(value).any(|token| token.eq_ignore_ascii_case(b"trailers"));
            }
            6 if name == "expect" => match value.as_bytes().eq_ignore_ascii_case(b"100-continue") {
                true => {
                    facts.expect_continue = true;
                    found |= found::EXPECT;
                }
                false => facts.expect_other = true,
            },
            7 if name == "upgrade" => {
                found |= found::UPGRADE;
                facts.offers_upgrade |= !super::head::offers_h2c_alone(value.as_bytes());
            }
            7 if name == "trailer" => facts.trailers = true,
            10 if name == "connection" => {
                found |= found::CONNECTION;
                let value = value.as_bytes();
                if value.eq_ignore_ascii_case(b"keep-alive") {
                    keep_alive = true;
                } else if value.eq_ignore_ascii_case(b"close") {
                    facts.connection_close = true;
                } else {
                    found |= found::NAMED;
                }
            }
            10 if name == "keep-alive" => found |= found::KEEP_ALIVE,
            11 if name == "traceparent" => facts.has_traceparent = true,
            12 if name == "content-type" => facts.is_grpc = is_grpc(value.as_bytes()),
            12 if name == "x-request-id" => facts.has_request_id = true,
            14 if name == "content-length" => {
                lengths += 1;
                facts.content_length = super::head::length_of(value.as_bytes()).ok();
                if facts.content_length.is_none() {
                    return Err(message.bad("a content-length that is not a number"));
                }
            }
            16 if name == "proxy-connection" => found |= found::PROXY_CONNECTION,
            17 if name == "transfer-encoding" => found |= found::TRANSFER_ENCODING,
            18 if name == "proxy-authenticate" => found |= found::PROXY_AUTH,
            19 if name == "proxy-authorization" => found |= found::PROXY_AUTH,
            25 if name == "proxy-authentication-info" => found |= found::PROXY_AUTH,
            23 if is_client_cert(name) => found |= found::CLIENT_CERT,
            8.. if message == Message::Request && name.starts_with(OURS) => found |= found::OURS,
            _ => {}
        }
    }
    if lengths > 1 {
        return Err(message.bad("more than one content-length"));
    }
    if found != 0 {
        remove(headers, &mut facts, found, &mut keep_alive, message)?;
    }
    if keep_alive && version == Version::HTTP_10 {
        facts.connection_close = false;
    }
    Ok(facts)
}

/// Takes out what was found. Apart, so that the scan of a clean map stays small.
#[inline(never)]
fn remove(
    headers: &mut HeaderMap,
    facts: &mut Facts,
    found: u16,
    keep_alive: &mut bool,
    message: Message,
) -> Result<(), Fault> {
    if found & found::NAMED != 0 {
        remove_named(headers, facts, keep_alive, message)?;
    }
    if found & found::CONNECTION != 0 {
        headers.remove(header::CONNECTION);
    }
    if found == found::CONNECTION {
        return Ok(());
    }
    if found & found::KEEP_ALIVE != 0 {
        headers.remove("keep-alive");
    }
    if found & found::PROXY_CONNECTION != 0 {
        headers.remove("proxy-connection");
    }
    if found & found::TE != 0 {
        match facts.te_trailers && message == Message::Request {
            true => drop(headers.insert(header::TE, HeaderValue::from_static("trailers"))),
            false => drop(headers.remove(header::TE)),
        }
    }
    if found & found::TRANSFER_ENCODING != 0 {
        headers.remove(header::TRANSFER_ENCODING);
        facts.chunked = true;
        // Never both: a reader down the line would have the choice (RFC 9112 §6.3).
        headers.remove(header::CONTENT_LENGTH);
        facts.content_length = None;
    }
    if found & found::UPGRADE != 0 {
        if !facts.offers_upgrade {
            headers.remove(header::UPGRADE);
        }
        headers.remove("http2-settings");
    }
    if found & found::EXPECT != 0 {
        headers.remove(header::EXPECT);
    }
    if found & found::PROXY_AUTH != 0 {
        headers.remove(header::PROXY_AUTHENTICATE);
        headers.remove(header::PROXY_AUTHORIZATION);
        headers.remove("proxy-authentication-info");
    }
    if found & found::CLIENT_CERT != 0 {
        remove_where(headers, is_client_cert);
    }
    if found & found::OURS != 0 {
        remove_where(headers, |name| name.starts_with(OURS) && name != ATTEMPT);
    }
    Ok(())
}

fn remove_where(headers: &mut HeaderMap, goes: impl Fn(&str) -> bool) {
    let names = headers.keys().filter(|name| goes(name.as_str()));
    let names: SmallVec<[HeaderName; 4]> = names.cloned().collect();
    for name in names {
        headers.remove(name);
    }
}

/// `x-forwarded-client-cert` as applications may read it: by CGI's custom `-` and `_` are one (RFC 3875 §4.1.18).
fn is_client_cert(name: &str) -> bool {
    let mut both = name.bytes().zip(WHO_CALLS.bytes());
    name.len() == WHO_CALLS.len()
        && both.all(|(said, own)| said == own || (said, own) == (b'_', b'-'))
}

/// Removes what `Connection` names, except what nobody can take from others.
#[cold]
fn remove_named(
    headers: &mut HeaderMap,
    facts: &mut Facts,
    keep_alive: &mut bool,
    message: Message,
) -> Result<(), Fault> {
    let mut names: SmallVec<[HeaderName; 8]> = SmallVec::new();
    let mut count = 0;
    for token in headers.get_all(header::CONNECTION).iter().flat_map(tokens) {
        count += 1;
        if count > MAX_FIELDS {
            return Err(message.too_large());
        }
        if token.eq_ignore_ascii_case(b"close") {
            facts.connection_close = true;
        } else if token.eq_ignore_ascii_case(b"keep-alive") {
            *keep_alive = true;
        } else if token.eq_ignore_ascii_case(b"upgrade") {
            facts.names_upgrade = true;
        } else if !token.is_empty() {
            let Ok(name) = HeaderName::from_bytes(token) else {
                return Err(message.bad("a connection option that is no token"));
            };
            // `TE: trailers` comes with `Connection: TE` by the rules; what is kept of TE is decided elsewhere.
            if name != header::TE && !is_safe(name.as_str()) {
                names.push(name);
            }
        }
    }
    for name in names {
        if let Entry::Occupied(entry) = headers.entry(name) {
            entry.remove_entry_mult();
        }
    }
    Ok(())
}

fn is_safe(name: &str) -> bool {
    SAFE.binary_search(&name).is_ok() || SAFE_PREFIXES.iter().any(|prefix| name.starts_with(prefix))
}

/// `application/grpc`, alone or with a format (`+proto`) or parameters.
fn is_grpc(value: &[u8]) -> bool {
    const GRPC: &[u8] = b"application/grpc";
    match value.split_at_checked(GRPC.len()) {
        Some((begin, rest)) => {
            begin.eq_ignore_ascii_case(GRPC)
                && matches!(rest.first(), None | Some(b'+' | b';' | b' '))
        }
        None => false,
    }
}

fn tokens(value: &HeaderValue) -> impl Iterator<Item = &[u8]> {
    value
        .as_bytes()
        .split(|&byte| byte == b',')
        .map(<[u8]>::trim_ascii)
}

#[cfg(test)]
mod tests;
