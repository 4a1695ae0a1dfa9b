//! Sends a request's body, no faster than the peer takes it.
//!
//! A frame is taken from the body only when the one before it has been handed over, and handed over only as far as
//! the peer's windows and `max_send_buffer` allow: at most one frame of the body waits here. Only the first bytes go
//! ahead unasked.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use h2::SendStream;
use http_body::Body;

use super::send::tidy;

/// Bytes handed over before the peer's windows are known to allow them; they wait in `h2` if they must.
///
/// `h2` grants no capacity to a stream whose head has not left, so a small body that asked first would follow its
/// head in a second write: one write and one wake more for every unary call.
const HEAD_START: usize = 16 * 1024;

pub(super) struct Upload<B> {
    body: B,
    stream: SendStream<Bytes>,
    /// Taken from the body, not yet handed over.
    waiting: Bytes,
    /// What is left of the head start.
    ahead: usize,
    /// `waiting` is the body's last data.
    last: bool,
    /// A frame has been taken: the body is no longer whole.
    begun: bool,
}

impl<B> Upload<B>
where
    B: Body<Data = Bytes> + Unpin,
{
    pub(super) fn new(body: B, stream: SendStream<Bytes>) -> Self {
        Upload {
            body,
            stream,
            waiting: Bytes::new(),
            ahead: HEAD_START,
            last: false,
            begun: false,
        }
    }

    /// The body, where no frame of it was taken.
    pub(super) fn untouched(self) -> Option<B> {
        (!self.begun).then_some(self.body)
    }

    /// Ready when the body is sent, or when the peer wants no more of it: why is the answer's to say.
    ///
    /// A body that fails cancels the stream.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), B::Error>> {
        loop {
            if !self.waiting.is_empty() {
                if !ready!(self.poll_hand_over(cx)) || self.last {
                    return Poll::Ready(Ok(()));
                }
                continue;
            }
            let frame = match Pin::new(&mut self.body).poll_frame(cx) {
                Poll::Ready(frame) => frame,
                // Nothing to send: only here must a reset be waited for on its own.
                Poll::Pending => {
                    return match self.stream.poll_reset(cx) {
                        Poll::Ready(_) => Poll::Ready(Ok(())),
                        Poll::Pending => Poll::Pending,
                    };
                }
            };
            let frame = match frame {
                Some(Ok(frame)) => frame,
                Some(Err(error)) => {
                    self.stream.send_reset(h2::Reason::CANCEL);
                    return Poll::Ready(Err(error));
                }
                None => {
                    self.finish();
                    return Poll::Ready(Ok(()));
                }
            };
            self.begun = true;
            match frame.into_data() {
                Ok(data) => {
                    self.last = self.body.is_end_stream();
                    if data.is_empty() && self.last {
                        self.finish();
                        return Poll::Ready(Ok(()));
                    }
                    self.waiting = data;
                }
                Err(frame) => {
                    if let Ok(mut trailers) = frame.into_trailers() {
                        tidy(&mut trailers);
                        // Fails only where the peer has ended the stream.
                        let _ = self.stream.send_trailers(trailers);
                        return Poll::Ready(Ok(()));
                    }
                }
            }
        }
    }

    /// Ready(true) once `waiting` is handed over, Ready(false) when the stream takes no more.
    fn poll_hand_over(&mut self, cx: &mut Context<'_>) -> Poll<bool> {
        while !self.waiting.is_empty() {
            let mut room = match self.ahead >= self.waiting.len() {
                true => {
                    self.ahead -= self.waiting.len();
                    self.waiting.len()
                }
                false => self.stream.capacity(),
            };
            if room == 0 {
                // Asked for only with data in hand: capacity held by an idle stream is lost to the others.
                self.stream.reserve_capacity(self.waiting.len());
                room = self.stream.capacity();
            }
            if room == 0 {
                match ready!(self.stream.poll_capacity(cx)) {
                    Some(Ok(_)) => continue,
                    Some(Err(_)) | None => return Poll::Ready(false),
                }
            }
            let part = self.waiting.split_to(room.min(self.waiting.len()));
            let end = self.last && self.waiting.is_empty();
            if self.stream.send_data(part, end).is_err() {
                return Poll::Ready(false);
            }
        }
        Poll::Ready(true)
    }

    fn finish(&mut self) {
        // Fails only where the peer has ended the stream.
        let _ = self.stream.send_data(Bytes::new(), true);
    }
}
