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

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const ALL: [Policy; 4] = [
        Policy::PeakEwma,
        Policy::LeastRequest,
        Policy::RoundRobin,
        Policy::Random,
    ];

    fn picker(policy: Policy, seed: u64) -> Picker {
        Picker::with_rng(policy, fastrand::Rng::with_seed(seed))
    }

    /// How often each of `N` was chosen in 10,000 picks.
    fn shares<const N: usize>(
        policy: Policy,
        load: impl Fn(usize) -> f64,
        usable: impl Fn(usize) -> bool,
    ) -> [u32; N] {
        let picker = picker(policy, 7);
        let mut shares = [0; N];
        for _ in 0..10_000 {
            shares[picker.pick(N, &load, &usable, |_| false).unwrap()] += 1;
        }
        shares
    }

    #[test]
    fn the_lower_load_of_two_wins() {
        assert_eq!(
            shares(Policy::PeakEwma, |at| at as f64, |_| true),
            [10_000, 0]
        );
        let [least, .., most] = shares::<10>(Policy::LeastRequest, |at| at as f64, |_| true);
        assert_eq!(most, 0, "of any two the highest load loses");
        assert!(
            (1_800..2_200).contains(&least),
            "in a fifth of all pairs: {least}"
        );
    }

    #[test]
    fn equal_loads_are_shared_evenly() {
        for policy in ALL {
            for share in shares::<5>(policy, |_| 1.0, |_| true) {
                assert!((1_800..2_200).contains(&share), "{policy:?} {share}");
            }
        }
    }

    #[test]
    fn what_an_unusable_endpoint_would_have_got_is_shared_evenly() {
        for policy in [Policy::PeakEwma, Policy::LeastRequest, Policy::Random] {
            let shares = shares::<5>(policy, |_| 1.0, |at| at != 2);
            for at in [0, 1, 3, 4] {
                assert!(
                    (2_300..2_700).contains(&shares[at]),
                    "{policy:?} {shares:?}"
                );
            }
        }
    }

    #[test]
    fn load_still_decides_among_few_usable_ones() {
        let usable = |at| at == 3 || at == 77;
        let shares = shares::<100>(Policy::PeakEwma, |at| at as f64, usable);
        assert_eq!((shares[3], shares[77]), (10_000, 0));
    }

    #[test]
    fn in_turn_is_in_turn() {
        let picker = picker(Policy::RoundRobin, 3);
        let turns: Vec<_> = (0..8)
            .map(|_| picker.pick(4, |_| 0.0, |_| true, |_| false).unwrap())
            .collect();
        for pair in turns.windows(2) {
            assert_eq!(pair[1], (pair[0] + 1) % 4);
        }
    }

    proptest! {
        #[test]
        fn a_usable_endpoint_is_found_whenever_there_is_one(
            at in 0usize..4, seed: u64,
            endpoints in proptest::collection::vec((any::<bool>(), any::<bool>(), any::<f64>()), 0..40),
        ) {
            let picked = picker(ALL[at], seed).pick(
                endpoints.len(),
                |at| endpoints[at].2,
                |at| endpoints[at].0,
                |at| endpoints[at].1,
            );
            let usable = endpoints.iter().filter(|endpoint| endpoint.0);
            match picked {
                None => prop_assert_eq!(usable.count(), 0),
                Some(at) => {
                    prop_assert!(endpoints[at].0);
                    let other = usable.clone().any(|endpoint| !endpoint.1);
                    prop_assert!(!(endpoints[at].1 && other), "avoided though there was another");
                }
            }
        }
    }
}
