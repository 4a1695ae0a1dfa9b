//! What ends a gRPC call that is still open when the time to leave is over.
//!
//! Its caller is told UNAVAILABLE in trailers, so that it knows more than a broken connection would tell; the
//! connection then has `Cut::GRACE` to carry them. On the worker's tick, and only while the call waits.

use std::{
    cell::RefCell,
    rc::{Rc, Weak},
    task::{Context, Poll, Waker},
    time::Duration,
};

use super::{
    connection::Desk,
    tick::{TICK, Ticks, Timed, Watched},
};
use crate::{
    drain::Stage,
    fault::{Fault, Reason},
};

pub struct Cut {
    desk: Rc<Desk>,
    waker: RefCell<Option<Waker>>,
    place: RefCell<Option<Watched>>,
}

impl Cut {
    /// How long a connection outlives the cut of its calls.
    pub const GRACE: Duration = TICK.saturating_mul(3);

    pub fn new(desk: &Rc<Desk>) -> Rc<Self> {
        Rc::new(Cut {
            desk: desk.clone(),
            waker: RefCell::default(),
            place: RefCell::default(),
        })
    }

    /// Ready when what is left is cut; the task is woken then.
    pub fn poll(self: &Rc<Self>, cx: &Context<'_>) -> Poll<Fault> {
        if self.desk.stage() == Stage::Forced {
            return Poll::Ready(Fault::new(
                Reason::Draining,
                "this sidecar is leaving and the call was not over in time",
            ));
        }
        *self.waker.borrow_mut() = Some(cx.waker().clone());
        self.place.borrow_mut().get_or_insert_with(|| {
            let weak: Weak<dyn Timed> = Rc::downgrade(self) as Weak<dyn Timed>;
            self.desk.tick.watch(weak)
        });
        Poll::Pending
    }
}

impl Timed for Cut {
    fn tick(&self, _: Ticks) {
        if self.desk.stage() == Stage::Forced
            && let Some(waker) = self.waker.borrow_mut().take()
        {
            waker.wake();
        }
    }
}
