//! Hygiene of trailers: they stand behind a body, and whoever merges them into the head must not be misled.

use http::{HeaderMap, HeaderName};
use smallvec::SmallVec;

use super::{MAX_FIELDS, OURS, is_client_cert};

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
                || is_client_cert(name)
        })
        .cloned()
        .collect();
    for name in heads_only {
        trailers.remove(name);
    }
    true
}
