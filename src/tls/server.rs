//! The server's side of a handshake inside the mesh.

use std::{io, sync::Arc, time::Duration};

use rustls::ServerConnection;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};

use super::{
    alpn::Alpn,
    failure::HandshakeError,
    generation::Generation,
    trust::{Peer, Role},
};

/// After a refusal this much is read, for so long, so that the alert reaches the peer: a close with bytes unread is a
/// reset, and a reset may overtake the alert.
const DRAINED: usize = 64 << 10;
const PARTING: Duration = Duration::from_secs(1);

/// A connection whose peer is known.
#[derive(Debug)]
pub struct Accepted {
    pub stream: TlsStream<TcpStream>,
    pub peer: Arc<Peer>,
    /// None where the peer offered nothing.
    pub alpn: Option<Alpn>,
}

/// Shakes hands with a caller, which must show a certificate that this generation believes.
///
/// `read` is what was read of the connection already, to tell its protocol. How long it may take is the caller's to say
/// (5 s). A dropped future closes the connection.
pub async fn accept(
    generation: &Generation,
    stream: TcpStream,
    read: &[u8],
) -> Result<Accepted, HandshakeError> {
    let acceptor = TlsAcceptor::from(generation.server());
    let mut early = Ok(());
    let handshake = acceptor.accept_with(stream, |session| early = feed(session, read));
    if let Err(error) = early {
        // Polled only for the alert that it writes first.
        let _ = timeout(PARTING, handshake).await;
        return Err(HandshakeError::from_tls(&error));
    }
    let stream = match handshake.into_fallible().await {
        Ok(stream) => stream,
        Err((error, stream)) => {
            let error = HandshakeError::from_io(error);
            if !matches!(error, HandshakeError::Gone(_)) {
                let _ = timeout(PARTING, part(stream)).await;
            }
            return Err(error);
        }
    };
    let (_, session) = stream.get_ref();
    let peer = generation.peer(session.peer_certificates(), Role::Client)?;
    let alpn = session.alpn_protocol().and_then(Alpn::from_wire);
    Ok(Accepted { stream, peer, alpn })
}

fn feed(session: &mut ServerConnection, mut read: &[u8]) -> Result<(), rustls::Error> {
    while !read.is_empty() {
        // Reading from memory fails only where rustls wants no more of it.
        session
            .read_tls(&mut read)
            .map_err(|error| rustls::Error::General(error.to_string()))?;
        session.process_new_packets()?;
    }
    Ok(())
}

async fn part(mut stream: TcpStream) -> io::Result<()> {
    stream.shutdown().await?;
    let mut rest = stream.take(DRAINED as u64);
    let mut piece = [0; 1024];
    while rest.read(&mut piece).await? > 0 {}
    Ok(())
}
