//! A connection's bytes, plain or under TLS.
//!
//! One type for what is accepted and what is dialled, so that what stands above is written once. Plain costs a
//! branch; a TLS session is boxed, so that a plain connection does not pay for its room.

use std::{
    any::Any,
    future::poll_fn,
    io,
    net::SocketAddr,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll},
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};
use tokio_rustls::{client, server};

use super::{Bond, Leash, Warrant};

pub struct Stream {
    link: Link,
    /// What goes when the connection closes: a place among `limits.connections`.
    held: Option<Box<dyn Any>>,
}

enum Link {
    Tcp(TcpStream),
    /// We called.
    Client(Box<Tls<client::TlsStream<TcpStream>>>),
    /// We were called.
    Server(Box<Tls<server::TlsStream<TcpStream>>>),
}

struct Tls<S> {
    session: S,
    bond: Option<Bond>,
}

impl<S> Tls<S> {
    fn check(&self) -> io::Result<()> {
        self.bond.as_ref().map_or(Ok(()), |bond| bond.leash.check())
    }

    /// Has the leash wake a reader that waits.
    fn reads<T>(&self, cx: &Context<'_>, polled: Poll<T>) -> Poll<T> {
        if let (Some(bond), Poll::Pending) = (&self.bond, &polled) {
            bond.leash.reads(cx.waker());
        }
        polled
    }

    /// Has the leash wake a writer that waits.
    fn writes<T>(&self, cx: &Context<'_>, polled: Poll<T>) -> Poll<T> {
        if let (Some(bond), Poll::Pending) = (&self.bond, &polled) {
            bond.leash.writes(cx.waker());
        }
        polled
    }
}

/// The same call on whatever carries the bytes; under TLS the leash has its say, and hears who `$waits`.
macro_rules! on_link {
    ($stream:expr, $io:ident => $call:expr, $waits:ident, $cx:expr) => {
        match &mut $stream.link {
            Link::Tcp($io) => $call,
            Link::Client(tls) => {
                tls.check()?;
                let $io = &mut tls.session;
                let polled = $call;
                tls.$waits($cx, polled)
            }
            Link::Server(tls) => {
                tls.check()?;
                let $io = &mut tls.session;
                let polled = $call;
                tls.$waits($cx, polled)
            }
        }
    };
}

impl Stream {
    /// Keeps `held` until the connection closes, beside what it holds already.
    pub fn holding(mut self, held: Box<dyn Any>) -> Self {
        self.held = Some(match self.held.take() {
            Some(before) => Box::new((before, held)),
            None => held,
        });
        self
    }

    /// Keeps what the connection was made with, and lets the leash end it; plain ones are made with nothing.
    pub fn bound(mut self, bond: Bond) -> Self {
        match &mut self.link {
            Link::Tcp(_) => {}
            Link::Client(tls) => tls.bond = Some(bond),
            Link::Server(tls) => tls.bond = Some(bond),
        }
        self
    }

    /// What the connection was made with; none in plaintext.
    #[inline]
    pub fn warrant(&self) -> Option<&Rc<dyn Warrant>> {
        self.bond().map(|bond| &bond.warrant)
    }

    /// What may end the connection from outside.
    pub fn leash(&self) -> Option<Rc<Leash>> {
        self.bond().map(|bond| bond.leash.clone())
    }

    #[inline]
    fn bond(&self) -> Option<&Bond> {
        match &self.link {
            Link::Tcp(_) => None,
            Link::Client(tls) => tls.bond.as_ref(),
            Link::Server(tls) => tls.bond.as_ref(),
        }
    }

    /// The socket under it all.
    pub fn tcp(&self) -> &TcpStream {
        match &self.link {
            Link::Tcp(tcp) => tcp,
            Link::Client(tls) => tls.session.get_ref().0,
            Link::Server(tls) => tls.session.get_ref().0,
        }
    }

    pub fn is_tls(&self) -> bool {
        !matches!(self.link, Link::Tcp(_))
    }

    /// The socket itself, where nothing was read of it through TLS; else the stream comes back.
    pub fn into_tcp(self) -> Result<(TcpStream, Option<Box<dyn Any>>), Self> {
        match self.link {
            Link::Tcp(tcp) => Ok((tcp, self.held)),
            link => Err(Stream {
                link,
                held: self.held,
            }),
        }
    }

    /// Waits until there may be bytes to read, without a buffer for them.
    ///
    /// Under TLS it may be that a record came which has none. Cancel safe.
    pub async fn readable(&mut self) -> io::Result<()> {
        poll_fn(|cx| self.poll_readable(cx)).await
    }

    /// `readable`, polled.
    pub fn poll_readable(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &self.link {
            Link::Tcp(_) => {}
            Link::Client(tls) => tls.check()?,
            Link::Server(tls) => tls.check()?,
        }
        if self.has_plaintext() {
            return Poll::Ready(Ok(()));
        }
        let polled = self.tcp().poll_read_ready(cx);
        match &self.link {
            Link::Tcp(_) => polled,
            Link::Client(tls) => tls.reads(cx, polled),
            Link::Server(tls) => tls.reads(cx, polled),
        }
    }

    /// Bytes are decrypted already and wait for a reader; an alert or an error shows when they are read.
    fn has_plaintext(&mut self) -> bool {
        let state = match &mut self.link {
            Link::Tcp(_) => return false,
            Link::Client(tls) => tls.session.get_mut().1.process_new_packets(),
            Link::Server(tls) => tls.session.get_mut().1.process_new_packets(),
        };
        state.map_or(true, |state| {
            state.plaintext_bytes_to_read() > 0 || state.peer_has_closed()
        })
    }

    pub fn peer_addr(&self) -> io::Result<SocketAddr> {
        self.tcp().peer_addr()
    }

    /// Why a write failed: the alert by which the peer said so before it closed, where one waits unread.
    #[cold]
    fn last_word(&mut self, error: io::Error) -> io::Error {
        let Link::Client(tls) = &mut self.link else {
            return error;
        };
        let (tcp, session) = tls.session.get_mut();
        // Ends with the socket's bytes, or where the session holds as many as it may.
        while session.wants_read() && matches!(session.read_tls(&mut Unread(tcp)), Ok(1..)) {
            if let Err(alert @ rustls::Error::AlertReceived(_)) = session.process_new_packets() {
                return io::Error::new(io::ErrorKind::InvalidData, alert);
            }
        }
        error
    }
}

/// What a socket has for us now, whatever its runtime knows of that.
struct Unread<'a>(&'a TcpStream);

impl io::Read for Unread<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        Ok(rustix::io::read(self.0, buffer)?)
    }
}

/// Whether an error of a read is an alert by which the peer refused the handshake or our certificate (RFC 8446
/// §6.2); in TLS 1.3 it comes after our own handshake is over.
pub fn is_alert(error: &io::Error) -> bool {
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref());
    matches!(inner, Some(rustls::Error::AlertReceived(alert)) if refuses_identity(*alert))
}

/// The alerts that speak of a certificate, or of a handshake as a whole.
pub fn refuses_identity(alert: rustls::AlertDescription) -> bool {
    use rustls::AlertDescription::*;
    matches!(
        alert,
        HandshakeFailure
            | NoCertificate
            | BadCertificate
            | UnsupportedCertificate
            | CertificateRevoked
            | CertificateExpired
            | CertificateUnknown
            | UnknownCA
            | AccessDenied
            | DecryptError
            | CertificateRequired
    )
}

impl From<TcpStream> for Stream {
    fn from(tcp: TcpStream) -> Self {
        Stream {
            link: Link::Tcp(tcp),
            held: None,
        }
    }
}

impl From<client::TlsStream<TcpStream>> for Stream {
    fn from(session: client::TlsStream<TcpStream>) -> Self {
        let bond = None;
        Stream {
            link: Link::Client(Box::new(Tls { session, bond })),
            held: None,
        }
    }
}

impl From<server::TlsStream<TcpStream>> for Stream {
    fn from(session: server::TlsStream<TcpStream>) -> Self {
        let bond = None;
        Stream {
            link: Link::Server(Box::new(Tls { session, bond })),
            held: None,
        }
    }
}

impl AsyncRead for Stream {
    #[inline]
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        on_link!(self, io => Pin::new(io).poll_read(cx, buf), reads, cx)
    }
}

impl AsyncWrite for Stream {
    #[inline]
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let polled = on_link!(self, io => Pin::new(io).poll_write(cx, bytes), writes, cx);
        polled.map_err(|error| self.last_word(error))
    }

    #[inline]
    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let polled = on_link!(self, io => Pin::new(io).poll_write_vectored(cx, slices), writes, cx);
        polled.map_err(|error| self.last_word(error))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    #[inline]
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let polled = on_link!(self, io => Pin::new(io).poll_flush(cx), writes, cx);
        polled.map_err(|error| self.last_word(error))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.link {
            Link::Tcp(tcp) => Pin::new(tcp).poll_shutdown(cx),
            Link::Client(tls) => Pin::new(&mut tls.session).poll_shutdown(cx),
            Link::Server(tls) => Pin::new(&mut tls.session).poll_shutdown(cx),
        }
    }
}
