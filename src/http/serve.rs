//! An accepted connection, from its first byte to its last: which HTTP it speaks, hyper to speak it, and our
//! timers, drains and tunnels around hyper.

use std::{
    convert::Infallible,
    future::{Future, poll_fn},
    io, mem,
    pin::{Pin, pin},
    rc::Rc,
    task::{Context, Poll, ready},
};

use bytes::{Bytes, BytesMut};
use http::{Request, Response};
use hyper::{
    body::Incoming,
    server::conn::{
        http1::{self, Parts},
        http2,
    },
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use tokio::io::AsyncReadExt;

use super::{
    body::Body,
    connection::{Connection, Order},
    frames::Frames,
    guard::Guard,
    strand::Strand,
    upgrade::Ending,
};
use crate::{
    fault::{Fault, Reason},
    net::{self, Stream},
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
        Server { http1 }
    }
}

fn http2(connection: &Rc<Connection>) -> http2::Builder<Streams> {
    let mut http2 = http2::Builder::new(Streams(connection.clone()));
    http2
        .max_concurrent_streams(STREAMS)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_send_buf_size(SEND_BUFFER)
        .max_header_list_size(HEAD as u32)
        .max_local_error_reset_streams(LOCAL_RESETS)
        .enable_connect_protocol();
    http2
}

/// Runs the tasks of a connection's streams on the worker's own thread, and knows which stream each is of: hyper
/// starts a stream's first from the connection's task, and a second, where a CONNECT succeeds, from the first.
#[derive(Clone)]
struct Streams(Rc<Connection>);

impl<F> hyper::rt::Executor<F> for Streams
where
    F: Future + 'static,
{
    fn execute(&self, future: F) {
        let connection = self.0.clone();
        let strand = connection.strand();
        let strand = strand.unwrap_or_else(|| connection.opens_strand());
        let own = strand.clone();
        let task = tokio::task::spawn_local(async move {
            let mut future = pin!(future);
            poll_fn(|cx| {
                let _turn = Turn::of(&connection, &own);
                future.as_mut().poll(cx)
            })
            .await;
        });
        strand.runs(task.abort_handle());
    }
}

/// While it lives, what happens on the connection happens for this stream.
struct Turn<'a>(&'a Connection);

impl<'a> Turn<'a> {
    fn of(connection: &'a Connection, strand: &Rc<Strand>) -> Self {
        connection.turns_to(Some(strand.clone()));
        Turn(connection)
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.0.turns_to(None);
    }
}

/// What is known of a connection's bytes before HTTP begins, with those that were read to know it.
pub enum Opening {
    /// Nothing: the first bytes tell which HTTP it is.
    Unknown,
    Http1(Bytes),
    Http2(Bytes),
}

impl Server {
    /// Serves one connection to its end. Dropping the future closes it.
    pub async fn serve<H: Handler>(
        &self,
        mut stream: Stream,
        opening: Opening,
        connection: Rc<Connection>,
        handler: Rc<H>,
    ) {
        let weak: std::rc::Weak<dyn super::tick::Timed> = Rc::downgrade(&connection) as _;
        let _timed = connection.desk().tick.watch(weak);
        let opening = match opening {
            Opening::Unknown => detect(&mut stream, &connection).await,
            known => known,
        };
        match opening {
            Opening::Http1(prefix) => self.serve_http1(stream, prefix, connection, handler).await,
            Opening::Http2(prefix) => {
                Box::pin(self.serve_http2(stream, prefix, connection, handler)).await
            }
            Opening::Unknown => {}
        }
    }

    async fn serve_http1<H: Handler>(
        &self,
        stream: Stream,
        prefix: Bytes,
        connection: Rc<Connection>,
        handler: Rc<H>,
    ) {
        let mut guard = Guard::new(stream, prefix, connection.speaks_http1());
        loop {
            let (handler, facts) = (handler.clone(), connection.clone());
            let service = service_fn(move |request| handler.clone().handle(facts.clone(), request));
            let mut served = self.http1.serve_connection(TokioIo::new(guard), service);
            let driven = drive(&connection, |cx, finish| {
                let mut served = Pin::new(&mut served);
                if finish {
                    served.as_mut().graceful_shutdown();
                }
                served.poll(cx).map(|ended| ended.is_ok())
            })
            .await;
            // What else there was of hyper, its buffers above all, is gone.
            let Parts { io, read_buf, .. } = served.into_parts();
            guard = io.into_inner();
            match driven {
                Driven::Ended => {
                    guard.take_back(&read_buf);
                    return Box::pin(tunnel(&connection, guard)).await;
                }
                // The tunnel holds its exchange, and that the connection.
                Driven::Broken => return drop(connection.tunnel()),
                Driven::Resting => {
                    guard.take_back(&read_buf);
                    drop(read_buf);
                    if !rest(&connection, guard.get_mut()).await {
                        return;
                    }
                }
            }
        }
    }

    async fn serve_http2<H: Handler>(
        &self,
        stream: Stream,
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
        let mut served = pin!(http2(&connection).serve_connection(io, service));
        // HTTP/2 never rests.
        drive(&connection, |cx, finish| {
            if finish {
                served.as_mut().graceful_shutdown();
            }
            served.as_mut().poll(cx).map(|ended| ended.is_ok())
        })
        .await;
    }
}

/// Why a connection is no longer polled.
enum Driven {
    /// By itself and in order.
    Ended,
    /// By itself, with an error, or because we close it.
    Broken,
    Resting,
}

/// Polls a connection under its orders.
async fn drive(
    connection: &Connection,
    mut poll: impl FnMut(&mut Context<'_>, bool) -> Poll<bool>,
) -> Driven {
    let mut finishing = false;
    poll_fn(|cx| {
        let finish = match connection.order(cx) {
            Order::Close(_) => return Poll::Ready(Driven::Broken),
            Order::Rest => return Poll::Ready(Driven::Resting),
            Order::Finish => !mem::replace(&mut finishing, true),
            Order::Serve => false,
        };
        let ended = ready!(poll(cx, finish));
        Poll::Ready(if ended { Driven::Ended } else { Driven::Broken })
    })
    .await
}

/// What a connection does once it has left HTTP, if it has.
async fn tunnel(connection: &Connection, mut guard: Guard<Stream>) {
    let Some(tunnel) = connection.tunnel() else {
        return;
    };
    let cut = |cx: &mut Context<'_>| match connection.order(cx) {
        Order::Close(rule) => Poll::Ready(closed_by(rule)),
        _ => Poll::Pending,
    };
    net::be_patient(guard.get_mut().tcp());
    if tunnel.run(&mut guard, cut).await == Ending::Abrupt {
        net::reset(guard.get_mut().tcp());
    }
}

#[cold]
fn closed_by(rule: &'static str) -> Fault {
    match rule {
        "drain" => Fault::new(
            Reason::Draining,
            "this sidecar is leaving and the tunnel was open",
        ),
        _ => Fault::new(Reason::ClientGone, "the tunnel was closed by a rule").inside(rule),
    }
}

/// Waits, without a buffer, for the next request's first byte; false when the connection is to close instead.
async fn rest(connection: &Connection, stream: &mut Stream) -> bool {
    let mut readable = pin!(stream.readable());
    let woken = poll_fn(|cx| match connection.order(cx) {
        Order::Serve | Order::Rest => readable.as_mut().poll(cx).map(|ready| ready.is_ok()),
        Order::Finish | Order::Close(_) => Poll::Ready(false),
    })
    .await;
    connection.wakes();
    woken
}

/// Reads until the first bytes tell; nothing is known when the caller left or took too long.
async fn detect(stream: &mut Stream, connection: &Connection) -> Opening {
    let mut first = BytesMut::new();
    let read = async {
        loop {
            stream.readable().await?;
            // Reserved only now, so that an idle connection holds no buffer.
            first.reserve(4096);
            if stream.read_buf(&mut first).await? == 0 {
                return Ok::<_, io::Error>(Opening::Unknown);
            }
            if first.starts_with(PREFACE) {
                return Ok(Opening::Http2(first.split().freeze()));
            }
            if !PREFACE.starts_with(&first) {
                return Ok(Opening::Http1(first.split().freeze()));
            }
        }
    };
    let mut read = pin!(read);
    poll_fn(|cx| match connection.order(cx) {
        Order::Serve | Order::Rest => read
            .as_mut()
            .poll(cx)
            .map(|read| read.unwrap_or(Opening::Unknown)),
        Order::Finish | Order::Close(_) => Poll::Ready(Opening::Unknown),
    })
    .await
}

#[cfg(test)]
mod tests;
