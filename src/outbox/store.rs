//! The store as its users see it: opened once a process, then asked.

use std::{
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, PoisonError,
        mpsc::{SyncSender, sync_channel},
    },
    thread,
    time::Duration,
};

use bytes::Bytes;
use tokio::sync::{mpsc, oneshot};

use super::{
    appender::Appender,
    board::{Board, Figures, Health},
    courier::Courier,
    desk::Desk,
    directory::Directory,
    error::{OpenError, OutboxError},
    flight::{self, Flight, Suspect},
    id::{EventId, Seq, StoreId},
    metrics::Metrics,
    record::{Letter, LetterFilter, Pending, Receipt, Standing, Wall},
    schema,
    settings::Limits,
    sweep::Ages,
    tally::Tally,
    writer::{Change, Command, Writer},
};

/// Messages that wait for the writer. Every worker has one batch under way at a time; the rest is for people.
const COMMANDS: usize = 1024;
/// Batches of news that wait for the listener.
const NEWS: usize = 1024;

/// How a store is opened.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    pub limits: Limits,
    /// How long it is known of a finished event that it finished and how; of the newest 200,000 at most.
    pub keep: Duration,
    /// Pages of 16 KiB in the write-ahead log at which it is moved into the database (measured at 5,000: 15.2 µs an
    /// append against 16.0 at 1,000).
    pub log_pages: u32,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            limits: Limits::default(),
            keep: Duration::from_secs(3600),
            log_pages: 5000,
        }
    }
}

/// An open store. Clones are the same one; the directory is held until `close`, or until every clone and handle is
/// dropped and the writer has noticed.
#[derive(Clone)]
pub struct Store {
    shared: Arc<Shared>,
}

struct Shared {
    id: StoreId,
    path: PathBuf,
    writer: SyncSender<Command>,
    board: Arc<Board>,
    flight: Flight,
    suspects: Vec<Suspect>,
    news: Mutex<Option<Announcements>>,
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
    /// The listener was too slow and some are missing here: read all that is pending again.
    Gap,
}

/// The one listener for what becomes pending. Holds 1,024 batches at most; then comes a [`News::Gap`].
pub struct Announcements {
    news: mpsc::Receiver<News>,
}

impl Announcements {
    /// The next news; `None` once the store is closed. Dropping the future loses nothing.
    pub async fn next(&mut self) -> Option<News> {
        self.news.recv().await
    }
}

impl Store {
    /// Opens the store in `dir` (made if absent, mode 0700) and holds it against other processes.
    ///
    /// Blocks: reads the log that an unclean end left, and checks the structure of a small file.
    pub fn open(dir: &Path, options: &Options, metrics: Metrics) -> Result<Store, OpenError> {
        let directory = Directory::hold(dir)?;
        let failed = |source| OpenError::Io {
            path: dir.to_owned(),
            source,
        };
        let generation = directory.generation().map_err(failed)?;
        let file = directory.database(generation);
        let (db, id) = schema::open(&file)?;
        directory.tidy(generation).map_err(failed)?;
        directory.sync().map_err(failed)?;

        let broken = |error| schema::explain(&file, error);
        let (flight, aloft) = Flight::open(&dir.join("flight")).map_err(failed)?;
        let suspects = flight::suspect(&db, &aloft).map_err(broken)?;
        flight.clear().map_err(failed)?;
        let tally = Tally::load(&db, options.limits).map_err(broken)?;
        let board = Arc::new(Board::new(metrics, &tally));
        let desk = Desk::new(db, id, tally).map_err(broken)?;
        board.set_oldest(desk.oldest().map_err(broken)?);

        let (writer, commands) = sync_channel(COMMANDS);
        let (teller, news) = mpsc::channel(NEWS);
        let thread = Writer {
            desk,
            directory,
            generation,
            commands,
            board: board.clone(),
            news: teller,
            keep: options.keep,
            log_pages: options.log_pages,
            ages: Ages::default(),
            gap: false,
            owes_rewrite: false,
            commits: 0,
            sweep_at: Wall(0),
        };
        thread::Builder::new()
            .name("weft-outbox".to_owned())
            .spawn(move || thread.run())
            .map_err(failed)?;
        Ok(Store {
            shared: Arc::new(Shared {
                id,
                path: dir.to_owned(),
                writer,
                board,
                flight,
                suspects,
                news: Mutex::new(Some(Announcements { news })),
            }),
        })
    }

    pub fn id(&self) -> StoreId {
        self.shared.id
    }

    /// The id of the event at a place of this store.
    pub fn name(&self, seq: Seq) -> EventId {
        self.shared.id.event(seq)
    }

    pub fn path(&self) -> &Path {
        &self.shared.path
    }

    /// Head and body of one event together have at most so many bytes.
    pub fn largest_event(&self) -> u64 {
        self.shared.board.largest()
    }

    /// Takes other limits from the next commit on; what is beyond them stays.
    pub fn retune(&self, limits: Limits) {
        self.shared.board.set_limits(limits);
    }

    /// A worker's way in. To be called inside a local runtime, on which its batches are sent.
    pub fn appender(&self) -> Appender {
        Appender::new(self.shared.writer.clone(), self.shared.board.clone())
    }

    /// Delivery's way in and out; like [`Store::appender`].
    pub fn courier(&self) -> Courier {
        Courier::new(self.shared.writer.clone())
    }

    /// The news of what becomes pending: `None` when somebody has them already.
    ///
    /// Take them first, then read what is pending: whatever is not in the one is in the other, some perhaps in both.
    pub fn announcements(&self) -> Option<Announcements> {
        let mut news = self
            .shared
            .news
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let listen = Command::Look(Box::new(|desk| desk.news = Some(Vec::new())));
        self.shared.writer.try_send(listen).ok()?;
        news.take()
    }

    /// Where deliveries are remembered while they are under way.
    pub fn flight(&self) -> &Flight {
        &self.shared.flight
    }

    /// Pending events that were in flight when a process died. Each is one until it is finished or fails in an
    /// ordinary way. Deliver them one at a time, before all others.
    pub fn suspects(&self) -> &[Suspect] {
        &self.shared.suspects
    }

    /// Pending events after `after` in order of `seq`, at most `limit` (and 4,096) of them; empty at the end.
    pub async fn pending(&self, after: Seq, limit: usize) -> Result<Vec<Pending>, OutboxError> {
        self.look(move |desk| desk.pending(after, limit.min(4096)))
            .await
    }

    /// Where an event stands; `None` for what this store does not know.
    pub async fn standing(&self, id: EventId) -> Result<Option<Standing>, OutboxError> {
        if id.store != self.shared.id {
            return Ok(None);
        }
        self.look(move |desk| desk.standing(id.seq)).await
    }

    /// Dead letters after `after`, oldest event first, without their bytes; at most `limit` (and 1,000).
    pub async fn letters(
        &self,
        filter: LetterFilter,
        after: Seq,
        limit: usize,
    ) -> Result<Vec<Letter>, OutboxError> {
        let limit = limit.min(1000);
        let (mut found, mut from) = (Vec::new(), Some(after));
        // A thousand a turn, so that a filter that matches little does not hold up the writer.
        while let Some(after) = from
            && found.len() < limit
        {
            let (filter, limit) = (filter.clone(), limit - found.len());
            let page = self
                .look(move |desk| desk.letters(&filter, after, limit))
                .await?;
            found.extend(page.letters);
            from = page.next;
        }
        Ok(found)
    }

    /// A dead letter, whole.
    pub async fn letter(&self, id: EventId) -> Result<Option<Letter>, OutboxError> {
        if id.store != self.shared.id {
            return Ok(None);
        }
        self.look(move |desk| desk.letter(id.seq, true)).await
    }

    /// Makes a waiting dead letter's event pending again: same id, due now, no longer expiring.
    pub async fn replay(&self, id: EventId, who: &str) -> Result<Receipt, OutboxError> {
        let who = who.to_owned();
        self.decide(id, move |desk, now| desk.replay(id.seq, &who, now))
            .await
    }

    /// Appends a changed copy of a waiting dead letter: a new id, `cause` = the old one. The letter is then `EditedAs`.
    pub async fn edit(
        &self,
        id: EventId,
        head: Bytes,
        body: Bytes,
        who: &str,
    ) -> Result<Receipt, OutboxError> {
        let who = who.to_owned();
        self.decide(id, move |desk, now| {
            desk.edit(id.seq, &head, &body, &who, now)
        })
        .await
    }

    /// Gives a waiting dead letter up.
    pub async fn discard(&self, id: EventId, who: &str) -> Result<(), OutboxError> {
        let who = who.to_owned();
        self.decide(id, move |desk, now| desk.discard(id.seq, &who, now))
            .await
    }

    /// The newest lines of the audit trail, newest first, at most `limit` (and 1,000).
    pub async fn audit(&self, limit: usize) -> Result<Vec<AuditLine>, OutboxError> {
        self.look(move |desk| desk.audit(limit.min(1000))).await
    }

    /// Counts everything anew and says where the ledger differs; empty is good. Reads the whole store.
    pub async fn recount(&self) -> Result<Vec<String>, OutboxError> {
        self.look(|desk| desk.recount()).await
    }

    /// Upstreams that hold something, pending events or dead letters that wait, and how many.
    pub async fn holders(&self) -> Result<Vec<(Arc<str>, u64)>, OutboxError> {
        self.look(|desk| {
            let shares = desk.tally.shares();
            let held = shares.map(|(name, amount)| (name.clone(), amount.events));
            Ok(held.filter(|(_, events)| *events > 0).collect())
        })
        .await
    }

    pub fn figures(&self) -> Figures {
        self.shared.board.figures()
    }

    pub fn health(&self) -> Health {
        self.shared.board.health()
    }

    /// Commits what was handed over, closes the file and lets go of the directory. Later calls fail with `Closed`.
    pub async fn close(&self) {
        let (answer, closed) = oneshot::channel();
        let mut close = Command::Close(answer);
        // A full queue empties: the writer is at work.
        while let Err(std::sync::mpsc::TrySendError::Full(command)) =
            self.shared.writer.try_send(close)
        {
            close = command;
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        let _ = closed.await;
    }

    async fn look<T: Send + 'static>(
        &self,
        look: impl FnOnce(&mut Desk) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T, OutboxError> {
        let (answer, answered) = oneshot::channel();
        let look = Command::Look(Box::new(move |desk| {
            let _ = answer.send(look(desk));
        }));
        self.send(look)?;
        let found = answered.await.map_err(|_| OutboxError::Closed)?;
        found.map_err(|error| OutboxError::Unavailable {
            why: error.to_string(),
        })
    }

    async fn decide<T: Send + 'static>(
        &self,
        id: EventId,
        change: impl FnMut(&mut Desk, Wall) -> rusqlite::Result<Result<T, OutboxError>> + Send + 'static,
    ) -> Result<T, OutboxError> {
        if id.store != self.shared.id {
            return Err(OutboxError::Unknown { id });
        }
        let (answer, answered) = oneshot::channel();
        self.send(Command::Change(Box::new(Decision {
            change,
            result: None,
            answer,
        })))?;
        answered.await.unwrap_or(Err(OutboxError::Closed))
    }

    fn send(&self, command: Command) -> Result<(), OutboxError> {
        self.shared
            .writer
            .try_send(command)
            .map_err(|error| match error {
                std::sync::mpsc::TrySendError::Full(_) => OutboxError::Unavailable {
                    why: "too much waits for the writer".to_owned(),
                },
                std::sync::mpsc::TrySendError::Disconnected(_) => OutboxError::Closed,
            })
    }
}

/// A person's change of one dead letter.
struct Decision<F, T> {
    change: F,
    result: Option<Result<T, OutboxError>>,
    answer: oneshot::Sender<Result<T, OutboxError>>,
}

impl<F, T> Change for Decision<F, T>
where
    F: FnMut(&mut Desk, Wall) -> rusqlite::Result<Result<T, OutboxError>> + Send,
    T: Send,
{
    fn ops(&self) -> usize {
        1
    }

    fn apply(&mut self, desk: &mut Desk, now: Wall) -> rusqlite::Result<()> {
        self.result = Some((self.change)(desk, now)?);
        Ok(())
    }

    fn settle(self: Box<Self>, end: Result<(), OutboxError>) {
        let result = match end {
            Ok(()) => self.result.unwrap_or(Err(OutboxError::Closed)),
            Err(error) => Err(error),
        };
        let _ = self.answer.send(result);
    }
}
