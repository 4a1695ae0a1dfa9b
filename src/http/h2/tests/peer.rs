//! A peer that writes its frames by hand, and a server on `h2`.

use std::{future::Future, net::SocketAddr, rc::Rc};

use bytes::Bytes;
use http::Request;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, DuplexStream},
    net::{TcpListener, TcpStream},
};

use super::{Connection, Options, handshake};

pub const DATA: u8 = 0;
pub const HEADERS: u8 = 1;
pub const RST_STREAM: u8 = 3;
pub const SETTINGS: u8 = 4;
pub const PING: u8 = 6;
pub const GOAWAY: u8 = 7;
pub const WINDOW_UPDATE: u8 = 8;

pub const END_STREAM: u8 = 1;
pub const END_HEADERS: u8 = 4;
const ACK: u8 = 1;

pub const MAX_CONCURRENT_STREAMS: u16 = 3;
pub const INITIAL_WINDOW_SIZE: u16 = 4;

pub const NO_ERROR: u32 = 0;
pub const INTERNAL_ERROR: u32 = 2;
pub const REFUSED_STREAM: u32 = 7;
pub const CANCEL: u32 = 8;

/// `:status 200` in HPACK.
pub const OK: &[u8] = &[0x88];

/// A field in HPACK, not indexed, name and value in plain.
pub fn field(name: &str, value: &str) -> Vec<u8> {
    let mut bytes = vec![0, name.len() as u8];
    bytes.extend(name.bytes());
    bytes.push(value.len() as u8);
    bytes.extend(value.bytes());
    bytes
}

/// A status of three digits in HPACK.
pub fn status(code: &str) -> Vec<u8> {
    let mut bytes = vec![0x08, 3];
    bytes.extend(code.bytes());
    bytes
}

/// The payload of SETTINGS.
pub fn pairs(settings: &[(u16, u32)]) -> Vec<u8> {
    settings
        .iter()
        .flat_map(|(id, value)| [&id.to_be_bytes()[..], &value.to_be_bytes()[..]].concat())
        .collect()
}

pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut frame = (payload.len() as u32).to_be_bytes()[1..].to_vec();
    frame.extend([kind, flags]);
    frame.extend(stream.to_be_bytes());
    frame.extend(payload);
    frame
}

/// The server's end of one connection.
pub struct Peer {
    io: TcpStream,
}

#[derive(Debug)]
pub struct Got {
    pub kind: u8,
    pub flags: u8,
    pub stream: u32,
    pub payload: Vec<u8>,
}

impl Peer {
    /// Takes a connection, reads its preface, says its settings.
    pub async fn accept(listener: &TcpListener, settings: &[(u16, u32)]) -> Peer {
        let (mut io, _) = listener.accept().await.unwrap();
        io.read_exact(&mut [0; 24]).await.unwrap();
        let mut peer = Peer { io };
        peer.send(SETTINGS, 0, 0, &pairs(settings)).await;
        peer
    }

    pub async fn send(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
        let frame = frame(kind, flags, stream, payload);
        // The client may be gone: then the test's next read says so.
        let _ = self.io.write_all(&frame).await;
    }

    pub async fn reset(&mut self, stream: u32, code: u32) {
        self.send(RST_STREAM, 0, stream, &code.to_be_bytes()).await;
    }

    pub async fn go_away(&mut self, last: u32) {
        let payload = [last.to_be_bytes(), NO_ERROR.to_be_bytes()].concat();
        self.send(GOAWAY, 0, 0, &payload).await;
    }

    /// The next frame, none at the connection's end.
    pub async fn any(&mut self) -> Option<Got> {
        let mut head = [0; 9];
        self.io.read_exact(&mut head).await.ok()?;
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
        let mut payload = vec![0; length as usize];
        self.io.read_exact(&mut payload).await.ok()?;
        Some(Got {
            kind: head[3],
            flags: head[4],
            stream: u32::from_be_bytes([head[5], head[6], head[7], head[8]]),
            payload,
        })
    }

    /// The next frame of a kind; settings and pings are answered on the way.
    pub async fn next(&mut self, kind: u8) -> Option<Got> {
        loop {
            let got = self.any().await?;
            if matches!(got.kind, SETTINGS | PING) && got.flags & ACK == 0 {
                let payload = if got.kind == PING {
                    &got.payload[..]
                } else {
                    &[]
                };
                self.send(got.kind, ACK, 0, payload).await;
            }
            if got.kind == kind {
                return Some(got);
            }
        }
    }

    /// The next request's stream.
    pub async fn request(&mut self) -> u32 {
        self.next(HEADERS).await.unwrap().stream
    }

    pub async fn answer(&mut self, stream: u32) {
        self.send(HEADERS, END_HEADERS | END_STREAM, stream, OK)
            .await;
    }
}

pub async fn listen() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}

pub type Respond = h2::server::SendResponse<Bytes>;

/// Serves one connection with `h2`'s own server; `serve` runs for each request.
pub async fn server<F>(
    serve: impl Fn(Request<h2::RecvStream>, Respond) -> F + 'static,
) -> SocketAddr
where
    F: Future<Output = ()> + 'static,
{
    let (listener, address) = listen().await;
    tokio::task::spawn_local(async move {
        let (io, _) = listener.accept().await.unwrap();
        let mut connection = h2::server::handshake(io).await.unwrap();
        while let Some(Ok((request, respond))) = connection.accept().await {
            tokio::task::spawn_local(serve(request, respond));
        }
    });
    address
}

/// A connection through a pipe of a few bytes, whose far end has said `frames` after its settings.
pub async fn narrow(bytes: usize, frames: &[u8]) -> (Connection, DuplexStream) {
    let (near, mut far) = tokio::io::duplex(bytes);
    let hello = async {
        far.read_exact(&mut [0; 24]).await.unwrap();
        far.write_all(frames).await.unwrap();
    };
    let options = Options::default();
    let (connection, ()) = tokio::join!(handshake(near, &options, Rc::new(())), hello);
    (connection.unwrap(), far)
}
