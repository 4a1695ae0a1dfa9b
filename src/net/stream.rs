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

use super::Leash;

pub struct Stream {
    link: Link,
    /// What goes when the connection closes: a place among `limits.connections`.
    held: Option<Box<dyn Any>>,
    leash: Option<Rc<Leash>>,
}

enum Link {
    Tcp(TcpStream),
    /// We called.
    Client(Box<client::TlsStream<TcpStream>>),
    /// We were called.
    Server(Box<server::TlsStream<TcpStream>>),
}

/// The same call on whatever carries the bytes.
macro_rules! on_link {
    ($stream:expr, $io:ident => $call:expr) => {
        match &mut $stream.link {
            Link::Tcp($io) => $call,
            Link::Client($io) => $call,
            Link::Server($io) => $call,
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

    /// Lets `leash` end the connection.
    pub fn leashed(mut self, leash: Rc<Leash>) -> Self {
        self.leash = Some(leash);
        self
    }

    fn check(&self) -> io::Result<()> {
        self.leash.as_ref().map_or(Ok(()), |leash| leash.check())
    }

    /// Has the leash wake a reader that waits.
    fn reads<T>(&self, cx: &Context<'_>, polled: Poll<T>) -> Poll<T> {
        if let (Some(leash), Poll::Pending) = (&self.leash, &polled) {
            leash.reads(cx.waker());
        }
        polled
    }

    /// Has the leash wake a writer that waits.
    fn writes<T>(&self, cx: &Context<'_>, polled: Poll<T>) -> Poll<T> {
        if let (Some(leash), Poll::Pending) = (&self.leash, &polled) {
            leash.writes(cx.waker());
        }
        polled
    }

    /// The socket under it all.
    pub fn tcp(&self) -> &TcpStream {
        match &self.link {
            Link::Tcp(tcp) => tcp,
            Link::Client(tls) => tls.get_ref().0,
            Link::Server(tls) => tls.get_ref().0,
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
                leash: self.leash,
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
        self.check()?;
        if self.has_plaintext() {
            return Poll::Ready(Ok(()));
        }
        let polled = self.tcp().poll_read_ready(cx);
        self.reads(cx, polled)
    }

    /// Bytes are decrypted already and wait for a reader; an alert or an error shows when they are read.
    fn has_plaintext(&mut self) -> bool {
        let state = match &mut self.link {
            Link::Tcp(_) => return false,
            Link::Client(tls) => tls.get_mut().1.process_new_packets(),
            Link::Server(tls) => tls.get_mut().1.process_new_packets(),
        };
        state.map_or(true, |state| {
            state.plaintext_bytes_to_read() > 0 || state.peer_has_closed()
        })
    }

    pub fn peer_addr(&self) -> io::Result<SocketAddr> {
        self.tcp().peer_addr()
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
            leash: None,
        }
    }
}

impl From<client::TlsStream<TcpStream>> for Stream {
    fn from(tls: client::TlsStream<TcpStream>) -> Self {
        Stream {
            link: Link::Client(Box::new(tls)),
            held: None,
            leash: None,
        }
    }
}

impl From<server::TlsStream<TcpStream>> for Stream {
    fn from(tls: server::TlsStream<TcpStream>) -> Self {
        Stream {
            link: Link::Server(Box::new(tls)),
            held: None,
            leash: None,
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
        self.check()?;
        let polled = on_link!(self, io => Pin::new(io).poll_read(cx, buf));
        self.reads(cx, polled)
    }
}

impl AsyncWrite for Stream {
    #[inline]
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.check()?;
        let polled = on_link!(self, io => Pin::new(io).poll_write(cx, bytes));
        self.writes(cx, polled)
    }

    #[inline]
    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.check()?;
        let polled = on_link!(self, io => Pin::new(io).poll_write_vectored(cx, slices));
        self.writes(cx, polled)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    #[inline]
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.check()?;
        let polled = on_link!(self, io => Pin::new(io).poll_flush(cx));
        self.writes(cx, polled)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        on_link!(self, io => Pin::new(io).poll_shutdown(cx))
    }
}
