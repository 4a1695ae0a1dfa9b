//! An accepted connection, from its first byte to its last: which HTTP it speaks, hyper to speak it, and our
//! timers, drains and tunnels around hyper.

use std::{
    cell::Cell,
    convert::Infallible,
    future::{Future, poll_fn},
    io,
    pin::{Pin, pin},
    rc::Rc,
    task::{Context, Poll},
};

use bytes::{Bytes, BytesMut};
use http::{Request, Response};
use hyper::{
    body::Incoming,
    server::conn::{http1, http2},
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};

use super::{
    body::Body,
    connection::{Connection, Order},
    frames::Frames,
    guard::Guard,
};

/// What answers the requests of one direction.
pub trait Handler: 'static {
    /// Never fails: what goes wrong is an answer. hyper's own `Result` is what it yields, because a wrapper
    /// around the future would hold and copy it twice.
    fn handle(
        self: Rc<Self>,
        connection: Rc<Connection>,
        request: Request<Incoming>,
    ) -> impl Future<Output = Result<Response<Body>, Infallible>> + 'static;
}

/// The client preface of HTTP/2 (RFC 9113 §3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

const STREAMS: u32 = 250;
const STREAM_WINDOW: u32 = 64 * 1024;
const CONNECTION_WINDOW: u32 = 1024 * 1024;
const SEND_BUFFER: usize = 64 * 1024;
const HEAD: usize = 64 * 1024;
const LOCAL_RESETS: usize = 100;

/// hyper's settings for the connections of a worker.
pub struct Server {
    http1: http1::Builder,
    http2: http2::Builder<Local>,
}

impl Default for Server {
    fn default() -> Self {
        let mut http1 = http1::Builder::new();
        // No timer: ours are one tick a worker. Vectored writes cost more than the copy of small answers.
        http1
            .header_read_timeout(None)
            .max_buf_size(HEAD + 16 * 1024)
            .half_close(false)
            .writev(false);
        let mut http2 = http2::Builder::new(Local);
        http2
            .max_concurrent_streams(STREAMS)
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .max_send_buf_size(SEND_BUFFER)
            .max_header_list_size(HEAD as u32)
            .max_local_error_reset_streams(LOCAL_RESETS);
        Server { http1, http2 }
    }
}

/// Runs a task on the worker's own thread.
#[derive(Clone, Copy)]
struct Local;

impl<F> hyper::rt::Executor<F> for Local
where
    F: Future + 'static,
{
    fn execute(&self, future: F) {
        tokio::task::spawn_local(async move {
            future.await;
        });
    }
}

impl Server {
    /// Serves one connection to its end. Dropping the future closes it.
    pub async fn serve<H: Handler>(
        &self,
        stream: TcpStream,
        connection: Rc<Connection>,
        handler: Rc<H>,
    ) {
        let weak: std::rc::Weak<dyn super::tick::Timed> = Rc::downgrade(&connection) as _;
        let _timed = connection.desk().tick.watch(weak);
        let Some(protocol) = detect(&stream, &connection).await else {
            return;
        };
        match protocol {
            Protocol::Http1(prefix) => self.serve_http1(stream, prefix, connection, handler).await,
            Protocol::Http2(prefix) => {
                Box::pin(self.serve_http2(stream, prefix, connection, handler)).await
            }
        }
    }

    async fn serve_http1<H: Handler>(
        &self,
        stream: TcpStream,
        prefix: Bytes,
        connection: Rc<Connection>,
        handler: Rc<H>,
    ) {
        let watch = connection.speaks_http1();
        let back = Rc::new(Cell::new(None));
        let guard = Guard::new(stream, prefix, watch);
        let io = TokioIo::new(Lent {
            inner: Some(guard),
            back: back.clone(),
        });
        let facts = connection.clone();
        let service = service_fn(move |request| handler.clone().handle(facts.clone(), request));
        let ended = {
            let mut served = pin!(self.http1.serve_connection(io, service));
            drive(&connection, |cx, finish| {
                if finish {
                    served.as_mut().graceful_shutdown();
                }
                served.as_mut().poll(cx).map(|ended| ended.is_ok())
            })
            .await
        };
        if ended
            && let Some(tunnel) = connection.tunnel()
            && let Some(guard) = back.take()
        {
            // An error here is one side's own; the other has been told by the close.
            let _ = tunnel.relay(guard).await;
        }
    }

    async fn serve_http2<H: Handler>(
        &self,
        stream: TcpStream,
        prefix: Bytes,
        connection: Rc<Connection>,
        handler: Rc<H>,
    ) {
        let watch = connection.speaks_http2();
        let io = TokioIo::new(Frames::new(stream, prefix, watch));
        let facts = connection.clone();
        // Boxed once: hyper moves a stream's future several times (measured, −12 µs a gRPC call over two hops).
        let service =
            service_fn(move |request| Box::pin(handler.clone().handle(facts.clone(), request)));
        let mut served = pin!(self.http2.serve_connection(io, service));
        drive(&connection, |cx, finish| {
            if finish {
                served.as_mut().graceful_shutdown();
            }
            served.as_mut().poll(cx).map(|ended| ended.is_ok())
        })
        .await;
    }
}

/// A connection that hyper gives back when it is done: what is left of it may become a tunnel.
///
/// hyper's own way to get it back demands a `Send` connection or an `Unpin` future.
struct Lent<T> {
    inner: Option<T>,
    back: Rc<Cell<Option<T>>>,
}

impl<T> Drop for Lent<T> {
    fn drop(&mut self) {
        self.back.set(self.inner.take());
    }
}

impl<T: Unpin> Lent<T> {
    /// None is impossible while hyper polls; it reads as a closed connection.
    fn inner(&mut self) -> io::Result<Pin<&mut T>> {
        self.inner
            .as_mut()
            .map(Pin::new)
            .ok_or_else(|| io::ErrorKind::NotConnected.into())
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Lent<T> {
    #[inline]
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.inner()?.poll_read(cx, buf)
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Lent<T> {
    #[inline]
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.inner()?.poll_write(cx, bytes)
    }

    #[inline]
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.inner()?.poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.inner()?.poll_shutdown(cx)
    }
}

/// Polls a connection under its orders; true when it ended by itself and in order.
async fn drive(
    connection: &Connection,
    mut poll: impl FnMut(&mut Context<'_>, bool) -> Poll<bool>,
) -> bool {
    let mut finishing = false;
    poll_fn(|cx| {
        let order = connection.order(cx);
        match order {
            Order::Close(_) => Poll::Ready(false),
            Order::Finish if !finishing => {
                finishing = true;
                poll(cx, true)
            }
            _ => poll(cx, false),
        }
    })
    .await
}

enum Protocol {
    Http1(Bytes),
    Http2(Bytes),
}

/// Reads until the first bytes tell; none when the caller left or took too long.
async fn detect(stream: &TcpStream, connection: &Connection) -> Option<Protocol> {
    let mut first = BytesMut::new();
    let read = async {
        loop {
            stream.readable().await.ok()?;
            // Reserved only now, so that an idle connection holds no buffer.
            first.reserve(4096);
            match stream.try_read_buf(&mut first) {
                Ok(0) => return None,
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => continue,
                Err(_) => return None,
            }
            if first.starts_with(PREFACE) {
                return Some(Protocol::Http2(first.split().freeze()));
            }
            if !PREFACE.starts_with(&first) {
                return Some(Protocol::Http1(first.split().freeze()));
            }
        }
    };
    let mut read = pin!(read);
    poll_fn(|cx| match connection.order(cx) {
        Order::Serve => read.as_mut().poll(cx),
        Order::Finish | Order::Close(_) => Poll::Ready(None),
    })
    .await
}
