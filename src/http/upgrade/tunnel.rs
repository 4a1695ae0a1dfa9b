//! What an exchange becomes once both sides have left HTTP: bytes both ways, until both have ended.

use std::{
    future::{Future, poll_fn},
    io,
    pin::{Pin, pin},
    rc::Rc,
    task::{Context, Poll},
};

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::{
    fault::{Fault, Reason},
    http::{Desk, body::Source, exchange::Exchange, h2},
    net::{self, Broken, Early, Side},
};

/// The callee's side.
pub enum Far {
    Socket(Box<Socket>),
    /// A stream of an HTTP/2 connection.
    Stream(Box<h2::Duplex>),
}

/// A connection of its own.
pub struct Socket {
    stream: net::Stream,
    early: Bytes,
    /// All that it had to say has come.
    ended: bool,
}

impl Far {
    /// `early` came with the answer that switched it.
    pub fn socket(stream: net::Stream, early: Bytes) -> Self {
        Far::Socket(Box::new(Socket {
            stream,
            early,
            ended: false,
        }))
    }

    pub(super) fn is_http1(&self) -> bool {
        matches!(self, Far::Socket(..))
    }

    fn leash(&self) -> Option<Rc<net::Leash>> {
        match self {
            Far::Socket(socket) => socket.stream.leash(),
            // Its connection is shared, and ends as a whole.
            Far::Stream(_) => None,
        }
    }

    /// A tunnel may stand still for as long as its sides like.
    fn be_patient(&self) {
        if let Far::Socket(socket) = self {
            net::be_patient(socket.stream.tcp());
        }
    }

    fn has_ended(&self) -> bool {
        match self {
            Far::Socket(socket) => socket.ended,
            Far::Stream(stream) => stream.has_ended(),
        }
    }

    /// Closing it now says that it broke, as dropping a stream does that has not ended.
    fn reset(&self) {
        if let Far::Socket(socket) = self {
            net::reset(socket.stream.tcp());
        }
    }

    fn early(&mut self) -> Bytes {
        match self {
            Far::Socket(socket) => std::mem::take(&mut socket.early),
            Far::Stream(_) => Bytes::new(),
        }
    }
}

/// Ready when a tunnel may not go on, with the reason.
pub type Ward = Pin<Box<dyn Future<Output = Fault>>>;

/// A caller's and a callee's bytes. The record of the request that asked for it is spent when it ends.
pub struct Tunnel {
    far: Far,
    exchange: Box<Exchange>,
    ward: Option<Ward>,
    /// What the call holds at its endpoint, for as long as bytes may come.
    _source: Option<Box<dyn Source>>,
}

/// How a tunnel's near side is to be closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// Both sides have ended, and said so; or the far side has, and took no more.
    InOrder,
    /// The far side broke off, or we cut it: the caller should not take it for an end.
    Abrupt,
}

impl Tunnel {
    pub(super) fn new(
        far: Far,
        source: Option<Box<dyn Source>>,
        exchange: Box<Exchange>,
        ward: Option<Ward>,
    ) -> Self {
        Tunnel {
            far,
            exchange,
            ward,
            _source: source,
        }
    }

    pub(super) fn desk(&self) -> &Rc<Desk> {
        self.exchange.connection.desk()
    }

    /// Relays until both sides have ended, one of them broke, or `cut` or the tunnel's ward is ready.
    ///
    /// One side's end is passed on at once and the other way goes on. Dropping the future closes the far side.
    pub async fn run<N>(
        mut self,
        near: &mut N,
        mut cut: impl FnMut(&mut Context<'_>) -> Poll<Fault>,
    ) -> Ending
    where
        N: AsyncRead + AsyncWrite + Unpin,
    {
        let tally = self.exchange.tally();
        let leash = self.far.leash();
        self.far.be_patient();
        let ended = {
            let early = Early {
                of_far: self.far.early(),
                ..Early::default()
            };
            let mut relay = pin!(net::relay(near, &mut self.far, early, &tally));
            poll_fn(|cx| {
                let ward = &mut self.ward;
                let ends = [
                    cut(cx),
                    leash.as_ref().map_or(Poll::Pending, |leash| {
                        let cut = leash.poll_cut(cx);
                        cut.map(|why| Fault::new(Reason::Reset, why))
                    }),
                    ward.as_mut()
                        .map_or(Poll::Pending, |ward| ward.as_mut().poll(cx)),
                ];
                for end in ends {
                    if let Poll::Ready(fault) = end {
                        return Poll::Ready(Err(fault));
                    }
                }
                relay.as_mut().poll(cx).map_err(|broken| fault(&broken))
            })
            .await
        };
        self.exchange
            .relayed(tally.from_near.bytes(), tally.from_far.bytes());
        match ended {
            Ok(()) => {
                self.exchange.finished();
                Ending::InOrder
            }
            Err(fault) => {
                self.far.reset();
                self.exchange.failed(fault);
                // A reset could overtake what the callee said before it was over.
                match self.far.has_ended() {
                    true => Ending::InOrder,
                    false => Ending::Abrupt,
                }
            }
        }
    }
}

fn fault(broken: &Broken) -> Fault {
    let fault = match broken.side {
        Side::Near => Fault::new(Reason::ClientGone, "the caller's side broke off"),
        Side::Far => Fault::new(Reason::Reset, "the endpoint's side broke off"),
    };
    fault.inside(broken.error.to_string())
}

impl AsyncRead for Far {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match &mut *self {
            Far::Socket(socket) => {
                let before = buf.filled().len();
                let read = Pin::new(&mut socket.stream).poll_read(cx, buf);
                socket.ended |= matches!(read, Poll::Ready(Ok(()))) && buf.filled().len() == before;
                read
            }
            Far::Stream(stream) => Pin::new(&mut **stream).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Far {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match &mut *self {
            Far::Socket(socket) => Pin::new(&mut socket.stream).poll_write(cx, bytes),
            Far::Stream(stream) => Pin::new(&mut **stream).poll_write(cx, bytes),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut *self {
            Far::Socket(socket) => Pin::new(&mut socket.stream).poll_flush(cx),
            Far::Stream(stream) => Pin::new(&mut **stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut *self {
            Far::Socket(socket) => Pin::new(&mut socket.stream).poll_shutdown(cx),
            Far::Stream(stream) => Pin::new(&mut **stream).poll_shutdown(cx),
        }
    }
}
