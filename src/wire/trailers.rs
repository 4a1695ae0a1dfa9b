//! Which fields may stand behind a body.

use http::HeaderName;

/// False for what frames, routes, authenticates or describes the body: read after it, it would come too late or
/// smuggle (RFC 9110 section 6.5.1). Such fields are dropped, in both directions.
pub(super) fn may_trail(name: &HeaderName) -> bool {
    !matches!(
        name.as_str(),
        "transfer-encoding"
            | "content-length"
            | "connection"
            | "keep-alive"
            | "proxy-connection"
            | "upgrade"
            | "te"
            | "trailer"
            | "host"
            | "max-forwards"
            | "expect"
            | "cache-control"
            | "authorization"
            | "proxy-authorization"
            | "proxy-authenticate"
            | "www-authenticate"
            | "set-cookie"
            | "cookie"
            | "content-encoding"
            | "content-type"
            | "content-range"
            | "range"
    )
}
