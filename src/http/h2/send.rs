//! One request on its way: sends the body, waits for the answer's head.
//!
//! Once the head is here, an unfinished body goes on in a task of its own that the answer owns: an answer whose
//! reader is slow must not hold up the body, nor the other way round.

use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use h2::client::ResponseFuture;
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode, header};
use http_body::Body;

use super::{
    AnswerBody, Connection, Failure, Kind, Rejected, answer::Rest, connection::Slot, upload::Upload,
};
use crate::http::headers::MAX_FIELDS;

/// Informational answers taken for one request.
const MAX_INFORMATIONAL: u8 = 16;

/// Resolves to the answer. Dropped, it cancels the exchange.
#[must_use = "an exchange ends when this is dropped"]
pub struct Sending<B: Body>(State<B>);

enum State<B: Body> {
    Open(Open<B>),
    Rejected(Box<Rejected<B>>),
    Done,
}

struct Open<B> {
    waiting: Waiting,
    body: Outgoing<B>,
}

/// A request's stream until its answer's head is here.
pub(super) struct Waiting {
    response: ResponseFuture,
    pub(super) stream: u32,
    pub(super) slot: Slot,
    informational: u8,
}

enum Outgoing<B> {
    /// Known to be empty at once.
    Empty(B),
    Running(Upload<B>),
    Sent,
}

impl<B> Sending<B>
where
    B: Body<Data = Bytes> + Unpin + 'static,
{
    #[cold]
    pub(super) fn rejected(failure: Failure, head: Option<Request<()>>, body: B) -> Self {
        Sending(State::Rejected(Box::new(Rejected::Upstream {
            failure,
            head: head.map(Box::new),
            body: Some(body),
        })))
    }

    pub(super) fn open(connection: &Connection, mut head: Request<()>, body: B) -> Self {
        if head.uri().scheme().is_none() || head.uri().authority().is_none() {
            return Self::rejected(Failure::before(Kind::BadHead), Some(head), body);
        }
        let Some(mut sender) = connection.sender() else {
            return Self::rejected(Failure::before(Kind::Closed), Some(head), body);
        };
        tidy(head.headers_mut());
        let empty = body.is_end_stream();
        match sender.send_request(head, empty) {
            Ok((response, stream)) => Sending(State::Open(Open {
                waiting: Waiting::new(response, stream.stream_id().as_u32(), connection.slot()),
                body: match empty {
                    true => Outgoing::Empty(body),
                    false => Outgoing::Running(Upload::new(body, stream)),
                },
            })),
            // The connection is about to end, or has used up its stream ids.
            Err(_) => {
                connection.exhausted();
                Self::rejected(Failure::before(Kind::Closed), None, body)
            }
        }
    }
}

impl<B> Future for Sending<B>
where
    B: Body<Data = Bytes> + Unpin + 'static,
{
    type Output = Result<Response<AnswerBody>, Rejected<B>>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let result = match &mut self.0 {
            State::Open(open) => ready!(open.poll_head(cx)),
            _ => Ok(None),
        };
        let state = std::mem::replace(&mut self.0, State::Done);
        Poll::Ready(match (state, result) {
            (State::Open(open), Ok(Some(head))) => Ok(open.answer(head)),
            (State::Open(open), Err(Trouble::Upstream(failure))) => Err(Rejected::Upstream {
                failure,
                head: None,
                body: open.body.untouched(),
            }),
            (State::Open(_), Err(Trouble::Body(error))) => Err(Rejected::Body(error)),
            (State::Rejected(rejected), _) => Err(*rejected),
            // Polled after its end.
            _ => Err(Rejected::Upstream {
                failure: Failure::perhaps(Kind::Closed),
                head: None,
                body: None,
            }),
        })
    }
}

enum Trouble<E> {
    Upstream(Failure),
    Body(E),
}

pub(super) type Head = Response<h2::RecvStream>;

impl<B> Open<B>
where
    B: Body<Data = Bytes> + Unpin + 'static,
{
    fn poll_head(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Head>, Trouble<B::Error>>> {
        // The answer first: one that is already here counts, whatever the body does.
        if let Poll::Ready(result) = self.waiting.poll(cx) {
            return Poll::Ready(result.map(Some).map_err(Trouble::Upstream));
        }
        if let Outgoing::Running(upload) = &mut self.body {
            ready!(upload.poll(cx)).map_err(Trouble::Body)?;
            self.body = std::mem::replace(&mut self.body, Outgoing::Sent).sent();
        }
        Poll::Pending
    }

    fn answer(self, head: Head) -> Response<AnswerBody> {
        let (parts, stream) = head.into_parts();
        let rest = match self.body {
            Outgoing::Running(upload) if !stream.is_end_stream() => Some(Rest::start(upload)),
            _ => None,
        };
        let body = AnswerBody::new(stream, self.waiting.slot, self.waiting.stream, rest);
        Response::from_parts(parts, body)
    }
}

impl Waiting {
    pub(super) fn new(response: ResponseFuture, stream: u32, slot: Slot) -> Self {
        Waiting {
            response,
            stream,
            slot,
            informational: 0,
        }
    }

    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<Head, Failure>> {
        while let Some(Ok(head)) = ready!(self.response.poll_informational(cx)) {
            self.slot.shared().observer().informational();
            self.informational += 1;
            if head.status() == StatusCode::SWITCHING_PROTOCOLS {
                return Poll::Ready(Err(Failure::perhaps(Kind::UnaskedUpgrade)));
            }
            if self.informational > MAX_INFORMATIONAL || head.headers().len() > MAX_FIELDS {
                return Poll::Ready(Err(Failure::perhaps(Kind::TooManyFields)));
            }
        }
        let head = ready!(Pin::new(&mut self.response).poll(cx))
            .map_err(|error| Failure::of_request(&error, self.stream, self.slot.shared()))?;
        Poll::Ready(match head.headers().len() > MAX_FIELDS {
            true => Err(Failure::perhaps(Kind::TooManyFields)),
            false => Ok(head),
        })
    }
}

impl<B> Outgoing<B>
where
    B: Body<Data = Bytes> + Unpin,
{
    /// What is left once the upload has ended: a body of which nothing was taken can still be sent elsewhere.
    fn sent(self) -> Self {
        match self.untouched() {
            Some(body) => Outgoing::Empty(body),
            None => Outgoing::Sent,
        }
    }

    fn untouched(self) -> Option<B> {
        match self {
            Outgoing::Empty(body) => Some(body),
            Outgoing::Running(upload) => upload.untouched(),
            Outgoing::Sent => None,
        }
    }
}

/// Takes out what HTTP/2 forbids (RFC 9113 §8.2.2) and `host`, which `:authority` says.
///
/// `h2` would refuse the whole request for one such field.
pub(super) fn tidy(headers: &mut HeaderMap) {
    while let Some(name) = headers.keys().find(|name| {
        matches!(
            name.as_str(),
            "connection"
                | "host"
                | "http2-settings"
                | "keep-alive"
                | "proxy-connection"
                | "transfer-encoding"
                | "upgrade"
        )
    }) {
        let name = name.clone();
        headers.remove(name);
    }
    let Some(te) = headers.get(header::TE) else {
        return;
    };
    if te != "trailers" {
        let trailers = headers.get_all(header::TE).iter().any(|value| {
            let tokens = value.as_bytes().split(|byte| *byte == b',');
            tokens
                .map(<[u8]>::trim_ascii)
                .any(|t| t.eq_ignore_ascii_case(b"trailers"))
        });
        headers.remove(header::TE);
        if trailers {
            headers.insert(header::TE, HeaderValue::from_static("trailers"));
        }
    }
}
