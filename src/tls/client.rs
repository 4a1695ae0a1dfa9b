//! The client's side of a handshake: inside the mesh by identity, or ordinary TLS by name.

use std::{
    future::{Future, poll_fn},
    io,
    net::{IpAddr, SocketAddr},
    pin::Pin,
    sync::Arc,
    task::Poll,
};

use rustls::{
    ClientConfig,
    pki_types::{DnsName, ServerName},
};
use tokio::net::TcpStream;
use tokio_rustls::{TlsConnector, client::TlsStream};

use super::{
    alpn::{self, Alpn},
    failure::HandshakeError,
    generation::{Expected, Generation},
    ordinary::{OrdinaryError, Server, Setup},
    settings::Ordinary,
    store::Store,
    trust::{Peer, Role},
};

/// How connections to one callee are secured. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Connector(Kind);

#[derive(Debug, Clone)]
enum Kind {
    Mesh { store: Store, expected: Expected },
    Ordinary(Arc<Server>),
}

/// A connection whose handshake is done.
#[derive(Debug)]
pub struct Connected {
    pub stream: TlsStream<TcpStream>,
    /// Inside the mesh, who answered.
    pub peer: Option<Arc<Peer>>,
    /// Outside the mesh, what it was made with.
    pub setup: Option<Setup>,
    /// None where the peer chose nothing of what was offered, or something unknown.
    pub alpn: Option<Alpn>,
}

impl Connector {
    /// By identity, with the store's generation of the moment.
    pub fn mesh(store: &Store, expected: Expected) -> Self {
        Connector(Kind::Mesh {
            store: store.clone(),
            expected,
        })
    }

    /// By a server's name. The files are read now; `renew` and `follow` read them again.
    pub fn to_server(settings: &Ordinary) -> Result<Self, OrdinaryError> {
        Ok(Connector(Kind::Ordinary(Server::new(settings)?)))
    }

    /// Takes over what is new in the files of ordinary TLS; true where something was.
    ///
    /// What is wrong with them is told; the last good ones go on.
    pub fn renew(&self) -> Result<bool, OrdinaryError> {
        match &self.0 {
            Kind::Mesh { .. } => Ok(false),
            Kind::Ordinary(server) => server.renew(),
        }
    }

    /// Does so whenever they change, until it is dropped.
    pub async fn follow(&self) {
        match &self.0 {
            Kind::Mesh { .. } => {}
            Kind::Ordinary(server) => server.follow().await,
        }
    }

    /// Shakes hands over a connection that is open.
    ///
    /// Inside the mesh it waits until we have an identity. How long all of it may take is the caller's to say; whether
    /// it was the identity that was waited for, `lacks_identity` tells. A dropped future closes the connection.
    ///
    /// A callee may refuse us only after this: TLS 1.3 lets its alert come with the first read.
    pub async fn connect(
        &self,
        stream: TcpStream,
        offer: &[Alpn],
    ) -> Result<Connected, HandshakeError> {
        match &self.0 {
            Kind::Mesh { store, expected } => {
                let generation = store.ready().await;
                connect(&generation, expected, stream, offer).await
            }
            Kind::Ordinary(server) => {
                let (config, setup) = server.config();
                let stream = shake(config, server.name().clone(), stream, offer).await?;
                let alpn = stream.get_ref().1.alpn_protocol().and_then(Alpn::from_wire);
                Ok(Connected {
                    stream,
                    peer: None,
                    setup: Some(setup),
                    alpn,
                })
            }
        }
    }

    pub fn is_mesh(&self) -> bool {
        matches!(self.0, Kind::Mesh { .. })
    }

    /// True where a connection must wait for an identity.
    pub fn lacks_identity(&self) -> bool {
        matches!(&self.0, Kind::Mesh { store, .. } if store.current().is_none())
    }
}

/// Shakes hands inside the mesh with this generation.
pub async fn connect(
    generation: &Generation,
    expected: &Expected,
    stream: TcpStream,
    offer: &[Alpn],
) -> Result<Connected, HandshakeError> {
    let name = session_name(stream.peer_addr().map_err(HandshakeError::Gone)?);
    let config = generation
        .client(expected)
        .map_err(HandshakeError::Protocol)?;
    let stream = shake(config, name, stream, offer).await?;
    let (_, session) = stream.get_ref();
    let peer = generation.peer(session.peer_certificates(), Role::Server)?;
    expected.check(&peer)?;
    let alpn = session.alpn_protocol().and_then(Alpn::from_wire);
    Ok(Connected {
        stream,
        peer: Some(peer),
        setup: None,
        alpn,
    })
}

pub(super) async fn shake(
    config: Arc<ClientConfig>,
    name: ServerName<'static>,
    stream: TcpStream,
    offer: &[Alpn],
) -> Result<TlsStream<TcpStream>, HandshakeError> {
    let mut handshake = TlsConnector::from(config)
        .with_alpn(alpn::wires(offer))
        .connect(name, stream);
    // The hello is on its way after the first poll; the first byte that comes back tells whether TLS is spoken at all.
    let first = poll_fn(|context| Poll::Ready(Pin::new(&mut handshake).poll(context))).await;
    if let Poll::Ready(done) = first {
        return done.map_err(HandshakeError::from_io);
    }
    if let Some(stream) = handshake.get_ref() {
        speaks_tls(stream).await?;
    }
    handshake.await.map_err(HandshakeError::from_io)
}

async fn speaks_tls(stream: &TcpStream) -> Result<(), HandshakeError> {
    const ALERT: u8 = 21;
    const HANDSHAKE: u8 = 22;
    let mut first = [0];
    match stream.peek(&mut first).await {
        Ok(1) if matches!(first[0], ALERT | HANDSHAKE) => Ok(()),
        Ok(_) => Err(HandshakeError::NoTls),
        Err(error)
            if matches!(
                error.kind(),
                io::ErrorKind::ConnectionReset | io::ErrorKind::ConnectionAborted
            ) =>
        {
            Err(HandshakeError::NoTls)
        }
        Err(error) => Err(HandshakeError::Gone(error)),
    }
}

/// A name for the sessions of one address and port. It is not sent.
fn session_name(address: SocketAddr) -> ServerName<'static> {
    let name = match address.ip() {
        IpAddr::V4(ip) => format!("p{}.x{:08x}", address.port(), u32::from(ip)),
        IpAddr::V6(ip) => format!("p{}.x{:032x}", address.port(), u128::from(ip)),
    };
    match DnsName::try_from(name) {
        Ok(name) => ServerName::DnsName(name),
        Err(_) => ServerName::from(address.ip()),
    }
}
