//! The socket under `h2`, and a ledger of what passed through it.
//!
//! `h2` names neither the last stream of a GOAWAY nor the streams that were written; both decide whether a request
//! may be sent again. Nor does it bound the frames that carry nothing: a peer that sends too many of them is cut off
//! (`Budget`). Bytes pass unchanged.

use std::{
    cell::Cell,
    io::{self, IoSlice},
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, ready},
    time::Instant,
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::scan::{self, Frame, Scan};
use crate::{
    http::{budget::Budget, frame_header::FrameHeader, tick::TICK},
    net,
};

const PREFACE: usize = 24;

/// What is known of a connection from its frame headers.
#[derive(Debug)]
pub struct Ledger {
    /// Frames that came in.
    frames: Cell<u64>,
    settled: Cell<bool>,
    /// The lowest last stream that a GOAWAY named.
    last_stream: Cell<Option<u32>>,
    /// The highest stream whose head began to leave.
    sent: Cell<u32>,
    /// The stream and encoded length of the last head that came in.
    head: Cell<(u32, u32)>,
    budget: Budget,
    /// When time was last paid into the budget.
    paid: Cell<Instant>,
    flood: Cell<Option<&'static str>>,
    /// The peer refused our certificate, and has sent no frame.
    refused: Cell<bool>,
}

impl Ledger {
    pub fn new() -> Self {
        Ledger {
            frames: Cell::default(),
            settled: Cell::default(),
            last_stream: Cell::default(),
            sent: Cell::default(),
            head: Cell::default(),
            budget: Budget::default(),
            paid: Cell::new(Instant::now()),
            flood: Cell::default(),
            refused: Cell::default(),
        }
    }

    /// Which frames came too often. The connection is ending then.
    pub fn flood(&self) -> Option<&'static str> {
        self.flood.get()
    }

    /// The peer refused our certificate by a TLS alert before it sent a frame: it read no request.
    pub fn refused(&self) -> bool {
        self.refused.get()
    }

    /// The socket's error: `h2` keeps its kind and forgets the alert in it.
    fn failed(&self, error: io::Error) -> io::Error {
        if self.frames() == 0 && net::is_alert(&error) {
            self.refused.set(true);
        }
        error
    }

    pub fn frames(&self) -> u64 {
        self.frames.get()
    }

    /// The peer has sent its SETTINGS: it speaks HTTP/2, and its limits are known.
    pub fn settled(&self) -> bool {
        self.settled.get()
    }

    pub fn leaving(&self) -> bool {
        self.last_stream.get().is_some()
    }

    /// The peer said that it never acted on this stream.
    pub fn disowned(&self, stream: u32) -> bool {
        self.last_stream.get().is_some_and(|last| stream > last)
    }

    /// No whole frame header of this stream was handed to the socket.
    pub fn unsent(&self, stream: u32) -> bool {
        stream > self.sent.get()
    }

    /// Encoded bytes of this stream's head, where it was the last to come.
    pub fn head_length(&self, stream: u32) -> u32 {
        let (of, length) = self.head.get();
        if of == stream { length } else { 0 }
    }

    fn came(&self, frame: Frame) {
        self.frames.set(self.frames.get() + 1);
        self.charge(frame);
        match frame.kind {
            scan::SETTINGS if frame.flags & scan::ACK == 0 => self.settled.set(true),
            scan::HEADERS => self.head.set((frame.stream, frame.length)),
            scan::CONTINUATION => {
                let (stream, length) = self.head.get();
                self.head.set((stream, length.saturating_add(frame.length)));
            }
            scan::GOAWAY => {
                if let Some(last) = frame.last_stream {
                    let known = self.last_stream.get().unwrap_or(u32::MAX);
                    self.last_stream.set(Some(known.min(last)));
                }
            }
            _ => {}
        }
    }

    fn went(&self, frame: Frame) {
        if frame.kind == scan::HEADERS && frame.stream > self.sent.get() {
            self.sent.set(frame.stream);
            self.budget.stream();
            // What we opened, the peer may refuse.
            self.budget.reset();
        }
    }

    fn charge(&self, frame: Frame) {
        let header = FrameHeader {
            len: frame.length,
            kind: frame.kind,
            flags: frame.flags,
            stream: frame.stream,
        };
        if self.budget.take(header).is_err() {
            self.pay();
            if let Err(words) = self.budget.take(header) {
                self.flood.set(Some(words));
            }
        }
    }

    /// Pays for the time that has passed. Only when the tokens are spent: no frame costs a look at the clock.
    #[cold]
    fn pay(&self) {
        let now = Instant::now();
        let since = now.duration_since(self.paid.replace(now));
        let ticks = since.as_millis() / TICK.as_millis();
        self.budget
            .ticks(u32::try_from(ticks).unwrap_or(u32::MAX), 0);
    }
}

/// A socket whose frames are entered in a ledger.
pub struct Observed<IO> {
    io: IO,
    ledger: Rc<Ledger>,
    inbound: Scan,
    outbound: Scan,
}

impl<IO> Observed<IO> {
    pub fn new(io: IO, ledger: Rc<Ledger>) -> Self {
        Observed {
            io,
            ledger,
            inbound: Scan::default(),
            outbound: Scan::after(PREFACE),
        }
    }
}

impl<IO: AsyncRead + Unpin> AsyncRead for Observed<IO> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let before = buffer.filled().len();
        if let Err(error) = ready!(Pin::new(&mut this.io).poll_read(cx, buffer)) {
            return Poll::Ready(Err(this.ledger.failed(error)));
        }
        this.inbound
            .read(&buffer.filled()[before..], |frame| this.ledger.came(frame));
        match this.ledger.flood.get() {
            None => Poll::Ready(Ok(())),
            Some(words) => Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, words))),
        }
    }
}

impl<IO: AsyncWrite + Unpin> AsyncWrite for Observed<IO> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        let taken = ready!(Pin::new(&mut this.io).poll_write(cx, bytes))
            .map_err(|error| this.ledger.failed(error))?;
        this.ledger.budget.sent(taken as u64);
        this.outbound
            .read(&bytes[..taken], |frame| this.ledger.went(frame));
        Poll::Ready(Ok(taken))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        let taken = ready!(Pin::new(&mut this.io).poll_write_vectored(cx, slices))
            .map_err(|error| this.ledger.failed(error))?;
        this.ledger.budget.sent(taken as u64);
        let mut left = taken;
        for slice in slices {
            let part = left.min(slice.len());
            this.outbound
                .read(&slice[..part], |frame| this.ledger.went(frame));
            left -= part;
        }
        Poll::Ready(Ok(taken))
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.io).poll_flush(cx);
        flushed.map_err(|error| self.ledger.failed(error))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}
