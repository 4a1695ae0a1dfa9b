//! Ends a connection from outside, whoever reads or writes it: what its peer proved does not hold any more.

use std::{
    cell::{Cell, RefCell},
    io,
    task::Waker,
};

/// Shared by a stream and whoever may cut it.
#[derive(Debug, Default)]
pub struct Leash {
    cut: Cell<Option<&'static str>>,
    reader: RefCell<Option<Waker>>,
    writer: RefCell<Option<Waker>>,
}

impl Leash {
    /// From now on reads and writes fail with these words; who waits for one is woken.
    pub fn cut(&self, words: &'static str) {
        self.cut.set(Some(words));
        for waker in [self.reader.take(), self.writer.take()] {
            waker.into_iter().for_each(Waker::wake);
        }
    }

    pub(super) fn check(&self) -> io::Result<()> {
        match self.cut.get() {
            None => Ok(()),
            Some(words) => Err(io::Error::new(io::ErrorKind::ConnectionAborted, words)),
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
