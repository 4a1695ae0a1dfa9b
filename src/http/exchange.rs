//! One record per exchange: made when a request's head has been read, spent when its answer is over.
//!
//! It owns the request's head, so that a retry and the access log read the same facts. Dropping it counts the
//! exchange and hands its line to the access log: the two cannot disagree and cannot be skipped, whether the
//! answer was sent whole, broke off, or the caller went away.

use std::{
    cell::Cell,
    net::SocketAddr,
    rc::Rc,
    sync::Arc,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use http::{HeaderMap, HeaderName, HeaderValue, header, request::Parts, uri::Authority};
use http_body::Body as _;
use hyper::body::Incoming;

use super::{
    body::RequestBody, connection::Connection, headers::Facts, meter::RouteMeter, pulse::Pulse,
    strand::Strand, upgrade::Upgrade,
};
use crate::{
    fault::{Fault, Reason},
    net, telemetry,
    units::SpiffeId,
};

/// What happened on the way to the callee.
#[derive(Default)]
pub struct Trail {
    /// Tries made, the first included.
    pub tries: u32,
    /// Tries that got no connection.
    pub unconnected: u32,
    pub upstream: Option<Arc<str>>,
    pub endpoint: Option<SocketAddr>,
    /// The endpoint that is meant, where the upstream has it: the caller dialled this address itself.
    pub exactly: Option<SocketAddr>,
}

/// A request's facts.
pub struct Exchange {
    /// The head as it is forwarded.
    pub head: Parts,
    pub trail: Trail,
    pub grpc: bool,
    pub connection: Rc<Connection>,
    /// The request asks for more than an answer.
    pub upgrade: Option<Box<Upgrade>>,
    /// The stream it came on.
    strand: Option<Rc<Strand>>,
    /// None until a route was found.
    route: Option<Arc<RouteMeter>>,
    started: Instant,
    status: u16,
    grpc_status: Option<u16>,
    failure: Option<Fault>,
    /// None where the request has no body.
    request_bytes: Option<Rc<Cell<u64>>>,
    response_bytes: u64,
    /// As the answer's head said.
    response_length: Option<u64>,
    /// The `Trailer` fields of the answer.
    announced: Vec<HeaderValue>,
    finished: bool,
    /// When the answer switched protocols: what came after it is not the callee's time.
    switched: Option<Duration>,
}

impl Exchange {
    pub fn new(head: Parts, connection: Rc<Connection>) -> Box<Self> {
        connection.began();
        if let Some(credential) = connection.credential() {
            credential.called();
        }
        Box::new(Exchange {
            strand: connection.strand(),
            upgrade: None,
            head,
            trail: Trail::default(),
            grpc: false,
            connection,
            route: None,
            started: Instant::now(),
            status: 0,
            grpc_status: None,
            failure: None,
            request_bytes: None,
            response_bytes: 0,
            response_length: None,
            announced: Vec::new(),
            finished: false,
            switched: None,
        })
    }

    pub fn started(&self) -> Instant {
        self.started
    }

    /// The request took the route of this meter.
    pub fn routed(&mut self, route: &Arc<RouteMeter>) {
        self.route = Some(route.clone());
    }

    /// The request's body: counted as it is read, and cut where it stands still. gRPC streams may stand still.
    pub fn body(&mut self, incoming: Incoming) -> RequestBody {
        if incoming.is_end_stream() {
            return RequestBody::Empty;
        }
        let bytes = self.request_bytes.get_or_insert_default().clone();
        let pace = self.connection.pace();
        let pulse = (!self.grpc).then(|| Pulse::new(pace, &self.connection.desk().tick));
        RequestBody::live(incoming, bytes, pulse)
    }

    fn meter(&self) -> &RouteMeter {
        let unrouted = || self.connection.desk().unrouted(self.connection.direction());
        self.route.as_deref().unwrap_or_else(unrouted)
    }

    fn bytes_in(&self) -> u64 {
        self.request_bytes.as_ref().map_or(0, |bytes| bytes.get())
    }

    pub fn answered(&mut self, status: u16, grpc_status: Option<u16>) {
        self.status = status;
        self.grpc_status = grpc_status;
    }

    #[cold]
    pub fn failed(&mut self, fault: Fault) {
        self.connection.meter().failed(fault.reason());
        self.failure.get_or_insert(fault);
    }

    /// The callee answered with this head; `facts` are those of its hygiene.
    pub fn headed(&mut self, facts: &Facts, headers: &HeaderMap) {
        self.response_length = facts.content_length;
        if facts.trailers {
            self.announced = headers.get_all(header::TRAILER).iter().cloned().collect();
        }
    }

    /// The answer ends with these; counts them where its caller cannot get them all.
    pub fn trailed(&self, trailers: &HeaderMap) {
        if !self.connection.is_http2() && !self.passes(trailers) {
            self.connection.desk().trailers_dropped();
        }
    }

    /// hyper sends HTTP/1.1 trailers to who asked for them, those that the head announced, behind chunks.
    fn passes(&self, trailers: &HeaderMap) -> bool {
        let announced = |name: &HeaderName| {
            let lists = self.announced.iter();
            lists
                .flat_map(|list| list.as_bytes().split(|byte| *byte == b','))
                .any(|one| {
                    one.trim_ascii()
                        .eq_ignore_ascii_case(name.as_str().as_bytes())
                })
        };
        self.head.headers.contains_key(header::TE)
            && self.response_length.is_none()
            && trailers.keys().all(announced)
    }

    pub fn sent(&mut self, bytes: usize) {
        self.response_bytes += bytes as u64;
    }

    pub fn grpc_ended(&mut self, status: u16) {
        self.grpc_status = Some(status);
    }

    /// The answer's last byte was handed to the caller's connection.
    pub fn finished(&mut self) {
        self.finished = true;
    }

    /// What passes once the exchange is a tunnel, counted for its route as it passes.
    pub fn tally(&self) -> net::Tally {
        self.meter().tally()
    }

    /// The answer switched protocols; it is not over.
    pub fn switched(&mut self) {
        self.switched = Some(self.started.elapsed());
    }

    /// So much has passed, as the route's meter knows already.
    pub fn relayed(&mut self, from_near: u64, from_far: u64) {
        self.request_bytes.get_or_insert_default().set(from_near);
        self.response_bytes = from_far;
    }

    /// Whether the caller has something of its answer to take.
    #[inline]
    pub(super) fn offers(&self, something: bool) {
        if let Some(strand) = &self.strand {
            strand.offers_anew(something);
        }
    }

    fn is_error(&self) -> bool {
        self.failure.is_some()
            || self.status >= 500
            || self.grpc_status.is_some_and(telemetry::fails_the_server)
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        // Behind a known length an HTTP/1.1 caller's connection asks for no more, be there trailers or none.
        let whole = self.finished || self.response_length == Some(self.response_bytes);
        if !whole && self.failure.is_none() {
            let stalled = self
                .strand
                .as_ref()
                .is_some_and(|strand| strand.is_stalled());
            let words = match stalled {
                true => "the caller took none of its answer for too long (timers.writeStall)",
                false => "the caller went away before its answer was over",
            };
            self.failed(Fault::new(Reason::ClientGone, words));
        }
        let elapsed = self.started.elapsed();
        // 499, as nginx has it: the caller left before there was an answer.
        let status = if self.status == 0 { 499 } else { self.status };
        let (seconds, bytes_in, bytes_out) = match self.switched {
            None => (elapsed, self.bytes_in(), self.response_bytes),
            Some(at) => (at, 0, 0),
        };
        self.meter()
            .ended(status, seconds.as_secs_f64(), bytes_in, bytes_out);
        self.connection.ended();
        if self.connection.desk().access.wants(self.is_error()) {
            self.log(elapsed);
        }
    }
}

impl Exchange {
    #[cold]
    fn log(&self, elapsed: Duration) {
        let endpoint = self.trail.endpoint.map(|endpoint| endpoint.to_string());
        let peer = self.connection.peer().to_string();
        let header = |name: &str| {
            self.head
                .headers
                .get(name)
                .and_then(|value| value.to_str().ok())
        };
        let detail = self.failure.as_ref().map(ToString::to_string);
        self.connection.desk().access.write(&telemetry::Line {
            ts: SystemTime::now().checked_sub(elapsed).unwrap_or(UNIX_EPOCH),
            direction: self.connection.direction(),
            protocol: self.connection.protocol(),
            method: self.head.method.as_str(),
            host: self
                .head
                .uri
                .authority()
                .map(Authority::as_str)
                .or_else(|| header("host"))
                .unwrap_or(""),
            path: self.head.uri.path(),
            route: Some(self.meter().name()),
            upstream: self.trail.upstream.as_deref(),
            endpoint: endpoint.as_deref(),
            status: (self.status != 0).then_some(self.status),
            grpc_status: self.grpc_status,
            reason: self.failure.as_ref().map(|fault| fault.reason().word()),
            detail: detail.as_deref(),
            request_id: header("x-request-id"),
            traceparent: header("traceparent"),
            bytes_in: self.bytes_in(),
            bytes_out: self.response_bytes,
            duration: elapsed,
            attempts: self.trail.tries,
            peer: Some(&peer),
            identity: self.connection.identity().map(SpiffeId::as_str),
        });
    }
}
