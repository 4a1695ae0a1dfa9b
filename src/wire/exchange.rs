//! One exchange on one connection: the request on its way out, the answer on its way in.
//!
//! Each poll sends first, as far as the socket takes it, then reads. An answer may come early; its body then goes on
//! sending. A socket that takes no more may still hold an answer, so a failed write is told only when nothing can be
//! read.

use super::{
    Connection, Error, Failure, Home, Limits, RequestHead, Upgraded,
    answer::Rest,
    decoder::{Decoder, Step},
    head::{self, Flaw, Head, Length},
    incoming::{Incoming, may_end_section},
    outgoing::Outgoing,
};
use bytes::Bytes;
use http::{HeaderValue, Method, StatusCode, Version, header};
use http_body::{Body, Frame, SizeHint};
use std::{
    io,
    task::{Context, Poll, ready},
};
use tokio::io::{AsyncRead, AsyncWrite};

/// Interim answers one exchange may send before the real one.
const MOST_INTERIM: u16 = 32;

/// A frame, or the body's end.
pub(super) type Progress<B> = Result<Option<Frame<Bytes>>, Error<<B as Body>::Error>>;

pub(super) struct Exchange<IO, B, H> {
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

impl<IO, B, H> Exchange<IO, B, H> {
    pub(super) fn new(
        Connection { io, limits }: Connection<IO>,
        head: &RequestHead<'_>,
        out: Outgoing,
        body: B,
        home: H,
    ) -> Self {
        let asked = match (head.upgrade, head.method) {
            (_, &Method::CONNECT) => Asked::Tunnel,
            (Some(offered), _) => Asked::Upgrade(Box::new(offered.clone())),
            (None, &Method::HEAD) => Asked::NoBody,
            (None, _) => Asked::Usual,
        };
        Exchange {
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
        }
    }

    pub(super) fn interim(&self) -> u16 {
        self.interim
    }

    pub(super) fn is_done(&self) -> bool {
        self.decoder == Decoder::Done
    }

    pub(super) fn size_hint(&self) -> SizeHint {
        match self.decoder {
            Decoder::Length(left) => SizeHint::with_exact(left),
            _ => SizeHint::default(),
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
    pub(super) fn poll_head(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Head, Error<B::Error>>> {
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

    /// What follows this head. Ended on the spot where nothing does.
    pub(super) fn begin(mut self: Box<Self>, head: &Head, cx: &mut Context<'_>) -> Rest<IO, B, H> {
        self.close |= head.close;
        let tunnels = match self.asked {
            Asked::Tunnel => head.status.is_success(),
            _ => head.status == StatusCode::SWITCHING_PROTOCOLS,
        };
        if tunnels {
            return Rest::Upgraded(Upgraded {
                leftover: self.incoming.bytes.split().freeze(),
                io: self.io,
            });
        }
        self.decoder = self.decoder(head);
        if self.decoder == Decoder::Done {
            self.finish(cx);
            return Rest::Over;
        }
        Rest::Going(self)
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

    pub(super) fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Progress<B>> {
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
    #[expect(
        clippy::boxed_local,
        reason = "moved as a pointer; by value it would be copied"
    )]
    pub(super) fn finish(mut self: Box<Self>, cx: &mut Context<'_>) {
        // The request may be over without having said so. What is left of it otherwise is nobody's business any more.
        let sent = self.send(cx).is_ok() && matches!(self.sending, Sending::Sent);
        if sent && !self.close && self.incoming.bytes.is_empty() {
            self.home.keep(Connection::new(self.io, self.limits));
        }
    }

    #[expect(
        clippy::boxed_local,
        reason = "moved as a pointer; by value it would be copied"
    )]
    pub(super) fn fail(self: Box<Self>, error: Error<B::Error>) -> Failure<B> {
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
