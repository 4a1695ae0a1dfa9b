//! How many retries an upstream may be sent: a share of its requests, over the last ten seconds.
//!
//! Retries multiply load just when an upstream can bear it least. At most `share` of the requests of the window may
//! be followed by a retry, or `floor` retries a second where that is more. Two rings of ten one-second buckets,
//! shared by all workers: a deposit is one load and one add; a withdrawal reserves first and looks then, so that
//! workers together never spend more than there is (at the very limit two of them may both be refused).

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Instant,
};

use crate::units::Percent;

const SECONDS: u32 = 10;

/// The retry budget of one upstream, for the whole process.
#[derive(Debug)]
pub struct Budget {
    born: Instant,
    share: Percent,
    floor: u64,
    requests: Ring,
    retries: Ring,
}

impl Budget {
    pub const SHARE: Percent = Percent::new(20).expect("20 is a share");
    /// Retries a second that are granted however few the requests.
    pub const FLOOR: u32 = 10;

    /// The default budget: 20 % over 10 s, at least 10 a second.
    pub fn new(born: Instant) -> Self {
        Self::of(Self::SHARE, Self::FLOOR, born)
    }

    pub fn of(share: Percent, floor_per_second: u32, born: Instant) -> Self {
        Budget {
            born,
            share,
            floor: u64::from(floor_per_second) * u64::from(SECONDS),
            requests: Ring::default(),
            retries: Ring::default(),
        }
    }

    /// One request came (not a retry).
    pub fn deposit(&self, now: Instant) {
        self.requests.add(self.second(now));
    }

    /// Takes one retry; false when the budget is spent.
    pub fn withdraw(&self, now: Instant) -> bool {
        let second = self.second(now);
        self.retries.add(second);
        if self.retries.sum(second) <= self.allowance(second) {
            return true;
        }
        self.retries.take_back(second);
        false
    }

    /// Retries that could be sent now.
    pub fn balance(&self, now: Instant) -> u64 {
        let second = self.second(now);
        self.allowance(second)
            .saturating_sub(self.retries.sum(second))
    }

    fn allowance(&self, second: u32) -> u64 {
        self.share.of(self.requests.sum(second)).max(self.floor)
    }

    /// Seconds since birth, from 1: bucket 0 was never written.
    fn second(&self, now: Instant) -> u32 {
        let age = now.saturating_duration_since(self.born).as_secs();
        u32::try_from(age).map_or(u32::MAX, |age| age.saturating_add(1))
    }
}

/// Counts of the last ten seconds: each bucket is the second it belongs to (high half) and a count (low half).
#[derive(Debug, Default)]
struct Ring([AtomicU64; SECONDS as usize]);

impl Ring {
    fn bucket(&self, second: u32) -> &AtomicU64 {
        &self.0[(second % SECONDS) as usize]
    }

    fn add(&self, second: u32) {
        let bucket = self.bucket(second);
        let mut seen = bucket.load(Ordering::Relaxed);
        // A worker whose clock is behind adds to the newer second: counted too long, never too little.
        while owner(seen) < second {
            let fresh = u64::from(second) << 32 | 1;
            match bucket.compare_exchange_weak(seen, fresh, Ordering::SeqCst, Ordering::Relaxed) {
                Ok(_) => return,
                Err(other) => seen = other,
            }
        }
        bucket.fetch_add(1, Ordering::SeqCst);
    }

    /// Undoes one `add`, unless its second is already forgotten.
    fn take_back(&self, second: u32) {
        let bucket = self.bucket(second);
        let mut seen = bucket.load(Ordering::SeqCst);
        while owner(seen) == second && count(seen) > 0 {
            match bucket.compare_exchange_weak(seen, seen - 1, Ordering::SeqCst, Ordering::SeqCst) {
                Ok(_) => return,
                Err(other) => seen = other,
            }
        }
    }

    fn sum(&self, second: u32) -> u64 {
        let oldest = second.saturating_sub(SECONDS - 1).max(1);
        let within = self.0.iter().map(|bucket| bucket.load(Ordering::SeqCst));
        within
            .filter(|word| owner(*word) >= oldest)
            .map(count)
            .sum()
    }
}

fn owner(word: u64) -> u32 {
    (word >> 32) as u32
}

fn count(word: u64) -> u64 {
    word & u64::from(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::{collections::VecDeque, time::Duration};

    fn share(percent: u8) -> Percent {
        Percent::new(percent).unwrap()
    }

    fn spend(budget: &Budget, now: Instant) -> usize {
        (0..10_000).take_while(|_| budget.withdraw(now)).count()
    }

    #[test]
    fn without_requests_the_floor_is_granted_for_the_window() {
        let now = Instant::now();
        let budget = Budget::new(now);
        assert_eq!(spend(&budget, now), 100);
        assert_eq!(spend(&budget, now + Duration::from_secs(9)), 0);
        assert_eq!(spend(&budget, now + Duration::from_secs(10)), 100);
    }

    #[test]
    fn a_fifth_of_many_requests_may_be_retried() {
        let now = Instant::now();
        let budget = Budget::new(now);
        (0..5000).for_each(|_| budget.deposit(now));
        assert_eq!(budget.balance(now), 1000);
        assert_eq!(spend(&budget, now), 1000);
        assert_eq!(budget.balance(now), 0);
    }

    #[test]
    fn requests_count_for_ten_seconds() {
        let now = Instant::now();
        let budget = Budget::of(share(20), 0, now);
        (0..100).for_each(|_| budget.deposit(now));
        assert_eq!(budget.balance(now + Duration::from_secs(9)), 20);
        assert_eq!(budget.balance(now + Duration::from_secs(10)), 0);
        assert!(!budget.withdraw(now + Duration::from_secs(3600)));
    }

    #[test]
    fn a_share_of_nothing_and_no_floor_is_nothing() {
        let now = Instant::now();
        let budget = Budget::of(share(0), 0, now);
        budget.deposit(now);
        assert!(!budget.withdraw(now));
    }

    #[test]
    fn workers_together_never_overspend() {
        let now = Instant::now();
        let budget = Budget::of(share(20), 0, now);
        (0..1000).for_each(|_| budget.deposit(now));
        let spent: usize = std::thread::scope(|scope| {
            let worker = || (0..500).filter(|_| budget.withdraw(now)).count();
            let workers: Vec<_> = (0..8).map(|_| scope.spawn(worker)).collect();
            workers
                .into_iter()
                .map(|worker| worker.join().unwrap())
                .sum()
        });
        let rest = spend(&budget, now);
        assert!(spent <= 200, "{spent}");
        assert_eq!(
            spent + rest,
            200,
            "what was refused at the limit is not lost"
        );
    }

    proptest! {
        /// Against a plain model: a list of what happened when.
        #[test]
        fn no_window_ever_holds_more_retries_than_its_allowance(
            percent in 0u8..=100, floor in 0u32..4,
            steps in proptest::collection::vec((0u64..3000, any::<bool>()), 1..400),
        ) {
            let born = Instant::now();
            let budget = Budget::of(share(percent), floor, born);
            let (mut now, mut requests, mut retries) = (born, VecDeque::new(), VecDeque::new());
            for (gap, retry) in steps {
                now += Duration::from_millis(gap);
                let second = now.duration_since(born).as_secs();
                for times in [&mut requests, &mut retries] {
                    while times.front().is_some_and(|then| then + 10 <= second) {
                        times.pop_front();
                    }
                }
                if !retry {
                    budget.deposit(now);
                    requests.push_back(second);
                    continue;
                }
                let allowed = (requests.len() * usize::from(percent) / 100).max(floor as usize * 10);
                let granted = budget.withdraw(now);
                prop_assert_eq!(granted, retries.len() < allowed);
                if granted {
                    retries.push_back(second);
                }
            }
        }
    }
}
