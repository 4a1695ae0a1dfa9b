//! How many at once: connections, calls waiting for one, calls in flight; per upstream, over all workers.
//!
//! A `Gate` counts and refuses. `Connections` also lets a caller wait, first come first served, and tells every
//! worker's pool that someone does, so that an idle connection of one worker makes room for a call of another.
//! A bound of 0 is none. Bounds may change while in use: what is above a lowered bound finishes.

use std::sync::{
    Arc,
    atomic::{AtomicU32, AtomicUsize, Ordering},
};

use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};

/// A counter with a bound, shared by all workers.
#[derive(Debug)]
pub struct Gate {
    bound: AtomicU32,
    inside: AtomicU32,
}

impl Gate {
    /// At most `bound` inside at once; 0 is no bound, and nothing is counted then.
    pub fn new(bound: u32) -> Arc<Self> {
        Arc::new(Gate {
            bound: AtomicU32::new(bound),
            inside: AtomicU32::new(0),
        })
    }

    /// Goes in, or `None` when it is full. Dropping the pass goes out.
    pub fn enter(self: &Arc<Self>) -> Option<Pass> {
        let bound = self.bound();
        if bound == 0 {
            return Some(Pass(None));
        }
        let before = self.inside.fetch_add(1, Ordering::AcqRel);
        let pass = Pass(Some(self.clone()));
        (before < bound).then_some(pass)
    }

    pub fn inside(&self) -> u32 {
        self.inside.load(Ordering::Relaxed)
    }

    pub fn bound(&self) -> u32 {
        self.bound.load(Ordering::Relaxed)
    }

    /// What is already inside stays.
    pub fn set_bound(&self, bound: u32) {
        self.bound.store(bound, Ordering::Relaxed);
    }
}

/// One place behind a `Gate`, given back when dropped.
#[derive(Debug)]
pub struct Pass(Option<Arc<Gate>>);

impl Drop for Pass {
    fn drop(&mut self) {
        if let Some(gate) = &self.0 {
            gate.inside.fetch_sub(1, Ordering::AcqRel);
        }
    }
}

/// The connections that one upstream may have, over all workers.
#[derive(Debug)]
pub struct Connections {
    places: Arc<Semaphore>,
    bound: AtomicUsize,
    /// Permits to swallow when they come back: the bound was lowered below what is open.
    owed: AtomicUsize,
    open: AtomicUsize,
    waiting: AtomicUsize,
    hunger: watch::Sender<u64>,
}

impl Connections {
    /// At most `bound` open at once; 0 is no bound.
    pub fn new(bound: u32) -> Arc<Self> {
        let bound = places(bound);
        Arc::new(Connections {
            places: Arc::new(Semaphore::new(bound)),
            bound: AtomicUsize::new(bound),
            owed: AtomicUsize::new(0),
            open: AtomicUsize::new(0),
            waiting: AtomicUsize::new(0),
            hunger: watch::Sender::new(0),
        })
    }

    /// A place for one connection, if there is one and nobody waits for it.
    pub fn try_open(self: &Arc<Self>) -> Option<ConnectionPermit> {
        let place = self.places.clone().try_acquire_owned().ok()?;
        Some(self.permit(place))
    }

    /// Waits for a place, first come first served, and tells the other workers that someone is starving.
    ///
    /// Unbounded in time: the caller has a deadline. If the future is dropped, the place goes to the next one.
    pub async fn open(self: &Arc<Self>) -> ConnectionPermit {
        if let Some(permit) = self.try_open() {
            return permit;
        }
        let _starving = Starving::new(self);
        let place = self.places.clone().acquire_owned().await;
        self.permit(place.expect("the semaphore is never closed"))
    }

    /// True while someone waits: a pool closes a connection then that it would otherwise keep idle.
    pub fn is_starving(&self) -> bool {
        self.waiting.load(Ordering::Acquire) > 0
    }

    /// Changes each time someone begins to wait. Each worker's pool keeps one and, woken by it, closes an idle
    /// connection of its own where `is_starving` still holds.
    pub fn hunger(&self) -> watch::Receiver<u64> {
        self.hunger.subscribe()
    }

    pub fn count(&self) -> usize {
        self.open.load(Ordering::Relaxed)
    }

    pub fn waiting(&self) -> usize {
        self.waiting.load(Ordering::Relaxed)
    }

    /// Changes the bound; connections above a lowered one finish. One caller at a time: a reload.
    pub fn set_bound(&self, bound: u32) {
        let new = places(bound);
        let old = self.bound.swap(new, Ordering::AcqRel);
        if new < old {
            let gone = self.places.forget_permits(old - new);
            self.owed.fetch_add(old - new - gone, Ordering::AcqRel);
            return;
        }
        let mut more = new - old;
        while more > 0 && self.settle_debt() {
            more -= 1;
        }
        self.places.add_permits(more);
    }

    fn permit(self: &Arc<Self>, place: OwnedSemaphorePermit) -> ConnectionPermit {
        self.open.fetch_add(1, Ordering::Relaxed);
        ConnectionPermit {
            place: Some(place),
            connections: self.clone(),
        }
    }

    fn settle_debt(&self) -> bool {
        let less = |owed: usize| owed.checked_sub(1);
        let settled = self
            .owed
            .fetch_update(Ordering::AcqRel, Ordering::Relaxed, less);
        settled.is_ok()
    }
}

fn places(bound: u32) -> usize {
    match bound {
        0 => Semaphore::MAX_PERMITS,
        bound => bound as usize,
    }
}

/// The right to hold one connection open; closing the connection drops it.
#[derive(Debug)]
pub struct ConnectionPermit {
    place: Option<OwnedSemaphorePermit>,
    connections: Arc<Connections>,
}

impl Drop for ConnectionPermit {
    fn drop(&mut self) {
        self.connections.open.fetch_sub(1, Ordering::Relaxed);
        if self.connections.settle_debt()
            && let Some(place) = self.place.take()
        {
            place.forget();
        }
    }
}

/// Counts one waiter for as long as it waits, however it stops.
struct Starving<'a>(&'a Connections);

impl<'a> Starving<'a> {
    fn new(connections: &'a Connections) -> Self {
        connections.waiting.fetch_add(1, Ordering::AcqRel);
        connections.hunger.send_modify(|times| *times += 1);
        Starving(connections)
    }
}

impl Drop for Starving<'_> {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Ordering::AcqRel);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{
        future::Future,
        pin::pin,
        task::{Context, Waker},
        time::Duration,
    };

    #[test]
    fn a_gate_lets_its_bound_in_and_no_more() {
        let gate = Gate::new(2);
        let first = gate.enter().unwrap();
        let _second = gate.enter().unwrap();
        assert!(gate.enter().is_none());
        assert_eq!(gate.inside(), 2);
        drop(first);
        assert!(gate.enter().is_some());
    }

    #[test]
    fn a_gate_of_zero_is_open() {
        let gate = Gate::new(0);
        let passes: Vec<_> = (0..1000).map(|_| gate.enter().unwrap()).collect();
        gate.set_bound(1);
        let counted = gate.enter().unwrap();
        drop(passes);
        assert_eq!(gate.inside(), 1, "what was not counted is not given back");
        drop(counted);
        assert_eq!(gate.inside(), 0);
    }

    #[test]
    fn a_gate_never_holds_more_than_its_bound_over_many_threads() {
        let gate = Gate::new(3);
        let peak = AtomicU32::new(0);
        let holding = AtomicU32::new(0);
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    for _ in 0..10_000 {
                        if let Some(_pass) = gate.enter() {
                            let now = holding.fetch_add(1, Ordering::SeqCst) + 1;
                            peak.fetch_max(now, Ordering::SeqCst);
                            holding.fetch_sub(1, Ordering::SeqCst);
                        }
                    }
                });
            }
        });
        assert!(peak.into_inner() <= 3);
        assert_eq!(gate.inside(), 0);
    }

    #[test]
    fn a_starved_caller_wakes_every_pool_and_gets_the_place_that_one_gives_up() {
        let connections = Connections::new(1);
        let idle = connections.try_open().unwrap();
        let hunger = connections.hunger();
        let mut cx = Context::from_waker(Waker::noop());
        let mut waits = pin!(connections.open());
        assert!(waits.as_mut().poll(&mut cx).is_pending());
        assert!(connections.is_starving());
        assert!(hunger.has_changed().unwrap());
        assert!(connections.try_open().is_none());
        drop(idle);
        assert!(
            connections.try_open().is_none(),
            "a newcomer does not overtake"
        );
        assert!(waits.as_mut().poll(&mut cx).is_ready());
        assert!(!connections.is_starving());
    }

    #[test]
    fn a_caller_that_stops_waiting_leaves_nothing_behind() {
        let connections = Connections::new(1);
        let held = connections.try_open().unwrap();
        {
            let mut waits = pin!(connections.open());
            let mut cx = Context::from_waker(Waker::noop());
            assert!(waits.as_mut().poll(&mut cx).is_pending());
            drop(held);
        }
        assert!(!connections.is_starving());
        assert!(connections.try_open().is_some());
    }

    #[test]
    fn bounds_change_while_connections_are_open() {
        let connections = Connections::new(3);
        let mut open: Vec<_> = (0..3).map(|_| connections.try_open().unwrap()).collect();
        connections.set_bound(1);
        open.pop();
        assert!(connections.try_open().is_none());
        open.pop();
        assert!(connections.try_open().is_none());
        connections.set_bound(2);
        assert!(connections.try_open().is_some());
        open.pop();
        let all: Vec<_> = std::iter::from_fn(|| connections.try_open()).collect();
        assert_eq!(all.len(), 2);
        connections.set_bound(0);
        assert!(connections.try_open().is_some());
        connections.set_bound(2);
        drop(all);
        let all: Vec<_> = std::iter::from_fn(|| connections.try_open()).collect();
        assert_eq!(all.len(), 2);
    }

    /// One worker's pool in small: a connection is kept idle until somebody else starves.
    async fn work(connections: &Arc<Connections>, done: &watch::Sender<usize>) {
        let idle = std::cell::Cell::new(None);
        let calls = async {
            for _ in 0..CALLS {
                let permit = match idle.take() {
                    Some(permit) => permit,
                    None => connections.open().await,
                };
                tokio::task::yield_now().await;
                done.send_modify(|done| *done += 1);
                idle.set((!connections.is_starving()).then_some(permit));
            }
            let all = |done: &usize| *done == WORKERS * CALLS;
            done.subscribe().wait_for(all).await.unwrap();
        };
        let gives_way = async {
            let mut hunger = connections.hunger();
            while hunger.changed().await.is_ok() {
                if connections.is_starving() {
                    idle.take();
                }
            }
        };
        tokio::select! { () = calls => {}, () = gives_way => {} }
    }

    const WORKERS: usize = 8;
    const CALLS: usize = 100;

    #[test]
    fn four_connections_and_eight_workers_deadlock_nothing() {
        let connections = Connections::new(4);
        let done = watch::Sender::new(0);
        let worker = || {
            let mut runtime = tokio::runtime::Builder::new_current_thread();
            let runtime = runtime.enable_time().build().unwrap();
            let work = work(&connections, &done);
            runtime.block_on(async { tokio::time::timeout(Duration::from_secs(60), work).await })
        };
        std::thread::scope(|scope| {
            let workers: Vec<_> = (0..WORKERS).map(|_| scope.spawn(worker)).collect();
            for worker in workers {
                worker.join().unwrap().expect("no worker starves for ever");
            }
        });
        assert_eq!(connections.count(), 0);
    }
}
