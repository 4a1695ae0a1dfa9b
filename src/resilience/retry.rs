//! Decides whether a failed try is followed by another.
//!
//! What is provably unprocessed may be tried again whatever its method; anything else only where the operator said
//! so, and only for methods that may be repeated. By default only the first kind is, and an idempotent call whose
//! reused connection closed before any byte of the answer (RFC 9112 §9.3.1). Sleeping, replaying the body and
//! choosing another endpoint are the caller's job, and so is never asking once an answer has begun.

mod conditions;

use std::time::{Duration, Instant};

use http::Method;

use super::{Backoff, Budget, Wait, settings};
use crate::fault::{Class, Fault};
use conditions::Conditions;

/// How one try failed; its answer, if there is one, has not begun to pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Failure {
    /// No answer came.
    Silence {
        class: Class,
        /// The callee provably never acted on it.
        unprocessed: bool,
        /// A connection that had served before closed or broke before any byte of this answer.
        stale: bool,
    },
    /// An answer's status.
    Status(u16),
    /// A gRPC code under HTTP 200, from the head or the trailers.
    Grpc(u8),
}

impl Failure {
    /// A fault's own facts; `stale` is the connection's to say.
    pub fn of(fault: &Fault, stale: bool) -> Self {
        Failure::Silence {
            class: fault.class(),
            unprocessed: fault.is_unprocessed(),
            stale,
        }
    }
}

/// The facts of a call that a decision needs.
#[derive(Debug, Clone, Copy)]
pub struct Call<'a> {
    pub method: &'a Method,
    /// Tries so far, this one included: 1 after the first.
    pub tries: u32,
    /// What the answer asks for in `Retry-After`.
    pub retry_after: Option<Duration>,
    /// Time to the call's deadline.
    pub left: Option<Duration>,
    /// The body, if any, can be sent once more.
    pub replayable: bool,
}

/// What to do with a failed try.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decision {
    /// Pass it on: the policy does not name it.
    Pass,
    /// Pass it on although the policy names it.
    Keep(Kept),
    /// Try again after this long, preferably elsewhere.
    Retry { after: Duration },
}

/// Why a failure that the policy names is passed on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kept {
    /// `attempts` tries were made.
    Attempts,
    /// The body is longer than what is kept for a replay.
    Replay,
    /// `Retry-After` is longer than `backoff.max`.
    RetryAfter,
    /// The wait would end after the deadline.
    Deadline,
    /// The upstream's retry budget is spent.
    Budget,
}

impl Kept {
    /// In the order of their values.
    pub const ALL: [Kept; 5] = [
        Kept::Attempts,
        Kept::Replay,
        Kept::RetryAfter,
        Kept::Deadline,
        Kept::Budget,
    ];

    pub const fn word(self) -> &'static str {
        match self {
            Kept::Attempts => "attempts",
            Kept::Replay => "replay",
            Kept::RetryAfter => "retry_after",
            Kept::Deadline => "deadline",
            Kept::Budget => "budget",
        }
    }
}

/// A route's `retry`, compiled.
#[derive(Debug, Clone)]
pub struct Policy {
    attempts: u32,
    conditions: Conditions,
    /// What may be tried again though it may have been processed. gRPC codes need none: every gRPC call is a POST,
    /// and who names a code means those calls.
    methods: Box<[Method]>,
    backoff: Backoff,
}

impl Policy {
    /// One try, whatever happens.
    pub fn never() -> Self {
        Policy::from(&settings::Retry {
            attempts: 1,
            ..settings::Retry::default()
        })
    }

    /// What becomes of a failed try. Takes from the budget only where it answers `Retry`.
    pub fn decide(
        &self,
        failure: Failure,
        call: Call<'_>,
        budget: &Budget,
        now: Instant,
        rng: &mut fastrand::Rng,
    ) -> Decision {
        if self.attempts <= 1 || !self.names(failure, call.method) {
            return Decision::Pass;
        }
        if call.tries >= self.attempts {
            return Decision::Keep(Kept::Attempts);
        }
        if !call.replayable {
            return Decision::Keep(Kept::Replay);
        }
        let after = match self.wait(failure, call, rng) {
            Wait::For(after) => after,
            Wait::TooLong => return Decision::Keep(Kept::RetryAfter),
            Wait::PastDeadline => return Decision::Keep(Kept::Deadline),
        };
        if !budget.withdraw(now) {
            return Decision::Keep(Kept::Budget);
        }
        Decision::Retry { after }
    }

    /// Whether a request's body has to be kept while it is sent. `given_back`: the upstream speaks HTTP/2, or may
    /// refuse our identity, so that a request may come back unprocessed though its body was sent.
    pub fn needs_replay_buffer(&self, method: &Method, given_back: bool) -> bool {
        let given_back = given_back && self.conditions.refused;
        let conditions = &self.conditions;
        let answered = conditions.statuses.iter().any(|word| *word != 0);
        let broken = conditions.reset || conditions.timeout || answered;
        self.attempts > 1
            && (given_back
                || is_idempotent(method)
                || broken && self.may_repeat(method)
                || conditions.grpc != 0)
    }

    /// Whether a gRPC answer's head is held until its first message or its trailers.
    pub fn wants_grpc_trailers(&self) -> bool {
        self.attempts > 1 && self.conditions.grpc != 0
    }

    pub fn attempts(&self) -> u32 {
        self.attempts
    }

    fn names(&self, failure: Failure, method: &Method) -> bool {
        let conditions = &self.conditions;
        match failure {
            // Our own pooling is to blame, and the caller who dials by himself would not have met it.
            Failure::Silence {
                stale: true,
                unprocessed,
                ..
            } if unprocessed || is_idempotent(method) => true,
            Failure::Silence {
                class, unprocessed, ..
            } => {
                let named = match class {
                    Class::Connect => conditions.connect,
                    Class::Refused => conditions.refused,
                    Class::Reset => conditions.reset,
                    Class::Timeout => conditions.timeout,
                    Class::Final => false,
                };
                named && (unprocessed || self.may_repeat(method))
            }
            Failure::Status(status) => conditions.has_status(status) && self.may_repeat(method),
            Failure::Grpc(code) => conditions.has_grpc(code),
        }
    }

    fn may_repeat(&self, method: &Method) -> bool {
        self.methods.contains(method)
    }

    /// A stale connection says nothing of the callee's load: the next try goes out at once.
    fn wait(&self, failure: Failure, call: Call<'_>, rng: &mut fastrand::Rng) -> Wait {
        match (failure, call.left) {
            (Failure::Silence { stale: true, .. }, None) => Wait::For(Duration::ZERO),
            (Failure::Silence { stale: true, .. }, Some(left)) if !left.is_zero() => {
                Wait::For(Duration::ZERO)
            }
            (_, left) => self.backoff.wait(call.tries, call.retry_after, left, rng),
        }
    }
}

impl From<&settings::Retry> for Policy {
    fn from(said: &settings::Retry) -> Self {
        Policy {
            attempts: said.attempts,
            conditions: Conditions::from(said.conditions.as_slice()),
            methods: said.methods.iter().map(|method| method.0.clone()).collect(),
            backoff: said.backoff.into(),
        }
    }
}

/// Two tries, any method, only what is provably unprocessed.
impl Default for Policy {
    fn default() -> Self {
        Policy::from(&settings::Retry::default())
    }
}

/// RFC 9110 §9.2.2. A method that we do not know is not.
pub fn is_idempotent(method: &Method) -> bool {
    matches!(
        *method,
        Method::GET | Method::HEAD | Method::OPTIONS | Method::TRACE | Method::PUT | Method::DELETE
    )
}

#[cfg(test)]
mod tests;
