//! An endpoint's health in one atomic word, so that a healthy one's answer costs a load.

pub(super) const HEALTHY: u64 = 0;
pub(super) const EJECTED: u64 = 1;
pub(super) const PROBING: u64 = 2;
/// No endpoint of its upstream any more.
pub(super) const GONE: u64 = 3;
pub(super) const MAX_FAILURES: u32 = (1 << 16) - 1;
pub(super) const MAX_TIMES: u32 = (1 << 6) - 1;
/// 34 years.
pub(super) const MAX_MS: u64 = (1 << 40) - 1;

/// A `Health` in one atomic: tag 2 bits, times 6, failures 16, time 40.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Word {
    pub(super) tag: u64,
    /// Ejections in short order.
    pub(super) times: u32,
    /// In a row.
    pub(super) failures: u32,
    /// Healthy: since when. Ejected: until when.
    pub(super) time_ms: u64,
}

impl Word {
    pub(super) const HEALTHY: Word = Word {
        tag: HEALTHY,
        times: 0,
        failures: 0,
        time_ms: 0,
    };

    pub(super) const fn pack(self) -> u64 {
        self.tag << 62 | (self.times as u64) << 56 | (self.failures as u64) << 40 | self.time_ms
    }

    pub(super) const fn unpack(word: u64) -> Self {
        Word {
            tag: tag(word),
            times: (word >> 56) as u32 & MAX_TIMES,
            failures: (word >> 40) as u32 & MAX_FAILURES,
            time_ms: word & MAX_MS,
        }
    }
}

pub(super) const fn is_out(tag: u64) -> bool {
    matches!(tag, EJECTED | PROBING)
}

pub(super) const fn tag(word: u64) -> u64 {
    word >> 62
}
