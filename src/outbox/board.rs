//! What everybody may read of the store without asking its writer: limits, health and sums.

use std::sync::{
    Mutex, PoisonError,
    atomic::{AtomicBool, AtomicU64, Ordering},
};

use super::{
    metrics::Metrics,
    record::{State, Wall},
    settings::Limits,
    tally::Tally,
};

/// Whether the store takes and gives.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Health {
    Open,
    /// The disk is full: what is stored is delivered, new events are refused.
    DiskFull,
    /// A failed sync is being survived: nothing is taken for now.
    Recovering,
    /// Nothing more is written until a restart, and why.
    ReadOnly(String),
}

/// Sums, as of the last commit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Figures {
    /// Pending events and dead letters that wait: what `limits.count` bounds.
    pub events: u64,
    pub bytes: u64,
    /// Since when the oldest pending event waits, as of the last second.
    pub oldest: Option<Wall>,
    /// Events ever accepted: the sum of `ledger`.
    pub accepted: u64,
    pub ledger: [(State, u64); State::COUNTED.len()],
}

pub(super) struct Board {
    pub(super) metrics: Metrics,
    limits: Mutex<Limits>,
    /// `limits.event`, for those who ask with every event.
    largest: AtomicU64,
    health: Mutex<Health>,
    recovering: AtomicBool,
    figures: Mutex<Figures>,
}

impl Board {
    pub(super) fn new(metrics: Metrics, tally: &Tally) -> Self {
        let board = Board {
            metrics,
            limits: Mutex::new(*tally.limits()),
            largest: AtomicU64::new(tally.limits().event.bytes()),
            health: Mutex::new(Health::Open),
            recovering: AtomicBool::new(false),
            figures: Mutex::new(Figures {
                events: 0,
                bytes: 0,
                oldest: None,
                accepted: 0,
                ledger: tally.ledger(),
            }),
        };
        board.set_sums(tally);
        board
    }

    pub(super) fn limits(&self) -> Limits {
        *lock(&self.limits)
    }

    /// Head and body of one event together have at most so many bytes.
    pub(super) fn largest(&self) -> u64 {
        self.largest.load(Ordering::Relaxed)
    }

    pub(super) fn set_limits(&self, limits: Limits) {
        *lock(&self.limits) = limits;
        self.largest.store(limits.event.bytes(), Ordering::Relaxed);
    }

    pub(super) fn health(&self) -> Health {
        lock(&self.health).clone()
    }

    pub(super) fn set_health(&self, health: Health) {
        let recovering = matches!(health, Health::Recovering);
        self.recovering.store(recovering, Ordering::Relaxed);
        *lock(&self.health) = health;
    }

    /// True while a hand-over would only wait for a long copy.
    pub(super) fn is_recovering(&self) -> bool {
        self.recovering.load(Ordering::Relaxed)
    }

    pub(super) fn figures(&self) -> Figures {
        lock(&self.figures).clone()
    }

    pub(super) fn set_sums(&self, tally: &Tally) {
        let mut figures = lock(&self.figures);
        let whole = tally.whole();
        figures.events = whole.events;
        figures.bytes = whole.bytes;
        figures.accepted = tally.accepted().events;
        figures.ledger = tally.ledger();
        self.metrics.show(&figures);
    }

    pub(super) fn set_oldest(&self, oldest: Option<Wall>) {
        lock(&self.figures).oldest = oldest;
        self.metrics.oldest.set(oldest);
    }
}

/// A panic elsewhere leaves nothing half done in these.
fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
