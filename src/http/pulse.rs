//! Whether a request's body still moves.
//!
//! While we wait for a body, at least `bytes_per_second` must come over each window, else it is cut: a caller
//! who drips bytes would hold a callee for ever (hardening of slow bodies; RFC 9110 §15.5.9 has the 408). While
//! *we* do not read, because the callee is slow, the caller is not to blame and the window starts anew.

use std::{
    cell::{Cell, RefCell},
    rc::{Rc, Weak},
    task::{Context, Waker},
    time::Duration,
};

use super::tick::{Tick, Ticks, Timed, Watched};

/// The least a body must move; a zero window turns it off.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pace {
    pub bytes_per_second: u64,
    pub over: Duration,
}

impl Pace {
    fn least(self) -> u64 {
        (self.bytes_per_second as f64 * self.over.as_secs_f64()).ceil() as u64
    }
}

/// One body's pace. It goes on the clock when its reader first has to wait.
pub struct Pulse {
    pace: Pace,
    tick: Rc<Tick>,
    waiting: Cell<bool>,
    over: Cell<bool>,
    window: Cell<Option<Ticks>>,
    bytes: Cell<u64>,
    waker: RefCell<Option<Waker>>,
    place: RefCell<Option<Watched>>,
}

impl Pulse {
    pub fn new(pace: Pace, tick: &Rc<Tick>) -> Rc<Self> {
        Rc::new(Pulse {
            pace,
            tick: tick.clone(),
            waiting: Cell::new(false),
            over: Cell::new(false),
            window: Cell::new(None),
            bytes: Cell::new(0),
            waker: RefCell::new(None),
            place: RefCell::new(None),
        })
    }

    /// True once the body came too slowly.
    pub fn is_over(&self) -> bool {
        self.over.get()
    }

    pub fn came(&self, bytes: usize) {
        self.bytes.set(self.bytes.get() + bytes as u64);
        self.waiting.set(false);
    }

    /// The reader found nothing; it is woken when time is over.
    pub fn waits(self: &Rc<Self>, cx: &Context<'_>) {
        if self.pace.over.is_zero() {
            return;
        }
        self.waiting.set(true);
        *self.waker.borrow_mut() = Some(cx.waker().clone());
        if self.place.borrow().is_none() {
            let weak: Weak<dyn Timed> = Rc::downgrade(self) as Weak<dyn Timed>;
            *self.place.borrow_mut() = Some(self.tick.watch(weak));
        }
    }
}

impl Timed for Pulse {
    fn tick(&self, now: Ticks) {
        if !self.waiting.get() {
            self.window.set(None);
            return;
        }
        match self.window.get() {
            None => {
                self.window.set(Some(now));
                self.bytes.set(0);
            }
            Some(start) if now.since(start) >= self.pace.over => {
                if self.bytes.get() < self.pace.least() {
                    self.over.set(true);
                    if let Some(waker) = self.waker.borrow_mut().take() {
                        waker.wake();
                    }
                }
                self.window.set(Some(now));
                self.bytes.set(0);
            }
            Some(_) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pulse() -> (Rc<Tick>, Rc<Pulse>) {
        let tick = Tick::new();
        let pulse = Pulse::new(
            Pace {
                bytes_per_second: 64,
                over: Duration::from_secs(2),
            },
            &tick,
        );
        (tick, pulse)
    }

    fn seconds(tick: &Tick, seconds: u32, mut each: impl FnMut()) {
        for _ in 0..seconds * 10 {
            each();
            tick.advance();
        }
    }

    #[test]
    fn a_body_that_stands_still_is_cut() {
        let (tick, pulse) = pulse();
        let cx = Context::from_waker(Waker::noop());
        seconds(&tick, 3, || pulse.waits(&cx));
        assert!(pulse.is_over());
    }

    #[test]
    fn a_body_that_keeps_the_pace_goes_on() {
        let (tick, pulse) = pulse();
        let cx = Context::from_waker(Waker::noop());
        seconds(&tick, 10, || {
            pulse.came(7);
            pulse.waits(&cx);
        });
        assert!(!pulse.is_over());
    }

    #[test]
    fn a_reader_that_does_not_read_is_not_the_callers_fault() {
        let (tick, pulse) = pulse();
        let cx = Context::from_waker(Waker::noop());
        seconds(&tick, 1, || pulse.waits(&cx));
        pulse.came(1);
        seconds(&tick, 10, || {});
        assert!(!pulse.is_over());
    }
}
