//! A request's body that can be sent again, as far as it fits in 64 KiB.
//!
//! Frames are recorded as they pass to the first try; another try is sent the record first, then what is left.
//! A body that outgrows the record passes on unrecorded, and the retry is given up: counted, and said.

use std::{
    cell::RefCell,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll},
};

use bytes::Bytes;
use http_body::{Body as _, Frame, SizeHint};

use super::body::RequestBody;
use crate::fault::Fault;

/// The most that is kept of one body.
pub const LIMIT: usize = 64 * 1024;

/// A body that several tries can read, one after the other.
pub struct Record(Rc<RefCell<State>>);

struct State {
    source: RequestBody,
    frames: Vec<Kept>,
    kept: usize,
    /// Outgrown: there is no other try.
    outgrown: bool,
    total: SizeHint,
}

enum Kept {
    Data(Bytes),
    Trailers(http::HeaderMap),
}

impl Kept {
    fn frame(&self) -> Frame<Bytes> {
        match self {
            Kept::Data(bytes) => Frame::data(bytes.clone()),
            Kept::Trailers(trailers) => Frame::trailers(trailers.clone()),
        }
    }
}

impl Record {
    pub fn new(source: RequestBody) -> Self {
        let total = source.size_hint();
        Record(Rc::new(RefCell::new(State {
            source,
            frames: Vec::new(),
            kept: 0,
            outgrown: false,
            total,
        })))
    }

    /// True while another try could still send all of it.
    pub fn is_whole(&self) -> bool {
        !self.0.borrow().outgrown
    }

    /// The body from its beginning; none once it has outgrown the record. The try before must be over.
    pub fn again(&self) -> Option<RequestBody> {
        let outgrown = self.0.borrow().outgrown;
        (!outgrown).then(|| {
            RequestBody::Replay(Replay {
                state: self.0.clone(),
                next: 0,
            })
        })
    }
}

/// One try's view of a recorded body.
pub struct Replay {
    state: Rc<RefCell<State>>,
    next: usize,
}

impl Replay {
    pub(super) fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Fault>>> {
        let mut state = self.state.borrow_mut();
        if let Some(kept) = state.frames.get(self.next) {
            self.next += 1;
            return Poll::Ready(Some(Ok(kept.frame())));
        }
        let frame = match Pin::new(&mut state.source).poll_frame(cx) {
            Poll::Ready(Some(Ok(frame))) => frame,
            other => return other,
        };
        if !state.outgrown {
            let kept = match (frame.data_ref(), frame.trailers_ref()) {
                (Some(data), _) => Kept::Data(data.clone()),
                (None, Some(trailers)) => Kept::Trailers(trailers.clone()),
                (None, None) => return Poll::Ready(Some(Ok(frame))),
            };
            let size = frame.data_ref().map_or(0, Bytes::len);
            if state.kept + size > LIMIT {
                state.outgrown = true;
                state.frames = Vec::new();
                self.next = 0;
            } else {
                state.kept += size;
                state.frames.push(kept);
                self.next += 1;
            }
        }
        Poll::Ready(Some(Ok(frame)))
    }

    pub(super) fn is_end_stream(&self) -> bool {
        let state = self.state.borrow();
        self.next >= state.frames.len() && state.source.is_end_stream()
    }

    pub(super) fn size_hint(&self) -> SizeHint {
        let state = self.state.borrow();
        if self.next == 0 && !state.outgrown {
            state.total
        } else {
            SizeHint::default()
        }
    }
}
