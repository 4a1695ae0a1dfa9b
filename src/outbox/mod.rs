//! The durable log of deferred calls: bytes and offsets, no HTTP, no broker.
//!
//! One directory holds one store, one process holds one directory, one thread holds the database (`writer`). Whoever
//! appends or delivers talks to that thread in batches, so many events share one `fsync`; an answer leaves only after
//! the commit that holds its change. Every accepted event is in exactly one [`State`], and the ledger that counts
//! them changes in the same commits, so it adds up across restarts.

mod appender;
mod board;
mod courier;
pub mod crash;
mod desk;
mod directory;
mod error;
mod flight;
mod id;
mod letters;
mod log;
mod metrics;
mod pump;
mod record;
mod rewrite;
mod row;
mod schema;
mod settings;
mod store;
mod sweep;
mod tally;
mod view;
mod writer;

pub use appender::Appender;
pub use board::{Figures, Health};
pub use courier::Courier;
pub use error::{Bound, OpenError, OutboxError};
pub use flight::{Flight, Suspect, Ticket};
pub use id::{EventId, NotAnId, Seq, StoreId};
pub use metrics::Metrics;
pub use record::{
    Appended, DeadReason, Event, Failure, Idempotency, KeyHash, Letter, LetterFilter, LetterState,
    Outcome, Pending, Receipt, Record, Standing, State, Wall,
};
pub use settings::{AckAfter, Limits, Overflow, Settings};
pub use store::{Announcements, AuditLine, News, Options, Store};
