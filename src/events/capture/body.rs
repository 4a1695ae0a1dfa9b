//! Collects the body of a call that is kept: bounded, and for gRPC exactly one message.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http_body::Body as _;
use hyper::body::Incoming;

use crate::{
    fault::{Fault, Reason},
    http::{Exchange, RequestBody},
};

/// How long a gRPC caller may leave its side open behind a message: a unary one closes it at once.
const STREAMING: Duration = Duration::from_secs(10);
/// Before each gRPC message: a flag and the length.
const PREFIX: usize = 5;

/// The whole body, at most `limit` bytes.
pub async fn collect(exchange: &mut Exchange, body: Incoming, limit: u64) -> Result<Bytes, Fault> {
    if body.size_hint().lower() > limit {
        return Err(too_large(limit));
    }
    let body = exchange.body(body);
    if !exchange.grpc {
        return gather(body, limit, |_| Ok(())).await;
    }
    let gathered = Box::pin(tokio::time::timeout(
        STREAMING,
        gather(body, limit, |bytes| match message_end(bytes) {
            Some(end) if bytes.len() > end => Err(streams()),
            _ => Ok(()),
        }),
    ));
    let bytes = gathered.await.map_err(|_| streams())??;
    match message_end(&bytes) {
        Some(end) if end == bytes.len() => Ok(bytes),
        _ => Err(streams()),
    }
}

async fn gather(
    mut body: RequestBody,
    limit: u64,
    check: impl Fn(&[u8]) -> Result<(), Fault>,
) -> Result<Bytes, Fault> {
    let mut first = Bytes::new();
    let mut whole = BytesMut::new();
    loop {
        let frame = std::future::poll_fn(|cx| std::pin::Pin::new(&mut body).poll_frame(cx)).await;
        let Some(frame) = frame else { break };
        // Trailers end with this hop.
        let Ok(data) = frame?.into_data() else {
            continue;
        };
        if (first.len() + whole.len() + data.len()) as u64 > limit {
            return Err(too_large(limit));
        }
        // Most bodies are one frame: those are never copied.
        if first.is_empty() && whole.is_empty() {
            check(&data)?;
            first = data;
        } else {
            if whole.is_empty() {
                whole.extend_from_slice(&first);
                first = Bytes::new();
            }
            whole.extend_from_slice(&data);
            check(&whole)?;
        }
    }
    Ok(if whole.is_empty() {
        first
    } else {
        whole.freeze()
    })
}

/// Where the first message ends, once its prefix is there.
fn message_end(bytes: &[u8]) -> Option<usize> {
    let length = bytes.get(1..PREFIX)?.try_into().ok()?;
    (u32::from_be_bytes(length) as usize).checked_add(PREFIX)
}

#[cold]
fn too_large(limit: u64) -> Fault {
    Fault::new(
        Reason::BodyTooLarge,
        format!("a deferred call has at most {limit} bytes (outbox.limits.event)"),
    )
}

#[cold]
fn streams() -> Fault {
    Fault::new(
        Reason::NotDeferrable,
        "only a unary gRPC call can be kept for later: exactly one message",
    )
}
