//! The store against a model that is obviously right: any history of appends, deliveries, dead letters, what people
//! do about them, and restarts leaves both with the same events, counts and shares.

use std::{collections::BTreeMap, future::Future, path::Path, time::Duration};

use bytes::Bytes;
use proptest::prelude::*;
use weft::{
    outbox::{
        Appended, Bound, DeadReason, EventId, Failure, Idempotency, Limits, Metrics, Options,
        OutboxError, Outcome, Receipt, Record, Seq, State, Store, Wall,
    },
    units::{ByteSize, Percent},
};

#[derive(Debug, Clone)]
enum Step {
    Append {
        upstream: u8,
        size: u16,
        idempotent: Option<(u8, u8)>,
    },
    Deliver(usize),
    Retry(usize),
    Bury(usize, DeadReason),
    Replay(usize),
    Edit(usize, u16),
    Discard(usize),
    Restart,
}

fn step() -> impl Strategy<Value = Step> {
    let reason = prop_oneof![Just(DeadReason::Rejected), Just(DeadReason::Expired)];
    prop_oneof![
        6 => (0..3u8, 0..900u16, prop::option::weighted(0.4, (0..4u8, 0..2u8)))
            .prop_map(|(upstream, size, idempotent)| Step::Append { upstream, size, idempotent }),
        3 => any::<usize>().prop_map(Step::Deliver),
        1 => any::<usize>().prop_map(Step::Retry),
        3 => (any::<usize>(), reason).prop_map(|(at, reason)| Step::Bury(at, reason)),
        2 => any::<usize>().prop_map(Step::Replay),
        1 => (any::<usize>(), 0..900u16).prop_map(|(at, size)| Step::Edit(at, size)),
        1 => any::<usize>().prop_map(Step::Discard),
        1 => Just(Step::Restart),
    ]
}

const BYTES: u64 = 8 << 10;
const COUNT: u64 = 16;
const SHARE: u8 = 60;

fn open(dir: &Path) -> Store {
    let limits = Limits {
        bytes: ByteSize::kib(8),
        count: COUNT,
        per_upstream: Percent::new(SHARE).unwrap(),
        ..Limits::default()
    };
    Store::open(
        dir,
        &Options {
            limits,
            ..Options::default()
        },
        Metrics::default(),
    )
    .unwrap()
}

struct Known {
    id: EventId,
    upstream: u8,
    size: u64,
    state: State,
    attempts: u32,
}

#[derive(Default)]
struct Model {
    events: BTreeMap<Seq, Known>,
    keys: BTreeMap<u8, (u8, Seq)>,
}

impl Model {
    fn held(&self, only: Option<u8>) -> (u64, u64) {
        let holds = |e: &&Known| matches!(e.state, State::Pending | State::Dead | State::Expired);
        let all = self
            .events
            .values()
            .filter(holds)
            .filter(|e| only.is_none_or(|u| u == e.upstream));
        all.fold((0, 0), |(n, bytes), e| (n + 1, bytes + e.size))
    }

    fn refusal(&self, upstream: u8, size: u64) -> Option<Bound> {
        let ((n, bytes), (own, own_bytes)) = (self.held(None), self.held(Some(upstream)));
        let share = |whole: u64| whole * u64::from(SHARE) / 100;
        if bytes + size > BYTES {
            Some(Bound::Bytes)
        } else if n + 1 > COUNT {
            Some(Bound::Count)
        } else if own_bytes + size > share(BYTES) || own + 1 > share(COUNT) {
            Some(Bound::PerUpstream)
        } else {
            None
        }
    }

    /// The `at`th event in one of these states, around the corner.
    fn pick(&self, at: usize, states: &[State]) -> Option<Seq> {
        let all: Vec<_> = self
            .events
            .iter()
            .filter(|(_, e)| states.contains(&e.state))
            .map(|(seq, _)| *seq)
            .collect();
        (!all.is_empty()).then(|| all[at % all.len()])
    }
}

fn record(upstream: u8, size: u16, idempotent: Option<(u8, u8)>) -> (Record, u64) {
    let record = Record {
        upstream: format!("u{upstream}").into(),
        route: "r".into(),
        key: None,
        due: Wall::now(),
        expiry: None,
        head: Bytes::from_static(b"head"),
        body: Bytes::from(vec![0; usize::from(size)]),
        idempotency: idempotent.map(|(key, payload)| Idempotency {
            scope: "s".into(),
            key: Bytes::copy_from_slice(&[key]),
            fingerprint: [payload; 32],
            window: Duration::from_secs(3600),
        }),
    };
    (record, u64::from(size) + 4 + 2 + 1 + 64)
}

async fn play(dir: &Path, steps: Vec<Step>) -> Result<(), TestCaseError> {
    let (mut store, mut model) = (open(dir), Model::default());
    for step in steps {
        match step {
            Step::Append {
                upstream,
                size,
                idempotent,
            } => append(&store, &mut model, upstream, size, idempotent).await?,
            Step::Deliver(at) => {
                let outcome = |_| Outcome::Delivered {
                    attempts: 1,
                    status: 200,
                };
                finish(&store, &mut model, at, State::Delivered, outcome).await;
            }
            Step::Retry(at) => {
                let outcome = |n| Outcome::Retry {
                    attempts: n + 1,
                    due: Wall::now(),
                    error: "503".into(),
                };
                finish(&store, &mut model, at, State::Pending, outcome).await;
            }
            Step::Bury(at, reason) => {
                let outcome = |attempts| {
                    Outcome::Dead(Failure {
                        reason,
                        attempts,
                        status: None,
                        error: "no".into(),
                        excerpt: Bytes::new(),
                    })
                };
                finish(&store, &mut model, at, reason.state(), outcome).await;
            }
            Step::Replay(at) => {
                if let Some(seq) = model.pick(at, &[State::Dead, State::Expired]) {
                    let known = model.events.get_mut(&seq).unwrap();
                    let receipt = store.replay(known.id, "p").await.unwrap();
                    prop_assert_eq!(receipt, Receipt { seq, id: known.id });
                    (known.state, known.attempts) = (State::Pending, 0);
                }
            }
            Step::Edit(at, size) => {
                if let Some(seq) = model.pick(at, &[State::Dead, State::Expired]) {
                    let known = model.events.get_mut(&seq).unwrap();
                    let (upstream, body) =
                        (known.upstream, Bytes::from(vec![1; usize::from(size)]));
                    let receipt = store
                        .edit(known.id, Bytes::from_static(b"head"), body, "p")
                        .await
                        .unwrap();
                    known.state = State::Edited;
                    let size = u64::from(size) + 4 + 2 + 1 + 64;
                    let fresh = Known {
                        id: receipt.id,
                        upstream,
                        size,
                        state: State::Pending,
                        attempts: 0,
                    };
                    prop_assert!(model.events.insert(receipt.seq, fresh).is_none());
                }
            }
            Step::Discard(at) => {
                if let Some(seq) = model.pick(at, &[State::Dead, State::Expired]) {
                    let known = model.events.get_mut(&seq).unwrap();
                    store.discard(known.id, "p").await.unwrap();
                    known.state = State::Discarded;
                }
            }
            Step::Restart => {
                store.close().await;
                store = open(dir);
            }
        }
        compare(&store, &model).await?;
    }
    store.close().await;
    Ok(())
}

async fn append(
    store: &Store,
    model: &mut Model,
    upstream: u8,
    size: u16,
    idempotent: Option<(u8, u8)>,
) -> Result<(), TestCaseError> {
    let (record, weight) = record(upstream, size, idempotent);
    let done = store.appender().append(record).await;
    if let Some((payload, seq)) = idempotent.and_then(|(key, _)| model.keys.get(&key)) {
        let first = &model.events[seq];
        match done {
            Ok(Appended::Existing(receipt, state)) => {
                prop_assert_eq!(idempotent.unwrap().1, *payload);
                prop_assert_eq!((receipt.id, state), (first.id, first.state));
            }
            Err(OutboxError::Mismatch { id }) => {
                prop_assert_ne!(idempotent.unwrap().1, *payload);
                prop_assert_eq!(id, first.id);
            }
            other => prop_assert!(false, "{:?}", other),
        }
        return Ok(());
    }
    match (done, model.refusal(upstream, weight)) {
        (Ok(Appended::New(receipt)), None) => {
            let fresh = Known {
                id: receipt.id,
                upstream,
                size: weight,
                state: State::Pending,
                attempts: 0,
            };
            prop_assert!(model.events.insert(receipt.seq, fresh).is_none());
            if let Some((key, payload)) = idempotent {
                model.keys.insert(key, (payload, receipt.seq));
            }
        }
        (Err(OutboxError::Full { bound }), Some(expected)) => prop_assert_eq!(bound, expected),
        (done, expected) => prop_assert!(false, "{:?}, expected {:?}", done, expected),
    }
    Ok(())
}

async fn finish(
    store: &Store,
    model: &mut Model,
    at: usize,
    to: State,
    outcome: impl Fn(u32) -> Outcome,
) {
    let Some(seq) = model.pick(at, &[State::Pending]) else {
        return;
    };
    let known = model.events.get_mut(&seq).unwrap();
    store
        .courier()
        .finish(seq, outcome(known.attempts))
        .await
        .unwrap();
    known.attempts += u32::from(to == State::Pending);
    known.state = to;
}

async fn compare(store: &Store, model: &Model) -> Result<(), TestCaseError> {
    prop_assert_eq!(store.recount().await.unwrap(), Vec::<String>::new());
    let figures = store.figures();
    prop_assert_eq!((figures.events, figures.bytes), model.held(None));
    prop_assert_eq!(figures.accepted, model.events.len() as u64);
    for (state, events) in figures.ledger {
        let expected = model.events.values().filter(|e| e.state == state).count() as u64;
        prop_assert_eq!(events, expected, "{:?}", state);
    }
    let pending: Vec<_> = store
        .pending(Seq::START, 1000)
        .await
        .unwrap()
        .iter()
        .map(|p| (p.seq, p.attempts))
        .collect();
    let expected: Vec<_> = model
        .events
        .iter()
        .filter(|(_, e)| e.state == State::Pending)
        .map(|(seq, e)| (*seq, e.attempts))
        .collect();
    prop_assert_eq!(pending, expected);
    for known in model.events.values() {
        let standing = store.standing(known.id).await.unwrap();
        prop_assert_eq!(standing.map(|s| s.state), Some(known.state));
    }
    Ok(())
}

fn local<T>(story: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build_local(Default::default())
        .unwrap()
        .block_on(story)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, max_shrink_iters: 200, ..ProptestConfig::default() })]

    #[test]
    fn store_and_model_agree_after_any_history(steps in prop::collection::vec(step(), 1..40)) {
        let dir = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap();
        local(play(dir.path(), steps))?;
    }
}
