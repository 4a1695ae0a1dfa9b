//! Any bytes as an upstream's answer: no panic, always an end, never more body than bytes, and the same exchange
//! whether they come at once or in pieces.
#![no_main]

// The room alone: the whole crate under a sanitizer would take minutes to build.
#[allow(dead_code)]
#[path = "../../../src/wire/mod.rs"]
mod wire;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method};
use http_body::Body;
use http_body_util::Empty;
use libfuzzer_sys::fuzz_target;
use std::{
    cell::Cell,
    future::Future,
    io,
    pin::{Pin, pin},
    task::{Context, Poll, Waker},
};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use wire::{Connection, Home, Limits, RequestHead};

const LIMITS: Limits = Limits {
    head: 512,
    fields: 8,
};

fuzz_target!(|input: &[u8]| {
    let [kind, size, answer @ ..] = input else {
        return;
    };
    let size = usize::from(*size % 64) + 1;
    let (whole, cut) = (
        exchange(*kind, answer, answer.len().max(1)),
        exchange(*kind, answer, size),
    );
    assert!(whole.body.len() <= answer.len());
    assert_eq!(whole.told, cut.told);
    // Leftovers of another read are found when the connection is used again, not here.
    assert_eq!(whole.body, cut.body);
    assert!(!whole.kept || cut.kept);
});

struct Seen {
    body: Vec<u8>,
    told: String,
    kept: bool,
}

fn exchange(kind: u8, answer: &[u8], size: usize) -> Seen {
    let kept = Cell::new(false);
    let headers = HeaderMap::new();
    let offered = HeaderValue::from_static("websocket");
    let (method, upgrade) = match kind % 4 {
        0 => (Method::GET, None),
        1 => (Method::HEAD, None),
        2 => (Method::CONNECT, None),
        _ => (Method::GET, Some(&offered)),
    };
    let head = RequestHead {
        method: &method,
        target: "/",
        headers: &headers,
        upgrade,
    };
    let peer = Peer { rest: answer, size };
    let answer = Connection::new(peer, LIMITS).send(head, Empty::<Bytes>::new(), Shelf(&kept));
    let mut body = Vec::new();
    let mut told = String::new();
    match now(answer) {
        Err(failure) => told = failure.error.to_string(),
        Ok(answer) => {
            told += &format!("{} {:?}", answer.status(), answer.headers());
            let mut rest = pin!(answer.into_body());
            let mut left = rest.size_hint().exact();
            while let Some(frame) = now(std::future::poll_fn(|cx| rest.as_mut().poll_frame(cx))) {
                match frame.map(|frame| frame.into_data()) {
                    Ok(Ok(data)) => {
                        assert!(!data.is_empty());
                        left = left.map(|left| left - data.len() as u64);
                        assert_eq!(left, rest.size_hint().exact().filter(|_| left.is_some()));
                        body.extend_from_slice(&data);
                    }
                    Ok(Err(trailers)) => told += &format!("{:?}", trailers.into_trailers().ok()),
                    Err(error) => told += &error.to_string(),
                }
            }
            assert!(rest.is_end_stream());
        }
    }
    Seen {
        body,
        told,
        kept: kept.get(),
    }
}

/// The peer never waits, so nothing may.
fn now<F: Future>(future: F) -> F::Output {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(output) => output,
        Poll::Pending => panic!("waits for nothing"),
    }
}

struct Shelf<'a>(&'a Cell<bool>);

impl<IO> Home<IO> for Shelf<'_> {
    fn keep(self, _: Connection<IO>) {
        self.0.set(true);
    }
}

/// Gives `size` bytes a read, then closes; takes whatever it is sent.
struct Peer<'a> {
    rest: &'a [u8],
    size: usize,
}

impl AsyncRead for Peer<'_> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let size = self.size.min(self.rest.len()).min(buf.remaining());
        let (now, rest) = self.rest.split_at(size);
        buf.put_slice(now);
        self.rest = rest;
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Peer<'_> {
    fn poll_write(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Poll::Ready(Ok(buf.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
