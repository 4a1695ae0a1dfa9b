//! Delivery's way into the store: what to deliver, whole, and what became of it.

use super::{
    error::OutboxError,
    id::Seq,
    record::{Event, Outcome},
};

/// A deliverer's own handle; clones share their batches. Belongs to one thread.
#[derive(Clone)]
pub struct Courier {}

impl Courier {
    /// A pending event, whole; `None` if it is no longer pending.
    ///
    /// `OutboxError::Damaged`: its checksum is wrong; it is a dead letter now.
    pub async fn load(&self, _seq: Seq) -> Result<Option<Event>, OutboxError> {
        Err(OutboxError::Closed)
    }

    /// Records what delivery came to and returns once that is on disk.
    ///
    /// An event that is no longer pending stays as it is. If the future is dropped, the outcome may or may not be
    /// there. On an error the event is pending as before, and this may be called again.
    pub async fn finish(&self, _seq: Seq, _outcome: Outcome) -> Result<(), OutboxError> {
        Err(OutboxError::Closed)
    }
}
