//! Chooses one of n endpoints: two choices by load, in turn, or by chance.
//!
//! "Power of two choices": draw two, take the one with the lower load. It needs no sorting, and no worker follows the
//! herd to the one best endpoint. Whenever an endpoint is usable one is found; one to be avoided (it just failed this
//! very call) is taken only where there is no other. No allocation.

use std::cell::{Cell, RefCell};

use super::Policy;

/// One worker's choice among one upstream's endpoints.
#[derive(Debug)]
pub struct Picker {
    policy: Policy,
    turn: Cell<usize>,
    rng: RefCell<fastrand::Rng>,
}

impl Picker {
    pub fn new(policy: Policy) -> Self {
        Self::with_rng(policy, fastrand::Rng::new())
    }

    /// A picker whose draws a test can repeat.
    pub fn with_rng(policy: Policy, mut rng: fastrand::Rng) -> Self {
        Picker {
            policy,
            // Workers do not go round in step.
            turn: Cell::new(rng.usize(..1 << 16)),
            rng: RefCell::new(rng),
        }
    }

    pub fn policy(&self) -> Policy {
        self.policy
    }

    /// One of `0..count` that is `usable`, preferably none that `avoid` names; `None` when none is usable:
    /// `panic: routeAll` asks once more, with all of them usable.
    ///
    /// `load` is asked of two endpoints at most, and of none where the policy does not look at it.
    pub fn pick(
        &self,
        count: usize,
        load: impl Fn(usize) -> f64,
        usable: impl Fn(usize) -> bool,
        avoid: impl Fn(usize) -> bool,
    ) -> Option<usize> {
        if count <= 1 {
            return (count == 1 && usable(0)).then_some(0);
        }
        let good = |at: usize| usable(at) && !avoid(at);
        let found = match self.policy {
            Policy::PeakEwma | Policy::LeastRequest => self.two_choices(count, load, good),
            Policy::RoundRobin => self.in_turn(count, good),
            Policy::Random => self.by_chance(count, good),
        };
        found.or_else(|| self.by_chance(count, usable))
    }

    fn two_choices(
        &self,
        count: usize,
        load: impl Fn(usize) -> f64,
        good: impl Fn(usize) -> bool,
    ) -> Option<usize> {
        let (one, other) = self.draw_two(count);
        match (good(one), good(other)) {
            (true, true) => Some(lower(&load, one, other)),
            (true, false) => self.against(count, one, &load, &good),
            (false, true) => self.against(count, other, &load, &good),
            (false, false) => {
                let one = self.by_chance(count, &good)?;
                self.against(count, one, &load, &good)
            }
        }
    }

    /// `one`, or the next good endpoint after a drawn place if that has the lower load.
    fn against(
        &self,
        count: usize,
        one: usize,
        load: impl Fn(usize) -> f64,
        good: impl Fn(usize) -> bool,
    ) -> Option<usize> {
        match self.by_chance(count, |at| at != one && good(at)) {
            Some(other) => Some(lower(load, one, other)),
            None => Some(one),
        }
    }

    fn in_turn(&self, count: usize, good: impl Fn(usize) -> bool) -> Option<usize> {
        let start = self.turn.get() % count;
        let mut round = (start..count).chain(0..start);
        let found = round.find(|at| good(*at))?;
        self.turn.set(found + 1);
        Some(found)
    }

    /// Any good one with the same chance: a few draws, then one pass over all of them.
    fn by_chance(&self, count: usize, good: impl Fn(usize) -> bool) -> Option<usize> {
        let mut rng = self.rng.borrow_mut();
        let mut draws = std::iter::repeat_with(|| rng.usize(..count)).take(4);
        if let Some(found) = draws.find(|at| good(*at)) {
            return Some(found);
        }
        let mut seen = 0;
        (0..count).filter(|at| good(*at)).fold(None, |kept, at| {
            seen += 1;
            if rng.usize(..seen) == 0 {
                Some(at)
            } else {
                kept
            }
        })
    }

    fn draw_two(&self, count: usize) -> (usize, usize) {
        let mut rng = self.rng.borrow_mut();
        let one = rng.usize(..count);
        let other = rng.usize(..count - 1);
        (one, if other >= one { other + 1 } else { other })
    }
}

fn lower(load: impl Fn(usize) -> f64, one: usize, other: usize) -> usize {
    if load(other) < load(one) { other } else { one }
}
