//! Hygiene of headers: what one hop says to the next hop never passes a proxy (RFC 9110 §7.6.1).
//!
//! One scan over the map, by name length first; something is removed only where it was found. Nobody can
//! nominate away (by naming it in `Connection`) what others rely on: `Host`, framing, credentials, cookies,
//! forwarded and identity headers. `Trailer` stays, it announces what the codec must write.
//!
//! `Content-Length` stays too: there is one, it is a number, and the codec that reads the body holds the sender
//! to it. Who changes or cuts a body removes it.

use http::{
    HeaderMap, HeaderName, HeaderValue, Version,
    header::{self, Entry},
};
use smallvec::SmallVec;

use crate::fault::{Fault, Reason};

/// At most so many fields a message, whatever the protocol; the ones we drop count as well.
pub const MAX_FIELDS: usize = super::head::MAX_FIELDS;

/// Certificates of a client, as the hop that saw them tells it: only ever set by us.
pub const CLIENT_CERT: HeaderName = HeaderName::from_static("x-forwarded-client-cert");

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
    /// `Upgrade` was there (and is gone) and asked for more than `h2c`: some clients offer that with every request,
    /// and are content with an answer in HTTP/1.1.
    pub wants_upgrade: bool,
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
/// `bad_answer` and `answer_head_too_large`, as above. What `Upgrade` a 101 speaks of is to be read before.
pub fn clean_response(headers: &mut HeaderMap, version: Version) -> Result<Facts, Fault> {
    clean(headers, version, Message::Response)
}

/// Takes out of trailers what belongs in a head: who merges them into it must not be told anew where a message
/// ends, for whom it is and who sent it (RFC 9110 §6.5.1). False: over 100 fields, the message is broken.
#[must_use]
pub fn clean_trailers(trailers: &mut HeaderMap) -> bool {
    const HEADS_ONLY: &[&str] = &[
        "authorization",
        "connection",
        "content-encoding",
        "content-length",
        "content-range",
        "content-type",
        "cookie",
        "expect",
        "forwarded",
        "host",
        "keep-alive",
        "proxy-authenticate",
        "proxy-authorization",
        "proxy-connection",
        "set-cookie",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    ];
    if trailers.len() > MAX_FIELDS {
        return false;
    }
    let heads_only: SmallVec<[HeaderName; 4]> = trailers
        .keys()
        .filter(|name| {
            let name = name.as_str();
            HEADS_ONLY.binary_search(&name).is_ok()
                || name.starts_with(OURS)
                || name.starts_with("x-forwarded-")
        })
        .cloned()
        .collect();
    for name in heads_only {
        trailers.remove(name);
    }
    true
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
                facts.wants_upgrade |=
                    !tokens(value).all(|token| token.eq_ignore_ascii_case(b"h2c"));
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
            23 if name == CLIENT_CERT.as_str() => found |= found::CLIENT_CERT,
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
        // Never both: a reader down the line would have the choice (RFC 9112 §6.3).
        headers.remove(header::CONTENT_LENGTH);
        facts.content_length = None;
    }
    if found & found::UPGRADE != 0 {
        headers.remove(header::UPGRADE);
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
        headers.remove(CLIENT_CERT);
    }
    if found & found::OURS != 0 {
        let ours: SmallVec<[HeaderName; 4]> = headers
            .keys()
            .filter(|name| name.as_str().starts_with(OURS) && *name != ATTEMPT)
            .cloned()
            .collect();
        for name in ours {
            headers.remove(name);
        }
    }
    Ok(())
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
mod tests {
    use super::*;

    type Lines<'a> = &'a [(&'a str, &'a str)];

    fn map(lines: Lines) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            headers.append(
                HeaderName::from_bytes(name.as_bytes()).unwrap(),
                value.parse().unwrap(),
            );
        }
        headers
    }

    fn names(headers: &HeaderMap) -> Vec<&str> {
        let mut names: Vec<_> = headers.keys().map(HeaderName::as_str).collect();
        names.sort_unstable();
        names
    }

    #[test]
    fn the_list_of_what_is_safe_is_sorted() {
        assert!(SAFE.is_sorted());
    }

    #[test]
    fn what_is_between_two_hops_is_taken_out() {
        let cases: &[(&str, Lines, &[&str])] = &[
            (
                "nothing to do",
                &[("host", "a"), ("accept", "*/*")],
                &["accept", "host"],
            ),
            (
                "keep-alive",
                &[("connection", "keep-alive"), ("a", "1")],
                &["a"],
            ),
            ("close", &[("connection", "Close"), ("a", "1")], &["a"]),
            (
                "named",
                &[
                    ("connection", "a, B ,close"),
                    ("a", "1"),
                    ("b", "2"),
                    ("c", "3"),
                ],
                &["c"],
            ),
            (
                "named twice over",
                &[
                    ("connection", "a"),
                    ("connection", "b"),
                    ("a", "1"),
                    ("b", "2"),
                ],
                &[],
            ),
            (
                "all values of a name",
                &[("connection", "a"), ("a", "1"), ("a", "2")],
                &[],
            ),
            (
                "empty options",
                &[("connection", ", ,keep-alive,"), ("c", "3")],
                &["c"],
            ),
            (
                "not what others rely on",
                &[
                    (
                        "connection",
                        "host, authorization, cookie, x-forwarded-for, forwarded, content-length, x-request-id, traceparent, grpc-timeout, content-type, cache-control",
                    ),
                    ("host", "a"),
                    ("authorization", "x"),
                    ("cookie", "x"),
                    ("x-forwarded-for", "x"),
                    ("forwarded", "x"),
                    ("content-length", "1"),
                    ("x-request-id", "x"),
                    ("traceparent", "x"),
                    ("grpc-timeout", "1S"),
                    ("content-type", "text/plain"),
                    ("cache-control", "x"),
                ],
                &[
                    "authorization",
                    "cache-control",
                    "content-length",
                    "content-type",
                    "cookie",
                    "forwarded",
                    "grpc-timeout",
                    "host",
                    "traceparent",
                    "x-forwarded-for",
                    "x-request-id",
                ],
            ),
            (
                "keep-alive's own",
                &[("keep-alive", "timeout=5"), ("c", "3")],
                &["c"],
            ),
            (
                "proxies'",
                &[
                    ("proxy-connection", "x"),
                    ("proxy-authorization", "x"),
                    ("proxy-authenticate", "x"),
                    ("proxy-authentication-info", "x"),
                ],
                &[],
            ),
            (
                "framing",
                &[("transfer-encoding", "chunked"), ("content-length", "5")],
                &[],
            ),
            (
                "upgrade",
                &[
                    ("connection", "Upgrade"),
                    ("upgrade", "websocket"),
                    ("c", "3"),
                ],
                &["c"],
            ),
            ("te", &[("te", "gzip"), ("c", "3")], &["c"]),
            (
                "te trailers",
                &[("te", "gzip, trailers"), ("connection", "te")],
                &["te"],
            ),
            (
                "identity",
                &[
                    ("x-forwarded-client-cert", "By=me"),
                    ("x-forwarded-for", "1.2.3.4"),
                ],
                &["x-forwarded-for"],
            ),
            (
                "ours",
                &[
                    ("x-weft-event-id", "1"),
                    ("x-weft-", "2"),
                    ("X-Weft-Reason", "3"),
                    ("x-weft-attempt", "2"),
                    ("x-wefty", "5"),
                ],
                &["x-weft-attempt", "x-wefty"],
            ),
            (
                "announced trailers stay",
                &[("trailer", "x-sum"), ("connection", "trailer")],
                &["trailer"],
            ),
        ];
        for (name, lines, left) in cases {
            let mut headers = map(lines);
            clean_request(&mut headers, Version::HTTP_11).unwrap();
            assert_eq!(names(&headers), *left, "{name}");
        }
    }

    #[test]
    fn only_trailers_is_left_of_te() {
        let mut headers = map(&[("te", "gzip;q=0.5, Trailers"), ("te", "deflate")]);
        assert!(
            clean_request(&mut headers, Version::HTTP_2)
                .unwrap()
                .te_trailers
        );
        assert_eq!(
            headers.get_all("te").iter().collect::<Vec<_>>(),
            ["trailers"]
        );
    }

    #[test]
    fn answers_keep_what_another_sidecar_says_and_lose_hops() {
        let mut headers = map(&[
            ("connection", "x-secret, set-cookie"),
            ("x-secret", "1"),
            ("set-cookie", "a=b"),
            ("keep-alive", "x"),
            ("te", "trailers"),
            ("upgrade", "websocket"),
            ("x-weft-reason", "no_app"),
        ]);
        let facts = clean_response(&mut headers, Version::HTTP_11).unwrap();
        assert_eq!(names(&headers), ["set-cookie", "x-weft-reason"]);
        assert!(facts.wants_upgrade && !facts.connection_close);
    }

    #[test]
    fn facts_are_what_the_headers_say() {
        let none = Facts::default();
        let cases: &[(&[(&str, &str)], Facts)] = &[
            (&[], none),
            (
                &[("content-length", "12")],
                Facts {
                    content_length: Some(12),
                    ..none
                },
            ),
            (
                &[("expect", "100-Continue")],
                Facts {
                    expect_continue: true,
                    ..none
                },
            ),
            (
                &[("expect", "200-maybe")],
                Facts {
                    expect_other: true,
                    ..none
                },
            ),
            (
                &[("upgrade", "websocket")],
                Facts {
                    wants_upgrade: true,
                    ..none
                },
            ),
            (
                &[("connection", "foo, Close")],
                Facts {
                    connection_close: true,
                    ..none
                },
            ),
            (
                &[("content-type", "application/grpc")],
                Facts {
                    is_grpc: true,
                    ..none
                },
            ),
            (
                &[("content-type", "application/GRPC+proto")],
                Facts {
                    is_grpc: true,
                    ..none
                },
            ),
            (&[("content-type", "application/grpc-web")], none),
            (&[("content-type", "application/grp")], none),
            (
                &[("x-request-id", "1"), ("traceparent", "2")],
                Facts {
                    has_request_id: true,
                    has_traceparent: true,
                    ..none
                },
            ),
            (
                &[("trailer", "a")],
                Facts {
                    trailers: true,
                    ..none
                },
            ),
        ];
        for (lines, facts) in cases {
            assert_eq!(
                clean_request(&mut map(lines), Version::HTTP_11).unwrap(),
                *facts,
                "{lines:?}"
            );
        }
    }

    #[test]
    fn http_10_closes_unless_it_says_otherwise() {
        let close = |lines| {
            clean_request(&mut map(lines), Version::HTTP_10)
                .unwrap()
                .connection_close
        };
        assert!(close(&[]));
        assert!(!close(&[("connection", "keep-alive")]));
        assert!(!close(&[("connection", "a, keep-alive")]));
    }

    #[test]
    fn two_ways_to_read_a_length_are_refused() {
        for lines in [
            &[("content-length", "5"), ("content-length", "5")][..],
            &[("content-length", "5"), ("content-length", "6")],
            &[("content-length", "5, 5")],
            &[("content-length", "+5")],
            &[("content-length", "")],
            &[("content-length", "0x5")],
            &[("content-length", "99999999999999999999")],
            &[("connection", "a b")],
        ] {
            for version in [Version::HTTP_11, Version::HTTP_2] {
                let fault = clean_request(&mut map(lines), version).unwrap_err();
                assert_eq!(fault.reason(), Reason::BadRequest, "{lines:?}");
                assert_eq!(
                    clean_response(&mut map(lines), version)
                        .unwrap_err()
                        .reason(),
                    Reason::BadAnswer
                );
            }
        }
    }

    #[test]
    fn fields_are_counted_dropped_ones_too() {
        let mut headers = HeaderMap::new();
        for _ in 0..100 {
            headers.append("keep-alive", HeaderValue::from_static("x"));
        }
        assert!(clean_request(&mut headers.clone(), Version::HTTP_2).is_ok());
        headers.append("a", HeaderValue::from_static("x"));
        let reason = |result: Result<Facts, Fault>| result.unwrap_err().reason();
        assert_eq!(
            reason(clean_request(&mut headers.clone(), Version::HTTP_2)),
            Reason::HeadTooLarge
        );
        assert_eq!(
            reason(clean_response(&mut headers, Version::HTTP_2)),
            Reason::AnswerTooLarge
        );
    }

    #[test]
    fn trailers_say_nothing_that_a_head_says() {
        let mut trailers = map(&[
            ("grpc-status", "0"),
            ("x-sum", "1"),
            ("content-length", "5"),
            ("transfer-encoding", "chunked"),
            ("host", "b"),
            ("authorization", "x"),
            ("x-forwarded-client-cert", "By=me"),
            ("x-weft-attempt", "1"),
        ]);
        assert!(clean_trailers(&mut trailers));
        assert_eq!(names(&trailers), ["grpc-status", "x-sum"]);
        for _ in 0..100 {
            trailers.append("a", HeaderValue::from_static("x"));
        }
        assert!(!clean_trailers(&mut trailers));
    }

    #[test]
    fn connection_names_at_most_100() {
        let many = vec!["a"; 101].join(",");
        let fault =
            clean_request(&mut map(&[("connection", &many)]), Version::HTTP_11).unwrap_err();
        assert_eq!(fault.reason(), Reason::HeadTooLarge);
    }
}
