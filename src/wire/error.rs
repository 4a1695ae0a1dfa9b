//! How an exchange on one connection can fail, and what that leaves to the caller.

use super::head::Flaw;
use http_body::Body;
use std::{fmt, io};

/// What went wrong. `E` is the request body's own error.
#[derive(Debug, thiserror::Error)]
pub enum Error<E> {
    /// The peer closed before the answer was whole.
    #[error("the connection was closed before the answer was whole")]
    Closed,
    #[error("the connection broke: {0}")]
    Io(#[source] io::Error),
    /// Bytes that are no HTTP/1.1 answer, or one that could be read two ways.
    #[error("not an HTTP/1.1 answer: {0}")]
    Malformed(&'static str),
    /// Head or trailers over `Limits::head` bytes.
    #[error("the answer's head or trailers are too large")]
    HeadTooLarge,
    /// Head or trailers over `Limits::fields` fields.
    #[error("the answer has too many fields")]
    TooManyFields,
    /// A 101 without an `Upgrade` in the request, or to a protocol that was not offered.
    #[error("the answer switches to a protocol that was not asked for")]
    UnaskedUpgrade,
    /// The request's body failed: the client's fault, never the upstream's.
    #[error("the request's body broke off")]
    RequestBody(#[source] E),
    /// The request's body was longer or shorter than it said: the client's fault.
    #[error("the request's body has not the length it promised")]
    RequestLength,
    /// The request's target holds a byte that a request line must not: ours, a bug in what built it.
    #[error("the request's target cannot stand in a request line")]
    Target,
}

impl<E> Error<E> {
    /// True when the request is to blame: it must not count against the upstream.
    pub fn is_requests(&self) -> bool {
        matches!(
            self,
            Error::RequestBody(_) | Error::RequestLength | Error::Target
        )
    }
}

impl<E> From<Flaw> for Error<E> {
    fn from(flaw: Flaw) -> Self {
        match flaw {
            Flaw::Malformed(what) => Error::Malformed(what),
            Flaw::TooLarge => Error::HeadTooLarge,
            Flaw::TooManyFields => Error::TooManyFields,
        }
    }
}

/// No answer came.
pub struct Failure<B: Body> {
    pub error: Error<B::Error>,
    /// The request's body, if it was never polled: any retry is possible.
    pub body: Option<B>,
    /// Any byte was handed to the socket.
    pub wrote: bool,
    /// Any byte came back, be it of an interim answer.
    pub received: bool,
}

impl<B: Body> fmt::Debug for Failure<B>
where
    B::Error: fmt::Debug,
{
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Failure")
            .field("error", &self.error)
            .field("body", &self.body.is_some())
            .field("wrote", &self.wrote)
            .field("received", &self.received)
            .finish()
    }
}
