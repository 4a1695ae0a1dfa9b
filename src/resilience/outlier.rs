//! Takes a failing endpoint out of balancing, and lets it back by one real request.
//!
//! `consecutiveFailures` in a row eject it for a penalty that doubles with each ejection in short order. After the
//! penalty the first call to ask is its probation: an answer closes the case, a failure ejects it for longer. At most
//! `maxEjection` of an upstream's endpoints are out at once, and never the last one. Facts of the process: every
//! worker holds the same `Health`, one atomic word; a healthy endpoint's answer costs one load.

use std::{
    sync::{
        Arc,
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

    /// Says which endpoints there are now. Where more are out than may be, those whose penalty ends first return.
    pub fn endpoints_are(&self, healths: &[Arc<Health>]) {
        let count = u32::try_from(healths.len()).unwrap_or(u32::MAX);
        self.endpoints.store(count, Ordering::SeqCst);
        while self.out.load(Ordering::SeqCst) > self.cap() {
            let ejected = healths.iter().filter(|health| health.word().tag == EJECTED);
            match ejected.min_by_key(|health| health.word().time_ms) {
                Some(first) => first.readmit(),
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

    fn readmit(&self) {
        let word = self.word();
        let healthy = Word {
            tag: HEALTHY,
            failures: 0,
            ..word
        };
        if word.tag == EJECTED && self.swap(word, healthy) {
            self.outlier.put_back();
        }
    }
}

/// An endpoint that is gone is out no longer.
impl Drop for Health {
    fn drop(&mut self) {
        if self.word().tag != HEALTHY {
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

const fn tag(word: u64) -> u64 {
    word >> 62
}
