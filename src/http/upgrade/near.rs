//! The near side of a tunnel that is a stream of an HTTP/2 connection: END_STREAM is its end, RST_STREAM its reset.

use std::{
    io,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, ready},
};

use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::tunnel::{Ending, Tunnel};
use crate::http::{Cut, strand::Strand};

/// Waits until the caller has its 200, then runs the tunnel to its end.
pub(super) async fn run(upgrade: OnUpgrade, strand: Option<Rc<Strand>>, tunnel: Tunnel) {
    // An error says that the caller left before; dropping the tunnel tells the callee.
    let Ok(upgraded) = upgrade.await else {
        return;
    };
    let mut near = Near {
        io: TokioIo::new(upgraded),
        strand,
        end: End::Open,
    };
    let cut = Cut::new(tunnel.desk());
    let ending = tunnel.run(&mut near, |cx| cut.poll(cx)).await;
    if ending == Ending::Abrupt
        && let Some(strand) = &near.strand
    {
        strand.reset();
    }
}

struct Near {
    io: TokioIo<Upgraded>,
    strand: Option<Rc<Strand>>,
    end: End,
}

/// How far the caller's end has been looked at.
#[derive(Clone, Copy, PartialEq, Eq)]
enum End {
    Open,
    /// hyper says that nothing more comes, be it by END_STREAM or by RST_STREAM with CANCEL.
    Told,
    Ended,
}

impl AsyncRead for Near {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let near = &mut *self;
        if near.end == End::Open {
            let before = buf.filled().len();
            ready!(Pin::new(&mut near.io).poll_read(cx, buf))?;
            if buf.filled().len() > before {
                return Poll::Ready(Ok(()));
            }
            // The task that writes to the stream was woken by a reset before us; it has its turn first.
            near.end = End::Told;
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        near.end = End::Ended;
        match Pin::new(&mut near.io).poll_flush(cx) {
            Poll::Ready(Err(error)) => Poll::Ready(Err(reset(error))),
            _ => Poll::Ready(Ok(())),
        }
    }
}

#[cold]
fn reset(error: io::Error) -> io::Error {
    io::Error::new(io::ErrorKind::ConnectionReset, error)
}

impl AsyncWrite for Near {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let wrote = Pin::new(&mut self.io).poll_write(cx, bytes);
        if let Some(strand) = &self.strand {
            strand.offers(wrote.is_pending());
        }
        wrote
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}
