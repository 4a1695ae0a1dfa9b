//! An HTTP/2 peer by hand: frames go out as they are told and come in as they are.
//!
//! Nothing is answered by itself but the handshake, so a test can break any rule it likes. Header blocks are
//! written as literals, never indexed; what comes in is decoded.

use std::{
    io::{self, Read, Write},
    net::{TcpListener, TcpStream},
};

use super::{
    DEADLINE, TlsCaller, TlsConnection,
    call::{dial, prepare},
};

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Frame types, RFC 9113 section 6.
pub mod kind {
    pub const DATA: u8 = 0;
    pub const HEADERS: u8 = 1;
    pub const PRIORITY: u8 = 2;
    pub const RST_STREAM: u8 = 3;
    pub const SETTINGS: u8 = 4;
    pub const PING: u8 = 6;
    pub const GOAWAY: u8 = 7;
    pub const WINDOW_UPDATE: u8 = 8;
    pub const CONTINUATION: u8 = 9;
}

pub mod flag {
    pub const ACK: u8 = 0x1;
    pub const END_STREAM: u8 = 0x1;
    pub const END_HEADERS: u8 = 0x4;
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    pub kind: u8,
    pub flags: u8,
    pub stream: u32,
    pub payload: Vec<u8>,
}

impl Frame {
    pub fn new(kind: u8, flags: u8, stream: u32, payload: impl Into<Vec<u8>>) -> Self {
        Frame {
            kind,
            flags,
            stream,
            payload: payload.into(),
        }
    }

    /// HEADERS with a whole block; `end` closes our side of the stream.
    pub fn headers(stream: u32, fields: &[(&str, &str)], end: bool) -> Self {
        let flags = flag::END_HEADERS | if end { flag::END_STREAM } else { 0 };
        Frame::new(kind::HEADERS, flags, stream, block(fields))
    }

    pub fn data(stream: u32, bytes: impl Into<Vec<u8>>, end: bool) -> Self {
        Frame::new(
            kind::DATA,
            if end { flag::END_STREAM } else { 0 },
            stream,
            bytes,
        )
    }

    pub fn reset(stream: u32, code: u32) -> Self {
        Frame::new(kind::RST_STREAM, 0, stream, code.to_be_bytes())
    }

    pub fn goaway(last: u32, code: u32) -> Self {
        Frame::new(
            kind::GOAWAY,
            0,
            0,
            [last.to_be_bytes(), code.to_be_bytes()].concat(),
        )
    }

    pub fn settings(settings: &[(u16, u32)]) -> Self {
        let payload: Vec<u8> = settings
            .iter()
            .flat_map(|(id, value)| [&id.to_be_bytes()[..], &value.to_be_bytes()[..]].concat())
            .collect();
        Frame::new(kind::SETTINGS, 0, 0, payload)
    }

    pub fn window(stream: u32, more: u32) -> Self {
        Frame::new(kind::WINDOW_UPDATE, 0, stream, more.to_be_bytes())
    }

    pub fn has(&self, flag: u8) -> bool {
        self.flags & flag != 0
    }

    /// The four bytes at `at` as a number: an error code, GOAWAY's last id, a window.
    pub fn number(&self, at: usize) -> u32 {
        let bytes = self.payload[at..at + 4].try_into().expect("four bytes");
        u32::from_be_bytes(bytes)
    }

    pub fn bytes(&self) -> Vec<u8> {
        let length = u32::try_from(self.payload.len()).expect("a payload is small");
        let mut out = length.to_be_bytes()[1..].to_vec();
        out.extend([self.kind, self.flags]);
        out.extend(self.stream.to_be_bytes());
        out.extend(&self.payload);
        out
    }
}

/// A header block of literals without indexing, for frames that are put together by hand.
pub fn block(fields: &[(&str, &str)]) -> Vec<u8> {
    let mut out = Vec::new();
    for (name, value) in fields {
        out.push(0);
        for text in [name, value] {
            length(text.len(), &mut out);
            out.extend(text.as_bytes());
        }
    }
    out
}

/// HPACK's integer with a prefix of 7 bits, no Huffman bit.
fn length(mut value: usize, out: &mut Vec<u8>) {
    if value < 127 {
        out.push(value as u8);
        return;
    }
    out.push(127);
    value -= 127;
    while value >= 128 {
        out.push((value % 128) as u8 | 128);
        value /= 128;
    }
    out.push(value as u8);
}

/// One gRPC message with its prefix of five bytes.
pub fn grpc_message(bytes: &[u8]) -> Vec<u8> {
    let length = u32::try_from(bytes.len()).expect("a small message");
    [&[0][..], &length.to_be_bytes()[..], bytes].concat()
}

/// A gRPC call with one message, on a connection of its own: the answer's body, and the status where one came.
#[track_caller]
pub fn grpc_call(
    address: &str,
    authority: &str,
    metadata: &[(&str, &str)],
    message: &[u8],
) -> (Vec<u8>, Option<u16>) {
    let mut client = H2Peer::connect(address, &[]);
    client.ask_grpc(1, authority, metadata, message);
    let (_, head, end) = client.read_headers();
    let (body, last) = match end {
        true => (Vec::new(), head),
        false => client.read_body(1),
    };
    (body, grpc_status(&last))
}

/// The gRPC status among a head's or the trailers' fields.
pub fn grpc_status(fields: &[(String, String)]) -> Option<u16> {
    let status = fields.iter().find(|(name, _)| name == "grpc-status")?;
    status.1.parse().ok()
}

/// Decoded fields, in order.
pub type Fields = Vec<(String, String)>;

/// One end of an HTTP/2 connection, over TCP or TLS.
pub struct H2Peer<S = TcpStream> {
    stream: S,
    decoder: httlib_hpack::Decoder<'static>,
    /// Every frame that was read, in order.
    pub seen: Vec<Frame>,
}

impl H2Peer<TlsConnection> {
    /// The same as [`H2Peer::connect`] for a caller over TLS, whose offers must lead to HTTP/2.
    pub fn connect_tls(caller: &TlsCaller, address: &str) -> io::Result<Self> {
        let mut peer = H2Peer::over(caller.connect(address)?);
        peer.stream.send(PREFACE)?;
        peer.greet(&[]);
        Ok(peer)
    }
}

impl H2Peer {
    /// Connects with prior knowledge: preface, our settings, then the peer's settings acknowledged.
    #[track_caller]
    pub fn connect(address: &str, settings: &[(u16, u32)]) -> Self {
        let mut peer = H2Peer::over(dial(address).expect("a peer listens"));
        peer.stream.write_all(PREFACE).expect("the peer reads");
        peer.greet(settings);
        peer
    }

    /// Takes the next connection of a listener as the serving side.
    #[track_caller]
    pub fn accept(listener: &TcpListener, settings: &[(u16, u32)]) -> Self {
        let stream = super::wait_for_connection(listener);
        prepare(&stream).expect("a socket");
        let mut peer = H2Peer::over(stream);
        let mut preface = [0; PREFACE.len()];
        peer.stream.read_exact(&mut preface).expect("a preface");
        assert_eq!(preface, PREFACE, "the client does not speak HTTP/2");
        peer.greet(settings);
        peer
    }

    pub fn stream(&self) -> &TcpStream {
        &self.stream
    }
}

impl<S: Read + Write> H2Peer<S> {
    fn over(stream: S) -> Self {
        H2Peer {
            stream,
            decoder: httlib_hpack::Decoder::default(),
            seen: Vec::new(),
        }
    }

    fn greet(&mut self, settings: &[(u16, u32)]) {
        self.send(&Frame::settings(settings));
        self.read_kind(kind::SETTINGS);
        self.send(&Frame::new(kind::SETTINGS, flag::ACK, 0, []));
    }

    #[track_caller]
    pub fn send(&mut self, frame: &Frame) {
        self.send_bytes(&frame.bytes());
    }

    #[track_caller]
    pub fn send_bytes(&mut self, bytes: &[u8]) {
        self.try_send_bytes(bytes).expect("the peer reads");
    }

    pub fn try_send_bytes(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes)
    }

    /// Sends a whole gRPC request of one message.
    #[track_caller]
    pub fn ask_grpc(
        &mut self,
        stream: u32,
        authority: &str,
        metadata: &[(&str, &str)],
        message: &[u8],
    ) {
        let mut fields = vec![
            (":method", "POST"),
            (":scheme", "http"),
            (":path", "/pay.Payments/Charge"),
            (":authority", authority),
            ("content-type", "application/grpc"),
            ("te", "trailers"),
        ];
        fields.extend(metadata);
        self.send(&Frame::headers(stream, &fields, false));
        self.send(&Frame::data(stream, grpc_message(message), true));
    }

    /// The next frame; none when the peer has closed or reset the connection.
    #[track_caller]
    pub fn read(&mut self) -> Option<Frame> {
        match self.try_read() {
            Ok(frame) => Some(frame),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                panic!("no frame for {DEADLINE:?}; before that {:?}", self.seen)
            }
            Err(_) => None,
        }
    }

    fn try_read(&mut self) -> io::Result<Frame> {
        let mut head = [0; 9];
        self.stream.read_exact(&mut head)?;
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
        let mut payload = vec![0; length as usize];
        self.stream.read_exact(&mut payload)?;
        let stream = u32::from_be_bytes([head[5], head[6], head[7], head[8]]) & 0x7fff_ffff;
        let frame = Frame::new(head[3], head[4], stream, payload);
        self.seen.push(frame.clone());
        Ok(frame)
    }

    /// Reads on to the next frame of that kind that is no acknowledgement of settings.
    #[track_caller]
    pub fn read_kind(&mut self, kind: u8) -> Frame {
        loop {
            let Some(frame) = self.read() else {
                panic!("closed before a frame of kind {kind}: {:?}", self.seen)
            };
            let acknowledgement = frame.kind == kind::SETTINGS && frame.has(flag::ACK);
            if frame.kind == kind && !acknowledgement {
                return frame;
            }
        }
    }

    /// Reads on to the next HEADERS: its stream, its fields, whether it ends the stream.
    #[track_caller]
    pub fn read_headers(&mut self) -> (u32, Fields, bool) {
        let frame = self.read_kind(kind::HEADERS);
        let (stream, end) = (frame.stream, frame.has(flag::END_STREAM));
        (stream, self.fields(&frame), end)
    }

    /// Reads a stream's DATA to its end, and the trailers if there are any. Windows are the caller's matter.
    #[track_caller]
    pub fn read_body(&mut self, stream: u32) -> (Vec<u8>, Fields) {
        let mut body = Vec::new();
        loop {
            let Some(frame) = self.read() else {
                panic!("closed in the middle of stream {stream}: {:?}", self.seen)
            };
            if frame.stream != stream {
                continue;
            }
            let end = frame.has(flag::END_STREAM);
            match frame.kind {
                kind::DATA => body.extend(unpadded(&frame)),
                kind::HEADERS => return (body, self.fields(&frame)),
                kind::RST_STREAM => panic!("stream {stream} was reset: {}", frame.number(0)),
                _ => continue,
            }
            if end {
                return (body, Fields::new());
            }
        }
    }

    /// Decodes the block that `first` begins.
    #[track_caller]
    pub fn fields(&mut self, first: &Frame) -> Fields {
        let mut last = first.has(flag::END_HEADERS);
        let mut block = unpadded(first);
        while !last {
            let next = self.read_kind(kind::CONTINUATION);
            last = next.has(flag::END_HEADERS);
            block.extend(next.payload);
        }
        let mut fields = Vec::new();
        let decoded = self.decoder.decode(&mut block, &mut fields);
        decoded.expect("a valid header block");
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        let pairs = fields.into_iter();
        pairs
            .map(|(name, value, _)| (text(name), text(value)))
            .collect()
    }
}

/// A frame's payload without padding and priority.
fn unpadded(frame: &Frame) -> Vec<u8> {
    const PADDED: u8 = 0x8;
    const PRIORITY: u8 = 0x20;
    let mut bytes = &frame.payload[..];
    if frame.has(PADDED) {
        let pad = usize::from(bytes[0]);
        bytes = &bytes[1..bytes.len() - pad];
    }
    if frame.kind == kind::HEADERS && frame.has(PRIORITY) {
        bytes = &bytes[5..];
    }
    bytes.to_vec()
}
