//! Bytes between two sides, both ways in one future, until both have ended.
//!
//! A relay at rest holds no buffer: the relays of a worker read into the same one, and keep it only while the other
//! side does not take what was read; nothing more is read meanwhile, so a slow reader slows its writer. One side's
//! end is passed on at once and the other way goes on; an error of one side ends both ways and says whose it was.

use std::{
    cell::{Cell, RefCell},
    future::poll_fn,
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use prometheus::IntCounter;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// What is read at once, at most.
const BUFFER: usize = 64 * 1024;
/// As little as this that waits for a slow side is kept in a buffer of its own size.
const SCRAP: usize = 16 * 1024;
/// Buffers that a worker keeps while no relay needs them.
const SPARE: usize = 4;
/// Buffers passed on in one go, before others of the worker have their turn.
const ROUNDS: usize = 32;

thread_local! {
    static BUFFERS: RefCell<Vec<Box<[u8]>>> = const { RefCell::new(Vec::new()) };
}

/// Relays until both sides have ended in order, or one of them broke.
///
/// What was `read` of them before goes first. `near` and `far` are left to the caller, who closes them; `tally` is
/// right at every moment. Dropping the future leaves both sides open and loses what was read and not yet taken,
/// 64 KiB a way at most.
pub async fn relay<N, F>(
    near: &mut N,
    far: &mut F,
    read: Early,
    tally: &Tally,
) -> Result<(), Broken>
where
    N: AsyncRead + AsyncWrite + Unpin,
    F: AsyncRead + AsyncWrite + Unpin,
{
    let mut there = Way::beginning(read.of_near);
    let mut back = Way::beginning(read.of_far);
    poll_fn(|cx| {
        let sent = there.poll(cx, near, far, &tally.from_near);
        if let Poll::Ready(Err(broken)) = sent {
            return Poll::Ready(Err(broken.told(Side::Near, Side::Far)));
        }
        let came = back.poll(cx, far, near, &tally.from_far);
        if let Poll::Ready(Err(broken)) = came {
            return Poll::Ready(Err(broken.told(Side::Far, Side::Near)));
        }
        match (sent, came) {
            (Poll::Ready(_), Poll::Ready(_)) => Poll::Ready(Ok(())),
            _ => Poll::Pending,
        }
    })
    .await
}

/// Who is meant: the side that came to us, or the side that we went to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    Near,
    Far,
}

/// A relay that did not end in order: one side reset, timed out or was cut short. The other should be told so.
#[derive(Debug)]
pub struct Broken {
    pub side: Side,
    pub error: io::Error,
}

/// Bytes that were read of either side before it was clear that they would be relayed.
#[derive(Debug, Default)]
pub struct Early {
    pub of_near: Bytes,
    pub of_far: Bytes,
}

/// What passed, each way.
#[derive(Debug, Default)]
pub struct Tally {
    pub from_near: Count,
    pub from_far: Count,
}

/// Bytes of one relay and one way, added to a metric as they pass.
#[derive(Debug, Default)]
pub struct Count {
    bytes: Cell<u64>,
    total: Option<IntCounter>,
}

impl Count {
    pub fn with(total: IntCounter) -> Self {
        Count {
            bytes: Cell::new(0),
            total: Some(total),
        }
    }

    pub fn bytes(&self) -> u64 {
        self.bytes.get()
    }

    pub fn add(&self, bytes: u64) {
        self.bytes.set(self.bytes.get() + bytes);
        if let Some(total) = &self.total {
            total.inc_by(bytes);
        }
    }
}

/// One way of a relay.
#[derive(Default)]
struct Way {
    held: Option<Held>,
    /// The side that is written to may keep bytes back until it is flushed (TLS).
    unflushed: bool,
    stage: Stage,
}

#[derive(Default, Clone, Copy, PartialEq, Eq)]
enum Stage {
    #[default]
    Open,
    /// The reading side has ended; its end is still to be passed on.
    Ending,
    Over,
}

/// An error of the side that is read, or of the one that is written.
enum Break {
    Read(io::Error),
    Write(io::Error),
}

impl Break {
    fn told(self, from: Side, to: Side) -> Broken {
        match self {
            Break::Read(error) => Broken { side: from, error },
            Break::Write(error) => Broken { side: to, error },
        }
    }
}

impl Way {
    fn beginning(read: Bytes) -> Self {
        let held = (!read.is_empty()).then(|| Held {
            at: 0,
            end: read.len(),
            buffer: Vec::from(read).into(),
        });
        Way {
            held,
            ..Way::default()
        }
    }

    fn poll<A, B>(
        &mut self,
        cx: &mut Context<'_>,
        from: &mut A,
        to: &mut B,
        count: &Count,
    ) -> Poll<Result<(), Break>>
    where
        A: AsyncRead + Unpin,
        B: AsyncWrite + Unpin,
    {
        for _ in 0..ROUNDS {
            if self.held.is_some() {
                ready!(self.poll_pass(cx, to, count)).map_err(Break::Write)?;
            }
            match self.stage {
                Stage::Open => {
                    let mut buffer = borrow();
                    let mut read = ReadBuf::new(&mut buffer);
                    let polled = Pin::new(&mut *from).poll_read(cx, &mut read);
                    let filled = read.filled().len();
                    if let Poll::Ready(Ok(())) = polled
                        && filled > 0
                    {
                        self.held = Some(Held {
                            buffer,
                            at: 0,
                            end: filled,
                        });
                        continue;
                    }
                    give_back(buffer);
                    match polled {
                        Poll::Ready(Ok(())) => self.stage = Stage::Ending,
                        Poll::Ready(Err(error)) => return Poll::Ready(Err(Break::Read(error))),
                        Poll::Pending => {
                            if self.unflushed {
                                ready!(Pin::new(to).poll_flush(cx)).map_err(Break::Write)?;
                                self.unflushed = false;
                            }
                            return Poll::Pending;
                        }
                    }
                }
                Stage::Ending => {
                    ready!(Pin::new(&mut *to).poll_shutdown(cx)).map_err(Break::Write)?;
                    self.stage = Stage::Over;
                }
                Stage::Over => return Poll::Ready(Ok(())),
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// Writes what is held; ready when nothing is.
    fn poll_pass<B: AsyncWrite + Unpin>(
        &mut self,
        cx: &mut Context<'_>,
        to: &mut B,
        count: &Count,
    ) -> Poll<io::Result<()>> {
        while let Some(held) = &mut self.held {
            match Pin::new(&mut *to).poll_write(cx, held.rest()) {
                Poll::Ready(Ok(0)) => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                Poll::Ready(Ok(written)) => {
                    count.add(written as u64);
                    self.unflushed = true;
                    held.at += written;
                    if held.at == held.end {
                        self.held.take();
                    }
                }
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Pending => {
                    held.shrink();
                    return Poll::Pending;
                }
            }
        }
        Poll::Ready(Ok(()))
    }
}

/// Bytes that were read and that the other side has not taken yet.
struct Held {
    buffer: Box<[u8]>,
    at: usize,
    end: usize,
}

impl Held {
    fn rest(&self) -> &[u8] {
        &self.buffer[self.at..self.end]
    }

    /// Thousands of stalled connections must not hold 64 KiB each for the little they have.
    fn shrink(&mut self) {
        if self.buffer.len() == BUFFER && self.end - self.at <= SCRAP {
            let scrap: Box<[u8]> = self.rest().into();
            (self.at, self.end) = (0, scrap.len());
            give_back(std::mem::replace(&mut self.buffer, scrap));
        }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        give_back(std::mem::take(&mut self.buffer));
    }
}

fn borrow() -> Box<[u8]> {
    let spare = BUFFERS.with_borrow_mut(Vec::pop);
    spare.unwrap_or_else(|| vec![0; BUFFER].into())
}

fn give_back(buffer: Box<[u8]>) {
    if buffer.len() == BUFFER {
        BUFFERS.with_borrow_mut(|spare| {
            if spare.len() < SPARE {
                spare.push(buffer);
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use std::{future::Future, pin::pin, task::Waker};

    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};

    use super::*;

    fn run<T>(story: impl Future<Output = T>) -> T {
        let runtime = tokio::runtime::Builder::new_current_thread().build();
        runtime.expect("a runtime").block_on(story)
    }

    /// Two sides as their owners see them, and the relay between.
    async fn between<T>(
        room: usize,
        story: impl AsyncFnOnce(DuplexStream, DuplexStream) -> T,
    ) -> (T, Result<(), Broken>, Tally) {
        let (client, mut near) = duplex(room);
        let (server, mut far) = duplex(room);
        let tally = Tally::default();
        let (told, ended) = tokio::join!(
            story(client, server),
            relay(&mut near, &mut far, Early::default(), &tally)
        );
        (told, ended, tally)
    }

    #[test]
    fn an_end_is_passed_on_and_the_other_way_goes_on() {
        let (answer, ended, tally) = run(between(256, async |mut client, mut server| {
            client.write_all(b"question").await.unwrap();
            client.shutdown().await.unwrap();
            let mut question = String::new();
            server.read_to_string(&mut question).await.unwrap();
            assert_eq!(question, "question");
            server.write_all(b"the answer").await.unwrap();
            drop(server);
            let mut answer = String::new();
            client.read_to_string(&mut answer).await.unwrap();
            answer
        }));
        assert_eq!(answer, "the answer");
        assert!(ended.is_ok());
        assert_eq!((tally.from_near.bytes(), tally.from_far.bytes()), (8, 10));
    }

    #[test]
    fn many_bytes_arrive_in_order_both_ways_at_once() {
        let bytes: Vec<u8> = (0..3_000_000u32).map(|n| (n * 7 / 8) as u8).collect();
        let sent = bytes.clone();
        let ((), ended, tally) = run(between(100_000, async |client, server| {
            let both = |stream: DuplexStream| {
                let sent = &sent;
                async move {
                    let (mut read, mut write) = tokio::io::split(stream);
                    let mut got = Vec::new();
                    let send = async {
                        write.write_all(sent).await.unwrap();
                        write.shutdown().await.unwrap();
                    };
                    let (_, read) = tokio::join!(send, read.read_to_end(&mut got));
                    read.unwrap();
                    got
                }
            };
            let (one, two) = tokio::join!(both(client), both(server));
            assert!(one == bytes && two == bytes);
        }));
        assert!(ended.is_ok());
        assert_eq!(tally.from_near.bytes(), 3_000_000);
    }

    #[test]
    fn what_was_read_before_goes_first() {
        run(async {
            let (mut client, mut near) = duplex(64);
            let (mut server, mut far) = duplex(64);
            client.write_all(b"world").await.unwrap();
            client.shutdown().await.unwrap();
            server.shutdown().await.unwrap();
            let early = Early {
                of_near: Bytes::from_static(b"hello, "),
                of_far: Bytes::from_static(b"welcome"),
            };
            let tally = Tally::default();
            relay(&mut near, &mut far, early, &tally).await.unwrap();
            drop((near, far));
            let (mut asked, mut said) = (String::new(), String::new());
            server.read_to_string(&mut asked).await.unwrap();
            client.read_to_string(&mut said).await.unwrap();
            assert_eq!((&*asked, &*said), ("hello, world", "welcome"));
            assert_eq!((tally.from_near.bytes(), tally.from_far.bytes()), (12, 7));
        });
    }

    #[test]
    fn the_side_that_broke_is_told_from_the_other() {
        struct Reset;
        impl AsyncRead for Reset {
            fn poll_read(
                self: Pin<&mut Self>,
                _: &mut Context<'_>,
                _: &mut ReadBuf<'_>,
            ) -> Poll<io::Result<()>> {
                Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()))
            }
        }
        impl AsyncWrite for Reset {
            fn poll_write(
                self: Pin<&mut Self>,
                _: &mut Context<'_>,
                bytes: &[u8],
            ) -> Poll<io::Result<usize>> {
                Poll::Ready(Ok(bytes.len()))
            }
            fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
                Poll::Ready(Ok(()))
            }
            fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
                Poll::Ready(Ok(()))
            }
        }
        run(async {
            let (_client, mut near) = duplex(64);
            let tally = Tally::default();
            let broken = relay(&mut near, &mut Reset, Early::default(), &tally)
                .await
                .unwrap_err();
            assert_eq!(broken.side, Side::Far);
            let broken = relay(&mut Reset, &mut near, Early::default(), &tally)
                .await
                .unwrap_err();
            assert_eq!(broken.side, Side::Near);
            assert_eq!(broken.error.kind(), io::ErrorKind::ConnectionReset);
        });
    }

    fn spare() -> usize {
        BUFFERS.with_borrow(Vec::len)
    }

    #[test]
    fn a_relay_at_rest_holds_no_buffer() {
        let (_client, mut near) = duplex(64);
        let (_server, mut far) = duplex(64);
        let tally = Tally::default();
        let mut relay = pin!(relay(&mut near, &mut far, Early::default(), &tally));
        let mut cx = Context::from_waker(Waker::noop());
        assert!(relay.as_mut().poll(&mut cx).is_pending());
        assert_eq!(spare(), 1, "one buffer served both ways and is back");
    }

    #[test]
    fn a_stalled_relay_reads_no_more_and_holds_what_it_has() {
        run(async {
            let (mut client, mut near) = duplex(1_000_000);
            let (mut server, mut far) = duplex(10);
            let tally = Tally::default();
            let mut relay = pin!(relay(&mut near, &mut far, Early::default(), &tally));
            let mut cx = Context::from_waker(Waker::noop());
            client.write_all(&[7; 300_000]).await.unwrap();
            assert!(relay.as_mut().poll(&mut cx).is_pending());
            assert_eq!(tally.from_near.bytes(), 10);
            // The other way still has a buffer to read into, and gives it back.
            assert_eq!(spare(), 1);
            let mut got = [0; 10];
            server.read_exact(&mut got).await.unwrap();
            assert!(relay.as_mut().poll(&mut cx).is_pending());
            assert_eq!(tally.from_near.bytes(), 20);
        });
    }

    #[test]
    fn a_scrap_that_waits_takes_no_more_room_than_it_is_long() {
        let mut held = Held {
            buffer: borrow(),
            at: 100,
            end: 103,
        };
        held.buffer[100..103].copy_from_slice(b"abc");
        held.shrink();
        assert_eq!((held.rest(), held.buffer.len()), (&b"abc"[..], 3));
        assert_eq!(spare(), 1);
    }
}
