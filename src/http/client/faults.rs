//! Why a try brought no answer, or half of one, in the words of the whole proxy.

use std::net::SocketAddr;

use super::Failed;
use crate::{
    fault::{Fault, Reason},
    http::{body::RequestBody, h2},
    net, wire,
};

#[cold]
pub(in crate::http) fn unanswered(
    failure: wire::Failure<RequestBody>,
    reused: bool,
    proven: bool,
    address: SocketAddr,
) -> Failed {
    let silent = !failure.received;
    let fault = match failure.error {
        wire::Error::RequestBody(fault) => {
            return Failed {
                fault,
                body: None,
                stale: false,
            };
        }
        error if error.is_requests() => {
            Fault::new(Reason::BodyBroken, "the request cannot be sent on")
                .inside(error.to_string())
        }
        wire::Error::Io(error) if proven && !reused && silent && net::is_alert(&error) => {
            refused_identity(address, &error)
        }
        error if !failure.wrote => Fault::new(
            Reason::Refused,
            "the endpoint closed before the request was sent",
        )
        .inside(format!("{address}: {error}")),
        error @ (wire::Error::Closed | wire::Error::Io(_)) => {
            Fault::new(Reason::Reset, "the endpoint closed before it answered")
                .inside(format!("{address}: {error}"))
        }
        wire::Error::UnaskedUpgrade => Fault::new(
            Reason::UnaskedUpgrade,
            "the endpoint switched protocols without being asked",
        )
        .inside(address.to_string()),
        error @ (wire::Error::HeadTooLarge | wire::Error::TooManyFields) => {
            Fault::new(Reason::AnswerTooLarge, "the answer's head is too large")
                .inside(format!("{address}: {error}"))
        }
        error => Fault::new(Reason::BadAnswer, "the endpoint's answer is not HTTP")
            .inside(format!("{address}: {error}")),
    };
    let stale = reused && silent && fault.reason() == Reason::Reset;
    Failed {
        fault,
        body: failure.body,
        stale,
    }
}

/// In TLS 1.3 a peer that refuses our certificate says so after our handshake is over: before it read a request.
#[cold]
fn refused_identity(address: SocketAddr, error: &dyn std::error::Error) -> Fault {
    Fault::new(
        Reason::RefusedIdentity,
        "the endpoint refuses this sidecar's identity",
    )
    .inside(format!("{address}: {error}"))
}

#[cold]
pub(super) fn unanswered_http2(rejected: h2::Rejected<RequestBody>, address: SocketAddr) -> Failed {
    match rejected {
        h2::Rejected::Body(fault) => Failed {
            fault,
            body: None,
            stale: false,
        },
        h2::Rejected::Upstream { failure, body, .. } => Failed {
            fault: failure.fault().inside(address.to_string()),
            body,
            stale: false,
        },
    }
}

/// A connection on which HTTP/2 did not begin: it failed, or was too slow.
#[cold]
pub(super) fn unopened(failure: Option<h2::Failure>, address: SocketAddr) -> Fault {
    match failure {
        Some(failure) if failure.kind == h2::Kind::RefusedIdentity => {
            failure.fault().inside(address.to_string())
        }
        Some(failure) => Fault::new(Reason::ConnectFailed, "the endpoint speaks no HTTP/2")
            .inside(format!("{address}: {failure}")),
        None => Fault::new(
            Reason::ConnectTimeout,
            "the endpoint did not open HTTP/2 in time",
        )
        .inside(address.to_string()),
    }
}

/// An answer that broke off after its head.
#[cold]
pub(in crate::http) fn broken_answer(error: wire::Error<Fault>) -> Fault {
    match error {
        wire::Error::RequestBody(fault) => fault,
        error => Fault::new(Reason::Reset, "the answer broke off").inside(error.to_string()),
    }
}

#[cold]
pub(in crate::http) fn broken_stream(failure: h2::Failure) -> Fault {
    failure.fault()
}
