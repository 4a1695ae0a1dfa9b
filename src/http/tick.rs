//! One coarse clock a worker, for all its timers.
//!
//! Every 100 ms it counts one up and asks each thing that waits whether its time is over. A connection or a
//! body then costs a cell to write per step instead of a timer of its own (1,700 instructions each, measured).

use std::{
    cell::{Cell, RefCell},
    panic::{self, AssertUnwindSafe},
    rc::{Rc, Weak},
    time::Duration,
};

use tokio::sync::Notify;

/// How long a tick is: what runs on it is late by up to that much.
pub const TICK: Duration = Duration::from_millis(100);

/// A thing that waits for something that may never come.
pub trait Timed {
    /// Looks at the clock; wakes whoever must hear that time is over.
    fn tick(&self, now: Ticks);
}

/// Ticks since the worker started. Wraps after 13 years.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Ticks(u32);

impl Ticks {
    /// The time from `earlier` to here.
    pub fn since(self, earlier: Ticks) -> Duration {
        TICK * self.0.wrapping_sub(earlier.0)
    }
}

/// The worker's clock and who is on it.
#[derive(Default)]
pub struct Tick {
    now: Cell<Ticks>,
    entries: RefCell<Vec<Option<Weak<dyn Timed>>>>,
    free: RefCell<Vec<usize>>,
    filled: Notify,
}

impl Tick {
    pub fn new() -> Rc<Self> {
        Rc::default()
    }

    pub fn now(&self) -> Ticks {
        self.now.get()
    }

    /// Asks `entry` on every tick until the returned guard is dropped.
    pub fn watch(self: &Rc<Self>, entry: Weak<dyn Timed>) -> Watched {
        let mut entries = self.entries.borrow_mut();
        let mut free = self.free.borrow_mut();
        if entries.len() == free.len() {
            self.filled.notify_one();
        }
        let slot = match free.pop() {
            Some(slot) => {
                entries[slot] = Some(entry);
                slot
            }
            None => {
                entries.push(Some(entry));
                entries.len() - 1
            }
        };
        Watched {
            tick: self.clone(),
            slot,
        }
    }

    /// How many are watched.
    pub fn len(&self) -> usize {
        self.entries.borrow().len() - self.free.borrow().len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Runs the clock for ever; while nothing is watched it stands still and costs nothing.
    pub async fn run(&self) {
        let mut interval = tokio::time::interval(TICK);
        interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            if self.is_empty() {
                self.shrink();
                self.filled.notified().await;
                interval.reset();
            }
            interval.tick().await;
            self.advance();
        }
    }

    /// One tick. An entry that panics is not asked again: its own connection pays for a bug, not all of the worker's.
    pub fn advance(&self) {
        let now = Ticks(self.now.get().0.wrapping_add(1));
        self.now.set(now);
        let mut broken = Vec::new();
        // Borrowed for one at a time: what an entry lets go of may be an entry itself.
        let entry = |slot: usize| {
            Some(
                self.entries
                    .borrow()
                    .get(slot)?
                    .as_ref()
                    .and_then(Weak::upgrade),
            )
        };
        for slot in 0.. {
            let Some(entry) = entry(slot) else { break };
            let Some(entry) = entry else { continue };
            if panic::catch_unwind(AssertUnwindSafe(|| entry.tick(now))).is_err() {
                broken.push(slot);
            }
        }
        for slot in broken {
            // Its place stays taken until its owner gives it up.
            self.entries.borrow_mut()[slot] = None;
        }
    }

    fn shrink(&self) {
        *self.entries.borrow_mut() = Vec::new();
        *self.free.borrow_mut() = Vec::new();
    }

    fn remove(&self, slot: usize) {
        if let Some(entry) = self.entries.borrow_mut().get_mut(slot) {
            *entry = None;
            self.free.borrow_mut().push(slot);
        }
    }
}

/// A place on the clock, given up when dropped.
pub struct Watched {
    tick: Rc<Tick>,
    slot: usize,
}

impl Drop for Watched {
    fn drop(&mut self) {
        self.tick.remove(self.slot);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Counter(Cell<u32>);

    impl Timed for Counter {
        fn tick(&self, _: Ticks) {
            self.0.set(self.0.get() + 1);
        }
    }

    #[test]
    fn what_is_watched_hears_every_tick_until_it_leaves() {
        let tick = Tick::new();
        let counter = Rc::new(Counter(Cell::new(0)));
        let weak: Weak<dyn Timed> = Rc::downgrade(&counter) as Weak<dyn Timed>;
        let watched = tick.watch(weak);
        let start = tick.now();
        tick.advance();
        tick.advance();
        drop(watched);
        tick.advance();
        assert_eq!(counter.0.get(), 2);
        assert_eq!(tick.now().since(start), TICK * 3);
        assert!(tick.is_empty());
    }

    struct Broken(Cell<u32>);

    impl Timed for Broken {
        fn tick(&self, _: Ticks) {
            self.0.set(self.0.get() + 1);
            panic!("a bug in a timer");
        }
    }

    #[test]
    fn a_panic_in_one_entry_stops_no_other() {
        let tick = Tick::new();
        let broken = Rc::new(Broken(Cell::new(0)));
        let counter = Rc::new(Counter(Cell::new(0)));
        let watched = [
            tick.watch(Rc::downgrade(&broken) as Weak<dyn Timed>),
            tick.watch(Rc::downgrade(&counter) as Weak<dyn Timed>),
        ];
        tick.advance();
        tick.advance();
        assert_eq!((broken.0.get(), counter.0.get()), (1, 2));
        drop(watched);
        assert!(tick.is_empty());
    }
}
