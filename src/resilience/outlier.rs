//! Takes a failing endpoint out of balancing, and lets it back by one real request.
//!
//! `consecutiveFailures` in a row eject it for a penalty that doubles with each ejection in short order. After the
//! penalty the first call to ask is its probation: an answer closes the case, a failure ejects it for longer. At most
//! `maxEjection` of an upstream's endpoints are out at once, and never the last one. Facts of the process: every
//! worker holds the same `Health`, one atomic word; a healthy endpoint's answer costs one load.

mod health;
mod word;

use std::{
    sync::{
        Arc, Mutex, PoisonError, Weak,
        atomic::{AtomicU32, AtomicU64, Ordering},
    },
    time::Instant,
};

use super::{UpstreamMetrics, settings};
use crate::{
    fault::{Class, Fault, Side},
    units::Time,
};
use word::{EJECTED, GONE, MAX_FAILURES, MAX_MS, is_out};

pub use health::{Ejection, Health, Probe, State};

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

#[cfg(test)]
mod tests;
