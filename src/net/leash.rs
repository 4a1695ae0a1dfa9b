//! Ends a connection from outside, whoever reads or writes it: what its peer proved does not hold any more.
//!
//! What was proved is not known here. A stream keeps it for as long as it is open, so that it is looked after as long.

use std::{
    cell::{Cell, RefCell},
    io,
    rc::Rc,
    task::{Context, Poll, Waker},
};

/// What a connection was made with: what its peer proved in its handshake, mostly.
pub trait Warrant {
    /// Whether another request may go by the connection.
    fn holds(&self) -> bool;
}

/// What ties a stream to what it was made with.
pub struct Bond {
    pub leash: Rc<Leash>,
    pub warrant: Rc<dyn Warrant>,
}

/// Shared by a stream and whoever may cut it.
#[derive(Debug, Default)]
pub struct Leash {
    cut: Cell<Option<&'static str>>,
    reader: RefCell<Option<Waker>>,
    writer: RefCell<Option<Waker>>,
    onlooker: RefCell<Option<Waker>>,
}

impl Leash {
    /// From now on reads and writes fail with these words; who waits for one is woken.
    pub fn cut(&self, words: &'static str) {
        self.cut.set(Some(words));
        for waker in [&self.reader, &self.writer, &self.onlooker].map(RefCell::take) {
            waker.into_iter().for_each(Waker::wake);
        }
    }

    pub(super) fn check(&self) -> io::Result<()> {
        match self.cut.get() {
            None => Ok(()),
            Some(words) => Err(io::Error::new(io::ErrorKind::ConnectionAborted, words)),
        }
    }

    /// Ready, with the words, once it is cut: for a relay, which neither reads nor writes while its other side takes
    /// nothing.
    pub fn poll_cut(&self, cx: &Context<'_>) -> Poll<&'static str> {
        match self.cut.get() {
            Some(words) => Poll::Ready(words),
            None => {
                keep(&self.onlooker, cx.waker());
                Poll::Pending
            }
        }
    }

    pub(super) fn reads(&self, waker: &Waker) {
        keep(&self.reader, waker);
    }

    pub(super) fn writes(&self, waker: &Waker) {
        keep(&self.writer, waker);
    }
}

fn keep(place: &RefCell<Option<Waker>>, waker: &Waker) {
    let mut place = place.borrow_mut();
    if !place.as_ref().is_some_and(|kept| kept.will_wake(waker)) {
        *place = Some(waker.clone());
    }
}
