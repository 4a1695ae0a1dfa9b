//! The request on its way out: head, framing, body.
//!
//! Small chunks are copied behind the head, so that a small request is one write; a large one goes out as it is,
//! beside the staged bytes. Nothing more is asked of the body while `STAGED` bytes or one large chunk wait.

use super::{Error, RequestHead, trailers};
use bytes::{Buf, Bytes, BytesMut};
use http::{HeaderMap, Method, header::TRAILER};
use http_body::Body;
use std::{
    io::{self, IoSlice},
    pin::Pin,
    task::{Context, Poll, ready},
};
use tokio::io::AsyncWrite;

/// What a head usually fits in. The answer is later read into the same allocation.
const FIRST: usize = 4 * 1024;
/// Up to here a chunk is copied: cheaper than a second slice in the write.
const SMALL: usize = 2 * 1024;
/// With so much staged, the socket comes first. The buffer's bound is this, one small chunk, and the head or trailers.
const STAGED: usize = 4 * 1024;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Framing {
    /// So many bytes are still to come.
    Length(u64),
    Chunked,
    /// All of it is staged.
    Ended,
}

#[derive(Debug)]
pub(super) struct Outgoing {
    staged: BytesMut,
    /// A large chunk, behind what is staged.
    chunk: Bytes,
    framing: Framing,
    /// The line end that closes a large chunk.
    owes_line_end: bool,
    unflushed: bool,
    /// The body was asked for a frame: it cannot be given back.
    pub(super) polled: bool,
    /// The socket took a byte.
    pub(super) wrote: bool,
}

impl Outgoing {
    /// Encodes the head. `None` when the target holds a byte that would end or split the request line.
    pub(super) fn encode<B: Body>(head: &RequestHead<'_>, body: &B) -> Option<Outgoing> {
        if head.target.is_empty() || head.target.bytes().any(|b| b <= b' ' || b == 0x7f) {
            return None;
        }
        let mut staged = BytesMut::with_capacity(FIRST);
        staged.extend_from_slice(head.method.as_str().as_bytes());
        staged.extend_from_slice(b" ");
        staged.extend_from_slice(head.target.as_bytes());
        staged.extend_from_slice(b" HTTP/1.1\r\n");
        for (name, value) in head.headers {
            let name = name.as_str();
            if !is_framing(name) {
                field(&mut staged, name, value.as_bytes());
            }
        }
        if let Some(upgrade) = head.upgrade {
            staged.extend_from_slice(b"connection: upgrade\r\n");
            field(&mut staged, "upgrade", upgrade.as_bytes());
        }
        let framing = choose(head, body);
        match framing {
            Framing::Length(length) => {
                staged.extend_from_slice(b"content-length: ");
                decimal(&mut staged, length);
                staged.extend_from_slice(b"\r\n");
            }
            Framing::Chunked => staged.extend_from_slice(b"transfer-encoding: chunked\r\n"),
            Framing::Ended if expects_content(head.method) => {
                staged.extend_from_slice(b"content-length: 0\r\n");
            }
            Framing::Ended => {}
        }
        staged.extend_from_slice(b"\r\n");
        Some(Outgoing {
            staged,
            chunk: Bytes::new(),
            framing,
            owes_line_end: false,
            unflushed: false,
            polled: false,
            wrote: false,
        })
    }

    /// Ready once the whole request has left. After an error nothing more must be sent.
    pub(super) fn poll<IO, B>(
        &mut self,
        io: &mut IO,
        body: &mut B,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), Error<B::Error>>>
    where
        IO: AsyncWrite + Unpin,
        B: Body<Data = Bytes> + Unpin,
    {
        loop {
            let waits = self.gather(body, cx)?;
            while self.staged.has_remaining() || self.chunk.has_remaining() {
                ready!(self.poll_write(io, cx)).map_err(Error::Io)?;
            }
            if self.framing == Framing::Ended || waits {
                if self.unflushed {
                    ready!(Pin::new(&mut *io).poll_flush(cx)).map_err(Error::Io)?;
                    self.unflushed = false;
                }
                if self.framing == Framing::Ended {
                    return Poll::Ready(Ok(()));
                }
                return Poll::Pending;
            }
        }
    }

    /// The buffer the request went out in, to read the answer into. Only once nothing is staged.
    pub(super) fn spent_buffer(&mut self) -> BytesMut {
        if !self.staged.is_empty() {
            return BytesMut::new();
        }
        let mut spent = std::mem::take(&mut self.staged);
        spent.clear();
        spent
    }

    /// Takes frames while there is room. True when the body has none ready and will wake us.
    fn gather<B>(&mut self, body: &mut B, cx: &mut Context<'_>) -> Result<bool, Error<B::Error>>
    where
        B: Body<Data = Bytes> + Unpin,
    {
        while self.framing != Framing::Ended && self.chunk.is_empty() && self.staged.len() < STAGED
        {
            self.polled = true;
            match Pin::new(&mut *body).poll_frame(cx) {
                Poll::Pending => return Ok(true),
                Poll::Ready(Some(Ok(frame))) => match frame.into_data() {
                    Ok(data) => self.stage(data)?,
                    Err(frame) => {
                        let fields = frame.into_trailers().unwrap_or_default();
                        self.end(Some(&fields))?;
                    }
                },
                Poll::Ready(Some(Err(error))) => return Err(Error::RequestBody(error)),
                Poll::Ready(None) => self.end(None)?,
            }
        }
        Ok(false)
    }

    fn stage<E>(&mut self, data: Bytes) -> Result<(), Error<E>> {
        // An empty chunk would end a chunked body.
        if data.is_empty() {
            return Ok(());
        }
        let size = data.len();
        let chunked = self.framing == Framing::Chunked;
        match self.framing {
            Framing::Length(left) => match left.checked_sub(size as u64) {
                // Nothing of the excess may leave: the peer would read it as the next request.
                None => return Err(Error::RequestLength),
                // Ended at the last byte: a body may take long to say that nothing follows.
                Some(0) => self.framing = Framing::Ended,
                Some(left) => self.framing = Framing::Length(left),
            },
            Framing::Chunked => {
                self.end_line();
                hexadecimal(&mut self.staged, size);
                self.owes_line_end = true;
            }
            Framing::Ended => return Err(Error::RequestLength),
        }
        if size <= SMALL {
            self.staged.extend_from_slice(&data);
            if chunked {
                self.end_line();
            }
        } else {
            self.chunk = data;
        }
        Ok(())
    }

    fn end<E>(&mut self, fields: Option<&HeaderMap>) -> Result<(), Error<E>> {
        match self.framing {
            Framing::Length(_) => return Err(Error::RequestLength),
            Framing::Chunked => {
                self.end_line();
                self.staged.extend_from_slice(b"0\r\n");
                for (name, value) in fields.into_iter().flatten() {
                    if trailers::may_trail(name) {
                        field(&mut self.staged, name.as_str(), value.as_bytes());
                    }
                }
                self.staged.extend_from_slice(b"\r\n");
            }
            Framing::Ended => {}
        }
        self.framing = Framing::Ended;
        Ok(())
    }

    fn end_line(&mut self) {
        if std::mem::take(&mut self.owes_line_end) {
            self.staged.extend_from_slice(b"\r\n");
        }
    }

    fn poll_write<IO>(&mut self, io: &mut IO, cx: &mut Context<'_>) -> Poll<io::Result<()>>
    where
        IO: AsyncWrite + Unpin,
    {
        let io = Pin::new(io);
        let written = if self.chunk.is_empty() {
            ready!(io.poll_write(cx, &self.staged))?
        } else if self.staged.is_empty() {
            ready!(io.poll_write(cx, &self.chunk))?
        } else if io.is_write_vectored() {
            let both = [IoSlice::new(&self.staged), IoSlice::new(&self.chunk)];
            ready!(io.poll_write_vectored(cx, &both))?
        } else {
            ready!(io.poll_write(cx, &self.staged))?
        };
        if written == 0 {
            return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
        }
        self.wrote = true;
        self.unflushed = true;
        let staged = written.min(self.staged.len());
        self.staged.advance(staged);
        self.chunk.advance((written - staged).min(self.chunk.len()));
        Poll::Ready(Ok(()))
    }
}

fn choose<B: Body>(head: &RequestHead<'_>, body: &B) -> Framing {
    // A CONNECT has no body; what follows it belongs to the tunnel.
    if body.is_end_stream() || *head.method == Method::CONNECT {
        return Framing::Ended;
    }
    // Announced trailers need chunks, whatever the length.
    let trailing = head.headers.contains_key(TRAILER);
    match body.size_hint().exact() {
        Some(0) if !trailing => Framing::Ended,
        Some(length) if !trailing => Framing::Length(length),
        _ => Framing::Chunked,
    }
}

/// Methods whose empty body is said with `content-length: 0` (RFC 9110 section 8.6).
fn expects_content(method: &Method) -> bool {
    matches!(*method, Method::POST | Method::PUT | Method::PATCH)
}

/// Told by length first: most names are none of the four.
fn is_framing(name: &str) -> bool {
    match name.len() {
        7 => name == "upgrade",
        10 => name == "connection",
        14 => name == "content-length",
        17 => name == "transfer-encoding",
        _ => false,
    }
}

fn field(out: &mut BytesMut, name: &str, value: &[u8]) {
    out.reserve(name.len() + value.len() + 4);
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(b": ");
    out.extend_from_slice(value);
    out.extend_from_slice(b"\r\n");
}

fn decimal(out: &mut BytesMut, number: u64) {
    let mut digits = [0u8; 20];
    let mut at = digits.len();
    let mut left = number;
    loop {
        at -= 1;
        digits[at] = b'0' + (left % 10) as u8;
        left /= 10;
        if left == 0 {
            break;
        }
    }
    out.extend_from_slice(&digits[at..]);
}

/// A chunk's first line.
fn hexadecimal(out: &mut BytesMut, size: usize) {
    let digits = ((usize::BITS - size.leading_zeros()).div_ceil(4)).max(1);
    for digit in (0..digits).rev() {
        let nibble = (size >> (digit * 4)) & 0xf;
        out.extend_from_slice(&[b"0123456789abcdef"[nibble]]);
    }
    out.extend_from_slice(b"\r\n");
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::{HeaderValue, header};
    use http_body_util::{Empty, Full};

    fn head(method: Method, headers: &HeaderMap, body: &impl Body) -> String {
        let head = RequestHead {
            method: &method,
            target: "/a",
            headers,
            upgrade: None,
        };
        let out = Outgoing::encode(&head, body).expect("a target that may stand in a line");
        String::from_utf8(out.staged.to_vec()).unwrap()
    }

    #[test]
    fn empty_get_has_no_framing() {
        let text = head(Method::GET, &HeaderMap::new(), &Empty::<Bytes>::new());
        assert_eq!(text, "GET /a HTTP/1.1\r\n\r\n");
    }

    #[test]
    fn empty_post_says_so() {
        let text = head(Method::POST, &HeaderMap::new(), &Empty::<Bytes>::new());
        assert_eq!(text, "POST /a HTTP/1.1\r\ncontent-length: 0\r\n\r\n");
    }

    #[test]
    fn known_length_is_said() {
        let text = head(
            Method::GET,
            &HeaderMap::new(),
            &Full::new(Bytes::from("x".repeat(1234))),
        );
        assert_eq!(text, "GET /a HTTP/1.1\r\ncontent-length: 1234\r\n\r\n");
    }

    #[test]
    fn unknown_length_is_chunked() {
        let text = head(Method::POST, &HeaderMap::new(), &Unknown);
        assert_eq!(
            text,
            "POST /a HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n"
        );
    }

    #[test]
    fn announced_trailers_make_chunks_of_a_known_length() {
        let mut headers = HeaderMap::new();
        headers.insert(header::TRAILER, HeaderValue::from_static("digest"));
        let text = head(
            Method::POST,
            &headers,
            &Full::new(Bytes::from_static(b"abc")),
        );
        assert!(
            text.contains("transfer-encoding: chunked") && !text.contains("content-length"),
            "{text}"
        );
    }

    #[test]
    fn framing_of_others_is_left_out() {
        let mut headers = HeaderMap::new();
        for name in [
            "content-length",
            "transfer-encoding",
            "connection",
            "upgrade",
        ] {
            headers.insert(name, HeaderValue::from_static("7"));
        }
        headers.insert("host", HeaderValue::from_static("a"));
        let text = head(Method::GET, &headers, &Empty::<Bytes>::new());
        assert_eq!(text, "GET /a HTTP/1.1\r\nhost: a\r\n\r\n");
    }

    #[test]
    fn a_target_cannot_split_the_request() {
        for target in ["", "/ HTTP/1.1\r\nx: y", "/a b", "/\n", "/\u{7f}"] {
            let head = RequestHead {
                method: &Method::GET,
                target,
                headers: &HeaderMap::new(),
                upgrade: None,
            };
            assert!(
                Outgoing::encode(&head, &Empty::<Bytes>::new()).is_none(),
                "{target:?}"
            );
        }
    }

    #[test]
    fn numbers_read_back() {
        for number in [0, 1, 9, 10, 15, 16, 255, 4096, 65_535, u32::MAX as usize] {
            let (mut ten, mut sixteen) = (BytesMut::new(), BytesMut::new());
            decimal(&mut ten, number as u64);
            hexadecimal(&mut sixteen, number);
            assert_eq!(&ten[..], number.to_string().as_bytes());
            assert_eq!(&sixteen[..], format!("{number:x}\r\n").as_bytes());
        }
    }

    struct Unknown;

    impl Body for Unknown {
        type Data = Bytes;
        type Error = std::convert::Infallible;

        fn poll_frame(
            self: Pin<&mut Self>,
            _: &mut Context<'_>,
        ) -> Poll<Option<Result<http_body::Frame<Bytes>, Self::Error>>> {
            Poll::Pending
        }
    }
}
