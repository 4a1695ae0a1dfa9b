//! An answer's body: read as fast as its reader reads, cancelled when the reader leaves.
//!
//! Dropped before its end, it resets the stream with CANCEL. At its end it also stops a request body that is still
//! being sent: the exchange is over (RFC 9113 §8.1).

use std::{
    cell::Cell,
    future::poll_fn,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use h2::RecvStream;
use http_body::{Body, Frame, SizeHint};
use tokio::task::AbortHandle;

use super::{Failure, Kind, connection::Slot, upload::Upload};
use crate::http::headers::MAX_FIELDS;

/// The body and trailers of an answer.
pub struct AnswerBody(Option<Open>);

struct Open {
    received: RecvStream,
    /// Held, not read: dropping it stops the upload.
    rest: Option<Rest>,
    slot: Slot,
    stream: u32,
}

impl AnswerBody {
    pub(super) fn new(received: RecvStream, slot: Slot, stream: u32, rest: Option<Rest>) -> Self {
        AnswerBody((!received.is_end_stream()).then_some(Open {
            received,
            rest,
            slot,
            stream,
        }))
    }
}

impl Body for AnswerBody {
    type Data = Bytes;
    type Error = Failure;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Failure>>> {
        let Some(open) = &mut self.0 else {
            return Poll::Ready(None);
        };
        let frame = ready!(open.poll_frame(cx));
        let over = !matches!(&frame, Some(Ok(frame)) if frame.is_data());
        if over || open.received.is_end_stream() {
            // The stream's place is free with its last frame, not when the reader gets round to dropping us.
            self.0 = None;
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.0.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        match self.0 {
            Some(_) => SizeHint::new(),
            None => SizeHint::with_exact(0),
        }
    }
}

impl Open {
    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Failure>>> {
        loop {
            return Poll::Ready(match ready!(self.received.poll_data(cx)) {
                Some(Ok(data)) => {
                    // The window opens by what the reader has taken, never by what merely came.
                    let _ = self.received.flow_control().release_capacity(data.len());
                    if data.is_empty() && !self.received.is_end_stream() {
                        continue;
                    }
                    Some(Ok(Frame::data(data)))
                }
                Some(Err(error)) => Some(Err(self.failure(&error))),
                None => match ready!(self.received.poll_trailers(cx)) {
                    Ok(Some(trailers)) if trailers.len() > MAX_FIELDS => {
                        Some(Err(Failure::perhaps(Kind::TooManyFields)))
                    }
                    Ok(Some(trailers)) => Some(Ok(Frame::trailers(trailers))),
                    Ok(None) => None,
                    Err(error) => Some(Err(self.failure(&error))),
                },
            });
        }
    }

    fn failure(&self, error: &h2::Error) -> Failure {
        match &self.rest {
            Some(rest) if rest.broken.get() => Failure::perhaps(Kind::RequestBody),
            _ => Failure::of_answer(error, self.stream, self.slot.shared()),
        }
    }
}

/// The rest of a request's body, sent beside the answer. Dropped, it stops.
pub(super) struct Rest {
    task: AbortHandle,
    broken: Rc<Cell<bool>>,
}

impl Rest {
    pub(super) fn start<B>(mut upload: Upload<B>) -> Self
    where
        B: Body<Data = Bytes> + Unpin + 'static,
    {
        let broken = Rc::new(Cell::new(false));
        let flag = broken.clone();
        let task = tokio::task::spawn_local(async move {
            if poll_fn(|cx| upload.poll(cx)).await.is_err() {
                flag.set(true);
            }
        })
        .abort_handle();
        Rest { task, broken }
    }
}

impl Drop for Rest {
    fn drop(&mut self) {
        self.task.abort();
    }
}
