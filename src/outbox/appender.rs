//! A worker's way into the store: collects records while the writer is busy, hands them over as one batch.

use std::sync::{Arc, mpsc::SyncSender};

use tokio::sync::oneshot;

use super::{
    board::Board,
    desk::Desk,
    error::OutboxError,
    pump::Pump,
    record::{Appended, Record, Wall},
    writer::{Change, Command},
};

/// A worker's own handle; clones share their batches. Belongs to one thread.
#[derive(Clone)]
pub struct Appender {
    pump: Pump<Record, Appended>,
    board: Arc<Board>,
}

impl Appender {
    pub(super) fn new(writer: SyncSender<Command>, board: Arc<Board>) -> Self {
        let pump = Pump::start(writer, |records, answer| {
            let results = Vec::with_capacity(records.len());
            Command::Change(Box::new(Appends {
                records,
                results,
                answer,
            }))
        });
        Appender { pump, board }
    }

    /// Appends one event and returns once it is on disk.
    ///
    /// Head and body together at most `limits.event`, else `TooLarge`. `Full`, `Unavailable` and `Poisoned` stored
    /// nothing. If the future is dropped, the event may or may not be there.
    pub async fn append(&self, record: Record) -> Result<Appended, OutboxError> {
        let bytes = record.head.len() + record.body.len();
        let (size, limit) = (bytes as u64, self.board.largest());
        if size > limit {
            return Err(OutboxError::TooLarge { size, limit });
        }
        if self.board.is_recovering() {
            return Err(OutboxError::Unavailable {
                why: "the store is moving to a new file".to_owned(),
            });
        }
        self.pump.ask(record, bytes).await
    }
}

struct Appends {
    records: Vec<Record>,
    results: Vec<Result<Appended, OutboxError>>,
    answer: oneshot::Sender<Vec<Result<Appended, OutboxError>>>,
}

impl Change for Appends {
    fn ops(&self) -> usize {
        self.records.len()
    }

    fn apply(&mut self, desk: &mut Desk, now: Wall) -> rusqlite::Result<()> {
        self.results.clear();
        for record in &self.records {
            self.results.push(desk.append(record, now)?);
        }
        Ok(())
    }

    fn settle(self: Box<Self>, end: Result<(), OutboxError>) {
        let results = match end {
            Ok(()) => self.results,
            Err(error) => vec![Err(error); self.records.len()],
        };
        let _ = self.answer.send(results);
    }
}
