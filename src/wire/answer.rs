//! The future of an answer, and the answer's body: the two lives of one exchange.

use super::{
    Connection, Error, Failure, Home, RequestHead, exchange::Exchange, outgoing::Outgoing,
};
use bytes::Bytes;
use http::Response;
use http_body::{Body, Frame, SizeHint};
use std::{
    future::Future,
    mem,
    pin::Pin,
    task::{Context, Poll, ready},
};
use tokio::io::{AsyncRead, AsyncWrite};

/// The future of an answer. Dropped, it closes the connection.
pub struct Answer<IO, B, H> {
    state: Begun<IO, B, H>,
}

// Boxed: an answer is handed up through half a dozen futures, and moving the exchange each time cost 2,000 instructions.
enum Begun<IO, B, H> {
    Going(Box<Exchange<IO, B, H>>),
    /// The target was refused. The connection never saw it, but is closed all the same: this is a bug, not traffic.
    Refused(B),
    Over,
}

/// The answer's body. Dropped before its end, it closes the connection.
///
/// It is at its end (`is_end_stream`) at once where the answer has none, and with the last frame otherwise; the
/// connection went home by then. Data frames are slices of the read buffer, of at most 64 KiB.
pub struct AnswerBody<IO, B, H> {
    state: Rest<IO, B, H>,
    interim: u16,
}

pub(super) enum Rest<IO, B, H> {
    Going(Box<Exchange<IO, B, H>>),
    Upgraded(Upgraded<IO>),
    Over,
}

/// What is left of a connection after a 101 or a successful CONNECT.
#[derive(Debug)]
pub struct Upgraded<IO> {
    pub io: IO,
    /// Bytes of the new protocol that came with the answer's head.
    pub leftover: Bytes,
}

impl<IO, B, H> Answer<IO, B, H>
where
    B: Body<Data = Bytes> + Unpin,
{
    pub(super) fn new(
        connection: Connection<IO>,
        head: &RequestHead<'_>,
        body: B,
        home: H,
    ) -> Self {
        let Some(out) = Outgoing::encode(head, &body) else {
            return Answer {
                state: Begun::Refused(body),
            };
        };
        Answer {
            state: Begun::Going(Box::new(Exchange::new(connection, head, out, body, home))),
        }
    }
}

// Nothing is pinned in place: socket and body are `Unpin` wherever they are polled.
impl<IO, B, H> Unpin for Answer<IO, B, H> {}
impl<IO, B, H> Unpin for AnswerBody<IO, B, H> {}

impl<IO, B, H> Future for Answer<IO, B, H>
where
    IO: AsyncRead + AsyncWrite + Unpin,
    B: Body<Data = Bytes> + Unpin,
    H: Home<IO>,
{
    type Output = Result<Response<AnswerBody<IO, B, H>>, Failure<B>>;

    /// # Panics
    /// When polled after it was ready, as every future may.
    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let head = match &mut self.state {
            Begun::Going(exchange) => ready!(exchange.poll_head(cx)),
            _ => Err(Error::Target),
        };
        match (mem::replace(&mut self.state, Begun::Over), head) {
            (Begun::Going(exchange), Ok(head)) => {
                let mut answer = Response::new(AnswerBody {
                    interim: exchange.interim(),
                    state: exchange.begin(&head, cx),
                });
                *answer.status_mut() = head.status;
                *answer.version_mut() = head.version;
                *answer.headers_mut() = head.headers;
                Poll::Ready(Ok(answer))
            }
            (Begun::Going(exchange), Err(error)) => Poll::Ready(Err(exchange.fail(error))),
            (Begun::Refused(body), _) => Poll::Ready(Err(Failure {
                error: Error::Target,
                body: Some(body),
                wrote: false,
                received: false,
            })),
            (Begun::Over, _) => panic!("polled after it was ready"),
        }
    }
}

impl<IO, B, H> AnswerBody<IO, B, H> {
    /// The connection itself, when this answer ended HTTP on it: 101, or 2xx to CONNECT.
    pub fn into_upgraded(self) -> Option<Upgraded<IO>> {
        match self.state {
            Rest::Upgraded(upgraded) => Some(upgraded),
            _ => None,
        }
    }

    /// Interim answers (100, 103 and their like) that came before this one and were dropped.
    pub fn interim(&self) -> u16 {
        self.interim
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
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let Rest::Going(exchange) = &mut self.state else {
            return Poll::Ready(None);
        };
        let frame = ready!(exchange.poll_frame(cx));
        if frame.is_err() {
            self.state = Rest::Over;
        } else if exchange.is_done()
            && let Rest::Going(exchange) = mem::replace(&mut self.state, Rest::Over)
        {
            exchange.finish(cx);
        }
        Poll::Ready(frame.transpose())
    }

    fn is_end_stream(&self) -> bool {
        !matches!(self.state, Rest::Going(_))
    }

    fn size_hint(&self) -> SizeHint {
        match &self.state {
            Rest::Going(exchange) => exchange.size_hint(),
            _ => SizeHint::with_exact(0),
        }
    }
}
