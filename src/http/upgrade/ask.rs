//! Asks a callee to switch protocols, in the form of the HTTP that it speaks.
//!
//! HTTP/2 is asked only where its SETTINGS allow it. HTTP/1.1 is asked on a connection of its own: one from the pool
//! may be closing, and whether it saw the request could not be told.

use std::rc::Rc;

use http::{Response, StatusCode};

use super::{Far, Wish, websocket};
use crate::{
    fault::{Class, Fault},
    http::{
        Body, RequestBody,
        body::Kind,
        client::{Failed, Lease, Outgoing, Parking, Peer, http2_head, unanswered},
        h2,
    },
    net::Stream,
    wire,
};

/// Which HTTP a callee is asked over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Over {
    Http1,
    /// HTTP/2, and HTTP/1.1 where that does not allow it.
    Http2,
    /// The same, and HTTP/1.1 also where the callee speaks no HTTP/2 at all.
    Either,
}

impl Over {
    /// What a caller's version means where nothing is said of the callee.
    pub fn of_caller(http2: bool) -> Self {
        match http2 {
            true => Over::Either,
            false => Over::Http1,
        }
    }
}

/// A connection that can be asked for `wish`; `connect` makes one that speaks HTTP/2, or does not.
pub async fn connection(
    wish: &Wish,
    over: Over,
    peer: &Peer,
    connect: impl AsyncFn(bool) -> Result<Lease, Fault>,
) -> Result<Lease, Fault> {
    if over != Over::Http1 && wish.is_websocket() {
        let lease = match peer.ready(true) {
            Some(lease) => Ok(lease),
            None => connect(true).await,
        };
        match lease {
            Ok(Lease::Http2 { connection, scheme }) if connection.allows_protocols() => {
                return Ok(Lease::Http2 { connection, scheme });
            }
            Ok(_) => {}
            Err(fault) if over == Over::Either && fault.class() == Class::Connect => {}
            Err(fault) => return Err(fault),
        }
    }
    connect(false).await
}

/// One try, as `client::send` is one of a request: the answer's head, and the callee's side where it switched.
pub async fn send(
    lease: Lease,
    outgoing: Outgoing<'_>,
    wish: &Wish,
    peer: &Rc<Peer>,
) -> Result<Response<Body>, Failed> {
    match lease {
        Lease::Http1 { connection, .. } => http1(connection, outgoing, wish, peer).await,
        Lease::Http2 { connection, scheme } => {
            http2(connection, scheme, outgoing, wish, peer).await
        }
    }
}

/// Asks for a switch of the whole connection (RFC 9110 §7.8); such a request has no body.
async fn http1(
    connection: wire::Connection<Stream>,
    outgoing: Outgoing<'_>,
    wish: &Wish,
    peer: &Rc<Peer>,
) -> Result<Response<Body>, Failed> {
    let mut headers = outgoing.headers.clone();
    if let Some(key) = wish.key() {
        headers.insert(websocket::KEY, key.clone());
    }
    let head = wire::RequestHead {
        method: outgoing.method,
        target: outgoing.target,
        headers: &headers,
        upgrade: Some(wish.token()),
    };
    let proven = connection.io().warrant().is_some();
    let home = Parking(peer.clone());
    let sent = connection.send(head, RequestBody::Empty, home);
    let (head, body) = match sent.await {
        Ok(response) => response.into_parts(),
        Err(failure) => return Err(unanswered(failure, false, proven, peer.address())),
    };
    peer.interim(body.interim());
    let kind = match head.status {
        StatusCode::SWITCHING_PROTOCOLS => body.into_upgraded().map_or(Kind::Empty, |upgraded| {
            Kind::Switched(Far::socket(upgraded.io, upgraded.leftover))
        }),
        _ => Kind::Http1(body),
    };
    Ok(Response::from_parts(head, Body::of(kind)))
}

/// Asks for a stream of the protocol's bytes (RFC 8441).
///
/// A key goes along, though HTTP/2 does without: Envoy makes none when it goes on over HTTP/1.1 (envoy#8547).
async fn http2(
    connection: h2::Connection,
    scheme: &str,
    outgoing: Outgoing<'_>,
    wish: &Wish,
    peer: &Rc<Peer>,
) -> Result<Response<Body>, Failed> {
    let nothing_sent = |fault| Failed {
        fault,
        body: Some(RequestBody::Empty),
        stale: false,
    };
    let mut request = http2_head(scheme, outgoing).map_err(nothing_sent)?;
    if let Some(key) = wish.key() {
        request.headers_mut().insert(websocket::KEY, key.clone());
    }
    let protocol = wish.token().to_str().unwrap_or_default();
    match connection.switch(request, protocol).await {
        Ok(h2::Switched::Yes(response, duplex)) => {
            Ok(response.map(|()| Body::of(Kind::Switched(Far::Stream(duplex)))))
        }
        Ok(h2::Switched::No(response)) => Ok(response.map(|body| Body::of(Kind::Http2(body)))),
        Err(failure) => Err(nothing_sent(
            failure.fault().inside(peer.address().to_string()),
        )),
    }
}
