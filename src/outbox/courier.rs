//! Delivery's way into the store: what to deliver, whole, and what became of it.

use std::sync::mpsc::SyncSender;

use tokio::sync::oneshot;

use super::{
    desk::Desk,
    error::OutboxError,
    id::Seq,
    pump::Pump,
    record::{Event, Outcome, Wall},
    row::Damaged,
    writer::{Change, Command},
};

/// A deliverer's own handle; clones share their batches. Belongs to one thread.
#[derive(Clone)]
pub struct Courier {
    loads: Pump<Seq, Option<Event>>,
    finishes: Pump<(Seq, Outcome), ()>,
}

impl Courier {
    pub(super) fn new(writer: SyncSender<Command>) -> Self {
        Courier {
            loads: Pump::start(writer.clone(), |seqs, answer| {
                Command::Look(Box::new(move |desk| {
                    let events = seqs.into_iter().map(|seq| load(desk, seq)).collect();
                    let _ = answer.send(events);
                }))
            }),
            finishes: Pump::start(writer, |outcomes, answer| {
                Command::Change(Box::new(Finishes { outcomes, answer }))
            }),
        }
    }

    /// A pending event, whole; `None` if it is no longer pending.
    ///
    /// `OutboxError::Damaged`: its checksum is wrong; it is kept as a dead letter, and there is nothing to finish.
    pub async fn load(&self, seq: Seq) -> Result<Option<Event>, OutboxError> {
        self.loads.ask(seq, 0).await
    }

    /// Records what delivery came to and returns once that is on disk; a dead letter is written in the same commit.
    ///
    /// An event that is no longer pending stays as it is. If the future is dropped, the outcome may or may not be
    /// there. On an error the event is pending as before, and this may be called again.
    pub async fn finish(&self, seq: Seq, outcome: Outcome) -> Result<(), OutboxError> {
        self.finishes.ask((seq, outcome), 0).await
    }
}

fn load(desk: &mut Desk, seq: Seq) -> Result<Option<Event>, OutboxError> {
    match desk.load(seq) {
        Ok(None) => Ok(None),
        Ok(Some(Ok(event))) => Ok(Some(event)),
        Ok(Some(Err(Damaged))) => {
            desk.damaged.push(seq);
            let id = desk.store.event(seq);
            Err(OutboxError::Damaged { id })
        }
        Err(error) => Err(OutboxError::Unavailable {
            why: error.to_string(),
        }),
    }
}

struct Finishes {
    outcomes: Vec<(Seq, Outcome)>,
    answer: oneshot::Sender<Vec<Result<(), OutboxError>>>,
}

impl Change for Finishes {
    fn ops(&self) -> usize {
        self.outcomes.len()
    }

    fn apply(&mut self, desk: &mut Desk, now: Wall) -> rusqlite::Result<()> {
        for (seq, outcome) in &self.outcomes {
            desk.finish(*seq, outcome, now)?;
        }
        Ok(())
    }

    fn settle(self: Box<Self>, end: Result<(), OutboxError>) {
        let _ = self.answer.send(vec![end; self.outcomes.len()]);
    }
}
