//! Whole exchanges: against a scripted peer, where every byte and every wait is decided by the test, and over sockets.

mod answers;
mod requests;
mod sockets;
mod upgrades;

use super::{AnswerBody, Connection, Error, Failure, Home, Limits, RequestHead};
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Response};
use http_body::{Body, Frame, SizeHint};
use std::{
    cell::RefCell,
    collections::VecDeque,
    convert::Infallible,
    future::Future,
    io,
    pin::{Pin, pin},
    rc::Rc,
    task::{Context, Poll, Waker},
};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// What the scripted peer does when it is asked to read or write.
#[derive(Default)]
struct Peer {
    /// One read gives one piece, and nothing once in between.
    pieces: VecDeque<Bytes>,
    paused: bool,
    /// After the pieces: closed, or silent.
    closes: bool,
    /// Bytes the peer still takes.
    takes: Option<usize>,
    /// What happens once it takes no more.
    breaks: bool,
    written: Vec<u8>,
    writes: usize,
    vectored: bool,
    flushes: usize,
}

#[derive(Clone, Default)]
struct Socket(Rc<RefCell<Peer>>);

impl Socket {
    fn answering<'a>(pieces: impl IntoIterator<Item = &'a [u8]>, closes: bool) -> Socket {
        let peer = Peer {
            pieces: pieces.into_iter().map(Bytes::copy_from_slice).collect(),
            closes,
            ..Peer::default()
        };
        Socket(Rc::new(RefCell::new(peer)))
    }

    fn written(&self) -> String {
        String::from_utf8_lossy(&self.0.borrow().written).into_owned()
    }
}

impl AsyncRead for Socket {
    fn poll_read(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let mut peer = self.0.borrow_mut();
        peer.paused = !peer.paused;
        if peer.paused {
            return Poll::Pending;
        }
        match peer.pieces.pop_front() {
            Some(mut piece) => {
                let now = piece.split_to(piece.len().min(buf.remaining()));
                buf.put_slice(&now);
                if !piece.is_empty() {
                    peer.pieces.push_front(piece);
                }
                Poll::Ready(Ok(()))
            }
            None if peer.closes => Poll::Ready(Ok(())),
            None => Poll::Pending,
        }
    }
}

impl AsyncWrite for Socket {
    fn poll_write(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let mut peer = self.0.borrow_mut();
        let now = buf.len().min(peer.takes.unwrap_or(usize::MAX));
        if now == 0 {
            return match peer.breaks {
                true => Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())),
                false => Poll::Pending,
            };
        }
        peer.takes = peer.takes.map(|takes| takes - now);
        peer.written.extend_from_slice(&buf[..now]);
        peer.writes += 1;
        Poll::Ready(Ok(now))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let all: Vec<u8> = bufs.iter().flat_map(|buf| buf.iter().copied()).collect();
        self.poll_write(cx, &all)
    }

    fn is_write_vectored(&self) -> bool {
        self.0.borrow().vectored
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.0.borrow_mut().flushes += 1;
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// Remembers whether the connection came home.
struct Shelf<IO>(Rc<RefCell<Option<Connection<IO>>>>);

impl<IO> Shelf<IO> {
    fn new() -> Self {
        Shelf(Rc::new(RefCell::new(None)))
    }

    fn clone(&self) -> Self {
        Shelf(self.0.clone())
    }

    fn kept(&self) -> bool {
        self.0.borrow().is_some()
    }

    fn take(&self) -> Connection<IO> {
        self.0.borrow_mut().take().expect("the connection is home")
    }
}

impl<IO> Home<IO> for Shelf<IO> {
    fn keep(self, connection: Connection<IO>) {
        *self.0.borrow_mut() = Some(connection);
    }
}

/// A request's body of given steps. `None` is a wait.
#[derive(Debug, Default)]
struct Steps {
    steps: VecDeque<Option<Result<Frame<Bytes>, &'static str>>>,
    exact: Option<u64>,
    polls: usize,
}

impl Steps {
    fn new(steps: impl IntoIterator<Item = Option<Result<Frame<Bytes>, &'static str>>>) -> Steps {
        Steps {
            steps: steps.into_iter().collect(),
            ..Steps::default()
        }
    }

    fn exact(self, exact: u64) -> Steps {
        Steps {
            exact: Some(exact),
            ..self
        }
    }
}

fn data(data: impl Into<Bytes>) -> Option<Result<Frame<Bytes>, &'static str>> {
    Some(Ok(Frame::data(data.into())))
}

impl Body for Steps {
    type Data = Bytes;
    type Error = &'static str;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, &'static str>>> {
        self.polls += 1;
        match self.steps.pop_front() {
            None => Poll::Ready(None),
            Some(None) => Poll::Pending,
            Some(Some(step)) => Poll::Ready(Some(step)),
        }
    }

    fn size_hint(&self) -> SizeHint {
        self.exact.map(SizeHint::with_exact).unwrap_or_default()
    }
}

type Empty = http_body_util::Empty<Bytes>;

fn get(headers: &HeaderMap) -> RequestHead<'_> {
    request(&Method::GET, headers)
}

fn request<'a>(method: &'a Method, headers: &'a HeaderMap) -> RequestHead<'a> {
    RequestHead {
        method,
        target: "/",
        headers,
        upgrade: None,
    }
}

/// Polls until it is ready, as if everything woke us. `None` when it waits for ever.
fn run<F: Future>(future: F) -> Option<F::Output> {
    let mut future = pin!(future);
    let mut cx = Context::from_waker(Waker::noop());
    for _ in 0..200_000 {
        if let Poll::Ready(output) = future.as_mut().poll(&mut cx) {
            return Some(output);
        }
    }
    None
}

/// All that can be told of an exchange from outside.
#[derive(Debug, Default, PartialEq)]
struct Seen {
    status: u16,
    headers: HeaderMap,
    interim: u16,
    body: Vec<u8>,
    trailers: Option<HeaderMap>,
    ended: bool,
    error: Option<String>,
    kept: bool,
}

impl Seen {
    fn body(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }

    fn error(&self) -> &str {
        self.error.as_deref().unwrap_or("none")
    }
}

/// One exchange from its head to its last frame.
fn exchange<'a>(
    method: &Method,
    pieces: impl IntoIterator<Item = &'a [u8]>,
    closes: bool,
    limits: Limits,
) -> Seen {
    let socket = Socket::answering(pieces, closes);
    let shelf = Shelf::new();
    let headers = HeaderMap::new();
    let answer = Connection::new(socket, limits).send(
        request(method, &headers),
        Empty::new(),
        shelf.clone(),
    );
    let mut seen = Seen::default();
    match run(answer) {
        Some(Ok(answer)) => {
            seen.status = answer.status().as_u16();
            seen.headers = answer.headers().clone();
            seen.interim = answer.body().interim();
            read(answer.into_body(), &mut seen);
        }
        Some(Err(failure)) => seen.error = Some(failure.error.to_string()),
        None => seen.error = Some("waits".into()),
    }
    seen.kept = shelf.kept();
    seen
}

fn read<IO, B, H>(mut body: AnswerBody<IO, B, H>, seen: &mut Seen)
where
    IO: AsyncRead + AsyncWrite + Unpin,
    B: Body<Data = Bytes> + Unpin,
    H: Home<IO>,
{
    loop {
        let ended = body.is_end_stream();
        match run(std::future::poll_fn(|cx| {
            Pin::new(&mut body).poll_frame(cx)
        })) {
            None => {
                seen.error = Some("waits".into());
                return;
            }
            Some(None) => {
                seen.ended = true;
                return;
            }
            Some(Some(frame)) => {
                assert!(!ended, "a frame after the end of the stream");
                match frame.map(Frame::into_data) {
                    Ok(Ok(data)) => seen.body.extend_from_slice(&data),
                    Ok(Err(frame)) => seen.trailers = frame.into_trailers().ok(),
                    Err(error) => {
                        seen.error = Some(error.to_string());
                        return;
                    }
                }
            }
        }
    }
}

/// A GET answered in one piece by a peer that then stays silent.
fn answered(text: &str) -> Seen {
    exchange(&Method::GET, [text.as_bytes()], false, Limits::default())
}

/// The same by a peer that closes.
fn answered_and_closed(text: &str) -> Seen {
    exchange(&Method::GET, [text.as_bytes()], true, Limits::default())
}
