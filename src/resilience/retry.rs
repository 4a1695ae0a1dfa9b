//! Decides whether a failed try is followed by another.
//!
//! What is provably unprocessed may be tried again whatever its method; anything else only where the operator said
//! so, and only for methods that may be repeated. By default only the first kind is, and an idempotent call whose
//! reused connection closed before any byte of the answer (RFC 9112 §9.3.1). Sleeping, replaying the body and
//! choosing another endpoint are the caller's job, and so is never asking once an answer has begun.

use std::time::{Duration, Instant};

use http::Method;

use super::{
    Backoff, Budget, Wait,
    settings::{self, Condition},
};
use crate::fault::{Class, Fault};

/// The set of conditions, in the form in which they are asked.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Conditions {
    connect: bool,
    refused: bool,
    reset: bool,
    timeout: bool,
    /// One bit a status, 0 to 1023.
    statuses: [u64; 16],
    /// One bit a gRPC code.
    grpc: u32,
}

impl Conditions {
    const NONE: Conditions = Conditions {
        connect: false,
        refused: false,
        reset: false,
        timeout: false,
        statuses: [0; 16],
        grpc: 0,
    };

    fn add(&mut self, condition: &Condition) {
        match condition {
            Condition::Connect => self.connect = true,
            Condition::Refused => self.refused = true,
            Condition::Reset => self.reset = true,
            Condition::Timeout => self.timeout = true,
            Condition::Gateway => (502..=504).for_each(|status| self.add_status(status)),
            Condition::ServerError => (500..=599).for_each(|status| self.add_status(status)),
            Condition::Status(status) => self.add_status(status.code().as_u16()),
            Condition::Grpc(codes) => codes
                .iter()
                .for_each(|code| self.grpc |= 1 << code.number()),
        }
    }

    fn add_status(&mut self, status: u16) {
        if let Some(word) = self.statuses.get_mut(usize::from(status / 64)) {
            *word |= 1 << (status % 64);
        }
    }

    fn has_status(&self, status: u16) -> bool {
        let word = self.statuses.get(usize::from(status / 64));
        word.is_some_and(|word| word & (1 << (status % 64)) != 0)
    }

    fn has_grpc(&self, code: u8) -> bool {
        self.grpc & 1u32.checked_shl(u32::from(code)).unwrap_or(0) != 0
    }
}

impl From<&[Condition]> for Conditions {
    fn from(conditions: &[Condition]) -> Self {
        let mut set = Self::NONE;
        conditions.iter().for_each(|condition| set.add(condition));
        set
    }
}

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
mod tests {
    use super::*;
    use crate::{
        fault::{Processed, Reason},
        resilience::settings::GrpcCode,
        units,
    };
    use proptest::prelude::*;

    const SILENT: fn(Class, bool) -> Failure = |class, unprocessed| Failure::Silence {
        class,
        unprocessed,
        stale: false,
    };

    fn stale(unprocessed: bool) -> Failure {
        Failure::Silence {
            class: Class::Reset,
            unprocessed,
            stale: true,
        }
    }

    fn call(method: &Method) -> Call<'_> {
        Call {
            method,
            tries: 1,
            retry_after: None,
            left: None,
            replayable: true,
        }
    }

    fn policy(conditions: &[Condition], methods: Option<Vec<Method>>) -> Policy {
        let mut said = settings::Retry {
            conditions: conditions.to_vec(),
            ..settings::Retry::default()
        };
        if let Some(methods) = methods {
            said.methods = methods.into_iter().map(units::Method).collect();
        }
        Policy::from(&said)
    }

    fn status(code: u64) -> Condition {
        Condition::Status(units::Status::new(code).unwrap())
    }

    fn unavailable() -> Condition {
        Condition::Grpc(vec![GrpcCode::Unavailable])
    }

    fn decide(policy: &Policy, failure: Failure, call: Call<'_>) -> Decision {
        let now = Instant::now();
        let mut rng = fastrand::Rng::with_seed(1);
        policy.decide(failure, call, &Budget::new(now), now, &mut rng)
    }

    fn retries(policy: &Policy, failure: Failure, method: &Method) -> bool {
        matches!(
            decide(policy, failure, call(method)),
            Decision::Retry { .. }
        )
    }

    #[test]
    fn by_default_only_what_is_provably_unprocessed_is_tried_again() {
        let policy = Policy::default();
        let table = [
            // failure, POST, GET
            (SILENT(Class::Connect, true), true, true),
            (SILENT(Class::Refused, true), true, true),
            (SILENT(Class::Refused, false), false, true),
            (SILENT(Class::Reset, false), false, false),
            (SILENT(Class::Timeout, false), false, false),
            (SILENT(Class::Final, false), false, false),
            (SILENT(Class::Final, true), false, false),
            (stale(true), true, true),
            (stale(false), false, true),
            (Failure::Status(503), false, false),
            (Failure::Status(500), false, false),
            (Failure::Grpc(14), false, false),
        ];
        for (failure, post, get) in table {
            assert_eq!(
                retries(&policy, failure, &Method::POST),
                post,
                "{failure:?}"
            );
            assert_eq!(retries(&policy, failure, &Method::GET), get, "{failure:?}");
        }
    }

    /// Every condition, alone, against every failure: it answers to its own and to no other.
    #[test]
    fn each_condition_names_its_own_failures() {
        let conditions = [
            Condition::Connect,
            Condition::Refused,
            Condition::Reset,
            Condition::Timeout,
            Condition::Gateway,
            Condition::ServerError,
            status(429),
            unavailable(),
        ];
        let failures = [
            (SILENT(Class::Connect, true), vec![Condition::Connect]),
            (SILENT(Class::Refused, true), vec![Condition::Refused]),
            (SILENT(Class::Reset, false), vec![Condition::Reset]),
            (SILENT(Class::Timeout, false), vec![Condition::Timeout]),
            (SILENT(Class::Final, false), vec![]),
            (Failure::Status(429), vec![status(429)]),
            (Failure::Status(499), vec![]),
            (Failure::Status(500), vec![Condition::ServerError]),
            (Failure::Status(501), vec![Condition::ServerError]),
            (
                Failure::Status(502),
                vec![Condition::Gateway, Condition::ServerError],
            ),
            (
                Failure::Status(504),
                vec![Condition::Gateway, Condition::ServerError],
            ),
            (Failure::Status(505), vec![Condition::ServerError]),
            (Failure::Status(600), vec![]),
            (Failure::Status(u16::MAX), vec![]),
            (Failure::Grpc(14), vec![unavailable()]),
            (Failure::Grpc(13), vec![]),
            (Failure::Grpc(255), vec![]),
        ];
        for condition in conditions {
            let policy = policy(std::slice::from_ref(&condition), None);
            for (failure, named_by) in &failures {
                assert_eq!(
                    retries(&policy, *failure, &Method::GET),
                    named_by.contains(&condition),
                    "{condition:?} {failure:?}"
                );
            }
        }
    }

    #[test]
    fn what_may_have_been_processed_is_limited_by_method() {
        let all = [
            Condition::Connect,
            Condition::Refused,
            Condition::Reset,
            Condition::Timeout,
            Condition::ServerError,
            unavailable(),
        ];
        let (absent, post) = (policy(&all, None), policy(&all, Some(vec![Method::POST])));
        let processed = [
            SILENT(Class::Reset, false),
            SILENT(Class::Timeout, false),
            Failure::Status(503),
        ];
        for failure in processed {
            assert!(!retries(&absent, failure, &Method::POST), "{failure:?}");
            assert!(retries(&absent, failure, &Method::PUT), "{failure:?}");
            assert!(retries(&post, failure, &Method::POST), "{failure:?}");
            assert!(!retries(&post, failure, &Method::PUT), "{failure:?}");
        }
        for unprocessed in [SILENT(Class::Connect, true), SILENT(Class::Refused, true)] {
            assert!(retries(&absent, unprocessed, &Method::POST));
            assert!(retries(&post, unprocessed, &Method::PUT));
        }
    }

    #[test]
    fn grpc_codes_mean_grpc_calls_which_are_posts() {
        let codes = [unavailable()];
        assert!(retries(
            &policy(&codes, None),
            Failure::Grpc(14),
            &Method::POST
        ));
    }

    #[test]
    fn each_reason_to_hold_back_has_its_word() {
        let policy = policy(&[status(503)], None);
        let get = call(&Method::GET);
        let decide = |call| decide(&policy, Failure::Status(503), call);
        assert_eq!(
            decide(Call { tries: 2, ..get }),
            Decision::Keep(Kept::Attempts)
        );
        let replayable = false;
        assert_eq!(
            decide(Call { replayable, ..get }),
            Decision::Keep(Kept::Replay)
        );
        let retry_after = Some(Duration::from_secs(1));
        assert_eq!(
            decide(Call { retry_after, ..get }),
            Decision::Keep(Kept::RetryAfter)
        );
        let left = Some(Duration::ZERO);
        assert_eq!(decide(Call { left, ..get }), Decision::Keep(Kept::Deadline));
        for (at, why) in Kept::ALL.into_iter().enumerate() {
            assert_eq!(why as usize, at);
        }
    }

    #[test]
    fn retry_after_is_waited_for() {
        let after = Duration::from_millis(250);
        let policy = policy(&[status(503)], None);
        let call = Call {
            retry_after: Some(after),
            ..call(&Method::GET)
        };
        assert_eq!(
            decide(&policy, Failure::Status(503), call),
            Decision::Retry { after }
        );
    }

    #[test]
    fn a_stale_connection_is_left_at_once_and_only_in_time() {
        let policy = Policy::default();
        let after = Duration::ZERO;
        let get = call(&Method::GET);
        assert_eq!(
            decide(&policy, stale(false), get),
            Decision::Retry { after }
        );
        let left = Some(Duration::ZERO);
        assert_eq!(
            decide(&policy, stale(false), Call { left, ..get }),
            Decision::Keep(Kept::Deadline)
        );
    }

    #[test]
    fn a_spent_budget_ends_it_and_a_pass_takes_nothing() {
        let now = Instant::now();
        let budget = Budget::of(Budget::SHARE, 1, now);
        let policy = Policy::default();
        let mut rng = fastrand::Rng::with_seed(1);
        let mut decide =
            |failure| policy.decide(failure, call(&Method::POST), &budget, now, &mut rng);
        for _ in 0..100 {
            assert_eq!(decide(Failure::Status(503)), Decision::Pass);
        }
        for _ in 0..10 {
            assert!(matches!(
                decide(SILENT(Class::Connect, true)),
                Decision::Retry { .. }
            ));
        }
        assert_eq!(
            decide(SILENT(Class::Connect, true)),
            Decision::Keep(Kept::Budget)
        );
    }

    #[test]
    fn one_try_is_no_retry() {
        let once = Policy::never();
        assert_eq!(
            decide(&once, SILENT(Class::Connect, true), call(&Method::GET)),
            Decision::Pass
        );
        assert!(!once.needs_replay_buffer(&Method::GET, true));
        assert!(!once.wants_grpc_trailers());
    }

    #[test]
    fn a_body_is_kept_only_where_it_could_be_sent_again() {
        let default = Policy::default();
        let (post, put) = (&Method::POST, &Method::PUT);
        assert!(default.needs_replay_buffer(post, true));
        assert!(!default.needs_replay_buffer(post, false));
        assert!(default.needs_replay_buffer(put, false));
        let connect = policy(&[Condition::Connect], None);
        assert!(!connect.needs_replay_buffer(post, true));
        let posts = policy(&[status(503)], Some(vec![Method::POST]));
        assert!(posts.needs_replay_buffer(post, false));
        let codes = policy(&[unavailable()], None);
        assert!(codes.needs_replay_buffer(post, false));
        assert!(codes.wants_grpc_trailers());
        assert!(!default.wants_grpc_trailers());
    }

    #[test]
    fn a_fault_brings_its_own_facts() {
        let fault = Fault::new(Reason::Reset, "closed").processed(Processed::No);
        assert_eq!(
            Failure::of(&fault, false),
            Failure::Silence {
                class: Class::Reset,
                unprocessed: true,
                stale: false
            }
        );
    }

    fn any_failure() -> impl Strategy<Value = Failure> {
        let classes = [
            Class::Connect,
            Class::Refused,
            Class::Reset,
            Class::Timeout,
            Class::Final,
        ];
        let silence = (
            proptest::sample::select(classes.to_vec()),
            any::<bool>(),
            any::<bool>(),
        );
        prop_oneof![
            silence.prop_map(|(class, unprocessed, stale)| Failure::Silence {
                class,
                unprocessed,
                stale
            }),
            (100u16..1000).prop_map(Failure::Status),
            (0u8..20).prop_map(Failure::Grpc),
        ]
    }

    proptest! {
        /// Whatever the policy, a POST that may have been processed is sent twice only where POST or a code is named.
        #[test]
        fn a_post_is_counted_twice_only_on_request(
            failure in any_failure(), statuses in proptest::collection::vec(200u64..600, 0..9), tries in 1u32..5,
        ) {
            let mut named: Vec<_> = statuses.into_iter().map(status).collect();
            named.extend([Condition::Connect, Condition::Refused, Condition::Reset, Condition::Timeout]);
            let policy = policy(&named, None);
            let call = Call { tries, ..call(&Method::POST) };
            if let Decision::Retry { .. } = decide(&policy, failure, call) {
                let unprocessed = matches!(failure, Failure::Silence { unprocessed: true, .. });
                prop_assert!(unprocessed && tries < 2);
            }
        }
    }
}
