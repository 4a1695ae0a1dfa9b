//! The future of an answer, and the answer's body.
//!
//! Both drive the same exchange: first the request as far as the socket takes it, then what came back. An answer may
//! come early; its body then goes on sending. A socket that takes no more may still hold an answer, so a failed write
//! is told only when nothing can be read.

use super::{
    Connection, Error, Failure, Home, Limits, RequestHead,
    decoder::{Decoder, Step},
    head::{self, Flaw, Head, Length},
    incoming::{Incoming, may_end_section},
    outgoing::Outgoing,
};
use bytes::Bytes;
use http::{HeaderValue, Method, Response, StatusCode, Version, header};
use http_body::{Body, Frame, SizeHint};
use std::{
    future::Future,
    io, mem,
    pin::Pin,
    task::{Context, Poll, ready},
};
use tokio::io::{AsyncRead, AsyncWrite};

/// Interim answers one exchange may send before the real one.
const MOST_INTERIM: u16 = 32;

/// The future of an answer. Dropped, it closes the connection.
pub struct Answer<IO, B, H> {
    state: Begun<IO, B, H>,
}

// The large variant is the usual one; a box would cost every request an allocation.
#[allow(clippy::large_enum_variant)]
enum Begun<IO, B, H> {
    Going(Exchange<IO, B, H>),
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

enum Rest<IO, B, H> {
    Going(Exchange<IO, B, H>),
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

/// A frame, or the body's end.
type Progress<B> = Result<Option<Frame<Bytes>>, Error<<B as Body>::Error>>;

struct Exchange<IO, B, H> {
    io: IO,
    body: B,
    home: H,
    limits: Limits,
    out: Outgoing,
    incoming: Incoming,
    sending: Sending,
    asked: Asked,
    decoder: Decoder,
    /// Bytes of a head that were looked at in vain.
    seen: usize,
    interim: u16,
    received: bool,
    /// The connection must not be used again.
    close: bool,
}

enum Sending {
    Going,
    Sent,
    /// The socket takes no more. The error is told when there is no answer either.
    Lost(Option<io::Error>),
}

/// What kind of answer the request allows.
enum Asked {
    Usual,
    /// HEAD: fields of a body, but none.
    NoBody,
    Tunnel,
    /// The protocols offered. Boxed: upgrades are rare.
    Upgrade(Box<HeaderValue>),
}

impl<IO, B, H> Answer<IO, B, H>
where
    B: Body<Data = Bytes> + Unpin,
{
    pub(super) fn new(
        Connection { io, limits }: Connection<IO>,
        head: &RequestHead<'_>,
        body: B,
        home: H,
    ) -> Self {
        let Some(out) = Outgoing::encode(head, &body) else {
            return Answer {
                state: Begun::Refused(body),
            };
        };
        let asked = match (head.upgrade, head.method) {
            (_, &Method::CONNECT) => Asked::Tunnel,
            (Some(offered), _) => Asked::Upgrade(Box::new(offered.clone())),
            (None, &Method::HEAD) => Asked::NoBody,
            (None, _) => Asked::Usual,
        };
        Answer {
            state: Begun::Going(Exchange {
                io,
                body,
                home,
                limits,
                out,
                incoming: Incoming::new(),
                sending: Sending::Going,
                asked,
                decoder: Decoder::UntilClose,
                seen: 0,
                interim: 0,
                received: false,
                close: false,
            }),
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
            (Begun::Going(exchange), Ok(head)) => Poll::Ready(exchange.begin(head, cx)),
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
        } else if exchange.decoder == Decoder::Done
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
            Rest::Going(Exchange {
                decoder: Decoder::Length(left),
                ..
            }) => SizeHint::with_exact(*left),
            Rest::Going(_) => SizeHint::default(),
            _ => SizeHint::with_exact(0),
        }
    }
}

impl<IO, B, H> Exchange<IO, B, H>
where
    IO: AsyncRead + AsyncWrite + Unpin,
    B: Body<Data = Bytes> + Unpin,
    H: Home<IO>,
{
    /// The head of the first answer that is not interim.
    fn poll_head(&mut self, cx: &mut Context<'_>) -> Poll<Result<Head, Error<B::Error>>> {
        self.send(cx)?;
        loop {
            while let Some(head) = self.take_head()? {
                if self.is_last(&head)? {
                    return Poll::Ready(Ok(head));
                }
                self.interim += 1;
                // An interim answer has no body. A peer that says otherwise may send one later.
                self.close |= head.close || head.length != Length::Unsaid;
            }
            if ready!(self.poll_read(u64::MAX, cx))? == 0 {
                // Bytes that were not worth a look before may still say more than "closed".
                self.seen = 0;
                if !self.incoming.bytes.is_empty() {
                    self.take_head()?;
                }
                return Poll::Ready(Err(self.closed()));
            }
        }
    }

    fn take_head(&mut self) -> Result<Option<Head>, Flaw> {
        let bytes = &mut self.incoming.bytes;
        if self.seen != 0 && bytes.len() < self.limits.head && !may_end_section(bytes, self.seen) {
            self.seen = bytes.len();
            return Ok(None);
        }
        let head = head::take(bytes, &self.limits)?;
        self.seen = if head.is_some() { 0 } else { bytes.len() };
        Ok(head)
    }

    fn is_last(&self, head: &Head) -> Result<bool, Error<B::Error>> {
        // A peer that switches before it has the whole request would take the rest for the new protocol.
        let sent = matches!(self.sending, Sending::Sent);
        if head.status == StatusCode::SWITCHING_PROTOCOLS {
            return match &self.asked {
                Asked::Upgrade(offered) if sent && switches(offered, head) => Ok(true),
                _ => Err(Error::UnaskedUpgrade),
            };
        }
        if matches!(self.asked, Asked::Tunnel) && head.status.is_success() && !sent {
            return Err(Error::UnaskedUpgrade);
        }
        if !head.status.is_informational() {
            return Ok(true);
        }
        if self.interim == MOST_INTERIM {
            return Err(Error::Malformed("interim answers that do not end"));
        }
        Ok(false)
    }

    /// Makes the answer of its head; ends the exchange at once where no body follows.
    fn begin(
        mut self,
        head: Head,
        cx: &mut Context<'_>,
    ) -> Result<Response<AnswerBody<IO, B, H>>, Failure<B>> {
        let interim = self.interim;
        self.close |= head.close;
        let tunnels = match self.asked {
            Asked::Tunnel => head.status.is_success(),
            _ => head.status == StatusCode::SWITCHING_PROTOCOLS,
        };
        self.decoder = if tunnels {
            Decoder::Done
        } else {
            self.decoder(&head)
        };
        let state = if tunnels {
            Rest::Upgraded(Upgraded {
                leftover: self.incoming.bytes.split().freeze(),
                io: self.io,
            })
        } else if self.decoder == Decoder::Done {
            self.finish(cx);
            Rest::Over
        } else {
            Rest::Going(self)
        };
        let mut answer = Response::new(AnswerBody { state, interim });
        *answer.status_mut() = head.status;
        *answer.version_mut() = head.version;
        *answer.headers_mut() = head.headers;
        Ok(answer)
    }

    /// How the body is framed (RFC 9112 section 6.3).
    fn decoder(&mut self, head: &Head) -> Decoder {
        if head.status == StatusCode::NO_CONTENT {
            // It has no body; a peer that frames one may send it later.
            self.close |= !matches!(head.length, Length::Unsaid | Length::Known(0));
            return Decoder::Done;
        }
        if head.status == StatusCode::NOT_MODIFIED || matches!(self.asked, Asked::NoBody) {
            return Decoder::Done;
        }
        match head.length {
            Length::Known(0) => Decoder::Done,
            Length::Known(length) => Decoder::Length(length),
            Length::Chunked => Decoder::CHUNKED,
            Length::Unsaid => Decoder::UntilClose,
        }
    }

    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Progress<B>> {
        self.send(cx)?;
        loop {
            match self.decoder.step(&mut self.incoming.bytes, &self.limits)? {
                Step::Data(data) => return Poll::Ready(Ok(Some(Frame::data(data)))),
                Step::Trailers(fields) => return Poll::Ready(Ok(Some(Frame::trailers(fields)))),
                Step::Done => return Poll::Ready(Ok(None)),
                Step::More => {}
            }
            if ready!(self.poll_read(self.decoder.left(), cx))? == 0 {
                self.close = true;
                let ended = (self.decoder).close(&mut self.incoming.bytes, &self.limits)?;
                return Poll::Ready(match ended {
                    true => Ok(None),
                    false => Err(self.closed()),
                });
            }
        }
    }

    /// Sends what the socket takes. Only the request's own faults are errors here.
    fn send(&mut self, cx: &mut Context<'_>) -> Result<(), Error<B::Error>> {
        if let Sending::Going = self.sending {
            match self.out.poll(&mut self.io, &mut self.body, cx) {
                Poll::Pending => {}
                Poll::Ready(Ok(())) => {
                    self.sending = Sending::Sent;
                    if self.incoming.bytes.capacity() == 0 {
                        self.incoming.bytes = self.out.spent_buffer();
                    }
                }
                Poll::Ready(Err(Error::Io(error))) => {
                    self.sending = Sending::Lost(Some(error));
                    self.close = true;
                }
                Poll::Ready(Err(error)) => return Err(error),
            }
        }
        Ok(())
    }

    fn poll_read(
        &mut self,
        most: u64,
        cx: &mut Context<'_>,
    ) -> Poll<Result<usize, Error<B::Error>>> {
        match ready!(self.incoming.poll_read(&mut self.io, most, cx)) {
            Ok(read) => {
                self.received |= read != 0;
                Poll::Ready(Ok(read))
            }
            Err(error) => Poll::Ready(Err(Error::Io(self.lost().unwrap_or(error)))),
        }
    }

    fn closed(&mut self) -> Error<B::Error> {
        self.lost().map_or(Error::Closed, Error::Io)
    }

    fn lost(&mut self) -> Option<io::Error> {
        match &mut self.sending {
            Sending::Lost(error) => error.take(),
            _ => None,
        }
    }

    /// Keeps the connection if both sides are through with it, else closes it.
    fn finish(mut self, cx: &mut Context<'_>) {
        // The request may be over without having said so. What is left of it otherwise is nobody's business any more.
        let sent = self.send(cx).is_ok() && matches!(self.sending, Sending::Sent);
        if sent && !self.close && self.incoming.bytes.is_empty() {
            self.home.keep(Connection::new(self.io, self.limits));
        }
    }

    fn fail(self, error: Error<B::Error>) -> Failure<B> {
        Failure {
            error,
            wrote: self.out.wrote,
            received: self.received,
            body: (!self.out.polled).then_some(self.body),
        }
    }
}

/// True when the one protocol switched to is among those offered.
fn switches(offered: &HeaderValue, head: &Head) -> bool {
    let mut chosen = head.headers.get_all(header::UPGRADE).iter();
    let (Some(chosen), None) = (chosen.next(), chosen.next()) else {
        return false;
    };
    let chosen = chosen.as_bytes();
    head.version == Version::HTTP_11
        && !chosen.is_empty()
        && (offered.as_bytes().split(|&b| b == b','))
            .any(|one| one.trim_ascii().eq_ignore_ascii_case(chosen))
}
