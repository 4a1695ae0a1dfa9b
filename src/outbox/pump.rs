//! Hands questions to the writer in batches: while it is busy with one, the next one gathers.
//!
//! A worker sends one message and is woken once for all that was in it (measured: 4.5 µs less an event than one
//! message each). Everything here stays on its worker's thread.

use std::{cell::Cell, rc::Rc, sync::mpsc::SyncSender};

use tokio::sync::{
    mpsc::{self, error::TrySendError},
    oneshot,
};

use super::{
    error::{Bound, OutboxError},
    writer::Command,
};

/// Questions that wait on this worker.
const WAITING: usize = 8192;
/// And their bytes.
const WAITING_BYTES: usize = 64 << 20;
/// Questions in one message.
const BATCH: usize = 1024;

type Answer<A> = Result<A, OutboxError>;
/// Makes the writer's command of a batch.
pub(super) type Message<Q, A> = fn(Vec<Q>, oneshot::Sender<Vec<Answer<A>>>) -> Command;

struct Asked<Q, A> {
    question: Q,
    weight: usize,
    answer: oneshot::Sender<Answer<A>>,
}

/// The way to the writer for one kind of question.
pub(super) struct Pump<Q, A> {
    asked: mpsc::Sender<Asked<Q, A>>,
    bytes: Rc<Cell<usize>>,
}

impl<Q, A> Clone for Pump<Q, A> {
    fn clone(&self) -> Self {
        Pump {
            asked: self.asked.clone(),
            bytes: self.bytes.clone(),
        }
    }
}

impl<Q: 'static, A: 'static> Pump<Q, A> {
    /// Starts the task that sends, on this thread's local runtime. It ends when the last handle is dropped.
    pub(super) fn start(writer: SyncSender<Command>, message: Message<Q, A>) -> Self {
        let (asked, waiting) = mpsc::channel(WAITING);
        let bytes = Rc::new(Cell::new(0));
        tokio::task::spawn_local(run(waiting, bytes.clone(), writer, message));
        Pump { asked, bytes }
    }

    /// Asks, and waits for the answer. A dropped future leaves the question asked.
    pub(super) async fn ask(&self, question: Q, weight: usize) -> Answer<A> {
        if self.bytes.get() + weight > WAITING_BYTES {
            return Err(OutboxError::Full {
                bound: Bound::Queue,
            });
        }
        let (answer, answered) = oneshot::channel();
        let asked = Asked {
            question,
            weight,
            answer,
        };
        match self.asked.try_send(asked) {
            Ok(()) => self.bytes.set(self.bytes.get() + weight),
            Err(TrySendError::Full(_)) => {
                return Err(OutboxError::Full {
                    bound: Bound::Queue,
                });
            }
            Err(TrySendError::Closed(_)) => return Err(OutboxError::Closed),
        }
        answered.await.unwrap_or(Err(OutboxError::Closed))
    }
}

async fn run<Q, A>(
    mut waiting: mpsc::Receiver<Asked<Q, A>>,
    bytes: Rc<Cell<usize>>,
    writer: SyncSender<Command>,
    message: Message<Q, A>,
) {
    let mut batch = Vec::new();
    while let Some(first) = waiting.recv().await {
        // Whoever is ready to run now may still join: without this the first of a burst would sail alone.
        tokio::task::yield_now().await;
        batch.push(first);
        while batch.len() < BATCH
            && let Ok(more) = waiting.try_recv()
        {
            batch.push(more);
        }
        let (mut questions, mut askers) = (
            Vec::with_capacity(batch.len()),
            Vec::with_capacity(batch.len()),
        );
        for Asked {
            question,
            weight,
            answer,
        } in batch.drain(..)
        {
            bytes.set(bytes.get() - weight);
            questions.push(question);
            askers.push(answer);
        }
        let (reply, replied) = oneshot::channel();
        // The writer's queue has room for every worker's one batch; beyond that something is very wrong.
        let answers = match writer.try_send(message(questions, reply)) {
            Ok(()) => replied.await.unwrap_or_default(),
            Err(_) => Vec::new(),
        };
        let lost = std::iter::repeat_with(|| Err(OutboxError::Closed));
        for (asker, answer) in askers.into_iter().zip(answers.into_iter().chain(lost)) {
            let _ = asker.send(answer);
        }
    }
}
