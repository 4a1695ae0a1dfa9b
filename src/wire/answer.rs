//! The future of an answer, and the answer's body.

use super::{Error, Failure, Home};
use bytes::Bytes;
use http::Response;
use http_body::{Body, Frame, SizeHint};
use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll},
};
use tokio::io::{AsyncRead, AsyncWrite};

/// The future of an answer. Dropped, it closes the connection.
pub struct Answer<IO, B, H> {
    exchange: Option<(IO, B, H)>,
}

impl<IO, B, H> Answer<IO, B, H> {
    pub(super) fn new(io: IO, body: B, home: H) -> Self {
        Answer {
            exchange: Some((io, body, home)),
        }
    }
}

impl<IO, B, H> Unpin for Answer<IO, B, H> {}

impl<IO, B, H> Future for Answer<IO, B, H>
where
    IO: AsyncRead + AsyncWrite + Unpin,
    B: Body<Data = Bytes> + Unpin,
    H: Home<IO>,
{
    type Output = Result<Response<AnswerBody<IO, B, H>>, Failure<B>>;

    fn poll(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Self::Output> {
        let (_, body, _) = self.exchange.take().expect("polled after its end");
        Poll::Ready(Err(Failure {
            error: Error::Closed,
            body: Some(body),
            wrote: false,
            received: false,
        }))
    }
}

/// The answer's body. Dropped before its end, it closes the connection.
pub struct AnswerBody<IO, B, H> {
    rest: Option<(IO, B, H)>,
}

/// What is left of a connection after a 101 or a successful CONNECT.
#[derive(Debug)]
pub struct Upgraded<IO> {
    pub io: IO,
    /// Bytes of the new protocol that came with the answer's head.
    pub leftover: Bytes,
}

impl<IO, B, H> Unpin for AnswerBody<IO, B, H> {}

impl<IO, B, H> AnswerBody<IO, B, H> {
    /// The connection itself, when this answer ended HTTP on it (101, or 2xx to CONNECT).
    pub fn into_upgraded(self) -> Option<Upgraded<IO>> {
        None
    }

    /// Interim answers (100, 103 and their like) that came before this one and were dropped.
    pub fn interim(&self) -> u16 {
        0
    }
}

impl<IO, B, H> Body for AnswerBody<IO, B, H>
where
    IO: AsyncRead + AsyncWrite + Unpin,
    B: Body<Data = Bytes> + Unpin,
    H: Home<IO>,
{
    type Data = Bytes;
    type Error = Error<B::Error>;

    fn poll_frame(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        Poll::Ready(None)
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(0)
    }
}
