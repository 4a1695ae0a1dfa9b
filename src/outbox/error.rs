//! How the store can fail: at opening, and afterwards.

use std::{io, path::PathBuf};

use super::id::EventId;

/// Why a store cannot be opened. What is in it is untouched.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error("the outbox {} is held by another process ({holder})", dir.display())]
    Held { dir: PathBuf, holder: String },
    #[error("the outbox {} has format {found}; this weft reads up to {known}: run the newer one", file.display())]
    Newer {
        file: PathBuf,
        found: i64,
        known: i64,
    },
    #[error("{} is not an outbox: {why}", file.display())]
    Foreign { file: PathBuf, why: String },
    #[error("the outbox {} is damaged: {why}", file.display())]
    Damaged { file: PathBuf, why: String },
    #[error("cannot use {} as an outbox: {source}", path.display())]
    Io {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("cannot open the outbox {}: {source}", file.display())]
    Sql {
        file: PathBuf,
        #[source]
        source: rusqlite::Error,
    },
}

/// The bound that an append ran into.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Bound {
    /// `limits.bytes`.
    Bytes,
    /// `limits.count`.
    Count,
    /// `limits.age`: this upstream's oldest pending event is older.
    Age,
    /// `limits.perUpstream`, of bytes or of count.
    PerUpstream,
    /// Events of this worker that wait for the writer: 8192, or 64 MiB.
    Queue,
    /// The disk.
    Disk,
}

impl Bound {
    pub const fn word(self) -> &'static str {
        match self {
            Bound::Bytes => "bytes",
            Bound::Count => "count",
            Bound::Age => "age",
            Bound::PerUpstream => "perUpstream",
            Bound::Queue => "queue",
            Bound::Disk => "disk",
        }
    }
}

/// Why the store did not do what it was asked.
#[derive(Debug, Clone, thiserror::Error)]
pub enum OutboxError {
    /// The producer is refused; nothing that was accepted is touched.
    #[error("the outbox is full ({})", bound.word())]
    Full { bound: Bound },
    #[error("the event has {size} bytes, more than the {limit} that one may have")]
    TooLarge { size: u64, limit: u64 },
    /// The idempotency key was used within its window for another payload.
    #[error("the idempotency key belongs to {id}, which has another payload")]
    Mismatch { id: EventId },
    #[error("the record of {id} is damaged; it is kept as a dead letter")]
    Damaged { id: EventId },
    /// This time it did not work; a later try may.
    #[error("the store cannot be used now: {why}")]
    Unavailable { why: String },
    /// Read-only until a restart: a disk failure that could not be survived.
    #[error("the store is read-only: {why}")]
    Poisoned { why: String },
    /// A dead letter's state does not allow what was asked.
    #[error("{id} is not a waiting dead letter: it is {state}")]
    NotWaiting { id: EventId, state: &'static str },
    #[error("no event {id} in this store")]
    Unknown { id: EventId },
    /// The store was closed.
    #[error("the store is closed")]
    Closed,
}
