//! HTTP/1.1 towards upstreams: a client codec on `httparse` that runs inside the caller's own future.
//!
//! One exchange at a time, one box, no task, no channel, no lock: `Connection::send` gives the future of the answer,
//! its body drives what is left of the request, and the connection goes `Home` when both ended cleanly. Every buffer
//! has a bound. Framing is decided here, in both directions; choosing endpoints, pooling, retries, timeouts and
//! hop-by-hop hygiene are the caller's. `docs/decisions/0002-own-http1-client-codec.md` says why hyper does not do it.

mod answer;
mod decoder;
mod error;
mod exchange;
mod head;
mod incoming;
mod outgoing;
mod trailers;

#[cfg(test)]
mod tests;

pub use answer::{Answer, AnswerBody, Upgraded};
pub use error::{Error, Failure};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method};
use http_body::Body;
use std::{
    future::{Future, poll_fn},
    pin::{Pin, pin},
    task::{Context, Poll, Waker},
};
use tokio::{
    io::{AsyncRead, ReadBuf},
    task::coop,
};

/// What an answer's head, and once more its trailers, may cost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of a head, or of the trailers.
    pub head: usize,
    /// Fields of a head, or of the trailers; at most 128.
    pub fields: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            head: 64 * 1024,
            fields: 100,
        }
    }
}

/// An idle connection: the socket and two numbers. It holds no buffer.
#[derive(Debug)]
pub struct Connection<IO> {
    io: IO,
    limits: Limits,
}

/// Where a connection goes whose exchange ended cleanly.
pub trait Home<IO> {
    /// Called at most once an exchange: not at all when the connection was closed instead.
    fn keep(self, connection: Connection<IO>);
}

/// What goes on the request's first lines. It is encoded at once, so the caller keeps it for another try.
#[derive(Debug, Clone, Copy)]
pub struct RequestHead<'a> {
    pub method: &'a Method,
    /// The target as it goes on the wire, in whichever form.
    pub target: &'a str,
    /// With `Host`, free of hop-by-hop fields. Framing fields are left out if they are there all the same.
    pub headers: &'a HeaderMap,
    /// The protocols offered in `Upgrade`; the only way to a 101.
    pub upgrade: Option<&'a HeaderValue>,
}

impl<IO> Connection<IO> {
    pub fn new(io: IO, limits: Limits) -> Self {
        Connection { io, limits }
    }

    /// False when the peer closed or sent anything while the connection was idle. Costs no system call unless it did.
    pub fn is_reusable(&mut self) -> bool
    where
        IO: AsyncRead + Unpin,
    {
        let mut byte = [0u8; 1];
        let mut byte = ReadBuf::new(&mut byte);
        let read = poll_fn(|cx| Pin::new(&mut self.io).poll_read(cx, &mut byte));
        // A task whose budget is spent reads "nothing yet" from every socket, the closed ones included.
        let mut read = pin!(coop::unconstrained(read));
        let mut cx = Context::from_waker(Waker::noop());
        matches!(read.as_mut().poll(&mut cx), Poll::Pending)
    }

    pub fn io(&self) -> &IO {
        &self.io
    }

    pub fn into_io(self) -> IO {
        self.io
    }

    /// Encodes the head and returns the future of the answer, which sends it when first polled.
    pub fn send<B, H>(self, head: RequestHead<'_>, body: B, home: H) -> Answer<IO, B, H>
    where
        B: Body<Data = Bytes> + Unpin,
        H: Home<IO>,
    {
        Answer::new(self, &head, body, home)
    }
}
