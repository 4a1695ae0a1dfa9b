//! Ends a tunnel, or a relay, once what its callee proved is void: nothing else asks a connection that stays open.

use std::{
    cell::{Cell, RefCell},
    rc::{Rc, Weak},
    task::{Context, Poll, Waker},
};

use crate::{
    fault::{Fault, Reason},
    http::{
        credential::{Credential, Proof, Standing},
        tick::{Tick, Ticks, Timed, Watched},
    },
};

pub(in crate::http) struct Leash {
    credential: Rc<Credential>,
    void: Cell<Option<&'static str>>,
    waker: RefCell<Option<Waker>>,
    place: RefCell<Option<Watched>>,
}

impl Leash {
    /// None where the callee proved nothing.
    pub(in crate::http) fn new(proof: &Proof, tick: &Rc<Tick>) -> Option<Rc<Self>> {
        let leash = Rc::new(Leash {
            credential: proof.clone()?,
            void: Cell::new(None),
            waker: RefCell::default(),
            place: RefCell::default(),
        });
        let weak: Weak<dyn Timed> = Rc::downgrade(&leash) as Weak<dyn Timed>;
        *leash.place.borrow_mut() = Some(tick.watch(weak));
        Some(leash)
    }

    /// Ready once it is over; the task is woken then.
    pub(in crate::http) fn poll(&self, cx: &Context<'_>) -> Poll<Fault> {
        if let Some(rule) = self.void.get() {
            let words = "what the endpoint proved does not hold any more";
            return Poll::Ready(Fault::new(Reason::Reset, words).inside(rule));
        }
        *self.waker.borrow_mut() = Some(cx.waker().clone());
        Poll::Pending
    }
}

impl Timed for Leash {
    fn tick(&self, _: Ticks) {
        if self.credential.standing() == Standing::Void {
            let rule = "untrusted_peer";
            self.void.set(Some(rule));
            if let Some(waker) = self.waker.borrow_mut().take() {
                waker.wake();
            }
        }
    }
}
