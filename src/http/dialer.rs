//! Who opens connections to a peer: the socket, and what secures it.
//!
//! `client` asks for a connection and for what is to be spoken on it; whether TLS stands between is its owner's to
//! say, by the dialer it gives to a `Peer`.

use std::{any::Any, io, net::SocketAddr, pin::Pin, time::Duration};

use tokio::net::TcpStream;

use crate::{
    fault::{Fault, Reason},
    net::{self, Stream},
};

/// What a connection is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Speak {
    Http1,
    Http2,
    /// Bytes that are not ours to read.
    Tcp,
}

/// A connection that stands.
pub struct Dialled {
    pub stream: Stream,
    /// What the peer agreed to; not always what was asked for.
    pub speaks: Speak,
    /// `:scheme` of requests over HTTP/2.
    pub scheme: &'static str,
}

pub type Dialling<'a> = Pin<Box<dyn Future<Output = Result<Dialled, Fault>> + 'a>>;

/// Who opens connections: the socket, and what secures it. Boxed, because it is the cold way.
pub trait Dialer {
    /// Bounded by the dialer's own connect timeout. `held` goes when the connection closes.
    fn dial(&self, address: SocketAddr, speak: Speak, held: Box<dyn Any>) -> Dialling<'_>;
}

/// Dials and secures nothing.
pub struct Plain {
    pub connect_timeout: Duration,
}

impl Dialer for Plain {
    fn dial(&self, address: SocketAddr, speak: Speak, held: Box<dyn Any>) -> Dialling<'_> {
        Box::pin(async move {
            let tcp = net::dial(address, self.connect_timeout)
                .await
                .map_err(|error| unconnected(address, self.connect_timeout, &error))?;
            Ok(unsecured(tcp, speak, held))
        })
    }
}

/// The same from the address that the machine's rules exempt from redirection.
pub struct Beside {
    pub connect_timeout: Duration,
}

impl Dialer for Beside {
    fn dial(&self, address: SocketAddr, speak: Speak, held: Box<dyn Any>) -> Dialling<'_> {
        Box::pin(async move {
            let tcp = net::dial_beside(address, self.connect_timeout)
                .await
                .map_err(|error| unconnected(address, self.connect_timeout, &error))?;
            Ok(unsecured(tcp, speak, held))
        })
    }
}

fn unsecured(tcp: TcpStream, speaks: Speak, held: Box<dyn Any>) -> Dialled {
    Dialled {
        stream: Stream::from(tcp).holding(held),
        speaks,
        scheme: "http",
    }
}

/// The fault of a socket that did not connect to `address` within `limit`.
#[cold]
pub fn unconnected(address: SocketAddr, limit: Duration, error: &io::Error) -> Fault {
    // EMFILE, ENFILE: our own want, which says nothing of the endpoint.
    if let Some(23 | 24) = error.raw_os_error() {
        return Fault::new(
            Reason::TooManyConnections,
            "this sidecar has no file descriptor left",
        )
        .inside(error.to_string());
    }
    match error.kind() {
        io::ErrorKind::TimedOut => Fault::new(
            Reason::ConnectTimeout,
            "the endpoint did not accept in time",
        )
        .inside(format!("no connection to {address} within {limit:?}")),
        io::ErrorKind::ConnectionRefused => {
            Fault::new(Reason::ConnectFailed, "the endpoint refuses connections")
                .inside(format!("connect refused {address}"))
        }
        _ => Fault::new(Reason::ConnectFailed, "the endpoint cannot be reached")
            .inside(format!("connect {address}: {error}")),
    }
}
