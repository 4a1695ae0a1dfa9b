//! One stream of a caller's HTTP/2 connection: what hyper runs for it, and since when its caller takes nothing.
//!
//! hyper says neither. What it runs is seen by its executor: it starts one task a stream, and from that task another
//! where a CONNECT succeeds. Ending them resets the stream (CANCEL) and leaves the connection alone.

use std::{
    cell::{Cell, RefCell},
    rc::Rc,
    time::Duration,
};

use smallvec::SmallVec;
use tokio::task::AbortHandle;

use super::tick::{Tick, Ticks};

pub struct Strand {
    tick: Rc<Tick>,
    tasks: RefCell<SmallVec<[AbortHandle; 1]>>,
    /// Since when something is there for the caller and not asked for.
    offered: Cell<Option<Ticks>>,
    stalled: Cell<bool>,
}

impl Strand {
    pub fn new(tick: &Rc<Tick>) -> Rc<Self> {
        Rc::new(Strand {
            tick: tick.clone(),
            tasks: RefCell::default(),
            offered: Cell::new(None),
            stalled: Cell::new(false),
        })
    }

    pub(super) fn runs(&self, task: AbortHandle) {
        self.tasks.borrow_mut().push(task);
    }

    /// The caller has taken the last, and is offered more or waits for the callee.
    #[inline]
    pub fn offers_anew(&self, something: bool) {
        self.offered.set(something.then(|| self.tick.now()));
    }

    /// The caller was offered something and did or did not take it.
    pub fn offers(&self, something: bool) {
        if !something || self.offered.get().is_none() {
            self.offers_anew(something);
        }
    }

    pub(super) fn is_over(&self, limit: Duration, now: Ticks) -> bool {
        let since = self.offered.get();
        !limit.is_zero() && since.is_some_and(|since| now.since(since) >= limit)
    }

    /// The caller has taken nothing for too long.
    pub(super) fn stalls(&self) {
        if !self.stalled.replace(true) {
            self.reset();
        }
    }

    pub fn is_stalled(&self) -> bool {
        self.stalled.get()
    }

    /// Ends what hyper runs for the stream, which resets it.
    pub fn reset(&self) {
        for task in self.tasks.borrow().iter() {
            task.abort();
        }
    }
}
