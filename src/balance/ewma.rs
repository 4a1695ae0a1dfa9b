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
