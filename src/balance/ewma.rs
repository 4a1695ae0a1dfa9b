//! How long an endpoint takes, as one worker sees it: a peak-sensitive moving average, and the calls in flight.
//!
//! A slower answer counts at once, a faster one little by little (10 s); silence is forgotten the same way, so that an
//! endpoint that was slow is asked again. A failure counts as a slow answer, or a fast 503 would attract traffic. An
//! endpoint never measured is tried by one call at a time, whatever the others' averages.

use std::{
    cell::Cell,
    rc::Rc,
    time::{Duration, Instant},
};

/// One worker's estimate of one endpoint.
#[derive(Debug)]
pub struct Ewma {
    /// Seconds, as of `at`; the seed until `measured`.
    estimate: Cell<f64>,
    at: Cell<Instant>,
    measured: Cell<bool>,
    in_flight: Cell<u32>,
}

impl Ewma {
    /// What an endpoint is thought to take before its first answer.
    pub const SEED: Duration = Duration::from_millis(30);
    /// After this long without news, about a third of an estimate is left.
    pub const DECAY: Duration = Duration::from_secs(10);
    /// A failure counts as this many times the estimate, so that a second one weighs far more than a first.
    pub const PENALTY: u32 = 10;
    /// The longest that a failure counts as.
    pub const WORST: Duration = Duration::from_secs(5);

    pub fn new(now: Instant) -> Rc<Self> {
        Rc::new(Ewma {
            estimate: Cell::new(Self::SEED.as_secs_f64()),
            at: Cell::new(now),
            measured: Cell::new(false),
            in_flight: Cell::new(0),
        })
    }

    /// One call begins. It is in flight until the `Flight` is dropped, after the answer's last byte.
    pub fn start(self: &Rc<Self>, now: Instant) -> Flight {
        self.in_flight.set(self.in_flight.get() + 1);
        Flight {
            ewma: self.clone(),
            began: now,
        }
    }

    /// For `Policy::PeakEwma`: the estimate times the calls there would be. Has no unit that means anything.
    pub fn load(&self, now: Instant) -> f64 {
        let in_flight = self.in_flight.get();
        if !self.measured.get() && in_flight == 0 {
            return 0.0;
        }
        self.decayed(now) * f64::from(in_flight + 1)
    }

    pub fn in_flight(&self) -> u32 {
        self.in_flight.get()
    }

    pub fn estimate(&self, now: Instant) -> Duration {
        Duration::from_secs_f64(self.decayed(now))
    }

    fn decayed(&self, now: Instant) -> f64 {
        self.estimate.get()
            * if self.measured.get() {
                self.kept(now)
            } else {
                1.0
            }
    }

    /// The share of the estimate that time has left: e^(-t/DECAY).
    fn kept(&self, now: Instant) -> f64 {
        let age = now.saturating_duration_since(self.at.get()).as_secs_f64();
        let x = age / Self::DECAY.as_secs_f64();
        // Under traffic the last news is milliseconds old; then 1 - x errs by less than 1e-6 and costs no `exp`.
        if x < 1e-3 { 1.0 - x } else { (-x).exp() }
    }

    fn observe(&self, took: Duration, now: Instant) {
        let took = took.as_secs_f64();
        let estimate = self.estimate.get();
        let next = if !self.measured.replace(true) || took >= estimate {
            took
        } else {
            let kept = self.kept(now);
            estimate * kept + took * (1.0 - kept)
        };
        self.estimate.set(next);
        self.at.set(now);
    }

    fn penalise(&self, took: Duration, now: Instant) {
        let now_at = self.decayed(now);
        let slow = (now_at * f64::from(Self::PENALTY)).min(Self::WORST.as_secs_f64());
        let estimate = now_at.max(slow).max(took.as_secs_f64());
        self.measured.set(true);
        self.estimate.set(estimate);
        self.at.set(now);
    }
}

/// One call in flight to one endpoint.
#[derive(Debug)]
pub struct Flight {
    ewma: Rc<Ewma>,
    began: Instant,
}

impl Flight {
    /// The answer's head came and was no failure.
    pub fn answered(&self, now: Instant) {
        self.ewma.observe(self.took(now), now);
    }

    /// The endpoint failed, fast or slow.
    pub fn failed(&self, now: Instant) {
        self.ewma.penalise(self.took(now), now);
    }

    /// Nobody waits any longer: no failure, but the endpoint takes at least as long as this.
    pub fn abandoned(&self, now: Instant) {
        let took = self.took(now);
        if self.ewma.measured.get() && took > self.ewma.estimate(now) {
            self.ewma.observe(took, now);
        }
    }

    fn took(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.began)
    }
}

impl Drop for Flight {
    fn drop(&mut self) {
        self.ewma.in_flight.set(self.ewma.in_flight.get() - 1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const MS: fn(u64) -> Duration = Duration::from_millis;

    fn answer(ewma: &Rc<Ewma>, began: Instant, took: Duration) {
        ewma.start(began).answered(began + took);
    }

    fn near(estimate: Duration, ms: f64) -> bool {
        (estimate.as_secs_f64() * 1e3 - ms).abs() < ms * 0.01
    }

    #[test]
    fn an_unmeasured_endpoint_is_tried_by_one_call_at_a_time() {
        let now = Instant::now();
        let (new, known) = (Ewma::new(now), Ewma::new(now));
        answer(&known, now, MS(2));
        assert!(new.load(now) < known.load(now));
        let _first = new.start(now);
        assert!(new.load(now) > known.load(now));
        assert_eq!(new.estimate(now), Ewma::SEED);
    }

    #[test]
    fn the_first_answer_replaces_the_seed() {
        let now = Instant::now();
        let ewma = Ewma::new(now);
        answer(&ewma, now, MS(2));
        assert!(near(ewma.estimate(now + MS(2)), 2.0));
    }

    #[test]
    fn a_slow_answer_counts_at_once_and_a_fast_one_little_by_little() {
        let now = Instant::now();
        let ewma = Ewma::new(now);
        answer(&ewma, now, MS(10));
        answer(&ewma, now, MS(500));
        let slow = now + MS(500);
        assert!(near(ewma.estimate(slow), 500.0));
        answer(&ewma, slow, MS(10));
        assert!(ewma.estimate(slow + MS(10)) > MS(490));
        let later = slow + Ewma::DECAY;
        answer(&ewma, later, MS(10));
        let third = 500.0 / std::f64::consts::E + 10.0 * (1.0 - 1.0 / std::f64::consts::E);
        assert!(near(ewma.estimate(later + MS(10)), third));
    }

    #[test]
    fn silence_is_forgotten() {
        let now = Instant::now();
        let ewma = Ewma::new(now);
        answer(&ewma, now, MS(100));
        let then = now + MS(100) + Ewma::DECAY;
        assert!(near(ewma.estimate(then), 100.0 / std::f64::consts::E));
        assert!(ewma.estimate(now + Duration::from_secs(120)) < MS(1));
    }

    #[test]
    fn a_fast_failure_weighs_more_than_a_slow_answer() {
        let now = Instant::now();
        let (failing, slow) = (Ewma::new(now), Ewma::new(now));
        answer(&failing, now, MS(5));
        answer(&slow, now, MS(40));
        failing.start(now + MS(5)).failed(now + MS(6));
        assert!(failing.load(now + MS(40)) > slow.load(now + MS(40)));
    }

    #[test]
    fn failures_add_up_to_the_worst_and_are_forgiven() {
        let now = Instant::now();
        let ewma = Ewma::new(now);
        (0..20).for_each(|_| ewma.start(now).failed(now));
        assert!(near(ewma.estimate(now), 5_000.0));
        ewma.start(now).failed(now + MS(8_000));
        assert!(near(ewma.estimate(now + MS(8_000)), 8_000.0));
        assert!(ewma.estimate(now + Duration::from_secs(180)) < MS(1));
    }

    #[test]
    fn calls_in_flight_weigh_until_their_last_byte() {
        let now = Instant::now();
        let ewma = Ewma::new(now);
        answer(&ewma, now, MS(10));
        let at = now + MS(10);
        let alone = ewma.load(at);
        let flight = ewma.start(at);
        assert!((ewma.load(at) - 2.0 * alone).abs() < 1e-9);
        drop(flight);
        assert_eq!(ewma.in_flight(), 0);
    }

    #[test]
    fn a_call_that_nobody_waits_for_is_slow_but_no_failure() {
        let now = Instant::now();
        let ewma = Ewma::new(now);
        answer(&ewma, now, MS(10));
        ewma.start(now).abandoned(now + MS(11));
        assert!(near(ewma.estimate(now + MS(11)), 11.0));
        ewma.start(now).abandoned(now + MS(5));
        assert!(near(ewma.estimate(now + MS(11)), 11.0));
    }

    #[derive(Debug, Clone, Copy)]
    enum Step {
        Answered,
        Failed,
        Abandoned,
    }

    proptest! {
        #[test]
        fn the_estimate_stays_between_its_bounds_and_only_falls_in_silence(
            steps in proptest::collection::vec((0u64..20_000, 0u64..10_000, 0usize..3), 1..60),
        ) {
            let mut now = Instant::now();
            let ewma = Ewma::new(now);
            let mut slowest = Duration::ZERO;
            for (gap, took, step) in steps {
                let flight = ewma.start(now);
                now += MS(took);
                slowest = slowest.max(MS(took));
                match [Step::Answered, Step::Failed, Step::Abandoned][step] {
                    Step::Answered => flight.answered(now),
                    Step::Failed => flight.failed(now),
                    Step::Abandoned => flight.abandoned(now),
                }
                drop(flight);
                let fresh = ewma.estimate(now);
                prop_assert!(fresh <= slowest.max(Ewma::WORST) + MS(1));
                prop_assert_eq!(ewma.in_flight(), 0);
                now += MS(gap);
                prop_assert!(ewma.estimate(now) <= fresh);
                prop_assert!(ewma.load(now).is_finite());
            }
        }
    }
}
