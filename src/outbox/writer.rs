//! The one thread that holds the database: collects what was handed over, commits it together, then answers.
//!
//! Looks are answered at once. Changes are applied in the order they came, at most [`MOST_OPS`] in a transaction, and
//! answered after its `fsync`. What a failed commit means is decided here and nowhere else.

use std::{
    sync::{
        Arc,
        mpsc::{Receiver, RecvTimeoutError},
    },
    time::{Duration, Instant},
};

use rusqlite::{Connection, ErrorCode};
use tokio::sync::{mpsc, oneshot};
use tracing::{error, info, warn};

use super::{
    board::{Board, Health},
    crash,
    desk::Desk,
    directory::Directory,
    error::{Bound, OutboxError},
    id::Seq,
    record::Wall,
    rewrite::rewrite,
    store::News,
    sweep::Ages,
};

/// Events and outcomes in one transaction.
const MOST_OPS: usize = 4096;
/// Housekeeping, and another try where the disk was full.
const TICK: Duration = Duration::from_secs(1);
/// Commits between two looks at the log's length.
const LOG_LOOK: u32 = 8;

/// Something to be written. Applied in a transaction, perhaps twice; settled once, after the commit or its failure.
pub(super) trait Change: Send {
    /// Events and outcomes in it.
    fn ops(&self) -> usize;
    fn apply(&mut self, desk: &mut Desk, now: Wall) -> rusqlite::Result<()>;
    fn settle(self: Box<Self>, end: Result<(), OutboxError>);
}

pub(super) enum Command {
    /// Reads, and answers by itself.
    Look(Box<dyn FnOnce(&mut Desk) + Send>),
    Change(Box<dyn Change>),
    /// Answered when all before it is settled, the file closed and the directory free.
    Close(oneshot::Sender<()>),
}

pub(super) struct Writer {
    pub desk: Desk,
    pub directory: Directory,
    pub generation: u32,
    pub commands: Receiver<Command>,
    pub board: Arc<Board>,
    pub news: mpsc::Sender<News>,
    pub keep: Duration,
    pub log_pages: u32,
    pub ages: Ages,
    /// News were dropped since the listener last took some.
    pub gap: bool,
    /// A sync failed and the new file did not fit on the disk yet.
    pub owes_rewrite: bool,
    pub commits: u32,
    /// Nothing to sweep before.
    pub sweep_at: Wall,
}

/// What a failed transaction means.
enum Trouble {
    /// No space: nothing is wrong with the file.
    Full,
    /// A write or a sync failed: the file is not to be trusted with another one.
    Disk,
    /// The file contradicts itself.
    Corrupt,
    /// Perhaps one change's own: each may be tried alone.
    Other,
}

impl Writer {
    /// Works until the store is closed or its last handle dropped.
    pub(super) fn run(mut self) {
        let mut ticked = Instant::now();
        let mut closing = None;
        while closing.is_none() {
            let mut next = match self.commands.recv_timeout(TICK) {
                Ok(command) => Some(command),
                Err(RecvTimeoutError::Timeout) => None,
                Err(RecvTimeoutError::Disconnected) => break,
            };
            let (mut changes, mut ops) = (Vec::new(), 0);
            while let Some(command) = next {
                match command {
                    Command::Look(look) => look(&mut self.desk),
                    Command::Change(change) => {
                        ops += change.ops();
                        changes.push(change);
                    }
                    Command::Close(answer) => {
                        closing = Some(answer);
                        break;
                    }
                }
                // What was found damaged is buried before the next look, so that whoever was told finds the letter.
                if ops >= MOST_OPS || !self.desk.damaged.is_empty() {
                    break;
                }
                next = self.commands.try_recv().ok();
            }
            if !self.desk.damaged.is_empty() {
                changes.push(Box::new(Quarantine(std::mem::take(&mut self.desk.damaged))));
            }
            if !changes.is_empty() {
                self.commit(changes);
            }
            if ticked.elapsed() >= TICK {
                ticked = Instant::now();
                self.tick();
            }
        }
        self.close(closing);
    }

    fn close(self, answer: Option<oneshot::Sender<()>>) {
        let Writer {
            desk,
            directory,
            commands,
            ..
        } = self;
        // Whoever still waits for an answer learns by its loss that there is none.
        drop(commands);
        if let Err((_, error)) = desk.db.close() {
            warn!(%error, "outbox not closed cleanly; the next start reads its log");
        }
        drop(directory);
        if let Some(answer) = answer {
            let _ = answer.send(());
        }
    }

    /// Commits all of it, or answers each with why not.
    fn commit(&mut self, mut changes: Vec<Box<dyn Change>>) {
        if let Some(refusal) = self.refusal() {
            return changes
                .into_iter()
                .for_each(|change| change.settle(Err(refusal.clone())));
        }
        let Err(failed) = self.transact(&mut changes) else {
            self.committed();
            return changes.into_iter().for_each(|change| change.settle(Ok(())));
        };
        match trouble(&failed) {
            Trouble::Other if changes.len() > 1 => {
                for change in changes {
                    self.commit(vec![change]);
                }
            }
            trouble => {
                let why = self.take_stock(trouble, &failed);
                changes
                    .into_iter()
                    .for_each(|change| change.settle(Err(why.clone())));
                self.mend();
            }
        }
    }

    /// Why nothing is written now, if so.
    fn refusal(&self) -> Option<OutboxError> {
        match self.board.health() {
            Health::ReadOnly(why) => Some(OutboxError::Poisoned { why }),
            _ if self.owes_rewrite => Some(OutboxError::Full { bound: Bound::Disk }),
            _ => None,
        }
    }

    /// One transaction. On an error nothing of it is left, neither on disk nor in memory.
    fn transact(&mut self, changes: &mut [Box<dyn Change>]) -> rusqlite::Result<()> {
        let end = self.try_transact(changes);
        if end.is_err() {
            if !self.desk.db.is_autocommit() {
                // It can fail only where SQLite has rolled back by itself.
                let _ = self.desk.db.execute_batch("ROLLBACK");
            }
            self.desk.forget();
        }
        end
    }

    fn try_transact(&mut self, changes: &mut [Box<dyn Change>]) -> rusqlite::Result<()> {
        let now = Wall::now();
        self.desk.tally.retune(self.board.limits());
        step(&self.desk.db, "BEGIN IMMEDIATE")?;
        let mut ops = 0;
        for change in changes {
            ops += change.ops();
            change.apply(&mut self.desk, now)?;
        }
        if now >= self.sweep_at && self.desk.sweep(now, self.keep, 64 + 2 * ops)? == 0 {
            self.sweep_at = now.after(TICK);
        }
        self.desk.tally.save(&self.desk.db)?;
        if self.desk.appended {
            crash::point("append-before-fsync");
        }
        let began = Instant::now();
        step(&self.desk.db, "COMMIT")?;
        self.board
            .metrics
            .fsync
            .observe(began.elapsed().as_secs_f64());
        if self.desk.appended {
            crash::point("after-fsync");
        }
        if self.desk.buried {
            crash::point("after-dead-letter");
        }
        Ok(())
    }

    /// What follows a commit: sums, news, and the log's length.
    fn committed(&mut self) {
        let news = self.desk.keep();
        self.board.set_sums(&self.desk.tally);
        if self.board.health() != Health::Open {
            info!("outbox takes events again");
            self.board.set_health(Health::Open);
        }
        self.announce(news);
        self.commits += 1;
        if self.commits.is_multiple_of(LOG_LOOK) {
            self.checkpoint();
        }
    }

    fn announce(&mut self, news: Vec<super::record::Pending>) {
        if self.gap && self.news.try_send(News::Gap).is_ok() {
            self.gap = false;
        }
        if !news.is_empty() && (self.gap || self.news.try_send(News::Batch(news)).is_err()) {
            self.gap = true;
        }
    }

    /// Moves a long log into the database; a failure there is as final as a commit's.
    fn checkpoint(&mut self) {
        let log = |pragma: &str| {
            let db = &self.desk.db;
            db.query_row(pragma, [], |row| {
                Ok((row.get::<_, i64>(1)?, row.get::<_, i64>(2)?))
            })
        };
        let moved = match log("PRAGMA wal_checkpoint(NOOP)") {
            Ok((pages, done)) if pages - done >= i64::from(self.log_pages) => {
                log("PRAGMA wal_checkpoint(PASSIVE)").map(drop)
            }
            looked => looked.map(drop),
        };
        let Err(failed) = moved else { return };
        match trouble(&failed) {
            // The log just grows on; a commit that does not fit will say so.
            Trouble::Full => warn!(error = %failed, "no space to shorten the outbox's log"),
            trouble => {
                self.take_stock(trouble, &failed);
                self.mend();
            }
        }
    }

    /// Says what a failed commit means: to the board at once, so that nothing more is taken, and to who waits.
    fn take_stock(&mut self, trouble: Trouble, failed: &rusqlite::Error) -> OutboxError {
        let why = failed.to_string();
        match trouble {
            Trouble::Full => {
                if self.board.health() != Health::DiskFull {
                    error!(error = %failed, "disk full: the outbox refuses new events");
                    self.board.set_health(Health::DiskFull);
                }
                OutboxError::Full { bound: Bound::Disk }
            }
            Trouble::Disk => {
                error!(error = %failed, "a write to the outbox failed: moving it to a new file");
                self.board.set_health(Health::Recovering);
                self.owes_rewrite = true;
                OutboxError::Unavailable { why }
            }
            Trouble::Corrupt => {
                self.poison(format!("the database is damaged: {why}"));
                OutboxError::Poisoned { why }
            }
            Trouble::Other => {
                warn!(error = %failed, "the outbox could not do a change");
                OutboxError::Unavailable { why }
            }
        }
    }

    /// Moves the store to a new file, if that is owed.
    fn mend(&mut self) {
        if !self.owes_rewrite {
            return;
        }
        match rewrite(&mut self.desk, &self.directory, self.generation) {
            Ok(generation) => {
                self.owes_rewrite = false;
                self.generation = generation;
                info!(
                    generation,
                    "outbox moved to a new file; nothing accepted was lost"
                );
                self.board.set_health(Health::Open);
            }
            Err(failed) if failed.is_space() => {
                error!(error = %failed, "no space to move the outbox: it refuses new events");
                self.board.set_health(Health::DiskFull);
            }
            Err(failed) => self.poison(failed.to_string()),
        }
    }

    fn poison(&mut self, why: String) {
        error!(%why, "the outbox is read-only until a restart; what it holds is untouched");
        self.owes_rewrite = false;
        self.board.set_health(Health::ReadOnly(why));
    }

    /// Once a second: what is old, what is over, what is owed.
    fn tick(&mut self) {
        if matches!(self.board.health(), Health::ReadOnly(_)) {
            return;
        }
        self.mend();
        let now = Wall::now();
        self.announce(Vec::new());
        self.desk.tally.retune(self.board.limits());
        let oldest = self.desk.oldest().unwrap_or(None);
        self.board.set_oldest(oldest);
        if let Err(error) = self.desk.judge_ages(&mut self.ages, now) {
            warn!(%error, "ages of the outbox's events not known");
        }
        if !self.owes_rewrite && now >= self.sweep_at {
            self.commit(vec![Box::new(Sweep)]);
        }
    }
}

/// A transaction of housekeeping alone: the sweep itself is part of every one.
struct Sweep;

impl Change for Sweep {
    fn ops(&self) -> usize {
        512
    }

    fn apply(&mut self, _: &mut Desk, _: Wall) -> rusqlite::Result<()> {
        Ok(())
    }

    fn settle(self: Box<Self>, _: Result<(), OutboxError>) {}
}

/// Events whose checksum was found to be wrong.
struct Quarantine(Vec<Seq>);

impl Change for Quarantine {
    fn ops(&self) -> usize {
        self.0.len()
    }

    fn apply(&mut self, desk: &mut Desk, now: Wall) -> rusqlite::Result<()> {
        self.0.iter().try_for_each(|seq| desk.quarantine(*seq, now))
    }

    fn settle(self: Box<Self>, end: Result<(), OutboxError>) {
        for seq in &self.0 {
            error!(%seq, kept = end.is_ok(), "a stored event is damaged: it becomes a dead letter");
        }
    }
}

fn step(db: &Connection, sql: &str) -> rusqlite::Result<()> {
    db.prepare_cached(sql)?.execute([]).map(drop)
}

fn trouble(error: &rusqlite::Error) -> Trouble {
    // Reads that fail say nothing of what is written: they concern what was read.
    const READS: [i32; 2] = [
        rusqlite::ffi::SQLITE_IOERR_READ,
        rusqlite::ffi::SQLITE_IOERR_SHORT_READ,
    ];
    match error.sqlite_error() {
        Some(cause) if READS.contains(&cause.extended_code) => Trouble::Other,
        Some(cause) => match cause.code {
            ErrorCode::DiskFull => Trouble::Full,
            ErrorCode::SystemIoFailure | ErrorCode::CannotOpen | ErrorCode::ReadOnly => {
                Trouble::Disk
            }
            ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase => Trouble::Corrupt,
            _ => Trouble::Other,
        },
        None => Trouble::Other,
    }
}
