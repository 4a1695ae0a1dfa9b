//! The guard under the HTTP/2 server: a budget for frames that cost us work and carry nothing.
//!
//! h2 bounds resets it must answer, CONTINUATION and empty DATA; PING, SETTINGS, WINDOW_UPDATE, PRIORITY and
//! unknown frames it reads for as long as they come. Here each costs a token (`Budget`). Over it, the read fails and
//! the connection ends. Payload is skipped, never looked at.

use std::{
    cell::Cell,
    io,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll},
};

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::{
    budget::Budget,
    frame_header::{self as frame, Cursor, FrameHeader},
};

/// Bytes of a client's preface, before its first frame.
const PREFACE: usize = 24;

/// One reset more for so many streams: callers that cancel some of many calls.
const STREAMS_PER_RESET: u32 = 4;

/// The cells of one HTTP/2 connection.
#[derive(Debug, Default)]
pub struct FrameWatch {
    budget: Budget,
    last_stream: Cell<u32>,
    streams: Cell<u32>,
    open: Cell<u32>,
    over: Cell<Option<&'static str>>,
    bytes_in: Cell<u64>,
    bytes_out: Cell<u64>,
    data_in: Cell<u64>,
    frames: Cell<u64>,
    write_blocked: Cell<bool>,
}

fn add(cell: &Cell<u64>, n: u64) {
    cell.set(cell.get() + n);
}

impl FrameWatch {
    /// A request began: while it is open, time grants more.
    pub fn stream_begins(&self) {
        self.open.set(self.open.get().saturating_add(1));
    }

    /// A request is over.
    pub fn stream_ends(&self) {
        self.open.set(self.open.get().saturating_sub(1));
    }

    /// Time's share of the budgets; called every 100 ms.
    pub fn tick(&self) {
        self.budget.ticks(1, self.open.get());
    }

    /// Which frames exceeded their budget, if some did. The connection is ending then.
    pub fn over(&self) -> Option<&'static str> {
        self.over.get()
    }

    pub fn bytes_in(&self) -> u64 {
        self.bytes_in.get()
    }

    pub fn bytes_out(&self) -> u64 {
        self.bytes_out.get()
    }

    /// Payload bytes of DATA frames, padding included.
    pub fn data_in(&self) -> u64 {
        self.data_in.get()
    }

    /// Inbound frames of any kind: standing still, the client is silent.
    pub fn frames(&self) -> u64 {
        self.frames.get()
    }

    /// Streams the client opened so far.
    pub fn streams(&self) -> u32 {
        self.streams.get()
    }

    /// We have bytes to send and the client takes none.
    pub fn write_blocked(&self) -> bool {
        self.write_blocked.get()
    }

    fn sent(&self, n: u64) {
        add(&self.bytes_out, n);
        self.budget.sent(n);
    }

    fn count(&self, header: FrameHeader) -> Result<(), &'static str> {
        add(&self.frames, 1);
        match header.kind {
            frame::DATA => add(&self.data_in, u64::from(header.len)),
            frame::HEADERS if header.stream > self.last_stream.get() => {
                self.last_stream.set(header.stream);
                self.streams.set(self.streams.get().wrapping_add(1));
                self.budget.stream();
                if self.streams.get().is_multiple_of(STREAMS_PER_RESET) {
                    self.budget.reset();
                }
            }
            _ => {}
        }
        self.budget.take(header)
    }
}

/// A connection whose inbound frames are counted before h2 sees them.
pub struct Frames<I> {
    io: I,
    prefix: Bytes,
    cursor: Cursor,
    watch: Rc<FrameWatch>,
}

impl<I> Frames<I> {
    /// Counts the frames of `io`. `prefix`: what was already read of it, the preface or its begin included.
    pub fn new(io: I, prefix: Bytes, watch: Rc<FrameWatch>) -> Self {
        Frames {
            io,
            prefix,
            cursor: Cursor::after(PREFACE),
            watch,
        }
    }

    pub fn watch(&self) -> &Rc<FrameWatch> {
        &self.watch
    }

    fn count(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        add(&self.watch.bytes_in, bytes.len() as u64);
        while let Some(header) = self.cursor.next(&mut bytes) {
            if let Err(words) = self.watch.count(header) {
                self.watch.over.set(Some(words));
                return Err(io::Error::new(io::ErrorKind::InvalidData, words));
            }
        }
        Ok(())
    }

    fn wrote(&self, result: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        self.watch.write_blocked.set(result.is_pending());
        if let Poll::Ready(Ok(n)) = &result {
            self.watch.sent(*n as u64);
        }
        result
    }
}

impl<I: AsyncRead + Unpin> AsyncRead for Frames<I> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        if self.prefix.is_empty() {
            std::task::ready!(Pin::new(&mut self.io).poll_read(cx, buf))?;
        } else {
            let n = self.prefix.len().min(buf.remaining());
            buf.put_slice(&self.prefix.split_to(n));
        }
        Poll::Ready(self.count(&buf.filled()[before..]))
    }
}

impl<I: AsyncWrite + Unpin> AsyncWrite for Frames<I> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.io).poll_write(cx, bytes);
        self.wrote(result)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.io).poll_write_vectored(cx, slices);
        self.wrote(result)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use http_body_util::{BodyExt, Full};
    use hyper::{
        client::conn::http2 as client, server::conn::http2 as server, service::service_fn,
    };
    use hyper_util::rt::{TokioExecutor, TokioIo};
    use tokio::io::AsyncReadExt;

    use super::*;

    fn frame(kind: u8, flags: u8, stream: u32, payload: usize) -> Vec<u8> {
        let mut bytes = (payload as u32).to_be_bytes()[1..].to_vec();
        bytes.extend([kind, flags]);
        bytes.extend(stream.to_be_bytes());
        bytes.resize(bytes.len() + payload, 0);
        bytes
    }

    /// How many of such frames a new connection may send at once.
    async fn allowed(kind: u8, flags: u8, payload: usize, before: impl Fn(&FrameWatch)) -> usize {
        let watch = Rc::new(FrameWatch::default());
        before(&watch);
        let mut stream = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
        for _ in 0..20_000 {
            stream.extend(frame(kind, flags, 1, payload));
        }
        // Pieces of an odd length, so that headers are cut.
        let mut frames = Frames::new(&stream[..], Bytes::new(), watch.clone());
        let mut piece = [0; 7];
        loop {
            match frames.read(&mut piece).await {
                Ok(0) => break,
                Ok(_) => {}
                Err(error) => {
                    assert_eq!(error.kind(), io::ErrorKind::InvalidData);
                    assert_eq!(watch.over(), Some(error.to_string()).as_deref());
                    return watch.frames() as usize - 1;
                }
            }
        }
        assert_eq!(watch.over(), None);
        watch.frames() as usize
    }

    #[tokio::test]
    async fn a_flood_of_any_control_frame_is_stopped() {
        for (kind, payload) in [
            (frame::PING, 8),
            (frame::SETTINGS, 0),
            (frame::WINDOW_UPDATE, 4),
            (frame::PRIORITY, 5),
            (frame::CONTINUATION, 0),
            (frame::GOAWAY, 8),
            (frame::DATA, 0),
            (0x42, 3),
        ] {
            assert_eq!(
                allowed(kind, 0, payload, |_| {}).await,
                1_000,
                "kind {kind}"
            );
        }
        assert_eq!(allowed(frame::RST_STREAM, 0, 4, |_| {}).await, 500);
        assert_eq!(
            allowed(0x42, 0, 256, |_| {}).await,
            500,
            "payload costs too"
        );
    }

    #[tokio::test]
    async fn frames_that_carry_something_are_free() {
        assert_eq!(allowed(frame::DATA, 0, 1, |_| {}).await, 20_000);
        assert_eq!(
            allowed(frame::DATA, frame::END_STREAM, 0, |_| {}).await,
            20_000
        );
        assert_eq!(allowed(frame::HEADERS, 4, 1, |_| {}).await, 20_000);
    }

    #[tokio::test]
    async fn time_streams_and_what_we_send_fill_the_budget() {
        let ticks = |n: usize| move |watch: &FrameWatch| (0..n).for_each(|_| watch.tick());
        assert_eq!(allowed(frame::PING, 0, 8, ticks(7)).await, 1_070);
        assert_eq!(
            allowed(frame::PING, 0, 8, ticks(100_000)).await,
            10_000,
            "it saves at most so many"
        );
        assert_eq!(allowed(frame::RST_STREAM, 0, 4, ticks(7)).await, 500);
        let open = |watch: &FrameWatch| {
            (0..3).for_each(|_| watch.stream_begins());
            watch.stream_ends();
            watch.tick();
        };
        assert_eq!(allowed(frame::PING, 0, 8, open).await, 1_014);
        let sent = |watch: &FrameWatch| (0..10).for_each(|_| watch.sent(16));
        assert_eq!(allowed(frame::WINDOW_UPDATE, 0, 4, sent).await, 1_005);
    }

    /// An honest client: many calls, large bodies both ways, in a window that needs thousands of updates.
    #[tokio::test]
    async fn an_honest_client_is_never_over() {
        let (near, far) = tokio::io::duplex(1 << 16);
        let watch = Rc::new(FrameWatch::default());
        let frames = Frames::new(far, Bytes::new(), watch.clone());
        let service = service_fn(|request: http::Request<hyper::body::Incoming>| async {
            let body = request
                .into_body()
                .collect()
                .await
                .map(|body| body.to_bytes());
            Ok::<_, Infallible>(http::Response::new(Full::new(body.unwrap_or_default())))
        });
        let local = tokio::task::LocalSet::new();
        let exchanges = async {
            let io = TokioIo::new(near);
            let mut builder = client::Builder::new(TokioExecutor::new());
            builder
                .initial_stream_window_size(16_384)
                .initial_connection_window_size(16_384);
            let (mut sender, connection) = builder.handshake(io).await.unwrap();
            tokio::task::spawn_local(connection);
            for call in 0..200 {
                let body = Bytes::from(vec![7; if call % 20 == 0 { 4 << 20 } else { 10 }]);
                let request = http::Request::post("http://a/")
                    .body(Full::new(body.clone()))
                    .unwrap();
                let answer = sender.send_request(request).await.unwrap();
                assert!(answer.into_body().collect().await.unwrap().to_bytes() == body);
            }
        };
        local
            .run_until(async {
                let server = server::Builder::new(TokioExecutor::new())
                    .serve_connection(TokioIo::new(frames), service);
                tokio::select! {
                    () = exchanges => {}
                    ended = server => panic!("{ended:?}"),
                }
            })
            .await;
        assert_eq!((watch.over(), watch.streams()), (None, 200));
        assert!(watch.data_in() > 40 << 20 && watch.bytes_out() > 40 << 20);
    }
}
