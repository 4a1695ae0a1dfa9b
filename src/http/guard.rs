//! The guard under hyper's HTTP/1.1 server: no byte of a head reaches hyper before the whole head was checked.
//!
//! It follows the framing of the inbound bytes, so it knows where each pipelined head begins, and reads each
//! strictly (`head`). A head that breaks a rule is cut off there: the requests before it are served, and in its
//! place hyper gets a stand-in that makes the service answer (`Watch::violation`) and close. A body that breaks
//! ends in an error of that body.
//!
//! A read that brings whole heads and bodies is inspected where it lies and passed on as it is. Only a head that
//! comes in pieces is copied, at most 64 KiB of it; hyper's `max_buf_size` must not be below that.

use std::{
    future::Future,
    io,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::{Buf, Bytes, BytesMut};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::Sleep,
};

use super::{
    chunks::{Chunks, End},
    head::{Framing, Head, Step},
    watch::{Phase, Violation, Watch},
};
use crate::fault::Reason;

/// How the head begins that hyper reads in place of one that breaks the rules: the only HTTP/1.1 head without a `Host`.
const STAND_IN: &[u8] = b"GET /.weft/violation HTTP/1.1\r\nconnection: close\r\n";
/// What a stand-in takes over: the fields by which a refused call is found again in logs, up to this length each.
const KEPT: [&str; 2] = ["traceparent", "x-request-id"];
const KEPT_LENGTH: usize = 128;
/// So many bytes are held after `CONNECT` or `Upgrade` before it is decided; then no more is read.
const MAX_HELD: usize = 16 << 10;
/// What a client still sends after our last answer is read, so that the answer is not lost to a reset: so much,
const LINGER_BYTES: usize = 64 << 10;
/// and so long.
const LINGER_TIME: Duration = Duration::from_secs(1);

/// What the next inbound byte is.
#[derive(Debug)]
enum Inbound {
    Head(Head),
    Length(u64),
    Chunks(Chunks),
    /// After `CONNECT` or `Upgrade`, until the service has decided.
    Held,
    Tunnel,
    /// This stand-in is to be given to hyper.
    Violated(BytesMut),
    /// The body's error is to be given to hyper.
    Broken(&'static str),
    /// All was said; whatever comes is thrown away.
    Deaf,
}

/// A connection whose every head is checked before hyper sees a byte of it.
pub struct Guard<I> {
    io: I,
    inbound: Inbound,
    /// Bytes read and not passed on: first `clear` ones that may pass, then those not judged yet.
    held: BytesMut,
    clear: usize,
    watch: Rc<Watch>,
    linger: Option<Box<Linger>>,
}

struct Linger {
    sleep: Pin<Box<Sleep>>,
    left: usize,
}

impl<I> Guard<I> {
    /// Guards `io`. `prefix`: what was already read of it.
    pub fn new(io: I, prefix: Bytes, watch: Rc<Watch>) -> Self {
        let mut guard = Guard {
            io,
            inbound: Inbound::Head(Head::default()),
            held: BytesMut::from(prefix),
            clear: 0,
            watch,
            linger: None,
        };
        if !guard.held.is_empty() {
            guard.watch.bytes_in.set(guard.held.len() as u64);
            guard.judge_held();
        }
        guard
    }

    /// Bytes that passed and were not looked at: they pass again, first.
    pub fn take_back(&mut self, passed: &[u8]) {
        if !passed.is_empty() {
            self.held = [passed, &self.held].concat()[..].into();
            self.clear += passed.len();
        }
    }

    pub fn watch(&self) -> &Rc<Watch> {
        &self.watch
    }

    pub fn get_mut(&mut self) -> &mut I {
        &mut self.io
    }

    /// How many of these bytes may pass now. The rest is an unfinished head, held by a `CONNECT` or `Upgrade`, or lost
    /// to a violation.
    fn judge(&mut self, bytes: &[u8]) -> usize {
        let watch = &*self.watch;
        let mut at = 0;
        loop {
            let rest = &bytes[at..];
            match &mut self.inbound {
                Inbound::Head(head) => {
                    if rest.is_empty() {
                        watch.phase.set(Phase::Idle);
                        return at;
                    }
                    match head.read(rest) {
                        Step::Done { len, framing } => {
                            at += len;
                            watch.heads.set(watch.heads.get() + 1);
                            self.inbound = match framing {
                                Framing::Empty => Inbound::Head(Head::default()),
                                Framing::Length(length) => Inbound::Length(length),
                                Framing::Chunked => Inbound::Chunks(Chunks::new()),
                                Framing::Undecided => Inbound::Held,
                            };
                        }
                        Step::More => {
                            if head.has_begun(rest) {
                                watch.phase.set(Phase::Head);
                            } else if watch.heads.get() > 0 {
                                watch.phase.set(Phase::Idle);
                            }
                            return at;
                        }
                        Step::Bad(violation) => {
                            watch.violation.set(Some(violation));
                            watch.phase.set(Phase::Broken);
                            self.inbound = Inbound::Violated(stand_in(rest));
                            return at;
                        }
                    }
                }
                Inbound::Length(left) => {
                    let here = (*left).min(rest.len() as u64);
                    *left -= here;
                    at += here as usize;
                    watch.body_in.set(watch.body_in.get() + here);
                    if *left > 0 {
                        watch.phase.set(Phase::Body);
                        return at;
                    }
                    self.inbound = Inbound::Head(Head::default());
                }
                Inbound::Chunks(chunks) => {
                    let stretch = chunks.follow(rest);
                    at += stretch.len;
                    watch.body_in.set(watch.body_in.get() + stretch.data);
                    match stretch.end {
                        End::More => {
                            watch.phase.set(Phase::Body);
                            return at;
                        }
                        End::Whole => self.inbound = Inbound::Head(Head::default()),
                        End::Broken(words) => {
                            watch.violation.set(Some(Violation {
                                reason: Reason::BodyBroken,
                                words,
                            }));
                            watch.phase.set(Phase::Broken);
                            self.inbound = Inbound::Broken(words);
                            return at;
                        }
                    }
                }
                Inbound::Held => {
                    watch.phase.set(Phase::Held);
                    return at;
                }
                Inbound::Tunnel => return bytes.len(),
                Inbound::Violated(_) | Inbound::Broken(_) | Inbound::Deaf => return at,
            }
        }
    }

    /// Judges what is held; afterwards `clear` of it may pass.
    #[cold]
    fn judge_held(&mut self) {
        let held = std::mem::take(&mut self.held);
        self.clear = self.judge(&held);
        self.held = held;
        if self.is_over() {
            self.held.truncate(self.clear);
        }
    }

    /// A violation was found: nothing more of the client's passes.
    fn is_over(&self) -> bool {
        matches!(
            self.inbound,
            Inbound::Violated(_) | Inbound::Broken(_) | Inbound::Deaf
        )
    }

    fn take_decision(&mut self) {
        if self.clear > 0 {
            return;
        }
        let Some(phase) = self.watch.decision.take() else {
            return;
        };
        if self.is_over() {
            return;
        }
        if phase == Phase::Tunnel {
            self.inbound = Inbound::Tunnel;
        } else if matches!(self.inbound, Inbound::Held) {
            self.inbound = Inbound::Head(Head::default());
        } else {
            return;
        }
        self.watch.phase.set(phase);
        if !self.held.is_empty() {
            self.judge_held();
        }
    }

    /// Gives hyper what is ready of the held bytes, or what stands for a violation.
    #[cold]
    fn give(&mut self, buf: &mut ReadBuf<'_>) -> Option<io::Result<()>> {
        if self.clear > 0 {
            let n = self.clear.min(buf.remaining());
            buf.put_slice(&self.held[..n]);
            self.held.advance(n);
            self.clear -= n;
            if self.held.is_empty() {
                self.held = BytesMut::new();
            }
            return Some(Ok(()));
        }
        match &mut self.inbound {
            Inbound::Violated(stand_in) => {
                // hyper reads into at least 8 KiB at a head's begin.
                self.held = std::mem::take(stand_in);
                self.clear = self.held.len();
                self.inbound = Inbound::Deaf;
                self.give(buf)
            }
            Inbound::Broken(words) => {
                let words = *words;
                self.inbound = Inbound::Deaf;
                Some(Err(io::Error::new(io::ErrorKind::InvalidData, words)))
            }
            _ => None,
        }
    }
}

/// What hyper reads in place of this head.
#[cold]
fn stand_in(head: &[u8]) -> BytesMut {
    let mut lines = head.split(|byte| *byte == b'\n').map(<[u8]>::trim_ascii);
    let fields = lines.by_ref().skip(1).take_while(|line| !line.is_empty());
    let mut missing = KEPT.to_vec();
    let mut whole = BytesMut::from(STAND_IN);
    for field in fields {
        let Some(colon) = field.iter().position(|byte| *byte == b':') else {
            continue;
        };
        let (name, value) = (&field[..colon], field[colon + 1..].trim_ascii());
        let plain = value.len() <= KEPT_LENGTH && value.iter().all(u8::is_ascii_graphic);
        let kept = |kept: &&str| kept.as_bytes().eq_ignore_ascii_case(name);
        if let Some(at) = missing.iter().position(kept).filter(|_| plain) {
            let name = missing.swap_remove(at);
            for part in [name.as_bytes(), b": ", value, b"\r\n"] {
                whole.extend_from_slice(part);
            }
        }
    }
    whole.extend_from_slice(b"\r\n");
    whole
}

impl<I: AsyncRead + Unpin> Guard<I> {
    /// Reads and passes, holds or throws away. True: hyper has something to look at.
    fn poll_fresh(
        &mut self,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<bool>> {
        let before = buf.filled().len();
        match Pin::new(&mut self.io).poll_read(cx, buf) {
            Poll::Ready(Ok(())) => {}
            Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
            Poll::Pending => {
                let body = matches!(self.inbound, Inbound::Length(_) | Inbound::Chunks(_));
                self.watch.awaits_body.set(body);
                return Poll::Pending;
            }
        }
        let fresh = &buf.filled()[before..];
        let watch = &*self.watch;
        watch.awaits_body.set(false);
        watch
            .bytes_in
            .set(watch.bytes_in.get() + fresh.len() as u64);
        if fresh.is_empty() {
            return Poll::Ready(Ok(true));
        }
        if !self.held.is_empty() {
            self.held.extend_from_slice(fresh);
            buf.set_filled(before);
            self.judge_held();
            return Poll::Ready(Ok(false));
        }
        let pass = self.judge(fresh);
        if pass < fresh.len() {
            if !self.is_over() {
                self.held.extend_from_slice(&fresh[pass..]);
            }
            buf.set_filled(before + pass);
        }
        Poll::Ready(Ok(pass > 0))
    }

    /// Throws away what a client goes on sending, so that it may read our last answer.
    fn poll_drain(&mut self, cx: &mut Context<'_>, left: &mut usize) -> Poll<()> {
        let mut scrap = [0; 4096];
        while *left > 0 {
            let mut scrap = ReadBuf::new(&mut scrap);
            match ready!(Pin::new(&mut self.io).poll_read(cx, &mut scrap)) {
                Ok(()) if !scrap.filled().is_empty() => {
                    *left = left.saturating_sub(scrap.filled().len())
                }
                _ => break,
            }
        }
        Poll::Ready(())
    }
}

impl<I: AsyncRead + Unpin> AsyncRead for Guard<I> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let guard = &mut *self;
        if buf.remaining() == 0 {
            return Poll::Ready(Ok(()));
        }
        loop {
            guard.take_decision();
            if guard.clear > 0 || guard.is_over() {
                if let Some(given) = guard.give(buf) {
                    return Poll::Ready(given);
                }
                if matches!(guard.inbound, Inbound::Deaf) {
                    // No end of file: hyper would give up the answer that is being made. It closes by itself.
                    return Poll::Pending;
                }
            }
            if matches!(guard.inbound, Inbound::Held) {
                guard.watch.waker.set(Some(cx.waker().clone()));
                if guard.held.len() >= MAX_HELD {
                    return Poll::Pending;
                }
            }
            if ready!(guard.poll_fresh(cx, buf))? {
                return Poll::Ready(Ok(()));
            }
        }
    }
}

impl<I: AsyncRead + AsyncWrite + Unpin> Guard<I> {
    fn wrote(&self, result: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        let watch = &*self.watch;
        watch.write_blocked.set(result.is_pending());
        if let Poll::Ready(Ok(n)) = &result {
            watch.bytes_out.set(watch.bytes_out.get() + *n as u64);
        }
        result
    }
}

impl<I: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Guard<I> {
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

    /// Ends our side; where the client is still sending, reads on for at most 64 KiB or a second, since closing
    /// over unread bytes resets the connection and with it the answer (RFC 9112 §9.6).
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let guard = &mut *self;
        let mut linger = match guard.linger.take() {
            Some(linger) => linger,
            None => {
                ready!(Pin::new(&mut guard.io).poll_shutdown(cx))?;
                if matches!(
                    guard.inbound,
                    Inbound::Head(_) | Inbound::Tunnel | Inbound::Held
                ) {
                    return Poll::Ready(Ok(()));
                }
                Box::new(Linger {
                    sleep: Box::pin(tokio::time::sleep(LINGER_TIME)),
                    left: LINGER_BYTES,
                })
            }
        };
        if guard.poll_drain(cx, &mut linger.left).is_ready()
            || linger.sleep.as_mut().poll(cx).is_ready()
        {
            return Poll::Ready(Ok(()));
        }
        guard.linger = Some(linger);
        Poll::Pending
    }
}
