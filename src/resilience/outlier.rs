//! Takes a failing endpoint out of balancing, and lets it back by one real request.
//!
//! `consecutiveFailures` in a row eject it for a penalty that doubles with each ejection in short order. After the
//! penalty the first call to ask is its probation: an answer closes the case, a failure ejects it for longer. At most
//! `maxEjection` of an upstream's endpoints are out at once, and never the last one. Facts of the process: every
//! worker holds the same `Health`, one atomic word; a healthy endpoint's answer costs one load.

use std::{
    sync::{
        Arc, Mutex, PoisonError, Weak,
        atomic::{AtomicU32, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use super::{UpstreamMetrics, settings};
use crate::{
    fault::{Class, Fault, Side},
    units::Time,
};

/// What an answer, or its absence, says of the endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    Success,
    Failure,
    /// Nothing: a client's fault, our own limit, a request given back unprocessed.
    Neither,
}

impl Verdict {
    pub fn of_status(status: u16) -> Self {
        match status {
            500..=599 => Verdict::Failure,
            _ => Verdict::Success,
        }
    }

    /// UNKNOWN, INTERNAL, UNAVAILABLE and DATA_LOSS are the callee's; the others are answers.
    pub fn of_grpc(code: u8) -> Self {
        match code {
            2 | 13 | 14 | 15 => Verdict::Failure,
            _ => Verdict::Success,
        }
    }

    pub fn of_fault(fault: &Fault) -> Self {
        match (fault.side(), fault.class()) {
            (Side::Client | Side::Weft, _) | (_, Class::Refused) => Verdict::Neither,
            (Side::Upstream, _) => Verdict::Failure,
        }
    }
}

/// What one upstream's endpoints share: the rules, and how many are out.
#[derive(Debug)]
pub struct Outlier {
    born: Instant,
    consecutive: AtomicU32,
    min_ms: AtomicU64,
    max_ms: AtomicU64,
    max_ejection: AtomicU32,
    endpoints: AtomicU32,
    /// For `endpoints_are` alone, never on a call's path.
    known: Mutex<Vec<Weak<Health>>>,
    /// Ejected ones and those on probation.
    out: AtomicU32,
    /// No probation is due before.
    next_due_ms: AtomicU64,
    metrics: Arc<UpstreamMetrics>,
}

impl Outlier {
    pub fn new(
        rules: settings::Outlier,
        metrics: Arc<UpstreamMetrics>,
        born: Instant,
    ) -> Arc<Self> {
        let outlier = Outlier {
            born,
            consecutive: AtomicU32::new(0),
            min_ms: AtomicU64::new(0),
            max_ms: AtomicU64::new(0),
            max_ejection: AtomicU32::new(0),
            endpoints: AtomicU32::new(0),
            known: Mutex::default(),
            out: AtomicU32::new(0),
            next_due_ms: AtomicU64::new(u64::MAX),
            metrics,
        };
        outlier.retune(rules);
        Arc::new(outlier)
    }

    /// Applies from the next failure on; who is out stays out.
    pub fn retune(&self, rules: settings::Outlier) {
        let ms = |time: Time| time.duration().as_millis() as u64;
        let settings::Penalty { min, max } = rules.penalty;
        self.consecutive.store(
            rules.consecutive_failures.min(MAX_FAILURES),
            Ordering::Relaxed,
        );
        self.min_ms.store(ms(min), Ordering::Relaxed);
        self.max_ms.store(ms(max.max(min)), Ordering::Relaxed);
        let share = u32::from(rules.max_ejection.share());
        self.max_ejection.store(share, Ordering::Relaxed);
    }

    /// Says which endpoints there are now. One that left counts no longer, though a worker may still drain it; where
    /// more are out than may be, those whose penalty ends first return, unproven.
    pub fn endpoints_are(&self, healths: &[Arc<Health>]) {
        let now = healths.iter().map(Arc::downgrade).collect();
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let before = std::mem::replace(&mut *known, now);
        let stays = |old: &Arc<Health>| healths.iter().any(|health| Arc::ptr_eq(health, old));
        for left in before.iter().filter_map(Weak::upgrade) {
            if !stays(&left) {
                left.retire();
            }
        }
        healths.iter().for_each(|health| health.return_from(GONE));
        let count = u32::try_from(healths.len()).unwrap_or(u32::MAX);
        self.endpoints.store(count, Ordering::SeqCst);
        while self.out.load(Ordering::SeqCst) > self.cap() {
            let out = healths.iter().filter(|health| is_out(health.word().tag));
            match out.min_by_key(|health| health.word().time_ms) {
                Some(first) => first.return_from(first.word().tag),
                None => break,
            }
        }
    }

    /// The endpoint, of `count`, whose probation this call is, if one is due. One load while none is.
    pub fn probe<'a>(
        &self,
        count: usize,
        health: impl Fn(usize) -> &'a Arc<Health>,
        now: Instant,
    ) -> Option<(usize, Probe)> {
        let now_ms = self.ms(now);
        if now_ms < self.next_due_ms.load(Ordering::Relaxed) {
            return None;
        }
        self.next_due_ms.store(u64::MAX, Ordering::SeqCst);
        let mut found = None;
        for at in 0..count {
            let word = health(at).word();
            if word.tag != EJECTED {
                continue;
            }
            if word.time_ms <= now_ms && found.is_none() {
                found = health(at).try_probe(word).map(|probe| (at, probe));
            } else {
                self.due_by(word.time_ms);
            }
        }
        found
    }

    /// Endpoints that are out of balancing.
    pub fn out(&self) -> u32 {
        self.out.load(Ordering::Relaxed)
    }

    fn cap(&self) -> u32 {
        let endpoints = self.endpoints.load(Ordering::SeqCst);
        let share = u64::from(self.max_ejection.load(Ordering::Relaxed));
        let allowed = (u64::from(endpoints) * share / 100) as u32;
        allowed.min(endpoints.saturating_sub(1))
    }

    fn take_out(&self) -> bool {
        let more = |out: u32| (out < self.cap()).then_some(out + 1);
        let taken = self
            .out
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, more);
        taken.is_ok()
    }

    fn put_back(&self) {
        self.out.fetch_sub(1, Ordering::SeqCst);
    }

    fn due_by(&self, at_ms: u64) {
        self.next_due_ms.fetch_min(at_ms, Ordering::SeqCst);
    }

    /// The penalty of the `times`th ejection in short order.
    fn penalty_ms(&self, times: u32) -> u64 {
        let (min, max) = (&self.min_ms, &self.max_ms);
        let doubled = 1u64 << times.saturating_sub(1).min(40);
        let penalty = min.load(Ordering::Relaxed).saturating_mul(doubled);
        penalty.min(max.load(Ordering::Relaxed))
    }

    fn ms(&self, now: Instant) -> u64 {
        let age = now.saturating_duration_since(self.born).as_millis();
        u64::try_from(age).map_or(MAX_MS, |age| age.min(MAX_MS))
    }
}

/// Whether an endpoint is in balancing, for those who look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    Healthy {
        failures: u32,
    },
    /// `left` is nothing when its probation is due.
    Ejected {
        left: Duration,
        times: u32,
    },
    Probing {
        times: u32,
    },
}

/// An endpoint was just taken out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ejection {
    pub penalty: Duration,
    pub times: u32,
}

/// One endpoint's health, shared by all workers.
#[derive(Debug)]
pub struct Health {
    outlier: Arc<Outlier>,
    word: AtomicU64,
}

impl Health {
    pub fn new(outlier: &Arc<Outlier>) -> Arc<Self> {
        Arc::new(Health {
            outlier: outlier.clone(),
            word: AtomicU64::new(Word::HEALTHY.pack()),
        })
    }

    /// True when balancing may choose it.
    pub fn is_usable(&self) -> bool {
        tag(self.word.load(Ordering::Relaxed)) == HEALTHY
    }

    /// Notes how a try on it ended, unless that was its probation (`Probe::settle`).
    ///
    /// What began before an ejection and ends after it says nothing new.
    pub fn record(&self, verdict: Verdict, now: Instant) -> Option<Ejection> {
        match verdict {
            Verdict::Success => self.succeeded(),
            Verdict::Failure => return self.failed(now),
            Verdict::Neither => {}
        }
        None
    }

    pub fn state(&self, now: Instant) -> State {
        let word = self.word();
        let left = word.time_ms.saturating_sub(self.outlier.ms(now));
        match word.tag {
            EJECTED => State::Ejected {
                left: Duration::from_millis(left),
                times: word.times,
            },
            PROBING => State::Probing { times: word.times },
            _ => State::Healthy {
                failures: word.failures,
            },
        }
    }

    fn word(&self) -> Word {
        Word::unpack(self.word.load(Ordering::SeqCst))
    }

    fn swap(&self, from: Word, to: Word) -> bool {
        self.word
            .compare_exchange(from.pack(), to.pack(), Ordering::SeqCst, Ordering::Relaxed)
            .is_ok()
    }

    fn succeeded(&self) {
        loop {
            let word = Word::unpack(self.word.load(Ordering::Relaxed));
            if word.tag != HEALTHY || word.failures == 0 {
                return;
            }
            let well = Word {
                failures: 0,
                ..word
            };
            if self.swap(word, well) {
                return;
            }
        }
    }

    fn failed(&self, now: Instant) -> Option<Ejection> {
        let bound = self.outlier.consecutive.load(Ordering::Relaxed);
        loop {
            let word = self.word();
            if word.tag != HEALTHY || bound == 0 {
                return None;
            }
            let failures = (word.failures + 1).min(MAX_FAILURES);
            if failures >= bound && self.outlier.take_out() {
                match self.eject(word, now) {
                    Some(ejection) => return Some(ejection),
                    None => {
                        self.outlier.put_back();
                        continue;
                    }
                }
            }
            // At the cap the row goes on: the next failure tries again.
            if self.swap(word, Word { failures, ..word }) {
                return None;
            }
        }
    }

    /// The caller has counted it as out.
    fn eject(&self, word: Word, now: Instant) -> Option<Ejection> {
        let outlier = &self.outlier;
        let now_ms = outlier.ms(now);
        let forgotten = word.tag == HEALTHY
            && now_ms.saturating_sub(word.time_ms) >= outlier.max_ms.load(Ordering::Relaxed);
        let before = if forgotten { 0 } else { word.times };
        let times = (before + 1).min(MAX_TIMES);
        let penalty_ms = outlier.penalty_ms(times);
        let until_ms = now_ms.saturating_add(penalty_ms).min(MAX_MS);
        let ejected = Word {
            tag: EJECTED,
            times,
            failures: 0,
            time_ms: until_ms,
        };
        if !self.swap(word, ejected) {
            return None;
        }
        outlier.due_by(until_ms);
        outlier.metrics.ejections.inc();
        Some(Ejection {
            penalty: Duration::from_millis(penalty_ms),
            times,
        })
    }

    fn try_probe(self: &Arc<Self>, ejected: Word) -> Option<Probe> {
        let probing = Word {
            tag: PROBING,
            ..ejected
        };
        self.swap(ejected, probing).then(|| Probe {
            health: self.clone(),
            probing,
            settled: false,
        })
    }

    /// Makes it healthy if it is `tag`.
    fn return_from(&self, tag: u64) {
        let word = self.word();
        let healthy = Word {
            tag: HEALTHY,
            failures: 0,
            ..word
        };
        if word.tag == tag && self.swap(word, healthy) && is_out(tag) {
            self.outlier.put_back();
        }
    }

    fn retire(&self) {
        let gone = Word {
            tag: GONE,
            ..Word::HEALTHY
        };
        let before = self.word.swap(gone.pack(), Ordering::SeqCst);
        if is_out(tag(before)) {
            self.outlier.put_back();
        }
    }
}

impl Drop for Health {
    fn drop(&mut self) {
        if is_out(self.word().tag) {
            self.outlier.put_back();
        }
    }
}

/// The one request that decides whether an ejected endpoint returns.
///
/// Dropped unsettled (the call was cancelled), the probation is given back: the next call is it.
#[derive(Debug)]
pub struct Probe {
    health: Arc<Health>,
    probing: Word,
    settled: bool,
}

impl Probe {
    /// An answer closes the case, a failure ejects for longer; what says neither gives the probation back.
    pub fn settle(mut self, verdict: Verdict, now: Instant) -> Option<Ejection> {
        let health = self.health.clone();
        match verdict {
            Verdict::Success => {
                self.settled = true;
                let healthy = Word {
                    tag: HEALTHY,
                    times: self.probing.times,
                    failures: 0,
                    time_ms: health.outlier.ms(now),
                };
                if health.swap(self.probing, healthy) {
                    health.outlier.put_back();
                }
                None
            }
            Verdict::Failure => {
                self.settled = true;
                health.eject(self.probing, now)
            }
            Verdict::Neither => None,
        }
    }
}

impl Drop for Probe {
    fn drop(&mut self) {
        if self.settled {
            return;
        }
        let ejected = Word {
            tag: EJECTED,
            ..self.probing
        };
        if self.health.swap(self.probing, ejected) {
            self.health.outlier.due_by(ejected.time_ms);
        }
    }
}

const HEALTHY: u64 = 0;
const EJECTED: u64 = 1;
const PROBING: u64 = 2;
/// No endpoint of its upstream any more.
const GONE: u64 = 3;
const MAX_FAILURES: u32 = (1 << 16) - 1;
const MAX_TIMES: u32 = (1 << 6) - 1;
/// 34 years.
const MAX_MS: u64 = (1 << 40) - 1;

/// A `Health` in one atomic: tag 2 bits, times 6, failures 16, time 40.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Word {
    tag: u64,
    /// Ejections in short order.
    times: u32,
    /// In a row.
    failures: u32,
    /// Healthy: since when. Ejected: until when.
    time_ms: u64,
}

impl Word {
    const HEALTHY: Word = Word {
        tag: HEALTHY,
        times: 0,
        failures: 0,
        time_ms: 0,
    };

    const fn pack(self) -> u64 {
        self.tag << 62 | (self.times as u64) << 56 | (self.failures as u64) << 40 | self.time_ms
    }

    const fn unpack(word: u64) -> Self {
        Word {
            tag: tag(word),
            times: (word >> 56) as u32 & MAX_TIMES,
            failures: (word >> 40) as u32 & MAX_FAILURES,
            time_ms: word & MAX_MS,
        }
    }
}

const fn is_out(tag: u64) -> bool {
    matches!(tag, EJECTED | PROBING)
}

const fn tag(word: u64) -> u64 {
    word >> 62
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{fault::Reason, units::Percent};
    use proptest::prelude::*;

    const SEC: fn(u64) -> Duration = Duration::from_secs;

    fn upstream(count: usize, share: u8, now: Instant) -> (Arc<Outlier>, Vec<Arc<Health>>) {
        let rules = settings::Outlier {
            max_ejection: Percent::new(share).unwrap(),
            ..settings::Outlier::default()
        };
        let outlier = Outlier::new(rules, Arc::default(), now);
        let healths: Vec<_> = (0..count).map(|_| Health::new(&outlier)).collect();
        outlier.endpoints_are(&healths);
        (outlier, healths)
    }

    fn fail(health: &Health, times: usize, now: Instant) -> Option<Ejection> {
        let row = (0..times).map(|_| health.record(Verdict::Failure, now));
        row.last().flatten()
    }

    fn probe(outlier: &Outlier, healths: &[Arc<Health>], now: Instant) -> Option<(usize, Probe)> {
        outlier.probe(healths.len(), |at| &healths[at], now)
    }

    #[test]
    fn five_failures_in_a_row_eject_and_four_do_not() {
        let now = Instant::now();
        let (outlier, healths) = upstream(2, 50, now);
        assert_eq!(fail(&healths[0], 4, now), None);
        healths[0].record(Verdict::Success, now);
        assert_eq!(fail(&healths[0], 4, now), None);
        healths[0].record(Verdict::Neither, now);
        assert!(healths[0].is_usable());
        let penalty = SEC(1);
        assert_eq!(
            fail(&healths[0], 1, now),
            Some(Ejection { penalty, times: 1 })
        );
        assert!(!healths[0].is_usable());
        assert_eq!(outlier.out(), 1);
        assert_eq!(outlier.metrics.ejections.get(), 1);
        let left = SEC(1);
        assert_eq!(healths[0].state(now), State::Ejected { left, times: 1 });
    }

    #[test]
    fn whose_fault_decides_what_counts() {
        for (status, verdict) in [
            (200, Verdict::Success),
            (404, Verdict::Success),
            (429, Verdict::Success),
            (500, Verdict::Failure),
            (503, Verdict::Failure),
            (600, Verdict::Success),
        ] {
            assert_eq!(Verdict::of_status(status), verdict, "{status}");
        }
        for code in 0..=16 {
            let failing = [2, 13, 14, 15].contains(&code);
            assert_eq!(
                Verdict::of_grpc(code) == Verdict::Failure,
                failing,
                "{code}"
            );
        }
        for (reason, verdict) in [
            (Reason::BodyBroken, Verdict::Neither),
            (Reason::ClientGone, Verdict::Neither),
            (Reason::PendingOverflow, Verdict::Neither),
            (Reason::Refused, Verdict::Neither),
            (Reason::ConnectFailed, Verdict::Failure),
            (Reason::ConnectTimeout, Verdict::Failure),
            (Reason::Reset, Verdict::Failure),
            (Reason::TryTimeout, Verdict::Failure),
            (Reason::BadAnswer, Verdict::Failure),
        ] {
            assert_eq!(
                Verdict::of_fault(&Fault::new(reason, "")),
                verdict,
                "{reason}"
            );
        }
    }

    #[test]
    fn after_the_penalty_one_request_is_the_probation() {
        let now = Instant::now();
        let (outlier, healths) = upstream(4, 50, now);
        fail(&healths[2], 5, now);
        assert!(probe(&outlier, &healths, now + Duration::from_millis(999)).is_none());
        let (at, first) = probe(&outlier, &healths, now + SEC(1)).unwrap();
        assert_eq!(at, 2);
        assert!(
            probe(&outlier, &healths, now + SEC(1)).is_none(),
            "one only"
        );
        assert_eq!(healths[2].state(now + SEC(1)), State::Probing { times: 1 });
        assert!(!healths[2].is_usable());
        first.settle(Verdict::Success, now + SEC(1));
        assert!(healths[2].is_usable());
        assert_eq!(outlier.out(), 0);
    }

    #[test]
    fn a_failed_probation_doubles_the_penalty_up_to_its_most() {
        let mut now = Instant::now();
        let (outlier, healths) = upstream(2, 50, now);
        let mut penalty = fail(&healths[0], 5, now).unwrap().penalty;
        let mut penalties = vec![penalty.as_secs()];
        for _ in 0..7 {
            now += penalty;
            let (_, probe) = probe(&outlier, &healths, now).unwrap();
            penalty = probe.settle(Verdict::Failure, now).unwrap().penalty;
            penalties.push(penalty.as_secs());
        }
        assert_eq!(penalties, [1, 2, 4, 8, 16, 32, 60, 60]);
        assert_eq!(outlier.out(), 1);
    }

    #[test]
    fn earlier_ejections_are_forgotten_after_a_minute_of_health() {
        let now = Instant::now();
        let (outlier, healths) = upstream(2, 50, now);
        let mut well = now;
        for (healthy_for, times) in [(SEC(0), 1), (SEC(59), 2), (SEC(60), 1)] {
            let fails = well + healthy_for;
            let ejection = fail(&healths[0], 5, fails).unwrap();
            assert_eq!(ejection.times, times);
            well = fails + ejection.penalty;
            let (_, probe) = probe(&outlier, &healths, well).unwrap();
            probe.settle(Verdict::Success, well);
        }
    }

    #[test]
    fn a_probation_that_was_cancelled_is_given_back() {
        let now = Instant::now();
        let (outlier, healths) = upstream(2, 50, now);
        fail(&healths[0], 5, now);
        let then = now + SEC(1);
        drop(probe(&outlier, &healths, then).unwrap());
        let (_, second) = probe(&outlier, &healths, then).unwrap();
        assert_eq!(second.settle(Verdict::Neither, then), None);
        let (_, third) = probe(&outlier, &healths, then).unwrap();
        third.settle(Verdict::Success, then);
        assert_eq!(outlier.out(), 0);
    }

    #[test]
    fn two_probations_that_are_due_are_two_requests() {
        let now = Instant::now();
        let (outlier, healths) = upstream(4, 50, now);
        fail(&healths[1], 5, now);
        fail(&healths[3], 5, now);
        let then = now + SEC(1);
        let (one, first) = probe(&outlier, &healths, then).unwrap();
        let (other, second) = probe(&outlier, &healths, then).unwrap();
        assert_eq!((one, other), (1, 3));
        assert!(probe(&outlier, &healths, then).is_none());
        drop((first, second));
    }

    #[test]
    fn what_began_before_an_ejection_says_nothing_after_it() {
        let now = Instant::now();
        let (outlier, healths) = upstream(2, 50, now);
        fail(&healths[0], 5, now);
        assert_eq!(fail(&healths[0], 5, now), None);
        healths[0].record(Verdict::Success, now);
        assert!(!healths[0].is_usable());
        assert_eq!(outlier.out(), 1);
    }

    #[test]
    fn at_most_the_share_is_out_and_never_the_last_one() {
        for (count, share, most) in [
            (1, 100, 0),
            (2, 50, 1),
            (3, 50, 1),
            (5, 50, 2),
            (2, 49, 0),
            (4, 100, 3),
            (4, 0, 0),
        ] {
            let now = Instant::now();
            let (outlier, healths) = upstream(count, share, now);
            healths.iter().for_each(|health| {
                fail(health, 9, now);
            });
            assert_eq!(outlier.out(), most, "{share} % of {count}");
        }
    }

    #[test]
    fn at_the_cap_the_next_failure_ejects_once_there_is_room() {
        let now = Instant::now();
        let (outlier, healths) = upstream(2, 50, now);
        fail(&healths[0], 5, now);
        assert_eq!(fail(&healths[1], 7, now), None);
        let (_, probe) = probe(&outlier, &healths, now + SEC(1)).unwrap();
        probe.settle(Verdict::Success, now + SEC(1));
        assert!(fail(&healths[1], 1, now + SEC(1)).is_some());
    }

    #[test]
    fn endpoints_that_leave_take_their_ejection_along() {
        let now = Instant::now();
        let (outlier, mut healths) = upstream(4, 50, now);
        fail(&healths[0], 5, now);
        fail(&healths[1], 5, now);
        let draining = healths.remove(0);
        outlier.endpoints_are(&healths);
        assert_eq!(outlier.out(), 1);
        assert_eq!(fail(&draining, 5, now), None, "it counts no longer");
        healths.truncate(1);
        outlier.endpoints_are(&healths);
        assert_eq!(outlier.out(), 0, "the last one is never out");
        assert!(healths[0].is_usable());
    }

    #[test]
    fn a_probation_of_an_endpoint_that_left_changes_nothing() {
        let now = Instant::now();
        let (outlier, mut healths) = upstream(4, 50, now);
        fail(&healths[0], 5, now);
        let (_, probation) = probe(&outlier, &healths, now + SEC(1)).unwrap();
        let left = healths.remove(0);
        outlier.endpoints_are(&healths);
        assert_eq!(outlier.out(), 0);
        probation.settle(Verdict::Failure, now + SEC(1));
        assert_eq!(outlier.out(), 0);
        healths.push(left);
        outlier.endpoints_are(&healths);
        assert!(healths[3].is_usable(), "it came back");
    }

    #[test]
    fn zero_failures_eject_nothing_and_a_reload_applies() {
        let now = Instant::now();
        let (outlier, healths) = upstream(2, 50, now);
        let rules = |consecutive_failures| settings::Outlier {
            consecutive_failures,
            ..settings::Outlier::default()
        };
        outlier.retune(rules(0));
        assert_eq!(fail(&healths[0], 100, now), None);
        outlier.retune(rules(1));
        assert!(fail(&healths[0], 1, now).is_some());
    }

    #[test]
    fn over_many_threads_the_cap_holds_and_probations_are_single() {
        let now = Instant::now();
        let (outlier, healths) = upstream(8, 50, now);
        let probing: Vec<_> = (0..8).map(|_| AtomicU32::new(0)).collect();
        let worker = |seed| {
            let mut rng = fastrand::Rng::with_seed(seed);
            for step in 0..20_000u64 {
                let now = now + Duration::from_millis(step);
                let verdicts = [Verdict::Failure, Verdict::Failure, Verdict::Success];
                let verdict = *rng.choice(&verdicts).unwrap();
                match probe(&outlier, &healths, now) {
                    Some((at, probe)) => {
                        assert_eq!(probing[at].fetch_add(1, Ordering::SeqCst), 0);
                        probing[at].fetch_sub(1, Ordering::SeqCst);
                        probe.settle(verdict, now);
                    }
                    None => {
                        let health = rng.choice(&healths).unwrap();
                        health.record(verdict, now);
                    }
                }
                assert!(outlier.out() <= 4);
            }
        };
        std::thread::scope(|scope| {
            (0..4).for_each(|seed| drop(scope.spawn(move || worker(seed))));
        });
        let out = healths.iter().filter(|health| !health.is_usable()).count();
        assert_eq!(out, outlier.out() as usize);
    }

    #[derive(Debug, Clone)]
    enum Step {
        Record(usize, Verdict),
        Probe,
        Settle(usize, Verdict),
        Cancel(usize),
        Later(u64),
        Leave(usize),
        Join,
    }

    fn any_step() -> impl Strategy<Value = Step> {
        let verdict = || {
            prop_oneof![
                6 => Just(Verdict::Failure),
                1 => Just(Verdict::Success),
                1 => Just(Verdict::Neither)
            ]
        };
        prop_oneof![
            20 => (0usize..8, verdict()).prop_map(|(at, verdict)| Step::Record(at, verdict)),
            4 => Just(Step::Probe),
            2 => (0usize..4, verdict()).prop_map(|(at, verdict)| Step::Settle(at, verdict)),
            1 => (0usize..4).prop_map(Step::Cancel),
            3 => (0u64..40_000).prop_map(Step::Later),
            1 => (0usize..8).prop_map(Step::Leave),
            1 => Just(Step::Join),
        ]
    }

    proptest! {
        #[test]
        fn whatever_happens_the_cap_holds_and_every_ejected_endpoint_is_probed(
            share in 0u8..=100, steps in proptest::collection::vec(any_step(), 1..300),
        ) {
            let mut now = Instant::now();
            let (outlier, mut healths) = upstream(5, share, now);
            let mut probes: Vec<Probe> = Vec::new();
            for step in steps {
                match step {
                    Step::Record(at, verdict) => {
                        if let Some(health) = healths.get(at) {
                            health.record(verdict, now);
                        }
                    }
                    Step::Probe => probes.extend(probe(&outlier, &healths, now).map(|(_, probe)| probe)),
                    Step::Settle(at, verdict) if at < probes.len() => {
                        probes.remove(at).settle(verdict, now);
                    }
                    Step::Cancel(at) if at < probes.len() => drop(probes.remove(at)),
                    Step::Later(ms) => now += Duration::from_millis(ms),
                    Step::Leave(at) if at < healths.len() => {
                        healths.remove(at);
                        outlier.endpoints_are(&healths);
                    }
                    Step::Join => {
                        healths.push(Health::new(&outlier));
                        outlier.endpoints_are(&healths);
                    }
                    _ => {}
                }
                let out = healths.iter().filter(|health| !health.is_usable()).count();
                let most = (healths.len() * usize::from(share) / 100).min(healths.len().saturating_sub(1));
                prop_assert!(out <= most, "{out} of {} out", healths.len());
                prop_assert_eq!(out, outlier.out() as usize);
            }
            probes.clear();
            now += SEC(61);
            for _ in 0..healths.len() {
                if let Some((_, probe)) = probe(&outlier, &healths, now) {
                    probe.settle(Verdict::Success, now);
                }
            }
            prop_assert_eq!(outlier.out(), 0);
        }

        #[test]
        fn a_word_is_read_as_it_was_packed(tag in 0u64..3, times in 0..=MAX_TIMES, failures in 0..=MAX_FAILURES, time_ms in 0..=MAX_MS) {
            let word = Word { tag, times, failures, time_ms };
            prop_assert_eq!(Word::unpack(word.pack()), word);
        }
    }
}
