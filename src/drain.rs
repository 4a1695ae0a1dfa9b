//! Leaving in order: say so, stop taking, wait, then force.
//!
//! One `Drain` is seen by all threads. A stage is read with one load; what must end first holds a `Hold`.

use std::sync::{
    Arc,
    atomic::{AtomicU8, AtomicUsize, Ordering},
};

use tokio::sync::Notify;

/// How far the leaving has come. It never goes back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Stage {
    Serving = 0,
    /// Not ready any more; callers are asked to go, nothing is closed.
    LameDuck = 1,
    /// Nothing new is taken; what is in flight ends.
    Draining = 2,
    /// What is left is cut.
    Forced = 3,
}

impl Stage {
    fn of(number: u8) -> Self {
        match number {
            0 => Stage::Serving,
            1 => Stage::LameDuck,
            2 => Stage::Draining,
            _ => Stage::Forced,
        }
    }
}

#[derive(Clone, Default)]
pub struct Drain(Arc<Shared>);

#[derive(Default)]
struct Shared {
    stage: AtomicU8,
    held: AtomicUsize,
    changed: Notify,
}

impl Drain {
    pub fn new() -> Self {
        Self::default()
    }

    pub fn stage(&self) -> Stage {
        Stage::of(self.0.stage.load(Ordering::Acquire))
    }

    /// Goes on to `stage`; an earlier one than now is no change.
    pub fn enter(&self, stage: Stage) {
        self.0.stage.fetch_max(stage as u8, Ordering::AcqRel);
        self.0.changed.notify_waiters();
    }

    /// Returns once `stage` is reached. Dropping the future leaves nothing behind.
    pub async fn reached(&self, stage: Stage) {
        loop {
            let changed = self.0.changed.notified();
            if self.stage() >= stage {
                return;
            }
            changed.await;
        }
    }

    /// Something that must end before we may leave.
    pub fn hold(&self) -> Hold {
        self.0.held.fetch_add(1, Ordering::AcqRel);
        Hold(self.clone())
    }

    pub fn held(&self) -> usize {
        self.0.held.load(Ordering::Acquire)
    }

    /// Returns once nothing is held.
    pub async fn empty(&self) {
        loop {
            let changed = self.0.changed.notified();
            if self.held() == 0 {
                return;
            }
            changed.await;
        }
    }
}

/// Keeps `Drain::empty` waiting until it is dropped.
pub struct Hold(Drain);

impl Drop for Hold {
    fn drop(&mut self) {
        if self.0.0.held.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.0.0.changed.notify_waiters();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_stage_is_never_left_for_an_earlier_one() {
        let drain = Drain::new();
        drain.enter(Stage::Draining);
        drain.enter(Stage::LameDuck);
        assert_eq!(drain.stage(), Stage::Draining);
        drain.reached(Stage::LameDuck).await;
    }

    #[tokio::test]
    async fn empty_waits_for_the_last_hold() {
        let drain = Drain::new();
        let hold = drain.hold();
        let waiting = tokio::spawn({
            let drain = drain.clone();
            async move { drain.empty().await }
        });
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished());
        drop(hold);
        waiting.await.unwrap();
    }
}
