//! Which failures are followed by another try, and which are not.

use super::*;
use crate::{
    fault::{Processed, Reason},
    resilience::settings::{Condition, GrpcCode},
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
    let mut decide = |failure| policy.decide(failure, call(&Method::POST), &budget, now, &mut rng);
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
