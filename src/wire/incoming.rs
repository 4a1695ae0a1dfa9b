//! The answer's bytes on their way in: a read buffer sized to what comes.
//!
//! It starts with what the request left of its buffer or `FIRST` bytes, doubles only after a read filled it, shrinks
//! again, and never reads more than `MOST` at once. A 64 KiB allocation a read would cost more than it saves on
//! connections that return a TLS record at a time.

use bytes::{BufMut, BytesMut};
use std::{
    future::Future,
    io,
    pin::pin,
    task::{Context, Poll, ready},
};
use tokio::io::{AsyncRead, AsyncReadExt};

const FIRST: usize = 4 * 1024;
const MOST: usize = 64 * 1024;

#[derive(Debug)]
pub(super) struct Incoming {
    pub(super) bytes: BytesMut,
    /// What the next read would like to have room for.
    want: usize,
}

impl Incoming {
    pub(super) fn new() -> Self {
        Incoming {
            bytes: BytesMut::new(),
            want: FIRST,
        }
    }

    /// Reads once and says how many bytes came; 0 is the peer's end. `most` bounds the room a body still needs.
    pub(super) fn poll_read<IO>(
        &mut self,
        io: &mut IO,
        most: u64,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<usize>>
    where
        IO: AsyncRead + Unpin,
    {
        let want = self
            .want
            .min(usize::try_from(most).unwrap_or(usize::MAX).max(FIRST));
        if self.room() < want / 2 || self.room() == 0 {
            self.make_room(want);
        }
        let room = self.room().min(want);
        let mut into = (&mut self.bytes).limit(want);
        let read = ready!(pin!(io.read_buf(&mut into)).poll(cx))?;
        if read == room {
            self.want = (self.want * 2).min(MOST);
        } else if read < self.want / 4 {
            self.want = (self.want / 2).max(FIRST);
        }
        Poll::Ready(Ok(read))
    }

    /// `BytesMut` grows what it must keep by doubling; with nothing to keep, only as much as is wanted is allocated.
    fn make_room(&mut self, want: usize) {
        if !self.bytes.is_empty() {
            self.bytes.reserve(want);
        } else if !self.bytes.try_reclaim(want) {
            self.bytes = BytesMut::with_capacity(want);
        }
    }

    fn room(&self) -> usize {
        self.bytes.capacity() - self.bytes.len()
    }
}

/// True when a section of fields may end in `bytes[seen..]`: only then is parsing it again worth its time.
/// Without this, a head that trickles in costs the square of its length.
pub(super) fn may_end_section(bytes: &[u8], seen: usize) -> bool {
    let tail = &bytes[seen.saturating_sub(2).min(bytes.len())..];
    memchr::memchr_iter(b'\n', tail).any(|at| matches!(tail.get(at + 1), Some(b'\r' | b'\n')))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_end_is_seen_across_every_split() {
        for text in [&b"HTTP/1.1 200 OK\r\na: b\r\n\r\n"[..], b"a: b\n\n"] {
            for seen in 1..text.len() {
                assert!(may_end_section(text, seen), "{seen}");
            }
        }
    }

    #[test]
    fn lines_alone_are_no_end() {
        assert!(!may_end_section(b"HTTP/1.1 200 OK\r\na: b\r\nc", 0));
    }

    #[test]
    fn bulk_grows_the_buffer_to_its_bound_and_trickles_shrink_it() {
        let mut incoming = Incoming::new();
        let mut cx = Context::from_waker(std::task::Waker::noop());
        let mut bulk = tokio::io::repeat(7);
        for _ in 0..20 {
            let read = incoming.poll_read(&mut bulk, u64::MAX, &mut cx);
            assert!(matches!(read, Poll::Ready(Ok(1..=MOST))), "{read:?}");
            incoming.bytes.clear();
        }
        assert_eq!(incoming.want, MOST);
        for _ in 0..20 {
            let mut trickle = &b"x"[..];
            let read = incoming.poll_read(&mut trickle, u64::MAX, &mut cx);
            assert!(matches!(read, Poll::Ready(Ok(1))), "{read:?}");
            incoming.bytes.clear();
        }
        assert_eq!(incoming.want, FIRST);
    }

    #[test]
    fn a_small_rest_gets_a_small_buffer() {
        let mut incoming = Incoming {
            bytes: BytesMut::new(),
            want: MOST,
        };
        let mut cx = Context::from_waker(std::task::Waker::noop());
        let read = incoming.poll_read(&mut &b"x"[..], 10, &mut cx);
        assert!(matches!(read, Poll::Ready(Ok(1))), "{read:?}");
        assert!(incoming.bytes.capacity() <= FIRST);
    }
}
