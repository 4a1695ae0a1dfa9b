//! The only table from a fault to what the caller reads: status, gRPC code, headers, words.

use std::fmt::Write;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Response, StatusCode, header};

use super::body::Body;
use crate::fault::{Fault, Reason};

/// The reason of an answer that is our own.
pub const REASON_HEADER: &str = "x-weft-reason";

/// gRPC status codes (grpc/doc/statuscodes.md) that answers of ours carry.
pub mod grpc {
    pub const INVALID_ARGUMENT: u16 = 3;
    pub const DEADLINE_EXCEEDED: u16 = 4;
    pub const NOT_FOUND: u16 = 5;
    pub const ALREADY_EXISTS: u16 = 6;
    pub const PERMISSION_DENIED: u16 = 7;
    pub const RESOURCE_EXHAUSTED: u16 = 8;
    pub const FAILED_PRECONDITION: u16 = 9;
    pub const ABORTED: u16 = 10;
    pub const UNIMPLEMENTED: u16 = 12;
    pub const INTERNAL: u16 = 13;
    pub const UNAVAILABLE: u16 = 14;
}

/// What a reason becomes on the wire: HTTP status and gRPC code.
pub const fn statuses(reason: Reason) -> (StatusCode, u16) {
    use StatusCode as S;
    match reason {
        Reason::BadRequest | Reason::AmbiguousPath | Reason::BodyBroken => {
            (S::BAD_REQUEST, grpc::INTERNAL)
        }
        Reason::HeadTooLarge => (S::REQUEST_HEADER_FIELDS_TOO_LARGE, grpc::RESOURCE_EXHAUSTED),
        Reason::UriTooLong => (S::URI_TOO_LONG, grpc::INVALID_ARGUMENT),
        Reason::BodyTimeout | Reason::HeadTimeout | Reason::ClientGone => {
            (S::REQUEST_TIMEOUT, grpc::DEADLINE_EXCEEDED)
        }
        Reason::BodyTooLarge => (S::PAYLOAD_TOO_LARGE, grpc::RESOURCE_EXHAUSTED),
        Reason::ExpectationFailed => (S::EXPECTATION_FAILED, grpc::UNIMPLEMENTED),
        Reason::UpgradeRefused => (S::NOT_IMPLEMENTED, grpc::UNIMPLEMENTED),
        Reason::PlaintextRefused
        | Reason::ConnectRefused
        | Reason::Denied
        | Reason::UnknownHost => (S::FORBIDDEN, grpc::PERMISSION_DENIED),
        Reason::NoRoute => (S::NOT_FOUND, grpc::UNIMPLEMENTED),
        Reason::EventUnknown => (S::NOT_FOUND, grpc::NOT_FOUND),
        Reason::EventExpired => (S::GONE, grpc::NOT_FOUND),
        Reason::Loop => (S::LOOP_DETECTED, grpc::FAILED_PRECONDITION),
        Reason::NotDeferrable => (S::METHOD_NOT_ALLOWED, grpc::UNIMPLEMENTED),
        Reason::KeyFailed | Reason::IdempotencyMismatch => {
            (S::UNPROCESSABLE_ENTITY, grpc::INVALID_ARGUMENT)
        }
        Reason::IdempotencyMissing => (S::BAD_REQUEST, grpc::INVALID_ARGUMENT),
        Reason::IdempotencyConflict => (S::CONFLICT, grpc::ABORTED),
        Reason::RequestTimeout | Reason::TryTimeout => {
            (S::GATEWAY_TIMEOUT, grpc::DEADLINE_EXCEEDED)
        }
        Reason::BadAnswer | Reason::AnswerTooLarge | Reason::UnaskedUpgrade => {
            (S::BAD_GATEWAY, grpc::UNAVAILABLE)
        }
        Reason::Internal => (S::INTERNAL_SERVER_ERROR, grpc::INTERNAL),
        Reason::NoApp
        | Reason::PendingOverflow
        | Reason::RequestsOverflow
        | Reason::NoEndpoint
        | Reason::Unresolved
        | Reason::ConnectFailed
        | Reason::ConnectTimeout
        | Reason::NoIdentity
        | Reason::PeerSpeaksNoTls
        | Reason::WrongIdentity
        | Reason::RefusedIdentity
        | Reason::TlsFailed
        | Reason::Refused
        | Reason::Reset
        | Reason::Draining
        | Reason::StoreUnavailable
        | Reason::OutboxFull
        | Reason::TooManyConnections => (S::SERVICE_UNAVAILABLE, grpc::UNAVAILABLE),
    }
}

/// Who reads an answer of ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reader {
    /// Speaks gRPC: the status goes into `grpc-status`.
    pub grpc: bool,
    /// May read addresses and system errors: the application beside us, never a stranger.
    pub ours: bool,
}

/// The answer to a request that failed with `fault`.
#[cold]
pub fn answer(fault: &Fault, reader: Reader) -> Response<Body> {
    let (status, code) = statuses(fault.reason());
    let words = words(fault, reader.ours);
    let mut response = if reader.grpc {
        trailers_only(code, &words)
    } else {
        plain(status, words)
    };
    let headers = response.headers_mut();
    headers.insert(
        REASON_HEADER,
        HeaderValue::from_static(fault.reason().word()),
    );
    if let Some(wait) = fault.wait() {
        headers.insert(
            header::RETRY_AFTER,
            HeaderValue::from(wait.as_secs().max(1)),
        );
    }
    response
}

fn words(fault: &Fault, ours: bool) -> String {
    match fault.inside_words() {
        Some(inside) if ours => format!("{} ({inside})", fault.public_words()),
        _ => fault.public_words().to_owned(),
    }
}

fn plain(status: StatusCode, words: String) -> Response<Body> {
    let mut response = Response::new(Body::whole(Bytes::from(words + "\n")));
    *response.status_mut() = status;
    let text = HeaderValue::from_static("text/plain; charset=utf-8");
    response.headers_mut().insert(header::CONTENT_TYPE, text);
    response
}

/// A gRPC answer without a message (Trailers-Only in PROTOCOL-HTTP2.md).
pub fn trailers_only(code: u16, words: &str) -> Response<Body> {
    let mut response = Response::new(Body::empty());
    *response.headers_mut() = grpc_trailers(code, words);
    let grpc = HeaderValue::from_static("application/grpc");
    response.headers_mut().insert(header::CONTENT_TYPE, grpc);
    response
}

/// How a gRPC answer ends that has begun.
pub fn grpc_end(fault: &Fault) -> HeaderMap {
    grpc_trailers(statuses(fault.reason()).1, fault.public_words())
}

/// A status as trailers have it.
pub fn grpc_trailers(code: u16, words: &str) -> HeaderMap {
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", HeaderValue::from(code));
    trailers.insert("grpc-message", grpc_message(words));
    trailers
}

/// Percent-encodes all but printable ASCII and `%` itself, as `grpc-message` demands.
pub fn grpc_message(words: &str) -> HeaderValue {
    let mut text = String::with_capacity(words.len());
    for byte in words.bytes() {
        match byte {
            b' '..=b'~' if byte != b'%' => text.push(byte as char),
            _ => {
                let _ = write!(text, "%{byte:02X}");
            }
        }
    }
    HeaderValue::from_str(&text).unwrap_or_else(|_| HeaderValue::from_static(""))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_for_our_own_user_only() {
        let fault = Fault::new(Reason::ConnectFailed, "payments cannot be reached")
            .inside("connect refused 10.0.1.7:8080");
        assert!(words(&fault, true).contains("10.0.1.7"));
        assert!(!words(&fault, false).contains("10.0.1.7"));
    }

    #[test]
    fn grpc_callers_get_a_status_and_words_that_survive_a_header() {
        let fault = Fault::new(Reason::NoEndpoint, "100 % é\n");
        let response = answer(
            &fault,
            Reader {
                grpc: true,
                ours: true,
            },
        );
        assert_eq!(response.status(), 200);
        assert_eq!(response.headers()["grpc-status"], "14");
        assert_eq!(response.headers()["grpc-message"], "100 %25 %C3%A9%0A");
        assert_eq!(response.headers()[REASON_HEADER], "no_endpoint");
    }

    #[test]
    fn every_reason_has_an_error_status() {
        for reason in Reason::ALL {
            let (status, code) = statuses(*reason);
            assert!(status.as_u16() >= 400 && code != 0, "{reason}");
        }
    }
}
