//! A worker's way into the store: collects records while the writer is busy, hands them over as one batch.

use super::{
    error::OutboxError,
    record::{Appended, Record},
};

/// A worker's own handle; clones share their batches. Belongs to one thread.
#[derive(Clone)]
pub struct Appender {}

impl Appender {
    /// Appends one event and returns once it is on disk.
    ///
    /// If the future is dropped, the event may or may not be there.
    pub async fn append(&self, _record: Record) -> Result<Appended, OutboxError> {
        Err(OutboxError::Closed)
    }
}
