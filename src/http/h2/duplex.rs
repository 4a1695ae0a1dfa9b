//! A stream that carries another protocol's bytes (RFC 8441): asking for one, and both directions as one socket.
//!
//! Only asked of a peer whose SETTINGS allow it: `Connection::allows_protocols`. END_STREAM is the end of a
//! direction; a reset is an error, and dropping it before both have ended is a reset (CANCEL).

use std::{
    future::poll_fn,
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::{Buf, Bytes};
use h2::{RecvStream, SendStream, ext::Protocol};
use http::{Method, Request, Response};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::{
    AnswerBody, Connection, Failure, Kind,
    connection::Slot,
    send::{Waiting, tidy},
};

/// What a write hands over at most: it is copied, and waits in `h2` for the socket.
const MOST: usize = 16 * 1024;

/// What a peer answers to an extended CONNECT.
pub enum Switched {
    Yes(Response<()>, Box<Duplex>),
    /// Any status but 2xx, with its body.
    No(Response<AnswerBody>),
}

impl Connection {
    /// True where the peer's SETTINGS allow extended CONNECT.
    pub fn allows_protocols(&self) -> bool {
        self.sender()
            .is_some_and(|sender| sender.is_extended_connect_protocol_enabled())
    }

    /// Asks for a stream of `protocol`'s bytes. Dropping the future cancels it.
    ///
    /// The head is a GET's, its URI with scheme and authority.
    pub async fn switch(&self, mut head: Request<()>, protocol: &str) -> Result<Switched, Failure> {
        if let Some(kind) = self.obstacle() {
            return Err(Failure::before(kind));
        }
        let Some(mut sender) = self.sender() else {
            return Err(Failure::before(Kind::Closed));
        };
        tidy(head.headers_mut());
        *head.method_mut() = Method::CONNECT;
        head.extensions_mut().insert(Protocol::from(protocol));
        let Ok((response, mut send)) = sender.send_request(head, false) else {
            self.exhausted();
            return Err(Failure::before(Kind::Closed));
        };
        let mut waiting = Waiting::new(response, send.stream_id().as_u32(), self.slot());
        let head = poll_fn(|cx| waiting.poll(cx)).await?;
        let (slot, stream) = (waiting.slot, waiting.stream);
        let success = head.status().is_success();
        let (parts, received) = head.into_parts();
        if success {
            let duplex = Duplex {
                received,
                send,
                early: Bytes::new(),
                _slot: slot,
            };
            return Ok(Switched::Yes(
                Response::from_parts(parts, ()),
                Box::new(duplex),
            ));
        }
        // Fails only where the peer has ended the stream both ways.
        let _ = send.send_data(Bytes::new(), true);
        let body = AnswerBody::new(received, slot, stream, None);
        Ok(Switched::No(Response::from_parts(parts, body)))
    }
}

/// A stream as a socket.
pub struct Duplex {
    received: RecvStream,
    send: SendStream<Bytes>,
    /// Came, and is not read.
    early: Bytes,
    /// Its place among the streams the peer allows.
    _slot: Slot,
}

impl Duplex {
    /// All that the peer had to say has come.
    pub fn has_ended(&self) -> bool {
        self.early.is_empty() && self.received.is_end_stream()
    }
}

impl AsyncRead for Duplex {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        while self.early.is_empty() {
            match ready!(self.received.poll_data(cx)) {
                Some(Ok(data)) => self.early = data,
                Some(Err(error)) => return Poll::Ready(Err(broken(error))),
                None => return Poll::Ready(Ok(())),
            }
        }
        let n = self.early.len().min(buf.remaining());
        buf.put_slice(&self.early[..n]);
        self.early.advance(n);
        // The window opens by what was read, never by what merely came.
        let _ = self.received.flow_control().release_capacity(n);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Duplex {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let wanted = bytes.len().min(MOST);
        if wanted == 0 {
            return Poll::Ready(Ok(0));
        }
        // Asked for only with data in hand: capacity held by an idle stream is lost to the others.
        self.send.reserve_capacity(wanted);
        let mut room = self.send.capacity();
        while room == 0 {
            room = match ready!(self.send.poll_capacity(cx)) {
                Some(Ok(room)) => room,
                Some(Err(error)) => return Poll::Ready(Err(broken(error))),
                None => return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())),
            };
        }
        let part = Bytes::copy_from_slice(&bytes[..wanted.min(room)]);
        let sent = part.len();
        match self.send.send_data(part, false) {
            Ok(()) => Poll::Ready(Ok(sent)),
            Err(error) => Poll::Ready(Err(broken(error))),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        // Fails only where the peer has ended the stream.
        let _ = self.send.send_data(Bytes::new(), true);
        Poll::Ready(Ok(()))
    }
}

#[cold]
fn broken(error: h2::Error) -> io::Error {
    io::Error::new(io::ErrorKind::ConnectionReset, error)
}
