//! One try of a request, on one connection to one address.
//!
//! Where connections are kept between tries is the `pool`'s to know.

mod faults;
mod pool;

use std::rc::Rc;

use http::{HeaderMap, HeaderValue, Method, Response, header};

use super::{
    body::{Body, Kind, RequestBody},
    h2,
};
use crate::{
    fault::{Fault, Reason},
    net::Stream,
    wire,
};

use faults::unanswered_http2;
pub(super) use faults::{broken_answer, broken_stream, unanswered};
pub use pool::{Keeping, Landlord, Parking, Peer};

/// A connection for one try.
pub enum Lease {
    Http1 {
        connection: wire::Connection<Stream>,
        reused: bool,
    },
    Http2 {
        connection: h2::Connection,
        scheme: &'static str,
    },
}

/// A head as it goes to the callee. `headers` has exactly one `Host` and no hop-by-hop field.
#[derive(Clone, Copy)]
pub struct Outgoing<'a> {
    pub method: &'a Method,
    /// Path and query.
    pub target: &'a str,
    pub headers: &'a HeaderMap,
}

/// A try that brought no answer.
pub struct Failed {
    pub fault: Fault,
    /// The body, if no byte of it was read.
    pub body: Option<RequestBody>,
    /// A pooled connection that closed before any byte of an answer: it may have closed before it saw the request.
    pub stale: bool,
}

/// One try on one connection: the answer's head, its body still to come.
pub async fn send(
    lease: Lease,
    outgoing: Outgoing<'_>,
    body: RequestBody,
    peer: &Rc<Peer>,
) -> Result<Response<Body>, Failed> {
    match lease {
        Lease::Http1 { connection, reused } => {
            let head = wire::RequestHead {
                method: outgoing.method,
                target: outgoing.target,
                headers: outgoing.headers,
                upgrade: None,
            };
            let proven = connection.io().warrant().is_some();
            match connection.send(head, body, Parking(peer.clone())).await {
                Ok(response) => {
                    peer.interim(response.body().interim());
                    Ok(response.map(|body| Body::of(Kind::Http1(body))))
                }
                Err(failure) => Err(unanswered(failure, reused, proven, peer.address())),
            }
        }
        Lease::Http2 { connection, scheme } => {
            Box::pin(send_http2(connection, scheme, outgoing, body, peer)).await
        }
    }
}

async fn send_http2(
    connection: h2::Connection,
    scheme: &str,
    outgoing: Outgoing<'_>,
    body: RequestBody,
    peer: &Rc<Peer>,
) -> Result<Response<Body>, Failed> {
    let request = match http2_head(scheme, outgoing) {
        Ok(request) => request,
        Err(fault) => {
            return Err(Failed {
                fault,
                body: Some(body),
                stale: false,
            });
        }
    };
    match connection.send(request, body).await {
        Ok(response) => Ok(response.map(|body| Body::of(Kind::Http2(body)))),
        Err(rejected) => Err(unanswered_http2(rejected, peer.address())),
    }
}

/// The same head in HTTP/2's form: the authority from `Host`, no field that HTTP/2 forbids (RFC 9113 §8.2.2).
pub(super) fn http2_head(scheme: &str, outgoing: Outgoing<'_>) -> Result<http::Request<()>, Fault> {
    let authority = outgoing
        .headers
        .get(header::HOST)
        .map_or(&b""[..], HeaderValue::as_bytes);
    let uri = http::Uri::builder()
        .scheme(scheme)
        .authority(authority)
        .path_and_query(outgoing.target)
        .build();
    let uri = uri.map_err(|error| {
        Fault::new(
            Reason::BadRequest,
            "the request's host or path cannot be said in HTTP/2",
        )
        .inside(error.to_string())
    })?;
    let mut request = http::Request::new(());
    *request.method_mut() = outgoing.method.clone();
    *request.uri_mut() = uri;
    *request.version_mut() = http::Version::HTTP_2;
    let mut headers = outgoing.headers.clone();
    headers.remove(header::HOST);
    *request.headers_mut() = headers;
    Ok(request)
}
