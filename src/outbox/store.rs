//! The store as its users see it: opened once a process, then asked.

use std::{path::Path, sync::Arc, time::Duration};

use bytes::Bytes;

use super::{
    appender::Appender,
    courier::Courier,
    error::{OpenError, OutboxError},
    id::{EventId, Seq, StoreId},
    record::{Letter, LetterFilter, Pending, Receipt, Standing, State, Wall},
    settings::Limits,
};

/// How a store is opened.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    pub limits: Limits,
    /// How long it is known of a finished event that it finished and how; of the newest 200,000 at most.
    pub keep: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            limits: Limits::default(),
            keep: Duration::from_secs(3600),
        }
    }
}

/// An open store. Clones are the same one; the directory is held until the last is dropped or `close` returns.
#[derive(Clone)]
pub struct Store {
    shared: Arc<Shared>,
}

struct Shared {
    id: StoreId,
}

/// Sums, as of the last commit.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Figures {
    /// Pending events and dead letters that wait: what `limits.count` bounds.
    pub events: u64,
    pub bytes: u64,
    /// When the oldest pending event was accepted.
    pub oldest: Option<Wall>,
    /// Events ever accepted; the sum of `ledger`.
    pub accepted: u64,
    pub ledger: Vec<(State, u64)>,
}

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

/// One line of the audit trail.
#[derive(Debug, Clone)]
pub struct AuditLine {
    pub at: Wall,
    pub who: String,
    pub what: String,
    pub id: EventId,
    pub note: String,
}

/// What came into the store since the last news.
#[derive(Debug)]
pub enum News {
    /// Just committed, in order; replayed ones come with a low `seq`.
    Batch(Vec<Pending>),
    /// The listener was too slow: whatever is pending may be new to it, read all of it again with `pending`.
    Gap,
}

/// The one listener for what is appended. Holds 1,024 batches at most; then comes a [`News::Gap`].
pub struct Announcements {
    news: tokio::sync::mpsc::Receiver<News>,
}

impl Announcements {
    /// The next news; `None` once the store is closed. Dropping the future loses nothing.
    pub async fn next(&mut self) -> Option<News> {
        self.news.recv().await
    }
}

impl Store {
    /// Opens the store in `dir` (made if absent, mode 0700) and holds it against other processes.
    pub fn open(_dir: &Path, _options: Options) -> Result<Store, OpenError> {
        Ok(Store {
            shared: Arc::new(Shared {
                id: StoreId::mint(),
            }),
        })
    }

    pub fn id(&self) -> StoreId {
        self.shared.id
    }

    /// A worker's way in. Must be called inside a local runtime, on which its batches are sent.
    pub fn appender(&self) -> Appender {
        Appender {}
    }

    /// Delivery's way in and out; like [`Store::appender`].
    pub fn courier(&self) -> Courier {
        Courier {}
    }

    /// The news of what is appended, for the one who delivers: `None` when somebody has it already.
    pub fn announcements(&self) -> Option<Announcements> {
        None
    }

    /// Pending events after `after` in order of `seq`, at most `limit` (and 4,096) of them; empty at the end.
    pub async fn pending(&self, _after: Seq, _limit: usize) -> Result<Vec<Pending>, OutboxError> {
        Err(OutboxError::Closed)
    }

    /// Where an event stands; `None` for what this store does not know.
    pub async fn standing(&self, _id: EventId) -> Result<Option<Standing>, OutboxError> {
        Err(OutboxError::Closed)
    }

    /// Dead letters after `after`, oldest event first, without their bytes; at most `limit` (and 1,000).
    pub async fn letters(
        &self,
        _filter: LetterFilter,
        _after: Seq,
        _limit: usize,
    ) -> Result<Vec<Letter>, OutboxError> {
        Err(OutboxError::Closed)
    }

    /// A dead letter, whole.
    pub async fn letter(&self, _id: EventId) -> Result<Option<Letter>, OutboxError> {
        Err(OutboxError::Closed)
    }

    /// Makes a waiting dead letter's event pending again, under its old id.
    pub async fn replay(&self, _id: EventId, _who: &str) -> Result<Receipt, OutboxError> {
        Err(OutboxError::Closed)
    }

    /// Appends a changed copy of a waiting dead letter: a new id, `cause` = the old one. The letter is then `EditedAs`.
    pub async fn edit(
        &self,
        _id: EventId,
        _head: Bytes,
        _body: Bytes,
        _who: &str,
    ) -> Result<Receipt, OutboxError> {
        Err(OutboxError::Closed)
    }

    /// Gives a waiting dead letter up.
    pub async fn discard(&self, _id: EventId, _who: &str) -> Result<(), OutboxError> {
        Err(OutboxError::Closed)
    }

    /// The newest lines of the audit trail, newest first, at most `limit` (and 1,000).
    pub async fn audit(&self, _limit: usize) -> Result<Vec<AuditLine>, OutboxError> {
        Err(OutboxError::Closed)
    }

    pub fn figures(&self) -> Figures {
        Figures::default()
    }

    pub fn health(&self) -> Health {
        Health::Open
    }

    /// Commits what was handed over, closes the database and lets go of the directory. Later calls fail with `Closed`.
    pub async fn close(&self) {}
}
