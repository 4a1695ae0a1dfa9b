//! The guard under the HTTP/2 server: a budget for frames that cost us work and carry nothing.
//!
//! h2 bounds resets it must answer, CONTINUATION and empty DATA; PING, SETTINGS, WINDOW_UPDATE, PRIORITY and
//! unknown frames it reads for as long as they come. Here each costs a token, and tokens come with time and open
//! streams, with new streams and with bytes we send: a client may acknowledge what it was given, as busily as it likes. Resets have
//! a budget of their own. Over it, the read fails and the connection ends. Payload is skipped, never looked at.

use std::{
    cell::Cell,
    io,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll},
};

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::frame_header::{self as frame, Cursor, FrameHeader};

/// Bytes of a client's preface, before its first frame.
const PREFACE: usize = 24;

/// What a connection begins with, in control frames.
const CONTROL_START: u32 = 1_000;
/// And at most saves.
const CONTROL_MOST: u32 = 10_000;
/// Granted a tick: 100 a second.
const CONTROL_PER_TICK: u32 = 10;
/// And for each stream that is open.
const CONTROL_PER_TICK_AND_STREAM: u32 = 2;
/// Granted a stream when it begins: its window updates, its priority.
const CONTROL_PER_STREAM: u32 = 20;
/// Granted for so many bytes sent: two updates for each DATA frame of a small gRPC message.
const BYTES_PER_CONTROL: u64 = 32;
/// A long payload costs like so many bytes a frame.
const PAYLOAD_PER_CONTROL: u32 = 256;

/// What a connection begins with and at most saves, in resets.
const RESETS_MOST: u32 = 500;
/// Granted a tick: 100 a second.
const RESETS_PER_TICK: u32 = 10;
/// One more for so many streams: callers that cancel some of many calls.
const STREAMS_PER_RESET: u32 = 4;

/// The cells of one HTTP/2 connection.
#[derive(Debug)]
pub struct FrameWatch {
    control: Cell<u32>,
    resets: Cell<u32>,
    last_stream: Cell<u32>,
    streams: Cell<u32>,
    open: Cell<u32>,
    unpaid: Cell<u64>,
    over: Cell<Option<&'static str>>,
    bytes_in: Cell<u64>,
    bytes_out: Cell<u64>,
    data_in: Cell<u64>,
    frames: Cell<u64>,
    write_blocked: Cell<bool>,
}

impl Default for FrameWatch {
    fn default() -> Self {
        FrameWatch {
            control: Cell::new(CONTROL_START),
            resets: Cell::new(RESETS_MOST),
            last_stream: Cell::default(),
            streams: Cell::default(),
            open: Cell::default(),
            unpaid: Cell::default(),
            over: Cell::default(),
            bytes_in: Cell::default(),
            bytes_out: Cell::default(),
            data_in: Cell::default(),
            frames: Cell::default(),
            write_blocked: Cell::default(),
        }
    }
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
        self.grant(CONTROL_PER_TICK + self.open.get().saturating_mul(CONTROL_PER_TICK_AND_STREAM));
        self.resets
            .set((self.resets.get() + RESETS_PER_TICK).min(RESETS_MOST));
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

    fn grant(&self, tokens: u32) {
        self.control
            .set(self.control.get().saturating_add(tokens).min(CONTROL_MOST));
    }

    fn sent(&self, n: u64) {
        add(&self.bytes_out, n);
        let unpaid = self.unpaid.get() + n;
        self.unpaid.set(unpaid % BYTES_PER_CONTROL);
        self.grant(u32::try_from(unpaid / BYTES_PER_CONTROL).unwrap_or(CONTROL_MOST));
    }

    fn count(&self, header: FrameHeader) -> Result<(), &'static str> {
        add(&self.frames, 1);
        match header.kind {
            frame::DATA if header.len > 0 || header.flags & frame::END_STREAM != 0 => {
                add(&self.data_in, u64::from(header.len));
                Ok(())
            }
            frame::HEADERS => {
                if header.stream > self.last_stream.get() {
                    self.last_stream.set(header.stream);
                    self.streams.set(self.streams.get().wrapping_add(1));
                    self.grant(CONTROL_PER_STREAM);
                    if self.streams.get().is_multiple_of(STREAMS_PER_RESET) {
                        self.resets.set((self.resets.get() + 1).min(RESETS_MOST));
                    }
                }
                Ok(())
            }
            frame::RST_STREAM => match self.resets.get().checked_sub(1) {
                Some(left) => {
                    self.resets.set(left);
                    Ok(())
                }
                None => Err("too many RST_STREAM frames"),
            },
            kind => match self
                .control
                .get()
                .checked_sub(1 + header.len / PAYLOAD_PER_CONTROL)
            {
                Some(left) => {
                    self.control.set(left);
                    Ok(())
                }
                None => Err(words(kind)),
            },
        }
    }
}

#[cold]
fn words(kind: u8) -> &'static str {
    match kind {
        frame::DATA => "too many empty DATA frames",
        frame::PRIORITY => "too many PRIORITY frames",
        frame::SETTINGS => "too many SETTINGS frames",
        frame::PING => "too many PING frames",
        frame::WINDOW_UPDATE => "too many WINDOW_UPDATE frames",
        frame::CONTINUATION => "too many CONTINUATION frames",
        _ => "too many frames of other kinds",
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
