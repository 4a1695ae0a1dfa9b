//! How long to wait before the next try: exponential, with full jitter.
//!
//! The wait is drawn evenly between nothing and a ceiling that doubles with each try, from `base` up to `max`, so
//! that callers who failed together do not come back together. What an answer asks for by `Retry-After` is honoured
//! where it fits, and never half.

use std::time::Duration;

use super::settings;

/// The two ends of the wait between tries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Backoff {
    base: Duration,
    max: Duration,
}

impl From<settings::Backoff> for Backoff {
    fn from(said: settings::Backoff) -> Self {
        Backoff::new(said.base.into(), said.max.into())
    }
}

/// What to do before the next try.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wait {
    /// Try again after this long.
    For(Duration),
    /// The answer asks for more patience than `max`.
    TooLong,
    /// The deadline is over before the wait is.
    PastDeadline,
}

impl Backoff {
    /// Waits up to `base` before the second try, doubling, at most `max`. A `max` below `base` is raised to it.
    pub fn new(base: Duration, max: Duration) -> Self {
        Backoff {
            base,
            max: max.max(base),
        }
    }

    /// The longest wait after `tries` tries: `base` after one, then twice as long each.
    pub fn ceiling(&self, tries: u32) -> Duration {
        let doubled = 1u32.checked_shl(tries.saturating_sub(1));
        match doubled.and_then(|factor| self.base.checked_mul(factor)) {
            Some(wait) => wait.min(self.max),
            None => self.max,
        }
    }

    /// A wait drawn evenly from nothing to the ceiling.
    pub fn draw(&self, tries: u32, rng: &mut fastrand::Rng) -> Duration {
        let ceiling = u64::try_from(self.ceiling(tries).as_nanos()).unwrap_or(u64::MAX);
        Duration::from_nanos(rng.u64(0..=ceiling))
    }

    /// The wait before the next try, after `tries` tries.
    ///
    /// `asked` is the answer's `Retry-After`: honoured whole where it is within `max`, else there is no next try.
    /// `left` is the time to the call's deadline.
    pub fn wait(
        &self,
        tries: u32,
        asked: Option<Duration>,
        left: Option<Duration>,
        rng: &mut fastrand::Rng,
    ) -> Wait {
        let asked = asked.unwrap_or_default();
        if asked > self.max {
            return Wait::TooLong;
        }
        let wait = self.draw(tries, rng).max(asked);
        match left {
            Some(left) if wait >= left => Wait::PastDeadline,
            _ => Wait::For(wait),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const MS: fn(u64) -> Duration = Duration::from_millis;

    #[test]
    fn the_ceiling_doubles_up_to_max() {
        let backoff = Backoff::new(MS(25), MS(250));
        let ceilings: Vec<_> = (1..=6).map(|tries| backoff.ceiling(tries)).collect();
        assert_eq!(
            ceilings,
            [25, 50, 100, 200, 250, 250].map(Duration::from_millis)
        );
        assert_eq!(backoff.ceiling(u32::MAX), MS(250));
    }

    #[test]
    fn the_jitter_reaches_both_ends() {
        let backoff = Backoff::new(MS(100), MS(100));
        let mut rng = fastrand::Rng::with_seed(7);
        let waits: Vec<_> = (0..1000).map(|_| backoff.draw(1, &mut rng)).collect();
        assert!(waits.iter().any(|wait| *wait < MS(5)));
        assert!(waits.iter().any(|wait| *wait > MS(95)));
    }

    #[test]
    fn retry_after_is_honoured_whole_or_not_at_all() {
        let backoff = Backoff::new(MS(25), MS(1000));
        let mut rng = fastrand::Rng::with_seed(7);
        let mut wait = |asked, left| backoff.wait(1, Some(MS(asked)), left, &mut rng);
        assert_eq!(wait(1000, None), Wait::For(MS(1000)));
        assert_eq!(wait(1001, None), Wait::TooLong);
        assert_eq!(wait(500, Some(MS(501))), Wait::For(MS(500)));
        assert_eq!(wait(500, Some(MS(500))), Wait::PastDeadline);
    }

    #[test]
    fn nothing_is_waited_for_past_the_deadline() {
        let backoff = Backoff::new(MS(25), MS(250));
        let mut rng = fastrand::Rng::with_seed(7);
        assert_eq!(
            backoff.wait(1, None, Some(Duration::ZERO), &mut rng),
            Wait::PastDeadline
        );
    }

    proptest! {
        #[test]
        fn no_wait_is_longer_than_its_ceiling_nor_shorter_than_asked(
            base in 0u64..10_000, max in 0u64..100_000, tries in 0u32..100,
            asked in proptest::option::of(0u64..100_000), left in proptest::option::of(0u64..100_000), seed: u64,
        ) {
            let backoff = Backoff::new(MS(base), MS(max));
            let mut rng = fastrand::Rng::with_seed(seed);
            match backoff.wait(tries, asked.map(MS), left.map(MS), &mut rng) {
                Wait::For(wait) => {
                    prop_assert!(wait <= MS(max.max(base)));
                    prop_assert!(wait <= backoff.ceiling(tries).max(MS(asked.unwrap_or(0))));
                    prop_assert!(asked.is_none_or(|asked| wait >= MS(asked)));
                    prop_assert!(left.is_none_or(|left| wait < MS(left)));
                }
                Wait::TooLong => prop_assert!(asked.is_some_and(|asked| asked > max.max(base))),
                Wait::PastDeadline => prop_assert!(left.is_some()),
            }
        }
    }
}
