//! The durable log of deferred calls: bytes and offsets, no HTTP, no broker.
//!
//! One directory holds one store, one process holds one directory, one thread holds the database (`writer`). Whoever
//! appends or delivers talks to that thread in batches, so many events share one `fsync`; an answer leaves only after
//! the commit that holds its change. Every accepted event is in exactly one [`State`], and the ledger that counts
//! them changes in the same commits, so it adds up across restarts.

mod appender;
mod courier;
pub mod crash;
mod error;
mod id;
mod record;
mod settings;
mod store;

pub use appender::Appender;
pub use courier::Courier;
pub use error::{Bound, OpenError, OutboxError};
pub use id::{EventId, Seq, StoreId};
pub use record::{
    Appended, DeadReason, Event, Failure, Idempotency, KeyHash, Letter, LetterFilter, LetterState,
    Outcome, Pending, Receipt, Record, Standing, State, Wall,
};
pub use settings::{AckAfter, Limits, Overflow, Settings};
pub use store::{Announcements, AuditLine, Figures, Health, News, Options, Store};
