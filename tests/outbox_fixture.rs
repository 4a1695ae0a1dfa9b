//! A store of format 1, committed once: every later version must open it.
//!
//! `cargo test --test outbox_fixture -- --ignored` wrote `tests/fixtures/outbox-v1.db`. Do not write it again: make
//! `outbox-v2.db` when the format changes.

use std::{future::Future, path::Path, time::Duration};

use bytes::Bytes;
use weft::outbox::{
    Appended, DeadReason, Failure, Idempotency, LetterState, Metrics, Options, Outcome, Record,
    Seq, State, Store, Wall,
};

const FIXTURE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/outbox-v1.db");

fn local<T>(story: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build_local(Default::default())
        .unwrap()
        .block_on(story)
}

fn record(body: &'static str) -> Record {
    Record {
        upstream: "email".into(),
        route: "notify".into(),
        key: Some(Bytes::from_static(b"customer-1")),
        due: Wall(1_800_000_000_000),
        expiry: Some(Wall(4_000_000_000_000)),
        head: Bytes::from_static(b"POST /v1/send"),
        body: Bytes::from_static(body.as_bytes()),
        idempotency: Some(Idempotency {
            scope: "notify".into(),
            key: Bytes::from_static(body.as_bytes()),
            fingerprint: [7; 32],
            // A hundred years: the fixture must not depend on the day.
            window: Duration::from_secs(100 * 365 * 86_400),
        }),
    }
}

fn open(dir: &Path) -> Store {
    Store::open(dir, &Options::default(), Metrics::default()).unwrap()
}

#[test]
#[ignore = "writes the fixture"]
fn write() {
    let dir = tempfile::tempdir().unwrap();
    local(async {
        let store = open(dir.path());
        let (appender, courier) = (store.appender(), store.courier());
        let mut receipts = Vec::new();
        for body in ["pending", "tried", "dead", "replaying", "delivered"] {
            receipts.push(appender.append(record(body)).await.unwrap().receipt());
        }
        let [_, tried, dead, replaying, delivered] = receipts[..] else {
            unreachable!()
        };
        let failure = || {
            Outcome::Dead(Failure {
                reason: DeadReason::Rejected,
                attempts: 1,
                status: Some(422),
                error: "no such customer".to_owned(),
                excerpt: Bytes::from_static(b"{}"),
            })
        };
        let later = Outcome::Retry {
            attempts: 2,
            due: Wall(1_900_000_000_000),
            error: "503".to_owned(),
        };
        courier.finish(tried.seq, later).await.unwrap();
        courier.finish(dead.seq, failure()).await.unwrap();
        courier.finish(replaying.seq, failure()).await.unwrap();
        store.replay(replaying.id, "ada").await.unwrap();
        courier
            .finish(
                delivered.seq,
                Outcome::Delivered {
                    attempts: 1,
                    status: 200,
                },
            )
            .await
            .unwrap();
        store.close().await;
    });
    let made = rusqlite::Connection::open(dir.path().join("store.db")).unwrap();
    let _ = std::fs::remove_file(FIXTURE);
    // Small, and without a log beside it.
    made.execute("VACUUM INTO ?", [FIXTURE]).unwrap();
}

#[test]
fn a_store_of_format_1_is_read_and_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::copy(FIXTURE, dir.path().join("store.db")).unwrap();
    local(async {
        let store = open(dir.path());
        assert_eq!(store.recount().await.unwrap(), Vec::<String>::new());
        let pending = store.pending(Seq::START, 10).await.unwrap();
        let (appender, courier) = (store.appender(), store.courier());
        let mut events = Vec::new();
        for p in &pending {
            events.push(courier.load(p.seq).await.unwrap().unwrap());
        }
        let found: Vec<_> = events
            .iter()
            .map(|e| (&*e.body, e.attempts, e.replays))
            .collect();
        assert_eq!(
            found,
            [
                (&b"pending"[..], 0, 0),
                (b"tried", 2, 0),
                (b"replaying", 0, 1)
            ]
        );
        assert_eq!(
            (pending[1].due, events[0].expiry),
            (Wall(1_900_000_000_000), Some(Wall(4_000_000_000_000)))
        );

        let known = appender.append(record("dead")).await.unwrap();
        let Appended::Existing(dead, State::Dead) = known else {
            panic!("{known:?}")
        };
        let letter = store.letter(dead.id).await.unwrap().unwrap();
        assert_eq!(
            (letter.state, letter.failure.status, letter.damaged),
            (LetterState::Pending, Some(422), false)
        );
        assert_eq!(&*letter.body, b"dead");
        assert_eq!(store.audit(10).await.unwrap().len(), 1);

        let fresh = appender.append(record("fresh")).await.unwrap().receipt();
        assert_eq!(fresh.seq.number(), 6);
        assert_eq!(store.recount().await.unwrap(), Vec::<String>::new());
    });
}
