//! One address as one worker sees it: its connections, and one try of a request on one of them.
//!
//! HTTP/1.1 connections are pooled last in, first out, and go back by themselves when an answer is over; HTTP/2
//! connections are shared. Which address, how often and how many connections are others' to decide.

use std::{
    any::Any,
    cell::{Cell, OnceCell, RefCell},
    net::SocketAddr,
    rc::{Rc, Weak},
    time::Duration,
};

use http::{HeaderMap, HeaderValue, Method, Response, header};

use super::{
    body::{Body, Kind, RequestBody},
    dialer::{Dialer, Dialled, Speak},
    h2,
    tick::{Tick, Ticks, Timed, Watched},
};
use crate::{
    fault::{Fault, Reason},
    net::{self, Stream, Warrant},
    wire,
};

/// Who gives out connections: told when one is free again.
pub trait Landlord {
    /// True when a connection should rather be closed than pooled: another worker waits for its place.
    fn wants_back(&self) -> bool;
    /// A connection, or a stream of one, became free: one waiter can go on.
    fn freed(&self);
    /// A connection was made, failed or closed: every waiter looks again.
    fn changed(&self);
    /// So many interim (1xx) answers were dropped.
    fn interim(&self, count: u16);
}

/// How a peer's connections are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Keeping {
    /// How long a peer that is connected may take to open HTTP/2.
    pub connect_timeout: Duration,
    /// How long an HTTP/1.1 connection may lie idle before we close it.
    pub idle: Duration,
}

pub struct Peer {
    address: SocketAddr,
    keeping: Keeping,
    landlord: Rc<dyn Landlord>,
    dialer: Rc<dyn Dialer>,
    tick: Rc<Tick>,
    idle: RefCell<Vec<Idle>>,
    http2: RefCell<Vec<Shared>>,
    /// The peer was asked for HTTP/2 and agreed to HTTP/1.1 only.
    only_http1: Cell<bool>,
    dialling: Cell<u32>,
    gone: Cell<bool>,
    place: OnceCell<Watched>,
}

struct Idle {
    connection: wire::Connection<Stream>,
    since: Ticks,
}

struct Shared {
    connection: h2::Connection,
    warrant: Option<Rc<dyn Warrant>>,
    scheme: &'static str,
}

/// Whether another request may go by a connection that was made with this.
fn holds(warrant: Option<&Rc<dyn Warrant>>) -> bool {
    warrant.is_none_or(|warrant| warrant.holds())
}

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

impl Peer {
    pub fn new(
        address: SocketAddr,
        keeping: Keeping,
        landlord: Rc<dyn Landlord>,
        dialer: Rc<dyn Dialer>,
        tick: &Rc<Tick>,
    ) -> Rc<Self> {
        Rc::new(Peer {
            address,
            keeping,
            landlord,
            dialer,
            tick: tick.clone(),
            idle: RefCell::default(),
            http2: RefCell::default(),
            only_http1: Cell::new(false),
            dialling: Cell::new(0),
            gone: Cell::new(false),
            place: OnceCell::new(),
        })
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// So many interim answers of its were dropped.
    pub(super) fn interim(&self, count: u16) {
        if count > 0 {
            self.landlord.interim(count);
        }
    }

    /// Connections that lie idle or are shared now.
    pub fn kept(&self) -> (usize, usize) {
        (self.idle.borrow().len(), self.http2.borrow().len())
    }

    /// A connection that is there already.
    pub fn ready(&self, http2: bool) -> Option<Lease> {
        if http2 && !self.only_http1.get() {
            let mut connections = self.http2.borrow_mut();
            connections.retain(|shared| !shared.connection.is_leaving());
            let shared = connections
                .iter()
                .find(|shared| shared.connection.is_usable() && holds(shared.warrant.as_ref()))?;
            return Some(Lease::Http2 {
                connection: shared.connection.clone(),
                scheme: shared.scheme,
            });
        }
        loop {
            let mut idle = self.idle.borrow_mut().pop()?;
            if holds(idle.connection.io().warrant()) && idle.connection.is_reusable() {
                return Some(Lease::Http1 {
                    connection: idle.connection,
                    reused: true,
                });
            }
        }
    }

    /// True while an HTTP/2 connection is being made: others may wait for it (`Landlord::freed`).
    pub fn is_dialling(&self) -> bool {
        self.dialling.get() > 0
    }

    /// A new connection; `held` goes when it closes.
    pub async fn dial(self: &Rc<Self>, http2: bool, held: Box<dyn Any>) -> Result<Lease, Fault> {
        let _dialling = http2.then(|| OnTheWay::new(self.clone()));
        let speak = if http2 { Speak::Http2 } else { Speak::Http1 };
        let dialled = self.dialer.dial(self.address, speak, held).await?;
        let Dialled {
            stream,
            speaks,
            scheme,
        } = dialled;
        self.only_http1.set(http2 && speaks == Speak::Http1);
        if speaks != Speak::Http2 {
            let connection = wire::Connection::new(stream, wire::Limits::default());
            return Ok(Lease::Http1 {
                connection,
                reused: false,
            });
        }
        let warrant = stream.warrant().cloned();
        let options = h2::Options::default();
        let shaken = tokio::time::timeout(
            self.keeping.connect_timeout,
            h2::handshake(stream, &options, Rc::new(Ear(Rc::downgrade(self)))),
        );
        let connection = match shaken.await {
            Ok(Ok(connection)) => connection,
            Ok(Err(failure)) if failure.kind == h2::Kind::RefusedIdentity => {
                return Err(failure.fault().inside(self.address.to_string()));
            }
            Ok(Err(failure)) => {
                return Err(
                    Fault::new(Reason::ConnectFailed, "the endpoint speaks no HTTP/2")
                        .inside(format!("{}: {failure}", self.address)),
                );
            }
            Err(_) => {
                return Err(Fault::new(
                    Reason::ConnectTimeout,
                    "the endpoint did not open HTTP/2 in time",
                )
                .inside(self.address.to_string()));
            }
        };
        if !self.gone.get() {
            self.timed();
            self.http2.borrow_mut().push(Shared {
                connection: connection.clone(),
                warrant,
                scheme,
            });
        }
        Ok(Lease::Http2 { connection, scheme })
    }

    /// A raw connection, for bytes that are not HTTP.
    pub async fn dial_raw(&self, held: Box<dyn Any>) -> Result<Dialled, Fault> {
        self.dialer.dial(self.address, Speak::Tcp, held).await
    }

    /// Closes one idle connection; false when there is none.
    pub fn shed(&self) -> bool {
        if self.idle.borrow_mut().pop().is_some() {
            return true;
        }
        let mut connections = self.http2.borrow_mut();
        let Some(at) = connections
            .iter()
            .position(|shared| shared.connection.active() == 0)
        else {
            return false;
        };
        connections.swap_remove(at).connection.close_gracefully();
        true
    }

    /// This address left the set: what is in flight ends, nothing is pooled any more.
    pub fn retire(&self) {
        self.gone.set(true);
        self.idle.borrow_mut().clear();
        for shared in self.http2.borrow_mut().drain(..) {
            shared.connection.close_gracefully();
        }
    }

    /// From the first connection that is kept: it may have to be let go of.
    fn timed(self: &Rc<Self>) {
        self.place.get_or_init(|| {
            let weak: Weak<dyn Timed> = Rc::downgrade(self) as Weak<dyn Timed>;
            self.tick.watch(weak)
        });
    }

    fn park(self: &Rc<Self>, connection: wire::Connection<Stream>) {
        if self.gone.get()
            || self.keeping.idle.is_zero()
            || !holds(connection.io().warrant())
            || self.landlord.wants_back()
        {
            return drop(connection);
        }
        self.timed();
        self.idle.borrow_mut().push(Idle {
            connection,
            since: self.tick.now(),
        });
        self.landlord.freed();
    }
}

impl Timed for Peer {
    fn tick(&self, now: Ticks) {
        // Oldest first: the pool is a stack.
        let mut idle = self.idle.borrow_mut();
        let old = idle
            .iter()
            .take_while(|idle| now.since(idle.since) >= self.keeping.idle)
            .count();
        idle.drain(..old);
        if idle.is_empty() && idle.capacity() > 64 {
            idle.shrink_to_fit();
        }
        self.http2.borrow_mut().retain(|shared| {
            let holds = holds(shared.warrant.as_ref());
            if !holds {
                // Calls under way end by themselves, or with their stream; the next one shakes hands anew.
                shared.connection.close_gracefully();
            }
            holds
        });
    }
}

/// Hears what an HTTP/2 connection tells its peer.
struct Ear(Weak<Peer>);

impl h2::Observer for Ear {
    fn informational(&self) {
        if let Some(peer) = self.0.upgrade() {
            peer.landlord.interim(1);
        }
    }

    fn freed(&self) {
        if let Some(peer) = self.0.upgrade() {
            peer.landlord.freed();
        }
    }

    fn leaving(&self) {
        self.forget();
    }

    fn closed(&self, _: h2::Kind) {
        self.forget();
    }
}

impl Ear {
    fn forget(&self) {
        if let Some(peer) = self.0.upgrade() {
            peer.http2
                .borrow_mut()
                .retain(|shared| !shared.connection.is_leaving());
            peer.landlord.freed();
        }
    }
}

/// Counts an HTTP/2 connection that is being made.
struct OnTheWay(Rc<Peer>);

impl OnTheWay {
    fn new(peer: Rc<Peer>) -> Self {
        peer.dialling.set(peer.dialling.get() + 1);
        OnTheWay(peer)
    }
}

impl Drop for OnTheWay {
    fn drop(&mut self) {
        self.0.dialling.set(self.0.dialling.get() - 1);
        self.0.landlord.changed();
    }
}

/// Takes an HTTP/1.1 connection back to its peer's pool.
pub struct Parking(pub(super) Rc<Peer>);

impl wire::Home<Stream> for Parking {
    fn keep(self, connection: wire::Connection<Stream>) {
        self.0.park(connection);
    }
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
                    if response.body().interim() > 0 {
                        peer.landlord.interim(response.body().interim());
                    }
                    Ok(response.map(|body| Body::of(Kind::Http1(body))))
                }
                Err(failure) => Err(unanswered(failure, reused, proven, peer.address)),
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
        Err(rejected) => Err(unanswered_http2(rejected, peer.address)),
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

#[cold]
pub(super) fn unanswered(
    failure: wire::Failure<RequestBody>,
    reused: bool,
    proven: bool,
    address: SocketAddr,
) -> Failed {
    let silent = !failure.received;
    let fault = match failure.error {
        wire::Error::RequestBody(fault) => {
            return Failed {
                fault,
                body: None,
                stale: false,
            };
        }
        error if error.is_requests() => {
            Fault::new(Reason::BodyBroken, "the request cannot be sent on")
                .inside(error.to_string())
        }
        wire::Error::Io(error) if proven && !reused && silent && net::is_alert(&error) => {
            refused_identity(address, &error)
        }
        error if !failure.wrote => Fault::new(
            Reason::Refused,
            "the endpoint closed before the request was sent",
        )
        .inside(format!("{address}: {error}")),
        error @ (wire::Error::Closed | wire::Error::Io(_)) => {
            Fault::new(Reason::Reset, "the endpoint closed before it answered")
                .inside(format!("{address}: {error}"))
        }
        wire::Error::UnaskedUpgrade => Fault::new(
            Reason::UnaskedUpgrade,
            "the endpoint switched protocols without being asked",
        )
        .inside(address.to_string()),
        error @ (wire::Error::HeadTooLarge | wire::Error::TooManyFields) => {
            Fault::new(Reason::AnswerTooLarge, "the answer's head is too large")
                .inside(format!("{address}: {error}"))
        }
        error => Fault::new(Reason::BadAnswer, "the endpoint's answer is not HTTP")
            .inside(format!("{address}: {error}")),
    };
    let stale = reused && silent && fault.reason() == Reason::Reset;
    Failed {
        fault,
        body: failure.body,
        stale,
    }
}

/// In TLS 1.3 a peer that refuses our certificate says so after our handshake is over: before it read a request.
#[cold]
fn refused_identity(address: SocketAddr, error: &dyn std::error::Error) -> Fault {
    Fault::new(
        Reason::RefusedIdentity,
        "the endpoint refuses this sidecar's identity",
    )
    .inside(format!("{address}: {error}"))
}

#[cold]
fn unanswered_http2(rejected: h2::Rejected<RequestBody>, address: SocketAddr) -> Failed {
    match rejected {
        h2::Rejected::Body(fault) => Failed {
            fault,
            body: None,
            stale: false,
        },
        h2::Rejected::Upstream { failure, body, .. } => Failed {
            fault: failure.fault().inside(address.to_string()),
            body,
            stale: false,
        },
    }
}

/// An answer that broke off after its head.
#[cold]
pub(super) fn broken_answer(error: wire::Error<Fault>) -> Fault {
    match error {
        wire::Error::RequestBody(fault) => fault,
        error => Fault::new(Reason::Reset, "the answer broke off").inside(error.to_string()),
    }
}

#[cold]
pub(super) fn broken_stream(failure: h2::Failure) -> Fault {
    failure.fault()
}
