//! The two bodies: what goes to a callee, and what goes back to a caller.
//!
//! Data passes as it is, trailers without what belongs in a head. Each is one enum, so that no body is boxed; each names
//! the side at fault when it breaks, because only the callee's failures may count against an endpoint.

use std::{
    cell::Cell,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, ready},
    time::Instant,
};

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body as HttpBody, Frame, SizeHint};
use hyper::body::Incoming;

use super::{
    client::Parking, cut::Cut, exchange::Exchange, h2, headers::clean_trailers, pulse::Pulse,
    replay::Replay, upgrade::Far,
};
use crate::{
    fault::{Fault, Reason},
    net, wire,
};

/// A request's body on its way to a callee.
pub enum RequestBody {
    Empty,
    Live(Live),
    /// Recorded as it passes, so that another try can send it again.
    Replay(Replay),
    /// Held whole already.
    Whole(Option<Bytes>),
}

/// A caller's body as it arrives.
pub struct Live {
    incoming: Incoming,
    bytes: Rc<Cell<u64>>,
    pulse: Option<Rc<Pulse>>,
}

impl RequestBody {
    /// `pulse` is absent where a body may stand still.
    pub(super) fn live(incoming: Incoming, bytes: Rc<Cell<u64>>, pulse: Option<Rc<Pulse>>) -> Self {
        RequestBody::Live(Live {
            incoming,
            bytes,
            pulse,
        })
    }

    pub fn whole(bytes: Bytes) -> Self {
        if bytes.is_empty() {
            RequestBody::Empty
        } else {
            RequestBody::Whole(Some(bytes))
        }
    }

    pub fn is_empty(&self) -> bool {
        matches!(self, RequestBody::Empty)
    }
}

impl HttpBody for RequestBody {
    type Data = Bytes;
    type Error = Fault;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Fault>>> {
        match &mut *self {
            RequestBody::Empty => Poll::Ready(None),
            RequestBody::Live(live) => live.poll_frame(cx),
            RequestBody::Replay(replay) => replay.poll_frame(cx),
            RequestBody::Whole(bytes) => {
                Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes))))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            RequestBody::Empty => true,
            RequestBody::Live(live) => live.incoming.is_end_stream(),
            RequestBody::Replay(replay) => replay.is_end_stream(),
            RequestBody::Whole(bytes) => bytes.is_none(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            RequestBody::Empty => SizeHint::with_exact(0),
            RequestBody::Live(live) => live.incoming.size_hint(),
            RequestBody::Replay(replay) => replay.size_hint(),
            RequestBody::Whole(bytes) => {
                SizeHint::with_exact(bytes.as_ref().map_or(0, Bytes::len) as u64)
            }
        }
    }
}

impl Live {
    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Fault>>> {
        if let Some(pulse) = &self.pulse
            && pulse.is_over()
        {
            return Poll::Ready(Some(Err(too_slow())));
        }
        match Pin::new(&mut self.incoming).poll_frame(cx) {
            Poll::Pending => {
                if let Some(pulse) = &self.pulse {
                    pulse.waits(cx);
                }
                Poll::Pending
            }
            Poll::Ready(Some(Ok(mut frame))) => {
                if let Some(data) = frame.data_ref() {
                    self.bytes.set(self.bytes.get() + data.len() as u64);
                    if let Some(pulse) = &self.pulse {
                        pulse.came(data.len());
                    }
                } else if let Some(trailers) = frame.trailers_mut()
                    && !clean_trailers(trailers)
                {
                    let fault = Fault::new(Reason::BodyBroken, "more than 100 trailers");
                    return Poll::Ready(Some(Err(fault)));
                }
                Poll::Ready(Some(Ok(frame)))
            }
            Poll::Ready(Some(Err(error))) => Poll::Ready(Some(Err(broken(&error)))),
            Poll::Ready(None) => Poll::Ready(None),
        }
    }
}

#[cold]
fn too_slow() -> Fault {
    Fault::new(Reason::BodyTimeout, "the request's body came too slowly")
}

#[cold]
fn broken(error: &hyper::Error) -> Fault {
    Fault::new(Reason::BodyBroken, "the request's body broke off").inside(error.to_string())
}

/// What must hear how an answer ended: the try that brought it. It is dropped when the answer is over.
pub trait Source {
    /// The answer broke off.
    fn broke(&mut self, fault: &Fault);
    /// The answer's gRPC status.
    fn grpc_ended(&mut self, status: u16);
}

/// An answer's body on its way to a caller.
pub struct Body {
    kind: Kind,
    deadline: Option<Pin<Box<tokio::time::Sleep>>>,
    cut: Option<Rc<Cut>>,
    source: Option<Box<dyn Source>>,
    exchange: Option<Box<Exchange>>,
}

pub(super) enum Kind {
    Empty,
    Whole(Bytes),
    /// Ours, with trailers behind it.
    Trailed(Bytes, Option<Box<HeaderMap>>),
    Http1(wire::AnswerBody<net::Stream, RequestBody, Parking>),
    Http2(h2::AnswerBody),
    /// An answer whose first frame was looked at before its head was passed on.
    Peeked(Box<Peeked>),
    /// None: the callee has left HTTP.
    Switched(Far),
}

pub(super) struct Peeked {
    pub first: Option<Result<Frame<Bytes>, Fault>>,
    pub rest: Kind,
}

impl Body {
    pub fn empty() -> Self {
        Self::of(Kind::Empty)
    }

    pub fn whole(bytes: Bytes) -> Self {
        Self::of(if bytes.is_empty() {
            Kind::Empty
        } else {
            Kind::Whole(bytes)
        })
    }

    /// `bytes`, then `trailers`.
    pub fn with_trailers(bytes: Bytes, trailers: HeaderMap) -> Self {
        Self::of(Kind::Trailed(bytes, Some(Box::new(trailers))))
    }

    pub(super) fn of(kind: Kind) -> Self {
        Body {
            kind,
            deadline: None,
            cut: None,
            source: None,
            exchange: None,
        }
    }

    /// Tells `source` how the answer ends.
    pub fn from(&mut self, source: Box<dyn Source>) {
        self.source = Some(source);
    }

    /// The callee's side, where it has left HTTP, and what must hear how that ends.
    pub(super) fn switched(&mut self) -> Option<(Far, Option<Box<dyn Source>>)> {
        match std::mem::replace(&mut self.kind, Kind::Empty) {
            Kind::Switched(far) => Some((far, self.source.take())),
            kind => {
                self.kind = kind;
                None
            }
        }
    }

    /// An answer that is not over by then breaks off; a gRPC one ends with DEADLINE_EXCEEDED.
    pub fn ends_by(&mut self, at: Instant) {
        if !self.kind.is_end_stream() {
            self.deadline = Some(Box::pin(tokio::time::sleep_until(at.into())));
        }
    }

    /// A gRPC answer that is not over when what is left is cut ends with UNAVAILABLE.
    pub fn ends_by_cut(&mut self, cut: Rc<Cut>) {
        self.cut = Some(cut);
    }

    /// Gives the record to the body: it is spent when the body is over. Its status is noted by then.
    pub fn carry(&mut self, mut exchange: Box<Exchange>) {
        if self.kind.is_end_stream() {
            exchange.finished();
            self.source = None;
        } else {
            // The caller may have to open its window before the first byte is asked for.
            exchange.offers(true);
            self.exchange = Some(exchange);
        }
    }

    /// The first frame, looked at and put back; the gRPC status if it is the trailers.
    pub async fn peek(&mut self) -> Peek {
        let first = std::future::poll_fn(|cx| self.kind.poll_frame(cx)).await;
        let peek = match &first {
            None => Peek::End,
            Some(Err(fault)) => Peek::Broken(fault.clone()),
            Some(Ok(frame)) => frame.trailers_ref().map_or(Peek::Message, |trailers| {
                Peek::Trailers(grpc_status(trailers))
            }),
        };
        let rest = std::mem::replace(&mut self.kind, Kind::Empty);
        self.kind = Kind::Peeked(Box::new(Peeked { first, rest }));
        peek
    }

    /// What ends an answer before its callee does.
    #[inline]
    fn poll_early_end(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Fault>>> {
        if let Some(deadline) = &mut self.deadline
            && deadline.as_mut().poll(cx).is_ready()
        {
            let words = "the answer took longer than the call may";
            return self.end_early(Fault::new(Reason::RequestTimeout, words));
        }
        match &self.cut {
            Some(cut) => {
                let fault = ready!(cut.poll(cx));
                self.end_early(fault)
            }
            None => Poll::Pending,
        }
    }

    #[cold]
    fn end_early(&mut self, fault: Fault) -> Poll<Option<Result<Frame<Bytes>, Fault>>> {
        self.kind = Kind::Empty;
        self.source = None;
        if !self.exchange.as_ref().is_some_and(|exchange| exchange.grpc) {
            return Poll::Ready(Some(Err(fault)));
        }
        let trailers = super::respond::grpc_end(&fault);
        if let Some(exchange) = &mut self.exchange {
            exchange.failed(fault);
        }
        Poll::Ready(Some(Ok(Frame::trailers(trailers))))
    }

    #[inline]
    fn offers(&self, something: bool) {
        if let Some(exchange) = &self.exchange {
            exchange.offers(something);
        }
    }

    fn over(&mut self, failure: Option<Fault>) {
        if let Some(fault) = &failure
            && let Some(source) = &mut self.source
        {
            source.broke(fault);
        }
        self.source = None;
        if let Some(mut exchange) = self.exchange.take() {
            match failure {
                Some(fault) => exchange.failed(fault),
                None => exchange.finished(),
            }
        }
    }

    fn trailed(&mut self, trailers: &HeaderMap) {
        if let Some(exchange) = &self.exchange {
            exchange.trailed(trailers);
        }
        let Some(status) = grpc_status(trailers) else {
            return;
        };
        if let Some(source) = &mut self.source {
            source.grpc_ended(status);
        }
        if let Some(exchange) = &mut self.exchange {
            exchange.grpc_ended(status);
        }
    }
}

/// Takes out of an answer's trailers what belongs in a head.
#[inline]
fn trim(mut frame: Frame<Bytes>) -> Result<Frame<Bytes>, Fault> {
    if let Some(trailers) = frame.trailers_mut()
        && !clean_trailers(trailers)
    {
        let words = "more than 100 trailers behind the answer";
        return Err(Fault::new(Reason::AnswerTooLarge, words));
    }
    Ok(frame)
}

/// What a look at an answer's first frame showed.
pub enum Peek {
    Message,
    Trailers(Option<u16>),
    End,
    Broken(Fault),
}

/// The status in a gRPC answer's head or trailers.
pub fn grpc_status(headers: &HeaderMap) -> Option<u16> {
    headers.get("grpc-status")?.to_str().ok()?.parse().ok()
}

impl HttpBody for Body {
    type Data = Bytes;
    type Error = Fault;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Fault>>> {
        let this = &mut *self;
        let frame = match this.kind.poll_frame(cx) {
            Poll::Ready(frame) => frame,
            Poll::Pending => match this.poll_early_end(cx) {
                Poll::Ready(frame) => frame,
                Poll::Pending => {
                    this.offers(false);
                    return Poll::Pending;
                }
            },
        };
        this.offers(true);
        match &frame {
            Some(Ok(frame)) => {
                if let Some(data) = frame.data_ref() {
                    if let Some(exchange) = &mut this.exchange {
                        exchange.sent(data.len());
                    }
                } else if let Some(trailers) = frame.trailers_ref() {
                    this.trailed(trailers);
                }
                if this.kind.is_end_stream() {
                    this.over(None);
                }
            }
            Some(Err(fault)) => {
                let fault = fault.clone();
                this.over(Some(fault));
            }
            None => this.over(None),
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.kind.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.kind.size_hint()
    }
}

impl Kind {
    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Fault>>> {
        match self {
            Kind::Empty | Kind::Switched(_) => Poll::Ready(None),
            Kind::Whole(bytes) => {
                let bytes = std::mem::take(bytes);
                *self = Kind::Empty;
                Poll::Ready(Some(Ok(Frame::data(bytes))))
            }
            Kind::Trailed(bytes, trailers) => Poll::Ready(match bytes.is_empty() {
                false => Some(Ok(Frame::data(std::mem::take(bytes)))),
                true => trailers
                    .take()
                    .map(|trailers| Ok(Frame::trailers(*trailers))),
            }),
            Kind::Http1(body) => {
                let frame = ready!(Pin::new(body).poll_frame(cx));
                Poll::Ready(
                    frame.map(|frame| frame.map_err(super::client::broken_answer).and_then(trim)),
                )
            }
            Kind::Http2(body) => {
                let frame = ready!(Pin::new(body).poll_frame(cx));
                Poll::Ready(
                    frame.map(|frame| frame.map_err(super::client::broken_stream).and_then(trim)),
                )
            }
            Kind::Peeked(peeked) => match peeked.first.take() {
                Some(first) => {
                    let rest = std::mem::replace(&mut peeked.rest, Kind::Empty);
                    *self = rest;
                    Poll::Ready(Some(first))
                }
                None => {
                    let rest = std::mem::replace(&mut peeked.rest, Kind::Empty);
                    *self = rest;
                    self.poll_frame(cx)
                }
            },
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Kind::Empty | Kind::Switched(_) => true,
            Kind::Whole(bytes) => bytes.is_empty(),
            Kind::Trailed(bytes, trailers) => bytes.is_empty() && trailers.is_none(),
            Kind::Http1(body) => body.is_end_stream(),
            Kind::Http2(body) => body.is_end_stream(),
            Kind::Peeked(peeked) => peeked.first.is_none() && peeked.rest.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Kind::Empty | Kind::Switched(_) => SizeHint::with_exact(0),
            Kind::Whole(bytes) => SizeHint::with_exact(bytes.len() as u64),
            Kind::Trailed(..) => SizeHint::default(),
            Kind::Http1(body) => body.size_hint(),
            Kind::Http2(body) => body.size_hint(),
            // The first frame has left the rest's hint; what is held is added to what is to come.
            Kind::Peeked(peeked) => {
                let held = match &peeked.first {
                    Some(Ok(frame)) => frame.data_ref().map_or(0, Bytes::len) as u64,
                    _ => 0,
                };
                let rest = peeked.rest.size_hint();
                let mut hint = SizeHint::new();
                hint.set_lower(rest.lower() + held);
                if let Some(upper) = rest.upper() {
                    hint.set_upper(upper + held);
                }
                hint
            }
        }
    }
}
