//! One endpoint's health, and the request that decides whether an ejected one returns.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use super::{
    Outlier, Verdict,
    word::{EJECTED, GONE, HEALTHY, MAX_FAILURES, MAX_MS, MAX_TIMES, PROBING, Word, is_out, tag},
};

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

    pub(super) fn word(&self) -> Word {
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

    pub(super) fn try_probe(self: &Arc<Self>, ejected: Word) -> Option<Probe> {
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
    pub(super) fn return_from(&self, tag: u64) {
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

    pub(super) fn retire(&self) {
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
