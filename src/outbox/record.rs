//! What goes in and what comes out: records, their states, and what delivery says about them.

use std::{num::NonZeroU64, sync::Arc, time::Duration};

use bytes::Bytes;

use super::id::{EventId, Seq};

/// A moment on the wall clock, in milliseconds since 1970: what survives a restart. Timers are not made of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Wall(pub i64);

impl Wall {
    pub fn now() -> Self {
        let since = std::time::SystemTime::UNIX_EPOCH.elapsed();
        Wall(since.map_or(0, |d| d.as_millis() as i64))
    }

    pub fn after(self, wait: Duration) -> Self {
        Wall(
            self.0
                .saturating_add(i64::try_from(wait.as_millis()).unwrap_or(i64::MAX)),
        )
    }

    pub fn before(self, wait: Duration) -> Self {
        Wall(
            self.0
                .saturating_sub(i64::try_from(wait.as_millis()).unwrap_or(i64::MAX)),
        )
    }

    /// How long ago `earlier` was; zero if it is still to come.
    pub fn since(self, earlier: Wall) -> Duration {
        Duration::from_millis(u64::try_from(self.0.saturating_sub(earlier.0)).unwrap_or(0))
    }
}

/// One event to keep. `head` and `body` are opaque here.
#[derive(Debug, Clone)]
pub struct Record {
    /// Whom it is for: what `perUpstream` is a share of.
    pub upstream: Arc<str>,
    pub route: Arc<str>,
    /// Order holds among equal keys of one route; none or empty is unordered.
    pub key: Option<Bytes>,
    /// Not to be delivered before.
    pub due: Wall,
    /// Not to be delivered after.
    pub expiry: Option<Wall>,
    pub head: Bytes,
    pub body: Bytes,
    pub idempotency: Option<Idempotency>,
}

/// "This call, once": within `window` the same scope and key mean the same event.
#[derive(Debug, Clone)]
pub struct Idempotency {
    /// Where keys are told apart: a route, or a route and its caller.
    pub scope: Arc<str>,
    pub key: Bytes,
    /// Of the payload: another one under the same key is a mistake of the caller.
    pub fingerprint: [u8; 32],
    pub window: Duration,
}

/// An event that is on disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Receipt {
    pub seq: Seq,
    pub id: EventId,
}

/// What an append came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Appended {
    New(Receipt),
    /// The idempotency key was known, with the same fingerprint: this is the first one's event and where it stands.
    Existing(Receipt, State),
}

impl Appended {
    pub fn receipt(self) -> Receipt {
        match self {
            Appended::New(receipt) | Appended::Existing(receipt, _) => receipt,
        }
    }
}

/// Where an accepted event stands. Every one is in exactly one of these.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum State {
    Pending,
    Delivered,
    /// A dead letter that waits for a person.
    Dead,
    /// A dead letter because its time ran out.
    Expired,
    /// A dead letter that a person gave up.
    Discarded,
    /// A dead letter that a person replaced by a new event.
    Edited,
    /// Finished longer ago than finished records are kept; how is no longer known.
    Forgotten,
}

impl State {
    /// Those that the ledger counts: all but `Forgotten`, whose events stay counted as what they were.
    pub const COUNTED: [State; 6] = [
        State::Pending,
        State::Delivered,
        State::Dead,
        State::Expired,
        State::Discarded,
        State::Edited,
    ];

    pub const fn word(self) -> &'static str {
        match self {
            State::Pending => "pending",
            State::Delivered => "delivered",
            State::Dead => "dead_lettered",
            State::Expired => "expired",
            State::Discarded => "discarded",
            State::Edited => "edited",
            State::Forgotten => "forgotten",
        }
    }
}

/// Events with the same hash are delivered in order. Differs from process to process.
pub type KeyHash = NonZeroU64;

/// What delivery must know of an event before it loads it.
#[derive(Debug, Clone)]
pub struct Pending {
    pub seq: Seq,
    pub upstream: Arc<str>,
    pub route: Arc<str>,
    /// None: unordered.
    pub key: Option<KeyHash>,
    pub accepted: Wall,
    pub due: Wall,
    pub expiry: Option<Wall>,
    pub attempts: u32,
    /// How often it was replayed; a replayed event comes again out of its order.
    pub replays: u32,
    pub size: u32,
}

/// A pending event, whole.
#[derive(Debug, Clone)]
pub struct Event {
    pub id: EventId,
    pub upstream: Arc<str>,
    pub route: Arc<str>,
    pub key: Option<Bytes>,
    pub accepted: Wall,
    pub due: Wall,
    pub expiry: Option<Wall>,
    pub attempts: u32,
    pub replays: u32,
    pub first_failure: Option<Wall>,
    pub last_error: Option<String>,
    /// The event that this one is an edited copy of.
    pub cause: Option<EventId>,
    pub head: Bytes,
    pub body: Bytes,
}

/// What delivery came to.
#[derive(Debug, Clone)]
pub enum Outcome {
    Delivered {
        attempts: u32,
        status: u16,
    },
    /// Still pending; `attempts` are those burned so far.
    Retry {
        attempts: u32,
        due: Wall,
        error: String,
    },
    /// A dead letter. `DeadReason::Expired` counts as expired.
    Dead(Failure),
}

/// Why an event became a dead letter.
#[derive(Debug, Clone)]
pub struct Failure {
    pub reason: DeadReason,
    pub attempts: u32,
    /// The last answer's status, if there was an answer.
    pub status: Option<u16>,
    /// In words.
    pub error: String,
    /// The beginning of the application's answer: 4 KiB at most are kept.
    pub excerpt: Bytes,
}

/// The word for why an event is dead.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum DeadReason {
    /// The application said that trying again is no use.
    Rejected,
    /// Attempts are used up.
    Exhausted,
    Expired,
    /// It was alone in flight each time the process died.
    Crash,
    /// Its checksum is wrong.
    Damaged,
}

impl DeadReason {
    pub const ALL: [DeadReason; 5] = [
        DeadReason::Rejected,
        DeadReason::Exhausted,
        DeadReason::Expired,
        DeadReason::Crash,
        DeadReason::Damaged,
    ];

    pub const fn word(self) -> &'static str {
        match self {
            DeadReason::Rejected => "rejected",
            DeadReason::Exhausted => "exhausted",
            DeadReason::Expired => "expired",
            DeadReason::Crash => "crash",
            DeadReason::Damaged => "damaged",
        }
    }

    pub fn from_word(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|reason| reason.word() == word)
    }

    /// What the ledger calls an event that died of this.
    pub const fn state(self) -> State {
        match self {
            DeadReason::Expired => State::Expired,
            _ => State::Dead,
        }
    }
}

/// How far a dead letter has come. The letter itself never changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum LetterState {
    /// Waits for a person.
    Pending,
    /// Its event is pending again.
    Replaying,
    /// The replay was delivered.
    Replayed,
    Discarded,
    /// A new event took its place.
    EditedAs(EventId),
}

impl LetterState {
    pub const fn word(self) -> &'static str {
        match self {
            LetterState::Pending => "pending",
            LetterState::Replaying => "replaying",
            LetterState::Replayed => "replayed",
            LetterState::Discarded => "discarded",
            LetterState::EditedAs(_) => "edited",
        }
    }
}

/// A dead letter.
#[derive(Debug, Clone)]
pub struct Letter {
    pub id: EventId,
    pub state: LetterState,
    pub upstream: Arc<str>,
    pub route: Arc<str>,
    pub key: Option<Bytes>,
    pub accepted: Wall,
    pub due: Wall,
    pub expiry: Option<Wall>,
    pub first_failure: Wall,
    pub last_failure: Wall,
    /// When it was replayed with success, discarded or edited.
    pub resolved: Option<Wall>,
    pub failure: Failure,
    pub replays: u32,
    pub cause: Option<EventId>,
    /// True when the record's checksum is wrong: it can be shown and discarded only.
    pub damaged: bool,
    /// Empty in lists.
    pub head: Bytes,
    pub body: Bytes,
    /// Of head and body.
    pub size: u64,
    /// What it counts against the limits.
    pub(super) weight: u64,
}

/// Which dead letters; what is `None` does not matter.
#[derive(Debug, Clone, Default)]
pub struct LetterFilter {
    /// By default only those that wait for a person or are being replayed.
    pub all: bool,
    pub reason: Option<DeadReason>,
    pub status: Option<u16>,
    /// Last failure at or after.
    pub since: Option<Wall>,
    /// Last failure before.
    pub until: Option<Wall>,
    pub key: Option<Bytes>,
    pub upstream: Option<String>,
    pub route: Option<String>,
}

/// What can be said of an event by its id.
#[derive(Debug, Clone)]
pub struct Standing {
    pub id: EventId,
    pub state: State,
    pub upstream: Arc<str>,
    pub route: Arc<str>,
    pub accepted: Wall,
    /// Pending: when it is tried next.
    pub due: Option<Wall>,
    pub finished: Option<Wall>,
    pub attempts: u32,
    pub status: Option<u16>,
    /// Of a dead letter.
    pub reason: Option<DeadReason>,
    /// The last failure, in words.
    pub error: Option<String>,
}
