//! How an exchange over HTTP/2 can fail, and whether the peer may have acted on it.
//!
//! `unprocessed` is said only on proof: the stream was refused by the peer, stands above the last stream its GOAWAY
//! named, or never left us. Everything else may have been processed.

use std::{fmt, io};

use http::Request;
use http_body::Body;

use super::{Options, connection::Shared};
use crate::{
    fault::{Fault, Processed, Reason},
    http::headers::MAX_FIELDS,
};

/// What happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// The peer reset the stream with REFUSED_STREAM.
    Refused,
    /// The peer reset the stream.
    Reset(h2::Reason),
    /// The peer's GOAWAY took the stream or the connection.
    GoAway(h2::Reason),
    /// The connection was closed, by the peer or by us.
    Closed,
    /// The peer answered no PING; the connection was given up.
    Silent,
    /// The socket failed.
    Io(io::ErrorKind),
    /// Every stream the peer allows at once is taken.
    Full,
    /// The peer broke HTTP/2's rules.
    Malformed,
    /// The answer's head is over its limit in bytes.
    HeadTooLarge,
    /// The answer's head or trailers have over `MAX_FIELDS` fields.
    TooManyFields,
    /// The peer refused our certificate by a TLS alert, before any frame.
    RefusedIdentity,
    /// 101, which HTTP/2 does not have.
    UnaskedUpgrade,
    /// The caller's body broke off after the answer had begun.
    RequestBody,
    /// The request's head lacks a scheme or an authority.
    BadHead,
}

/// One exchange's end, where it was not an answer's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Failure {
    pub kind: Kind,
    /// The peer provably never acted on the request.
    pub unprocessed: bool,
}

impl Failure {
    /// A failure of something that never left us.
    pub(super) fn before(kind: Kind) -> Self {
        Failure {
            kind,
            unprocessed: true,
        }
    }

    pub(super) fn perhaps(kind: Kind) -> Self {
        Failure {
            kind,
            unprocessed: false,
        }
    }

    /// Reads `h2`'s error for a stream whose answer has not begun.
    #[cold]
    pub(super) fn of_request(error: &h2::Error, stream: u32, shared: &Shared) -> Self {
        let kind = kind(error, stream, shared);
        let ledger = shared.ledger();
        Failure {
            kind,
            unprocessed: kind == Kind::Refused || ledger.disowned(stream) || ledger.unsent(stream),
        }
    }

    /// Reads `h2`'s error for a stream whose answer has begun: whatever the peer says now, it has acted.
    #[cold]
    pub(super) fn of_answer(error: &h2::Error, stream: u32, shared: &Shared) -> Self {
        let kind = match kind(error, stream, shared) {
            Kind::Refused => Kind::Reset(h2::Reason::REFUSED_STREAM),
            // After the head, only trailers or the body can be at fault.
            Kind::HeadTooLarge => Kind::Malformed,
            kind => kind,
        };
        Failure::perhaps(kind)
    }

    /// The same in the words of the whole proxy.
    pub fn fault(&self) -> Fault {
        let reason = match self.kind {
            Kind::Malformed => Reason::BadAnswer,
            Kind::HeadTooLarge | Kind::TooManyFields => Reason::AnswerTooLarge,
            Kind::RefusedIdentity => Reason::RefusedIdentity,
            Kind::UnaskedUpgrade => Reason::UnaskedUpgrade,
            Kind::RequestBody => Reason::BodyBroken,
            Kind::BadHead => Reason::Internal,
            _ if self.unprocessed => Reason::Refused,
            _ => Reason::Reset,
        };
        let processed = match self.unprocessed {
            true => Processed::No,
            false => Processed::Perhaps,
        };
        Fault::new(reason, self.to_string()).processed(processed)
    }
}

fn kind(error: &h2::Error, stream: u32, shared: &Shared) -> Kind {
    if error.is_reset() {
        return match error.reason() {
            Some(h2::Reason::REFUSED_STREAM) if error.is_remote() => Kind::Refused,
            Some(reason) if error.is_remote() => Kind::Reset(reason),
            _ if shared.ledger().head_length(stream) >= shared.large_head() => Kind::HeadTooLarge,
            _ => Kind::Malformed,
        };
    }
    match shared.end() {
        // The socket's error is the same whether the peer left or we gave it up.
        Some(end) if !error.is_go_away() => end,
        _ => of_connection(error),
    }
}

/// Reads `h2`'s error for a whole connection.
pub(super) fn of_connection(error: &h2::Error) -> Kind {
    if error.is_go_away() {
        return match error.reason() {
            Some(reason) if error.is_remote() => Kind::GoAway(reason),
            _ => Kind::Malformed,
        };
    }
    match error.get_io().map(io::Error::kind) {
        Some(io::ErrorKind::UnexpectedEof | io::ErrorKind::BrokenPipe) | None => Kind::Closed,
        Some(kind) => Kind::Io(kind),
    }
}

/// Encoded bytes from which a head that `h2` refused counts as too large: `h2` has one error for "too large" and
/// for "broken", and Huffman coding shortens a text to no less than five eighths.
pub(super) fn large_head(options: &Options) -> u32 {
    options.max_head / 2
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.kind {
            Kind::Refused => f.write_str("the upstream refused the stream"),
            Kind::Reset(reason) => write!(f, "the upstream reset the stream: {reason}"),
            Kind::GoAway(reason) => write!(f, "the upstream is going away: {reason}"),
            Kind::Closed => f.write_str("the connection to the upstream was closed"),
            Kind::Silent => f.write_str("the upstream answered no ping"),
            Kind::Io(kind) => write!(f, "the connection to the upstream failed: {kind}"),
            Kind::Full => f.write_str("the upstream allows no more streams on this connection"),
            Kind::Malformed => f.write_str("the upstream's answer breaks HTTP/2's rules"),
            Kind::HeadTooLarge => f.write_str("the head of the upstream's answer is too large"),
            Kind::TooManyFields => {
                write!(f, "the upstream's answer has over {} fields", MAX_FIELDS)
            }
            Kind::RefusedIdentity => f.write_str("the endpoint refuses this sidecar's identity"),
            Kind::UnaskedUpgrade => f.write_str("the upstream sent 101 over HTTP/2"),
            Kind::RequestBody => f.write_str("the request's body broke off"),
            Kind::BadHead => f.write_str("the request's head has no scheme or authority"),
        }
    }
}

impl std::error::Error for Failure {}

/// A request without an answer.
pub enum Rejected<B: Body> {
    /// The way or the peer failed.
    Upstream {
        failure: Failure,
        /// The head, where it was not yet given away.
        head: Option<Box<Request<()>>>,
        /// The body, where no frame of it was taken.
        body: Option<B>,
    },
    /// The caller's own body failed; the stream was cancelled.
    Body(B::Error),
}

impl<B: Body> fmt::Debug for Rejected<B>
where
    B::Error: fmt::Debug,
{
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Rejected::Upstream {
                failure,
                head,
                body,
            } => f
                .debug_struct("Upstream")
                .field("failure", failure)
                .field("head", &head.is_some())
                .field("body", &body.is_some())
                .finish(),
            Rejected::Body(error) => f.debug_tuple("Body").field(error).finish(),
        }
    }
}
